"""Learning the live belief: what is due, and a round of coaching and learning on a sung phrase."""

import numpy as np
import pytest

from training import live_notes
from training.live_notes import Student, Take, TrueNote, due_classes
from v3audio import belief
from v3audio.belief import NEIGHBOUR, NOTHING, OFFSETS, REPEAT, NoteBelief
from v3audio.errors import ConfigError
from v3audio.notes import TrackerConfig

HERE = OFFSETS.index(0)


def due(note_midi, sounding, told, pitch):
    note = None if note_midi is None else TrueNote(0.0, 1.0, note_midi)
    return set(np.flatnonzero(due_classes(note, sounding, told, pitch)))


def test_what_is_due():
    assert due(None, -1, False, 60.0) == {NOTHING}
    assert due(60, -1, False, 60.1) == {HERE}
    assert due(61, -1, False, 60.3) == {NEIGHBOUR}
    assert due(57, -1, False, 69.0) == {OFFSETS.index(-12)}
    assert due(60.5, -1, False, 60.4) == {HERE, NEIGHBOUR}  # between two notes both are right
    assert due(60, -1, False, 65.0) == {NOTHING}  # not heard: better wait
    assert due(60, 60, True, 60.0) == {NOTHING}
    assert due(60, 60, False, 60.0) == {REPEAT}
    assert due(60, 72, True, 60.0) == {HERE}


@pytest.fixture(scope="module")
def take():
    (sound, notes), *_ = live_notes.voices(1, seed=3)
    (heard,) = live_notes.hear([(sound[: 3 * live_notes.SAMPLE_RATE], notes)])
    return Take(heard.frames, [n for n in notes if n.onset_s < 3.0])


def test_a_coached_tracker_plays_the_truth(take):
    student = Student(take.notes, None, np.random.default_rng(0))
    events = live_notes.play(take, student, TrackerConfig(gate_db=live_notes.QUIETEST_DB))
    ons = [(t, e.note) for t, e in events if e.kind == "on"]
    right = [
        n
        for n in take.notes
        if any(n.onset_s <= t <= n.offset_s and abs(m - n.midi) <= 0.6 for t, m in ons)
    ]
    assert len(right) >= 0.7 * len(take.notes)
    assert len(student.rows) == len(student.due) > 100
    assert all(d.any() for d in student.due)


def test_a_round_of_learning_gives_weights_that_can_be_used(take, tmp_path):
    out = tmp_path / "belief.npz"
    live_notes.learn([take], out, rounds=1, hidden=(8,), seed=0)
    learned = NoteBelief(out)
    frame = take.frames[100]
    numbers = frame.level_db, frame.brief_db, frame.onset, frame.periodicity, frame.confidence
    learned.hear(frame.position, frame.views, frame.pitch_midi, 0.0, numbers, 0.0)
    chances = learned.probabilities(belief.Sounding(-1, -1, 100, -120.0, -120.0))
    assert len(chances) == NOTHING + 1 and sum(chances) == pytest.approx(1.0)


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


def test_single_notes_need_their_manifest(tmp_path):
    with pytest.raises(ConfigError, match="manifest"):
        next(live_notes.single_notes(tmp_path, 1, 0))
