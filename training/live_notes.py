"""Learning the live tracker's belief (`v3audio.belief`): which note is due, from known notes.

    python -m training.live_notes --melodies data/melodies --singles ../shared/train -o belief.npz

Three kinds of sound, all with known notes: clips of `v3audio data melodies` (as recorded in a room,
and clean), synthetic voices that scoop and glide, and phrases of real single notes (a folder whose
manifest.json lists {"file", "midi"}), each an instrument's own attacks and mistuning. The V3 model
hears them as it does live and is not touched: no label reaches its weights.

The tracker then plays each clip. In the first round it is coached: told the truth, some time after
each onset and sometimes wrongly. In each further round it follows what it has learned, so that it
also sees the situations that its own mistakes lead to. What it heard in each frame, and what was
due, trains a small perceptron. On two cores, hearing an hour of sound takes 20 minutes, a round 2.

Runs differ: on the real recordings of `benchmarks/live_latency.py` three of them, under the same
rules, gave 7.9, 8.6 and 9.8 % stray note-ons at the same latency (medians 24 to 25 ms above A3,
56 ms from E2 to A3). The shipped weights are the first of these, by a batched forerunner of this
file with the same features, labels and kinds of sound; the other two came from this file.
"""

from __future__ import annotations

import argparse
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import nn

from training.clips import SAMPLE_RATE, find_clips
from training.phrases import TICKS_PER_S, PhraseNote, compose
from training.rooms import coloured_noise, disturb
from training.voices import VOICE_NOTES, sing
from v3audio.belief import (
    HOP_S,
    NEIGHBOUR,
    NOTHING,
    REPEAT,
    WEIGHTS,
    NoteBelief,
    Sounding,
    note_named,
)
from v3audio.bundle import load_bundle
from v3audio.errors import ConfigError
from v3audio.notes import FrameNotes, NoteEvent, NoteTracker, TrackerConfig
from v3audio.paths import atomic_write

FloatArray = NDArray[np.float32]

RIGHT_SEMITONES = 0.6  # a note-on within this of the true pitch is right
MAX_CLIP_S = 20.0
QUIETEST_DB = -75.0  # gate while learning, so that soft clips teach as well
QUIET_SHARE = 0.2  # of the frames in which nothing is due are kept; these count for the rest
_WHOLE_S = (2.0, 5.0)  # of a note that is left whole, where it is that long
_FADES_S = (0.01, 0.045)
_DURATIONS_S = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
_GAPS_S = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.03, 0.03, 0.08, 0.15, 0.3, 0.5)


@dataclass(frozen=True, slots=True)
class TrueNote:
    """onset_s, offset_s: seconds. midi: MIDI number with fraction."""

    onset_s: float
    offset_s: float
    midi: float


@dataclass(frozen=True, slots=True)
class Take:
    """A clip as it was heard: frame k ends at (k + 1) * HOP_S."""

    frames: list[FrameNotes]
    notes: list[TrueNote]


# -- sound ----------------------------------------------------------------------------------------


def melodies(folder: Path, seed: int) -> Iterator[tuple[FloatArray, list[TrueNote]]]:
    """Clips of a rendered folder: each as recorded in its room, then clean at some level."""
    for number, clip in enumerate(find_clips(folder)):
        notes = [TrueNote(n.onset_s, n.offset_s, n.midi + n.cents / 100) for n in clip.notes()]
        noisy, clean = clip.read()
        yield noisy, notes
        if clean is not None:
            yield _recorded(np.random.default_rng([seed, 1, number]), clean), notes


def voices(n_clips: int, seed: int) -> Iterator[tuple[FloatArray, list[TrueNote]]]:
    """Synthetic singers in a range of one to two octaves, who slide and scoop often."""
    for number in range(n_clips):
        rng = np.random.default_rng([seed, 2, number])
        sound, phrase = sung(rng, 100 + number)
        sound = disturb(rng, sound, SAMPLE_RATE)[0] if number % 4 == 0 else _recorded(rng, sound)
        yield (
            sound,
            [
                TrueNote(n.onset / TICKS_PER_S, n.offset / TICKS_PER_S, n.midi + n.cents / 100)
                for n in phrase
            ],
        )


