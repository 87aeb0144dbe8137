"""The analysis grid every part agrees on: rates, windows, hops and the pitch axis.

All sizes are integers in samples or bins; seconds and hertz are derived here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where analysis frames stand in time and pitch.

    The pitch axis is shared by the three views and by the content distribution: bin ``i`` is MIDI
    ``midi_low + i / bins_per_semitone``. A transposition is therefore one and the same shift of
    everything the content head sees and says.
    """

    sample_rate: int = 16_000  # Hz, of the analysis (not of the caller)
    window_length: int = 2_048  # samples; every window ends at "now" (right-aligned)
    hop_length: int = 80  # samples between live frames (5 ms)
    file_hop_length: int = 160  # samples between frames of `transcribe` (10 ms)
    bins_per_semitone: int = 3
    midi_low: int = 20  # the pitch of bin 0
    n_bins: int = 297  # of a view: MIDI 20 .. 118.7
    n_positions: int = 252  # pitch candidates: MIDI 20 .. 103.7
    style_dim: int = 16

    @property
    def hop_s(self) -> float:
        """Seconds between live frames."""
        return self.hop_length / self.sample_rate

    def bin_hz(self) -> NDArray[np.float64]:
        """Centre frequencies of the bins, shape (n_bins,), in hertz."""
        midi = self.midi_low + np.arange(self.n_bins) / self.bins_per_semitone
        return np.asarray(440.0 * 2.0 ** ((midi - 69.0) / 12.0), dtype=np.float64)
