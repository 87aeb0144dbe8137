"""A recording as the model hears it: sound in, frames out, kept small, and notes read off them.

What `transcribe`, `encode`, `capture` and `transfer` have in common. Everything streams, so that
two hours take little more memory than two minutes: sound is read, heard and dropped in blocks, and
of each frame only what is needed later is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from v3audio import compiled
from v3audio.audio_file import audio_info, read_mono
from v3audio.bundle import load_bundle
from v3audio.denoise import denoise
from v3audio.engine import pick_device
from v3audio.errors import ConfigError
from v3audio.geometry import Geometry
from v3audio.live_hearing import Heard
from v3audio.notes import Note, TrackerConfig, decode_notes, file_gate_db
from v3audio.onsets import N_TRAITS
from v3audio.streaming import ANALYSIS_RATE, Framer, StreamingResampler, check_sample_rate
from v3audio.threads import one_thread

Samples = NDArray[np.float32]
Source = Path | str | tuple[NDArray[Any], int]
Progress = Callable[[int, int], None]  # told input samples done and in all

FILE_HOP = Geometry().file_hop_length
"""Samples at the analysis rate between the frames of a file (160)."""
HOP_S = FILE_HOP / ANALYSIS_RATE
"""The same in seconds (10 ms)."""
STRUCK_WITHIN_S = 0.2  # by then a struck or plucked note has been loudest (real ones: 0.11 s)
BLOCK_S = 1.0  # read and heard at once
BATCH = 128  # frames a network call sees: larger ones gain nothing and take memory
TAIL_S = 0.1  # silence heard after the end, so that the last note is seen to stop
DECODE_S = 120.0  # notes are decoded in stretches of this length...
CONTEXT_S = 4.0  # ...that see this much of their neighbours
N_KEPT = 12  # most probable notes of a frame that are kept; what is rarer decides nothing
FIRST_ROOM = 1 << 16  # frames that `KeptFrames` has room for at first: 11 minutes


@runtime_checkable
class HearingPart(Protocol):
    """What is asked of `v3audio.live_hearing.LiveHearing`."""

    def frames(self, windows: Samples, /, *, style: bool) -> Heard:
        """(T, window) samples at the analysis rate to one row each."""
        ...


# -- sound in ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FileSound:
    """A recording, a second at a time."""

    blocks: Iterator[Samples]  # mono, finite, within +-1
    sample_rate: int
    n_samples: int


def open_sound(source: Source) -> FileSound:
    """Open a sound file, or take samples.

    Raises:
        AudioFileError: a file that is no usable sound.
        ConfigError: samples or a rate that cannot be used.
    """
    if isinstance(source, tuple):
        x, rate = source
        rate = check_sample_rate(rate)
        mono = as_mono(x)
        mono = np.where(np.isfinite(mono), mono, np.float32(0.0))
        if len(mono) and (peak := float(np.abs(mono).max())) > 1.0:
            mono = mono / np.float32(peak)  # as files are treated: turned down as a whole
        size = round(BLOCK_S * rate)
        return FileSound((mono[i : i + size] for i in range(0, len(mono), size)), rate, len(mono))
    info = audio_info(source)
    blocks = read_mono(source, block_samples=round(BLOCK_S * info.sample_rate))
    return FileSound(blocks, info.sample_rate, info.n_samples)


def as_mono(x: NDArray[Any]) -> Samples:
    """(n,) float32, the mean of the channels, of (n,) or (n, channels) float samples.

    Raises:
        ConfigError: other shapes and types.
    """
    x = np.asarray(x)
    if x.ndim not in (1, 2) or x.dtype.kind != "f" or (x.ndim == 2 and not 1 <= x.shape[1] <= 64):
        raise ConfigError(
            f"samples have shape {x.shape} and type {x.dtype}: expected (n,) or (n, channels) "
            "floats in -1..1 (divide 16-bit integers by 32768)"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        return (x if x.ndim == 1 else x.mean(axis=1)).astype(np.float32)


def progress_after(progress: Progress | None, n_before: int, n_all: int) -> Progress | None:
    """Progress in one of several recordings as progress in all of them."""
    return progress and (lambda done, _total: progress(n_before + done, n_all))


# -- hearing -------------------------------------------------------------------------------------


def load_hearing(model: Path | str | None, device: str) -> HearingPart:
    """A model's hearing: on the CPU, which ``auto`` means, or ``cuda``.

    Raises:
        BundleError, ConfigError, DeviceError: as `load_bundle` and `pick_device`.
    """
    on_gpu = pick_device(device) == "cuda"  # first: what is amiss is said before anything is loaded
    bundle = load_bundle(model)
    return bundle.load_torch_hearing(device) if on_gpu else bundle.load_hearing()


def hear(
    sound: FileSound,
    hearing: HearingPart,
    tail_s: float,
    progress: Progress | None,
    *,
    style: bool = True,
    quieten: bool = False,
) -> Iterator[Heard]:
    """What is heard, some frames at a time: all frames that end within the sound and its tail.

    Args:
        sound: is read to its end.
        hearing: hears.
        tail_s: silence after the sound.
        progress: told samples done and in all.
        style: whether to work out the style too.
        quieten: take steady noise out first, for notes; levels and styles are then not the sound's.
    """
    framer = Framer(FILE_HOP)
    framed = framer.init_state()
    n_analysis = int((sound.n_samples / sound.sample_rate + tail_s) * ANALYSIS_RATE)
    n_frames_left = n_analysis // FILE_HOP
    blocks = _resampled(sound, tail_s, progress)
    for block in denoise(blocks) if quieten else blocks:
        windows, framed = framer.step(block, framed)
        windows = windows[:n_frames_left]
        n_frames_left -= len(windows)
        for start in range(0, len(windows), BATCH):
            with one_thread():
                heard = hearing.frames(windows[start : start + BATCH], style=style)
            yield heard


def _resampled(sound: FileSound, tail_s: float, progress: Progress | None) -> Iterator[Samples]:
    """The sound and its tail at the analysis rate."""
    resampler = StreamingResampler(sound.sample_rate)
    state = resampler.init_state()
    tail = round(tail_s * sound.sample_rate) + resampler.delay_samples + 1
    n_done = 0
    for block in chain(sound.blocks, [np.zeros(tail, np.float32)]):
        y, state = resampler.step(block, state)
        yield y
        if progress:
            n_done = min(n_done + len(block), sound.n_samples)
            progress(n_done, sound.n_samples)


# -- notes of long recordings --------------------------------------------------------------------


class Frames(NamedTuple):
    """What `decode_notes` reads, T frames."""

    level_db: Samples
    onset: Samples
    periodicity: Samples
    pitch_midi: Samples
    confidence: Samples
    top_notes: NDArray[np.uint8]  # (T, N_KEPT)
    top_probs: NDArray[np.float16]  # (T, N_KEPT)
    traits: NDArray[np.uint8]  # (T, N) `onsets.traits`; zero where the hearing tells none

    @property
    def note_probs(self) -> Samples:
        """(T, 128), zero where not kept."""
        dense = np.zeros((len(self.level_db), 128), np.float32)
        np.put_along_axis(dense, self.top_notes.astype(np.intp), self.top_probs, axis=1)
        return dense

    def part(self, start: int, stop: int) -> Frames:
        """Frames `start` to `stop`."""
        return Frames._make(column[start:stop] for column in self)


class KeptFrames:
    """Collects frames in 100 bytes each: 72 MB for two hours, and at most twice that in room.

    In a few large columns that double, rather than in small parts: those would lie scattered
    between the passing arrays of each batch and keep the heap from ever shrinking.
    """

    def __init__(self) -> None:
        self._n = 0
        none = np.zeros(0, np.float32)
        top = np.zeros((0, N_KEPT))
        self._room = Frames(
            none, none, none, none, none, top.astype(np.uint8), top.astype(np.float16),
            np.zeros((0, N_TRAITS), np.uint8),
        )

    def add(self, heard: Heard) -> None:
        """Append what was heard."""
        top, probs = _top(heard.note_probs)
        new: tuple[NDArray[Any], ...] = (
            heard.level_db,
            heard.onset,
            heard.periodicity,
            heard.pitch_midi if heard.fine_midi is None else heard.fine_midi,
            heard.confidence,
            top,
            probs,
            np.zeros(1, np.uint8) if heard.traits is None else heard.traits,
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
        self._room = Frames._make(wider)

    def frames(self) -> Frames:
        """All so far."""
        return self._room.part(0, self._n)


def _top(note_probs: Samples) -> tuple[NDArray[np.integer[Any]], Samples]:
    """The `N_KEPT` most probable notes of (T, 128), and their probabilities; in no order."""
    if keep := compiled.bind("keep_top", N_KEPT):
        top = np.empty((len(note_probs), N_KEPT), np.uint8)
        probs = np.empty(top.shape, np.float32)
        arrays: tuple[NDArray[Any], ...] = np.ascontiguousarray(note_probs), top, probs
        keep(len(top), *map(compiled.address, arrays))
        return top, probs
    best = np.argpartition(note_probs, -N_KEPT, axis=1)[:, -N_KEPT:]
    return best, np.take_along_axis(note_probs, best, axis=1)


def decode(frames: Frames, config: TrackerConfig, stretch_s: float = DECODE_S) -> list[Note]:
    """`decode_notes`, in overlapping stretches where the recording is long.

    A seam is laid at the last onset that a stretch hears with its full context, or anywhere where
    there is none; a note that sounds across it is joined. The gate is the whole recording's, so
    that a stretch of mere noise is not taken for a quiet take.
    """
    n, size, context = len(frames.level_db), round(stretch_s / HOP_S), round(CONTEXT_S / HOP_S)
    if n <= size + context:
        return decode_notes(frames, HOP_S, config)
    config = replace(config, file_gate_db=file_gate_db(frames.level_db, config))
    notes: list[Note] = []
    seam = 0
    while seam < n:
        first, last = max(0, seam - context), min(n, seam + size)
        if n - last < context:
            last = n
        found = decode_notes(frames.part(first, last), HOP_S, config)
        found = [
            replace(x, onset_s=x.onset_s + first * HOP_S, offset_s=x.offset_s + first * HOP_S)
            for x in found
        ]
        next_seam = n
        if last < n:
            limit_s = (last - context) * HOP_S
            onsets = [x.onset_s for x in found if seam * HOP_S + 1.0 < x.onset_s <= limit_s]
            next_seam = round(onsets[-1] / HOP_S) if onsets else last - context
        for x in found:
            end_s = min(x.offset_s, next_seam * HOP_S)
            if (seam - 0.5) * HOP_S <= x.onset_s < (next_seam - 0.5) * HOP_S:
                notes.append(replace(x, offset_s=end_s))
            elif x.onset_s < seam * HOP_S < end_s and notes:
                before = notes[-1]  # the same note, whose beginning the stretch before has seen
                if before.midi == x.midi and before.offset_s >= (seam - 1) * HOP_S:
                    notes[-1] = replace(before, offset_s=end_s)
        seam = next_seam
    return notes


def decay_rates(notes: Sequence[Note], level_db: Samples) -> list[float]:
    """How fast notes of half a second and more fall after their peak, in dB/s, 0 or more.

    A struck note is loudest at once; what swells first, and be it to fall soon, is bowed or blown.
    """
    decays = []
    for note in notes:
        first, last = round(note.onset_s / HOP_S), round(note.offset_s / HOP_S)
        if (last - first) * HOP_S < 0.5:
            continue
        level = level_db[first:last].astype(np.float64)
        top = int(level.argmax())
        # the last 50 ms belong to the release; a long ring falls slower than what is heard of it
        falling = level[top : min(top + round(1.5 / HOP_S), len(level) - 5)]
        if top * HOP_S <= STRUCK_WITHIN_S and len(falling) * HOP_S >= 0.25:
            slope = np.polyfit(np.arange(len(falling)) * HOP_S, falling, 1)[0]
            decays.append(max(0.0, -float(slope)))
        else:
            decays.append(0.0)
    return decays


def release_times(notes: Sequence[Note], level_db: Samples) -> list[float]:
    """How long notes take to fade by 60 dB once let go, seconds: three times their first 20 dB.

    Those that the next note cuts off are left out.
    """
    times = []
    ends = [round(note.onset_s / HOP_S) for note in notes[1:]] + [len(level_db)]
    for note, end in zip(notes, ends, strict=True):
        # a note's end is heard up to a quarter of a second after it was let go
        last = round(note.offset_s / HOP_S)
        near = level_db[max(last - 25, round(note.onset_s / HOP_S)) : last + 1]
        if not len(near):
            continue
        held_db = near.max()
        first = last - len(near) + 1 + int(np.flatnonzero(near > held_db - 3.0)[-1])
        fallen = np.flatnonzero(level_db[first:end] < held_db - 20.0)
        if len(fallen):
            times.append(3.0 * HOP_S * float(fallen[0]))
    return times
