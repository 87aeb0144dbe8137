"""`live`, `latency`, `devices --test` and `doctor`, as far as they go without a sound card."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import numpy as np
import pytest

from realtime import audio_io, latency, midi_out, session
from realtime.audio_io import AudioDevice
from realtime.latency import RoundTrip
from realtime.options import LiveOptions
from realtime.stats import Latency, SessionStats
from v3audio.bundle import Bundle
from v3audio.cli import status
from v3audio.errors import DeviceError, V3AudioError

Run = Callable[..., Any]


# --- live ----------------------------------------------------------------------------------------

REPORT = session.LiveReport(
    "default", "reed", "Card", 48_000, 128, Latency(294, 128, 128, 48_000),
    ("in: Card", "MIDI: synth", "OSC 127.0.0.1:9720"), True,
    SessionStats(n_samples=96_000, n_notes=3, underruns=1, device_xruns=2, dropped_osc=4),
)  # fmt: skip


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[LiveOptions]:
    """Stand in for the session; the options that it was given."""
    asked: list[LiveOptions] = []

    def run_live(options: LiveOptions, **told: Any) -> session.LiveReport:
        asked.append(options)
        told["on_start"](REPORT)
        if "watch" in told:
            with told["watch"](lambda: pytest.fail("no terminal, no snapshot")):
                pass
        else:
            told["progress"](1, 2)
        return REPORT

    monkeypatch.setattr(session, "run_live", run_live)
    return asked


def test_live_hands_every_option_on(run: Run, played: list[LiveOptions]) -> None:
    line = (
        "live --timbre reed --input Card --output none --midi synth --midi virtual "
        "--osc 127.0.0.1:9 --osc-to 10.0.0.1:9721 --device cpu --rate 44100 --block 64 "
        "--transpose -2 --mix 0.5 --gate -40 --pace realtime --model mine"
    )
    assert run(*line.split()).exit_code == 0
    assert played == [
        LiveOptions(
            input="Card", output="none", midi=("synth", "virtual"), osc="127.0.0.1:9",
            osc_to="10.0.0.1:9721", timbre="reed", model="mine", device="cpu", rate=44_100,
            block=64, transpose=-2.0, mix=0.5, gate_db=-40.0, pace="realtime",
        )
    ]  # fmt: skip


def test_what_a_player_need_not_say(run: Run, played: list[LiveOptions]) -> None:
    run("live")
    assert played == [LiveOptions(input="mic", output="speakers", osc="auto", pace=None)]


def test_live_says_how_it_is_connected_and_how_it_went(
    run: Run, played: list[LiveOptions]
) -> None:
    result = run("live", "--json")
    first, last = result.stderr.splitlines()
    assert first == (
        "reed at 48000 Hz, latency 11.5 ms (algorithm 6.1, buffer 2.7, device 2.7); in: Card, "
        "MIDI: synth, OSC 127.0.0.1:9720. Ctrl-C ends it."
    )
    assert last == (
        "stopped after 2.0 s, 3 notes, xruns 3 (1 engine late, 2 sound card), 0 late hops, "
        "4 dropped events"
    )
    assert json.loads(result.stdout)["latency_ms"]["total"] == pytest.approx(11.458)


@pytest.mark.parametrize(("arguments", "tui"), [((), False), (("--tui",), True)])
def test_a_panel_only_on_demand(
    run: Run, played: list[LiveOptions], monkeypatch: pytest.MonkeyPatch,
    write_sound: Callable[[], object], arguments: tuple[str, ...], tui: bool,
) -> None:  # fmt: skip
    shown = []

    def watch(_snapshot: object, tui: bool) -> contextlib.AbstractContextManager[None]:
        shown.append(tui)
        return contextlib.nullcontext()

    monkeypatch.setattr(status, "watch", watch)
    run("live", *arguments)
    files = "--input", write_sound(), "--output", "none"
    run("live", *files, *arguments)  # what runs as fast as it can has a progress bar instead
    run("live", *files, "--pace", "realtime", *arguments)
    assert shown == [tui, tui]


# --- latency -------------------------------------------------------------------------------------


def test_latency_says_what_is_whose(
    run: Run, instrument: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(audio_io, "Stream", lambda *given: opened.append(given))

    def measure(open_stream: Callable[[object], object], told: Callable[..., None]) -> RoundTrip:
        open_stream("callback")
        told(8, 16)
        return RoundTrip(48_000, 256, 700.0, 0.5, 8, 8, 40.0, 650)

    monkeypatch.setattr(latency, "measure_round_trip", measure)
    with _reed_by_default(monkeypatch):
        result = run(
            "latency", "--input", "A", "--output", "B", "--rate", "48000", "--block", "64", "--json"
        )
    assert opened == [("A", "B", 48_000, 64, "callback")]
    figures = json.loads(result.stdout)
    assert figures["round_trip_ms"] == pytest.approx(14.583)
    assert figures["latency_ms"]["device"] == pytest.approx(14.583)
    assert figures["latency_ms"]["buffer"] == pytest.approx(1000 * 256 / 48_000, abs=1e-3)
    parts = [figures["latency_ms"][part] for part in ("algorithm", "buffer", "device")]
    assert figures["latency_ms"]["total"] == pytest.approx(sum(parts), abs=2e-3)
    for part in ("14.58 ms", "good", "8 of 8", "driver states 13.54 ms", "ours"):
        assert part in result.stderr


@contextlib.contextmanager
def _reed_by_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test's model has another timbre than the shipped flute."""
    import v3audio

    engine = v3audio.Engine
    with monkeypatch.context() as patch:
        patch.setattr(v3audio, "Engine", lambda **given: engine("reed", **given), raising=False)
        yield


