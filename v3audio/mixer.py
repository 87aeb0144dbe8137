"""Sample by sample around the model: what is heard, the dry part and the new timbre, the limiter.

Sound comes and goes in parts of any size; whole segments, from one frame to the next, lie here.
"""

from __future__ import annotations

from ctypes import c_double, c_int, c_void_p

import numpy as np
from numpy.typing import NDArray

from v3audio import compiled
from v3audio.glides import Fader
from v3audio.settings import Settings
from v3audio.units import db_to_gain

Samples = NDArray[np.float32]

RAMP_S, SWITCH_S = 0.02, 0.002
"""A changed gain or mix arrives after the first, in a straight line, a bypass or switch after the
second. Lines longer than a fader's steps join up: at 2 ms, a hundred steps a second were heard.
"""
_KNEE = 0.891  # -1 dBFS: below it the limiter does nothing
_LOUDEST = 100.0  # +40 dBFS: what is louder is clipped before it is heard, lest its square overflow


class Mixer:
    """Takes the input in and gives the output back.

    Args:
        settings: that hold from the start.
        sample_rate: Hz.

    Attributes:
        n_non_finite: input samples so far that were NaN or infinite and were taken as silence.
    """

    def __init__(self, settings: Settings, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._gains = compiled.Lent()
        self._make_room(sample_rate // 100)
        self.reset(settings)

    def reset(self, settings: Settings) -> None:
        """Back to the start, with these settings."""
        self._settings = settings
        self._fader = Fader(_gains(settings))
        self._knee = _knee(settings)
        self._n = self._at = 0  # samples of the segment, and of it that have passed
        self._square = 0.0
        self.n_non_finite = 0

    def follow(self, settings: Settings) -> None:
        """From here on towards the gains of other settings."""
        before, self._settings = self._settings, settings
        switched = (before.enabled, before.bypass) != (settings.enabled, settings.bypass)
        ramp_s = SWITCH_S if switched else RAMP_S
        self._fader.go(_gains(settings), round(ramp_s * self._sample_rate))
        self._knee = _knee(settings)

    @property
    def heard(self) -> Samples:
        """What has come in since the segment began, until the next one begins."""
        return self._heard[: self._at]

    @property
    def power(self) -> float:
        """Mean square of the segment's output so far."""
        return self._square / max(self._at, 1)

    def begin(self, wet: Samples) -> None:
        """The next segment is due, of which `wet` (n,) is what the timbre plays."""
        self._n, self._at, self._square = len(wet), 0, 0.0
        if self._n > len(self._wet):
            self._make_room(self._n)
        self._wet[: self._n] = wet
        if self._limit:
            self._limit(self._n, _KNEE)
        else:
            _limit(self._wet[: self._n], _KNEE)

    def mix(self, part: Samples, out: Samples) -> None:
        """Take in (n,) samples and give as many back, into `out`, within the segment."""
        at, n = self._at, len(part)
        gains = self._fader.take(n)
        self._at += n
        if self._mix:
            self._part[:n] = part
            moves, lent = int(gains.shape[1] > 1), self._gains(gains)
            self.n_non_finite += self._mix(at, n, lent, self._gains.apart, moves, self._knee)
            out[:] = self._out[:n]
            self._square += self._squares.item(0)
            return
        heard, wet = self._heard[at : at + n], self._wet[at : at + n]
        if not np.abs(part).max(initial=0.0) <= _LOUDEST:  # NaN neither
            finite = np.isfinite(part)
            self.n_non_finite += n - int(np.count_nonzero(finite))
            part = np.where(finite, part, np.float32(0.0))
        gain_in, dry, new = gains
        _clip(part, _LOUDEST, heard)
        heard *= gain_in
        _clip(part, 1.0, out)
        out *= dry
        out += wet * new
        _limit(out, self._knee)
        self._square += float(out.dot(out))

    def _make_room(self, n: int) -> None:
        self._heard, self._wet, self._part, self._out = np.zeros((4, n), np.float32)
        self._squares = np.zeros(1)
        self._limit = compiled.bind("limit", self._wet, free=(c_int, c_double))
        self._mix = compiled.bind(
            "mix", compiled.record(
                _LOUDEST, self._part, self._heard, self._wet, self._out, self._squares
            ), free=(c_int, c_int, c_void_p, c_int, c_int, c_double), result=c_int,
        )  # fmt: skip


def _gains(s: Settings) -> tuple[float, float, float]:
    """Gain of what is heard, of the input in the output, of the new timbre in the output."""
    gain_in = db_to_gain(s.gain_in_db)
    if not s.enabled:
        return gain_in, 0.0, 0.0
    if s.bypass:
        return gain_in, 1.0, 0.0
    gain_out = db_to_gain(s.gain_out_db)
    return gain_in, (1.0 - s.mix) * gain_in * gain_out, s.mix * gain_out


def _knee(s: Settings) -> float:
    """Where the limiter begins; 1 where nothing can pass full scale.

    What the gains may lift beyond it is bent below it, more softly the more they lift.
    """
    lift = db_to_gain(max(s.gain_out_db + max(s.gain_in_db, 0.0), 0.0)) if not s.bypass else 1.0
    return 1.0 - (1.0 - _KNEE) * min((lift - 1.0) / (1.0 - _KNEE), 1.0)


def _clip(x: Samples, size: float, out: Samples) -> None:
    """`np.clip`, which takes four times as long for so few samples."""
    np.minimum(x, size, out=out)
    np.maximum(out, -size, out=out)


def _limit(x: Samples, knee: float) -> None:
    """Bend what passes the knee towards, never beyond, full scale; memoryless, so no latency."""
    if knee >= 1.0:
        _clip(x, 1.0, x)
        return
    size = np.abs(x)
    if size.max(initial=0.0) > knee:
        over = size > knee
        bent = knee + (1.0 - knee) * np.tanh((size[over] - knee) / (1.0 - knee))
        x[over] = np.copysign(bent, x[over])
