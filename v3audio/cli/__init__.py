"""The commands. Each imports what it needs inside its body, so that `--help` never loads torch.

This is the composition root: the one place that knows v3audio, training and realtime alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from v3audio.cli.calibrate import calibrate
from v3audio.cli.capture import capture
from v3audio.cli.common import Commands
from v3audio.cli.data import data_app
from v3audio.cli.demo import demo
from v3audio.cli.devices import devices
from v3audio.cli.doctor import doctor
from v3audio.cli.encode import encode
from v3audio.cli.evaluate import evaluate
from v3audio.cli.latency import latency
from v3audio.cli.live import live
from v3audio.cli.timbres import timbres_app
from v3audio.cli.train import train
from v3audio.cli.transcribe import transcribe
from v3audio.cli.transfer import transfer

app = typer.Typer(
    name="v3audio",
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,  # our faults show the plain traceback that a report needs
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Audio in, notes out, played back in another timbre. One voice at a time."""
    if version:
        from v3audio import __version__

        print(f"v3audio {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit


_COMMANDS: tuple[typer.Typer | Callable[..., None], ...] = (
    live, transfer, transcribe, timbres_app, capture, devices, demo, data_app, train, calibrate,
    evaluate, encode, latency, doctor,
)  # fmt: skip
for command in _COMMANDS:
    if isinstance(command, typer.Typer):
        app.add_typer(command)
    else:
        app.command()(command)


def main() -> None:
    """Entry point of the `v3audio` program."""
    app()
