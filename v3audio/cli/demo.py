"""`v3audio demo`: the whole instrument on a shipped recording."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from v3audio.cli.common import TimbreOption, make_folder, progress_bar


def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results.")
    ] = Path("demo-out"),
    timbre: TimbreOption = "clarinet",
) -> None:
    """Turn a shipped recording into MIDI and into another timbre; no hardware needed."""
    from v3audio.api import transcribe, transfer_file
    from v3audio.audio_file import audio_info
    from v3audio.cli.transcribe import write_notes
    from v3audio.paths import demo_recording
    from v3audio.timbres import find

    source = demo_recording()
    label = re.sub(r"[^\w.-]+", "-", find(timbre).name)[:60]
    make_folder(output)
    midi, sound = output / f"{source.stem}.mid", output / f"{source.stem}-{label}.wav"
    notes = transcribe(source)
    write_notes(midi, notes, "mid", name=source.stem)
    with progress_bar("demo") as told:
        transfer_file(source, sound, timbre, progress=told)
    print(f"heard   {source} ({audio_info(source).duration_s:.1f} s)")
    print(f"notes   {midi} ({len(notes)} notes)")
    print(f"sound   {sound} ({timbre})")