# --- devices -------------------------------------------------------------------------------------


class FakeStream:
    """A card that calls once as it starts; `Broken` refuses, `Dead` never calls, `Gone` stops."""

    played: ClassVar[list[np.ndarray]] = []

    def __init__(
        self, source: str | None, output: str | None, rate: int | None, block: int, callback: Any
    ) -> None:
        self.name = source or output
        if self.name == "Broken":
            raise DeviceError("Broken: the sound card refuses (in use)")
        self.source, self.output, self.block, self.callback = source, output, block, callback

    def __enter__(self) -> Self:
        if self.name != "Dead":
            heard = np.full((self.block, 1), 0.1, np.float32) if self.source else None
            out = np.empty((40 * self.block, 2), np.float32) if self.output else None
            self.callback(heard, out, False)
            if out is not None:
                self.played.append(out)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def is_alive(self) -> bool:
        return self.name != "Gone"


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[AudioDevice]:
    """Sound cards to be listed; tests add theirs. Seconds pass at once."""
    devices = import_module("v3audio.cli.devices")
    found: list[AudioDevice] = []
    monkeypatch.setattr(audio_io, "list_audio_devices", lambda: found)
    monkeypatch.setattr(audio_io, "Stream", FakeStream)
    monkeypatch.setattr(midi_out, "list_midi_outputs", lambda: [])

    monkeypatch.setattr(devices, "sleep", lambda _seconds: None)
    monkeypatch.setattr(devices, "FIRST_CALL_S", 0.01)
    return found


def card(name: str, n_inputs: int = 0, n_outputs: int = 0) -> AudioDevice:
    return AudioDevice(name, "ALSA", n_inputs, n_outputs, 48_000, False, False)


def test_each_device_is_tried(run: Run, cards: list[AudioDevice]) -> None:
    cards += [card("Both", 1, 2)]
    result = run("devices", "--test")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[2:4] == [
        "    input   ok  |█████████████▍      | -20 dBFS",
        "    output  ok  a soft beep was played",
    ]


def test_the_beep_is_soft_and_short(run: Run, cards: list[AudioDevice]) -> None:
    cards += [card("Out", 0, 2)]
    FakeStream.played.clear()
    run("devices", "--test")
    (beep,) = FakeStream.played
    peak = np.abs(beep).max()
    assert 0.5 * 10 ** (-30 / 20) < peak <= 10 ** (-30 / 20)
    assert np.abs(beep[:10]).max() < 1e-4  # no click at its start
    assert np.abs(beep[20_000:]).max(initial=0) < 1e-6  # over within half a second


def test_what_does_not_work_is_said_and_the_rest_is_tried(
    run: Run, cards: list[AudioDevice]
) -> None:
    cards += [card(name, 0, 2) for name in ("Broken", "Dead", "Gone", "Good")]
    result = run("devices", "--test")
    assert result.exit_code == 2
    assert "3 of these did not work" in result.stderr
    said = result.stdout
    for part in ("FAILED  Broken: the sound card refuses (in use)", "never asks for sound",
                 "it stopped by itself"):  # fmt: skip
        assert part in said
    assert said.count("ok  a soft beep") == 1


def test_a_middle_c_goes_to_each_port(
    run: Run, cards: list[AudioDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    class Port:
        def __init__(self, targets: list[str], settings: Callable[[], Any], _rate: int) -> None:
            assert settings().enable
            self.target = targets[0]

        def __enter__(self) -> Self:
            if self.target == "gone":
                raise DeviceError("--midi gone: no such port")
            return self

        def put(self, events: list[Any], _sample: int) -> None:
            sent.append((self.target, events[0].kind, events[0].note))

        def __exit__(self, *_: object) -> None:
            sent.append((self.target, "closed", 0))

    monkeypatch.setattr(midi_out, "list_midi_outputs", lambda: ["synth", "gone"])
    monkeypatch.setattr(midi_out, "MidiOut", Port)
    result = run("devices", "--test")
    assert result.exit_code == 2
    assert sent == [("synth", "on", 60), ("synth", "closed", 0)]
    assert "FAILED  --midi gone" in result.stdout
    sent.clear()
    assert run("devices").exit_code == 0
    assert not sent  # nothing sounds unasked


# --- doctor --------------------------------------------------------------------------------------


def test_doctor_says_what_playing_lacks(
    run: Run, instrument: Bundle, cards: list[AudioDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run("doctor").stdout
    assert "MISSING  PortAudio" in said
    cards += [AudioDevice("system", "JACK Audio Connection Kit", 2, 2, 48_000, True, True)]
    monkeypatch.setattr(midi_out, "list_midi_outputs", lambda: ["synth"])
    said = run("doctor").stdout
    for part in ("1 sound devices (JACK Audio Connection Kit)", "1 output ports"):
        assert part in said


def test_doctor_names_the_extra_to_install(
    run: Run, instrument: Bundle, cards: list[AudioDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import metadata

    def none(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", none)
    said = run("doctor").stdout
    assert "pip install 'v3audio[discovery]'" in said
    assert "pip install 'v3audio[train]'" in said


def test_doctor_looks_for_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    doctor = import_module("v3audio.cli.doctor")
    limits = SimpleNamespace(RLIMIT_RTPRIO=14, getrlimit=lambda _which: (0, 0))
    monkeypatch.setitem(sys.modules, "resource", limits)
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 1000)
    with pytest.raises(V3AudioError, match="rtprio 95"):
        doctor._priority()
