"""The way between the sound card's callback and the engine's worker, without a lock.

All sound has a place: sample t is the t-th that the card took in, and what the engine makes of it
is put at t + prefill of what the card gives out. So the delay between the two is that one number
by construction, however late or in what portions anything happens: what comes too late is never
heard, what is missing is silence, and what follows stands where it would have stood.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

FADE_S = 0.002
"""Sound that breaks off or comes back does so within this time, without a click."""


class Ring:
    """Sound of one writing and one reading thread, by absolute positions; neither ever waits.

    The writer goes on whether or not the reader follows, and the newest `capacity` samples can be
    read. The one thing both look at is a pair of positions, swapped as one.

    Args:
        capacity: samples that can be read, and the most that may be written at once.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        # As much again for what is being written while the reader looks.
        self._samples = np.zeros(2 * capacity, np.float32)
        self._span = (0, 0)  # first and one past the last sample of the newest unbroken stretch

    @property
    def end(self) -> int:
        """One past the newest sample."""
        return self._span[1]

    def write(self, x: Samples, at: int | None = None) -> None:
        """Put (n,) samples where the last ones ended, or beyond a gap. Writing thread only.

        Args:
            x: at most `capacity` samples.
            at: position of the first; what lies before the end has been written already and is
                left out.
        """
        start, end = self._span
        if at is None:
            at = end
        elif at < end:
            x, at = x[end - at :], end
        elif at > end:
            start = at
        n, size = len(x), len(self._samples)
        first = at % size
        n_first = min(n, size - first)
        self._samples[first : first + n_first] = x[:n_first]
        if n > n_first:
            self._samples[: n - n_first] = x[n_first:]
        self._span = start, at + n  # published last

    def read_into(self, out: Samples, at: int) -> tuple[int, int]:
        """Copy the samples from position `at` on into `out` (n,). Reading thread only.

        Returns:
            (low, high): `out[low:high]` holds sound; what is not there yet, or no longer, is 0.
        """
        n, size = len(out), len(self._samples)
        start, end = self._span
        low, high = min(max(start - at, 0), n), min(max(end - at, 0), n)
        first = (at + low) % size
        n_first = min(high - low, size - first)
        out[low : low + n_first] = self._samples[first : first + n_first]
        if high > low + n_first:
            out[low + n_first : high] = self._samples[: high - low - n_first]
        if self._span[1] - (at + low) > self.capacity:  # it may have been written over meanwhile
            low = high = 0
        if high - low < n:
            out[:low] = 0
            out[high:] = 0
        return low, high


class Seam:
    """Takes the click out of sound that breaks off and comes back.

    What breaks off goes on as its last value, fading; what comes back fades in. Both take
    `FADE_S`, over as many portions as it needs.

    Args:
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        n = max(1, round(FADE_S * sample_rate))
        self._rise = (0.5 - 0.5 * np.cos(np.pi * np.arange(1, n + 1) / n)).astype(np.float32)
        self._fall = self._rise[::-1] - self._rise[0]
        self._risen, self._fallen = 0, n  # how far into each; silent at first
        self._last = np.float32(0.0)

    def __call__(self, out: Samples, low: int, high: int) -> bool:
        """Smooth one portion in place.

        Args:
            out: (n,), of which [low, high) is sound.
            low: first sample of sound.
            high: one past the last.

        Returns:
            Whether sound broke off in it.
        """
        if high - low == len(out) and self._risen == len(self._rise):  # as nearly always
            self._last = out[-1]
            return False
        broke = self._breaks(out[:low])
        if high > low:
            self._goes_on(out[low:high])
        return self._breaks(out[high:]) or broke

    def _breaks(self, out: Samples) -> bool:
        if not len(out):
            return False
        broke = self._risen > 0
        if broke:
            self._risen = self._fallen = 0
        k = min(len(out), len(self._fall) - self._fallen)
        np.multiply(self._fall[self._fallen : self._fallen + k], self._last, out=out[:k])
        out[k:] = 0
        self._fallen += k
        return broke

    def _goes_on(self, out: Samples) -> None:
        k = min(len(out), len(self._rise) - self._risen)
        out[:k] *= self._rise[self._risen : self._risen + k]
        self._risen += k
        self._last = out[-1]


class AudioPath:
    """What the callback and the worker share: two rings, a signal and a few counts.

    Before `running` is set, and after it is cleared, the output is silence and the input is not
    taken.

    Args:
        sample_rate: Hz of the card.
        capacity: samples that the worker may be behind before input is lost.
    """

    def __init__(self, sample_rate: int, capacity: int) -> None:
        self.sample_rate = sample_rate
        self.to_engine = Ring(capacity)
        self.from_engine = Ring(capacity)
        self.wake = threading.Lock()  # held: nothing new. A semaphore's own lock could block.
        self.wake.acquire()
        self.running = False
        self.now = 0  # samples that the card has passed while running: the clock of all positions
        self.n_calls = 0
        self.largest = 0  # samples that the card ever handed over at once
        self.n_underruns = 0
        self.n_device_xruns = 0
        self._seam = Seam(sample_rate)

    def exchange(
        self, taken: Samples | None, given: NDArray[Any] | None, n: int, flagged: bool
    ) -> None:
        """One call of the card: copies and signals, nothing else. Callback thread only.

        Args:
            taken: (n,) input, if there is one.
            given: (n, channels) output to fill, if there is one.
            n: samples.
            flagged: the card says that it lost some.
        """
        self.n_calls += 1
        if n > self.largest:
            self.largest = n
        running, now = self.running, self.now
        if given is not None:
            out = given[:, 0]
            if running:
                low, high = self.from_engine.read_into(out, now)
                self.n_underruns += self._seam(out, low, high)
            else:
                self._seam(out, 0, 0)
            given[:, 1:] = given[:, :1]
        if running:
            self.n_device_xruns += flagged
            if taken is not None:
                self.to_engine.write(taken)
            self.now = now + n
            if self.wake.locked():  # only this thread releases it
                self.wake.release()
