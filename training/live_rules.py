"""How the live tracker acts on its belief: the trade of late notes for stray ones, searched.

    python -m training.live_rules --melodies data/judge --singles takes [--belief belief.npz]

Sound that nothing was learned from is heard once: clips of a soundfont kept apart, half of them
with attacks as players make them, voices never sung before, trained ones and amateurs', with words
and without, and phrases of single notes, if given.
The tracker then plays it under one configuration after another, each threshold moved both ways
while that lowers the cost: stray note-ons in percent, and how late notes come against what is
wanted in each register. One line for each price of lateness: the frontier.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from training.clips import find_clips
from training.live_notes import (
    RIGHT_SEMITONES,
    FloatArray,
    amateurs,
    hear,
    reciters,
    rendered,
    single_notes,
    taken,
    voices,
)
from training.phrases import TrueNote
from v3audio.belief import HOP_S, WEIGHTS, NoteBelief
from v3audio.bundle import load_bundle
from v3audio.notes import FrameNotes, NoteTracker, TrackerConfig

SEED = 9_000  # of what was never learned from, whatever the rounds of learning
FIRST_VOICE = 5_000
N_AMATEURS, N_RECITERS = 30, 20
CLIP_S = 20.0
EARLY_S, LATE_S = 0.05, 0.5  # a note-on this near its true onset can be right
# Lowest MIDI number of a register, the lateness wanted, and the latest that counts, ms.
REGISTERS = {"above A3": (57.5, 25.0, 120.0), "E2 to A3": (39.5, 45.0, 160.0),
             "below E2": (0.0, 70.0, 220.0)}  # fmt: skip
STEPS = {
    "believe": 0.03, "believe_again": 0.05, "believe_ms": 2.5, "believe_periods": 0.25,
    "believe_most": 0.5, "believe_fades": 0.25, "soon_periods": 0.5, "next_semitones": 0.05,
    "held_ms": 50.0, "held_drifts": 0.25,
    "false_start_ms": 30.0, "false_start_more_ms": 10.0,
}  # fmt: skip
PRICES = (1.0, 2.0, 3.0)  # ten percent of strays for coming as late again as is wanted


class Played(NamedTuple):
    """A clip as it was heard, and what was believed in each frame."""

    frames: list[FrameNotes]
    beliefs: list[tuple[list[float], list[float]]]
    notes: list[TrueNote]


class Recorder(NoteBelief):
    """Writes down what it believes."""

    def __init__(self, weights: Path) -> None:
        super().__init__(weights)
        self.told: list[tuple[list[float], list[float]]] = []

    def hear(self, *frame: Any) -> None:
        """Take one frame."""
        super().hear(*frame)
        self.told.append(super().beliefs())


class Recalled(NoteBelief):
    """Believes what was written down."""

    def __init__(self, told: list[tuple[list[float], list[float]]]) -> None:
        super().__init__()
        self._told = iter(told)

    def hear(self, position: Any, views: Any, pitch: float, *rest: Any) -> None:
        """Take one frame."""
        self._heard = pitch, 0.0, 0.0, 0.0, 0.0, 0.0
        self._now = next(self._told)

    def beliefs(self) -> tuple[list[float], list[float]]:
        """As written down."""
        return self._now


def kept_apart(folder: Path, singles: Path | None) -> Iterator[tuple[FloatArray, list[TrueNote]]]:
    """Clips that nothing was learned from."""
    for number, clip in enumerate(find_clips(folder)):
        notes, sound, clean = rendered(clip)
        if number % 2 and clean is not None:
            sound = taken(np.random.default_rng([SEED, number]), clean, notes)
        yield sound, notes
    yield from voices(16, SEED, FIRST_VOICE)
    yield from amateurs(N_AMATEURS, SEED, FIRST_VOICE + 100)
    yield from reciters(N_RECITERS, SEED)
    if singles:
        yield from single_notes(singles, 10, SEED)


def listen(clips: Iterator[tuple[FloatArray, list[TrueNote]]], weights: Path) -> list[Played]:
    """Hear clips and believe."""
    hearing = load_bundle(None).load_live_hearing()
    found = []
    for sound, notes in clips:
        recorder = Recorder(weights)
        tracker, frames = NoteTracker(None, HOP_S, recorder), []
        for k, frame in enumerate(hear(hearing, sound[: round(CLIP_S * 16000)])):
            tracker.step(frame, k)
            frames.append(frame._replace(position=_NOTHING, views=_NOTHING))
        found.append(Played(frames, recorder.told, [n for n in notes if n.onset_s < CLIP_S]))
    return found


_NOTHING = np.zeros(1, np.float32)


def lateness(clip: Played, config: TrackerConfig) -> tuple[FloatArray, int]:
    """How many ms the right note-on came after each true onset, NaN for none; stray ones."""
    tracker = NoteTracker(config, HOP_S, Recalled(clip.beliefs))
    late = np.full(len(clip.notes), np.nan, np.float32)
    n_stray = 0
    for k, frame in enumerate(clip.frames):
        for event in tracker.step(frame, k):
            if event.kind != "on":
                continue
            time_s = (k + 1) * HOP_S
            match = [
                i
                for i, n in enumerate(clip.notes)
                if n.onset_s - EARLY_S <= time_s <= n.onset_s + LATE_S
                and time_s <= max(n.offset_s, n.onset_s + 0.1)
                and abs(event.note - n.midi) <= RIGHT_SEMITONES
                and np.isnan(late[i])
            ]
            if match:
                late[match[-1]] = 1000.0 * (time_s - clip.notes[match[-1]].onset_s)
            n_stray += not match
    return late, n_stray


def measure(clips: list[Played], config: TrackerConfig) -> tuple[dict[str, FloatArray], float]:
    """Lateness of each register's notes in ms, and stray note-ons in percent."""
    found = [lateness(clip, config) for clip in clips]
    late = np.concatenate([ms for ms, _ in found])
    midi = np.array([n.midi for clip in clips for n in clip.notes])
    n_stray = sum(n for _, n in found)
    stray = 100.0 * n_stray / max(n_stray + int(np.isfinite(late).sum()), 1)
    parts, above = {}, np.full(len(midi), True)
    for name, (low, *_) in REGISTERS.items():
        parts[name] = late[above & (midi >= low)]
        above &= midi < low
    return parts, stray


