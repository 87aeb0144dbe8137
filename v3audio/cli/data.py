"""`v3audio data`: sound and pictures to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from v3audio.cli.common import complain, progress_bar
from v3audio.errors import ConfigError

Choice = TypeVar("Choice", bound=str)

data_app = typer.Typer(name="data", help="Render sound, or digits, to train on.")


@data_app.callback()
def _group() -> None:
    """Render sound, or digits, to train on."""


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


@data_app.command()
def insnotes(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Target folder.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same files.")] = 0,
    size: Annotated[
        int, typer.Option("--size", min=1, help="Files of two minutes an instrument (paper: 100).")
    ] = 8,
    soundfont: Annotated[
        Path | None,
        typer.Option("--soundfont", metavar="FILE", show_default="the system's",
                     help="A General MIDI .sf2/.sf3."),
    ] = None,
    programs: Annotated[
        str,
        typer.Option("--programs", metavar="64,19,21...", show_default="the paper's 12 and 4",
                     help="General MIDI programs 0 to 127."),
    ] = "",
) -> None:  # fmt: skip
    """Render the paper's music: instruments playing an octave. Goes on where it stopped."""
    from training.paper.insnotes import OOD_PROGRAMS, PROGRAMS, render

    chosen = tuple(_parse_programs(programs) or PROGRAMS + OOD_PROGRAMS)
    with progress_bar("data insnotes") as told:
        n_new = render(output, seed=seed, files_per_program=size, programs=chosen,
                       soundfont=soundfont, progress=told)  # fmt: skip
    print(f"{output}: {len(chosen) * size} files ({n_new} new), {len(chosen)} instruments")


@data_app.command()
def phonenums(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Target folder.")],
    seed: Annotated[int, typer.Option("--seed", min=0, help="Same seed, same files.")] = 0,
    size: Annotated[
        int, typer.Option("--size", min=1, help="Rows of ten digits a colour to train on.")
    ] = 60,
    hand: Annotated[
        str, typer.Option("--hand", metavar="HAND", help="print, script or scanned.")
    ] = "print",
    order: Annotated[
        str, typer.Option("--order", metavar="ORDER", help="each-once (as the paper), or random.")
    ] = "each-once",
) -> None:
    """Draw the paper's digits: rows of ten in one colour. Goes on where it stopped."""
    from training.paper.phonenums import HANDS, ORDERS, render

    with progress_bar("data phonenums") as told:
        n_new = render(output, seed=seed, rows_per_colour=size, hand=_one_of(HANDS, hand, "--hand"),
                       order=_one_of(ORDERS, order, "--order"), progress=told)  # fmt: skip
    print(f"{output}: {size} rows a colour to train on, {n_new} new files")


def _one_of(choices: tuple[Choice, ...], given: str, option: str) -> Choice:
    for choice in choices:
        if choice == given:
            return choice
    raise ConfigError(f"{option} {given}: expected one of {', '.join(choices)}")


def _parse_programs(text: str) -> list[int] | None:
    if not text:
        return None
    try:
        return [int(p) for p in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--programs {text}: wanted numbers with commas between, as in --programs 0,40,56"
        ) from None
