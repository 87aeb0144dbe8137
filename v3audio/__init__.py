"""v3audio: audio in, notes out, played back in another timbre.

The names below are loaded when they are first used, so that ``import v3audio`` is quick and never
loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from v3audio.api import transcribe as transcribe
    from v3audio.api import transfer as transfer
    from v3audio.engine import Engine as Engine
    from v3audio.notes import Note as Note

    __version__: str

_HOMES = {
    "transcribe": "v3audio.api",
    "transfer": "v3audio.api",
    "Engine": "v3audio.engine",
    "Note": "v3audio.notes",
}
__all__ = ["Engine", "Note", "__version__", "transcribe", "transfer"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = _version()
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'v3audio' has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("v3audio")
    except PackageNotFoundError:  # a bare checkout on sys.path, never installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted(__all__)