def sung(rng: np.random.Generator, voice: int) -> tuple[FloatArray, list[PhraseNote]]:
    """14 s of one synthetic singer, clean."""
    low = int(rng.integers(VOICE_NOTES[0], VOICE_NOTES[-1] - 18))
    phrase = compose(
        rng,
        list(range(low, low + int(rng.integers(8, 18)))),
        14.0,
        sustained=True,
        detune_cents=float(rng.uniform(-45, 45)),
        glides=float(rng.uniform(0.6, 1.6)),
    )
    return sing(rng, phrase, voice, round(14.0 * SAMPLE_RATE), SAMPLE_RATE), phrase


def single_notes(
    folder: Path, n_clips: int, seed: int
) -> Iterator[tuple[FloatArray, list[TrueNote]]]:
    """Phrases of one instrument's recorded single notes, often repeated, transposed by resampling.

    A note's label is the pitch it was meant to have, not the one it was measured at: players and
    strings are out of tune, and still named right.

    Raises: ConfigError if the folder has no manifest.json.
    """
    for number in range(n_clips):
        rng = np.random.default_rng([seed, 3, number])
        phrase, notes = single_phrase(rng, folder, number)
        if number % 3 == 2:
            phrase = disturb(rng, phrase, SAMPLE_RATE)[0]
        yield (_recorded(rng, phrase) if number % 3 == 1 else phrase), notes


