"""Seeded monophonic phrases: which notes, when, how loud, and how the pitch moves inside each.

Time runs in ticks of one FluidSynth block (64 samples at 48 kHz, 1.33 ms), so that what is written
down is exactly what sounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.soundfonts import BLOCK, SYNTH_RATE

TICKS_PER_S = SYNTH_RATE / BLOCK
_MAX_SLUR = 7  # semitones that one voice may be bent before a sample sounds like something else
_CHORDS = ((0, 4, 7), (0, 3, 7), (0, 4, 7, 11), (0, 5, 7), (0, 3, 6, 9), (0, 7))
_SCALES = ((2, 2, 1, 2, 2, 2, 1), (2, 1, 2, 2, 1, 2, 2), (2, 2, 3, 2, 3), (1,))


@dataclass(frozen=True, slots=True)
class PhraseNote:
    """One note of a phrase.

    onset, offset: ticks. midi: note number. velocity: 1..127. cents: constant deviation (the
    clip's detuning and the note's own). curve: (offset - onset + 1,) deviation from `midi` in
    semitones at every tick, everything included. slurred: the pitch moves here from the note
    before without a new attack.
    """

    onset: int
    offset: int
    midi: int
    velocity: int
    cents: float
    curve: NDArray[np.float64]
    slurred: bool


@dataclass(frozen=True, slots=True)
class TrueNote:
    """A note of a sound. onset_s, offset_s: seconds. midi: MIDI number with fraction."""

    onset_s: float
    offset_s: float
    midi: float


def arrival_s(
    time_s: NDArray[np.float64], midi: NDArray[np.float64], before: float, note: float
) -> float:
    """When a slurred note begins: where its pitch is past the middle between the two."""
    past = (midi - (before + note) / 2) * (note - before) > 0
    return float(time_s[past.argmax()]) if past.any() else float(time_s[0])


def slurred_s(note: PhraseNote, before: float) -> float:
    """`arrival_s` of a note that comes from this pitch, MIDI."""
    time_s = (note.onset + np.arange(len(note.curve))) / TICKS_PER_S
    return arrival_s(time_s, note.midi + note.curve, before, note.midi + note.cents / 100)


class _Bag:
    """Draws notes without replacement until all are used, so every clip covers its whole range."""

    def __init__(self, rng: np.random.Generator, notes: list[int]) -> None:
        self._rng, self._notes = rng, notes
        self._left: list[int] = []

    def draw(self) -> int:
        if not self._left:
            self._left = [int(n) for n in self._rng.permutation(self._notes)]
        return self._left.pop()


def _line(rng: np.random.Generator, bag: _Bag, notes: list[int], n: int) -> list[int]:
    """A row of `n` notes: random leaps, a walk, an arpeggio, a scale run or repetitions."""
    low, high = notes[0], notes[-1]
    kind = rng.choice(5, p=(0.42, 0.18, 0.14, 0.14, 0.12))
    start = bag.draw()
    if kind == 0:
        line = [start, *(bag.draw() for _ in range(n - 1))]
    elif kind == 4:
        line = [start] * n
    else:
        if kind == 1:
            steps = rng.choice((1, 2, 3), size=n, p=(0.45, 0.4, 0.15)) * np.where(
                rng.random(n) < 0.25, -1, 1
            )
        else:
            table = _CHORDS if kind == 2 else _SCALES
            pattern = table[int(rng.integers(len(table)))]
            if kind == 2:  # chord tones as steps to the next chord tone, octave after octave
                pattern = tuple(np.diff([*pattern, 12]))
            steps = np.resize(pattern, n)
        direction = 1 if start - low < rng.uniform(0, high - low) else -1
        line, at = [start], start
        for step in steps[1:]:
            if not low <= at + direction * step <= high:
                direction = -direction
            at = int(min(max(at + direction * step, low), high))
            line.append(at)
    allowed = np.asarray(notes)
    return [int(allowed[np.argmin(np.abs(allowed - note))]) for note in line]


def compose(
    rng: np.random.Generator,
    notes: list[int],
    clip_s: float,
    *,
    sustained: bool,
    detune_cents: float,
    glides: float,
) -> list[PhraseNote]:
    """Write one clip's melody.

    Args:
        rng: the clip's generator.
        notes: playable MIDI notes, ascending.
        clip_s: length in seconds.
        sustained: whether the sound holds, so that slurs and deep vibrato make sense.
        detune_cents: constant deviation of the whole clip.
        glides: 0..1, how often notes slide, scoop and slur.

    Returns: notes in time order; none overlaps another, all end inside the clip.
    """
    bag = _Bag(rng, notes)
    end = int((clip_s - 0.1) * TICKS_PER_S)
    now = int(rng.uniform(0.02, 0.4) * TICKS_PER_S)
    clip_vibrato = rng.random() < (0.6 if sustained else 0.3)
    out: list[PhraseNote] = []
    while now < end:
        n = int(rng.integers(4, 13))
        line = _line(rng, bag, notes, n)
        step_s = float(np.exp(rng.uniform(np.log(0.1), np.log(0.75))))
        touch = rng.choice(3, p=(0.45, 0.35, 0.2))  # legato, detached, staccato
        base_velocity = rng.uniform(30, 127)
        vibrato = clip_vibrato and rng.random() < 0.6
        free_rhythm = rng.random() < 0.4
        for midi in line:
            f0 = 440.0 * 2.0 ** ((midi - 69) / 12)
            if free_rhythm:
                ioi_s = float(np.exp(rng.uniform(np.log(0.08), np.log(2.0))))
            else:
                ioi_s = step_s * float(rng.choice((0.5, 1, 1, 1, 1.5, 2, 3)))
            shortest = max(0.06, 5 / f0)  # fewer periods than that is a thud, not a note
            ioi_s = min(max(ioi_s, shortest + 0.02), 2.2)
            share = (1.0, rng.uniform(0.55, 0.92), rng.uniform(0.2, 0.5))[touch]
            length = max(round(min(max(ioi_s * share, shortest), 2.0) * TICKS_PER_S), 2)
            ioi = max(round(ioi_s * TICKS_PER_S), length)
            if now + length > end:
                return out
            before = out[-1] if out and out[-1].offset == now else None
            cents = detune_cents + float(rng.uniform(-10, 10))
            velocity = int(np.clip(base_velocity + rng.normal(0, 8), 30, 127))
            slurred = (
                sustained
                and before is not None
                and 0 < abs(before.midi - midi) <= _MAX_SLUR
                and not before.slurred
                and rng.random() < 0.6 * glides
            )
            curve = _curve(rng, midi, cents, length, before, slurred, vibrato, glides, sustained)
            out.append(PhraseNote(now, now + length, midi, velocity, cents, curve, slurred))
            now += length if touch == 0 else ioi
        if rng.random() < 0.6:
            now += int(np.exp(rng.uniform(np.log(0.05), np.log(1.0))) * TICKS_PER_S)
    return out


def _curve(
    rng: np.random.Generator,
    midi: int,
    cents: float,
    length: int,
    before: PhraseNote | None,
    slurred: bool,
    vibrato: bool,
    glides: float,
    sustained: bool,
) -> NDArray[np.float64]:
    """Deviation in semitones at ticks 0..length: detuning, vibrato, slide or scoop, fall."""
    t = np.arange(length + 1) / TICKS_PER_S
    curve = np.full(length + 1, cents / 100)
    if vibrato and t[-1] > 0.25:
        rate_hz, delay_s = rng.uniform(4.5, 7.0), rng.uniform(0.05, 0.4)
        depth = rng.uniform(0.1, 0.6 if sustained else 0.3)
        swell = np.clip((t - delay_s) / 0.2, 0, 1)
        curve += depth * swell * np.sin(2 * np.pi * rate_hz * np.maximum(t - delay_s, 0))
    slide_s = min(float(rng.uniform(0.03, 0.14)), 0.5 * t[-1])
    rise = 0.5 + 0.5 * np.cos(np.pi * np.clip(t / slide_s, 0, 1))  # 1 at the start, 0 after
    if slurred and before is not None:
        curve += (before.midi + before.curve[-1] - midi - curve[0]) * rise
    elif rng.random() < 0.35 * glides:
        if before is not None and abs(before.midi - midi) <= 12 and rng.random() < 0.5:
            curve += (before.midi + before.curve[-1] - midi - curve[0]) * rise
        else:
            curve += rng.uniform(-2.0, 0.5) * rise
    if t[-1] > 0.3 and rng.random() < 0.12 * glides:
        fall_s = rng.uniform(0.05, 0.12)
        curve += rng.uniform(-1.5, 0.3) * np.clip((t - t[-1] + fall_s) / fall_s, 0, 1) ** 2
    return curve
