"""The loopback measurement: against delays that are known, with noise, and a real JACK server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.jack_rig import JackServer
from realtime import latency
from realtime.audio_io import Stream
from realtime.latency import N_SWEEPS, N_WANTED, RoundTrip, find, measure_round_trip, sweep
from v3audio.errors import DeviceError

RATE, BLOCK = 48_000, 128


def loopback(
    delay: int, gain: float = 1.0, noise: float = 0.0, rate: int = RATE, dies_at: int = 1 << 60
) -> tuple[Callable[[object], object], Callable[[float], None]]:
    """A sound card whose output comes back after `delay` samples, and the clock that drives it."""
    rng = np.random.default_rng(0)
    wire = np.zeros(delay, np.float32)
    state = SimpleNamespace(callback=None, at=0)

    def turn(seconds: float) -> None:
        nonlocal wire
        for _ in range(int(seconds * rate / BLOCK)):
            if state.at >= dies_at:
                return
            heard = gain * wire[:BLOCK, None] + noise * rng.standard_normal((BLOCK, 1))
            out = np.full((BLOCK, 2), 9.0, np.float32)
            state.callback(heard.astype(np.float32), out, False)
            wire = np.concatenate((wire[BLOCK:], out[:, 1]))
            state.at += BLOCK

    @contextlib.contextmanager
    def opened(callback: object) -> Iterator[SimpleNamespace]:
        state.callback = callback
        turn(0.05)  # it calls before anybody knows its rate
        yield SimpleNamespace(
            sample_rate=rate, latency_samples=7, is_alive=lambda: state.at < dies_at
        )

    return opened, turn


@pytest.mark.parametrize("rate", [16_000, 48_000, 96_000])
@pytest.mark.parametrize(
    ("delay", "gain", "noise"), [(768, 1, 0), (1500, -0.05, 0.003), (9000, 0.3, 0.03)]
)
def test_a_known_delay_is_found(rate: int, delay: int, gain: float, noise: float) -> None:
    delay = delay * rate // 48_000
    opened, turn = loopback(delay, gain, noise, rate)
    trip = measure_round_trip(opened, wait=turn)  # type: ignore[arg-type]
    assert trip.samples == pytest.approx(delay, abs=0.1)
    assert trip.spread_samples < 1
    assert (trip.n_heard, trip.portion, trip.stated_samples) == (N_WANTED, BLOCK, 7)
    assert trip.quality in ("good", "fair")
    assert trip.ms == pytest.approx(1000 * delay / rate, abs=0.01)


def test_a_fraction_of_a_sample_is_found() -> None:
    burst = sweep(RATE)
    for delay in (300.25, 300.5, 300.75):
        shift = np.exp(-2j * np.pi * np.arange(12_001) * delay / 24_000)
        heard = np.fft.irfft(np.fft.rfft(burst, 24_000) * shift).astype(np.float32)
        assert find(burst, heard)[0] == pytest.approx(delay, abs=0.05)


@pytest.mark.parametrize(
    ("gain", "noise", "said"), [(0, 0, "-120 dBFS"), (0, 0.1, "0 came back"), (1e-4, 0.1, "cable")]
)
def test_no_loopback_says_what_to_connect(gain: float, noise: float, said: str) -> None:
    opened, turn = loopback(300, gain, noise)
    told = []
    with pytest.raises(DeviceError, match=said):
        measure_round_trip(
            opened, told=lambda done, total: told.append((done, total)), wait=turn,  # type: ignore[arg-type]
        )  # fmt: skip
    assert told[-1] == (N_SWEEPS, N_SWEEPS)


def test_a_card_that_stops_is_said() -> None:
    opened, turn = loopback(300, dies_at=RATE)
    with pytest.raises(DeviceError, match="gone silent"):
        measure_round_trip(opened, wait=turn)  # type: ignore[arg-type]


def test_the_word_for_its_quality() -> None:
    def trip(spread: float, heard: int, margin_db: float) -> str:
        return RoundTrip(RATE, BLOCK, 300, spread, heard, 10, margin_db, 0).quality

    assert [trip(0, 8, 40), trip(20, 8, 40), trip(0, 8, 20), trip(0, 4, 40)] == [
        "good", "fair", "fair", "poor",
    ]  # fmt: skip


def test_a_loopback_of_a_real_sound_server_is_one_period(
    jack_server: JackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jack

    monkeypatch.setattr(latency, "N_WANTED", 3)
    period = jack_server.period

    @contextlib.contextmanager
    def looped(callback: Callable[[object, object, bool], None]) -> Iterator[Stream]:
        with Stream("system", "system", None, period, callback) as stream:
            patch_bay = jack.Client("patch bay", no_start_server=True)
            patch_bay.connect("v3audio:out_0", "v3audio:in_0")
            patch_bay.close()
            yield stream

    trip = measure_round_trip(looped)
    assert (trip.samples, trip.sample_rate, trip.portion) == (period, RATE, period)
    assert trip.spread_samples == 0.0
    assert trip.quality == "good"
