"""`v3audio data`: sound to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from v3audio.cli.common import complain, progress_bar
from v3audio.errors import ConfigError

data_app = typer.Typer(name="data", help="Render sound to train on.")


@data_app.callback()
def _group() -> None:
    """Render sound to train on."""


@data_app.command()
def melodies(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Target folder.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same files.")] = 0,
    size: Annotated[int, typer.Option("--size", min=1, help="Number of clips.")] = 200,
    clip_s: Annotated[
        float, typer.Option("--clip-s", min=2, max=600, help="Length of a clip in seconds.")
    ] = 32.0,
    soundfonts: Annotated[
        list[Path] | None,
        typer.Option("--soundfont", metavar="FILE", show_default="the system's",
                     help="A General MIDI .sf2/.sf3; repeatable."),
    ] = None,
    programs: Annotated[
        str,
        typer.Option("--programs", metavar="0,40,56...", show_default="all melodic ones",
                     help="General MIDI programs 0 to 127."),
    ] = "",
    voice_share: Annotated[
        float, typer.Option("--voice-share", min=0, max=1, help="Share of clips that are sung.")
    ] = 0.1,
) -> None:  # fmt: skip
    """Render melodies with their notes, clean and in a room. Goes on where it was interrupted."""
    from training.melodies import render

    with progress_bar("data melodies") as told:
        summary = render(
            output, seed=seed, n_clips=size, clip_s=clip_s, soundfonts=soundfonts,
            programs=_parse_programs(programs), voice_share=voice_share, progress=told,
        )  # fmt: skip
    for program, reason in summary.dropped.items():
        complain(f"left out {program}: {reason}")
    print(
        f"{summary.folder}: {summary.n_clips} clips ({summary.n_rendered} new), "
        f"{summary.seconds / 60:.0f} minutes, {len(summary.programs)} instruments"
    )


def _parse_programs(text: str) -> list[int] | None:
    if not text:
        return None
    try:
        return [int(p) for p in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--programs {text}: wanted numbers with commas between, as in --programs 0,40,56"
        ) from None
