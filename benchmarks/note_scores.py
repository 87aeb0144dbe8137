"""How right are notes? Scores by mir_eval, and what each wrong note mistook.

A note is (onset_s, offset_s, MIDI with its fraction). Scores are mir_eval's: onset within 50 ms and
pitch within 50 cents, and for "+offset" the end within 50 ms or 20 % of the note.

Every wanted note has one outcome, the first of these that fits:

- right: a note found with its onset and pitch; `offset` if its end is wrong;
- early, late: a note of its pitch was found, but begins 50 to 250 ms too soon or too late;
- octave, semitone, pitch: a note begins with it (within 100 ms) but lies whole octaves, or up to
  1.5 semitones, or something else, away;
- merged: a note found before it sounds on through most of it, at its pitch (a repeat unheard) or
  within 1.5 semitones of it (a step unheard);
- missed: nothing of the kind.

Every found note that is no outcome's is `split` if it begins inside a wanted note at its pitch (one
held note, chopped), else `stray`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import mir_eval
import numpy as np
from numpy.typing import NDArray

Row = tuple[float, float, float]
Rows = list[Row]
Floats = NDArray[np.float64]

ONSET_S, MOVED_S, WITH_S = 0.05, 0.25, 0.1
CENTS = 50.0
ERRORS = (
    "offset", "early", "late", "octave", "semitone", "pitch", "merged", "missed", "split", "stray",
)  # fmt: skip
STEP_S = 0.01  # between the moments at which pitch is compared


@dataclass(frozen=True)
class Score:
    """One clip: shares of 0..1 (NaN where the clip cannot say) and counts.

    Attributes:
        onset: F1 of onset and pitch.
        offset: F1 of onset, pitch and offset.
        octave: how much `onset` rises if octaves are forgiven: what octave errors cost.
        notes_pitch: share of the moments with a true pitch at which the note found is within 50
            cents of it.
        track_pitch: the same of the program's own pitch track, if it has one.
        false_voicing: share of the moments without pitch at which a note was found.
        errors: how often each of `ERRORS` occurs.
        n_wanted: notes in the reference.
        n_found: notes found.
    """

    onset: float
    offset: float
    octave: float
    notes_pitch: float
    track_pitch: float
    false_voicing: float
    errors: Counter[str]
    n_wanted: int
    n_found: int


def score(
    wanted: Rows, found: Rows, duration_s: float, truth: Floats | None = None,
    track: Floats | None = None,
) -> Score:  # fmt: skip
    """Compare one clip's notes with its reference.

    Args:
        wanted: the reference.
        found: what a program found.
        duration_s: of the clip.
        truth: (T, 2) time in s and Hz (0: no pitch) of the reference's own pitch track; the notes'
            pitch if None.
        track: (T, 2) the program's.
    """
    if not wanted:
        nan = float("nan")
        found_errors = Counter({"stray": len(found)})
        return Score(nan, nan, nan, nan, nan, nan, found_errors, 0, len(found))
    time_s = np.arange(0.0, duration_s, STEP_S)
    pitch = pitch_of(wanted, time_s) if truth is None else track_at(truth, time_s)
    voiced = np.isfinite(pitch)
    heard = pitch_of(found, time_s)
    onset = f1(wanted, found, None)
    return Score(
        onset,
        f1(wanted, found, 0.2),
        _f1_of(len(_match(wanted, found, _chroma)), wanted, found) - onset,
        _within(heard, pitch),
        float("nan") if track is None else _within(track_at(track, time_s), pitch),
        float(np.isfinite(heard[~voiced]).mean()) if (~voiced).any() else float("nan"),
        Counter(kind for kind, *_ in errors(wanted, found)),
        len(wanted),
        len(found),
    )


def f1(wanted: Rows, found: Rows, offset_ratio: float | None) -> float:
    """mir_eval's F1 of notes; offsets count unless `offset_ratio` is None."""
    if not wanted or not found:
        return 0.0
    (a, a_hz), (b, b_hz) = _intervals(wanted), _intervals(found)
    return float(
        mir_eval.transcription.precision_recall_f1_overlap(
            a, a_hz, b, b_hz, offset_ratio=offset_ratio
        )[2]
    )


