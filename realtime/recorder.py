"""What is played, on disk while it is played: takes, `--midi out.mid`, `--output out.wav`.

The engine's thread hands things over by one append; a thread of the file's own writes them, so that
a slow or full disk is never heard. Whatever ends the program, what was written is a valid file: it
is made whole four times a second, and memory does not grow with its length.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from realtime.midi_out import NoteGate
from v3audio.audio_file import AudioWriter
from v3audio.errors import AudioFileError, ConfigError
from v3audio.midi_file import BEND_RANGE_SEMITONES, MidiMode, MidiWriter, NoteEncoder, write_all
from v3audio.notes import NoteEvent
from v3audio.paths import atomic_write, user_home, write_refusal

Samples = NDArray[np.float32]

TICK_S = 0.25
MAX_WAITING_S = 10.0  # of sound, while the disk does not answer
MAX_WAITING_EVENTS = 65_536
MAX_NAME = 80  # bytes
CUT_SHORT_S = 10.0  # a .part that nobody touched for so long has no writer any more
PART = ".part"
_TOO_SLOW = "the disk was too slow"

log = logging.getLogger(__name__)


class _Writer:
    """A thread that does, in order, what it is handed; a context manager.

    Args:
        limit: What may wait, in the unit of `size`.
        lossless: Wait where the limit is reached, instead of refusing: for runs from file to file.
    """

    def __init__(self, limit: int, lossless: bool = False) -> None:
        self._limit = limit
        self._lossless = lossless
        self._waiting: deque[tuple[int, Callable[..., None], tuple[Any, ...]]] = deque()
        self._n_in = self._n_out = 0  # each written by one thread
        self._wake, self._room = threading.Event(), threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="v3audio-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended = True
        self._wake.set()
        self._thread.join()

    @property
    def _n_waiting(self) -> int:
        return self._n_in - self._n_out

    def _later(self, size: int, function: Callable[..., None], *args: Any) -> bool:
        """Hand over a call; False where there is no room for it, which is always there for size 0.

        Sizes above 0 are one thread's only.
        """
        while size and self._n_waiting and self._n_waiting + size > self._limit:
            if not self._lossless or not self._thread.is_alive():
                return False
            self._room.clear()
            self._wake.set()
            self._room.wait(TICK_S)
        self._waiting.append((size, function, args))
        if size:
            self._n_in += size
        else:  # a command, from any thread
            self._wake.set()
        return True

    def _run(self) -> None:
        ended = False
        while not ended:
            self._wake.wait(TICK_S)
            self._wake.clear()
            ended = self._ended  # before the look: what was handed over until then is done
            while self._waiting:
                size, function, args = self._waiting.popleft()
                function(*args)
                self._n_out += size
                self._room.set()
            self._sync()

    def _sync(self) -> None:
        """Make the files whole."""


class SoundFileSink(_Writer):
    """A ``.wav`` or ``.flac`` file written from a live session.

    What was played live is kept also where the session ends in an error. Where the disk becomes
    full, the file ends.

    Args:
        path: Target, replaced when the session ends.
        sample_rate: In Hz.
        lossless: From file to file: let `put` wait instead of losing blocks, and an error leave the
            old file.

    Attributes:
        n_dropped: Blocks that found no room; they are silence in the file.
        error: Why the file ends before the session; None while it does not.

    Raises:
        AudioFileError: A suffix that cannot be written; on entering, a folder that cannot be
            written to; on leaving, a file that cannot be put in place.
    """

    def __init__(
        self,
        path: Path | str,
        sample_rate: int,
        lossless: bool = False,
    ) -> None:
        super().__init__(round(MAX_WAITING_S * sample_rate), lossless)
        self.n_dropped = 0
        self.error: AudioFileError | None = None
        self._file = AudioWriter(path, sample_rate)
        self._missing = 0  # samples, before the next block

    def __enter__(self) -> Self:
        """Create the file and start."""
        self._file.__enter__()
        return super().__enter__()

    def __exit__(self, *exc: Any) -> None:
        """Write what waits and put the file in place."""
        super().__exit__()
        if self.n_dropped:
            log.warning(
                "%s: %s, %d blocks in it are silent", self._file.path, _TOO_SLOW, self.n_dropped
            )
        self._file.__exit__(*(exc if self._lossless else (None, None, None)))

    def put(self, block: Samples) -> None:
        """Append (n,) samples: one thread only; copies."""
        if self.error is not None:
            return
        if self._later(len(block), self._write, self._missing, block.copy()):
            self._missing = 0
        else:
            self._missing += len(block)
            self.n_dropped += 1

    def _write(self, missing: int, block: Samples) -> None:
        try:
            for part in (np.zeros(missing, np.float32), block) if self.error is None else ():
                self._file.write(part)
        except AudioFileError as e:
            reason = str(e).removesuffix(". Nothing was changed")
            self.error = AudioFileError(f"{reason}. What was played until then is kept")


class LiveMidiFile(_Writer):
    """The ``.mid`` file of a live session, events at the moments they were emitted.

    Args:
        path: Target, replaced when the session ends, live also where it ends in an error.
        sample_rate: In Hz, of the events' `sample`.
        mode: As `NoteEncoder`'s, and the next two.
        channel: 1..16.
        bend_range: In semitones.
        say: Told a line on the writer's thread when the disk is full.
        lossless: From file to file: let `put` wait instead of losing bends and notes, and an error
            leave the old file.

    Attributes:
        n_notes: Note-ons put.
        n_dropped: Events that found no room; offs always do.

    Raises:
        AudioFileError: On entering, a folder that cannot be written to; on leaving, a file that
            cannot be put in place.
    """

    def __init__(
        self,
        path: Path | str,
        sample_rate: int,
        mode: MidiMode = "bend",
        channel: int = 1,
        bend_range: float = BEND_RANGE_SEMITONES,
        say: Callable[[str], None] = log.warning,
        lossless: bool = False,
    ) -> None:
        super().__init__(MAX_WAITING_EVENTS, lossless)
        self.n_notes = 0
        self._path = Path(path)
        self._rate = sample_rate
        self._encoder = NoteEncoder(mode, channel, bend_range)
        self._say = say
        self._gate = NoteGate(MAX_WAITING_EVENTS)
        self._stack = contextlib.ExitStack()
        self._midi: MidiWriter | None = None
        self._at = 0

    @property
    def n_dropped(self) -> int:
        """Events refused."""
        return self._gate.n_dropped

    def __enter__(self) -> Self:
        """Create the file and start."""
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(atomic_write(self._path, AudioFileError))
            file = stack.enter_context(temporary.open("wb", 0))
            self._midi = MidiWriter(file, "v3audio live", self._encoder)
            self._midi.sync()
            self._stack = stack.pop_all()
        return super().__enter__()

    def __exit__(self, *exc: Any) -> None:
        """Write what waits and put the file in place."""
        super().__exit__()
        if self.n_dropped:
            self._say(f"{self._path}: {_TOO_SLOW}, {self.n_dropped} events are missing")
        self._stack.__exit__(*(exc if self._lossless else (None, None, None)))

    def put(self, events: Sequence[NoteEvent], sample: int = 0) -> None:
        """Append the events of the block at `sample`, if any: one thread only."""
        self._at = sample
        if not events:
            return
        if not self._lossless:
            events = self._gate.admit(events, self._n_waiting)
        self.n_notes += sum(event.kind == "on" for event in events)
        self._later(len(events), self._write, events)

    def _write(self, events: Sequence[NoteEvent]) -> None:
        with self._until_full() as midi:
            if midi:
                for event in events:
                    midi.event(event, event.sample / self._rate)

    def _sync(self) -> None:
        with self._until_full() as midi:
            if midi:
                midi.sync(self._at / self._rate)

    @contextlib.contextmanager
    def _until_full(self) -> Iterator[MidiWriter | None]:
        try:
            yield self._midi
        except OSError as e:
            self._midi = None
            self._say(f"{self._path}: {_why(e)}. What was played until here is kept")


class TakeRecorder(_Writer):
    """Takes: WAV and MIDI of what was played, in `takes_dir`, named by date and time.

    A take grows as two ``.part`` files, which are renamed when it ends. Those of a program that
    was killed are found and renamed on entering.

    Args:
        sample_rate: In Hz.
        say: Told, on the writer's thread and in a line each, what went wrong.
        tell: The same, where a take is.

    Attributes:
        is_recording: From `start` to `stop`, or to a full disk.
        n_dropped: Blocks that found no room; they are silence in the take.
        last: WAV of the last take that ended; None before.
    """

    def __init__(
        self,
        sample_rate: int,
        say: Callable[[str], None] = log.warning,
        tell: Callable[[str], None] = log.info,
    ) -> None:
        super().__init__(round(MAX_WAITING_S * sample_rate))
        self.is_recording = False
        self.n_dropped = 0
        self.last: Path | None = None
        self._rate = sample_rate
        self._say, self._tell = say, tell
        self._gate = NoteGate(MAX_WAITING_EVENTS)
        self._late: list[NoteEvent] = []  # of blocks that found no room
        self._n_takes = self._n_told = 0  # takes begun; blocks lost, as far as said
        self._take: _Take | None = None  # the writer's own

    def __enter__(self) -> Self:
        """Keep the takes that were cut short, and start."""
        for part in takes_dir().glob(f"*{PART}"):
            with contextlib.suppress(OSError):
                target = part.with_suffix("")
                if time.time() - part.stat().st_mtime > CUT_SHORT_S and not target.exists():
                    self._tell(f"{part.rename(target)}: a take that was cut short")
        return super().__enter__()

    def __exit__(self, *exc: object) -> None:
        """End a take that is still running."""
        self.stop()
        super().__exit__()

    def start(self) -> None:
        """Begin a take; nothing if one runs. Any one thread, returns at once."""
        if not self.is_recording:
            self._n_takes += 1
            self._later(0, self._begin, self._n_takes, time.strftime("take-%Y-%m-%d-%H%M%S"))
            self.is_recording = True

    def stop(self) -> None:
        """End the take; nothing if none runs. Same thread as `start`, returns at once."""
        if self.is_recording:
            self.is_recording = False
            self._later(0, self._end)

    def put(self, out: Samples, events: Sequence[NoteEvent], sample: int) -> None:
        """Append a block; engine thread only, copies.

        Args:
            out: (n,) samples, as heard.
            events: Of this block.
            sample: Position of the block's first sample; a gap since the last block is kept as
                silence.
        """
        if not self.is_recording:
            return
        self._late += self._gate.admit(events, len(self._late))
        if self._later(len(out), self._append, out.copy(), self._late, sample):
            self._late = []
        else:
            self.n_dropped += 1

    def export(self, name: str) -> None:
        """Give the last take a name; what already has it is kept. Same thread as `start`.

        Returns at once; `tell` or `say` is told how it went.

        Raises:
            ConfigError: Not a name, or there is no take.
        """
        target = take_path(name)
        if not self._n_takes:
            raise ConfigError("there is no take to export; record one first (/v3/rec/enable 1)")
        self._later(0, self._export, target)

    def _begin(self, number: int, name: str) -> None:
        try:
            takes_dir().mkdir(parents=True, exist_ok=True)
            self._take = _Take(number, _free(takes_dir() / f"{name}.wav"), self._rate)
        except OSError as e:
            self._give_up(number, write_refusal(takes_dir() / name, e))

    def _append(self, out: Samples, events: Sequence[NoteEvent], sample: int) -> None:
        with self._until_full() as take:
            if take:
                take.append(out, events, sample)

    def _sync(self) -> None:
        with self._until_full() as take:
            if take:
                take.sync()

    @contextlib.contextmanager
    def _until_full(self) -> Iterator[_Take | None]:
        take = self._take
        try:
            yield take
        except OSError as e:
            assert take is not None
            self._give_up(take.number, f"{take.path}: {_why(e)}; the take ends here")
            self._end()

    def _give_up(self, number: int, line: str) -> None:
        if number == self._n_takes:  # else the player has gone on to another one
            self.is_recording = False
        self._say(line)

    def _end(self) -> None:
        take, self._take = self._take, None
        if take is None:
            return
        try:
            take.finish()
        except OSError as e:
            self._say(write_refusal(take.path, e))
        else:
            self.last = take.path
            lost, self._n_told = self.n_dropped - self._n_told, self.n_dropped
            if lost:
                self._say(f"{take.path}: {_TOO_SLOW}, {lost} blocks in it are silent")
            self._tell(f"{take.path}: {take.duration_s:.1f} s, and its .mid")

    def _export(self, target: Path) -> None:
        if self._take is not None or self.last is None:
            self._say(f"{target.stem}: no take has ended; stop recording first (/v3/rec/enable 0)")
            return
        target = _free(target)
        try:
            for suffix in (".mid", ".wav"):
                self.last.with_suffix(suffix).rename(target.with_suffix(suffix))
        except OSError as e:
            self._say(write_refusal(target, e))
        else:
            self.last = target
            self._tell(f"{target}: the last take, and its .mid")


class _Take:
    """The two files of one take. Every method may raise OSError; what was written stays valid."""

    def __init__(self, number: int, path: Path, sample_rate: int) -> None:
        self.number = number
        self.path = path
        self._rate = sample_rate
        self._start: int | None = None  # sample of the first block
        self._n_samples = 0
        with contextlib.ExitStack() as stack:
            self._files = [
                (target, stack.enter_context(_part(target).open("xb", 0)))
                for target in (path, path.with_suffix(".mid"))
            ]
            self._wav, midi_file = (file for _, file in self._files)
            self._midi = MidiWriter(midi_file, path.stem, NoteEncoder())
            write_all(self._wav, _wav_header(sample_rate, 0))
            self.sync()
            stack.pop_all()

    @property
    def duration_s(self) -> float:
        return self._n_samples / self._rate

    def append(self, out: Samples, events: Sequence[NoteEvent], sample: int) -> None:
        if self._start is None:
            self._start = sample
        gap = max(0, sample - self._start - self._n_samples)
        while gap:
            self._write(np.zeros(min(gap, self._rate), np.float32))
            gap -= min(gap, self._rate)
        self._write(out)
        for event in events:
            if event.sample >= self._start:
                self._midi.event(event, (event.sample - self._start) / self._rate)

    def sync(self) -> None:
        self._midi.sync(self.duration_s)
        self._wav.seek(0)
        write_all(self._wav, _wav_header(self._rate, self._n_samples))
        self._wav.seek(0, os.SEEK_END)

    def finish(self) -> None:
        """Rename both files."""
        with contextlib.suppress(OSError):  # the disk may be full: then what is there is whole
            self.sync()
        for target, file in self._files:
            os.fsync(file.fileno())
            file.close()
            _part(target).replace(target)

    def _write(self, block: Samples) -> None:
        n_bytes = _WAV_HEADER_BYTES + 4 * (self._n_samples + len(block))
        try:
            if n_bytes > _WAV_LIMIT_BYTES:
                raise OSError(errno.EFBIG, "a WAV file can be no longer")
            write_all(self._wav, block.astype("<f4", copy=False).tobytes())
        except OSError:
            self._wav.truncate(_WAV_HEADER_BYTES + 4 * self._n_samples)
            raise
        self._n_samples += len(block)


_WAV_HEADER_BYTES = 58
_WAV_LIMIT_BYTES = 2**32 - 2**20


def _wav_header(sample_rate: int, n_samples: int) -> bytes:
    """Of mono float32. Ours, since libsndfile makes a file whole only when it closes it."""
    n_bytes = 4 * n_samples
    return (
        struct.pack("<4sI4s", b"RIFF", _WAV_HEADER_BYTES - 8 + n_bytes, b"WAVE")
        + struct.pack("<4sIHHIIHHH", b"fmt ", 18, 3, 1, sample_rate, 4 * sample_rate, 4, 32, 0)
        + struct.pack("<4sII4sI", b"fact", 4, n_samples, b"data", n_bytes)
    )


def takes_dir() -> Path:
    """Where takes are kept: in the user's home of v3audio."""
    return user_home() / "takes"


