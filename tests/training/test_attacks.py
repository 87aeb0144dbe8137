"""Other attacks on known notes: what is changed, and what is left."""

import numpy as np
import pytest

from training import attacks
from training.phrases import TrueNote

RATE = 16000
NOTES = [TrueNote(0.2, 0.6, 57.0), TrueNote(0.8, 1.3, 57.0)]


def buzz(seconds=1.5, hz=220.0):
    t = np.arange(round(seconds * RATE)) / RATE
    held = sum(((t >= n.onset_s) & (t < n.offset_s)) for n in NOTES)
    return (held * sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, 9))).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_the_rest_of_a_note_is_left_alone(seed):
    sound = buzz()
    spoken = attacks.speak(np.random.default_rng(seed), sound, NOTES, RATE)
    assert spoken.shape == sound.shape and spoken.dtype == np.float32
    again = attacks.speak(np.random.default_rng(seed), sound, NOTES, RATE)
    np.testing.assert_array_equal(spoken, again)
    for note in NOTES:  # an attack is over within 0.6 of it
        late = slice(round((note.onset_s + 0.31) * RATE), round(note.offset_s * RATE) - 2000)
        np.testing.assert_allclose(spoken[late], sound[late], atol=1e-6)


def test_an_overblown_attack_has_every_second_harmonic():
    sound = buzz().astype(np.float64)
    start = round(0.9 * RATE)

    def partials():
        spectrum = np.abs(np.fft.rfft(sound[start : start + 800] * np.hanning(800)))
        return spectrum[[11, 22]]  # 220 and 440 Hz, 20 Hz apart

    before = partials()
    attacks._overtone(np.random.default_rng(0), sound, start, 4000, RATE / 220.0, 2)
    fundamental, octave = partials() / before
    assert fundamental < 0.5
    assert octave == pytest.approx(1.0, abs=0.05)


def test_a_scoop_comes_from_below_and_arrives():
    sound = buzz().astype(np.float64)
    before, start = sound.copy(), round(0.9 * RATE)
    attacks._scoop(np.random.default_rng(1), sound, start, 3200)
    np.testing.assert_array_equal(sound[start + 3200 :], before[start + 3200 :])
    upward = np.diff(np.signbit(sound[start : start + 800]).astype(int)) < 0
    steady = np.diff(np.signbit(before[start : start + 800]).astype(int)) < 0
    assert np.diff(np.flatnonzero(upward)).mean() > 1.01 * np.diff(np.flatnonzero(steady)).mean()
    last = slice(start + 3100, start + 3200)
    np.testing.assert_allclose(sound[last], before[last], atol=0.1)
