"""`v3audio timbres`: what there is to play with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from v3audio.cli.common import complain
from v3audio.settings import note_name

timbres_app = typer.Typer(name="timbres", help="List, show and exchange timbres.")
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="As `timbres list` prints it.")]


@timbres_app.command("list")
def list_() -> None:
    """List all timbres: name, range, and where each comes from."""
    from v3audio.timbres import list_timbres

    entries = list_timbres()
    width = max((len(e.name) for e in entries), default=0)
    for entry in entries:
        origin = "shipped" if entry.is_shipped else "yours"
        if entry.info is None:
            complain(entry.problem)
            continue
        low, high = (note_name(n) for n in entry.info.note_range)
        kind = "dies away" if entry.info.decay_db_per_s > 0 else "sustained"
        print(f"{entry.name:<{width}}  {low + '-' + high:<8}  {kind:<9}  {origin}")
    if not entries:
        complain("no timbres yet; make one: v3audio capture NAME FILE")


@timbres_app.command()
def show(name: NameArgument) -> None:
    """Show all that is known of a timbre."""
    from v3audio.timbres import path_of, read_info

    path = path_of(name)
    info = read_info(path)
    low, high = (note_name(n) for n in info.note_range)
    lines = {
        "name": info.name,
        "range": f"{low} to {high} (MIDI {info.note_range[0]} to {info.note_range[1]})",
        "gain": f"{info.gain_db:+.1f} dB",
        "decay": f"{info.decay_db_per_s:.0f} dB/s" if info.decay_db_per_s else "none, sustained",
        "model": f"{info.model} ({info.model_sha256[:12]})",
        "origin": info.source or "not stated",
        "licence": info.licence or "not stated",
        "file": str(path),
    }
    for label, value in lines.items():
        print(f"{label:<8} {value}")


@timbres_app.command()
def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A timbre, or a blend.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors file.")],
) -> None:
    """Write a timbre, or a blend, to a file that can be given away."""
    from v3audio.timbres import export_file

    print(export_file(name, file))


@timbres_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A timbre's .safetensors file.")],
) -> None:
    """Take a timbre's file into your own timbres."""
    from v3audio.timbres import import_file

    print(import_file(file))


@timbres_app.command()
def where() -> None:
    """Print the folder of your own timbres and that of the shipped ones."""
    from v3audio.paths import presets_dir
    from v3audio.timbres import user_timbres_dir

    print(f"yours    {user_timbres_dir()}")
    print(f"shipped  {presets_dir() / 'timbres'}")
