"""`v3audio capture`: a new timbre from seconds of the user's own sound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from v3audio.cli.common import ModelOption, progress_bar


def capture(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, - and _.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Recordings of one instrument alone.")
    ],
    model: ModelOption = None,
) -> None:
    """Make a timbre from your own recording; a few seconds are enough, no training."""
    from v3audio.timbres import check_new_name

    check_new_name(name)
    from v3audio.api import capture as hear
    from v3audio.timbres import save_as_users

    with progress_bar("capture") as told:
        timbre = hear(name, files, model=model, progress=told)
    path = save_as_users(timbre)
    print(f"{path}\nplay it: v3audio transfer IN -o OUT.wav --timbre {name}")
