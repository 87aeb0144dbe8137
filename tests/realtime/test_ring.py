"""The way between callback and worker: positions hold, whatever comes late or never."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
import pytest

from benchmarks.jack_rig import wait_for
from realtime.ring import FADE_S, AudioPath, Ring, Seam

RATE = 48000


def ramp(start: int, n: int) -> np.ndarray:
    """Samples that say their own position (exact in float32 up to 2**24)."""
    return np.arange(start, start + n, dtype=np.float32)


def test_a_ring_is_a_deque_of_the_newest_samples() -> None:
    rng = np.random.default_rng(0)
    ring, capacity = Ring(50), 50
    newest: deque[float | None] = deque(maxlen=capacity)  # None: never written
    end = 0
    for _ in range(3000):
        if rng.random() < 0.5:
            gap = int(rng.integers(1, 20)) if rng.random() < 0.2 else 0
            x = rng.standard_normal(int(rng.integers(0, capacity + 1))).astype(np.float32)
            ring.write(x, end + gap if gap or rng.random() < 0.5 else None)
            if gap:  # a stretch that was broken off is gone
                newest = deque([None] * capacity, maxlen=capacity)
            newest.extend(x.tolist())
            end += gap + len(x)
            assert ring.end == end
        at, n = end - int(rng.integers(0, capacity + 1)), int(rng.integers(0, 80))
        out = np.full(n, 9.0, np.float32)
        low, high = ring.read_into(out, at)
        kept = [None] * (capacity - len(newest)) + list(newest)
        expected = [
            kept[p - end + capacity] if p < end and p >= 0 else None for p in range(at, at + n)
        ]
        there = [k for k, value in enumerate(expected) if value is not None]
        assert list(range(low, high)) == there
        np.testing.assert_array_equal(out, [0.0 if v is None else v for v in expected])


def test_what_was_written_over_is_silence_not_something_else() -> None:
    ring = Ring(100)
    ring.write(ramp(0, 100))
    ring.write(ramp(100, 50))
    out = np.empty(60, np.float32)
    assert ring.read_into(out, 40) == (0, 0)
    assert not out.any()
    assert ring.read_into(out, 50) == (0, 60)
    np.testing.assert_array_equal(out, ramp(50, 60))


def test_what_overlaps_is_taken_once() -> None:
    ring = Ring(100)
    ring.write(ramp(0, 60))
    ring.write(ramp(40, 40), 40)
    ring.write(ramp(0, 30), 0)  # all of it has passed
    out = np.empty(80, np.float32)
    assert ring.read_into(out, 0) == (0, 80)
    np.testing.assert_array_equal(out, ramp(0, 80))


def test_two_threads_never_see_a_wrong_sample() -> None:
    """The writer runs ahead, out of the reader's reach; what is read is right or missing."""
    ring, n_all = Ring(1000), 400_000
    wrong: list[int] = []
    n_read = 0

    def read() -> None:
        nonlocal n_read
        rng, out, at = np.random.default_rng(1), np.empty(300, np.float32), 0
        while at < n_all - 300:
            n = int(rng.integers(1, 300))
            low, high = ring.read_into(out[:n], at)
            if not np.array_equal(out[low:high], ramp(at + low, high - low)):
                wrong.append(at)
            n_read += high - low
            end = ring.end
            at = at + high if high > low else max(at, end - 500)

    reader = threading.Thread(target=read)
    reader.start()
    rng = np.random.default_rng(0)
    while ring.end < n_all:
        ring.write(ramp(ring.end, int(rng.integers(1, 400))))
        wait_for(lambda: n_read >= ring.end // 50 or not reader.is_alive(), "the reader's turn")
    reader.join()
    assert not wrong
    assert n_read >= n_all // 60


def seamed(parts: list[tuple[int, int, int]], level: float = 0.5) -> tuple[np.ndarray, list[bool]]:
    """A constant through a seam, portion by portion of (n, low, high)."""
    seam, out, broke = Seam(RATE), [], []
    for n, low, high in parts:
        x = np.zeros(n, np.float32)
        x[low:high] = level
        broke.append(seam(x, low, high))
        out.append(x)
    return np.concatenate(out), broke


@pytest.mark.parametrize("n", [7, 64, 128, 1000])
def test_sound_that_breaks_off_and_comes_back_does_not_click(n: int) -> None:
    fade = round(FADE_S * RATE)
    k = -(-4 * fade // n)
    y, broke = seamed([(n, 0, n)] * k + [(n, 0, n // 3)] + [(n, 0, 0)] * k + [(n, n // 2, n)]
                      + [(n, 0, n)] * k)  # fmt: skip
    assert np.abs(np.diff(y, prepend=0.0)).max() < 0.5 * 2 / fade
    assert y[k * n - 1] == 0.5  # whole in between
    end = k * n + n // 3 + fade
    assert not y[end : (2 * k + 1) * n + n // 2].any()  # and quiet after the fade
    assert y[-1] == 0.5
    assert broke == [False] * k + [True] + [False] * (2 * k + 1)


def test_whole_sound_passes_a_seam_unchanged() -> None:
    seam, rng = Seam(RATE), np.random.default_rng(0)
    seam(np.ones(200, np.float32), 0, 200)
    x = rng.standard_normal(1000).astype(np.float32)
    y = x.copy()
    assert not seam(y, 0, 1000)
    np.testing.assert_array_equal(x, y)


def test_a_path_delays_by_the_prefill_whatever_the_portions() -> None:
    path, rng, prefill = AudioPath(RATE, RATE), np.random.default_rng(0), 256
    path.from_engine.write(np.zeros(prefill, np.float32))
    path.running = True
    x = rng.standard_normal(20_000).astype(np.float32)
    heard, at, taken = [], 0, np.empty(300, np.float32)
    while at < len(x) - 256:
        n = int(rng.integers(1, 257))
        out = np.empty((n, 3), np.float32)
        path.exchange(x[at : at + n], out, n, False)
        assert path.wake.acquire(blocking=False)
        low, high = path.to_engine.read_into(taken[:n], at)
        path.from_engine.write(taken[low:high], at + prefill)  # as the worker does
        heard.append(out)
        at += n
    y = np.concatenate(heard)
    assert (y == y[:, :1]).all()
    np.testing.assert_array_equal(y[prefill:, 0], x[: at - prefill][: len(y) - prefill])
    assert (path.now, path.n_underruns) == (at, 0)
    assert 250 < path.largest <= 256


def test_late_sound_is_left_out_and_the_delay_stays() -> None:
    path, n, prefill = AudioPath(RATE, RATE), 128, 128
    path.from_engine.write(np.zeros(prefill, np.float32))
    path.running = True
    heard, fade = [], round(FADE_S * RATE)
    for k in range(40):
        out = np.empty((n, 1), np.float32)
        path.exchange(ramp(1 + k * n, n), out, n, k == 5)
        heard.append(out[:, 0])
        for late in {10: (), 11: (), 12: (10, 11, 12)}.get(k, (k,)):
            path.from_engine.write(ramp(1 + late * n, n), late * n + prefill)
    y = np.concatenate(heard)
    good = np.concatenate((np.arange(2 * n, 11 * n), np.arange(13 * n + fade, 40 * n)))
    np.testing.assert_array_equal(y[good], good - prefill + 1)
    assert (path.n_underruns, path.n_device_xruns) == (1, 1)
    assert not y[12 * n : 13 * n].any()


def test_a_path_that_does_not_run_is_silent_and_takes_nothing() -> None:
    path = AudioPath(RATE, RATE)
    path.from_engine.write(np.ones(1000, np.float32))
    out = np.full((64, 2), 9.0, np.float32)
    path.exchange(np.ones(64, np.float32), out, 64, True)
    assert not out.any()
    assert path.to_engine.end == path.now == path.n_device_xruns == 0
    assert (path.n_calls, path.largest) == (1, 64)
    assert path.wake.locked()
