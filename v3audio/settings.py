"""What a player may move while the engine plays: one immutable value, swapped whole.

Pure: neither torch nor numpy. `RANGES` is the one place where the range of a number stands;
control surfaces and command lines take it from here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil, floor, log2

from v3audio.errors import ConfigError, did_you_mean

RANGES: dict[str, tuple[float, float]] = {
    "mix": (0.0, 1.0),
    "gain_in_db": (-60.0, 24.0),
    "gain_out_db": (-60.0, 24.0),
    "gate_db": (-90.0, 0.0),
    "transpose": (-36.0, 36.0),
    "fine_cents": (-100.0, 100.0),
    "formant": (-12.0, 12.0),
    "snap": (0.0, 1.0),
    "ref_hz": (400.0, 480.0),
    "scale_root": (0, 11),
    "fade_ms": (0.0, 5000.0),
    "min_note_ms": (0.0, 500.0),
    "sensitivity": (0.0, 1.0),
}
"""Lowest and highest value of each number in `Settings`; the unit is in its name, or said there."""

SCALES: dict[str, tuple[int, ...]] = {
    "chromatic": tuple(range(12)),
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "melodic minor": (0, 2, 3, 5, 7, 9, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "locrian": (0, 1, 3, 5, 6, 8, 10),
    "pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
    "blues": (0, 3, 5, 6, 7, 10),
    "whole tone": (0, 2, 4, 6, 8, 10),
}
"""Semitones above the root that belong to each scale."""

NOTE_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

VELOCITIES = ("level", "attack", "fixed")
"""How hard a note was played: its level, how sharply it began, or always the same."""


def note_name(midi: int) -> str:
    """Name of a MIDI note with its octave, 60 being C4."""
    return f"{NOTE_NAMES[midi % 12]}{midi // 12 - 1}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a player may move while the engine plays.

    Attributes:
        enabled: off is silence and no notes.
        bypass: the input as it came, no notes.
        freeze: what sounds now is held and the input is not heard; silence stays silent.
        mix: 0 (input alone) .. 1 (new timbre alone).
        gain_in_db: dB, of what is heard and of the dry part.
        gain_out_db: dB, of dry and new timbre together.
        gate_db: dBFS (after `gain_in_db`) below which the input is silence.
        transpose: semitones, fractions allowed.
        fine_cents: detuning after everything else, in sound and cents alike.
        formant: semitones by which the body's resonances move while the pitch stays: below 0 a
            larger instrument or throat, above it a smaller one.
        snap: 0 (as played) .. 1 (exactly in the scale), of the transposed pitch; with a scale and
            a transposition of a third this plays the third that belongs to the scale.
        ref_hz: the player's A4: notes and cents are counted from it. It names, it does not retune.
        scale_root: 0 (C) .. 11 (B).
        scale: one of `SCALES`.
        fade_ms: glide from one timbre to the next.
        min_note_ms: notes are said only once they have lasted this long.
        sensitivity: 0..1, how readily a note starts.
        velocity: one of `VELOCITIES`.

    Raises:
        ConfigError: a value out of range, of another type, or an unknown name.
    """

    enabled: bool = True
    bypass: bool = False
    freeze: bool = False
    mix: float = 1.0
    gain_in_db: float = 0.0
    gain_out_db: float = 0.0
    gate_db: float = -50.0
    transpose: float = 0.0
    fine_cents: float = 0.0
    formant: float = 0.0
    snap: float = 0.0
    ref_hz: float = 440.0
    scale_root: int = 0
    scale: str = "chromatic"
    fade_ms: float = 50.0
    min_note_ms: float = 0.0
    sensitivity: float = 0.5
    velocity: str = "level"

    def __post_init__(self) -> None:
        for each in fields(self):
            name, value = each.name, getattr(self, each.name)
            if isinstance(each.default, bool):
                if not isinstance(value, bool):
                    raise ConfigError(f"{name} = {value!r}: expected True or False")
            elif name in RANGES:
                low, high = RANGES[name]
                whole = isinstance(each.default, int)
                fits = isinstance(value, int if whole else (int, float))
                if isinstance(value, bool) or not fits or not low <= value <= high:  # NaN neither
                    kind = "a whole number from " if whole else ""
                    raise ConfigError(f"{name} = {value!r}: expected {kind}{low:g} to {high:g}")
                if not whole:
                    object.__setattr__(self, name, float(value))
        for name, known in (("scale", SCALES), ("velocity", VELOCITIES)):
            value = getattr(self, name)
            if value not in known:
                hint = did_you_mean(str(value), known)
                raise ConfigError(f"{name} = {value!r}: expected one of {', '.join(known)}{hint}")


def nearest_in_scale(pitch: float, root: int, scale: str) -> int:
    """The note of a scale nearest to a pitch; between two, the lower.

    Args:
        pitch: MIDI pitch, fractions allowed.
        root: 0 (C) .. 11 (B).
        scale: one of `SCALES`.
    """
    notes = SCALES[scale]
    near = [n for n in range(floor(pitch) - 3, ceil(pitch) + 4) if (n - root) % 12 in notes]
    return min(near, key=lambda n: (abs(n - pitch), n))


def snapped(
    pitch: float, root: int, scale: str, amount: float, centre: float | None = None
) -> float:
    """A pitch pulled towards a note of a scale.

    Args:
        pitch: MIDI pitch, fractions allowed.
        root: 0 (C) .. 11 (B).
        scale: one of `SCALES`.
        amount: 0 leaves the pitch, 1 puts it on the note.
        centre: the note nearest to this is meant; the pitch itself if None.
    """
    if not amount:
        return pitch
    note = nearest_in_scale(pitch if centre is None else centre, root, scale)
    return pitch + amount * (note - pitch)


def ref_semitones(ref_hz: float) -> float:
    """How far above 440 Hz a player's A4 is, in semitones."""
    return 12.0 * log2(ref_hz / 440.0)
