"""`v3audio transcribe`: recordings to notes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from v3audio.cli.common import (
    ModelOption,
    Progress,
    for_each,
    hearing,
    make_folder,
)
from v3audio.errors import AudioFileError, ConfigError

if TYPE_CHECKING:
    from v3audio.notes import Note

Format = Literal["mid", "json", "csv"]
_SUFFIXES: dict[str, Format] = {".mid": "mid", ".midi": "mid", ".json": "json", ".csv": "csv"}
MIN_TEMPO_BPM, MAX_TEMPO_BPM = 20.0, 400.0


def transcribe(
    sources: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="Sound files, or folders of them.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            metavar="OUT",
            help="A file; with several inputs or a folder, a folder that takes STEM.FORMAT.",
        ),
    ],
    format: Annotated[
        Format | None,
        typer.Option("--format", help="Kind of file.", show_default="as OUT ends, else mid"),
    ] = None,
    tempo: Annotated[
        str,
        typer.Option(
            "--tempo", metavar="BPM|auto", help="Of the MIDI file: 20 to 400, or estimated."
        ),
    ] = "auto",
    mpe: Annotated[bool, typer.Option("--mpe", help="MIDI: a channel for each note.")] = False,
    model: ModelOption = None,
) -> None:
    """Write down the notes of recordings of one voice each."""
    from v3audio.audio_file import audio_info
    from v3audio.paths import check_target

    tempo_bpm = _parse_tempo(tempo)
    jobs = _plan(sources, output, format)

    def write_down(job: tuple[Path, Path, Format], told: Progress) -> None:
        source, target, kind = job
        check_target(target, AudioFileError)
        audio_info(source)
        from v3audio.api import transcribe as hear

        notes = hear(source, hearing=hearing(model), progress=told)
        write_notes(target, notes, kind, tempo_bpm, mpe, source.stem)
        print(f"{target}: {len(notes)} notes")

    for_each("transcribe", jobs, write_down)


def write_notes(
    path: Path,
    notes: Sequence[Note],
    kind: Format,
    tempo_bpm: float | None = None,
    mpe: bool = False,
    name: str = "v3audio",
) -> None:
    """Write notes as MIDI, JSON or CSV; `path` is replaced only when complete.

    Args:
        path: Target.
        notes: What was heard.
        kind: Format, whatever the suffix of `path`.
        tempo_bpm: Of a MIDI file; None estimates it.
        mpe: MIDI with a channel for each note.
        name: Track name.
    """
    from v3audio.midi_file import estimate_tempo, write_midi
    from v3audio.paths import atomic_write

    if kind == "mid":
        write_midi(path, notes, tempo_bpm or estimate_tempo(notes), mpe, name)
        return
    rows = [asdict(note) for note in notes]
    if kind == "json":
        text = json.dumps(rows, indent=1) + "\n"
    else:
        from v3audio.notes import Note

        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, [f.name for f in fields(Note)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = buffer.getvalue()
    with atomic_write(path, AudioFileError) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _parse_tempo(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        tempo_bpm = float(text)
    except ValueError:
        tempo_bpm = float("nan")
    if not MIN_TEMPO_BPM <= tempo_bpm <= MAX_TEMPO_BPM:
        raise ConfigError(
            f"--tempo {text}: wanted {MIN_TEMPO_BPM:g} to {MAX_TEMPO_BPM:g} beats a minute, or auto"
        )
    return tempo_bpm


def _plan(
    sources: Sequence[Path], output: Path, wanted: Format | None
) -> list[tuple[Path, Path, Format]]:
    """Which file is written where and how."""
    files = [file for source in sources for file in _expand(source)]
    suffix_kind = _SUFFIXES.get(output.suffix.lower())
    into_folder = len(files) > 1 or any(s.is_dir() for s in sources) or output.is_dir()
    if not into_folder:
        if wanted and suffix_kind and wanted != suffix_kind:
            raise ConfigError(
                f"-o {output} but --format {wanted}; name it {output.with_suffix('.' + wanted)} "
                "or leave --format out"
            )
        return [(files[0], output, wanted or suffix_kind or "mid")]
    kind = wanted or "mid"
    make_folder(output)
    jobs = [(file, output / f"{file.stem}.{kind}", kind) for file in files]
    by_target: dict[Path, Path] = {}
    for file, target, _ in jobs:
        if (other := by_target.setdefault(target, file)) is not file:
            raise AudioFileError(
                f"{other} and {file} would both become {target}; rename one of them"
            )
    return jobs


def _expand(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    from v3audio.audio_file import is_audio_name

    files = sorted(f for f in source.iterdir() if is_audio_name(f))
    if not files:
        raise AudioFileError(f"{source}: a folder without sound files (WAV, FLAC, OGG, MP3...)")
    return files
