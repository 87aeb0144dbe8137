"""What the encoder hears in each frame, as the plain arrays that notes and sound are made from.

Letters: T frames, P positions, D style values, K codes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3audio.code_map import CodeMap
from v3audio.features import FrontEnd, Views
from v3audio.kernels import (
    BRIEF_SAMPLES,
    LEVEL_FLOOR_DB,
    LEVEL_SAMPLES,
    ONSET_LAG_SAMPLES,
    ONSET_SAMPLES,
    PEAK_BINS,
    onset_bands,
)
from v3audio.live_hearing import N_NOTES, Heard, fine_pitch, traits_of
from v3audio.model import V3Model


class Hearing:
    """A model and its code map, as one function of windows. Stateless: a frame is its window."""

    def __init__(self, model: V3Model, code_map: CodeMap, device: str = "cpu") -> None:
        g = model.config.geometry
        self.geometry = g
        self.device = torch.device(device)
        self._model = model.eval().to(self.device)
        self._front_end = FrontEnd(g).to(self.device)
        self._bands, self._hann = (
            torch.from_numpy(t).to(self.device) for t in onset_bands(g.sample_rate)
        )
        notes = torch.nn.functional.one_hot(torch.as_tensor(code_map.code_to_note), N_NOTES)
        self._notes = notes.float().to(self.device)  # (K, 128)
        self._temperature = code_map.temperature
        self._offset_bins = code_map.offset_semitones * g.bins_per_semitone
        self._reach = torch.arange(-PEAK_BINS, PEAK_BINS + 1, device=self.device)

    @torch.inference_mode()
    def frames(self, windows: NDArray[np.float32] | Tensor, *, style: bool = True) -> Heard:
        """As `LiveHearing.frames`; the style comes along in any case."""
        x = torch.as_tensor(windows).to(self.device)
        views = self._front_end(x)
        encoded = self._model.encode(views)
        squares = self._model.codebook.distances(encoded.content)  # (T, K)
        note_probs = torch.softmax(-squares / self._temperature, -1) @ self._notes
        level_db, onset, periodicity, pitch_midi, confidence = (
            column.cpu().numpy() for column in self._place(x, views, encoded.position)
        )
        lag, position = views.lag.cpu().numpy(), encoded.position.cpu().numpy()
        fine_midi = fine_pitch(lag, pitch_midi, self.geometry)
        seen = torch.stack(list(views), 1).cpu().numpy()
        return Heard(
            level_db, onset, periodicity, pitch_midi, confidence,
            note_probs=note_probs.cpu().numpy(),
            code=squares.argmin(-1).cpu().numpy(),
            content=position,
            style=encoded.style.cpu().numpy(),
            fine_midi=fine_midi,
            traits=traits_of(seen, position, fine_midi, self.geometry),
        )  # fmt: skip

    def live(self, x: Tensor) -> Tensor:
        """What a player needs of (T, window_length) windows that lie on the model's device.

        Nothing in here waits for the device, so that it can be captured as a graph.

        Returns: (T, 8 + P + 3 F): the first five of `Heard`, level of the newest 5 ms (dBFS),
            nearest code, distance from it; content distribution; the three views.
        """
        views = self._front_end(x)
        position, content = self._model.content_head(views)
        squared, code = self._model.codebook.distances(content).min(-1)
        brief = _level_db(x, BRIEF_SAMPLES)
        numbers = [*self._place(x, views, position), brief, code.float(), squared.sqrt()]
        return torch.cat([torch.stack(numbers, -1), position, *views], -1)

    def _place(self, x: Tensor, views: Views, position: Tensor) -> tuple[Tensor, ...]:
        """Level, onset, periodicity, pitch and confidence, each (T,), as in `Heard`."""
        g = self.geometry
        peak = position.argmax(-1, keepdim=True)
        near = (peak + self._reach).clamp(0, g.n_positions - 1)
        mass = position.gather(1, near)  # (T, 2 * PEAK_BINS + 1)
        confidence = mass.sum(-1)
        where = (mass * near).sum(-1) / confidence.clamp_min(1e-9) + self._offset_bins
        bins = where.round().long()[:, None] + self._reach[PEAK_BINS - 1 : PEAK_BINS + 2]
        periodicity = views.lag.gather(1, bins.clamp(0, g.n_bins - 1)).amax(-1)
        level_db = _level_db(x, LEVEL_SAMPLES)
        pitch_midi = g.midi_low + where / g.bins_per_semitone
        return level_db, self._onset(x), periodicity, pitch_midi, confidence

    def _onset(self, x: Tensor) -> Tensor:
        """Spectral flux over `ONSET_LAG_SAMPLES`, in dB per band; only rises count."""
        both = torch.stack([x[:, -ONSET_SAMPLES:],
                            x[:, -ONSET_SAMPLES - ONSET_LAG_SAMPLES : -ONSET_LAG_SAMPLES]], 1)
        power = torch.fft.rfft(both * self._hann).abs().square() @ self._bands  # (T, 2, bands)
        log = 10 * torch.log10(power + 1e-7)
        return (log[:, 0] - log[:, 1]).clamp_min(0).mean(-1)


def _level_db(x: Tensor, n_samples: int) -> Tensor:
    """RMS of the newest samples of (T, n) windows, in dBFS: (T,)."""
    power = x[:, -n_samples:].square().mean(-1)
    return (10 * torch.log10(power + 1e-12)).clamp_min(LEVEL_FLOOR_DB)
