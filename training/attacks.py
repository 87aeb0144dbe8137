"""Attacks as players make them: what a soundfont's samples hardly have, added to known notes.

A reed or a string may speak in an overtone before its fundamental, or flat; a bow grips late,
breath comes before the tone. Each is a filter that fades away in the first tens of milliseconds of
a note; the notes stay true, as the player meant them from the onset on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import signal

FloatArray = NDArray[np.float32]

_KINDS = ("overtone", "thin", "scoop", "slow", "breath")
_JOINED_S = 0.002  # a note that begins so soon after the one before is not played anew


class Played(Protocol):
    """A note of known pitch."""

    @property
    def onset_s(self) -> float:
        """Seconds."""

    @property
    def offset_s(self) -> float:
        """Seconds."""

    @property
    def midi(self) -> float:
        """MIDI number with fraction."""


def speak(
    rng: np.random.Generator, sound: FloatArray, notes: Sequence[Played], sample_rate: int
) -> FloatArray:
    """A copy of `sound` in which one player's habit shapes the attacks of most notes.

    Args:
        rng: the clip's generator.
        sound: (n_samples,) float32, clean.
        notes: in time order.
        sample_rate: Hz.
    """
    out = sound.astype(np.float64)
    peak = float(np.abs(sound).max())
    habits = rng.choice(_KINDS, size=int(rng.integers(1, 4)), replace=False)
    often, longest_s = rng.uniform(0.3, 0.9), rng.uniform(0.03, 0.12)
    multiple = int(rng.choice((2, 2, 3)))
    before_s = -1.0
    for note in notes:
        joined = note.onset_s - before_s < _JOINED_S
        before_s = note.offset_s
        if rng.random() > often or (joined and rng.random() < 0.5):
            continue
        start = round(note.onset_s * sample_rate)
        period = sample_rate / (440.0 * 2.0 ** ((note.midi - 69.0) / 12.0))
        for habit in habits:
            seconds = float(rng.uniform(0.25, 1.0)) * longest_s
            length = round(min(seconds, 0.6 * (note.offset_s - note.onset_s)) * sample_rate)
            length = min(length + int(habit == "thin") * round(2 * period), len(out) - start)
            if length < 16:
                continue
            if habit == "overtone":
                _overtone(rng, out, start, length, period, multiple)
            elif habit == "thin":
                _thin(rng, out, start, length, sample_rate / period, sample_rate)
            elif habit == "scoop":
                _scoop(rng, out, start, length)
            elif habit == "slow":
                _slow(rng, out, start, length, joined)
            else:
                _breathe(rng, out, start, length, peak, sample_rate)
    return out.astype(np.float32)


def _fade(rng: np.random.Generator, length: int) -> NDArray[np.float64]:
    """From 1 to 0, at once or after some hold."""
    hold = rng.uniform(0.0, 0.7)
    t = np.clip((np.arange(length) / length - hold) / (1.0 - hold), 0.0, 1.0)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * t))


def _overtone(
    rng: np.random.Generator,
    out: NDArray[np.float64],
    start: int,
    length: int,
    period: float,
    multiple: int,
) -> None:
    """Only every second or third harmonic at first: the mean of copies that far apart."""
    at = np.arange(start, start + length)
    first = max(start - round(period) - 2, 0)
    stretch = out[first : start + length]
    shifted = [
        np.interp(at - k * period / multiple, np.arange(first, start + length), stretch)
        for k in range(multiple)
    ]
    share = _fade(rng, length) * rng.uniform(0.7, 1.0)
    out[at] = share * np.mean(shifted, 0) + (1.0 - share) * out[at]


def _thin(
    rng: np.random.Generator,
    out: NDArray[np.float64],
    start: int,
    length: int,
    hz: float,
    sample_rate: int,
) -> None:
    """Without its lowest harmonics at first, as a low string under a bow."""
    corner = min(hz * rng.uniform(1.5, 4.0), 0.4 * sample_rate)
    sos = signal.butter(2, corner, "highpass", fs=sample_rate, output="sos")
    thin = signal.sosfilt(sos, out[start : start + length])
    share = _fade(rng, length)
    out[start : start + length] += share * (thin - out[start : start + length])


def _scoop(rng: np.random.Generator, out: NDArray[np.float64], start: int, length: int) -> None:
    """From below, rarely from above: read slower, from as much later as it takes to be on time."""
    depth = rng.uniform(0.3, 1.7) if rng.random() < 0.85 else rng.uniform(-0.8, -0.2)
    speed = 2.0 ** (-depth / 12.0 * _fade(rng, length))
    at = start + length - np.cumsum(speed[::-1])[::-1]
    out[start : start + length] = np.interp(at, np.arange(len(out)), out)


def _slow(
    rng: np.random.Generator, out: NDArray[np.float64], start: int, length: int, joined: bool
) -> None:
    """A swell; between joined notes the level only dips."""
    depth_db = rng.uniform(3.0, 12.0) if joined else rng.uniform(15.0, 45.0)
    out[start : start + length] *= 10.0 ** (-depth_db / 20.0 * (1.0 - np.arange(length) / length))


def _breathe(
    rng: np.random.Generator,
    out: NDArray[np.float64],
    start: int,
    length: int,
    peak: float,
    sample_rate: int,
) -> None:
    """Noise of breath, bow or key that begins up to 60 ms before the tone and fades in it."""
    first = max(start - round(float(rng.uniform(0.0, 0.06)) * sample_rate), 0)
    low_hz = rng.uniform(100.0, 3000.0)
    band = (low_hz, min(low_hz * rng.uniform(2.0, 6.0), 0.47 * sample_rate))
    sos = signal.butter(1, band, "bandpass", fs=sample_rate, output="sos")
    noise = signal.sosfilt(sos, rng.normal(size=start + length - first))
    shape = np.sin(np.pi * np.linspace(0.0, 1.0, len(noise)) ** rng.uniform(0.5, 1.2))
    level = peak * 10.0 ** (-rng.uniform(16.0, 40.0) / 20.0)
    out[first : start + length] += level * shape * noise / max(float(noise.std()), 1e-9)
