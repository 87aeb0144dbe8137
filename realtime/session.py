"""A `live` session around the engine: where its sound comes from, goes to, and who gets the notes.

From file to file the engine runs in the calling thread, block by block. With a sound card it runs
in `EngineWorker`'s, and the calling thread looks after the card: one that is lost is opened again
by name as soon as it is back.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import soxr
from numpy.typing import NDArray

from realtime.audio_io import LOOK_S, Stream
from realtime.options import LiveOptions, plan
from realtime.ring import AudioPath
from realtime.stats import Latency, SessionStats, Snapshot
from realtime.worker import (
    CardSource,
    EngineWorker,
    FileSource,
    Player,
    Source,
    before_others,
)
from v3audio import __version__, timbres
from v3audio.audio_file import AudioInfo, AudioWriter, read_mono
from v3audio.engine import Engine, Readout
from v3audio.errors import ControlError, DeviceError, V3AudioError
from v3audio.notes import NoteEvent
from v3audio.threads import one_thread, short_turns

if TYPE_CHECKING:
    from realtime.capture import Capture
    from realtime.controls import Desk
    from realtime.midi_out import MidiOut
    from realtime.osc import OscServer
    from realtime.recorder import LiveMidiFile, SoundFileSink, TakeRecorder

Samples = NDArray[np.float32]

log = logging.getLogger(__name__)

RETRY_S = 1.0
"""How often a lost sound card is looked for."""
_FIRST_CALLS = 3  # of the card, before it is known what it hands over
_FIRST_CALLS_S = 3.0
_ONE_PROGRESS_S = 0.1


@dataclass(frozen=True, slots=True)
class LiveReport:
    """What a session did.

    Attributes:
        model: the model's name.
        timbre: the timbre's name.
        device: where the sound came from and went to (``file`` without a sound card).
        sample_rate: Hz of the engine.
        block: samples per step.
        latency: apart by cause.
        connected: what is connected, in words.
        interrupted: Ctrl-C or a signal ended it; what was played until then is kept.
        stats: counts and times.
    """

    model: str
    timbre: str
    device: str
    sample_rate: int
    block: int
    latency: Latency
    connected: tuple[str, ...]
    interrupted: bool
    stats: SessionStats

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints (INTERFACE)."""
        s, latency = self.stats, self.latency
        sound_ms = 1000.0 * s.n_samples / self.sample_rate
        return {
            "version": __version__,
            "model": self.model,
            "timbre": self.timbre,
            "sample_rate": self.sample_rate,
            "block": self.block,
            "device": self.device,
            "latency_ms": {
                "algorithm": round(latency.algorithm_ms, 3),
                "buffer": round(latency.buffer_ms, 3),
                "device": round(latency.device_ms, 3),
                "total": round(latency.total_ms, 3),
            },
            "step_ms": {
                "p50": round(s.step.percentile_ms(50.0), 4),
                "p95": round(s.step.percentile_ms(95.0), 4),
                "max": round(s.step.max_ms, 4),
            },
            "rtf": round(s.step.total_ms / sound_ms, 4) if sound_ms else 0.0,
            "xruns": s.xruns,
            "late_hops": s.late_hops,
            "dropped_events": s.dropped_events,
            "notes": s.n_notes,
        }


class StreamPart(Protocol):
    """What a session asks of `realtime.audio_io.Stream`."""

    sample_rate: int
    latency_samples: int
    source: str
    output: str

    def start(self) -> None:
        """Let the card call."""
        ...

    def is_alive(self) -> bool:
        """Whether it still does; asked every `LOOK_S`."""
        ...

    def close(self) -> None:
        """End it, however dead the card is."""
        ...


