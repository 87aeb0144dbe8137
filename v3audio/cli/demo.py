"""`v3audio demo`: the whole instrument on a recording, to hear and to look at."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from v3audio.cli.common import TimbreOption, make_folder, progress_bar

_CREDIT = "alto saxophone, joined from karoryfer.weresax by Karoryfer (CC0 1.0)"


def demo(
    recording: Annotated[
        Path | None,
        typer.Argument(
            metavar="[IN]", help="Your own recording of one voice.", show_default="the shipped one"
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the results.")
    ] = Path("demo-out"),
    timbre: TimbreOption = "clarinet",
    page: Annotated[
        bool,
        typer.Option("--page", help="Also a page to listen to: every timbre, morphs, pictures."),
    ] = False,
) -> None:
    """Turn a shipped recording, or yours, into MIDI and into another timbre; no hardware needed."""
    from v3audio.audio_file import audio_info
    from v3audio.paths import demo_recording
    from v3audio.timbres import find

    source = recording or demo_recording()
    length_s = audio_info(source).duration_s
    label = re.sub(r"[^\w.-]+", "-", find(timbre).name)[:60]
    make_folder(output)
    from v3audio.api import transcribe, transfer_file
    from v3audio.cli.transcribe import write_notes

    midi, sound = output / f"{source.stem}.mid", output / f"{source.stem}-{label}.wav"
    notes = transcribe(source)
    write_notes(midi, notes, "mid", name=source.stem)
    with progress_bar("demo") as told:
        transfer_file(source, sound, timbre, progress=told)
    print(f"heard   {source} ({length_s:.1f} s)")
    print(f"notes   {midi} ({len(notes)} notes)")
    print(f"sound   {sound} ({timbre})")
    if page:
        from v3audio.listening_page import write_page

        target = output / f"{source.stem}.html"
        from_s = notes[0].onset_s if notes else 0.0
        with progress_bar("page") as told:
            n_sounds = write_page(target, source, timbre, from_s=from_s, midi=midi,
                                  credit="" if recording else _CREDIT, progress=told)  # fmt: skip
        size_mb = target.stat().st_size / 1e6
        print(f"page    {target} ({n_sounds} sounds, {size_mb:.1f} MB); open it in a browser")
