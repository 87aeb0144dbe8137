"""A `live` session around the engine: where its sound comes from, goes to, and who gets the notes.

Today a session runs from file to file, block by block and causally, through the very engine that a
sound card will run; sound cards, MIDI ports and OSC come with the next release and are refused by
name.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self

import numpy as np
import soxr
from numpy.typing import NDArray

from realtime.stats import SessionStats
from v3audio import __version__
from v3audio.audio_file import AudioInfo, AudioWriter, audio_info, check_output, read_mono
from v3audio.engine import Engine
from v3audio.errors import AudioFileError, ConfigError, DeviceError
from v3audio.midi_file import DEAD_BAND_CENTS, write_event_midi
from v3audio.notes import NoteEvent
from v3audio.paths import atomic_write
from v3audio.streaming import check_sample_rate
from v3audio.threads import one_thread

Samples = NDArray[np.float32]
Pace = Literal["realtime", "fast"]

MAX_BLOCK = 65536
_TODAY = "today `live` runs from file to file, sound cards and ports come with the next release"


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What `v3audio live` was asked for; names as in its options.

    Attributes:
        input: a sound file (`mic` and device names are refused today).
        output: a ``.wav`` or ``.flac`` file, or ``none``.
        midi: ``.mid`` files, or ``none``.
        osc: ``off``, or HOST:PORT (refused today).
        timbre: name, file or blend.
        model: folder or name of a model; None for the shipped one.
        device: where the model runs: ``auto``, ``cpu`` or ``cuda``.
        rate: Hz at which the engine runs; None for the file's own. The output file has the input's
            rate all the same.
        block: samples handed to the engine at once.
        transpose: semitones, -36..36.
        mix: 0 dry .. 1 wet.
        gate_db: dBFS, -90..0.
        pace: ``fast`` (as fast as it can) or ``realtime`` (a block when its sound is due).
    """

    input: str
    output: str = "none"
    midi: tuple[str, ...] = ()
    osc: str = "off"
    timbre: str = "flute"
    model: str | None = None
    device: str = "auto"
    rate: int | None = None
    block: int = 128
    transpose: float = 0.0
    mix: float = 1.0
    gate_db: float = -50.0
    pace: Pace = "fast"


