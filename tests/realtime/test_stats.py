"""Step times in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from realtime.stats import Durations


def test_percentiles_are_within_their_stated_error() -> None:
    durations = Durations()
    times_ms = np.random.default_rng(0).lognormal(-2, 1, 5000)
    for ms in times_ms:
        durations.add(float(ms))
    for percent in (5, 50, 95, 99):
        exact = float(np.percentile(times_ms, percent, method="inverted_cdf"))
        assert durations.percentile_ms(percent) == pytest.approx(exact, rel=0.012)
    assert durations.max_ms == times_ms.max()
    assert durations.total_ms == pytest.approx(times_ms.sum())
    assert durations.n == 5000


def test_no_percentile_passes_the_maximum() -> None:
    durations = Durations()
    durations.add(0.5)
    assert durations.percentile_ms(50) == durations.percentile_ms(100) == 0.5


@pytest.mark.parametrize("ms", [0.0, 1e-9, 1e9])
def test_extremes_are_counted(ms: float) -> None:
    durations = Durations()
    durations.add(ms)
    assert durations.n == 1
    assert durations.percentile_ms(50) <= durations.max_ms == ms


def test_before_the_first_step_all_is_zero() -> None:
    assert Durations().percentile_ms(95) == 0.0
