"""The front end: what shifts with pitch, what ignores level, the lag view and its formula."""

import numpy as np
import pytest
import torch

from v3audio.features import FrontEnd
from v3audio.geometry import Geometry

G = Geometry()
FRONT_END = FrontEnd(G)


def tone(midi: float, level: float = 0.1) -> torch.Tensor:
    """A sawtooth-like window (1, T) with harmonics up to 7 kHz."""
    hz = 440 * 2 ** ((midi - 69) / 12)
    t = np.arange(G.window_length) / G.sample_rate
    x = sum(np.sin(2 * np.pi * hz * k * t) / k for k in range(1, int(7000 / hz) + 1))
    return torch.tensor(level * x[None], dtype=torch.float32)


@pytest.mark.parametrize("midi", [22, 36, 48, 60, 72, 84, 96])
def test_each_view_peaks_at_the_pitch(midi):
    views = FRONT_END(tone(midi))
    bin_ = (midi - G.midi_low) * G.bins_per_semitone
    assert float(views.long[0, bin_]) == pytest.approx(1.0, abs=0.03)
    assert float(views.lag[0, bin_]) > 0.99
    if midi >= 48:  # short kernels do not resolve the lowest harmonics
        assert abs(int(views.short[0].argmax()) - bin_) <= 3


def test_a_transposition_is_one_shift_of_spectrum_and_lag():
    low, high = FRONT_END(tone(60)), FRONT_END(tone(67))
    shift = 7 * G.bins_per_semitone
    # around the fundamental and its first harmonics
    span = slice(100, 190)
    moved = slice(100 + shift, 190 + shift)
    assert float((low.lag[0, span] - high.lag[0, moved]).abs().mean()) < 0.05
    assert float((low.long[0, span] - high.long[0, moved]).abs().mean()) < 0.1


def test_level_does_not_matter_until_silence():
    loud, soft = FRONT_END(tone(60, 0.5)), FRONT_END(tone(60, 0.005))
    assert float((loud.long - soft.long).abs().max()) < 1e-3
    assert float((loud.lag - soft.lag).abs().max()) < 1e-2
    silent = FRONT_END(torch.zeros(1, G.window_length))
    assert all(torch.isfinite(v).all() for v in silent)
    assert float(silent.lag.max()) == 0.0


def test_lag_view_equals_its_formula_at_whole_lags():
    x = np.convolve(np.random.default_rng(0).standard_normal(4096), np.ones(6) / 6, "same")
    x = x[: G.window_length].astype(np.float32)
    lag_view = FRONT_END(torch.from_numpy(x[None])).lag[0].numpy()
    lags = G.sample_rate / G.bin_hz()
    for window, low, high in ((96, 0, 96), (191, 96, 192), (381, 192, 384)):
        own = [i for i, lag in enumerate(lags) if low < lag <= high and abs(lag - round(lag)) < 0.1]
        assert own
        for i in own:
            lag = round(lags[i])
            now, past = x[-window:], x[len(x) - window - lag : len(x) - lag]
            value = 2 * (now * past).sum() / ((now**2).sum() + (past**2).sum())
            assert lag_view[i] == pytest.approx(max(value, 0), abs=0.03)


def test_frames_do_not_depend_on_their_batch():
    windows = torch.cat([tone(50), tone(61), tone(72)])
    together = FRONT_END(windows)
    for i in range(3):
        alone = FRONT_END(windows[i : i + 1])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i], b[0], atol=1e-5, rtol=0)
