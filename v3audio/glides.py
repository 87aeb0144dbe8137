"""On the way from one setting to the next: gains by the sample, a timbre by the frame."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from v3audio.timbres import Timbre

Samples = NDArray[np.float32]

MAX_RELEASE_S = 0.3
"""A player who stops wants silence: longer releases of a timbre are cut to this."""
_N_NUMBERS = 6  # before the style in a timbre's vector


class Fader:
    """Gains that change in straight lines, whatever the size of the blocks.

    Args:
        gains: that hold from the start.
    """

    def __init__(self, gains: Sequence[float]) -> None:
        self._now = self._path = np.array(gains, np.float32)[:, None]
        self._at = 0

    @property
    def rests(self) -> bool:
        """Whether the gains have arrived."""
        return bool(self._at >= self._path.shape[1] - 1)

    def go(self, gains: Sequence[float], n_samples: int) -> None:
        """From here on, towards other gains; a change of something else does not begin anew.

        Args:
            gains: to arrive at.
            n_samples: length of the line, 1 or more.
        """
        target = np.array(gains, np.float32)[:, None]
        if np.array_equal(target, self._now):
            return
        start = self._path[:, min(self._at, self._path.shape[1] - 1), None]
        self._now, self._at = target, 0
        self._path = start + _line(n_samples) * (self._now - start)
        self._path[:, -1:] = self._now

    def take(self, n: int) -> Samples:
        """The gains of the next `n` samples, (gains, n), or (gains, 1) where they rest."""
        if self.rests:
            return self._now
        start, end = self._at + 1, self._at + n + 1
        self._at += n
        if end <= self._path.shape[1]:
            return self._path[:, start:end]
        return self._path[:, np.minimum(np.arange(start, end), self._path.shape[1] - 1)]


@lru_cache(maxsize=8)
def _line(n_samples: int) -> Samples:
    line = np.linspace(0.0, 1.0, n_samples + 1, dtype=np.float32)
    line.setflags(write=False)
    return line


class TimbreGlide:
    """A timbre as the numbers that the renderer needs, on the way from one to the next.

    Attributes:
        timbre: where it goes.
        gain_db: added to the level.
        release_s: how long a note let go may ring.
        style: `Timbre.voice`, on the way.
    """

    def __init__(self, timbre: Timbre) -> None:
        self.timbre = timbre
        self._from = self._to = _numbers(timbre)
        self._at, self._n = 1, 1
        self._stand_at(self._to)

    def go(self, timbre: Timbre, n_frames: int) -> None:
        """Arrive at `timbre` after `n_frames` steps."""
        self.timbre, self._from, self._to = timbre, self._now, _numbers(timbre)
        if len(self._from) != len(self._to):  # from or to a timbre without a colour
            longest = max(len(self._from), len(self._to))
            self._from, self._to = (
                np.pad(x, (0, longest - len(x))) for x in (self._from, self._to)
            )
        self._at, self._n = 0, n_frames

    def step(self) -> None:
        """One frame on."""
        if self._at < self._n:
            self._at += 1
            part = np.float32(self._at / self._n)
            done = self._at == self._n
            step = part * (self._to - self._from)
            self._stand_at(_numbers(self.timbre) if done else self._from + step)

    def _stand_at(self, numbers: Samples) -> None:
        self._now, self.style = numbers, numbers[_N_NUMBERS:]
        self.gain_db, self.release_s, *self._decay = numbers[:_N_NUMBERS].tolist()

    def decay_at(self, pitch_midi: float) -> float:
        """How fast a struck note dies, dB/s: low strings ring longer than high ones."""
        low, high, decay_low, decay_high = self._decay
        part = min(max((pitch_midi - low) / max(high - low, 1e-6), 0.0), 1.0)
        rate: float = decay_low + part * (decay_high - decay_low)
        return max(0.0, rate)


def _numbers(timbre: Timbre) -> Samples:
    """Gain, release, range, decay at its ends, and `Timbre.voice`."""
    decay = timbre.decay_db_per_s
    numbers = (
        timbre.gain_db,
        min(max(_extra(timbre, "release_s", 0.0), 0.0), MAX_RELEASE_S),
        *timbre.note_range,
        _extra(timbre, "decay_low_db_per_s", decay),
        _extra(timbre, "decay_high_db_per_s", decay),
    )
    return np.concatenate((np.array(numbers, np.float32), timbre.voice))


def _extra(timbre: Timbre, name: str, default: float) -> float:
    """A number among a timbre's extras; the default where it is missing or no number."""
    value = timbre.extras.get(name)
    return float(value) if isinstance(value, (int, float)) and isfinite(value) else default
