"""A live session from file to file: length, events, figures, and the orderly end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile
import torch

from realtime.session import EventRecorder, LiveOptions, LiveReport, run_live
from v3audio.engine import Engine
from v3audio.errors import AudioFileError, ConfigError, DeviceError
from v3audio.notes import FrameNotes, NoteEvent
from v3audio.renderer import Renderer, RendererConfig, RendererNet
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
    return Engine(TIMBRE, rate, hearing=LoudIsA4(), renderer=Renderer(net, rate))


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
        options = LiveOptions(str(source), pace=pace)  # type: ignore[arg-type]
        report = run_live(options, engine=engine(), clock=time.clock, sleep=time.sleep)
        assert time.waited_s == pytest.approx(waited_s)
        assert report.stats.late_hops == 0


def test_late_blocks_are_counted(source: Path) -> None:
    slow = FakeTime(step_s=0.01)  # each step takes 10 ms or more, a block lasts 2.7 ms
    options = LiveOptions(str(source), pace="realtime")
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
    "change",
    [
        {"input": "mic"},
        {"input": "Scarlett 2i2 USB"},
        {"output": "speakers"},
        {"output": "Built-in Output"},
        {"midi": ("virtual",)},
        {"midi": ("osc:127.0.0.1:9000",)},
        {"osc": "127.0.0.1:9720"},
    ],
)
def test_what_comes_later_is_refused_with_what_works_today(
    change: dict[str, object], source: Path
) -> None:
    options = replace(LiveOptions(str(source)), **change)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="from file to file") as caught:
        run_live(options, engine=engine())
    assert "\n" not in str(caught.value)
    assert str(next(iter(change.values()))).strip("(),'") in str(caught.value)


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


def test_bends_within_the_dead_band_are_not_kept() -> None:
    recorder = EventRecorder()
    recorder.add([NoteEvent("on", 0, 60, 90, 0.0, 1.0)])
    bends = [1.0, 2.9, 3.1, 5.0, 7.0, 3.9]
    recorder.add([NoteEvent("pitch", k, 60, 90, cents, 1.0) for k, cents in enumerate(bends)])
    recorder.add([NoteEvent("off", 9, 60, 0, 0.0, 1.0)])
    assert [e.cents for e in recorder if e.kind == "pitch"] == [3.1, 7.0, 3.9]
    assert [e.kind for e in recorder][:1] == ["on"]
    assert [e.kind for e in recorder][-1:] == ["off"]
    assert recorder.n_notes == 1


def test_the_core_of_a_session_loads_no_sound_card_library() -> None:
    code = "import sys, realtime.session, realtime.audio_io; print('sounddevice' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
