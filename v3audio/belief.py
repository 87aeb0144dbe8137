"""How sure is it, in this frame, that a note is due? A small learned rule for the live tracker.

`NoteTracker` must name a note from the first milliseconds of an attack, when the model's pitch may
still be an overtone, the note before, or on its way. `NoteBelief` weighs what tells these apart:
whether the last frames agree, with each other and with the second before, the periods and partials
an octave or a twelfth away, how the level rose, how the pitch moves. It says which note the player
means now, of eleven near the heard pitch (itself, its neighbour semitone, the notes it may be an
overtone of), and how long ago that note began. From both follows what is due in view of what the
tracker plays: one of the eleven, a new attack of the sounding note, or nothing.

Its few weights are a multi-layer perceptron beside this file, learned by `training.live_notes` on
rendered melodies, synthetic voices and phrases of single notes, all with known notes. It knows
nothing of the tracker, so it learns from what was heard alone. This is the one place where notes
are learned from; the V3 model itself never sees any.

Letters: P positions, F bins, C places around the heard pitch.
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
OTHER = NEIGHBOUR + 1
"""What the perceptron says in their place: that no note is meant, or none of these."""
AGES_S = (0.03, 0.06, 0.1, 0.16)
"""Limits between the classes of how long ago the note began; the last is older, or no note."""
N_SCORES = OTHER + 1 + len(AGES_S) + 1

WEIGHTS = Path(__file__).with_name("belief.npz")
_SEEN_AT = (*OFFSETS, -7, -5, -2, -1, 1, 2, 5, 7)  # semitones where content and period are read
# Semitones where the spectra are read: harmonics, and those of the octave and the twelfth below.
_SPECTRUM_AT = (-24, -19, -12, -7, -5, 0, 5, 7, 9, 12, 16, 19, 24, 28, 31)
_SPECTRA_BACK = (0, 3)  # frames back, of the short view; then the long one
_BRIEF_BACK = (0, 1, 2, 3, 4, 6, 8, 10, 12, 14)
_LEVEL_BACK = (4, 8, 14, 24, 40, 70)
_ONSET_BACK = (0, 1, 2, 3, 4, 6, 8)
_PITCH_BACK = (1, 2, 3, 5, 8, 12, 18, 26, 36, 50)
_LEAP_BACK = (4, 8, 16, 30, 60)
_PERIODICITY_BACK = (1, 2, 4, 7)
_CONFIDENCE_BACK = (1, 2, 4, 7)
_N_BACK = 4  # frames whose positions are kept
_SLOW = (0.12, 0.04, 0.012)  # and what they add up to, forgotten at these rates a frame
_N_PAST = 100  # frames whose numbers are kept
_FLOOR_DB = -90.0


class Sounding(NamedTuple):
    """What the tracker plays.

    note: -1 for nothing. frames: since it began. drifts: 0..1, how far its neighbour semitone is
    taken for its own drift, unless a note began since.
    """

    note: int
    frames: int
    drifts: float = 0.0


class NoteBelief:
    """Call `hear` with each frame, in order, then `probabilities`.

    Args:
        weights: file of the weights; the shipped one by default.
    """

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self._layers = load_layers(weights)
        self._tables = t = _tables()
        g = Geometry()
        # Cumulated, newest first, then the slow ones.
        self._mass = np.empty((_N_ROWS, g.n_positions + 1), np.float32)
        self._apart = np.empty((3, g.n_bins), np.float32)  # 1 - periodicity
        # level, level of 5 ms, onset, pitch, attack score, periodicity, confidence; newest first
        self._past = np.empty((7, _N_PAST), np.float32)
        self._spectra = np.empty((_N_SPECTRA, g.n_bins), np.float32)  # short, newest first; long
        self._x = np.zeros(_N_HEARD, np.float32)
        sizes = [len(self._x), *(len(bias) for _, bias in self._layers)]
        self._scores = np.empty(sizes[-1], np.float32)
        self._lent = compiled.Lent(), compiled.Lent()
        self._remember = compiled.bind(
            "remember", _N_BACK, len(_SLOW), _SLOW_RATES, g.n_positions, self._mass, g.n_bins,
            self._apart, _N_SPECTRA, self._spectra, *self._past.shape, self._past,
            free=(c_void_p, c_void_p, c_int, c_double * len(self._past)),
        )  # fmt: skip
        self._believe = None
        if max(sizes) <= compiled.MOST:
            flat = np.concatenate([array.T.ravel() for layer in self._layers for array in layer])
            self._believe = compiled.bind("believe", compiled.record(
                len(_SEEN_AT), _N_ROWS, g.n_positions, self._mass, t.mass_edges,
                g.n_bins, self._apart, t.period_bins, t.seen_scale, _SEEN_FLOOR, _SEEN_OFFSET,
                t.spectrum_inside.shape[1], self._spectra, t.spectrum_bins, t.spectrum_inside,
                t.spectrum_outside, len(_PAST_AT), _N_PAST, self._past, _PAST_AT, _PAST_LESS,
                _PAST_SCALE, _PAST_LOW, _PAST_HIGH,
                len(self._layers), np.array(sizes, np.int32), flat, self._x, self._scores,
            ), free=(c_int, *(c_double,) * 5))  # fmt: skip
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._mass[:] = 0.0
        self._apart[:] = 1.0
        self._past[:] = [[_FLOOR_DB], [_FLOOR_DB], [0.0], [0.0], [0.0], [0.0], [0.0]]
        self._heard = (0.0,) * 6
        self._spectra[:] = 0.0

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
        new = level, brief, onset, pitch, attack_db, periodicity, confidence
        if self._remember:
            at, seen = self._lent
            self._remember(at(position), seen(views), seen.apart, (c_double * len(new))(*new))
            return
        mass, apart, past, spectra = self._mass, self._apart, self._past, self._spectra
        mass[1:_N_BACK] = mass[: _N_BACK - 1]
        np.add.accumulate(position, out=mass[0, 1:])
        slow = mass[_N_BACK:]
        slow += _SLOW_RATES * (mass[0] - slow)
        apart[1:] = apart[:-1]
        np.subtract(1.0, views[2], out=apart[0])
        past[:, 1:] = past[:, :-1]
        past[:, 0] = new
        spectra[1:-1] = spectra[:-2]
        spectra[0], spectra[-1] = views[1], views[0]

    def probabilities(self, now: Sounding) -> list[float]:
        """Probability of each class: one per offset, `NEIGHBOUR`, `REPEAT`, `NOTHING`.

        The sounding note is due again if the note meant is that one, and began since.
        To be called before the next frame is heard: what was heard last is still read here.
        """
        meant, ages = self.beliefs()
        chances = [*meant[:OTHER], 0.0, meant[OTHER]]
        if now.note >= 0:
            age_s = now.frames * HOP_S
            since = sum(
                chance * min(max((age_s - low) / (high - low), 0.0), 1.0)
                for chance, low, high in zip(ages, (0.0, *AGES_S), AGES_S, strict=False)
            )
            same = 0.0
            for kind in range(OTHER):
                apart = abs(note_named(kind, self._heard[0]) - now.note)
                if apart == 0:
                    same, chances[kind] = same + meant[kind], 0.0
                elif apart == 1:
                    chances[kind] *= 1.0 - now.drifts * (1.0 - since)
                    chances[NOTHING] += meant[kind] - chances[kind]
            chances[REPEAT] = same * since
            chances[NOTHING] += same * (1.0 - since)
        return chances

    def beliefs(self) -> tuple[list[float], list[float]]:
        """Probabilities of the note that is meant, and of how long ago it began.

        Returns:
            one per offset, `NEIGHBOUR` and `OTHER`; one per class of `AGES_S`.
        """
        scores: list[float] = self._weigh().tolist()
        return _softmax(scores[: OTHER + 1]), _softmax(scores[OTHER + 1 :])

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
        """The features of the newest frame, whose pitch lies in bin `at`."""
        pitch, level, _, periodicity, confidence, attack_db = self._heard
        self._look_up(x, at, level, pitch)
        past = self._past
        off, recent = pitch - round(pitch), past[3, :8].tolist()
        attacks = past[4, :12].tolist()
        steepest = max(attacks)
        height = (pitch - 60.0) / 20.0
        x[_N_VIEWED + len(_PAST_AT) :] = (
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
        # Agreement: the content near each place, now and in the frames before; periodicity at
        # each: an octave below a true pitch repeats no better than it.
        edges = self._mass.take(tables.mass_edges[at], 1)  # (rows, 2 * C)
        near = edges[:, len(_SEEN_AT) :]
        near -= edges[:, : len(_SEEN_AT)]
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
        np.maximum.reduce(self._spectra.take(tables.spectrum_bins[at]), 1, out=spectrum)
        spectrum *= tables.spectrum_inside[at]
        spectrum += tables.spectrum_outside[at]

        read = self._past.take(_PAST_AT)
        read -= np.array((level, pitch, 0.0), np.float32).take(_PAST_LESS)
        read *= _PAST_SCALE
        np.maximum(read, _PAST_LOW, out=read)
        np.minimum(read, _PAST_HIGH, out=x[_N_VIEWED : _N_VIEWED + len(read)])


def _softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    odds = [math.exp(score - top) for score in scores]
    total = sum(odds)
    return [odd / total for odd in odds]


def note_named(kind: int, pitch: float) -> int:
    """The note that a class other than `REPEAT` and `NOTHING` names."""
    if kind == NEIGHBOUR:
        nearest = round(pitch)
        return nearest + 1 if pitch > nearest else nearest - 1
    return round(pitch + OFFSETS[kind])


_MASS_FLOOR, _APART_FLOOR = 1e-2, 5e-4
_N_ROWS = _N_BACK + len(_SLOW)
_SLOW_RATES = np.array(_SLOW, np.float32)[:, None]
_N_MASSES, _N_APART = _N_ROWS * len(_SEEN_AT), 2 * len(_SEEN_AT)
_N_SEEN = _N_MASSES + _N_APART
_SEEN_FLOOR = np.repeat(np.array([_MASS_FLOOR, _APART_FLOOR], np.float32), [_N_MASSES, _N_APART])
_SEEN_OFFSET = (np.arange(_N_SEEN) < _N_MASSES).astype(np.float32)
_N_SPECTRA = max(_SPECTRA_BACK) + 2
_SPECTRA_ROWS = (*_SPECTRA_BACK, _N_SPECTRA - 1)
_N_VIEWED = _N_SEEN + len(_SPECTRA_ROWS) * len(_SPECTRUM_AT)

# What is read of the past: row of the past, frames back; what is taken off (level, pitch or 0),
# scale and limits.
_PAST = (
    (1, _BRIEF_BACK, 0, 0.1, -3.0, 3.0),
    (0, _LEVEL_BACK, 0, 0.1, -3.0, 3.0),
    (2, _ONSET_BACK, 2, 0.2, 0.0, 4.0),
    (3, _PITCH_BACK, 1, -1.0, -2.0, 2.0),
    (3, _LEAP_BACK, 1, -0.1, -3.0, 3.0),
    (5, _PERIODICITY_BACK, 2, 1.0, 0.0, 1.0),
    (6, _CONFIDENCE_BACK, 2, 1.0, 0.0, 1.0),
)
_N_EACH = [len(back) for _, back, *_ in _PAST]
_PAST_AT = np.array([row * _N_PAST + k for row, back, *_ in _PAST for k in back])
_PAST_LESS = np.repeat([less for _, _, less, *_ in _PAST], _N_EACH)
_PAST_SCALE, _PAST_LOW, _PAST_HIGH = (
    np.repeat(np.array([entry[k] for entry in _PAST], np.float32), _N_EACH) for k in (3, 4, 5)
)
_N_HEARD = _N_VIEWED + len(_PAST_AT) + 11


class _Tables(NamedTuple):
    """Where each feature is read, by the bin of the heard pitch."""

    low: int
    per_semitone: int
    last: int
    mass_edges: NDArray[np.int64]  # (F, 2 * C)
    period_bins: NDArray[np.int64]  # (F, C, 3)
    seen_scale: FloatArray  # (F, _N_SEEN), 0 outside the views
    spectrum_bins: NDArray[np.int64]  # (F, S, 3), of all spectra one after the other
    spectrum_inside: FloatArray  # (F, S)
    spectrum_outside: FloatArray  # -0.2 there, 0 inside


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    g = Geometry()
    here = np.arange(g.n_bins)[:, None]

    def around(semitones: tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        at = here + g.bins_per_semitone * np.array(semitones)
        inside = (at >= 0) & (at < g.n_bins)
        return np.clip(at, 1, g.n_bins - 2)[..., None] + np.array([-1, 0, 1]), inside

    places = here + g.bins_per_semitone * np.array(_SEEN_AT)
    edges = np.concatenate([places - 3, places + 4], 1)
    period_bins, period_inside = around(_SEEN_AT)
    bins, inside = around(_SPECTRUM_AT)
    inside = np.tile(inside, len(_SPECTRA_ROWS))
    third = np.ones((g.n_bins, _N_MASSES)) / 3.0
    return _Tables(
        g.midi_low,
        g.bins_per_semitone,
        g.n_bins - 1,
        np.clip(edges, 0, g.n_positions),
        period_bins,
        np.concatenate([third, np.tile(period_inside, 2) / -3.0], 1).astype(np.float32),
        np.concatenate([bins + row * g.n_bins for row in _SPECTRA_ROWS], 1),
        inside.astype(np.float32),
        np.where(inside, 0.0, -0.2).astype(np.float32),
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
