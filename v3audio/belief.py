"""How sure is it, in this frame, that a note is due? A small learned rule for the live tracker.

`NoteTracker` must name a note from the first milliseconds of an attack, when the model's pitch may
still be an overtone, the note before, or on its way. `NoteBelief` weighs what tells these apart:
whether the last frames agree, the periods an octave away, how the level rose, how the pitch moves,
and what sounds already. It gives a probability to each thing that may be due now: one of eleven
notes near the heard pitch (itself, its neighbour semitone, the notes it may be an overtone of), a
new attack of the sounding note, or nothing.

Its few weights are a multi-layer perceptron beside this file, learned by `training.live_notes` on
rendered melodies, synthetic voices and phrases of single notes, all with known notes. This is the
one place where notes are learned from; the V3 model itself never sees any.

Letters: P positions, F bins, C candidates.
"""

from __future__ import annotations

import math
from ctypes import c_double, c_int, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from v3audio import compiled
from v3audio.geometry import Geometry

FloatArray = NDArray[np.float32]
Layers = tuple[tuple[FloatArray, FloatArray], ...]

HOP_S = 0.005
"""Seconds between frames that the weights were learned for."""
OFFSETS = (-36, -31, -28, -24, -19, -12, 0, 12, 19, 24)
"""Semitones from the heard pitch to the candidates: it may be the 8th .. 2nd overtone, or below."""
NEIGHBOUR, REPEAT, NOTHING = len(OFFSETS), len(OFFSETS) + 1, len(OFFSETS) + 2
"""Further classes: the second nearest semitone, the sounding note again, nothing due."""

WEIGHTS = Path(__file__).with_name("belief.npz")
_SPECTRUM_AT = (-24, -19, -12, 0, 12, 19, 24, 28, 31)  # semitones where the short view is read
_BRIEF_BACK = (0, 1, 2, 3, 4, 6, 8, 10, 12, 14)  # frames back
_LEVEL_BACK = (4, 8, 14, 24)
_ONSET_BACK = (0, 1, 2, 3, 4, 6, 8)
_PITCH_BACK = (1, 2, 3, 5, 8, 12, 18)
_N_BACK = 4  # frames whose positions are kept
_N_PAST = 100  # frames whose numbers are kept
_FLOOR_DB = -90.0


class Sounding(NamedTuple):
    """What the tracker knows of itself.

    note: what sounds, -1 if nothing. last: what sounded before. frames: since that note began, or
    since the last one ended. peak_db, trough_db: highest level of the note, lowest since its end.
    """

    note: int
    last: int
    frames: int
    peak_db: float
    trough_db: float


