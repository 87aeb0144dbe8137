"""The sizes every part agrees on: rates, windows, hops, the pitch axis, and those of a network.

All sizes are integers in samples or bins; seconds and hertz are derived here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

N_VIEWS = 3  # of a frame: `features.Views`
KERNEL_BELOW = 60  # bins below a candidate that the content kernel sees (20 semitones)
KERNEL_ABOVE = 199  # and above: five and a half octaves of harmonics
# Where a candidate's partials lie, in bins: sub-octaves, octaves, and harmonics 1 to 10.
PARTIAL_BINS = (-72, -57, -36, -21, 0, 36, 57, 72, 84, 93, 101, 108, 114, 120)
STYLE_BELOW, STYLE_ABOVE = 60, 263  # bins around the heard pitch that style is read from
CONTENT_BLUR_BINS = 1.0  # near pitches have near z_c
GAIN_RANGE = 0.5, 30.0  # of the content head's softmax: it can neither die nor explode

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


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of one V3 network. The defaults are the shipped model's."""

    codebook_size: int = 256
    channels: int = 4
    hidden: int = 256
    partial_hidden: int = 24  # units that weigh a candidate's partials against each other; 0: none
    codebook_decay: float = 0.98
    dead_below: float = 1.0  # moving count under which an atom is replaced
    geometry: Geometry = field(default_factory=Geometry)


def partial_padding(g: Geometry) -> tuple[int, int]:
    """Bins to add below and above a view so that every candidate's partials lie within."""
    above = max(0, g.n_positions + max(PARTIAL_BINS) - g.n_bins)
    return -min(PARTIAL_BINS), above
