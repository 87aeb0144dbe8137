"""Whole recordings in one call: notes, another timbre, a look inside, a new timbre.

Everything streams, so that two hours take little more memory than two minutes: sound is read, heard
and dropped in blocks, and of each frame only what is needed later is kept.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from v3audio.audio_file import AudioWriter, audio_info, read_mono
from v3audio.bundle import load_bundle
from v3audio.engine import Engine, pick_device
from v3audio.errors import AudioFileError, ConfigError
from v3audio.geometry import Geometry
from v3audio.hearing import Heard
from v3audio.notes import Note, TrackerConfig, decode_notes, file_gate_db
from v3audio.paths import atomic_write
from v3audio.streaming import ANALYSIS_RATE, Framer, StreamingResampler, check_sample_rate
from v3audio.threads import one_thread
from v3audio.timbres import Timbre

Samples = NDArray[np.float32]
Source = Path | str | tuple[NDArray[Any], int]
Progress = Callable[[int, int], None]  # told input samples done and in all

FILE_HOP = Geometry().file_hop_length
"""Samples at the analysis rate between the frames of a file (160: 10 ms)."""
BLOCK_S = 1.0  # read and heard at once
BATCH = 128  # frames a network call sees: larger ones gain nothing and take memory
TAIL_S = 0.1  # silence heard after the end, so that the last note is seen to stop
DECODE_S = 120.0  # notes are decoded in stretches of this length...
CONTEXT_S = 4.0  # ...that see this much of their neighbours
N_KEPT = 12  # most probable notes of a frame that are kept; what is rarer decides nothing
FIRST_ROOM = 1 << 16  # frames that `_Kept` has room for at first: 11 minutes

log = logging.getLogger(__name__)


class HearingPart(Protocol):
    """What is asked of `v3audio.hearing.Hearing`."""

    def frames(self, windows: Samples, /) -> Heard:
        """(T, window) samples at the analysis rate to one row each."""
        ...


def transcribe(
    source: Source,
    model: Path | str | None = None,
    *,
    device: str = "auto",
    config: TrackerConfig | None = None,
    progress: Progress | None = None,
    hearing: HearingPart | None = None,
) -> list[Note]:
    """Notes of a recording of one voice, with onsets where the attacks stand.

    Args:
        source: a sound file, or samples ((n,) or (n, channels), floats within +-1) and their rate
            in Hz.
        model: name or folder of a model; None for the shipped one.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU where there is one.
        config: thresholds of the note decoder; the calibrated ones if None.
        progress: told input samples done and in all.
        hearing: replaces the model (tests, several calls with one model).

    Returns:
        Notes in order of onset; they do not overlap.

    Raises:
        AudioFileError: a file that is no usable sound.
        BundleError: a model that is missing, damaged or foreign.
        ConfigError: samples or a rate that cannot be used.
        DeviceError: ``cuda`` without a CUDA device.
    """
    sound = _open(source)
    hearing = hearing or _load_hearing(model, device)
    kept = _Kept()
    for heard in _hear(sound, hearing, TAIL_S, progress):
        kept.add(heard)
    notes = _decode(kept.frames(), config or TrackerConfig())
    duration_s = sound.n_samples / sound.sample_rate
    return [
        replace(n, offset_s=min(n.offset_s, duration_s)) for n in notes if n.onset_s < duration_s
    ]


def transfer(
    x: NDArray[Any],
    sample_rate: int,
    timbre: str | Timbre = "flute",
    *,
    transpose: float = 0.0,
    mix: float = 1.0,
    model: Path | str | None = None,
    engine: Engine | None = None,
) -> Samples:
    """Play samples again in another timbre: the live engine, run over them.

    Args:
        x: (n,) or (n, channels) float samples, full scale +-1; channels are averaged, NaN and
            infinity count as 0.
        sample_rate: Hz, 8000..192000.
        timbre: name, file, blend (``"flute:0.7,trumpet:0.3"``) or `Timbre`.
        transpose: semitones, -36..36.
        mix: 0 the input as it came .. 1 the timbre alone.
        model: name or folder of a model; None for the shipped one.
        engine: use this one, from its start, instead of loading the model again.

    Returns:
        (n,) float32 within +-1, as long as `x` and not shifted.

    Raises:
        ConfigError, TimbreError, BundleError: as `Engine`.
    """
    mono = _as_mono(x)
    engine = engine or Engine(timbre, sample_rate, 4096, model, transpose=transpose, mix=mix)
    engine.reset()
    out = engine.process(mono)[0]
    if engine.n_non_finite:
        log.warning("%d samples are NaN or infinite; taken as silence", engine.n_non_finite)
    return out


def transfer_file(
    source: Path | str,
    target: Path | str,
    timbre: str | Timbre = "flute",
    *,
    transpose: float = 0.0,
    mix: float = 1.0,
    model: Path | str | None = None,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> Path:
    """`transfer` from file to file, block by block.

    Args:
        source: a sound file.
        target: a ``.wav`` or ``.flac`` file; it gets the rate and the length of `source` and
            appears only when complete.
        timbre: as `transfer`.
        transpose: as `transfer`.
        mix: as `transfer`.
        model: as `transfer`.
        engine: use this one, from its start; its rate must be the file's.
        progress: told samples done and in all.

    Raises:
        AudioFileError: an input that cannot be read or an output that cannot be written.
        ConfigError, TimbreError, BundleError: as `Engine`.
    """
    sound = _open(source)
    with AudioWriter(target, sound.sample_rate) as writer:
        engine = engine or Engine(
            timbre, sound.sample_rate, 4096, model, transpose=transpose, mix=mix
        )
        if engine.sample_rate != sound.sample_rate:
            raise ConfigError(
                f"the engine runs at {engine.sample_rate} Hz but {source} has "
                f"{sound.sample_rate} Hz; make an engine for that rate"
            )
        engine.reset()
        for block in sound.blocks:
            writer.write(engine.process(block)[0])
            if progress:
                progress(writer.n_samples, sound.n_samples)
    return Path(target)


def encode(
    source: Source,
    target: Path | str,
    model: Path | str | None = None,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    hearing: HearingPart | None = None,
) -> Path:
    """Write what the model hears in each frame of a recording, for whoever wants to look inside.

    The ``.npz`` holds, for T frames 10 ms apart: ``time_s`` (T,) float64, the moment up to which a
    frame has heard; ``level_db`` (T,) float32, dBFS RMS of its newest 20 ms; ``code`` (T,) int32,
    the nearest atom of the codebook; ``content`` (T, 252) float16, the probability of each pitch
    position (MIDI 20 + i / 3); ``style`` (T, 16) float32, z_s; ``note`` (T,) int16, the most
    probable MIDI note of the codes, -1 where the recording is silent. Frames are written as they
    come, so memory does not grow with the length.

    Args:
        source: as `transcribe`.
        target: the ``.npz`` file; it appears only when complete.
        model: name or folder of a model; None for the shipped one.
        device: as `transcribe`.
        progress: told input samples done and in all.
        hearing: replaces the model.

    Raises:
        AudioFileError: an input that cannot be read or an output that cannot be written.
        BundleError, DeviceError: as `transcribe`.
    """
    target = Path(target)
    sound = _open(source)
    hearing = hearing or _load_hearing(model, device)
    with atomic_write(target, AudioFileError) as temporary, _Spools(target.parent) as spools:
        levels, notes, n_frames = [], [], 0
        for heard in _hear(sound, hearing, 0.0, progress):
            steps = np.arange(n_frames + 1, n_frames + 1 + len(heard.level_db))
            n_frames += len(steps)
            spools.add("time_s", steps * (FILE_HOP / ANALYSIS_RATE))
            spools.add("level_db", heard.level_db.astype(np.float32))
            spools.add("code", heard.code.astype(np.int32))
            spools.add("content", heard.content.astype(np.float16))
            spools.add("style", heard.style.astype(np.float32))
            levels.append(heard.level_db)
            notes.append(heard.note_probs.argmax(1).astype(np.int16))
        level = np.concatenate(levels)
        silent = level < file_gate_db(level, TrackerConfig())
        spools.add("note", np.where(silent, np.int16(-1), np.concatenate(notes)))
        spools.save(temporary)
    return target


def capture(
    name: str,
    files: Sequence[Path | str],
    model: Path | str | None = None,
    *,
    device: str = "auto",
    licence: str = "",
    progress: Progress | None = None,
    hearing: HearingPart | None = None,
) -> Timbre:
    """A new timbre from recordings of one instrument: `v3audio.capture.capture` without the report.

    Args:
        name: letters, digits, ``-`` and ``_``.
        files: recordings of that instrument alone, one note at a time; seconds are enough, notes
            all over its range are better.
        model: name or folder of a model; None for the shipped one.
        device: as `transcribe`.
        licence: under which the recordings, and so the timbre, may be used.
        progress: told input samples done and in all.
        hearing: replaces the model's.

    Returns:
        The timbre, not yet saved: V3's mean style of the sure frames and the colour measured beside
        it, gain, note range of what was played, and the rate at which the notes die away by
        themselves if they do.

    Raises:
        TimbreError: a bad name, or less than a second of sounding notes.
        AudioFileError, BundleError, DeviceError: as `transcribe`.
    """
    from v3audio.capture import capture as captured

    return captured(
        name, files, model, device=device, licence=licence, progress=progress, hearing=hearing
    ).timbre


# -- sound in ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sound:
    blocks: Iterator[Samples]  # mono, finite, within +-1
    sample_rate: int
    n_samples: int


def _open(source: Source) -> _Sound:
    if isinstance(source, tuple):
        x, rate = source
        rate = check_sample_rate(rate)
        mono = _as_mono(x)
        mono = np.where(np.isfinite(mono), mono, np.float32(0.0))
        if len(mono) and (peak := float(np.abs(mono).max())) > 1.0:
            mono = mono / np.float32(peak)  # as files are treated: turned down as a whole
        size = round(BLOCK_S * rate)
        return _Sound((mono[i : i + size] for i in range(0, len(mono), size)), rate, len(mono))
    info = audio_info(source)
    blocks = read_mono(source, block_samples=round(BLOCK_S * info.sample_rate))
    return _Sound(blocks, info.sample_rate, info.n_samples)


def _as_mono(x: NDArray[Any]) -> Samples:
    x = np.asarray(x)
    if x.ndim not in (1, 2) or x.dtype.kind != "f" or (x.ndim == 2 and not 1 <= x.shape[1] <= 64):
        raise ConfigError(
            f"samples have shape {x.shape} and type {x.dtype}: expected (n,) or (n, channels) "
            "floats in -1..1 (divide 16-bit integers by 32768)"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return (x if x.ndim == 1 else x.mean(axis=1)).astype(np.float32)


def _shifted(progress: Progress | None, n_before: int, n_all: int) -> Progress | None:
    """Progress in one of several recordings as progress in all of them."""
    return progress and (lambda done, _total: progress(n_before + done, n_all))


# -- hearing -------------------------------------------------------------------------------------


def _fastest() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load_hearing(model: Path | str | None, device: str) -> HearingPart:
    device = pick_device(device, _fastest())  # first: it is said at once, not after loading
    return load_bundle(model).load_hearing(device)


def _hear(
    sound: _Sound, hearing: HearingPart, tail_s: float, progress: Progress | None
) -> Iterator[Heard]:
    """What is heard, some frames at a time: all frames that end within the sound and its tail."""
    resampler, framer = StreamingResampler(sound.sample_rate), Framer(FILE_HOP)
    resampled, framed = resampler.init_state(), framer.init_state()
    n_done = 0
    n_analysis = int((sound.n_samples / sound.sample_rate + tail_s) * ANALYSIS_RATE)
    n_frames_left = n_analysis // FILE_HOP
    tail = round(tail_s * sound.sample_rate) + resampler.delay_samples + 1
    for block in _with_tail(sound.blocks, tail):
        y, resampled = resampler.step(block, resampled)
        windows, framed = framer.step(y, framed)
        windows = windows[:n_frames_left]
        n_frames_left -= len(windows)
        for start in range(0, len(windows), BATCH):
            with one_thread():
                heard = hearing.frames(windows[start : start + BATCH])
            yield heard
        if progress:
            n_done = min(n_done + len(block), sound.n_samples)
            progress(n_done, sound.n_samples)


def _with_tail(blocks: Iterator[Samples], n: int) -> Iterator[Samples]:
    yield from blocks
    yield np.zeros(n, np.float32)


# -- notes of long recordings --------------------------------------------------------------------


class _Frames(NamedTuple):
    """What `decode_notes` reads, T frames."""

    level_db: Samples
    onset: Samples
    periodicity: Samples
    pitch_midi: Samples
    confidence: Samples
    top_notes: NDArray[np.uint8]  # (T, N_KEPT)
    top_probs: NDArray[np.float16]  # (T, N_KEPT)

    @property
    def note_probs(self) -> Samples:
        """(T, 128), zero where not kept."""
        dense = np.zeros((len(self.level_db), 128), np.float32)
        np.put_along_axis(dense, self.top_notes.astype(np.intp), self.top_probs, axis=1)
        return dense

    def part(self, start: int, stop: int) -> _Frames:
        return _Frames._make(column[start:stop] for column in self)


class _Kept:
    """Collects frames in 56 bytes each: 40 MB for two hours, and at most twice that in room.

    In a few large columns that double, rather than in small parts: those would lie scattered
    between the passing arrays of each batch and keep the heap from ever shrinking.
    """

    def __init__(self) -> None:
        self._n = 0
        none = np.zeros(0, np.float32)
        top = np.zeros((0, N_KEPT))
        self._room = _Frames(
            none, none, none, none, none, top.astype(np.uint8), top.astype(np.float16)
        )

    def add(self, heard: Heard) -> None:
        top = np.argpartition(heard.note_probs, -N_KEPT, axis=1)[:, -N_KEPT:]
        probs = np.take_along_axis(heard.note_probs, top, axis=1)
        new: tuple[NDArray[Any], ...] = (
            heard.level_db,
            heard.onset,
            heard.periodicity,
            heard.pitch_midi if heard.fine_midi is None else heard.fine_midi,
            heard.confidence,
            top,
            probs,
        )
        end = self._n + len(top)
        if end > len(self._room.level_db):
            self._grow(max(end, 2 * self._n, FIRST_ROOM))
        columns: tuple[NDArray[Any], ...] = self._room
        for column, values in zip(columns, new, strict=True):
            column[self._n : end] = values
        self._n = end

    def _grow(self, room: int) -> None:
        columns: tuple[NDArray[Any], ...] = self._room
        wider = [np.empty((room, *c.shape[1:]), c.dtype) for c in columns]
        for old, column in zip(columns, wider, strict=True):
            column[: self._n] = old[: self._n]
        self._room = _Frames._make(wider)

    def frames(self) -> _Frames:
        return self._room.part(0, self._n)


def _decode(frames: _Frames, config: TrackerConfig, stretch_s: float = DECODE_S) -> list[Note]:
    """`decode_notes`, in overlapping stretches where the recording is long.

    A seam is laid at the last onset that a stretch hears with its full context, or anywhere where
    there is none; a note that sounds across it is joined. The gate is the whole recording's, so
    that a stretch of mere noise is not taken for a quiet take.
    """
    hop_s = FILE_HOP / ANALYSIS_RATE
    n, size, context = len(frames.level_db), round(stretch_s / hop_s), round(CONTEXT_S / hop_s)
    if n <= size + context:
        return decode_notes(frames, hop_s, config)
    config = replace(config, file_gate_db=file_gate_db(frames.level_db, config))
    notes: list[Note] = []
    seam = 0
    while seam < n:
        first, last = max(0, seam - context), min(n, seam + size)
        if n - last < context:
            last = n
        found = decode_notes(frames.part(first, last), hop_s, config)
        found = [
            replace(x, onset_s=x.onset_s + first * hop_s, offset_s=x.offset_s + first * hop_s)
            for x in found
        ]
        next_seam = n
        if last < n:
            limit_s = (last - context) * hop_s
            onsets = [x.onset_s for x in found if seam * hop_s + 1.0 < x.onset_s <= limit_s]
            next_seam = round(onsets[-1] / hop_s) if onsets else last - context
        for x in found:
            end_s = min(x.offset_s, next_seam * hop_s)
            if (seam - 0.5) * hop_s <= x.onset_s < (next_seam - 0.5) * hop_s:
                notes.append(replace(x, offset_s=end_s))
            elif x.onset_s < seam * hop_s < end_s and notes:
                before = notes[-1]  # the same note, whose beginning the stretch before has seen
                if before.midi == x.midi and before.offset_s >= (seam - 1) * hop_s:
                    notes[-1] = replace(before, offset_s=end_s)
        seam = next_seam
    return notes


def _decays(notes: Sequence[Note], level_db: Samples) -> list[float]:
    """How fast notes of half a second and more fall after their peak, in dB/s, 0 or more."""
    hop_s = FILE_HOP / ANALYSIS_RATE
    decays = []
    for note in notes:
        first, last = round(note.onset_s / hop_s), round(note.offset_s / hop_s)
        if (last - first) * hop_s < 0.5:
            continue
        level = level_db[first:last].astype(np.float64)
        top = int(level.argmax())
        falling = level[top : len(level) - 5]  # the last 50 ms belong to the release
        if len(falling) * hop_s >= 0.25:
            slope = np.polyfit(np.arange(len(falling)) * hop_s, falling, 1)[0]
            decays.append(max(0.0, -float(slope)))
        else:
            decays.append(0.0)
    return decays


# -- arrays too long for memory ------------------------------------------------------------------


class _Spools:
    """Arrays that grow on disk, in `folder`, saved together as one compressed ``.npz``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self._like: dict[str, NDArray[Any]] = {}
        self._n_rows: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, name: str, rows: NDArray[Any]) -> None:
        """Append (n, ...) rows."""
        if name not in self._files:
            spool = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115, closed by the stack
            self._files[name] = self._stack.enter_context(spool)
            self._like[name] = rows[:0]
            self._n_rows[name] = 0
        self._files[name].write(np.ascontiguousarray(rows).tobytes())
        self._n_rows[name] += len(rows)

    def save(self, path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, file in self._files.items():
                like = self._like[name]
                header = {
                    "descr": np.lib.format.dtype_to_descr(like.dtype),
                    "fortran_order": False,
                    "shape": (self._n_rows[name], *like.shape[1:]),
                }
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_2_0(member, header)
                    file.seek(0)
                    shutil.copyfileobj(file, member, 1 << 20)