def run_live(
    options: LiveOptions,
    *,
    engine: Engine | None = None,
    on_start: Callable[[LiveReport], None] | None = None,
    watch: Callable[[Callable[[], Snapshot]], AbstractContextManager[object]] | None = None,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> LiveReport:
    """Run a session until its input ends or Ctrl-C, SIGTERM or SIGHUP stops it, all in order.

    Args:
        options: what to do.
        engine: use this one instead of loading the model (tests, embedding).
        on_start: told the latencies before the first sound.
        watch: gives a context that holds from before the first sound until after the last, for what
            the player sees; handed the function that says it.
        progress: told samples done and samples in all, at most ten times a second of work, between
            files.
        clock: seconds, never backwards.
        sleep: waits so many seconds (`pace` realtime).

    Returns:
        What happened. The files are complete and in place.

    Raises:
        DeviceError: a sound card, a port or an address that cannot be had, or the computing device
            is missing.
        AudioFileError: an input that cannot be read or an output that cannot be written.
        ConfigError, TimbreError, BundleError: as `Engine`.
        KeyboardInterrupt: a signal came before all was open.
    """
    with (
        Session(options, engine=engine, clock=clock, sleep=sleep) as session,
        watch(session.snapshot) if watch else contextlib.nullcontext(),
    ):
        if on_start:
            on_start(session.report())
        session.run(progress)
    return session.report()


class Session:
    """Everything that `live` connects, open from `__enter__` to `__exit__`, sounding in `run`.

    Whatever ends it, notes are let go, files are complete and ports are closed; an error of the
    engine, or a full disk, is raised after that.

    Args:
        options: what to do.
        engine: use this one instead of loading the model.
        stream: opens a sound card (tests).
        clock: seconds, never backwards.
        sleep: waits so many seconds.
    """

    def __init__(
        self,
        options: LiveOptions,
        *,
        engine: Engine | None = None,
        stream: Callable[..., StreamPart] = Stream,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.options = options
        self.stats = SessionStats()
        self._given_engine, self._open_stream = engine, stream
        self._clock, self._sleep = clock, sleep
        self._stop = _Stop()
        self._state = "stopped"
        self._error: BaseException | None = None
        self._path: AudioPath | None = None
        self._stream: StreamPart | None = None
        self._card = "file"
        self._card_latency_samples = 0
        self._worker: EngineWorker | None = None
        self._desk: Desk | None = None
        self._midi: MidiOut | None = None
        self._osc: OscServer | None = None
        self._takes: TakeRecorder | None = None
        self._midi_files: list[LiveMidiFile] = []
        self._sound_file: SoundFileSink | None = None
        self._capture: Capture | None = None
        self._retry_s = 0.0
        self._told_rate = False

    # -- open and close ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Open everything.

        Raises:
            KeyboardInterrupt: a signal came before all was open; nothing has been written.
            V3AudioError: as `run_live`.
        """
        with ExitStack() as stack:
            stack.enter_context(_signals_stop(self._stop))
            try:
                self._open(stack)
            except V3AudioError:
                self._go_on()  # a signal makes some system calls fail
                raise
            self._stack = stack.pop_all()
        return self

    def _go_on(self) -> None:
        if self._stop:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, e: BaseException | None, at: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, e, at)
        self._state = "stopped"
        error = self._error
        if error is None and self._sound_file is not None:
            error = self._sound_file.error
        if e is None and error is not None:
            raise error

    def _open(self, stack: ExitStack) -> None:
        options = self.options
        self._plan = p = plan(options)
        if p.has_card:
            self._stream = self._opened()
            stack.callback(self._close_stream)
            card_rate = self._stream.sample_rate
            self._path = AudioPath(card_rate, max(card_rate, 4 * options.block))
        rate = options.rate or (self._path or p.file_in).sample_rate  # type: ignore[union-attr]
        self._go_on()
        stack.enter_context(one_thread())
        if p.realtime:
            stack.enter_context(short_turns())
            stack.enter_context(before_others())
        self._engine = engine = self._given_engine or Engine(
            options.timbre, rate, options.block, options.model, device=options.device,
            transpose=options.transpose, mix=options.mix, gate_db=options.gate_db,
        )  # fmt: skip
        self.player = Player(engine, self.stats, self._clock)
        self._go_on()
        self._open_osc(stack)
        self._open_midi(stack)
        engine.warm_up()
        if self._path is not None:
            self._start_card(self._path)
        self._go_on()
        self._open_files(stack, rate)
        if self._path is not None:
            source = self._card_source(stack, self._path)
            self._worker = EngineWorker(self.player, self._path, source, options.block)
            stack.callback(self._worker.stop)

    def _open_files(self, stack: ExitStack, rate: int) -> None:
        """Output files: last, so that a signal until here leaves old ones as they are."""
        p, on_sound = self._plan, self.player.on_sound
        if p.midi_files:
            from realtime.recorder import LiveMidiFile

            for path in p.midi_files:
                file = stack.enter_context(LiveMidiFile(path, rate, lossless=not p.has_card))
                self._midi_files.append(file)
                self.player.on_events.append(file.put)
        if p.file_out and p.file_in:
            copy = stack.enter_context(_Copy(p.file_out, p.file_in, rate, self._stop))
            on_sound.append(lambda _in, out, _events, _at: copy.write(out))
        elif p.file_out:
            from realtime.recorder import SoundFileSink

            self._sound_file = live = stack.enter_context(SoundFileSink(p.file_out, rate))
            on_sound.append(lambda _in, out, _events, _at: live.put(out))

    def _open_osc(self, stack: ExitStack) -> None:
        """OSC with its desk, and what only it can ask for: takes and captures."""
        p, engine = self._plan, self._engine
        if p.osc is None:
            return
        from realtime.controls import Desk
        from realtime.discovery import Discovery
        from realtime.osc import OscServer
        from realtime.recorder import TakeRecorder

        desk = Desk(
            engine.timbre, timbres.load_all(engine.timbre.model_sha256), settings=engine.settings
        )
        try:
            self._osc = osc = OscServer(*p.osc, desk, self, p.osc_to)
        except DeviceError as e:
            if not p.osc_may_fail:
                raise
            log.warning("%s; playing goes on without OSC", e)
            return
        self._desk = self.player.desk = desk
        stack.enter_context(osc)
        stack.enter_context(Discovery(osc))
        self._takes = takes = stack.enter_context(
            TakeRecorder(engine.sample_rate, self._complain, log.warning)
        )
        stack.callback(self._end_capture)
        desk.listeners.append(self._follow)
        self.player.on_events.append(lambda events, _at: osc.put(events))
        self.player.on_sound.append(lambda _in, out, events, at: takes.put(out, events, at))
        self.player.on_sound.append(self._feed_capture)

    def _open_midi(self, stack: ExitStack) -> None:
        if not self._plan.midi_ports:
            return
        from realtime.controls import MidiSettings
        from realtime.midi_out import MidiOut

        desk, fixed = self._desk, MidiSettings()
        self._midi = midi = stack.enter_context(
            MidiOut(
                self._plan.midi_ports,
                lambda: desk.now.midi if desk else fixed,
                self._engine.sample_rate,
            )
        )
        self.player.on_events.append(midi.put)

    def _start_card(self, path: AudioPath) -> None:
        """Let the card call, in silence, until it is known how much it hands over at once."""
        assert self._stream is not None
        self._stream.start()
        until_s = self._clock() + _FIRST_CALLS_S + 2 * self.options.block / path.sample_rate
        while path.n_calls < _FIRST_CALLS and self._clock() < until_s and not self._stop:
            time.sleep(0.002)
        if not path.n_calls and not self._stop:
            raise DeviceError(
                f"{self._card}: the sound card is open but silent; plug it in anew, "
                "restart its sound server, or choose another one (v3audio devices)"
            )

    def _card_source(self, stack: ExitStack, path: AudioPath) -> Source:
        if self._plan.file_in is None:
            return CardSource(path)
        blocks = read_mono(
            self._plan.file_in.path, sample_rate=path.sample_rate, block_samples=4096
        )
        file = FileSource(blocks)
        stack.callback(file.close)
        return file

    def _opened(self) -> StreamPart:
        p = self._plan
        wanted = self.options.rate or (p.file_in.sample_rate if p.file_in else None)
        if self._path is not None:
            wanted = self._path.sample_rate
        stream = self._open_stream(
            p.card_in, p.card_out, wanted, self.options.block, self._exchange
        )
        self._card = " -> ".join(dict.fromkeys(n for n in (stream.source, stream.output) if n))
        self._card_latency_samples = stream.latency_samples
        return stream

    def _exchange(self, taken: Samples | None, given: Samples | None, lost: bool) -> None:
        """The card's callback."""
        path = self._path
        assert path is not None
        if taken is not None:
            path.exchange(taken[:, -1], given, len(taken), lost)
        elif given is not None:
            path.exchange(None, given, len(given), lost)

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()

    # -- run ---------------------------------------------------------------------------------------

    def run(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Play until the input ends, or `stop` or a signal ends it.

        Raises:
            AudioFileError: an input file is damaged or an output file cannot be written.
        """
        self._state = "playing"
        if self._worker is None:
            self._run_file(progress)
        else:
            self._run_card(self._worker)
        self._count()

    def stop(self) -> None:
        """End `run`, soon. Any thread."""
        self._stop.set()

    def _run_file(self, progress: Callable[[int, int], None] | None) -> None:
        p, player, stats, clock = self._plan, self.player, self.stats, self._clock
        assert p.file_in is not None
        rate, block_s = self._engine.sample_rate, self.options.block / self._engine.sample_rate
        n_total = round(p.file_in.n_samples * rate / p.file_in.sample_rate)
        start_s = told_s = clock()
        for block in read_mono(p.file_in.path, sample_rate=rate, block_samples=self.options.block):
            due_s = start_s + (stats.n_samples + len(block)) / rate
            if p.realtime and (wait_s := due_s - clock()) > 0:
                self._sleep(wait_s)  # a block is there when its last sample has been played
            if self._stop:
                break
            player.step(block)
            now_s = clock()
            if p.realtime and now_s > due_s + block_s:
                stats.late_hops += 1
            if progress and now_s - told_s > _ONE_PROGRESS_S:
                told_s = now_s
                progress(stats.n_samples, n_total)
        player.flush()
        if progress:
            progress(stats.n_samples, n_total)

    def _run_card(self, worker: EngineWorker) -> None:
        worker.start()
        while not self._stop and not worker.done.wait(LOOK_S):
            self._look_after_card(worker)
            self._count()
            if self._sound_file and self._sound_file.error:
                break
        worker.stop()
        self._error = worker.error

    def _look_after_card(self, worker: EngineWorker) -> None:
        path, now_s = self._path, self._clock()
        assert path is not None
        if self._stream is None:
            if now_s >= self._retry_s:
                self._retry_s = now_s + RETRY_S
                self._reopen(path)
        elif not self._stream.is_alive():
            self._state = "device lost"
            self.stats.n_device_lost += 1
            log.warning("%s is gone; playing goes on when it is back", self._card)
            worker.panic()
            self.panic()
            stream, self._stream = self._stream, None
            self._retry_s = now_s + RETRY_S
            stream.close()

    def _reopen(self, path: AudioPath) -> None:
        try:
            stream = self._opened()
        except DeviceError:
            return  # not yet
        if stream.sample_rate != path.sample_rate:
            if not self._told_rate:
                log.warning(
                    "%s is back, but at %d Hz; set it to %d Hz to go on playing",
                    self._card, stream.sample_rate, path.sample_rate,
                )  # fmt: skip
            self._told_rate = True
            stream.close()
            return
        self._told_rate = False
        try:
            stream.start()
        except DeviceError:
            return
        self._stream, self._state = stream, "playing"
        log.warning("%s is back", self._card)

    def _count(self) -> None:
        """Counts that others keep."""
        s = self.stats
        if self._path:
            s.underruns, s.device_xruns = self._path.n_underruns, self._path.n_device_xruns
        s.dropped_midi = sum(file.n_dropped for file in self._midi_files)
        if self._midi:
            s.dropped_midi += self._midi.n_dropped
        if self._osc:
            s.dropped_osc = self._osc.n_dropped

    # -- what is said ------------------------------------------------------------------------------

    def report(self) -> LiveReport:
        """What is connected and what has happened so far."""
        engine = self._engine
        return LiveReport(
            engine.model_name, engine.timbre.name, self._card, engine.sample_rate,
            self.options.block, self._latency(), self._connected(), bool(self._stop), self.stats,
        )  # fmt: skip

    def snapshot(self) -> Snapshot:
        """What a player sees, at this moment; cheap, from any thread."""
        self._count()
        s, heard, settings = self.stats, self.readout(), self._engine.settings
        state = self._state
        if state == "playing" and not settings.enabled:
            state = "off"
        elif state == "playing" and settings.bypass:
            state = "bypassed"
        return Snapshot(
            state=state,
            timbre=self._desk.now.timbre if self._desk else self._engine.timbre.name,
            elapsed_s=s.n_samples / self._engine.sample_rate,
            input_db=heard.level_db,
            output_db=heard.output_db,
            note=heard.note,
            cents=heard.cents,
            pitch_hz=heard.pitch_hz,
            confidence=heard.confidence,
            latency=self._latency(),
            xruns=s.xruns,
            underruns=s.underruns,
            overruns=s.overruns,
            device_xruns=s.device_xruns,
            late_hops=s.late_hops,
            dropped_events=s.dropped_events,
            cpu=s.cpu,
            step_p99_ms=s.step.percentile_ms(99.0),
            n_notes=s.n_notes,
            osc=self._osc.last if self._osc else "",
            midi=self._midi.ports if self._midi else (),
            recording=bool(self._takes and self._takes.is_recording),
        )

    def readout(self) -> Readout:
        """What the engine hears; any thread."""
        return self.player.readout()

    def _latency(self) -> Latency:
        engine = self._engine
        if self._path is None or self._worker is None:
            return Latency(engine.latency_samples, self.options.block, 0, engine.sample_rate)
        ratio = engine.sample_rate / self._path.sample_rate
        return Latency(
            engine.latency_samples + round(self._worker.conversion_samples * ratio),
            round((self._worker.prefill - self._worker.conversion_samples) * ratio),
            round(self._card_latency_samples * ratio),
            engine.sample_rate,
        )

    def _connected(self) -> tuple[str, ...]:
        p, words = self._plan, []
        source = p.file_in.path.name if p.file_in else self._stream.source if self._stream else ""
        output = p.file_out.name if p.file_out else self._stream.output if self._stream else ""
        words += [f"in: {source}"] if source else []
        words += [f"out: {output}"] if output else []
        ports = [*(path.name for path in p.midi_files), *(self._midi.ports if self._midi else ())]
        words += [f"MIDI: {', '.join(ports)}"] if ports else []
        if self._osc:
            to = f" -> {p.osc_to[0]}:{p.osc_to[1]}" if p.osc_to else ""
            words.append(f"OSC {self._osc.host}:{self._osc.port}{to}")
        return tuple(words)

    # -- what others may ask for (`realtime.osc.Actions`) ------------------------------------------

    def panic(self) -> None:
        """All notes off, everywhere. Any thread."""
        if self._midi:
            self._midi.panic()
        if self._worker:
            self._worker.panic()

    def export_take(self, name: str) -> None:
        """Write the last take under a name, in the background.

        Raises:
            ConfigError: not a name for a take.
        """
        if self._takes:
            self._takes.export(name)

    def capture_start(self, name: str) -> None:
        """Begin to record a new timbre.

        Raises:
            TimbreError: not a name for a user's timbre.
        """
        from realtime.capture import Capture

        assert self._osc and self._desk, "only OSC asks for captures"
        self._end_capture()
        self._capture = Capture(
            name, self._engine.sample_rate, self.options.model, self._engine.timbre.model_sha256,
            self._osc.say, self._desk.add_timbre,
        )  # fmt: skip

    def capture_stop(self) -> None:
        """Make the timbre of what was recorded, in the background.

        Raises:
            ControlError: nothing is being recorded.
        """
        capture = self._capture
        if capture is None or not capture.is_recording:
            raise ControlError("nothing is being captured; send /v3/capture/start NAME first")
        capture.stop()

    def _feed_capture(
        self, taken: Samples, _out: Samples, events: list[NoteEvent], _at: int
    ) -> None:
        capture = self._capture
        if capture is not None and capture.is_recording:
            capture.put(taken, events)

    def _end_capture(self) -> None:
        if self._capture:
            self._capture.close()

    def _follow(self, address: str, values: tuple[Any, ...]) -> None:
        """What a change of the desk asks of others than the engine."""
        if address == "/v3/rec/enable" and self._takes:
            (self._takes.start if values[0] else self._takes.stop)()
        elif address in ("/v3/bypass", "/v3/enable") and self._midi:
            self._midi.panic()

    def _complain(self, line: str) -> None:
        log.warning(line)
        if self._osc:
            self._osc.say("/v3/error", "/v3/rec/enable", line)


class _Copy:
    """The sound file: at the input's rate and of exactly its length, whatever the engine's rate."""

    def __init__(self, path: Path, info: AudioInfo, engine_rate: int, stop: _Stop) -> None:
        self._writer = AudioWriter(path, info.sample_rate)
        self._n_total = info.n_samples
        self._stop = stop
        self._back = (
            soxr.ResampleStream(engine_rate, info.sample_rate, 1, dtype="float32")
            if engine_rate != info.sample_rate
            else None
        )

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def write(self, out: Samples) -> None:
        if self._back is not None:
            out = self._back.resample_chunk(out)
        self._writer.write(out[: self._n_total - self._writer.n_samples])

    def __exit__(self, kind: type[BaseException] | None, *exc: Any) -> None:
        if kind is None and not self._stop:
            if self._back is not None:
                rest = self._back.resample_chunk(np.zeros(0, np.float32), last=True)
                self._writer.write(rest[: self._n_total - self._writer.n_samples])
            self._writer.write(np.zeros(self._n_total - self._writer.n_samples, np.float32))
        self._writer.__exit__(kind, *exc)


class _Stop:
    """A flag that a signal's handler may set: unlike an `Event` it takes no lock to do so."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def __bool__(self) -> bool:
        return self._is_set


@contextlib.contextmanager
def _signals_stop(stop: _Stop) -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP set a flag for the time of the block; a second Ctrl-C breaks off.

    Signals are the main thread's; a program that runs a session elsewhere handles its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # what is ignored, as under nohup, stays ignored
    handled = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in handled}
    if hasattr(signal, "siginterrupt"):  # Unix: the sound server's library takes a broken-off
        for number in handled:  # system call for a broken server, and aborts
            signal.siginterrupt(number, False)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
