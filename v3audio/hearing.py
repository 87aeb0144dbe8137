"""What the encoder hears in each frame, as the plain arrays that notes and sound are made from.

Letters: T frames, P positions, D style values, K codes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3audio.code_map import CodeMap
from v3audio.features import FrontEnd, Views
from v3audio.geometry import Geometry
from v3audio.kernels import (
    BRIEF_SAMPLES,
    LEVEL_FLOOR_DB,
    LEVEL_SAMPLES,
    ONSET_LAG_SAMPLES,
    ONSET_SAMPLES,
    PEAK_BINS,
    onset_bands,
)
from v3audio.model import V3Model

N_NOTES = 128
CLEAR_PEAK = 0.5  # periodicity from which on its peak tells the pitch better than the content


class Heard(NamedTuple):
    """One row per frame; float32 unless said otherwise."""

    level_db: NDArray[np.float32]  # (T,) dBFS RMS of the newest 20 ms
    onset: NDArray[np.float32]  # (T,) mean rise over 20 ms of a coarse log spectrum, dB
    periodicity: NDArray[np.float32]  # (T,) 0..1, lag view at the heard pitch
    pitch_midi: NDArray[np.float32]  # (T,) fine pitch, MIDI number (69.0 = 440 Hz)
    confidence: NDArray[np.float32]  # (T,) 0..1, content within a semitone of the heard pitch
    note_probs: NDArray[np.float32]  # (T, 128) rows sum to 1
    code: NDArray[np.int64]  # (T,) nearest atom of the codebook
    content: NDArray[np.float32]  # (T, P) content distribution over positions
    style: NDArray[np.float32]  # (T, D) z_s
    fine_midi: NDArray[np.float32] | None = None  # (T,) `fine_pitch`


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
    def frames(self, windows: NDArray[np.float32] | Tensor) -> Heard:
        """Hear (T, window_length) windows at the analysis rate, float32 in [-1, 1]."""
        x = torch.as_tensor(windows).to(self.device)
        views = self._front_end(x)
        encoded = self._model.encode(views)
        squares = self._model.codebook.distances(encoded.content)  # (T, K)
        note_probs = torch.softmax(-squares / self._temperature, -1) @ self._notes
        level_db, onset, periodicity, pitch_midi, confidence = (
            column.cpu().numpy() for column in self._place(x, views, encoded.position)
        )
        return Heard(
            level_db, onset, periodicity, pitch_midi, confidence,
            note_probs=note_probs.cpu().numpy(),
            code=squares.argmin(-1).cpu().numpy(),
            content=encoded.position.cpu().numpy(),
            style=encoded.style.cpu().numpy(),
            fine_midi=fine_pitch(views.lag.cpu().numpy(), pitch_midi, self.geometry),
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


def fine_pitch(
    lag: NDArray[np.floating], pitch_midi: NDArray[np.floating], g: Geometry
) -> NDArray[np.float32]:
    """The heard pitch moved to the nearest peak of the periodicity.

    The content's own place leans towards the middle of its range by up to six cents; the peak of
    the autocorrelation does not.

    Args:
        lag: (T, F) periodicity at the lag of each bin.
        pitch_midi: (T,) as heard.
        g: of the model.

    Returns: (T,) the top of a parabola through the highest bin within two of the heard pitch and
        its neighbours; `pitch_midi` where that is no clear peak.
    """
    reach = 2
    heard = np.rint((pitch_midi - g.midi_low) * g.bins_per_semitone).astype(np.intp)
    bins = np.clip(heard, reach + 1, g.n_bins - reach - 2)[:, None] + np.arange(-reach, reach + 1)
    top = np.take_along_axis(bins, np.take_along_axis(lag, bins, 1).argmax(1)[:, None], 1)
    below, peak, above = np.take_along_axis(lag, top + np.array([-1, 0, 1]), 1).T
    bend = 2 * peak - below - above
    is_peak = (peak >= below) & (peak >= above) & (peak > CLEAR_PEAK) & (bend > 1e-4)
    beside = (above - below) / (2 * np.maximum(bend, 1e-4))
    place = g.midi_low + (top[:, 0] + beside) / g.bins_per_semitone
    is_peak &= np.abs(place - pitch_midi) <= (reach + 0.5) / g.bins_per_semitone
    return np.where(is_peak, place, pitch_midi).astype(np.float32)


def _level_db(x: Tensor, n_samples: int) -> Tensor:
    """RMS of the newest samples of (T, n) windows, in dBFS: (T,)."""
    power = x[:, -n_samples:].square().mean(-1)
    return (10 * torch.log10(power + 1e-12)).clamp_min(LEVEL_FLOOR_DB)