def cost(parts: dict[str, FloatArray], stray: float, price: float) -> float:
    """Strays in percent, and the mean lateness of the registers in what is wanted of each."""
    waits = []
    for name, (_, wanted, latest) in REGISTERS.items():
        late = np.minimum(np.nan_to_num(parts[name], nan=latest), latest)
        if len(late):
            waits.append(float(late.mean()) / wanted)
    return stray + 10.0 * price * float(np.mean(waits))


def search(clips: list[Played], config: TrackerConfig, price: float) -> TrackerConfig:
    """The configuration from which no threshold can be moved for less."""
    least = cost(*measure(clips, config), price)
    moved = True
    while moved:
        moved = False
        for name, step in STEPS.items():
            for sign in 1.0, -1.0:
                other = replace(config, **{name: round(getattr(config, name) + sign * step, 4)})
                if getattr(other, name) < 0.0 or other.believe > 0.98 or other.held_drifts > 1.0:
                    continue
                found = cost(*measure(clips, other), price)
                if found < least - 0.01:
                    config, least, moved = other, found, True
                    break
    return config


def line(clips: list[Played], config: TrackerConfig) -> str:
    """Median and 95th percentile of each register, found and stray notes."""
    parts, stray = measure(clips, config)
    every = np.concatenate(list(parts.values()))
    told = [
        f"{name} {np.nanmedian(late):.0f} / {np.nanpercentile(late, 95):.0f} ms"
        for name, late in parts.items()
        if np.isfinite(late).any()
    ]
    found = 100.0 * np.isfinite(every).mean()
    return f"{', '.join(told)}; found {found:.1f} %, stray {stray:.1f} %"


def main() -> None:
    """Parse the options, listen, search."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--melodies", type=Path, required=True, help="of a soundfont kept apart")
    parser.add_argument("--singles", type=Path, help="folder of single notes with manifest.json")
    parser.add_argument("--belief", type=Path, default=WEIGHTS)
    parser.add_argument("--prices", type=float, nargs="*", default=PRICES)
    options = parser.parse_args()
    clips = listen(kept_apart(options.melodies, options.singles), options.belief)
    config = TrackerConfig()
    sys.stdout.write(f"as shipped: {line(clips, config)}\n")
    for price in options.prices:
        config = search(clips, config, price)
        rules = ", ".join(f"{name} {getattr(config, name):g}" for name in STEPS)
        sys.stdout.write(f"price {price:g}: {line(clips, config)}\n    {rules}\n")


if __name__ == "__main__":
    main()
