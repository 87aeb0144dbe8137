"""`v3audio encode`: a look inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from v3audio.cli.common import ModelOption, Progress, for_each, hearing, make_folder
from v3audio.errors import AudioFileError, ConfigError


def encode(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Sound files.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="OUT.npz", help="A folder for several files."),
    ],
    model: ModelOption = None,
) -> None:
    """Write what the model hears, frame by frame, for whoever wants to look inside.

    Arrays: time_s, level_db, code, content, style, note (-1: none).
    """
    from v3audio.audio_file import audio_info
    from v3audio.paths import check_target

    if len(files) == 1 and not output.is_dir():
        if output.suffix != ".npz":
            raise ConfigError(f"-o {output}: wanted a .npz file; name it {output}.npz")
        targets = [output]
    else:
        make_folder(output)
        targets = [output / f"{file.stem}.npz" for file in files]

    def look(job: tuple[Path, Path], told: Progress) -> None:
        source, target = job
        check_target(target, AudioFileError)
        audio_info(source)
        from v3audio.api import encode as write

        print(write(source, target, hearing=hearing(model), progress=told))

    for_each("encode", list(zip(files, targets, strict=True)), look)
