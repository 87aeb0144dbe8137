import numpy as np
import pytest

from v3audio.loudness import loudness_lufs


def tone(rate: int, hz: float, gain: float = 1.0, seconds: float = 3.0) -> np.ndarray:
    return gain * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000, 96_000])
def test_the_tone_of_the_standard_reads_as_the_standard_says(rate: int):
    assert loudness_lufs(tone(rate, 997.0), rate) == pytest.approx(-3.01, abs=0.02)
    assert loudness_lufs(tone(rate, 997.0, 0.1), rate) == pytest.approx(-23.01, abs=0.02)


def test_the_ear_hears_less_of_the_deep_and_more_of_the_high():
    deep, middle, high = (loudness_lufs(tone(48_000, hz), 48_000) for hz in (40.0, 997.0, 4_000.0))
    assert deep < middle - 4 and high > middle + 2


def test_rests_and_noise_far_below_do_not_count():
    sound = tone(48_000, 997.0, 0.3)
    rest, hiss = np.zeros(48_000 * 5), np.random.default_rng(0).normal(0, 1e-3, 48_000 * 5)
    alone = loudness_lufs(sound, 48_000)
    for quiet in (rest, hiss):
        assert loudness_lufs(np.concatenate([quiet, sound, quiet]), 48_000) == pytest.approx(
            alone, abs=0.5
        )


def test_silence_has_no_loudness_and_what_is_shorter_than_a_block_has():
    assert loudness_lufs(np.zeros(48_000), 48_000) == -np.inf
    assert np.isfinite(loudness_lufs(tone(48_000, 997.0, seconds=0.01), 48_000))
