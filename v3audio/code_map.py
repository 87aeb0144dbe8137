"""What the codes of a model are called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CodeMap:
    """The names of the codes, given once after training (`training.calibrate`)."""

    code_to_note: list[int]  # (K,) MIDI note of each code
    offset_semitones: float  # heard pitch minus the pitch that a position's place would say
    temperature: float = 0.02  # of the soft code assignment, in squared distance
