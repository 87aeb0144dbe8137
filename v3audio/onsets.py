"""Does a note begin here, and does one sound? A small learned rule for the file decoder.

In a room the tail of a note holds its level and its pitch under the next one; a bow changes without
an attack; a singer slides. One threshold a cue settles none of these. `onsets` weighs what the
frames around tell (level, onset strength, aperiodicity, confidence, how the pitch moves) by a
perceptron whose weights lie beside this file, learned by `training.file_notes` on rendered
melodies, synthetic voices and phrases of single notes, all with known notes, recorded near and far.
The V3 model itself never sees any.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from v3audio import belief

FloatArray = NDArray[np.floating]

HOP_S = 0.01
"""Seconds between frames that the weights were learned for."""
WEIGHTS = Path(__file__).with_name("onsets.npz")
# Frames that are looked at, densely near by. An onset shows in what follows it.
_AROUND = np.array([-24, -18, -14, *range(-11, 13), 15, 19, 25])
_SETTLED = 8  # frames ahead, where the pitch of a note that begins now is plain
_STEP = 2  # frames over which the movement of the pitch is read
BLOCK = 4096  # frames described at once: bounds the memory


def hear(
    level: FloatArray,
    onset: FloatArray,
    periodicity: FloatArray,
    pitch: FloatArray,
    confidence: FloatArray,
    gate_db: float,
    hop_s: float,
    layers: belief.Layers | None = None,
) -> tuple[NDArray[np.float32], ...]:
    """Where notes begin and where one sounds.

    Args:
        level: (T,) dBFS, and so on: as in `v3audio.hearing.Heard`.
        onset: (T,) dB.
        periodicity: (T,) 0..1.
        pitch: (T,) MIDI.
        confidence: (T,) 0..1.
        gate_db: level below which the recording is silent.
        hop_s: seconds between frames.
        layers: replaces the shipped weights.

    Returns: (T,) each: chance that a note begins in each frame, chance that one does within 35 ms,
        and log odds that one sounds.
    """
    layers = layers or shipped()
    read = describer(level, onset, periodicity, pitch, confidence, gate_db, hop_s)
    odds = np.concatenate(
        [
            belief.perceive(read(k, min(k + BLOCK, len(level))), layers)
            for k in range(0, len(level), BLOCK)
        ]
    )
    here, near = 1.0 / (1.0 + np.exp(-odds[:, :2].T))
    return here, near, odds[:, 2]


def describer(
    level: FloatArray,
    onset: FloatArray,
    periodicity: FloatArray,
    pitch: FloatArray,
    confidence: FloatArray,
    gate_db: float,
    hop_s: float,
) -> Callable[[int, int], NDArray[np.float32]]:
    """Features of frames first..last-1, (last - first, `N_FEATURES`); arguments as in `hear`."""
    n = len(level)
    per = HOP_S / hop_s
    around = np.rint(_AROUND * per).astype(np.intp)
    step, settled = max(1, round(_STEP * per)), round(_SETTLED * per)
    loud_db = np.percentile(level, 95.0)
    before = pitch[np.maximum(np.arange(n) - step, 0)]
    columns = (
        level / 10.0,
        pitch,
        np.maximum(onset - np.median(onset), 0.0) / 6.0,
        np.log10(1.003 - periodicity) + 1.0,
        confidence,
        np.minimum(np.abs(pitch - before), 2.0),
    )
    table = np.stack(columns).astype(np.float32)

    def read(first: int, last: int) -> NDArray[np.float32]:
        here = np.arange(first, last)
        near = table.take(np.clip(here[:, None] + around, 0, n - 1), axis=1)  # (6, N, around)
        now, ahead = table[:2, here], table[1, np.minimum(here + settled, n - 1)]
        top = near[0].max(1)
        near[0] = np.maximum(near[0] - top[:, None], -4.0)
        near[1] = np.clip(near[1] - ahead[:, None], -3.0, 3.0)
        alone = (
            top - loud_db / 10.0,
            np.maximum(top - gate_db / 10.0, -4.0),
            np.clip(now[0] - gate_db / 10.0, -2.0, 2.0),
            (ahead - 60.0) / 24.0,
            (now[1] - 60.0) / 24.0,
        )
        x = np.empty((len(here), N_FEATURES), np.float32)
        x[:, : -len(alone)] = near.transpose(1, 0, 2).reshape(len(here), -1)
        x[:, -len(alone) :] = np.stack(alone, 1)
        return x

    return read


N_FEATURES = 6 * len(_AROUND) + 5


@lru_cache(maxsize=1)
def shipped() -> belief.Layers:
    """The weights beside this file."""
    return belief.load_layers(WEIGHTS)
