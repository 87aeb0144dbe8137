"""What teaches the file decoder where notes begin and end, and that it has learned it."""

import shutil
import sys
from itertools import pairwise

import numpy as np
import pytest

from training import file_notes, phrases
from training.clips import SAMPLE_RATE
from training.phrases import TrueNote
from training.rooms import degrade
from v3audio import hear_file, onsets
from v3audio.notes import TrackerConfig


def test_what_is_due_in_each_frame():
    pitch = np.full(60, 60.0)
    pitch[20:30] = 72.0  # heard an octave high
    rows = file_notes.due(pitch, [TrueNote(0.1, 0.3, 60.0), TrueNote(0.3, 0.5, 62.0)])
    np.testing.assert_array_equal(np.flatnonzero(rows[:, 0] == 1.0), [10, 30])
    np.testing.assert_array_equal(np.flatnonzero(rows[:, 1]), [*range(7, 14), *range(27, 34)])
    np.testing.assert_array_equal(np.flatnonzero(rows[:, 2]), [*range(27, 34), *range(47, 54)])
    np.testing.assert_array_equal(np.flatnonzero(rows[:, 3]), np.arange(10, 50))
    heard, below = (onsets.N_PLAIN + onsets.INTERVALS.index(k) for k in (0, -12))
    np.testing.assert_array_equal(np.flatnonzero(rows[:, heard]), np.arange(10, 20))
    np.testing.assert_array_equal(np.flatnonzero(rows[:, below]), np.arange(20, 30))
    np.testing.assert_array_equal(np.flatnonzero(rows[:, -1]), np.arange(30, 50))


def test_a_note_ends_where_its_sound_has_faded_or_another_begins():
    t = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    sound = np.sin(2 * np.pi * 220 * t) * 10 ** (-40 * (t % 1.2) / 20)  # 40 dB a second
    notes = [TrueNote(0.0, 0.3, 57), TrueNote(0.5, 2.0, 57), TrueNote(1.2, 1.3, 57)]
    got = file_notes.ended(sound.astype(np.float32), notes)
    assert [n.onset_s for n in got] == [0.0, 0.5, 1.2]
    assert [n.offset_s for n in got] == pytest.approx([0.5, 1.2, 1.9], abs=0.03)


def test_amateurs_vowels_stand_apart_from_their_consonants():
    (sound, notes), (again, _) = (next(file_notes.amateurs(1, seed=3)) for _ in range(2))
    assert np.array_equal(sound, again) and np.abs(sound).max() <= 1.0
    assert len(notes) > 5
    assert all(a.onset_s < a.offset_s <= b.onset_s for a, b in pairwise(notes))
    assert any(0.03 < b.onset_s - a.offset_s < 0.2 for a, b in pairwise(notes))


def test_a_slur_begins_past_the_middle_of_its_glide():
    time_s = np.linspace(1.0, 1.2, 101)
    midi = np.interp(time_s, [1.0, 1.1], [60.0, 63.0])
    assert phrases.arrival_s(time_s, midi, 60.0, 63.0) == pytest.approx(1.05, abs=0.003)


def test_far_sound_is_not_delayed_and_never_clips():
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[4000] = 1.0
    for seed in range(8):
        far = degrade(np.random.default_rng(seed), click, SAMPLE_RATE)
        assert far.shape == click.shape and np.abs(far).max() <= 1.0
        assert 4000 <= np.abs(far).argmax() <= 4000 + SAMPLE_RATE // 200


def test_a_bad_recording_has_room_phone_and_noise():
    click = np.zeros(SAMPLE_RATE, np.float32)
    click[4000] = 1.0
    t = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    tones = np.sin(2 * np.pi * 60 * t) + np.sin(2 * np.pi * 1000 * t)
    n_clean = 0
    for seed in range(8):
        n_clean += not degrade(np.random.default_rng(seed), click, SAMPLE_RATE)[:3000].any()
        far = degrade(np.random.default_rng(seed), click, SAMPLE_RATE, badly=True)
        assert far[:3000].std() > 0, "no noise"
        assert far[4400:6000].std() > 1.5 * far[:3000].std(), "no room"
        far = degrade(
            np.random.default_rng(seed), tones.astype(np.float32), SAMPLE_RATE, badly=True
        )
        spectrum = np.abs(np.fft.rfft(far))
        assert spectrum[60] < 0.3 * spectrum[1000], "no phone"
    assert n_clean >= 2


def test_what_a_bare_hearing_is_described_by():
    ((frames, _),) = file_notes.hear(file_notes.voices(1, seed=3), seed=3)
    whole, bare = file_notes.describe(frames), file_notes.describe(frames, bare=True)
    n_seen = onsets.N_BANDS + onsets.N_TRAITS
    assert whole[:, :n_seen].any() and not bare[:, :n_seen].any()
    np.testing.assert_array_equal(whole[:, n_seen:], bare[:, n_seen:])


def test_voices_never_heard_are_followed_from_afar():
    right = found = wanted = 0
    for frames, notes in file_notes.hear(file_notes.voices(2, seed=77), seed=77):
        got = [n.onset_s for n in hear_file.decode(frames, TrackerConfig())]
        wanted, found = wanted + len(notes), found + len(got)
        right += sum(min(abs(n.onset_s - g) for g in got) <= 0.05 for n in notes)
    assert right / wanted > 0.75
    assert right / found > 0.7


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite")
def test_learning_writes_weights_that_can_be_read(tmp_path, monkeypatch):
    out = tmp_path / "onsets.npz"
    voices = file_notes.voices

    def short(n_clips, seed):
        return ((sound[:48_000], notes) for sound, notes in voices(n_clips, seed))

    monkeypatch.setattr(file_notes, "voices", short)
    monkeypatch.setattr(file_notes, "BATCH", 2)
    few = ["--n-voices", "2", "--n-amateurs", "1", "--n-silences", "1", "--times", "1"]
    few += ["--n-reciters", "1"]
    monkeypatch.setattr(sys, "argv", ["file_notes", *few, "-o", str(out)])
    file_notes.main()
    shapes = [weight.shape for weight, _ in onsets.load_layers(out)]
    assert shapes == [weight.shape for weight, _ in onsets.shipped()]
    assert shapes[0] == (onsets.N_INPUTS,)
