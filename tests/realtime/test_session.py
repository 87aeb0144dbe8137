"""A live session: from file to file, and on a sound card that a test plays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import mido
import numpy as np
import pytest
import soundfile
import torch

from realtime import options as options_module
from realtime import session as session_module
from realtime.capture import Capture
from realtime.options import LiveOptions, plan
from realtime.session import LiveReport, Session, run_live
from v3audio.audio_file import AudioWriter
from v3audio.engine import Engine
from v3audio.errors import AudioFileError, ConfigError, ControlError, DeviceError
from v3audio.notes import FrameNotes, NoteEvent
from v3audio.renderer import Renderer, RendererConfig
from v3audio.renderer_net import RendererNet, frozen
from v3audio.timbres import Timbre

RATE = 48000
WriteSound = Callable[..., Path]
TIMBRE = Timbre(
    name="test", note_range=(40, 80), model="none", model_sha256="0", style=np.zeros(16, np.float32)
)


class LoudIsA4:
    """Hears A4 wherever there is sound."""

    def frame(self, window: np.ndarray) -> FrameNotes:
        level = float(10 * np.log10(np.square(window[-320:]).mean() + 1e-12))
        sure = float(level > -60)
        return FrameNotes(level, 0.0, sure, 69.0, sure)


def engine(rate: int = RATE) -> Engine:
    torch.manual_seed(0)
    net = RendererNet(RendererConfig(hidden=16)).eval()
    return Engine(TIMBRE, rate, hearing=LoudIsA4(), renderer=Renderer(frozen(net), rate))


def take(rate: int = RATE, n_notes: int = 2) -> np.ndarray:
    t = np.arange(round(0.2 * rate)) / rate
    note = 0.3 * np.sin(2 * np.pi * 440 * t)
    return np.concatenate([np.zeros(rate // 10), note] * n_notes + [np.zeros(rate // 10 + 1)])


@pytest.fixture
def source(write_sound: WriteSound) -> Path:
    return write_sound("in.wav", take(), sample_rate=RATE)


class FakeTime:
    """A clock that only waiting moves, plus `step_s` for each look at it (the work in between)."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s = 100.0
        self.step_s = step_s
        self.waited_s = 0.0

    def clock(self) -> float:
        self.now_s += self.step_s
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds
        self.waited_s += seconds


def note_times(path: Path) -> list[tuple[str, int, float]]:
    now_s, found = 0.0, []
    for message in mido.MidiFile(path):  # plays with times in seconds
        now_s += message.time
        if message.type in ("note_on", "note_off"):
            found.append((message.type, message.note, now_s))
    return found


