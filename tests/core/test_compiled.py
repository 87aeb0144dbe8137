"""What was compiled is used where it fits, and left alone where it does not."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from v3audio import compiled, hear_file, onsets
from v3audio.belief import NoteBelief, Sounding
from v3audio.geometry import Geometry
from v3audio.live_hearing import traits_of


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
def test_the_most_probable_notes_are_the_same_in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    probs = np.random.default_rng(0).dirichlet(np.full(128, 0.1), 50).astype(np.float32)
    probs[0] = 0.0
    found = [hear_file._top(probs)]
    monkeypatch.setattr(compiled, "library", lambda: None)
    found.append(hear_file._top(probs))
    for top, kept in found:
        assert all(len(set(row)) == hear_file.N_KEPT for row in top.tolist())
        np.testing.assert_array_equal(np.take_along_axis(probs, top.astype(int), 1), kept)
    np.testing.assert_array_equal(*(np.sort(kept, 1) for _, kept in found))


@pytest.mark.skipif(compiled.library() is None, reason="nothing was compiled")
def test_traits_are_the_same_in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    g, rng = Geometry(), np.random.default_rng(0)
    position = rng.dirichlet(np.full(g.n_positions, 0.02), 300).astype(np.float32)
    views = rng.uniform(0, 1.1, (300, 3, g.n_bins)).astype(np.float32)
    midi = rng.uniform(15, 110, 300).astype(np.float32)  # beyond both ends of the positions too
    ours = traits_of(views, position, midi, g)
    monkeypatch.setattr(onsets, "_compiled_traits", lambda *_: None)
    theirs = traits_of(views, position, midi, g)
    assert ours.shape == (300, onsets.N_TRAITS)
    assert (ours.std(0) > 0).all()
    # a sum's last bit may round to the next byte
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert (ours != theirs).mean() < 1e-3


def test_an_address_is_of_what_the_array_holds_now() -> None:
    lent = compiled.Lent()
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    cases = rows, rows[:, 1:3], rows.astype(float), rows[:, ::2], rows[:, :1]
    for array in cases * 2:
        array[0, 0] += 1.0
        lent(array)
        n = lent.apart * (len(array) - 1) + array.shape[1]
        held = np.ctypeslib.as_array((ctypes.c_float * n).from_address(lent(array).value or 0))
        for k, row in enumerate(array):
            np.testing.assert_array_equal(held[k * lent.apart :][: array.shape[1]], row)


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
