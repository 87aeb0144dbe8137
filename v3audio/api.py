"""Whole recordings in one call: notes, another timbre, a look inside, a new timbre.

Everything streams, so that two hours take little more memory than two minutes: sound is read, heard
and dropped in blocks, and of each frame only what is needed later is kept.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from v3audio.audio_file import AudioWriter
from v3audio.engine import Engine
from v3audio.errors import AudioFileError, ConfigError
from v3audio.hear_file import (
    HOP_S,
    TAIL_S,
    HearingPart,
    KeptFrames,
    Progress,
    Samples,
    Source,
    as_mono,
    decode,
    hear,
    load_hearing,
    open_sound,
)
from v3audio.notes import Note, TrackerConfig, file_gate_db
from v3audio.paths import atomic_write
from v3audio.score import Score, hear_score
from v3audio.settings import note_name
from v3audio.timbres import Timbre

log = logging.getLogger(__name__)


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
        device: ``cpu`` (which ``auto`` means: it needs no torch, and is hardly slower than the
            sound is read) or ``cuda``.
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
    sound = open_sound(source)
    hearing = hearing or load_hearing(model, device)
    kept = KeptFrames()
    for heard in hear(sound, hearing, TAIL_S, progress, style=False, quieten=True):
        kept.add(heard)
    notes = decode(kept.frames(), config or TrackerConfig())
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
    hearing: HearingPart | None = None,
) -> Samples:
    """Play samples again in another timbre: the live engine, over what was heard of them before.

    Nothing is late: each note begins on its attack, at its pitch.

    Args:
        x: (n,) or (n, channels) float samples, full scale +-1; channels are averaged, NaN and
            infinity count as 0.
        sample_rate: Hz, 8000..192000.
        timbre: name, file, blend (``"flute:0.7,trumpet:0.3"``) or `Timbre`.
        transpose: semitones, -36..36.
        mix: 0 the input as it came .. 1 the timbre alone.
        model: name or folder of a model; None for the shipped one.
        engine: use this one, from its start, instead of making one.
        hearing: replaces the model's.

    Returns:
        (n,) float32 within +-1, as long as `x` and not shifted.

    Raises:
        ConfigError, TimbreError, BundleError: as `Engine`.
    """
    mono = as_mono(x)
    engine = engine or Engine(timbre, sample_rate, 4096, model, transpose=transpose, mix=mix)
    sound = open_sound((mono, engine.sample_rate))
    score = hear_score(sound, hearing or _ear(engine, model))
    _tell_of_range(score, engine)
    engine.reset(score)
    out = engine.process(mono)[0]
    if engine.n_non_finite:
        log.warning("%d samples are NaN or infinite; taken as silence", engine.n_non_finite)
    return out


def _tell_of_range(score: Score, engine: Engine) -> None:
    """Warn where most notes lie beyond the timbre's range, and say what brings them into it."""
    notes = np.array([span.midi for span in score.spans])
    low, high = engine.timbre.note_range

    def n_inside(transpose: float) -> int:
        return int(np.sum((notes + transpose >= low) & (notes + transpose <= high)))

    inside = n_inside(engine.transpose)
    if 2 * inside >= len(notes):
        return
    best = max(range(-36, 37, 12), key=lambda octaves: (n_inside(octaves), -abs(octaves)))
    log.warning(
        "%d of %d notes lie outside the range of '%s' (%s to %s), where it sounds less like "
        "itself; transposed by %+d semitones, %d lie within it",
        len(notes) - inside, len(notes), engine.timbre.name, note_name(low), note_name(high), best,
        n_inside(best),
    )  # fmt: skip


def _ear(engine: Engine, model: Path | str | None) -> HearingPart:
    """The engine's own hearing, where it can hear a recording too: not every one can on a GPU."""
    own = engine.hearing
    return own if isinstance(own, HearingPart) else load_hearing(model, "cpu")


def transfer_file(
    source: Path | str,
    target: Path | str,
    timbre: str | Timbre = "flute",
    *,
    transpose: float = 0.0,
    mix: float = 1.0,
    model: Path | str | None = None,
    engine: Engine | None = None,
    hearing: HearingPart | None = None,
    progress: Progress | None = None,
) -> Path:
    """`transfer` from file to file, block by block; the file is read twice.

    Args:
        source: a sound file.
        target: a ``.wav`` or ``.flac`` file; it gets the rate and the length of `source` and
            appears only when complete.
        timbre: as `transfer`.
        transpose: as `transfer`.
        mix: as `transfer`.
        model: as `transfer`.
        engine: use this one, from its start; its rate must be the file's.
        hearing: replaces the model's.
        progress: told samples done and in all; a sample counts half when it is heard.

    Raises:
        AudioFileError: an input that cannot be read or an output that cannot be written.
        ConfigError, TimbreError, BundleError: as `Engine`.
    """
    sound = open_sound(source)
    with AudioWriter(target, sound.sample_rate) as writer:
        engine = engine or Engine(
            timbre, sound.sample_rate, 4096, model, transpose=transpose, mix=mix
        )
        if engine.sample_rate != sound.sample_rate:
            raise ConfigError(
                f"the engine runs at {engine.sample_rate} Hz but {source} has "
                f"{sound.sample_rate} Hz; make an engine for that rate"
            )
        half = progress and (lambda done, n: progress(done // 2, n))
        score = hear_score(sound, hearing or _ear(engine, model), half)
        _tell_of_range(score, engine)
        engine.reset(score)
        for block in open_sound(source).blocks:
            writer.write(engine.process(block)[0])
            if progress:
                progress((sound.n_samples + writer.n_samples) // 2, sound.n_samples)
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
    sound = open_sound(source)
    hearing = hearing or load_hearing(model, device)
    with atomic_write(target, AudioFileError) as temporary, _Spools(target.parent) as spools:
        levels, notes, n_frames = [], [], 0
        for heard in hear(sound, hearing, 0.0, progress):
            steps = np.arange(n_frames + 1, n_frames + 1 + len(heard.level_db))
            n_frames += len(steps)
            spools.add("time_s", steps * HOP_S)
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