@dataclass(frozen=True, slots=True)
class LiveReport:
    """What a session did.

    Attributes:
        model: the model's name.
        timbre: the timbre's name.
        device: where the sound came from and went to (``file`` today).
        sample_rate: Hz of the engine.
        block: samples per step.
        latency_samples: of the engine, an input sample to its effect.
        interrupted: Ctrl-C or SIGTERM ended it; what was played until then is kept.
        stats: counts and times.
    """

    model: str
    timbre: str
    device: str
    sample_rate: int
    block: int
    latency_samples: int
    interrupted: bool
    stats: SessionStats

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints (INTERFACE)."""
        s = self.stats
        algorithm = 1000.0 * self.latency_samples / self.sample_rate
        buffer = 1000.0 * self.block / self.sample_rate
        sound_ms = 1000.0 * s.n_samples / self.sample_rate
        return {
            "version": __version__,
            "model": self.model,
            "timbre": self.timbre,
            "sample_rate": self.sample_rate,
            "block": self.block,
            "device": self.device,
            "latency_ms": {
                "algorithm": round(algorithm, 3),
                "buffer": round(buffer, 3),
                "device": 0.0,
                "total": round(algorithm + buffer, 3),
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


def run_live(
    options: LiveOptions,
    *,
    engine: Engine | None = None,
    on_start: Callable[[LiveReport], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> LiveReport:
    """Run a session until its input ends or Ctrl-C or SIGTERM stops it; both end it in order.

    Args:
        options: what to do.
        engine: use this one instead of loading the model (tests, embedding).
        on_start: told the latencies before the first sound.
        progress: told samples done and samples in all, at most ten times a second of work.
        clock: seconds, never backwards.
        sleep: waits so many seconds (`pace` realtime).

    Returns:
        What happened. The files are complete and in place.

    Raises:
        DeviceError: a sound card, port or OSC was asked for, or the computing device is missing.
        AudioFileError: an input that cannot be read or an output that cannot be written.
        ConfigError, TimbreError, BundleError: as `Engine`.
    """
    info, wav_path, midi_paths = check_options(options)
    rate = options.rate or info.sample_rate
    if engine is None:
        engine = Engine(
            options.timbre, rate, options.block, options.model, device=options.device,
            transpose=options.transpose, mix=options.mix, gate_db=options.gate_db,
        )  # fmt: skip
    stats = SessionStats()
    recorder = EventRecorder()
    # the folders of all targets are tried before the work, not after it
    with contextlib.ExitStack() as files:
        midi_temporaries = [
            files.enter_context(atomic_write(path, AudioFileError)) for path in midi_paths
        ]
        writer = files.enter_context(_Output(wav_path, info, rate)) if wav_path else None
        stopped = files.enter_context(_stop_on_signals())
        files.enter_context(one_thread())
        engine.warm_up()

        def report() -> LiveReport:
            return LiveReport(
                engine.model_name, engine.timbre.name, "file", rate, options.block,
                engine.latency_samples, stopped.is_set(), stats,
            )  # fmt: skip

        if on_start:
            on_start(report())
        n_total = round(info.n_samples * rate / info.sample_rate)
        start_s = told_s = clock()
        for block in read_mono(info.path, sample_rate=rate, block_samples=options.block):
            if options.pace == "realtime":  # a block is there when its last sample has been played
                due_s = start_s + (stats.n_samples + len(block)) / rate
                if (wait_s := due_s - clock()) > 0:
                    sleep(wait_s)
            if stopped.is_set():
                break
            before_s = clock()
            out, events = engine.process(block)
            after_s = clock()
            stats.step.add(1000.0 * (after_s - before_s))
            stats.n_samples += len(block)
            if options.pace == "realtime" and after_s > due_s + options.block / rate:
                stats.late_hops += 1
            recorder.add(events)
            if writer:
                writer.write(out)
            if progress and after_s - told_s > 0.1:
                told_s = after_s
                progress(stats.n_samples, n_total)
        recorder.add(engine.flush())
        stats.n_notes = recorder.n_notes
        if writer and not stopped.is_set():
            writer.finish()
        for temporary in midi_temporaries:
            write_event_midi(temporary, recorder, rate)
        if progress:
            progress(stats.n_samples, n_total)
        return report()


def check_options(options: LiveOptions) -> tuple[AudioInfo, Path | None, list[Path]]:
    """Refuse what cannot be done before any work; else input, sound target and MIDI targets.

    Raises:
        DeviceError, AudioFileError, ConfigError: see `run_live`.
    """
    if options.osc != "off":
        raise DeviceError(f"--osc {options.osc}: {_TODAY}; leave --osc out")
    is_file = Path(options.input).exists() or _looks_like_file(options.input)
    if options.input == "mic" or not is_file:
        raise DeviceError(f"--input {options.input}: {_TODAY}; give a file (--input take.wav)")
    output: Path | None = None
    if options.output != "none":
        if options.output == "speakers" or not _looks_like_file(options.output):
            raise DeviceError(
                f"--output {options.output}: {_TODAY}; give a file (--output out.wav) or none"
            )
        output = Path(options.output)
        check_output(output)
    midi = []
    for target in options.midi:
        if target == "none":
            continue
        if Path(target).suffix.lower() not in {".mid", ".midi"}:
            raise DeviceError(f"--midi {target}: {_TODAY}; give a file (--midi out.mid) or none")
        midi.append(Path(target))
    if not 1 <= options.block <= MAX_BLOCK:
        raise ConfigError(f"--block {options.block}: expected 1 to {MAX_BLOCK} samples (try 128)")
    if options.pace not in ("fast", "realtime"):
        raise ConfigError(f"--pace {options.pace}: expected fast or realtime")
    if options.rate is not None:
        check_sample_rate(options.rate)
    return audio_info(options.input), output, midi


def _looks_like_file(name: str) -> bool:
    """Whether a name is meant as a file: devices may be called anything, but hardly `x.wav`."""
    suffix = Path(name).suffix
    return 2 <= len(suffix) <= 5 and suffix[1:].isalnum() and not suffix[1:].isdigit()


class EventRecorder:
    """Keeps a session's events, in order, without the bends within the MIDI dead band."""

    def __init__(self) -> None:
        self.events: list[NoteEvent] = []
        self.n_notes = 0
        self._cents = 0.0

    def add(self, events: Sequence[NoteEvent]) -> None:
        """Append the events of one block."""
        for event in events:
            if event.kind == "pitch" and abs(event.cents - self._cents) < DEAD_BAND_CENTS:
                continue
            self._cents = event.cents
            self.n_notes += event.kind == "on"
            self.events.append(event)

    def __iter__(self) -> Iterator[NoteEvent]:
        return iter(self.events)


class _Output:
    """The sound file: at the input's rate and of exactly its length, whatever the engine's rate."""

    def __init__(self, path: Path, info: AudioInfo, engine_rate: int) -> None:
        self._writer = AudioWriter(path, info.sample_rate)
        self._n_total = info.n_samples
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

    def finish(self) -> None:
        if self._back is not None:
            rest = self._back.resample_chunk(np.zeros(0, np.float32), last=True)
            self._writer.write(rest[: self._n_total - self._writer.n_samples])
        self._writer.write(np.zeros(self._n_total - self._writer.n_samples, np.float32))

    def __exit__(self, *exc: Any) -> None:
        self._writer.__exit__(*exc)


@contextlib.contextmanager
def _stop_on_signals(
    signals: Iterable[int] = (signal.SIGINT, signal.SIGTERM),
) -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into a flag for the time of the block; a second Ctrl-C breaks off."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # signals are the main thread's; an embedding program handles its own
        return

    def stop(number: int, _frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
