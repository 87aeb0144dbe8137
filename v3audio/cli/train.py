"""`v3audio train`: a recipe in, a model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.toml", help="A recipe, or the name of a shipped one.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="a.b=c", help="Change a value of the recipe; repeatable."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint.")
    ] = False,
) -> None:
    """Train V3, a renderer, or the paper's table of experiments, as a recipe says."""
    import training
    from v3audio.config import load_toml

    shipped = Path(training.__file__).parent / "recipes" / f"{recipe.stem}.toml"
    path = shipped if not recipe.exists() and shipped.exists() else recipe
    kind = load_toml(path).get("kind")
    if kind == "renderer":
        from training.render_train import main
    elif kind == "paper":
        from training.paper.runs import main
    else:
        from training.train import main
    print(main(path, overrides or [], resume))