class NoteBelief:
    """Call `hear` with each frame, in order, then `probabilities`.

    Args:
        weights: file of the weights; the shipped one by default.
    """

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self._layers = load_layers(weights)
        self._tables = t = _tables()
        g = Geometry()
        self._mass = np.empty((_N_BACK, g.n_positions + 1), np.float32)  # cumulated, newest first
        self._apart = np.empty((3, g.n_bins), np.float32)  # 1 - periodicity
        # level, level of 5 ms, onset, pitch, attack score; newest first
        self._past = np.empty((5, _N_PAST), np.float32)
        self._x = np.zeros(_N_HEARD + _N_SOUNDING, np.float32)
        self._short = np.empty(g.n_bins, np.float32)
        sizes = [len(self._x), *(len(bias) for _, bias in self._layers)]
        self._scores = np.empty(sizes[-1], np.float32)
        self._lent = compiled.Lent(), compiled.Lent()
        self._remember = compiled.bind(
            "remember", _N_BACK, g.n_positions, self._mass, g.n_bins, self._apart, self._short,
            *self._past.shape, self._past,
            free=(c_void_p, c_void_p, c_int, c_double * len(self._past)),
        )  # fmt: skip
        self._believe = None
        if max(sizes) <= compiled.MOST:
            flat = np.concatenate([array.T.ravel() for layer in self._layers for array in layer])
            self._believe = compiled.bind("believe", compiled.record(
                len(OFFSETS), _N_BACK, g.n_positions, self._mass, t.mass_edges,
                g.n_bins, self._apart, t.period_bins, t.seen_scale, _SEEN_FLOOR, _SEEN_OFFSET,
                len(_SPECTRUM_AT), self._short, t.spectrum_bins, t.spectrum_inside,
                t.spectrum_outside, len(_PAST_AT), _N_PAST, self._past, _PAST_AT, _PAST_LESS,
                _PAST_SCALE, _PAST_LOW, _PAST_HIGH,
                len(self._layers), np.array(sizes, np.int32), flat, self._x, self._scores,
            ), free=(c_int, *(c_double,) * 5))  # fmt: skip
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._mass[:] = 0.0
        self._apart[:] = 1.0
        self._past[:] = [[_FLOOR_DB], [_FLOOR_DB], [0.0], [0.0], [0.0]]
        self._heard = (0.0,) * 6
        self._short[:] = 0.0

    def hear(
        self,
        position: NDArray[np.floating],
        views: NDArray[np.floating],
        pitch: float,
        tuning: float,
        numbers: tuple[float, float, float, float, float],
        attack_db: float,
    ) -> None:
        """Take one frame.

        Args:
            position: (P,) content distribution.
            views: (3, F) as `features.Views`.
            pitch: heard, MIDI.
            tuning: semitones by which `pitch` lies below the arrays.
            numbers: level_db, brief_db, onset, periodicity and confidence of `notes.FrameNotes`.
            attack_db: the tracker's attack score.
        """
        level, brief, onset, periodicity, confidence = numbers
        level, brief = max(level, _FLOOR_DB), max(brief, _FLOOR_DB)
        self._heard = pitch, level, tuning, periodicity, confidence, attack_db
        new = level, brief, onset, pitch, attack_db
        if self._remember:
            at, seen = self._lent
            self._remember(at(position), seen(views), seen.apart, (c_double * len(new))(*new))
            return
        mass, apart, past = self._mass, self._apart, self._past
        mass[1:] = mass[:-1]
        np.add.accumulate(position, out=mass[0, 1:])
        apart[1:] = apart[:-1]
        np.subtract(1.0, views[2], out=apart[0])
        past[:, 1:] = past[:, :-1]
        past[:, 0] = new
        self._short[:] = views[1]

    def probabilities(self, now: Sounding) -> list[float]:
        """Probability of each class: one per offset, `NEIGHBOUR`, `REPEAT`, `NOTHING`.

        To be called before the next frame is heard: what was heard last is still read here.
        """
        self._x[_N_HEARD:] = self._describe_tracker(now)
        scores: list[float] = self._weigh().tolist()
        top = max(scores)
        odds = [math.exp(score - top) for score in scores]
        total = sum(odds)
        return [odd / total for odd in odds]

    def _weigh(self) -> FloatArray:
        """The perceptron's scores of the newest frame."""
        pitch, level, tuning, periodicity, confidence, attack_db = self._heard
        t = self._tables
        at = min(max(round((pitch + tuning - t.low) * t.per_semitone), 0), t.last)
        if self._believe:
            self._believe(at, pitch, level, periodicity, confidence, attack_db)
            return self._scores
        self._describe_frame(self._x, at)
        return perceive(self._x, self._layers)

    def _describe_frame(self, x: FloatArray, at: int) -> None:
        """The features that do not depend on what sounds, into the first of `x`."""
        pitch, level, _, periodicity, confidence, attack_db = self._heard
        self._look_up(x, at, level, pitch)
        past, end = self._past, _N_VIEWED + len(_PAST_AT)
        off, recent = pitch - round(pitch), past[3, :8].tolist()
        attacks = past[4, :12].tolist()
        steepest = max(attacks)
        height = (pitch - 60.0) / 20.0
        x[end:_N_HEARD] = (
            height,
            height * height,
            confidence,
            periodicity,
            2.0 * off,
            2.0 * abs(off),
            min(max(float(np.maximum.reduce(past[0])) - level, 0.0) / 15.0, 3.0),
            min(max(recent) - min(recent), 3.0),
            attack_db / 15.0,
            steepest / 15.0,
            attacks.index(steepest) / 12.0,
        )

    def _look_up(self, x: FloatArray, at: int, level: float, pitch: float) -> None:
        """What is read by the bin of the pitch, and from the frames before."""
        tables = self._tables
        # Agreement: the content near each candidate, now and in the frames before; periodicity at
        # each: an octave below a true pitch repeats no better than it.
        edges = self._mass.take(tables.mass_edges[at], 1)  # (frames, 2 * C)
        near = edges[:, len(OFFSETS) :]
        near -= edges[:, : len(OFFSETS)]
        seen = x[:_N_SEEN]
        n = near.size
        seen[:n] = near.ravel()
        apart = self._apart[::2].take(tables.period_bins[at], 1)
        np.minimum.reduce(apart, 2, out=seen[n:].reshape(apart.shape[:2]))
        seen += _SEEN_FLOOR
        np.log(seen, out=seen)
        seen *= tables.seen_scale[at]
        seen += _SEEN_OFFSET
        spectrum = x[_N_SEEN:_N_VIEWED]
        np.maximum.reduce(self._short.take(tables.spectrum_bins[at]), 1, out=spectrum)
        spectrum *= tables.spectrum_inside[at]
        spectrum += tables.spectrum_outside[at]

        read = self._past.take(_PAST_AT)
        read -= np.array((level, pitch, 0.0), np.float32).take(_PAST_LESS)
        read *= _PAST_SCALE
        np.maximum(read, _PAST_LOW, out=read)
        np.minimum(read, _PAST_HIGH, out=x[_N_VIEWED : _N_VIEWED + len(read)])

    def _describe_tracker(self, now: Sounding) -> list[float]:
        """The features that tell how the frame stands to what sounds, or sounded last."""
        pitch, level, tuning = self._heard[:3]
        sounds = now.note >= 0
        known = now.note if sounds else now.last
        age = math.log1p(min(now.frames, 400)) / 3.0
        values = [0.0] * _N_SOUNDING
        if sounds:
            values[:3] = 1.0, age, min((now.peak_db - level) / 15.0, 3.0)
        else:
            values[3:5] = age, min((level - now.trough_db) / 15.0, 3.0)
        if known >= 0:
            tables = self._tables
            apart = pitch - known
            close = min(max(apart, -1.5), 1.5)
            values[5:8] = min(max(apart, -24.0), 24.0) / 12.0, close, abs(close)
            at = round((known + tuning - tables.low) * tables.per_semitone)
            first, end = (min(max(at + k, 0), tables.n_positions) for k in (-3, 4))
            cumulated = self._mass
            for k in range(_N_BACK):
                mass = cumulated.item(k, end) - cumulated.item(k, first)
                values[8 + k] = math.log(max(mass, 0.0) + _MASS_FLOOR) / 3.0 + 1.0
            if 1 <= at < tables.last:
                apart_now = min(self._apart[0, at - 1 : at + 2].tolist())
                values[12] = math.log(apart_now + _APART_FLOOR) / -3.0
            values[13] = 1.0
            for k, offset in enumerate(OFFSETS):
                if round(pitch + offset) == known:
                    values[14 + k] = 1.0
        return values


