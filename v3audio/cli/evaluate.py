"""`v3audio evaluate`: what a model is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Name or folder of a model, or of runs of a table."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Report folder.")],
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE.toml]", help="What to measure on.")
    ] = None,
) -> None:
    """Measure a model on what it never heard; figures, pictures and one report page."""
    if _holds_runs(Path(model)):
        from training.paper.report import evaluate as report

        print(report(Path(model), output))
        return
    from training.evaluate import evaluate as measure
    from v3audio.bundle import find_model

    measure(find_model(model), recipe, output)
    print(output / "report.md")


def _holds_runs(folder: Path) -> bool:
    """Whether this is one run of a paper recipe, or a folder of them."""
    return (folder / "run.json").is_file() or any(folder.glob("*/run.json"))