def errors(wanted: Rows, found: Rows) -> list[tuple[str, float, float, float]]:
    """Each error: its name, and onset, offset and MIDI of the note that it befell.

    That is the wanted note, or the found one for `split` and `stray`.
    """
    told: list[tuple[str, Row]] = []
    left, free = dict(enumerate(wanted)), dict(enumerate(found))

    def pair(fits: Callable[[Row, Row], bool], name: Callable[[Row, Row], str]) -> None:
        ours, theirs = list(left), list(free)
        rows = [left[i] for i in ours], [free[j] for j in theirs]
        for a, b in _match(*rows, fits):
            w, f = left.pop(ours[a]), free.pop(theirs[b])
            if kind := name(w, f):
                told.append((kind, w))

    def apart(w: Row, f: Row) -> float:
        return f[2] - w[2]

    pair(_same, lambda w, f: "" if _ends_with(w, f) else "offset")
    pair(
        lambda w, f: _near(f[0] - w[0], MOVED_S) and _near(100 * apart(w, f), CENTS),
        lambda w, f: "late" if f[0] > w[0] else "early",
    )
    begins_with = [
        ("octave", lambda m: abs(m) > 6 and abs((m + 6) % 12 - 6) <= 0.5),
        ("semitone", lambda m: abs(m) <= 1.5),
        ("pitch", lambda m: True),
    ]
    for kind, is_it in begins_with:
        pair(
            lambda w, f, is_it=is_it: _near(f[0] - w[0], WITH_S) and is_it(apart(w, f)),
            lambda w, f, kind=kind: kind,
        )
    for w in left.values():
        half = min(w[0] + 0.5 * (w[1] - w[0]), w[1])
        sounds_on = any(f[0] < w[0] and f[1] >= half and abs(apart(w, f)) <= 1.5 for f in found)
        told.append(("merged" if sounds_on else "missed", w))
    for f in free.values():
        inside = any(
            w[0] < f[0] < w[1] and _near(100 * apart(w, f), CENTS) for w in wanted
        )
        told.append(("split" if inside else "stray", f))
    return [(kind, *row) for kind, row in sorted(told, key=lambda t: t[1])]


def pitch_of(rows: Rows, time_s: Floats) -> Floats:
    """MIDI of the note at each moment, NaN where there is none."""
    pitch = np.full(len(time_s), np.nan)
    for onset_s, offset_s, midi in rows:
        pitch[(time_s >= onset_s) & (time_s < offset_s)] = midi
    return pitch


def track_at(track: Floats, time_s: Floats) -> Floats:
    """MIDI of the nearest row of a track (time_s, Hz) within 30 ms, NaN where there is none."""
    if not len(track):
        return np.full(len(time_s), np.nan)
    after = np.clip(np.searchsorted(track[:, 0], time_s), 1, max(len(track) - 1, 1))
    after = np.minimum(after, len(track) - 1)
    before = np.maximum(after - 1, 0)
    is_before = np.abs(track[before, 0] - time_s) <= np.abs(track[after, 0] - time_s)
    nearest = np.where(is_before, before, after)
    near = np.abs(track[nearest, 0] - time_s) <= 0.03
    hz = np.where(near, track[nearest, 1], 0.0)
    return np.where(hz > 0, 69 + 12 * np.log2(np.maximum(hz, 1.0) / 440), np.nan)


def mean(scores: Iterable[Score], field: str) -> float:
    """Mean of one figure over the clips that have it."""
    values = np.array([getattr(s, field) for s in scores], np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def _near(a: float, reach: float) -> bool:
    return abs(round(a, 4)) <= reach  # mir_eval rounds to four places too


def _same(w: Row, f: Row) -> bool:
    return _near(f[0] - w[0], ONSET_S) and _near(100 * (f[2] - w[2]), CENTS)


def _chroma(w: Row, f: Row) -> bool:
    return _same(w, (f[0], f[1], w[2] + (f[2] - w[2] + 6) % 12 - 6))


def _ends_with(w: Row, f: Row) -> bool:
    return _near(f[1] - w[1], max(ONSET_S, 0.2 * (w[1] - w[0])))


def _match(
    wanted: Rows, found: Rows, fits: Callable[[Row, Row], bool]
) -> list[tuple[int, int]]:
    """As many pairs (index wanted, index found) that fit as there can be."""
    graph = {
        j: may for j, f in enumerate(found) if (may := [i for i, w in enumerate(wanted)
                                                        if fits(w, f)])
    }  # fmt: skip
    return [(i, j) for i, j in mir_eval.util._bipartite_match(graph).items()] if graph else []


def _f1_of(n_right: int, wanted: Rows, found: Rows) -> float:
    return 2 * n_right / (len(wanted) + len(found)) if wanted or found else 0.0


def _within(heard: Floats, true: Floats) -> float:
    voiced = np.isfinite(true)
    return float((np.abs(heard[voiced] - true[voiced]) <= CENTS / 100).mean())


def _intervals(rows: Rows) -> tuple[Floats, Floats]:
    table = np.array(rows)
    return table[:, :2], 440.0 * 2.0 ** ((table[:, 2] - 69.0) / 12.0)
