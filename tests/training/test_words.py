"""Singers with words: in tune, on time, the same again; and a line for who has no flite."""

import shutil
import sys
from itertools import pairwise

import numpy as np
import pytest

from training import live_notes, words
from v3audio.errors import ConfigError

spoken = pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite")


@spoken
def test_words_are_sung_at_the_pitch_and_in_the_time_of_their_notes():
    import pyworld

    phrase = live_notes.wavering(np.random.default_rng([4, 2]))
    sound, notes = words.sing(np.random.default_rng(7), phrase, 14 * words.RATE)
    f0, time_s = pyworld.harvest(sound.astype(float), words.RATE, f0_floor=50.0, f0_ceil=1200.0)
    pitch = 69 + 12 * np.log2(np.maximum(f0, 1e-3) / 440)
    off = [
        float(np.median(np.abs(pitch[inside] - note.midi)))
        for note in notes
        if (inside := (time_s > note.onset_s + 0.08) & (time_s < note.offset_s - 0.02)).sum() > 10
    ]
    assert len(sound) == 14 * words.RATE and len(notes) == len(phrase)
    assert np.median(off) < 0.2  # amateurs waver, the tune stands
    assert np.abs(sound).max() <= 1.0
    for before, note in pairwise(notes):
        assert before.offset_s <= note.onset_s + 0.05


@spoken
def test_consonants_sound_before_the_vowels_that_notes_begin_with():
    heard = n_rests = 0
    for number in range(3):
        sound, notes = live_notes.recited(np.random.default_rng([5, number]))
        for before, note in pairwise(notes):
            if note.onset_s - before.offset_s > 0.3:
                n_rests += 1
                end = round(note.onset_s * words.RATE)
                heard += np.abs(sound[end - 800 : end]).max() > 0.003
    assert n_rests > 5 and heard > 0.4 * n_rests


@spoken
def test_a_singer_sings_the_same_again():
    first, again = (live_notes.recited(np.random.default_rng([6, 1])) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1]


def test_without_flite_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="apt-get install flite"):
        words.speak(np.random.default_rng(0), "slt", 3)


@spoken
def test_without_pyworld_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyworld", None)
    with pytest.raises(ConfigError, match=r"v3audio\[train\]"):
        live_notes.recited(np.random.default_rng(0))
