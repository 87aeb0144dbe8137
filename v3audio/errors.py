"""What can go wrong for a user, one class per kind.

Every message is one line for a musician: what, what was found, what was wanted, what to type next.
The command line turns a `V3AudioError` into that line and exit code 2; anything else is our fault
and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class V3AudioError(Exception):
    """Root of everything the user can put right."""


class ConfigError(V3AudioError):
    """A recipe, an override or an option has an unknown name or a value of the wrong kind."""


class AudioFileError(V3AudioError):
    """A sound file cannot be read or written."""


class BundleError(V3AudioError):
    """A model folder is missing, damaged, foreign or from a future version."""


class TimbreError(V3AudioError):
    """A timbre is unknown, damaged, foreign or made for another model."""


class DeviceError(V3AudioError):
    """A sound card, a MIDI port or a compute device is missing or refuses."""


class ControlError(V3AudioError):
    """A control message names an unknown control or carries a bad value."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Hint for a misspelt name.

    Args:
        name: What the user wrote.
        known: The names that exist.

    Returns:
        ``"; did you mean 'oboe'?"``, or an empty string when nothing known is near.
    """
    lowered = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)
    return f"; did you mean '{lowered[near[0]]}'?" if near else ""