def note_named(kind: int, pitch: float) -> int:
    """The note that a class other than `REPEAT` and `NOTHING` names."""
    if kind == NEIGHBOUR:
        nearest = round(pitch)
        return nearest + 1 if pitch > nearest else nearest - 1
    return round(pitch + OFFSETS[kind])


_MASS_FLOOR, _APART_FLOOR = 1e-2, 5e-4
_N_SEEN = (_N_BACK + 2) * len(OFFSETS)
_SEEN_FLOOR = np.repeat(
    np.array([_MASS_FLOOR, _APART_FLOOR], np.float32), [_N_BACK * len(OFFSETS), 2 * len(OFFSETS)]
)
_SEEN_OFFSET = (np.arange(_N_SEEN) < _N_BACK * len(OFFSETS)).astype(np.float32)
_N_VIEWED = _N_SEEN + len(_SPECTRUM_AT)
_N_HEARD = _N_VIEWED + len((*_BRIEF_BACK, *_LEVEL_BACK, *_ONSET_BACK, *_PITCH_BACK)) + 11
_N_SOUNDING = 14 + len(OFFSETS)


_N_EACH = [len(back) for back in (_BRIEF_BACK, _LEVEL_BACK, _ONSET_BACK, _PITCH_BACK)]
# What is read of the past, flat; what is taken off it (level, pitch or 0), its scale and limits.
_PAST_AT = np.array(
    [_N_PAST + k for k in _BRIEF_BACK]
    + [k for k in _LEVEL_BACK]
    + [2 * _N_PAST + k for k in _ONSET_BACK]
    + [3 * _N_PAST + k for k in _PITCH_BACK]
)
_PAST_LESS = np.repeat([0, 0, 2, 1], _N_EACH)
_PAST_SCALE = np.repeat(np.array([0.1, 0.1, 0.2, -1.0], np.float32), _N_EACH)
_PAST_LOW = np.repeat(np.array([-3.0, -3.0, 0.0, -2.0], np.float32), _N_EACH)
_PAST_HIGH = np.repeat(np.array([3.0, 3.0, 4.0, 2.0], np.float32), _N_EACH)


