"""`v3audio calibrate`: names for the codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name or folder of a model.")],
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Melodies as `data melodies` makes them.")
    ] = Path("data/melodies"),
) -> None:
    """Name a model's codes by labelled sound; the map and its report go into the model."""
    from training.calibrate import calibrate_bundle
    from v3audio.bundle import find_model

    report = calibrate_bundle(find_model(model), folder)
    print(
        f"{report.accuracy:.1%} of {report.frames} stable frames right, "
        f"{report.accuracy_within_75_cents:.1%} within 75 cents; "
        f"{report.notes_covered} of {report.notes_heard} notes covered, "
        f"{report.codes_used} codes used, {report.codes_per_note:.1f} a note"
    )
