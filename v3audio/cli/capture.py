"""`v3audio capture`: a new timbre from seconds of the user's own sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from v3audio.cli.common import ModelOption, complain, progress_bar


def capture(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, - and _.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Recordings of one instrument alone.")
    ],
    model: ModelOption = None,
    adapt: Annotated[
        bool, typer.Option("--adapt", help="Learn it more closely; up to a minute of work.")
    ] = False,
    licence: Annotated[
        str, typer.Option("--licence", metavar="TEXT", help="Under which it may be used.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="The report as one JSON object.")] = False,
) -> None:
    """Make a timbre from your own recording; a few seconds are enough, no training."""
    from v3audio.timbres import check_new_name

    check_new_name(name)
    from v3audio.capture import capture as hear
    from v3audio.timbres import save_as_users

    with progress_bar("capture") as told:
        take = hear(name, files, model, licence=licence, progress=told)
    path = save_as_users(take.timbre)
    if adapt:
        try:
            with progress_bar("adapt") as told:
                take = take.adapted(told)
            path = save_as_users(take.timbre)
        except KeyboardInterrupt:
            complain("stopped; the timbre is saved as it was before it adapted")
    if as_json:
        print(json.dumps({"name": name, "file": str(path)} | take.report.as_dict()))
        return
    print("\n".join(take.report.lines()))
    print(f"{path}\nplay it: v3audio transfer IN -o OUT.wav --timbre {name}")
