"""The engine at work: block after block as the desk says, and the thread that does it live."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Protocol

import numpy as np
import soxr
from numpy.typing import NDArray

from realtime.ring import AudioPath
from realtime.stats import SessionStats
from v3audio.engine import Engine, Readout
from v3audio.notes import NoteEvent
from v3audio.threads import one_blas_thread

if TYPE_CHECKING:
    from realtime.controls import Desk

log = logging.getLogger(__name__)

Samples = NDArray[np.float32]
EventSink = Callable[[list[NoteEvent], int], None]
SoundSink = Callable[[Samples, Samples, list[NoteEvent], int], None]

MIN_PREFILL_S = 0.0025
"""The engine has at least this long for what the card hands over at once."""
MAX_BACKLOG_S = 0.1
"""A worker that is further behind than this skips what it missed."""
LATE_OFTEN, LATE_WITHIN_S, ONE_STALL_S = 3, 10.0, 0.25
"""So many stalls in so short a time, and the worker works one portion further ahead from then on;
late blocks nearer together than the last figure are one stall."""
MAX_MORE = 3
"""Portions that it will add at the most."""
_PRIORITY = 10  # real-time, below the sound server's own threads
_NICE = -11
_GC_S = 1.0
_READOUT_S = 0.01


class Player:
    """The engine with its controls and its listeners; files and sound cards use the same.

    Args:
        engine: what plays.
        stats: counts and times.
        clock: seconds, never backwards.

    Attributes:
        desk: what a musician moves; without one the engine stays as it is.
        on_events: told the events of a block, and the position of its first sample, if there are
            any. Must return at once.
        on_sound: told input, output, events and position of each block. Must return at once.
    """

    def __init__(
        self,
        engine: Engine,
        stats: SessionStats,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.engine = engine
        self.stats = stats
        self.on_events: list[EventSink] = []
        self.on_sound: list[SoundSink] = []
        self.desk: Desk | None = None
        self._clock = clock
        self._settings, self._voice = engine.settings, engine.timbre
        self._skipped = 0  # samples that the engine never saw
        self._busy_ms = 0.0
        self._busy_from = 0
        self._readout = engine.readout
        self._readouts_wanted = 0
        self._readout_at = 0

    @property
    def position(self) -> int:
        """Samples that have passed, skipped ones too."""
        return self.engine.n_samples + self._skipped

    def step(self, block: Samples) -> Samples:
        """Play one block (n,); gives as many samples back."""
        self._follow_desk()
        at = self.position
        before_s = self._clock()
        out, events = self.engine.process(block)
        step_ms = 1000.0 * (self._clock() - before_s)
        stats = self.stats
        stats.step.add(step_ms)
        stats.n_samples += len(block)
        stats.n_non_finite = self.engine.n_non_finite
        self._busy_ms += step_ms
        if (n := at - self._busy_from) >= self.engine.sample_rate:
            stats.cpu = self._busy_ms / 1000.0 * self.engine.sample_rate / n
            self._busy_ms, self._busy_from = 0.0, at
        if self._readouts_wanted and at - self._readout_at >= _READOUT_S * self.engine.sample_rate:
            self._readout, self._readout_at = self.engine.readout, at
            self._readouts_wanted -= 1
        events = self._tell(events, at)
        for sound_sink in self.on_sound:
            sound_sink(block, out, events, at)
        return out

    def panic(self) -> None:
        """Let go of what sounds."""
        self._tell(self.engine.panic(), self.position)

    def flush(self) -> None:
        """The stream has ended."""
        self._tell(self.engine.flush(), self.position)

    def skip(self, n: int) -> None:
        """The next `n` samples are missing: close what sounds and begin anew behind them."""
        self.flush()
        self._skipped = self.position + n
        self.engine.reset()

    def readout(self) -> Readout:
        """What the engine heard within the last 10 ms or, on the first look, before. Any thread."""
        self._readouts_wanted = round(1.0 / _READOUT_S)  # it is kept up for a second
        return self._readout

    def _follow_desk(self) -> None:
        if (desk := self.desk) is None:
            return
        if (settings := desk.now.settings) is not self._settings:
            self.engine.settings = self._settings = settings
        if (voice := desk.voice) is not self._voice:
            self.engine.timbre = self._voice = voice

    def _tell(self, events: list[NoteEvent], at: int) -> list[NoteEvent]:
        if not events:
            return events
        if self._skipped:
            events = [replace(event, sample=event.sample + self._skipped) for event in events]
        self.stats.n_notes += sum(event.kind == "on" for event in events)
        for sink in self.on_events:
            sink(events, at)
        return events


class Source(Protocol):
    """Where the worker's input comes from."""

    def read(self, n: int, at: int) -> Samples | None:
        """The next `n` samples, which stand at position `at`; fewer at the end, None after it."""
        ...


