"""Streaming front of every path: any sample rate to the analysis rate, then right-aligned windows.

Both parts are pure: `step(x, state) -> (y, state)`, where the state is a value. What comes out for
output number m depends only on the input samples up to `n_needed(m)`, an exact integer, never on
how the input was cut into blocks. soxr's stream is not used here because it emits in lumps whose
size depends on the blocks it is given and does not state its delay.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, gcd
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from v3audio import compiled
from v3audio.compiled import address
from v3audio.errors import ConfigError
from v3audio.geometry import Geometry

ANALYSIS_RATE = Geometry().sample_rate
"""Hz: the rate at which the model hears (16000)."""
WINDOW = Geometry().window_length
"""Samples at ANALYSIS_RATE in one analysis window (2048: 128 ms)."""
HOP = Geometry().hop_length
"""Samples at ANALYSIS_RATE between live frames (80: 5 ms)."""
MIN_RATE, MAX_RATE = 8000, 192000
"""Hz: sample rates accepted at the border."""

_HALF_LENGTH = 18  # samples at the lower rate: 1.125 ms for every rate from 16 kHz up
_CUTOFF = 0.5  # of the lower rate: -6 dB exactly at its Nyquist frequency
_STOPBAND_DB = 62.0  # reached from 0.554 of the lower rate; what folds lies above 0.446 of it
_MAX_ROWS = 2048  # outputs computed at once: bounds the memory of a whole-file call

FloatArray = NDArray[np.float32]
T = TypeVar("T", np.float32, np.float64)


@lru_cache(maxsize=8)
def _design(up: int, down: int) -> tuple[NDArray[np.float64], int]:
    """Kaiser-windowed sinc, cut into phases.

    Args:
        up: L, outputs per `down` inputs.
        down: M, inputs per `up` outputs.

    Returns:
        Bank (L, 2K): row r weighs input samples base-K+1 .. base+K of an output that stands r/L of
        an input sample after `base`; every row sums to 1 so that a constant passes unchanged. And
        K.
    """
    per_low = max(1.0, down / up)  # input samples in one sample of the lower of the two rates
    half = _HALF_LENGTH * per_low
    n_right = ceil(half)
    fraction = np.arange(up, dtype=np.float64)[:, None] / up
    offset = np.arange(-n_right + 1, n_right + 1, dtype=np.float64)[None, :] - fraction
    beta = 0.1102 * (_STOPBAND_DB - 8.7)  # Kaiser 1974
    inside = np.clip(1.0 - (offset / half) ** 2, 0.0, None)
    window = np.where(np.abs(offset) <= half, np.i0(beta * np.sqrt(inside)) / np.i0(beta), 0.0)
    bank = np.sinc(2.0 * _CUTOFF * offset / per_low) * window
    bank /= bank.sum(axis=1, keepdims=True)
    bank.flags.writeable = False  # shared by every resampler of this ratio
    return bank, n_right


class ResamplerState(NamedTuple):
    """What a `StreamingResampler` carries between blocks.

    Attributes:
        tail: newest input samples that a later output still needs, float64.
        n_in: input samples taken so far.
        n_out: output samples given so far.
    """

    tail: NDArray[np.float64]
    n_in: int = 0
    n_out: int = 0


class StreamingResampler:
    """Linear-phase polyphase resampler from any integer rate to `ANALYSIS_RATE`.

    Pass band to 0.44 of the lower rate (7.1 kHz from any rate of 16 kHz up) within 0.02 dB; what
    would fold onto the pass band is at least 60 dB down. Output m stands at the instant of input
    sample m * sample_rate / 16000: nothing is shifted, the filter only has to wait for the samples
    on its right-hand side, `delay_samples` of them.

    Args:
        sample_rate: Hz of the input, 8000..192000.

    Attributes:
        up: outputs per `down` inputs.
        down: inputs per `up` outputs.
        bank: (up, width) as `_design` gives it.
        width: taps.
        n_left: of them before an output's own instant.

    Raises:
        ConfigError: a rate outside that range or not an integer.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = check_sample_rate(sample_rate)
        divisor = gcd(self.sample_rate, ANALYSIS_RATE)
        self.up = ANALYSIS_RATE // divisor
        self.down = self.sample_rate // divisor
        if self.up == self.down:
            self.bank, self._n_right = np.array([[1.0]]), 0
        else:
            self.bank, self._n_right = _design(self.up, self.down)
        self.width = self.bank.shape[1]
        self.n_left = self.width - self._n_right - 1
        self._compiled = compiled.bind("resample", self.up, self.down, self.width, self.bank)

    @property
    def delay_samples(self) -> int:
        """Input samples after its own instant that an output has to wait for (an exact count)."""
        return self._n_right

    @property
    def delay_s(self) -> float:
        """`delay_samples` in seconds."""
        return self._n_right / self.sample_rate

    def n_needed(self, m: int) -> int:
        """Number of input samples after which output `m` exists: `floor(m M / L) + delay + 1`."""
        return m * self.down // self.up + self._n_right + 1

    def n_available(self, n_in: int) -> int:
        """Number of outputs that exist once `n_in` input samples are in; inverse of `n_needed`."""
        whole = n_in - self._n_right  # outputs with floor(m M / L) < whole
        return max(0, -(-whole * self.up // self.down)) if whole > 0 else 0

    def init_state(self) -> ResamplerState:
        """State before the first sample: silence on the left."""
        return ResamplerState(np.zeros(self.n_left))

    def step(self, x: FloatArray, state: ResamplerState) -> tuple[FloatArray, ResamplerState]:
        """Resample one block.

        Args:
            x: (n,) finite input samples at `sample_rate`, any n including 0.
            state: from `init_state` or the previous step.

        Returns:
            (n_out,) float32 samples at `ANALYSIS_RATE` that exist now and did not before, and the
            state for the next block.
        """
        n_in = state.n_in + len(x)
        n_out = self.n_available(n_in)
        held: NDArray[np.float64] = np.concatenate((state.tail, x), dtype=np.float64)
        if n_out == state.n_out:
            return np.empty(0, np.float32), ResamplerState(held, n_in, n_out)
        first_held = n_in - len(held)  # index of held[0]; negative while it is the silence before
        before = self.n_left + first_held  # from an output's input sample to its window in `held`
        y = self._outputs(held, before, state.n_out, n_out)
        keep_from = n_out * self.down // self.up - before
        return y, ResamplerState(held[keep_from:], n_in, n_out)

    def _outputs(self, held: NDArray[np.float64], before: int, start: int, stop: int) -> FloatArray:
        """Outputs `start` .. `stop`, of which that at input sample k begins at held[k - before]."""
        width, y = self.width, np.empty(stop - start, np.float32)
        if self._compiled:
            at, phase = divmod(start * self.down, self.up)
            self._compiled(address(held), address(y), at - before, phase, len(y))
            return y
        # einsum adds each row on its own, in float64: the same sum whatever stands beside it
        if self.up == 1:  # one phase, even steps: nothing to gather
            rows = _windows(held[start * self.down - before :], width, self.down, len(y))
            y[:] = np.einsum("ij,j->i", rows, self.bank[0])
            return y
        windows = _windows(held, width, 1, len(held) - width + 1)
        for first in range(start, stop, _MAX_ROWS):
            end = min(first + _MAX_ROWS, stop)
            places, rest = np.divmod(np.arange(first, end, dtype=np.int64) * self.down, self.up)
            rows, weights = windows[places - before], self.bank.take(rest, axis=0)
            y[first - start : end - start] = np.einsum("ij,ij->i", rows, weights)
        return y


class FramerState(NamedTuple):
    """What a `Framer` carries between blocks.

    Attributes:
        tail: newest samples that a later window still needs, float32.
        n_frames: windows given so far.
    """

    tail: FloatArray
    n_frames: int = 0


class Framer:
    """Cuts a stream into windows: frame k holds samples [(k+1) hop - window, (k+1) hop).

    Args:
        hop: samples between frames, 1..window.
        window: samples in a frame.

    Raises:
        ConfigError: a hop below 1 or above the window.
    """

    def __init__(self, hop: int = HOP, window: int = WINDOW) -> None:
        if not 1 <= hop <= window:
            raise ConfigError(f"hop = {hop} samples: expected 1..{window}")
        self.hop = hop
        self.window = window

    def n_needed(self, k: int) -> int:
        """Number of samples after which frame `k` exists."""
        return (k + 1) * self.hop

    def init_state(self) -> FramerState:
        """State before the first sample: silence."""
        return FramerState(np.zeros(self.window - self.hop, dtype=np.float32))

    def step(self, x: FloatArray, state: FramerState) -> tuple[FloatArray, FramerState]:
        """Frame one block.

        Args:
            x: (n,) samples, any n including 0.
            state: from `init_state` or the previous step.

        Returns:
            (T, window) float32 frames completed by this block (T may be 0), to be read only as they
            overlap in memory; and the state for the next block.
        """
        held = np.concatenate((state.tail, x)) if len(x) else state.tail
        n_new = max(0, (len(held) - self.window) // self.hop + 1)
        if n_new == 0:
            return np.empty((0, self.window), np.float32), FramerState(held, state.n_frames)
        frames = _windows(held, self.window, self.hop, n_new)
        return frames, FramerState(held[n_new * self.hop :], state.n_frames + n_new)


class Newest:
    """A player's sound: with each frame the newest window, as the two above give it, in one call.

    Args:
        resampler: from the player's rate.
        framer: of the frames.
    """

    def __init__(self, resampler: StreamingResampler, framer: Framer) -> None:
        self._resampler, self._framer = resampler, framer
        r, hop = resampler, framer.hop
        most = r.width + self.n_needed(1)  # samples held, a segment that has just come included
        self._held, self._window = np.zeros(most), np.zeros(framer.window, np.float32)
        self._listen = compiled.bind(
            "listen", r.up, r.down, r.width, r.bank, self._held, framer.window, hop, self._window,
        )  # fmt: skip
        self.reset()

    def reset(self) -> None:
        """Back to silence."""
        self._states = self._resampler.init_state(), self._framer.init_state()
        self._held[:], self._window[:] = 0.0, 0.0
        self._n_held = self._resampler.n_left
        self._first = 0  # whole input sample at which an output's taps begin with `_held[0]`
        self._frame = 0

    def n_needed(self, k: int) -> int:
        """Number of input samples after which frame `k` exists."""
        return self._resampler.n_needed(self._framer.n_needed(k) - 1)

    def step(self, sound: FloatArray) -> FloatArray:
        """The next frame's window, (window,), until the next call.

        Args:
            sound: (n,) finite input samples: exactly those from `n_needed` of the frame before on.
        """
        if not self._listen:
            y, resampled = self._resampler.step(sound, self._states[0])
            windows, framed = self._framer.step(y, self._states[1])
            self._states = resampled, framed
            window: FloatArray = windows[0]
            return window
        r, start, end = self._resampler, self._n_held, self._n_held + len(sound)
        self._held[start:end] = sound
        at, phase = divmod(self._frame * self._framer.hop * r.down, r.up)
        self._frame += 1
        keep = self._frame * self._framer.hop * r.down // r.up - self._first
        self._listen(end, at - self._first, phase, keep)
        self._first, self._n_held = self._first + keep, end - keep
        return self._window


def _windows(x: NDArray[T], width: int, step: int, n: int) -> NDArray[T]:
    """`sliding_window_view` of a contiguous array, every `step`, without its 20 us of checks."""
    return np.ndarray((n, width), x.dtype, x, strides=(step * x.strides[0], x.strides[0]))


def check_sample_rate(sample_rate: int) -> int:
    """Return `sample_rate` as an int, or refuse it.

    Raises:
        ConfigError: not a whole number of Hz within 8000..192000.
    """
    if int(sample_rate) != sample_rate or not MIN_RATE <= sample_rate <= MAX_RATE:
        raise ConfigError(
            f"sample rate {sample_rate} Hz: expected a whole number from {MIN_RATE} to {MAX_RATE} "
            "(resample the sound first, for example with `sox in.wav -r 48000 out.wav`)"
        )
    return int(sample_rate)
