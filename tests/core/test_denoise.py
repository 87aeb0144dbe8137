"""Steady noise goes, notes stay, and what is clean is not touched."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from v3audio.denoise import STRETCH, denoise

RATE = 16_000
Samples = NDArray[np.float32]


def melody(duration_s: float, lowest_hz: float, seed: int = 0) -> Samples:
    """Notes of a third of a second with ten partials, a rest after every fourth."""
    rng = np.random.default_rng(seed)
    notes = []
    for k in range(int(duration_s * 3)):
        hz = lowest_hz * 2 ** (int(rng.integers(0, 20)) / 12)
        t = np.arange(RATE // 3) / RATE
        tone = sum(np.sin(2 * np.pi * hz * h * t) / h for h in range(1, 11))
        notes.append(0.1 * tone * np.hanning(len(t)) ** 0.2 * (k % 4 != 3))
    return np.concatenate(notes).astype(np.float32)


def in_blocks(x: Samples, size: int) -> Samples:
    """`denoise` of x, cut into blocks."""
    return np.concatenate(list(denoise(x[i : i + size] for i in range(0, len(x), size))))


def hiss(n: int, below_db: float, of: Samples) -> Samples:
    """White noise so far below the RMS of a sound."""
    rms = float(np.sqrt(np.mean(of.astype(np.float64) ** 2)))
    noise = np.random.default_rng(7).normal(size=n) * rms * 10 ** (-below_db / 20)
    return noise.astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 5000, RATE * 7 + 13, 2 * STRETCH + 17, 3 * STRETCH])
def test_a_clean_recording_is_not_touched_and_as_long(n: int) -> None:
    x = melody(n / RATE + 1, 110.0)[:n]
    np.testing.assert_array_equal(in_blocks(x, 1600) if n else x, x)


@pytest.mark.parametrize("size", [160, 16_000, 10**7])
def test_blocks_do_not_matter(size: int) -> None:
    x = melody(2.3 * STRETCH / RATE, 110.0)
    x += hiss(len(x), 12.0, x)
    y = in_blocks(x, 4800)
    assert len(y) == len(x)
    np.testing.assert_array_equal(in_blocks(x, size), y)


@pytest.mark.parametrize("duration_s", [4.0, 65.0])
@pytest.mark.parametrize("lowest_hz", [41.2, 110.0, 440.0])
def test_noise_goes_and_notes_stay(duration_s: float, lowest_hz: float) -> None:
    x = melody(duration_s, lowest_hz)
    noise = hiss(len(x), 15.0, x)
    y = in_blocks(x + noise, 8000)
    # what of the output is the melody, and what is not
    share = float(y @ x / (x @ x))
    left = y - share * x
    assert 0.85 < share < 1.05
    assert float(left @ left) < 0.4 * float(noise @ noise)
    resting = x == 0
    assert np.square(y[resting]).mean() < 0.2 * np.square(noise[resting]).mean()


@pytest.mark.parametrize("hz", [41.2, 220.0, 1760.0])
def test_a_held_note_is_no_noise(hz: float) -> None:
    t = np.arange(6 * RATE) / RATE
    x = sum(0.1 * np.sin(2 * np.pi * hz * h * t) / h for h in range(1, 11) if hz * h < RATE / 2)
    x = x.astype(np.float32)
    noisy = x + hiss(len(x), 15.0, x)
    y = in_blocks(noisy, 8000)
    assert 0.9 < float(y @ x / (x @ x)) < 1.05


def test_silence_stays_silent() -> None:
    assert not in_blocks(np.zeros(5 * RATE, np.float32), 1600).any()
