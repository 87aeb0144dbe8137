"""What was compiled is used where it fits, and left alone where it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from v3audio import compiled
from v3audio.belief import NoteBelief, Sounding


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it is looked for instead."""
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    return tmp_path


@pytest.mark.parametrize("content", [None, b"", b"of another system"])
def test_what_cannot_be_loaded_is_none(elsewhere: Path, content: bytes | None) -> None:
    if content is not None:
        for suffix in compiled.EXTENSION_SUFFIXES:
            (elsewhere / f"_frame{suffix}").write_bytes(content)
    assert compiled._load("_frame") is None


@pytest.mark.skipif(compiled.library() is None, reason="nothing was compiled")
def test_an_older_one_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled._load("_frame") is not None
    monkeypatch.setattr(compiled, "VERSION", compiled.VERSION + 1)
    assert compiled._load("_frame") is None


def test_nothing_is_bound_where_nothing_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "library", lambda: None)
    assert compiled.bind("attack", 256) is None


@pytest.mark.skipif(compiled.library() is None, reason="nothing was compiled")
def test_beliefs_are_the_same_in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = NoteBelief()
    monkeypatch.setattr(compiled, "library", lambda: None)
    theirs = NoteBelief()
    rng = np.random.default_rng(0)
    surest = set()
    for k in range(200):
        position = rng.uniform(0, 1, 252).astype(np.float32) ** 40
        views = rng.uniform(0, 1, (3, 297)).astype(np.float32) ** (0.2, 1, 5)[k % 3]
        pitch = float(rng.uniform(15, 110))  # beyond both ends of the views too
        numbers = tuple(rng.uniform(low, high) for low, high in ((-95, 0), (-95, 0), (0, 30)))
        sounding = Sounding(int(rng.integers(-1, 100)), k)
        found = []
        for belief in ours, theirs:
            belief.hear(position / position.sum(), views, pitch, 0.1, (*numbers, 0.9, 0.8), 9.0)
            ages = belief.beliefs()[1]
            found.append([*belief.probabilities(sounding), *ages])
        np.testing.assert_allclose(*found, atol=2e-5)
        surest.add(int(np.argmax(ages)))
    assert len(surest) > 2
