"""What is done to clips is what is said, and loudness is compared at its delay."""

import numpy as np
import pytest

from benchmarks import notes, sound

RATE = 16_000


@pytest.mark.parametrize("condition", ["phone", "room", "noise", "all"])
def test_worse_sound_is_seeded_and_not_delayed(condition):
    x = np.zeros(RATE)
    x[RATE // 2 :] = 0.2 * np.random.default_rng(0).normal(size=RATE // 2)
    y = notes.worse(x, RATE, condition, seed=1)
    assert np.array_equal(y, notes.worse(x, RATE, condition, seed=1))
    assert y.shape == x.shape and np.abs(y).max() < 0.991
    level = sound.levels(y, RATE, window_s=0.02)
    rise = int(np.argmax(level > level[:45].max() + 8))
    assert rise in (47, 48, 49, 50)  # windows of 20 ms that begin at 0.47..0.5 s


def test_noise_stands_15_db_below_the_clip():
    x = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    added = notes.worse(x, RATE, "noise", seed=0) - x
    assert 20 * np.log10(np.std(x) / np.std(added)) == pytest.approx(15, abs=0.1)


def test_a_phone_takes_the_low_notes():
    t = np.arange(RATE) / RATE
    low, high = (notes.worse(0.3 * np.sin(2 * np.pi * f * t), RATE, "phone", 0) for f in (60, 1000))
    assert np.std(high) > 20 * np.std(low)


@pytest.mark.parametrize(
    ("instrument", "family"),
    [
        ("singing voice", "voice"), ("double bass pizz.", "plucked, struck"),
        ("double bass arco", "bowed"), ("contrabassoon", "reeds"), ("bass clarinet", "reeds"),
        ("cor anglais", "reeds"), ("English horn", "reeds"), ("contrabass", "bowed"),
        ("French horn", "brass"), ("flute", "flutes"), ("electric guitar", "plucked, struck"),
        ("theremin", "other"),
    ],
)  # fmt: skip
def test_families(instrument, family):
    assert notes.groups_of(instrument, "phrase", [(0.0, 1.0, 60.0)]) == (family, "[phrase]", "all")


def test_low_clips_are_a_group_and_silent_ones_none():
    assert "low" in notes.groups_of("tuba", "phrase", [(0.0, 1.0, 30.0)])
    assert notes.groups_of("tuba", "phrase", []) == ()


def test_loudness_follows_its_delay_and_not_another_contour():
    rng = np.random.default_rng(0)
    gain = 10 ** (np.repeat(rng.uniform(-40, 0, 20), RATE // 10) / 20)
    x = gain * rng.normal(size=2 * RATE)
    late = np.concatenate([np.zeros(RATE * 3 // 100), 0.1 * gain * rng.normal(size=2 * RATE)])
    assert sound.loudness(x, late[: len(x)], RATE) > 0.97
    assert sound.loudness(x, x[::-1].copy(), RATE) < 0.7
    assert sound.loudness(x, np.zeros_like(x), RATE) == -1.0


def test_pitch_errors_are_told_in_frames():
    t = np.arange(200) * 0.01
    source = np.where(t < 1, 60.0, np.nan)
    result = np.where(t < 0.5, 60.1, np.where(t < 0.8, 60.4, 72.0))
    result[100:] = np.nan
    n, within_50, within_25, octave, heard = sound.compare(
        result, np.array([[0.0, 1.0, 60.0]]), source
    )
    assert n == 100
    assert (within_50, within_25, octave) == pytest.approx((0.8, 0.5, 0.2), abs=0.011)
    assert heard == 1.0
