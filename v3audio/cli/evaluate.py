"""`v3audio evaluate`: what a model is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name or folder of a model.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Report folder.")],
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE.toml]", help="What to measure on.")
    ] = None,
) -> None:
    """Measure a model on sound it never heard; figures, pictures and one report page."""
    from training.evaluate import evaluate as measure
    from v3audio.bundle import find_model

    measure(find_model(model), recipe, output)
    print(output / "report.md")
