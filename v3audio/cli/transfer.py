"""`v3audio transfer`: a recording, played again in another timbre."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from v3audio.cli.common import (
    MixOption,
    ModelOption,
    TimbreOption,
    TransposeOption,
    progress_bar,
)
from v3audio.errors import AudioFileError


def transfer(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A sound file.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT.wav", help="A .wav or .flac file.")
    ],
    timbre: TimbreOption = "flute",
    transpose: TransposeOption = 0.0,
    mix: MixOption = 1.0,
    model: ModelOption = None,
) -> None:
    """Play a recording again in another timbre: the live engine, told beforehand what comes."""
    from v3audio.audio_file import audio_info, check_output
    from v3audio.paths import check_target

    check_output(output)
    check_target(output, AudioFileError)
    audio_info(source)
    from v3audio.api import transfer_file

    with progress_bar(source.name) as told:
        transfer_file(
            source, output, timbre, transpose=transpose, mix=mix, model=model, progress=told
        )
    print(output)