def single_phrase(
    rng: np.random.Generator, folder: Path, number: int, whole: float = 0.0
) -> tuple[FloatArray, list[TrueNote]]:
    """A clean phrase of the single notes of the instrument whose turn `number` is.

    `whole` is the share of notes that are left to end as they did.

    Raises: ConfigError if the folder has no manifest.json.
    """
    try:
        listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except OSError as e:
        raise ConfigError(
            f"{folder} has no manifest.json that can be read ({e.strerror}); "
            'it lists {"file", "midi"} of each single note'
        ) from e
    instruments: dict[str, list[dict[str, str]]] = {}
    for note in listed:
        instruments.setdefault(str(Path(note["file"]).parent), []).append(note)
    group = list(instruments.values())[number % len(instruments)]
    by_pitch = sorted(group, key=lambda note: int(note["midi"]))
    shift, cents = int(rng.integers(-3, 13)), float(rng.normal(0, 8))
    at_s, index = 0.2, int(rng.integers(len(by_pitch)))
    notes, parts = [], []
    for _ in range(int(rng.integers(22, 29))):
        if rng.random() > 0.35:
            index = int(np.clip(index + rng.integers(-5, 6), 0, len(by_pitch) - 1))
        seconds = float(rng.choice(_DURATIONS_S))
        if whole and rng.random() < whole:
            seconds = float(rng.uniform(*_WHOLE_S))
        sound = _single(folder / by_pitch[index]["file"], shift + cents / 100, seconds)
        seconds = min(seconds, len(sound) / SAMPLE_RATE)
        sound *= 10 ** (rng.normal(0, 2.5) / 20)
        fade = min(len(sound), round(float(rng.uniform(*_FADES_S)) * SAMPLE_RATE))
        sound[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        parts.append((round(at_s * SAMPLE_RATE), sound))
        notes.append(TrueNote(at_s, at_s + seconds, int(by_pitch[index]["midi"]) + shift))
        at_s += seconds + float(rng.choice(_GAPS_S))
    phrase = np.zeros(round((at_s + 1.3) * SAMPLE_RATE), np.float32)
    for start, sound in parts:
        phrase[start : start + len(sound)] += sound
    phrase *= np.float32(0.5 / max(float(np.abs(phrase).max()), 1e-9))
    return phrase, notes


def _single(path: Path, semitones: float, seconds: float) -> FloatArray:
    """The first seconds of a recorded note, transposed by resampling, at RMS 0.1."""
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    most_s = 3 if seconds <= max(_DURATIONS_S) else 12
    mono = soxr.resample(sound.mean(1)[: most_s * rate], rate * 2 ** (semitones / 12), SAMPLE_RATE)
    cut = np.array(mono[: round(seconds * SAMPLE_RATE)], np.float32)
    return cut * np.float32(0.1 / max(float(np.sqrt(np.mean(cut**2))), 1e-6))


def _recorded(rng: np.random.Generator, sound: FloatArray) -> FloatArray:
    """At some level, half of the time over faint pink noise."""
    gain = 10 ** (rng.uniform(-20, -2) / 20) / max(float(np.abs(sound).max()), 1e-6)
    recorded = gain * sound.astype(np.float64)
    if rng.random() < 0.5:
        level = np.sqrt(np.mean(recorded**2)) * 10 ** (-rng.uniform(26, 50) / 20)
        recorded += level * coloured_noise(rng, len(sound), 1.0)
    return recorded.astype(np.float32)


def hear(clips: Iterable[tuple[FloatArray, list[TrueNote]]]) -> list[Take]:
    """Hear clips as the engine does live, frame by frame."""
    hearing = load_bundle(None).load_live_hearing()
    window, hop = 2048, round(HOP_S * SAMPLE_RATE)
    takes = []
    for sound, notes in clips:
        padded = np.concatenate([np.zeros(window, np.float32), sound[: int(MAX_CLIP_S * 16000)]])
        frames = []
        for end in range(window + hop, len(padded) + 1, hop):
            frame = hearing.frame(padded[end - window : end])
            assert frame.position is not None
            assert frame.views is not None
            frames.append(  # half precision is enough, and an hour fits in memory
                frame._replace(
                    position=frame.position.astype(np.float16),
                    views=np.concatenate([frame.views[:2], 1 - frame.views[2:]]).astype(np.float16),
                )
            )
        takes.append(Take(frames, [n for n in notes if n.onset_s < MAX_CLIP_S]))
    return takes


# -- playing --------------------------------------------------------------------------------------


class Student(NoteBelief):
    """A belief that writes down each frame and what was due in it.

    Args:
        notes: the truth.
        weights: what it follows; None while it is coached.
        rng: of the coach's delays and errors.
    """

    def __init__(
        self, notes: list[TrueNote], weights: Path | None, rng: np.random.Generator
    ) -> None:
        super().__init__(weights or WEIGHTS)
        self._notes, self._coached, self._rng = notes, weights is None, rng
        self._frame = -1
        self._index = -1  # of the last true note that has begun
        self._wait_s = 0.0
        self.rows: list[FloatArray] = []
        self.due: list[NDArray[np.bool_]] = []

    def hear(self, *frame: Any) -> None:
        """Take one frame."""
        super().hear(*frame)
        self._frame += 1

    def probabilities(self, now: Sounding) -> list[float]:
        """As learned, or as the coach says."""
        chances = super().probabilities(now)
        time_s = (self._frame + 1) * HOP_S
        index = self._index_at(time_s)
        if index != self._index:
            self._index = index
            self._wait_s = 0.01 + float(self._rng.exponential(0.035))
        note = self._notes[index] if index >= 0 else None
        if note is not None and time_s >= note.offset_s:
            note = None
        told = self._index_at(time_s - now.frames * HOP_S) if now.note >= 0 else -1
        due = due_classes(note, now.note, told == index, self._heard[0])
        self.rows.append(self._x.copy())
        self.due.append(due)
        if not self._coached:
            return chances
        said = [0.0] * (NOTHING + 1)
        on_time = note is not None and time_s >= note.onset_s + self._wait_s
        said[int(due.argmax()) if on_time else NOTHING] = 1.0
        if on_time and self._rng.random() < 0.02:
            said = list(self._rng.permutation(said))
        return said

    def _index_at(self, time_s: float) -> int:
        """Number of the last true note that has begun by then, -1 before the first."""
        return bisect_right(self._notes, time_s, key=lambda note: note.onset_s) - 1


def due_classes(
    note: TrueNote | None, sounding: int, told: bool, pitch: float
) -> NDArray[np.bool_]:
    """The classes of `NoteBelief` that would be right now; several if the pitch lies between notes.

    Args:
        note: the true note now, None in a rest.
        sounding: what the tracker plays, -1 for nothing.
        told: whether `sounding` began within this true note.
        pitch: heard, MIDI.
    """
    due = np.zeros(NOTHING + 1, np.bool_)
    if note is not None:
        if sounding >= 0 and abs(sounding - note.midi) <= RIGHT_SEMITONES:
            due[REPEAT] = not told
        else:
            for kind in range(NEIGHBOUR + 1):
                due[kind] = abs(note_named(kind, pitch) - note.midi) <= RIGHT_SEMITONES
    due[NOTHING] = not due.any()
    return due


def play(take: Take, belief: NoteBelief, config: TrackerConfig) -> list[tuple[float, NoteEvent]]:
    """The tracker's events over a take, with their times in seconds."""
    tracker = NoteTracker(config, HOP_S, belief)
    events = []
    for k, frame in enumerate(take.frames):
        assert frame.position is not None
        assert frame.views is not None
        views = frame.views.astype(np.float32)
        views[2] = 1 - views[2]
        frame = frame._replace(position=frame.position.astype(np.float32), views=views)
        events += [((k + 1) * HOP_S, event) for event in tracker.step(frame, k)]
    return events


# -- learning -------------------------------------------------------------------------------------


def learn(takes: list[Take], out: Path, rounds: int, hidden: tuple[int, ...], seed: int) -> None:
    """Coach, then learn from what happened, round after round; the weights go to `out`."""
    config = TrackerConfig(gate_db=QUIETEST_DB)
    rows: list[FloatArray] = []
    due: list[NDArray[np.bool_]] = []
    worth: list[FloatArray] = []
    for number in range(rounds + 1):
        # Eager in odd rounds, patient in even ones: both kinds of mistakes are seen.
        config = replace(config, sensitivity=0.8 if number % 2 else 0.4)
        for index, take in enumerate(takes):
            rng = np.random.default_rng([seed, 4, number, index])
            student = Student(take.notes, out if number else None, rng)
            play(take, student, config)
            is_due = np.array(student.due)
            quiet = is_due[:, NOTHING]
            kept = ~quiet | (rng.random(len(quiet)) < QUIET_SHARE)
            rows.append(np.array(student.rows)[kept])
            due.append(is_due[kept])
            worth.append(np.where(quiet[kept], 1 / QUIET_SHARE, 1.0).astype(np.float32))
        layers = fit(np.concatenate(rows), np.concatenate(due), np.concatenate(worth), hidden, seed)
        save(layers, out)


def unlikely(scores: torch.Tensor, due: torch.Tensor) -> torch.Tensor:
    """(B,) surprise that one of the classes due, of (B, classes), is."""
    return -(torch.softmax(scores, 1) * due).sum(1).clamp_min(1e-9).log()


def fit(
    rows: FloatArray,
    due: NDArray[Any],
    worth: FloatArray,
    hidden: tuple[int, ...],
    seed: int,
    epochs: int = 6,
    batch: int = 4096,
    loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = unlikely,
) -> list[tuple[FloatArray, FloatArray]]:
    """Layers (weight, bias) of a perceptron that gives its probability to the classes due.

    Args:
        rows: (N, features) as `NoteBelief` sees them.
        due: (N, classes), at least one in each row.
        worth: (N,) weight of each row.
        hidden: sizes of the hidden layers.
        seed: of start and order.
        epochs: passes.
        batch: rows a step.
        loss_of: (B,) losses of scores (B, classes) where these are due (B, classes).
    """
    torch.manual_seed(seed)
    mean, spread = rows.mean(0), rows.std(0) + 1e-2
    x, y, w = (
        torch.from_numpy((rows - mean) / spread),
        torch.from_numpy(due),
        torch.from_numpy(worth),
    )
    sizes = (rows.shape[1], *hidden, due.shape[1])
    linear = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    modules: list[nn.Module] = [linear[0]]
    for layer in linear[1:]:
        modules += [nn.ReLU(), nn.Dropout(0.1), layer]
    net = nn.Sequential(*modules)
    batch = min(batch, len(x))
    steps = epochs * (len(x) // batch)
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.03)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for k in range(len(x) // batch):
            pick = order[k * batch : (k + 1) * batch]
            loss = (loss_of(net(x[pick]), y[pick]) * w[pick]).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    layers = [(m.weight.detach().numpy().T.copy(), m.bias.detach().numpy().copy()) for m in linear]
    weight, bias = layers[0]  # takes the standardisation in
    layers[0] = weight / spread[:, None], bias - (mean / spread) @ weight
    return layers


def save(layers: list[tuple[FloatArray, FloatArray]], path: Path) -> None:
    """Write weights as `NoteBelief` reads them."""
    arrays = {}
    for k, (weight, bias) in enumerate(layers):
        arrays[f"weight_{k}"] = weight.astype(np.float32)
        arrays[f"bias_{k}"] = bias.astype(np.float32)
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def main() -> None:
    """Parse the options, hear, learn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--melodies", type=Path, action="append", default=[])
    parser.add_argument("--singles", type=Path, help="folder of single notes with manifest.json")
    parser.add_argument("--n-singles", type=int, default=56, help="phrases made of them")
    parser.add_argument("--n-voices", type=int, default=55, help="phrases sung")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 32])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("belief.npz"))
    options = parser.parse_args()
    takes = hear(voices(options.n_voices, options.seed))
    for folder in options.melodies:
        takes += hear(melodies(folder, options.seed))
    if options.singles:
        takes += hear(single_notes(options.singles, options.n_singles, options.seed))
    learn(takes, options.out, options.rounds, tuple(options.hidden), options.seed)


if __name__ == "__main__":
    main()
