"""Scores and error classes on notes made by hand: each mistake is called by its name."""

import math

import numpy as np
import pytest

from benchmarks import note_scores as scores
from benchmarks import peers

WANTED = [(0.0, 0.5, 60.0), (0.5, 1.0, 62.0), (1.2, 2.0, 64.0), (2.0, 2.5, 64.0)]


def kinds(found, wanted=WANTED):
    return [e[0] for e in scores.errors(wanted, found)]


def changed(index, row):
    return [row if i == index else n for i, n in enumerate(WANTED)]


def test_right_notes_are_no_errors_and_score_full():
    moved = [(on + 0.04, off - 0.03, midi + 0.4) for on, off, midi in WANTED]
    assert kinds(moved) == []
    s = scores.score(WANTED, moved, 2.6)
    assert (s.onset, s.offset, s.octave) == (1.0, 1.0, 0.0)
    assert s.notes_pitch == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (changed(2, (1.2, 1.5, 64.0)), "offset"),
        (changed(2, (1.1, 2.0, 64.0)), "early"),
        (changed(2, (1.3, 2.0, 64.0)), "late"),
        (changed(2, (1.2, 2.0, 76.2)), "octave"),
        (changed(2, (1.2, 2.0, 40.0)), "octave"),
        (changed(2, (1.2, 2.0, 65.0)), "semitone"),
        (changed(2, (1.2, 2.0, 71.0)), "pitch"),
        (WANTED[:2] + WANTED[3:], "missed"),
        ([*WANTED[:2], (1.2, 2.5, 64.0)], "merged"),  # a repeat unheard; its offset is told too
        ([*WANTED, (1.6, 2.0, 64.0)], "split"),
        ([*WANTED, (1.6, 1.9, 70.0)], "stray"),
        ([*WANTED, (2.6, 2.9, 64.0)], "stray"),
    ],
)
def test_each_mistake_has_its_name(found, name):
    assert [k for k in kinds(sorted(found)) if k != "offset" or name == "offset"] == [name]


def test_a_step_of_a_semitone_unheard_is_merged():
    assert kinds([(0.0, 1.0, 60.0)], [(0.0, 0.5, 60.0), (0.5, 1.0, 61.0)]) == ["offset", "merged"]


def test_every_wanted_note_has_one_outcome_and_every_found_one_is_used_once():
    rng = np.random.default_rng(0)

    def some(n):
        on = np.sort(rng.uniform(0, 10, n))
        return [(a, a + rng.uniform(0.05, 1), float(rng.integers(55, 70))) for a in on]

    for _ in range(20):
        wanted, found = some(15), some(18)
        told = kinds(found, wanted)
        extra = sum(k in ("split", "stray") for k in told)
        lost = sum(k in ("merged", "missed") for k in told)
        assert len(wanted) - lost == len(found) - extra
        right = len(wanted) - sum(k not in ("split", "stray", "offset") for k in told)
        assert scores.f1(wanted, found, None) == pytest.approx(2 * right / (15 + 18))


def test_octave_errors_cost_what_chroma_forgives():
    s = scores.score(WANTED, changed(0, (0.0, 0.5, 72.0)), 2.6)
    assert s.onset == pytest.approx(0.75)
    assert s.octave == pytest.approx(0.25)
    assert s.errors == {"octave": 1}


def test_pitch_is_that_of_the_tracks_where_there_are_some():
    truth = np.array([[t, 440.0 if t < 1 else 0.0] for t in np.arange(0, 2, 0.01)])
    track = np.array([[t, 440.0 if t < 0.5 else 220.0] for t in np.arange(0, 2, 0.016)])
    s = scores.score([(0.0, 1.0, 69.0)], [(0.0, 1.5, 69.3)], 2.0, truth, track)
    assert (s.notes_pitch, s.false_voicing) == (1.0, 0.5)
    assert s.track_pitch == pytest.approx(0.5, abs=0.02)


def test_silence_counts_what_was_found_in_it_and_nothing_found_scores_nothing():
    silent = scores.score([], [(0.1, 0.2, 60.0)], 1.0)
    assert (silent.errors, silent.n_found) == ({"stray": 1}, 1)
    assert math.isnan(silent.onset)
    assert math.isnan(scores.mean([silent], "onset"))
    assert scores.score(WANTED, [], 2.6).onset == 0.0
    assert kinds([]) == ["missed"] * 4


def test_plain_notes_of_a_pitch_track():
    hz = [0.0] * 10 + [440.0] * 30 + [466.16] * 30 + [0.0] * 5 + [220.0] * 3 + [0.0] * 10
    rows = peers.plain_notes([(i * 0.01, f) for i, f in enumerate(hz)])
    assert rows == [pytest.approx((0.1, 0.4, 69.0)), pytest.approx((0.4, 0.7, 70.0), abs=1e-3)]


def test_of_notes_together_the_louder_stays():
    events = [(0.0, 1.0, 60.0, 0.9), (0.2, 0.6, 72.0, 0.4), (0.8, 1.5, 62.0, 0.5),
              (0.98, 1.6, 64.0, 0.6)]  # fmt: skip
    assert peers.one_voice(events) == [(0.0, 0.98, 60.0), (0.98, 1.6, 64.0)]
    assert peers.one_voice([]) == [] == peers.plain_notes([])