class CardSource:
    """What the sound card takes in."""

    def __init__(self, path: AudioPath) -> None:
        self._ring = path.to_engine

    def read(self, n: int, at: int) -> Samples:
        """See `Source`."""
        out = np.empty(n, np.float32)
        self._ring.read_into(out, at)
        return out


class FileSource:
    """Blocks of a file, read ahead on a thread of its own so that a slow disk disturbs nobody.

    Args:
        blocks: (n,) each.
        n_ahead: blocks.
    """

    def __init__(self, blocks: Iterator[Samples], n_ahead: int = 32) -> None:
        self._blocks = blocks
        self._ahead: queue.Queue[Samples | None] = queue.Queue(n_ahead)
        self._rest: Samples | None = np.zeros(0, np.float32)
        self._error: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._read_ahead, name="file", daemon=True)
        self._thread.start()

    def read(self, n: int, at: int) -> Samples | None:
        """See `Source`.

        Raises:
            AudioFileError: the file is damaged.
        """
        rest = self._rest
        while rest is not None and len(rest) < n and not self._closed:
            block = self._ahead.get()
            if block is None:
                self._rest = None
                if self._error is not None:
                    raise self._error
                return rest if len(rest) else None
            rest = np.concatenate((rest, block))
        if rest is None:
            return None
        self._rest = rest[n:]
        return rest[:n]

    def close(self) -> None:
        """Stop reading."""
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._ahead.get_nowait()
        self._thread.join(1.0)

    def _read_ahead(self) -> None:
        try:
            for block in self._blocks:
                self._ahead.put(block)
                if self._closed:
                    return
        except BaseException as e:
            self._error = e
        self._ahead.put(None)


class RateBridge:
    """Between a card and an engine of different sample rates: soxr's stream, each way.

    Args:
        card_rate: Hz.
        engine_rate: Hz.
    """

    def __init__(self, card_rate: int, engine_rate: int) -> None:
        self._rates = card_rate, engine_rate
        self.reset()

    def reset(self) -> None:
        """Back to the start."""
        card, engine = self._rates
        # soxr gives sound out in lumps, the larger the finer it works: LQ is 16 bits deep
        self._to_engine = soxr.ResampleStream(card, engine, 1, dtype="float32", quality="LQ")
        self._to_card = soxr.ResampleStream(engine, card, 1, dtype="float32", quality="LQ")

    def to_engine(self, x: Samples) -> Samples:
        """What there is for the engine after `x` from the card."""
        y: Samples = self._to_engine.resample_chunk(x)
        return y

    def to_card(self, y: Samples) -> Samples:
        """What there is for the card after `y` from the engine."""
        x: Samples = self._to_card.resample_chunk(y)
        return x

    def lag_samples(self, n: int) -> int:
        """How far the card's output lags behind its input at the most, in blocks of `n`."""
        trial = RateBridge(*self._rates)
        lag = most = 0
        for _ in range(ceil(self._rates[0] / n)):  # a second: the lumps repeat
            lag += n - len(trial.to_card(trial.to_engine(np.zeros(n, np.float32))))
            most = max(most, lag)
        return most


