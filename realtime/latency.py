"""How long sound takes from our output to our input: a real loopback, measured.

Short sweeps are played and looked for in what comes in. A sweep is as long as it is loud: its
correlation is a narrow peak even far below the room's noise, on either polarity.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from v3audio.errors import DeviceError

Samples = NDArray[np.float32]

SWEEP_S = 0.05
LOW_HZ, HIGH_HZ = 300.0, 8_000.0
LEVEL_DB = -12.0
SPACING_S = 0.5  # from sweep to sweep: a longer round trip is not found
N_SWEEPS, N_WANTED = 16, 8
POLL_S = 0.1
HEARD_DB = 18.0  # how far a peak must stand above the rest of the correlation (RMS)
AGREE_S = 0.001


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A loopback, measured.

    Attributes:
        sample_rate: Hz at which the sound card ran.
        portion: the most samples that the card handed over at once.
        samples: from our output to our input, the median over the sweeps, to a fraction.
        spread_samples: from the shortest to the longest of them.
        n_heard: sweeps found, which agree within a millisecond.
        n_played: sweeps played.
        margin_db: how far the peaks stood above everything else, median.
        stated_samples: what the sound card's driver says it takes, in and out.
    """

    sample_rate: int
    portion: int
    samples: float
    spread_samples: float
    n_heard: int
    n_played: int
    margin_db: float
    stated_samples: int

    @property
    def ms(self) -> float:
        """The round trip in milliseconds."""
        return 1000.0 * self.samples / self.sample_rate

    @property
    def quality(self) -> str:
        """In a word: ``good``, ``fair`` or ``poor``."""
        if self.n_heard < self.n_played / 2:
            return "poor"
        steady = self.spread_samples <= max(1.0, 0.0001 * self.sample_rate)
        return "good" if steady and self.margin_db > HEARD_DB + 6 else "fair"


class OpenStream(Protocol):
    """What is asked of `realtime.audio_io.Stream`."""

    sample_rate: int
    latency_samples: int

    def is_alive(self) -> bool:
        """Whether the sound card still calls."""


Callback = Callable[[Any, Any, bool], None]  # input (n, channels), output to fill, lost some


def measure_round_trip(
    open_stream: Callable[[Callback], AbstractContextManager[OpenStream]],
    *,
    told: Callable[[int, int], None] = lambda done, total: None,
    wait: Callable[[float], None] = time.sleep,
) -> RoundTrip:
    """Play sweeps until enough of them have come back.

    Args:
        open_stream: opens input and output around a callback.
        told: sweeps done, sweeps in all.
        wait: lets so many seconds pass.

    Raises:
        DeviceError: no loopback is heard, or the sound card stops.
    """
    loop: _Loop | None = None

    def callback(heard: Samples, out: Samples, _lost_some: bool) -> None:
        if loop is None:  # the rate is not known yet
            out[:] = 0
        else:
            loop(heard, out)

    found: list[tuple[float, float]] = []
    with open_stream(callback) as stream:
        sample_rate = stream.sample_rate
        burst, spacing = sweep(sample_rate), round(SPACING_S * sample_rate)
        loop = _Loop(burst, spacing)
        while loop.n_done < N_SWEEPS:
            wait(POLL_S)
            if not stream.is_alive():
                raise DeviceError("the sound card has gone silent; is it there? (v3audio devices)")
            for k in range(len(found), loop.n_done):
                found.append(find(burst, loop.heard[k * spacing : (k + 1) * spacing]))
                told(k + 1, N_SWEEPS)
            if len(_agreeing(found, sample_rate)) >= N_WANTED:
                break
    agreeing = _agreeing(found, sample_rate)
    if len(agreeing) < N_WANTED / 2:
        peak_db = 20 * np.log10(max(float(np.abs(loop.heard[: loop.at]).max(initial=0)), 1e-6))
        raise DeviceError(
            f"no loopback is heard: {len(found)} sweeps went out, {len(agreeing)} came back (the "
            f"loudest sound at the input was {peak_db:.0f} dBFS); connect an output to an input "
            "with a cable, or hold the microphone to the loudspeaker, or, under JACK and PipeWire, "
            "route this program's output to its input while it runs"
        )
    delays, margins = np.array(agreeing).T
    return RoundTrip(
        sample_rate, loop.portion, float(np.median(delays)), float(np.ptp(delays)),
        len(agreeing), len(found), float(np.median(margins)), stream.latency_samples,
    )  # fmt: skip


def sweep(sample_rate: int) -> Samples:
    """A soft exponential sweep over what small loudspeakers play, faded at both ends: (n,)."""
    n = round(SWEEP_S * sample_rate)
    t = np.arange(n) / n
    low_hz, high_hz = LOW_HZ, min(HIGH_HZ, 0.35 * sample_rate)
    octaves = np.log(high_hz / low_hz)
    cycles = low_hz * SWEEP_S * np.expm1(t * octaves) / octaves
    tapered = np.sin(2 * np.pi * cycles) * np.sin(np.pi * t) ** 0.5
    return np.asarray(10 ** (LEVEL_DB / 20) * tapered, np.float32)


def find(burst: Samples, heard: Samples) -> tuple[float, float]:
    """Where a sweep begins in what was heard, in samples, and how clearly, in dB.

    Clearly means: its peak above the rest of the correlation (RMS).
    """
    n_fft = 2 ** ceil(np.log2(len(heard) + len(burst)))
    product = np.fft.rfft(heard, n_fft) * np.fft.rfft(burst, n_fft).conj()
    strength = np.abs(np.fft.irfft(product, n_fft)[: len(heard)])
    peak = int(strength.argmax())
    rest = np.concatenate((strength[: max(0, peak - 40)], strength[peak + 40 :]))
    margin_db = 20 * np.log10((strength[peak] + 1e-12) / (np.sqrt(np.mean(rest**2)) + 1e-12))
    delay = float(peak)
    if 0 < peak < len(strength) - 1:  # between the samples: a parabola through the top
        before, top, after = strength[peak - 1 : peak + 2]
        delay += 0.5 * (before - after) / min(before - 2 * top + after, -1e-30)
    return float(delay), float(margin_db)


def _agreeing(found: list[tuple[float, float]], sample_rate: int) -> list[tuple[float, float]]:
    """The clear ones, without those that lie elsewhere than most of them."""
    clear = [f for f in found if f[1] >= HEARD_DB]
    middle = np.median([delay for delay, _ in clear]) if clear else 0.0
    return [f for f in clear if abs(f[0] - middle) <= AGREE_S * sample_rate]


class _Loop:
    """The callback: plays a sweep every `spacing` samples and keeps what comes in."""

    def __init__(self, burst: Samples, spacing: int) -> None:
        self._out = np.tile(np.pad(burst, (0, spacing - len(burst))), N_SWEEPS)
        self.heard = np.zeros(len(self._out), np.float32)
        self._spacing = spacing
        self.at = self.portion = 0

    @property
    def n_done(self) -> int:
        """Sweeps whose time is over."""
        return self.at // self._spacing

    def __call__(self, heard: Samples, out: Samples) -> None:
        n = min(len(out), len(self._out) - self.at)
        out[:n] = self._out[self.at : self.at + n, None]
        out[n:] = 0
        self.heard[self.at : self.at + n] = heard[:n].mean(1)
        self.portion = max(self.portion, len(out))
        self.at += n
