"""The pitch that a file's frames are given: the peak of the periodicity, near what was heard."""

import numpy as np
import pytest
import torch

from v3audio.features import FrontEnd
from v3audio.geometry import Geometry
from v3audio.live_hearing import fine_pitch

G = Geometry()


@pytest.fixture(scope="module")
def front_end():
    return FrontEnd(G)


def lag_of(front_end, midi, rng):
    """Periodicity of a tone with eight overtones and a little noise."""
    t = np.arange(G.window_length) / G.sample_rate
    hz = 440 * 2 ** ((midi - 69) / 12)
    x = sum(np.sin(2 * np.pi * hz * k * t + rng.uniform(0, 6)) / k for k in range(1, 9))
    x = 0.1 * x + 1e-4 * rng.standard_normal(len(t))
    return front_end(torch.from_numpy(x.astype(np.float32))[None]).lag.numpy()


def test_tones_are_told_to_a_few_cents_wherever_the_ear_put_them(front_end):
    rng = np.random.default_rng(0)
    errors = []
    for midi in np.linspace(24.1, 84.7, 60):
        lag = lag_of(front_end, midi, rng)
        for away in (-0.3, 0.0, 0.3):
            errors.append(100 * (fine_pitch(lag, np.array([midi + away]), G)[0] - midi))
    assert np.median(np.abs(errors)) < 2
    assert np.max(np.abs(errors)) < 12


def test_without_a_peak_the_heard_pitch_stays(front_end):
    rng = np.random.default_rng(1)
    heard = np.array([20.2, 60.2, 103.7])
    for lag in (np.zeros((3, G.n_bins)), np.tile(np.linspace(1, 0, G.n_bins), (3, 1))):
        np.testing.assert_allclose(fine_pitch(lag, heard, G), heard, atol=1e-5)
    lag = np.repeat(lag_of(front_end, 62.0, rng), 3, 0)  # too far to be meant
    np.testing.assert_allclose(fine_pitch(lag, heard, G), heard, atol=1e-5)
