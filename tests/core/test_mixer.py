"""Around the model: compiled or in numpy, and in parts of any size, the same samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from v3audio import compiled
from v3audio.mixer import Mixer
from v3audio.settings import Settings

SETTINGS = (
    Settings(),
    Settings(mix=0.3, gain_in_db=3.0, gain_out_db=6.0),  # lifts, so that the limiter works
    Settings(gain_in_db=-20.0, gain_out_db=24.0),
    Settings(bypass=True),
    Settings(enabled=False),
)


def played(cut: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Output and what was heard of segments of several lengths, each cut into parts."""
    rng = np.random.default_rng(0)
    mixer = Mixer(SETTINGS[0], 8000)
    out, heard = [], []
    for k in range(40):
        wet = rng.normal(0, 0.6, 50 + 20 * (k % 5)).astype(np.float32)
        x = rng.normal(0, 0.6, len(wet)).astype(np.float32)
        x[k % 7 :: 31] = (np.nan, np.inf, -np.inf, 1e30, -1e30, -3.0)[k % 6]
        mixer.begin(wet)
        for start in range(0, len(x), cut):
            part = x[start : start + cut]
            out.append(np.empty(len(part), np.float32))
            mixer.mix(part, out[-1])
        assert mixer.power <= 1.0
        heard.append(mixer.heard.copy())
        mixer.follow(replace(SETTINGS[k // 4 % len(SETTINGS)], gate_db=-k))
    return np.concatenate(out), np.concatenate(heard), mixer.n_non_finite


@pytest.mark.skipif(compiled.library() is None, reason="nothing was compiled")
def test_the_same_compiled_or_in_numpy_and_in_any_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    out, heard, n_lost = played(1000)
    assert n_lost > 20
    assert np.isfinite(heard).all()
    assert np.abs(out).max() <= 1.0
    for kind in "compiled", "numpy":
        if kind == "numpy":
            monkeypatch.setattr(compiled, "library", lambda: None)
        for cut in 7, 1000:
            ours = played(cut)
            assert ours[2] == n_lost
            for theirs, x in zip((out, heard), ours, strict=False):
                np.testing.assert_allclose(x, theirs, atol=1e-6, rtol=1e-6)
