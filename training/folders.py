"""Folders of rendered data: made by one set of settings, gone on with, never mixed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from v3audio.errors import ConfigError
from v3audio.paths import atomic_write

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]+\.\w+")  # as atomic_write names it


def claim(folder: Path, settings: dict[str, Any], keep: str = "") -> None:
    """Make the folder ours, or refuse to mix two data sets in it.

    Args:
        folder: to make or to go on with.
        settings: all that decides what it holds; JSON values.
        keep: a file that may lie in a new folder already.

    Raises:
        ConfigError: it was made with other settings, holds other files, or cannot be made.
    """
    manifest = folder / "manifest.json"
    if manifest.is_file():
        try:
            before = json.loads(manifest.read_text(encoding="utf-8"))["settings"]
        except (json.JSONDecodeError, KeyError, TypeError) as e:
            raise ConfigError(f"{manifest} is damaged; choose another folder with -o") from e
        if before != settings:
            changed = [key for key in settings if before.get(key) != settings[key]]
            details = "; ".join(
                f"{key} was {_short(before.get(key))}, now {_short(settings[key])}"
                for key in changed
            )
            raise ConfigError(
                f"{folder} holds clips made with other settings ({details}); "
                "use the same ones to go on, or choose another folder with -o"
            )
        for path in folder.rglob(".*"):  # left by a run that was killed
            if _UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)
        return
    if folder.is_dir() and any(path.name != keep for path in folder.iterdir()):
        raise ConfigError(
            f"{folder} holds files that are no rendered data set; choose another folder with -o"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"{folder} cannot be made ({e.strerror}); choose another with -o") from e
    write_json(manifest, {"settings": settings, "complete": False})


def write_json(path: Path, data: object) -> None:
    """Write a value as JSON, whole or not at all."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(data) + "\n", encoding="utf-8")


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