def take_path(name: str) -> Path:
    """The WAV of a take of this name.

    Raises:
        ConfigError: `name` could be a path, or holds what some system does not take.
    """
    name = name.strip().removesuffix(".wav").removesuffix(".mid")
    is_plain = all(c.isalnum() or c in " -_." for c in name) and name[:1].isalnum()
    is_device = name.partition(".")[0].upper().rstrip("0123456789") in _WINDOWS_DEVICES
    if not is_plain or name[-1:] in " ." or len(name.encode()) > MAX_NAME or is_device:
        raise ConfigError(
            f"take name {name[:MAX_NAME]!r}: expected up to {MAX_NAME} letters, digits, spaces and "
            "- _ . that begin with a letter or digit, such as 'solo 2'"
        )
    return takes_dir() / f"{name}.wav"


_WINDOWS_DEVICES = {"CON", "PRN", "AUX", "NUL", "COM", "LPT"}


def _free(path: Path) -> Path:
    """`path`, or the same with the first number behind it that no take has."""
    number, free = 1, path
    while any(
        p.exists() or _part(p).exists()
        for p in (free.with_suffix(".wav"), free.with_suffix(".mid"))
    ):
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART)


def _why(e: OSError) -> str:
    return "the disk is full" if e.errno in (errno.ENOSPC, errno.EDQUOT) else e.strerror or str(e)