class _Tables(NamedTuple):
    """Where each feature is read, by the bin of the heard pitch."""

    low: int
    per_semitone: int
    last: int
    n_positions: int
    mass_edges: NDArray[np.int64]  # (F, 2 * C)
    period_bins: NDArray[np.int64]  # (F, C, 3)
    seen_scale: FloatArray  # (F, _N_SEEN), 0 outside the views
    spectrum_bins: NDArray[np.int64]  # (F, len(_SPECTRUM_AT), 3)
    spectrum_inside: FloatArray  # (F, len(_SPECTRUM_AT))
    spectrum_outside: FloatArray  # -0.2 there, 0 inside


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    g = Geometry()
    here = np.arange(g.n_bins)[:, None]

    def around(semitones: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        at = here + g.bins_per_semitone * np.array(semitones)
        inside = (at >= 0) & (at < g.n_bins)
        return np.clip(at, 1, g.n_bins - 2)[..., None] + np.array([-1, 0, 1]), inside

    candidates = here + g.bins_per_semitone * np.array(OFFSETS)
    edges = np.concatenate([candidates - 3, candidates + 4], 1)
    period_bins, period_inside = around(OFFSETS)
    spectrum_bins, spectrum_inside = around(_SPECTRUM_AT)
    third = np.ones((g.n_bins, _N_BACK * len(OFFSETS))) / 3.0
    return _Tables(
        g.midi_low,
        g.bins_per_semitone,
        g.n_bins - 1,
        g.n_positions,
        np.clip(edges, 0, g.n_positions),
        period_bins,
        np.concatenate([third, np.tile(period_inside, 2) / -3.0], 1).astype(np.float32),
        spectrum_bins,
        spectrum_inside.astype(np.float32),
        np.where(spectrum_inside, 0.0, -0.2).astype(np.float32),
    )


def perceive(x: FloatArray, layers: Layers) -> FloatArray:
    """What a perceptron with ReLU says of (..., n_in) features: (..., n_out)."""
    for weight, bias in layers[:-1]:
        x = x.dot(weight)
        x += bias
        np.maximum(x, 0.0, out=x)
    weight, bias = layers[-1]
    return np.asarray(x.dot(weight) + bias)


def load_layers(path: Path) -> Layers:
    """Layers (weight (n_in, n_out), bias (n_out,)) of a weights file."""
    with np.load(path) as data:
        n = len(data.files) // 2
        return tuple(
            (data[f"weight_{k}"].astype(np.float32), data[f"bias_{k}"].astype(np.float32))
            for k in range(n)
        )
