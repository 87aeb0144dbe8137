"""Conversions between the units of music and of signal processing: pure functions named a_to_b.

Each takes a float and gives a float, or takes an array and gives an array of the same shape.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]

A4_HZ = 440.0
A4_MIDI = 69.0


@overload
def midi_to_hz(midi: float) -> float: ...
@overload
def midi_to_hz(midi: FloatArray) -> FloatArray: ...
def midi_to_hz(midi: float | FloatArray) -> float | FloatArray:
    """Frequency in Hz of a MIDI pitch (69 -> 440 Hz, fractions allowed)."""
    return A4_HZ * 2.0 ** ((midi - A4_MIDI) / 12.0)


@overload
def hz_to_midi(hz: float) -> float: ...
@overload
def hz_to_midi(hz: FloatArray) -> FloatArray: ...
def hz_to_midi(hz: float | FloatArray) -> float | FloatArray:
    """MIDI pitch of a frequency in Hz (440 Hz -> 69.0); 0 Hz gives -inf."""
    with np.errstate(divide="ignore"):
        midi = A4_MIDI + 12.0 * np.log2(np.asarray(hz) / A4_HZ)
    return midi if isinstance(hz, np.ndarray) else float(midi)


@overload
def db_to_gain(db: float) -> float: ...
@overload
def db_to_gain(db: FloatArray) -> FloatArray: ...
def db_to_gain(db: float | FloatArray) -> float | FloatArray:
    """Linear amplitude factor of a level in dB (0 dB -> 1, 20 dB -> 10)."""
    return 10.0 ** (db / 20.0)


@overload
def gain_to_db(gain: float, floor_db: float = ...) -> float: ...
@overload
def gain_to_db(gain: FloatArray, floor_db: float = ...) -> FloatArray: ...
def gain_to_db(gain: float | FloatArray, floor_db: float = -120.0) -> float | FloatArray:
    """Level in dB of a linear amplitude, its sign ignored, never below `floor_db`."""
    db = 20.0 * np.log10(np.maximum(np.abs(gain), 10.0 ** (floor_db / 20.0)))
    return db if isinstance(gain, np.ndarray) else float(db)


@overload
def samples_to_seconds(n_samples: int, sample_rate: int) -> float: ...
@overload
def samples_to_seconds(n_samples: IntArray, sample_rate: int) -> FloatArray: ...
def samples_to_seconds(n_samples: int | IntArray, sample_rate: int) -> float | FloatArray:
    """Seconds that `n_samples` last at `sample_rate` Hz."""
    return n_samples / sample_rate


@overload
def seconds_to_samples(seconds: float, sample_rate: int) -> int: ...
@overload
def seconds_to_samples(seconds: FloatArray, sample_rate: int) -> IntArray: ...
def seconds_to_samples(seconds: float | FloatArray, sample_rate: int) -> int | IntArray:
    """Samples nearest to a time in seconds at `sample_rate` Hz (a tie goes up)."""
    n_samples = np.floor(np.asarray(seconds) * sample_rate + 0.5).astype(np.int64)
    return n_samples if isinstance(seconds, np.ndarray) else int(n_samples)