def test_output_has_rate_and_length_of_the_input_and_is_the_engines(
    source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.wav"
    report = run_live(LiveOptions(str(source), str(target)), engine=engine())
    y, rate = soundfile.read(target, dtype="float32")
    x, _ = soundfile.read(source, dtype="float32")
    assert rate == RATE
    assert len(y) == len(x)
    expected, _ = engine().process(x)
    np.testing.assert_allclose(y, expected, atol=2**-22)
    assert np.abs(y).max() > 0.05
    assert report.stats.n_samples == len(x)
    assert not report.interrupted


@pytest.mark.parametrize(("rate", "file_rate"), [(48000, 44100), (44100, 48000), (48000, 8000)])
def test_an_engine_at_another_rate_still_gives_the_inputs_rate_and_length(
    rate: int, file_rate: int, write_sound: WriteSound, tmp_path: Path
) -> None:
    source = write_sound("in.wav", take(file_rate), sample_rate=file_rate)
    target, midi = tmp_path / "out.flac", tmp_path / "out.mid"
    options = LiveOptions(str(source), str(target), (str(midi),), rate=rate)
    report = run_live(options, engine=engine(rate))
    y, out_rate = soundfile.read(target)
    assert (out_rate, len(y)) == (file_rate, len(take(file_rate)))
    assert report.sample_rate == rate
    quiet, loud = y[: file_rate // 12], y[file_rate // 5 : file_rate // 4]
    assert np.abs(quiet).max() < 1e-3 * np.abs(loud).max()  # the sound stands where it stood
    assert note_times(midi)[0][2] == pytest.approx(0.1, abs=0.05)


def test_midi_holds_each_event_at_the_moment_it_was_emitted(source: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.mid", tmp_path / "b.mid"
    midi = (str(first), "none", str(second))
    report = run_live(LiveOptions(str(source), "none", midi), engine=engine())
    x, _ = soundfile.read(source, dtype="float32")
    e = engine()
    events = e.process(x)[1] + e.flush()
    expected = [(f"note_{v.kind}", v.note, v.sample / RATE) for v in events if v.kind != "pitch"]
    assert [t[0] for t in expected] == ["note_on", "note_off"] * 2
    for path in (first, second):
        assert [t[:2] for t in note_times(path)] == [t[:2] for t in expected]
        assert [t[2] for t in note_times(path)] == pytest.approx(
            [t[2] for t in expected], abs=0.0011
        )
    assert report.stats.n_notes == 2


def test_json_has_the_promised_shape(source: Path) -> None:
    options = LiveOptions(str(source), block=128)
    table = json.loads(json.dumps(run_live(options, engine=engine()).to_json()))
    assert set(table) == {
        "version", "model", "timbre", "sample_rate", "block", "device", "latency_ms", "step_ms",
        "rtf", "xruns", "late_hops", "dropped_events", "notes",
    }  # fmt: skip
    assert set(table["latency_ms"]) == {"algorithm", "buffer", "device", "total"}
    assert set(table["step_ms"]) == {"p50", "p95", "max"}
    assert table["timbre"] == "test"
    assert (table["sample_rate"], table["block"], table["notes"]) == (RATE, 128, 2)
    assert table["latency_ms"]["algorithm"] == pytest.approx(6.125)
    assert table["latency_ms"]["buffer"] == pytest.approx(2.667)
    assert table["latency_ms"]["total"] == pytest.approx(8.792)
    assert 0 < table["step_ms"]["p50"] <= table["step_ms"]["p95"] <= table["step_ms"]["max"]
    assert table["rtf"] > 0
    assert (table["xruns"], table["late_hops"], table["dropped_events"]) == (0, 0, 0)


def test_realtime_pace_waits_for_the_sound_and_fast_does_not(source: Path) -> None:
    duration_s = len(take()) / RATE
    for pace, waited_s in (("realtime", duration_s), ("fast", 0.0)):
        time = FakeTime()
        options = LiveOptions(str(source), pace=pace, osc="off")  # type: ignore[arg-type]
        report = run_live(options, engine=engine(), clock=time.clock, sleep=time.sleep)
        assert time.waited_s == pytest.approx(waited_s)
        assert report.stats.late_hops == 0


def test_late_blocks_are_counted(source: Path) -> None:
    slow = FakeTime(step_s=0.01)  # each step takes 10 ms or more, a block lasts 2.7 ms
    options = LiveOptions(str(source), pace="realtime", osc="off")
    report = run_live(options, engine=engine(), clock=slow.clock, sleep=slow.sleep)
    assert report.stats.late_hops == report.stats.step.n == -(-len(take()) // 128)
    assert report.to_json()["step_ms"]["p50"] == pytest.approx(10.0, rel=0.02)
    assert report.to_json()["rtf"] == pytest.approx(10.0 / (128000 / RATE), rel=0.02)


def test_the_start_is_told_with_the_latency_before_any_sound(source: Path) -> None:
    told: list[tuple[LiveReport, int]] = []
    progress: list[tuple[int, int]] = []
    e = engine()
    run_live(
        LiveOptions(str(source)),
        engine=e,
        on_start=lambda report: told.append((report, e.n_samples)),
        progress=lambda *done: progress.append(done),
    )
    ((report, n_samples),) = told
    assert n_samples == 0
    assert report.to_json()["latency_ms"]["total"] > 0
    assert progress[-1] == (len(take()), len(take()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_session_in_order(number: int, source: Path, tmp_path: Path) -> None:
    """The signal comes while the first note sounds."""
    wav, midi = tmp_path / "out.wav", tmp_path / "out.mid"
    e = engine()
    process = e.process

    def process_then_signal(block: np.ndarray) -> tuple[np.ndarray, list[NoteEvent]]:
        if e.n_samples == 75 * 128:
            os.kill(os.getpid(), number)
        return process(block)

    e.process = process_then_signal  # type: ignore[method-assign]
    before = signal.getsignal(number)
    report = run_live(LiveOptions(str(source), str(wav), (str(midi),)), engine=e)
    assert signal.getsignal(number) is before
    assert report.interrupted
    assert 76 * 128 <= soundfile.info(wav).frames < len(take())
    assert soundfile.info(wav).frames == report.stats.n_samples
    assert [t[:2] for t in note_times(midi)] == [("note_on", 69), ("note_off", 69)]


def test_an_error_in_the_middle_leaves_the_old_files(source: Path, tmp_path: Path) -> None:
    wav, midi = tmp_path / "out.wav", tmp_path / "out.mid"
    wav.write_bytes(b"old")
    e = engine()

    def broken(_block: np.ndarray) -> tuple[np.ndarray, list[NoteEvent]]:
        raise RuntimeError("a bug")

    e.warm_up = lambda: None  # type: ignore[method-assign]
    e.process = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a bug"):
        run_live(LiveOptions(str(source), str(wav), (str(midi),)), engine=e)
    assert wav.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.wav", "out.wav"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"input": "missing.wav"}, AudioFileError, "no such file"),
        ({"output": "out.mp3"}, AudioFileError, "wanted .wav or .flac"),
        ({"output": "nowhere/out.wav"}, AudioFileError, "no such folder"),
        ({"midi": ("nowhere/out.mid",)}, AudioFileError, "no such folder"),
        ({"block": 0}, ConfigError, "expected 1 to"),
        ({"rate": 4000}, ConfigError, "8000 to 192000"),
        ({"pace": "slow"}, ConfigError, "fast or realtime"),
        ({"pace": "fast", "output": "speakers"}, ConfigError, "sets its own pace"),
        ({"pace": "fast", "input": "mic"}, ConfigError, "sets its own pace"),
        ({"osc": "127.0.0.1:99999"}, ConfigError, "expected HOST:PORT"),
        ({"osc": "off", "osc_to": "127.0.0.1:9721"}, ConfigError, "needs OSC"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    change: dict[str, object], error: type[Exception], words: str, source: Path
) -> None:
    e = engine()
    options = replace(LiveOptions(str(source)), **change)  # type: ignore[arg-type]
    with pytest.raises(error, match=words):
        run_live(options, engine=e)
    assert e.n_samples == 0


# -- a sound card ---------------------------------------------------------------------------------


class FakeCard:
    """A sound card on a thread: it calls as fast as it can, but waits for the worker to follow.

    Calls are counted in `n_calls`; the test's `script` is told the number before each one.
    """

    cards: ClassVar[list[FakeCard]] = []
    sample_rate = RATE
    latency_samples = 96
    portion = 256

    def __init__(
        self, source: str | None, output: str | None, rate: int | None, block: int, callback: Any
    ) -> None:
        self.source, self.output = source or "", output or ""
        self.callback = callback
        self.session: Session = callback.__self__
        self.script: Callable[[int], None] = lambda k: None
        self.sound = take().astype(np.float32)
        self.heard: list[np.ndarray] = []
        self.alive, self.closed = True, False
        self._thread = threading.Thread(target=self._call, daemon=True)
        FakeCard.cards.append(self)

    def start(self) -> None:
        self._thread.start()

    def is_alive(self) -> bool:
        return self.alive

    def close(self) -> None:
        self.closed, self.alive = True, False
        if self._thread.ident is not None:
            self._thread.join()

    def _call(self) -> None:
        tick, n, path = threading.Event(), self.portion, self.session._path
        assert path is not None
        told = -1
        while self.alive:
            worker = self.session._worker
            if worker is None or not path.running:
                tick.wait(0.0005)
            elif worker._position < path.now and not worker.error:
                tick.wait(0.0005)
                continue
            at = path.now
            if at // n > told and at:
                told = at // n
                self.script(told)
            x = np.zeros((n, 2), np.float32)
            part = self.sound[at : at + n]
            x[: len(part), 1] = part  # the channel that was asked for is the last
            y = np.zeros((n, 2), np.float32)
            self.callback(x if self.source else None, y if self.output else None, False)
            if path.now > at:
                self.heard.append(y[:, 0])


@pytest.fixture
def cards() -> Iterator[list[FakeCard]]:
    FakeCard.cards = []
    yield FakeCard.cards
    for card in FakeCard.cards:
        card.close()


@contextlib.contextmanager
def live(options: LiveOptions, e: Engine | None = None) -> Iterator[tuple[Session, FakeCard]]:
    with Session(options, engine=e or engine(), stream=FakeCard) as session:
        yield session, FakeCard.cards[-1]


N_CALLS = -(-len(take()) // FakeCard.portion)


def test_a_card_hears_the_engine_after_the_stated_latency(cards: list[FakeCard]) -> None:
    with live(LiveOptions("in", "out", osc="off")) as (session, card):
        report = session.report()
        card.script = lambda k: session.stop() if k > N_CALLS else None
        session.run()
    latency = report.to_json()["latency_ms"]
    assert latency["buffer"] == pytest.approx(256 / 48, abs=1e-3)
    assert latency["device"] == 2.0
    assert report.device == "in -> out"
    assert report.connected == ("in: in", "out: out")
    expected, _ = engine().process(card.sound)
    y = np.concatenate(card.heard)[256 : 256 + len(expected)]
    np.testing.assert_array_equal(y, expected[: len(y)])
    assert np.abs(y).max() > 0.05
    assert card.closed
    assert session.report().interrupted
    assert session.stats.xruns == 0
    assert session.stats.n_notes == 2


def test_what_a_card_plays_is_written_to_files(cards: list[FakeCard], tmp_path: Path) -> None:
    wav, midi = tmp_path / "out.wav", tmp_path / "out.mid"
    with live(LiveOptions("in", str(wav), (str(midi),), osc="off")) as (session, card):
        card.script = lambda k: session.stop() if k > N_CALLS else None
        session.run()
    y, rate = soundfile.read(wav, dtype="float32")
    assert (rate, len(y)) == (RATE, session.stats.n_samples)
    expected, _ = engine().process(card.sound)
    np.testing.assert_allclose(y[: len(expected)], expected[: len(y)], atol=2**-22)
    assert [t[:2] for t in note_times(midi)] == [("note_on", 69), ("note_off", 69)] * 2


def test_a_file_is_played_to_its_end_on_a_card(
    cards: list[FakeCard], source: Path, tmp_path: Path
) -> None:
    midi = tmp_path / "out.mid"
    with live(LiveOptions(str(source), "out", (str(midi),), osc="off")) as (session, card):
        session.run()
    x, _ = soundfile.read(source, dtype="float32")
    expected, _ = engine().process(x)
    y = np.concatenate(card.heard)[256:]
    np.testing.assert_array_equal(y[: len(x)], expected)
    assert not session.report().interrupted
    assert session.stats.n_samples == len(x)
    assert session.stats.xruns == 0
    assert len(note_times(midi)) == 4


def test_an_engine_at_another_rate_than_the_card_says_what_that_costs(
    cards: list[FakeCard],
) -> None:
    with live(LiveOptions("in", "out", osc="off", rate=32000), engine(32000)) as (session, card):
        card.script = lambda k: session.stop() if k > N_CALLS else None
        report = session.report()
        session.run()
    assert report.sample_rate == 32000
    own = Engine.latency_samples.fget(engine(32000))  # type: ignore[attr-defined]
    assert report.latency.algorithm_samples > own
    assert report.latency.buffer_ms == pytest.approx(256 / 48, abs=0.1)
    assert np.abs(np.concatenate(card.heard)).max() > 0.05
    assert session.stats.xruns == 0


def test_a_lost_card_lets_the_notes_go_and_is_opened_again(
    cards: list[FakeCard], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session_module, "RETRY_S", 0.01)
    events: list[NoteEvent] = []
    states: list[str] = []
    refusals = iter([True, True, False])
    back: list[FakeCard] = []
    middle = N_CALLS // 4  # the first note sounds

    def open_card(*args: Any) -> FakeCard:
        if not FakeCard.cards:
            return FakeCard(*args)
        states.append(session.snapshot().state)
        if next(refusals):
            raise DeviceError("not yet")
        back.append(card := FakeCard(*args))
        card.script = lambda k: session.stop() if k > middle + 50 else None
        return card

    with Session(LiveOptions("in", "out", osc="off"), engine=engine(), stream=open_card) as session:
        session.player.on_events.append(lambda new, _at: events.extend(new))
        (card,) = cards

        def lose(k: int) -> None:
            if k == middle:
                card.alive = False

        card.script = lose
        session.run()
    assert states == ["device lost"] * 3
    assert session.stats.n_device_lost == 1
    assert card.closed
    assert len(back) == 1
    assert len(back[0].heard) > 10
    kinds = [e.kind for e in events if e.kind != "pitch"]
    assert kinds[:2] == ["on", "off"]
    assert session.snapshot().state == "stopped"
    assert [r.message for r in caplog.records] == [
        "in -> out is gone; playing goes on when it is back", "in -> out is back",
    ]  # fmt: skip


def test_an_error_of_the_engine_comes_after_all_is_closed(
    cards: list[FakeCard], tmp_path: Path
) -> None:
    wav, e = tmp_path / "out.wav", engine()
    process = e.process

    def breaks(block: np.ndarray) -> tuple[np.ndarray, list[NoteEvent]]:
        if e.n_samples > RATE // 4:
            raise RuntimeError("a bug")
        return process(block)

    e.process = breaks  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a bug"), live(LiveOptions("in", str(wav)), e) as (s, _):
        s.run()
    assert soundfile.info(wav).frames > RATE // 4  # what was played is kept
    assert cards[0].closed


def test_a_full_disk_ends_the_session_and_keeps_what_there_is(
    cards: list[FakeCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav = tmp_path / "out.wav"
    write = AudioWriter.write

    def full(self: AudioWriter, block: np.ndarray) -> None:
        if self.n_samples > RATE // 4:
            raise AudioFileError("the disk is full")
        write(self, block)

    monkeypatch.setattr(AudioWriter, "write", full)
    with (
        pytest.raises(AudioFileError, match="disk is full"),
        live(LiveOptions("in", str(wav), osc="off")) as (session, _),
    ):
        session.run()
    assert RATE // 4 < soundfile.info(wav).frames < RATE // 2
    assert cards[0].closed


def test_what_ignores_a_signal_goes_on_ignoring_it(cards: list[FakeCard]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with live(LiveOptions("in", "out", osc="off")):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_card_session(number: int, cards: list[FakeCard]) -> None:
    events: list[NoteEvent] = []
    with live(LiveOptions("in", "out", osc="off")) as (session, card):
        session.player.on_events.append(lambda new, _at: events.extend(new))
        card.script = lambda k: os.kill(os.getpid(), number) if k == N_CALLS // 4 else None
        session.run()
    assert session.report().interrupted
    kinds = [e.kind for e in events if e.kind != "pitch"]
    assert kinds == ["on", "off"] * max(1, len(kinds) // 2)


def test_a_signal_during_the_start_ends_it_before_any_sound(
    cards: list[FakeCard], tmp_path: Path
) -> None:
    wav, e = tmp_path / "out.wav", engine()
    wav.write_bytes(b"old")
    warm_up = e.warm_up

    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        warm_up()

    e.warm_up = interrupted  # type: ignore[method-assign]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), live(LiveOptions("in", str(wav), osc="off"), e):
        raise AssertionError("it is open")
    assert cards[0].closed
    assert wav.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_silent_card_is_said(cards: list[FakeCard], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCard, "start", lambda self: None)
    monkeypatch.setattr(session_module, "_FIRST_CALLS_S", 0.01)
    with (
        pytest.raises(DeviceError, match="in -> out: the sound card is open but silent"),
        live(LiveOptions("in", "out", osc="off")),
    ):
        pass
    assert cards[0].closed


# -- OSC ------------------------------------------------------------------------------------------


def test_a_control_reaches_the_engine_and_the_snapshot(cards: list[FakeCard]) -> None:
    states: list[str] = []
    with live(LiveOptions("in", "out", osc="127.0.0.1:0")) as (session, card):
        assert session._desk is not None
        desk = session._desk

        def move(k: int) -> None:
            if k == 10:
                desk.set("/v3/bypass", (1,))
            elif k == 20:
                states.append(session.snapshot().state)
                desk.set("/v3/bypass", (0,))
                desk.set("/v3/enable", (0,))
            elif k == 30:
                states.append(session.snapshot().state)
                session.stop()

        card.script = move
        session.run()
    assert states == ["bypassed", "off"]
    assert any("OSC 127.0.0.1:" in words for words in session.report().connected)


def test_bypass_and_panic_reach_the_midi_ports(cards: list[FakeCard]) -> None:
    panics: list[int] = []
    with live(LiveOptions("in", "out", osc="127.0.0.1:0")) as (session, _):
        session._midi = SimpleNamespace(  # type: ignore[assignment]
            panic=lambda: panics.append(1), n_dropped=3, ports=("synth",)
        )
        assert session._desk is not None
        session._desk.set("/v3/bypass", (1,))
        session.panic()
        assert len(panics) == 2
        assert session.snapshot().midi == ("synth",)
        assert session.snapshot().dropped_events == 3


def test_without_a_word_about_osc_a_taken_port_is_no_reason_not_to_play(
    cards: list[FakeCard], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(options_module, "OSC_PORT", port)
        with live(LiveOptions("in", "out")) as (session, _):
            assert session.snapshot().osc == ""
        assert "playing goes on without OSC" in caplog.text
        with (
            pytest.raises(DeviceError, match=str(port)),
            live(LiveOptions("in", "out", osc=f"127.0.0.1:{port}")),
        ):
            pass


def test_files_with_osc_are_paced_and_can_be_controlled(source: Path) -> None:
    time = FakeTime()
    options = LiveOptions(str(source), osc="127.0.0.1:0")
    with Session(options, engine=engine(), clock=time.clock, sleep=time.sleep) as session:
        assert session._desk is not None
        session._desk.set("/v3/enable", (0,))
        session.run()
    assert time.waited_s == pytest.approx(len(take()) / RATE)
    assert session.stats.n_notes == 0


@pytest.mark.parametrize(
    ("change", "realtime", "osc"),
    [
        ({}, False, False),
        ({"midi": ("a.mid",)}, False, False),
        ({"midi": ("virtual",)}, True, True),
        ({"output": "speakers"}, True, True),
        ({"input": "mic"}, True, True),
        ({"pace": "realtime"}, True, True),
        ({"pace": "realtime", "osc": "off"}, True, False),
        ({"osc": ":9000"}, True, True),
        ({"osc": ":9000", "pace": "fast"}, False, True),
        ({"osc_to": ":9001"}, True, True),
    ],
)
def test_osc_and_pace_follow_from_what_is_played(
    change: dict[str, Any], realtime: bool, osc: bool, source: Path
) -> None:
    p = plan(replace(LiveOptions(str(source)), **change))
    assert (p.realtime, p.osc is not None) == (realtime, osc)


def test_a_capture_records_and_reports(
    cards: list[FakeCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The making itself, which is another process's, is left out here."""
    said: list[tuple[Any, ...]] = []
    reported = threading.Event()
    recorded: list[np.ndarray] = []
    new = replace(TIMBRE, name="mine", note_range=(60, 72))

    def made(self: Capture) -> Timbre:
        recorded.append(self._sound[: self._n])
        return new

    def say(*message: Any) -> None:
        said.append(message)
        if message[0] == "/v3/capture/report":
            reported.set()

    monkeypatch.setattr(Capture, "_made_timbre", made)
    with live(LiveOptions("in", "out", osc="127.0.0.1:0")) as (session, card):
        assert session._osc is not None and session._desk is not None
        monkeypatch.setattr(session._osc, "say", say)
        with pytest.raises(ControlError, match="capture/start"):
            session.capture_stop()
        session.capture_start("mine")

        def stop(k: int) -> None:
            if k == N_CALLS:
                session.capture_stop()
                session.stop()

        card.script = stop
        session.run()
        assert reported.wait(60)
        assert "mine" in session._desk.names
    x = card.sound[: len(recorded[0])]
    assert len(x) > RATE // 2
    np.testing.assert_array_equal(recorded[0][: len(x)], x)
    assert said[-1] == ("/v3/capture/report", "mine", 60.0, 72.0)
    progress = [m[1] for m in said if m[0] == "/v3/capture/progress"]
    assert progress == sorted(progress)
    assert 0.05 < progress[-1] <= 1.0


def test_the_core_of_a_session_loads_no_sound_card_library() -> None:
    code = "import sys, realtime.session, realtime.audio_io; print('sounddevice' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
