"""What a player sees while playing: one quiet line, or a panel; both from `Session.snapshot`.

The line is a few words of text, written twice a second. The panel is drawn by rich, whose Python
holds the interpreter for milliseconds at a time, which the engine would feel; so another process
draws it (`python -m v3audio.cli.status`), fed with one line of JSON per snapshot.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any

from v3audio.cli.common import complain, messages_to
from v3audio.settings import note_name

if TYPE_CHECKING:
    from rich.console import RenderableType

    from realtime.stats import SessionStats, Snapshot

LINE_HZ, PANEL_HZ = 2.0, 6.0
PANEL_WIDTH = 76
METER_FLOOR_DB = -60.0
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_END_S = 1.0  # how long the panel's process may take to end


@contextlib.contextmanager
def watch(snapshot: Callable[[], Snapshot], tui: bool = False) -> Iterator[None]:
    """Show a session as long as the block runs; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    with _panel_process() if tui else _line() as show:
        done = threading.Event()
        thread = threading.Thread(
            target=_every, args=(1 / (PANEL_HZ if tui else LINE_HZ), done, snapshot, show),
            name="status", daemon=True,
        )  # fmt: skip
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(_END_S)


def _every(
    period_s: float, done: threading.Event, snapshot: Callable[[], Snapshot],
    show: Callable[[Snapshot], None],
) -> None:  # fmt: skip
    while not done.wait(period_s):
        try:
            show(snapshot())
        except OSError:  # the terminal, or the process that draws, has gone; the sound goes on
            return


# --- the line ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _line() -> Iterator[Callable[[Snapshot], None]]:
    def show(snapshot: Snapshot) -> None:
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"\r{status_line(snapshot)[:width]}\x1b[K")
        sys.stderr.flush()

    try:
        yield show
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def status_line(s: Snapshot) -> str:
    """A session in one line, what matters most first, so that a narrow terminal may cut it."""
    words = [
        f"{_note(s):<8}",
        f"in {meter(s.input_db, 10)} {s.input_db:4.0f} dB",
        *([s.state] if s.state != "playing" else []),
        *(["REC"] if s.recording else []),
        s.timbre,
        f"{s.latency.total_ms:.1f} ms",
        f"xruns {xruns_in_words(s)}",
        f"cpu {s.cpu:.0%}",
        *([f"MIDI {', '.join(s.midi)}"] if s.midi else []),
        *([f"OSC {s.osc}"] if s.osc else []),
    ]
    return "  ".join(words)


def meter(level_db: float, n_cells: int) -> str:
    """A bar from `METER_FLOOR_DB` to 0 dBFS in eighths of a cell, always `n_cells` wide."""
    share = min(max(1.0 - level_db / METER_FLOOR_DB, 0.0), 1.0)
    full, eighth = divmod(round(share * n_cells * 8), 8)
    return ("█" * full + _EIGHTHS[eighth] * (full < n_cells)).ljust(n_cells)


def _note(s: Snapshot) -> str:
    return "-" if s.note is None else f"{note_name(s.note)} {s.cents:+.0f}c"


def xruns_in_words(s: Snapshot | SessionStats) -> str:
    """How many gaps, and whose fault they were."""
    causes = {
        "engine late": s.underruns, "input lost": s.overruns, "sound card": s.device_xruns,
    }  # fmt: skip
    told = ", ".join(f"{n} {cause}" for cause, n in causes.items() if n)
    return f"{s.xruns} ({told})" if told else str(s.xruns)


# --- the panel -----------------------------------------------------------------------------------


def panel(s: Snapshot, message: str = "") -> RenderableType:
    """The same as a panel with meters, for rich to draw."""
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(no_wrap=True)
    pitch = "" if s.note is None else f"{s.pitch_hz:8.1f} Hz   sure {s.confidence:4.0%}"
    a = s.latency
    rows.add_row("note", Text.assemble((f"{_note(s):<10}", "bold"), pitch))
    for name, level_db in (("in", s.input_db), ("out", s.output_db)):
        colour = "red" if level_db > -1 else "yellow" if level_db > -6 else "green"
        bar = Text.assemble((meter(level_db, 30), colour), f" {level_db:6.1f} dB")
        rows.add_row(name, bar)
    rows.add_row("latency", f"{a.total_ms:.1f} ms   algorithm {a.algorithm_ms:.1f}, "
                 f"buffer {a.buffer_ms:.1f}, device {a.device_ms:.1f}")  # fmt: skip
    rows.add_row("load", f"{s.cpu:.0%} cpu, step {s.step_p99_ms:.2f} ms (99 %)")
    rows.add_row("xruns", Text(xruns_in_words(s), "yellow" if s.xruns else ""))
    late = f"{s.late_hops} blocks late, {s.dropped_events} notes dropped"
    rows.add_row("", Text(late, "yellow" if s.late_hops or s.dropped_events else "dim"))
    rows.add_row("MIDI", ", ".join(s.midi) or "-")
    rows.add_row("OSC", s.osc or "-")
    rows.add_row("notes", f"{s.n_notes}{'   recording a take' if s.recording else ''}")
    if message:
        rows.add_row("", Text(message, "yellow"))
    minutes, seconds = divmod(int(s.elapsed_s), 60)
    return Panel(
        rows, title=f"v3audio  {s.timbre}  {s.state}  {minutes}:{seconds:02d}", title_align="left",
        subtitle="Ctrl-C ends it", subtitle_align="right", width=PANEL_WIDTH,
        border_style="red" if s.state == "device lost" else "none",
    )  # fmt: skip


@contextlib.contextmanager
def _panel_process() -> Iterator[Callable[[Snapshot], None]]:
    """A process that draws what it is sent; our warnings go through it too."""
    process = subprocess.Popen(
        [sys.executable, "-m", "v3audio.cli.status"], stdin=subprocess.PIPE, bufsize=0
    )
    pipe = process.stdin
    assert pipe is not None
    if sys.platform != "win32":  # where the terminal is held (Ctrl-S), snapshots are left out
        os.set_blocking(pipe.fileno(), False)

    def send(**table: Any) -> None:
        pipe.write(json.dumps(table).encode() + b"\n")  # less than a pipe takes at once or not

    def tell(text: str) -> None:
        try:
            send(message=text)
        except OSError:
            complain(text)

    try:
        with messages_to(tell):
            yield lambda snapshot: send(**asdict(snapshot))
    finally:
        pipe.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def draw(lines: Iterable[str], file: IO[str]) -> None:
    """Draw snapshots, one line of JSON each, and messages, until there are no more."""
    from rich.console import Console
    from rich.live import Live

    from realtime.stats import Latency, Snapshot

    message = ""
    with Live(console=Console(file=file), auto_refresh=False, transient=True) as live:
        for line in lines:
            table = json.loads(line)
            if "message" in table:
                message = table["message"]
                live.console.print(message, highlight=False)
                continue
            snapshot = Snapshot(**table | {"latency": Latency(**table["latency"])})
            live.update(panel(snapshot, message), refresh=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the player's word to the session
    if hasattr(os, "nice"):
        os.nice(5)
    draw(sys.stdin, sys.stderr)
