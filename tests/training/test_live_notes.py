"""Learning the live belief: which note is meant, and a lesson from a sung phrase."""

import sys
from itertools import chain, pairwise

import numpy as np
import pytest

from training import live_notes
from training.live_notes import due_classes
from training.phrases import TICKS_PER_S, TrueNote, compose
from training.voices import waver
from v3audio import belief
from v3audio.belief import AGES_S, NEIGHBOUR, NOTHING, OFFSETS, OTHER, NoteBelief
from v3audio.bundle import load_bundle
from v3audio.errors import ConfigError

HERE = OFFSETS.index(0)


def due(note_midi, pitch):
    note = None if note_midi is None else TrueNote(0.0, 1.0, note_midi)
    return set(np.flatnonzero(due_classes(note, 0.0, pitch)[: OTHER + 1]))


def test_which_notes_may_be_meant():
    assert due(None, 60.0) == {OTHER}
    assert due(60, 60.1) == {HERE}
    assert due(61, 60.3) == {NEIGHBOUR}
    assert due(57, 69.0) == {OFFSETS.index(-12)}
    assert due(60.5, 60.4) == {HERE, NEIGHBOUR}  # between two notes both are right
    assert due(60, 65.0) == {OTHER}  # not heard: better wait


@pytest.mark.parametrize(
    ("age_s", "kind"), [(0.0, 0), (AGES_S[0], 1), (0.09, 2), (5.0, len(AGES_S))]
)
def test_how_long_ago_it_began(age_s, kind):
    ages = due_classes(TrueNote(0.0, 9.0, 60.0), age_s, 60.0)[OTHER + 1 :]
    assert list(np.flatnonzero(ages)) == [kind]


@pytest.fixture(scope="module")
def lesson():
    (sound, notes), *_ = live_notes.voices(1, seed=3)
    notes = [n for n in notes if n.onset_s < 3.0]
    hearing = load_bundle(None).load_live_hearing()
    sound = sound[: 3 * live_notes.SAMPLE_RATE]
    return live_notes.lesson(hearing, sound, notes, np.random.default_rng(0))


def test_a_lesson_tells_what_is_due_in_each_frame(lesson):
    n = len(lesson.rows)
    assert 100 < n == len(lesson.due) == len(lesson.worth) < 600
    assert np.isfinite(lesson.rows).all()
    notes, ages = lesson.due[:, : OTHER + 1], lesson.due[:, OTHER + 1 :]
    assert notes.any(1).all() and (ages.sum(1) == 1).all()
    assert notes[:, HERE].mean() > 0.5


def test_what_was_learned_can_be_used(lesson, tmp_path):
    out = tmp_path / "belief.npz"
    live_notes.save(live_notes.fit(*lesson, (8,), 0, loss_of=live_notes.surprise), out)
    learned = NoteBelief(out)
    learned.hear(np.full(252, 1 / 252), np.zeros((3, 297)), 60.0, 0.0, (-20, -20, 1, 0.9, 0.9), 0.0)
    for note in -1, 60:
        chances = learned.probabilities(belief.Sounding(note, 100))
        assert len(chances) == NOTHING + 1
        assert sum(chances[:NOTHING]) <= 1.0 + 1e-6


def test_each_round_sings_anew_and_all_are_learned(tmp_path, monkeypatch):
    out, voices, sung, learned = tmp_path / "belief.npz", live_notes.voices, [], []

    def short(n_clips, seed):
        for sound, notes in voices(n_clips, seed):
            sung.append(sound[: live_notes.SAMPLE_RATE])
            yield sung[-1], notes

    def fit(rows, *rest, **more):
        learned.append(len(rows))
        return fitted(rows, *rest, **more)

    fitted = live_notes.fit
    monkeypatch.setattr(live_notes, "voices", short)
    monkeypatch.setattr(live_notes, "fit", fit)
    few = ["--n-voices", "1", "--n-amateurs", "0", "--n-reciters", "0", "--hidden", "4"]
    for rounds in "1", "2":
        monkeypatch.setattr(sys, "argv", ["live", *few, "--rounds", rounds, "-o", str(out)])
        live_notes.main()
    first, again, second = sung
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert learned[1] > learned[0] > 0
    assert NoteBelief(out).probabilities(belief.Sounding(-1, 0))


def test_fit_learns_what_is_due():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, 6)).astype(np.float32)
    truth = np.eye(3, dtype=bool)[(rows[:, 0] > 0).astype(int) + (rows[:, 1] > 1)]
    layers = live_notes.fit(rows, truth, np.ones(4000, np.float32), (16,), 0, 20, 200)
    x = rows
    for weight, bias in layers[:-1]:
        x = np.maximum(x @ weight + bias, 0)
    scores = x @ layers[-1][0] + layers[-1][1]
    assert np.mean(truth[np.arange(4000), scores.argmax(1)]) > 0.85


def test_an_amateurs_note_is_due_where_it_settles():
    (sound, notes), (again, _) = (next(live_notes.amateurs(1, seed=3)) for _ in range(2))
    assert np.array_equal(sound, again) and len(sound) == 14 * live_notes.SAMPLE_RATE
    assert len(notes) > 5
    assert all(a.offset_s <= b.onset_s < b.offset_s for a, b in pairwise(notes))
    off = np.array([n.midi - round(n.midi) for n in notes])
    assert np.abs(off).max() > 0.02 and np.ptp(off) > 0.02  # not in tune, and not evenly out of it


def test_amateurs_scoop_far_and_slowly():
    rng = np.random.default_rng(1)
    line = compose(rng, list(range(55, 63)), 14.0, sustained=True, detune_cents=0.0, glides=1.0)
    away_s = []
    for note in chain.from_iterable(waver(rng, line) for _ in range(20)):
        assert len(note.curve) == note.offset - note.onset + 1
        first = note.curve[: round(0.4 * TICKS_PER_S)] - note.cents / 100
        away_s.append(np.mean(np.abs(first) > 0.6) * len(first) / TICKS_PER_S)
    assert np.percentile(away_s, 90) > 0.06


def test_single_notes_need_their_manifest(tmp_path):
    with pytest.raises(ConfigError, match="manifest"):
        next(live_notes.single_notes(tmp_path, 1, 0))
