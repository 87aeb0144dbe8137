"""Which pitch sounds for the pitch that is heard, and under which name it is said. Pure."""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from v3audio.notes import NoteEvent
from v3audio.settings import Settings, snapped


class Tuning(NamedTuple):
    """How a note was said when it began."""

    settings: Settings
    octaves: int  # semitones that keep it within MIDI's range
    note: int  # as said

    @classmethod
    def begin(cls, event: NoteEvent, s: Settings) -> Tuning:
        """For a note-on: with `snap` the note nearest to where the pitch is pulled."""
        note = (
            round(tuned(event.note, event.note, s)) if s.snap else event.note + round(s.transpose)
        )
        octaves = 12 * octaves_into_range(note)
        return cls(s, octaves, note + octaves)

    def cents(self, event: NoteEvent) -> float:
        """Distance from the note as said to the event's pitch as it was tuned then."""
        pitch = tuned(event.note + event.cents / 100.0, event.note, self.settings)
        return 100.0 * (pitch + self.octaves - self.note)


def tuned(pitch: float, note: float, s: Settings) -> float:
    """A pitch transposed, and pulled to the scale's note nearest to the transposed `note`.

    The note that is played decides, not its pitch: vibrato, bends and a player's intonation must
    not flicker between two notes of the scale.
    """
    return snapped(pitch + s.transpose, s.scale_root, s.scale, s.snap, note + s.transpose)


def octaves_into_range(note: int) -> int:
    """Octaves to add so that a note lies within MIDI 0..127."""
    if note < 0:
        return ceil(-note / 12)
    return -ceil((note - 127) / 12) if note > 127 else 0
