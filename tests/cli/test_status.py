"""What a player sees: the line, the panel, and the process that draws it, in a real terminal."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import pty
import re
import select
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from realtime.stats import Latency, Snapshot
from v3audio.cli import common, status

PLAYING = Snapshot(
    state="playing", timbre="flute", elapsed_s=75.4, input_db=-18.3, output_db=-20.1, note=69,
    cents=12.4, pitch_hz=443.1, confidence=0.98, latency=Latency(294, 256, 128, 48_000), xruns=0,
    underruns=0, overruns=0, device_xruns=0, late_hops=0, dropped_events=0, cpu=0.23,
    step_p99_ms=0.91, n_notes=44, osc="/v3/mix 0.5", midi=("synth", "drums (lost)"),
    recording=False,
)  # fmt: skip
IN_TROUBLE = replace(
    PLAYING, state="device lost", note=None, xruns=6, underruns=1, overruns=2, device_xruns=3,
    late_hops=4, dropped_events=5, recording=True, osc="", midi=(),
)  # fmt: skip


def drawn(snapshot: Snapshot, message: str = "") -> str:
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(status.panel(snapshot, message))
    return console.export_text()


def test_the_line_says_what_matters_in_order() -> None:
    line = status.status_line(PLAYING)
    parts = ["A4 +12c", "in ", "-18 dB", "flute", "14.1 ms", "xruns 0", "cpu 23%",
             "MIDI synth, drums (lost)", "OSC /v3/mix 0.5"]  # fmt: skip
    assert [line.index(p) for p in parts] == sorted(line.index(p) for p in parts)
    assert "playing" not in line  # that goes without saying


def test_the_line_says_what_is_wrong_and_whose_fault_it_was() -> None:
    line = status.status_line(IN_TROUBLE)
    assert line.startswith("-  ")
    for part in ("device lost", "REC", "xruns 6 (1 engine late, 2 input lost, 3 sound card)"):
        assert part in line
    assert "OSC" not in line and "MIDI" not in line


def test_the_panel_shows_everything() -> None:
    text = drawn(PLAYING, "a warning")
    for part in ("flute  playing  1:15", "A4 +12c", "443.1 Hz", "98%", "-18.3 dB", "-20.1 dB",
                 "14.1 ms   algorithm 6.1, buffer 5.3, device 2.7", "23% cpu", "0.91 ms",
                 "0 blocks late, 0 notes dropped", "synth, drums (lost)", "/v3/mix 0.5", "44",
                 "a warning", "Ctrl-C"):  # fmt: skip
        assert part in text, part
    text = drawn(IN_TROUBLE)
    for part in ("device lost", "recording a take", "6 (1 engine late, 2 input lost, 3 sound card)",
                 "4 blocks late, 5 notes dropped"):
        assert part in text, part


@pytest.mark.parametrize(
    ("level_db", "bar"),
    [(-120, "    "), (-60, "    "), (-45, "█   "), (-37.5, "█▌  "), (0, "████"), (6, "████")],
)
def test_the_meter(level_db: float, bar: str) -> None:
    assert status.meter(level_db, 4) == bar


def test_what_has_no_terminal_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)

    def never() -> Snapshot:
        raise AssertionError("asked for a snapshot")

    for tui in (False, True):
        with status.watch(never, tui):
            assert "status" not in {t.name for t in threading.enumerate()}
    assert written.getvalue() == ""


@contextlib.contextmanager
def terminal() -> Iterator[Callable[[str], str]]:
    """Make stderr a terminal, its descriptor too; reads it until some words are there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before = os.dup(2), sys.stderr
    os.dup2(theirs, 2)
    seen = b""

    def until(words: str) -> str:
        nonlocal seen
        while words not in (text := plain(seen)):
            ready, _, _ = select.select([ours], [], [], 30.0)
            assert ready, f"no '{words}' in {text!r}"
            seen += os.read(ours, 65_536)
        seen = b""
        return text

    try:
        with open(theirs, "w", closefd=False) as sys.stderr:
            yield until
    finally:
        sys.stderr = before[1]
        os.dup2(before[0], 2)
        for descriptor in (before[0], ours, theirs):
            os.close(descriptor)


def plain(seen: bytes) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    common._log_to_stderr()
    yield logging.getLogger("realtime.session")


@pytest.mark.parametrize(("tui", "words"), [(False, "xruns 0"), (True, "notes dropped")])
def test_it_is_shown_and_goes_away(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch, tui: bool, words: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    now = PLAYING
    with terminal() as until:
        with status.watch(lambda: now, tui):
            assert "flute" in until(words)
            now = replace(now, timbre="oboe")
            until("oboe")
            log.warning("port 'synth' is lost")
            until("port 'synth' is lost")
            until("oboe")  # and it goes on
        assert "status" not in {t.name for t in threading.enumerate()}
        log.warning("back on stderr")
        until("v3audio: back on stderr")


def test_a_panel_that_died_costs_nothing_but_the_panel(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")  # ends at once, and reads nothing
    ended, show = threading.Event(), status._every

    def until_it_ends(*given: object) -> None:
        show(*given)  # type: ignore[arg-type]
        ended.set()

    monkeypatch.setattr(status, "_every", until_it_ends)
    with terminal() as until, status.watch(lambda: PLAYING, tui=True):
        assert ended.wait(30.0)
        log.warning("a port is lost")
        until("v3audio: a port is lost")


def test_a_panel_that_hangs_holds_nobody_up(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stuck = tmp_path / "stuck"
    stuck.write_text("#!/bin/sh\nexec sleep 1000\n")
    stuck.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stuck))
    monkeypatch.setattr(status, "PANEL_HZ", 5_000.0)
    monkeypatch.setattr(status, "_END_S", 0.05)
    n, many = 0, threading.Event()

    def snapshot() -> Snapshot:
        nonlocal n
        n += 1
        if n > 500:  # more than the pipe holds
            many.set()
        return PLAYING

    with terminal(), status.watch(snapshot, tui=True):
        assert many.wait(30.0)
    assert "status" not in {t.name for t in threading.enumerate()}


def test_the_panels_process_takes_snapshots_and_messages() -> None:
    out = io.StringIO()
    lines = [json.dumps(asdict(PLAYING)), json.dumps({"message": "hello"}),
             json.dumps(asdict(IN_TROUBLE))]  # fmt: skip
    status.draw(lines, out)
    assert "hello" in out.getvalue()
