"""Clips of a folder: recordings, and what `data melodies` renders, with what is known of them.

Training reads the sound alone; labels are for naming codes and for measuring.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from v3audio.errors import ConfigError

FloatArray = NDArray[np.float32]

SAMPLE_RATE = 16000
"""Rate of rendered files, in Hz."""
AUDIO_SUFFIXES = (".flac", ".wav", ".aif", ".aiff", ".ogg", ".mp3")


@dataclass(frozen=True, slots=True)
class LabelledNote:
    """A note as it was played.

    midi + cents / 100 is the note's constant pitch; vibrato and glides are in the clip's f0.
    audible_s: when it has faded away (offset_s, or earlier for plucked sounds).
    """

    onset_s: float
    offset_s: float
    midi: int
    velocity: int
    cents: float
    audible_s: float


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip of a folder; `clean` (the same without the room) and `labels` only if rendered."""

    noisy: Path
    clean: Path | None
    labels: Path | None

    def read(self) -> tuple[FloatArray, FloatArray | None]:
        """The recording and its clean render, (n_samples,) float32 mono at SAMPLE_RATE."""
        return read_audio(self.noisy), None if self.clean is None else read_audio(self.clean)

    def info(self) -> dict[str, Any]:
        """All that was written down about the clip; {} without labels."""
        if self.labels is None:
            return {}
        data: dict[str, Any] = json.loads(self.labels.read_text(encoding="utf-8"))
        return data

    def notes(self) -> list[LabelledNote]:
        """Notes in time order; [] without labels."""
        return [LabelledNote(**note) for note in self.info().get("notes", [])]

    def f0_at(self, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """True pitch at the given times, as MIDI numbers; NaN where no note is held."""
        return f0_at(self.info().get("f0", []), times_s)


def f0_at(contours: list[list[list[float]]], times_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pitch at the given times from a clip's `f0` (one list of [time_s, midi] points a note)."""
    pitch = np.full(np.shape(times_s), np.nan)
    for contour in contours:
        points = np.asarray(contour)
        inside = (times_s >= points[0, 0]) & (times_s < points[-1, 0])
        pitch[inside] = np.interp(times_s[inside], points[:, 0], points[:, 1])
    return pitch


def find_clips(folder: Path) -> list[Clip]:
    """Clips of a folder made by `data melodies`, or of a plain folder of recordings, by name.

    Raises:
        ConfigError: there is no sound in the folder.
    """

    def if_there(path: Path) -> Path | None:
        return path if path.is_file() else None

    clips = [
        Clip(path, if_there(path.with_suffix(".clean.flac")), if_there(path.with_suffix(".json")))
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in AUDIO_SUFFIXES
        and not path.name.startswith(".")
        and not path.stem.endswith(".clean")
    ]
    if not clips:
        raise ConfigError(
            f"{folder}: no recordings; make some with 'v3audio data melodies -o {folder}', "
            f"or name a folder with {', '.join(AUDIO_SUFFIXES)} files"
        )
    return clips


def read_audio(path: Path, sample_rate: int = SAMPLE_RATE) -> FloatArray:
    """A file's mean channel at a rate: (n_samples,) float32."""
    sound, own = soundfile.read(path, dtype="float32", always_2d=True)
    mono = sound.mean(axis=1)
    if own != sample_rate:
        mono = soxr.resample(mono, own, sample_rate)
    return np.asarray(mono, np.float32)