class EngineWorker:
    """The thread around the engine: takes what the card has taken in and makes what it will play.

    Args:
        player: the engine, its controls and listeners.
        path: shared with the card's callback.
        source: the input.
        block: samples at a time that the user wants, at the least.

    Attributes:
        prefill: samples from an input's position to that of its output.
        conversion_samples: the part of them that the conversion of rates takes.
        done: set when the input has ended and been played, or an error came.
        error: what the engine raised; from then on the output is silence.
    """

    def __init__(self, player: Player, path: AudioPath, source: Source, block: int) -> None:
        self.player = player
        self.done = threading.Event()
        self.error: BaseException | None = None
        self._path, self._source, self._block = path, source, block
        rates = path.sample_rate, player.engine.sample_rate
        self._bridge = RateBridge(*rates) if rates[0] != rates[1] else None
        self._planned_for = 0
        self._more = 0  # portions ahead, beyond what the plan wants
        self._stalls: list[int] = []  # positions of the newest
        self._position = 0  # of the next input
        self._begin, self._n_out = 0, 0  # output since the start or the last skip
        self._last: int | None = None  # position at which the output ends
        self._panic = self._stop = False
        self._gc_at = 0
        self.prefill = self.conversion_samples = 0
        self.plan()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def plan(self) -> None:
        """Set the prefill for the largest portion that the card has handed over."""
        n = max(self._path.largest, 1)
        if n == self._planned_for:
            return
        self._planned_for = n
        self.conversion_samples = self._bridge.lag_samples(n) if self._bridge else 0
        ahead = prefill_samples(n, self._block, self._path.sample_rate) + self._more * n
        self.prefill = ahead + self.conversion_samples

    def start(self) -> None:
        """Begin to play; the garbage collector is held until `stop`."""
        self.plan()
        self._path.from_engine.write(np.zeros(self.prefill, np.float32))
        gc.collect()
        gc.freeze()
        gc.disable()
        self._thread.start()
        self._path.running = True

    def panic(self) -> None:
        """Let go of what sounds, soon. Any thread."""
        self._panic = True

    def stop(self) -> None:
        """Close what sounds and end the thread. Does not raise `error`."""
        self._path.running = False  # from here on silence, and no underrun
        self._stop = True
        if self._thread.ident is not None:
            self._thread.join()
            gc.enable()
            gc.unfreeze()

    def _run(self) -> None:
        _at_once()
        try:
            with one_blas_thread():
                while not self._stop:
                    self._path.wake.acquire(timeout=0.1)
                    if self._panic:
                        self._panic = False
                        self.player.panic()
                    self._catch_up()
                if self._last is None:
                    self.player.flush()
        except BaseException as e:  # kept: the session raises it when all is closed
            self.error = e
            self._path.running = False
        finally:
            self.done.set()

    def _catch_up(self) -> None:
        path, rate = self._path, self._path.sample_rate
        while (n := path.now - self._position) > 0 and not self._stop:
            if path.largest != self._planned_for:  # looked at after `now`, which it is set before
                self.plan()
            step = max(self._block, path.largest)
            if n > max(MAX_BACKLOG_S * rate, 2 * step):
                self._skip(n - step)
                continue
            self._play(min(n, step))
        if path.now - self._gc_at > _GC_S * rate:  # gently, when there is time
            self._gc_at = path.now
            gc.collect(1)

    def _play(self, n: int) -> None:
        x = self._source.read(n, self._position) if self._last is None else None
        at = self._begin + self._n_out + self.prefill
        if x is None:
            self._end(n, at)
            return
        y = self._bridge.to_engine(x) if self._bridge else x
        y = self.player.step(y) if len(y) else y
        if self._bridge:
            y = self._bridge.to_card(y)
        self._path.from_engine.write(y, at)
        if at < self._path.now:
            self.player.stats.late_hops += 1
            self._late(self._position)
        self._position += len(x)
        self._n_out += len(y)

    def _late(self, at: int) -> None:
        """A block came too late; where that happens again and again, work further ahead.

        A machine that is just too slow for its sound card would crackle for the whole session;
        one more portion of delay, said in a line, is the smaller evil.
        """
        rate, stalls = self._path.sample_rate, self._stalls
        if stalls and at - stalls[-1] < ONE_STALL_S * rate:
            return
        stalls.append(at)
        del stalls[:-LATE_OFTEN]
        often = len(stalls) == LATE_OFTEN and at - stalls[0] < LATE_WITHIN_S * rate
        if often and self._more < MAX_MORE:
            self._more += 1
            stalls.clear()
            self._planned_for = 0
            self.plan()
            log.warning(
                "the engine is late too often, so it works further ahead: %.1f ms more delay; "
                "end other programs, or start with a larger --block",
                1000.0 * self._path.largest / rate,
            )

    def _end(self, n: int, at: int) -> None:
        """The input has ended: silence, until all is heard and the session ends."""
        if self._last is None:
            self._last = at
            self.player.flush()
        self._path.from_engine.write(np.zeros(n, np.float32), at)
        self._position += n
        self._n_out += n
        if self._path.now >= self._last + self._path.largest:  # the card may hold a portion back
            self.done.set()

    def _skip(self, n: int) -> None:
        """Leave out what cannot be made up for; what follows stands where it should."""
        self.player.stats.overruns += 1
        self.player.skip(round(n * self.player.engine.sample_rate / self._path.sample_rate))
        if self._bridge:
            self._bridge.reset()
        self._position += n
        self._begin, self._n_out = self._position, 0


def prefill_samples(portion: int, block: int, sample_rate: int) -> int:
    """How far ahead of the card the engine works.

    What is taken in with one call of the card is first wanted one portion later; so whole portions
    make up the time that the engine is given, which is a block and `MIN_PREFILL_S` at the least.

    Args:
        portion: samples that the card hands over at once.
        block: samples that the user wants at once.
        sample_rate: Hz of the card.
    """
    return portion * ceil(max(block, MIN_PREFILL_S * sample_rate) / portion)


@contextlib.contextmanager
def before_others() -> Iterator[None]:
    """This thread, and what it starts, before other programs' as far as the system allows.

    The engine's thread has a priority of its own; but a thread of this process that is put aside
    while it holds the interpreter would keep the engine waiting too.
    """
    if sys.platform == "win32":
        _kernel("SetPriorityClass", -1, 0x80)  # this process, high
        yield
        return
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, min(_NICE, before))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


def _at_once() -> None:
    """The calling thread before all that are not real-time, as far as the system allows."""
    if sys.platform == "win32":
        _kernel("SetThreadPriority", -2, 15)  # this thread, time critical
    elif sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_PRIORITY))


def _kernel(function: str, handle: int, value: int) -> None:
    import ctypes

    getattr(ctypes, "windll").kernel32[function](ctypes.c_void_p(handle), value)  # noqa: B009
