"""What the encoder hears in each frame, as the plain arrays that notes and sound are made from.

Letters: T frames, P positions, D style values, K codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3audio.features import FrontEnd
from v3audio.model import V3Model

if TYPE_CHECKING:
    from v3audio.bundle import CodeMap

N_NOTES = 128
LEVEL_SAMPLES = 320  # newest 20 ms: a period of the lowest notes, and no more
LEVEL_FLOOR_DB = -120.0
ONSET_SAMPLES = 256  # the two stretches whose spectra are compared for attacks (16 ms)
ONSET_LAG_SAMPLES = 320  # how far apart they stand (20 ms)
ONSET_BANDS = 24
PEAK_BINS = 3  # +- one semitone around the heard position


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


class Hearing:
    """A model and its code map, as one function of windows. Stateless: a frame is its window."""

    def __init__(self, model: V3Model, code_map: CodeMap, device: str = "cpu") -> None:
        g = model.config.geometry
        self.geometry = g
        self.device = torch.device(device)
        self._model = model.eval().to(self.device)
        self._front_end = FrontEnd(g).to(self.device)
        self._bands, self._hann = (t.to(self.device) for t in _onset_bands(g.sample_rate))
        notes = torch.nn.functional.one_hot(torch.as_tensor(code_map.code_to_note), N_NOTES)
        self._notes = notes.float().to(self.device)  # (K, 128)
        self._temperature = code_map.temperature
        self._offset_bins = code_map.offset_semitones * g.bins_per_semitone
        self._reach = torch.arange(-PEAK_BINS, PEAK_BINS + 1, device=self.device)

    @torch.inference_mode()
    def frames(self, windows: NDArray[np.float32] | Tensor) -> Heard:
        """Hear (T, window_length) windows at the analysis rate, float32 in [-1, 1]."""
        x = torch.as_tensor(windows).to(self.device)
        g = self.geometry
        views = self._front_end(x)
        encoded = self._model.encode(views)
        squares = self._model.codebook.distances(encoded.content)  # (T, K)
        note_probs = torch.softmax(-squares / self._temperature, -1) @ self._notes
        peak = encoded.position.argmax(-1, keepdim=True)
        near = (peak + self._reach).clamp(0, g.n_positions - 1)
        mass = encoded.position.gather(1, near)  # (T, 2 * PEAK_BINS + 1)
        confidence = mass.sum(-1)
        where = (mass * near).sum(-1) / confidence.clamp_min(1e-9) + self._offset_bins
        bins = where.round().long()[:, None] + self._reach[PEAK_BINS - 1 : PEAK_BINS + 2]
        periodicity = views.lag.gather(1, bins.clamp(0, g.n_bins - 1)).amax(-1)
        level = 10 * torch.log10(x[:, -LEVEL_SAMPLES:].square().mean(-1) + 1e-12)
        return Heard(
            level_db=level.clamp_min(LEVEL_FLOOR_DB).cpu().numpy(),
            onset=self._onset(x).cpu().numpy(),
            periodicity=periodicity.cpu().numpy(),
            pitch_midi=(g.midi_low + where / g.bins_per_semitone).cpu().numpy(),
            confidence=confidence.cpu().numpy(),
            note_probs=note_probs.cpu().numpy(),
            code=squares.argmin(-1).cpu().numpy(),
            content=encoded.position.cpu().numpy(),
            style=encoded.style.cpu().numpy(),
        )

    def _onset(self, x: Tensor) -> Tensor:
        """Spectral flux over `ONSET_LAG_SAMPLES`, in dB per band; only rises count."""
        both = torch.stack([x[:, -ONSET_SAMPLES:],
                            x[:, -ONSET_SAMPLES - ONSET_LAG_SAMPLES : -ONSET_LAG_SAMPLES]], 1)
        power = torch.fft.rfft(both * self._hann).abs().square() @ self._bands  # (T, 2, bands)
        log = 10 * torch.log10(power + 1e-7)
        return (log[:, 0] - log[:, 1]).clamp_min(0).mean(-1)


def _onset_bands(sample_rate: int) -> tuple[Tensor, Tensor]:
    """Bands (bins, ONSET_BANDS), log-spaced from 60 Hz, and the Hann window."""
    hz = np.fft.rfftfreq(ONSET_SAMPLES, 1 / sample_rate)
    edges = np.geomspace(60.0, sample_rate / 2, ONSET_BANDS + 1)
    index = np.clip(np.searchsorted(edges, hz, side="right") - 1, 0, ONSET_BANDS - 1)
    bands = np.zeros((len(hz), ONSET_BANDS), np.float32)
    bands[np.arange(len(hz)), index] = 1.0
    bands[0] = 0.0  # DC says nothing
    bands = bands[:, bands.any(0)]  # the lowest bands are narrower than an FFT bin
    return torch.from_numpy(bands), torch.hann_window(ONSET_SAMPLES) / (ONSET_SAMPLES / 4)
