"""What all commands share: how they end, how they report progress, common options."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from v3audio.errors import V3AudioError

if TYPE_CHECKING:
    from v3audio.live_hearing import LiveHearing

Job = TypeVar("Job")

Progress = Callable[[int, int], None]  # told work done and work in all

DONE, OUR_FAULT, USERS_FAULT = 0, 1, 2
_TYPER_STOPPED = 130

TimbreOption = Annotated[
    str,
    typer.Option(
        "--timbre", metavar="NAME|FILE|BLEND", help="For example flute or flute:0.7,trumpet:0.3."
    ),
]
TransposeOption = Annotated[
    float, typer.Option("--transpose", min=-36, max=36, metavar="N", help="Semitones.")
]
MixOption = Annotated[
    float, typer.Option("--mix", min=0, max=1, help="0 the input as it came, 1 the timbre alone.")
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Name or folder of a model.",
                 show_default="the shipped one"),
]  # fmt: skip

# typer carries its own copy of click or imports click, depending on its version; take the base of
# all usage errors from whichever it is
_UsageProblem: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)


class Commands(TyperGroup):
    """The command tree, with the exit codes promised: 0 done or stopped, 1 ours, 2 the user's."""

    def invoke(self, ctx: Any) -> Any:
        """Run one command; Ctrl-C, SIGTERM and SIGHUP end it in order, which is no failure."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            complain("stopped")
            raise typer.Exit(DONE) from None
        except BrokenPipeError:  # `v3audio timbres list | head`: the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(DONE) from None
        return result

    def main(self, *args: Any, **extra: Any) -> Any:
        """Parse the command line, run, and leave with the exit code."""
        _log_to_stderr()
        extra["standalone_mode"] = False
        try:
            with signals_like_ctrl_c():
                code = super().main(*args, **extra)
            if code == _TYPER_STOPPED:  # Ctrl-C came before the command itself began
                code = DONE
        except V3AudioError as e:
            complain(str(e))
            code = USERS_FAULT
        except _UsageProblem as e:
            context = getattr(e, "ctx", None)
            program = context.command_path if context else "v3audio"
            text = e.format_message()  # type: ignore[attr-defined]
            complain(f"{text.rstrip('.')}; type '{program} --help'", program)
            code = USERS_FAULT
        except KeyboardInterrupt:
            code = DONE
        sys.exit(code if isinstance(code, int) else DONE)


def complain(text: str, program: str = "v3audio") -> None:
    """One line on stderr, whatever `text` holds; a status line that stands there makes room."""
    erase = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(f"{erase}{program}: {' '.join(text.split())}", file=sys.stderr)


def signals_like_ctrl_c() -> AbstractContextManager[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt: `with` blocks close and clean up on each."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    return _handled_by(interrupt, "SIGTERM", "SIGHUP")


def leaving_at_once() -> AbstractContextManager[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP end the process: for imports, while nothing is open yet.

    An exception out of a signal inside the import of a compiled library can abort the process.
    """

    def leave(_number: int, _frame: FrameType | None) -> None:
        os.write(2, b"v3audio: stopped\n")
        os._exit(DONE)

    return _handled_by(leave, "SIGINT", "SIGTERM", "SIGHUP")


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None], *names: str) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name, None) for name in names]  # Windows has no SIGHUP
    before = {
        number: signal.signal(number, handler)
        for number in numbers
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN  # as under nohup
    }
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """Progress of long work: a bar with time left on a terminal, a line now and then elsewhere."""
    bar = _terminal_bar(label) if sys.stderr.isatty() else _plain_lines(label)
    with bar as told:
        yield told


@contextlib.contextmanager
def _terminal_bar(label: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextlib.contextmanager
def _plain_lines(label: str, every_s: float = 10.0) -> Iterator[Progress]:
    started_s = told_s = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if now_s - told_s < every_s or not 0 < done < total:
            return
        told_s = now_s
        left_s = (now_s - started_s) * (total - done) / done
        print(f"{label}: {done / total:.0%}, {left_s:.0f} s left", file=sys.stderr, flush=True)

    yield told


def for_each(label: str, jobs: Sequence[Job], work: Callable[[Job, Progress], None]) -> None:
    """Work on several files; a bad one costs a line and the exit code, never the others."""
    n_failed = 0
    with progress_bar(label) as told:
        for i, job in enumerate(jobs):

            def told_in_all(done: int, total: int, i: int = i) -> None:
                told(i * 1000 + 1000 * done // max(total, 1), len(jobs) * 1000)

            try:
                work(job, told_in_all)
            except V3AudioError as e:
                if len(jobs) == 1:
                    raise
                n_failed += 1
                complain(str(e))
    if n_failed:
        raise V3AudioError(f"{n_failed} of {len(jobs)} files failed; the others are done")


@functools.cache
def hearing(model: str | None) -> LiveHearing:
    """The model's hearing, loaded once for all files."""
    from v3audio.bundle import load_bundle

    return load_bundle(model).load_hearing()


def make_folder(folder: Path) -> None:
    """Make a folder for results, inside one that exists.

    Raises:
        V3AudioError: Its parent is missing, something else has its name, or the system refuses.
    """
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError:
        raise V3AudioError(
            f"{folder}: no folder {folder.parent}; make it first (mkdir -p '{folder.parent}')"
        ) from None
    except FileExistsError:
        raise V3AudioError(f"{folder}: is a file, wanted a folder; give another -o") from None
    except OSError as e:
        raise V3AudioError(f"{folder}: cannot be made ({e.strerror}); give another -o") from None


_LOGS = ("v3audio", "realtime")


class _OneLine(logging.Handler):
    show: Callable[[str], None] = staticmethod(complain)

    def emit(self, record: logging.LogRecord) -> None:
        self.show(record.getMessage())


@contextlib.contextmanager
def messages_to(show: Callable[[str], None]) -> Iterator[None]:
    """Give warnings to `show` instead of stderr, which something else draws on."""
    handlers = [
        h for name in _LOGS for h in logging.getLogger(name).handlers if isinstance(h, _OneLine)
    ]
    for handler in handlers:
        handler.show = show
    try:
        yield
    finally:
        for handler in handlers:
            handler.show = complain


def _log_to_stderr() -> None:
    for log in map(logging.getLogger, _LOGS):
        if not any(isinstance(h, _OneLine) for h in log.handlers):
            log.addHandler(_OneLine(logging.WARNING))
