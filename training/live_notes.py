"""Learning the live tracker's belief (`v3audio.belief`): which note is meant, from known notes.

    python -m training.live_notes --melodies data/melodies --melodies data/second \
        --singles ../shared/train -o belief.npz

Five kinds of sound, all with known notes: clips of `v3audio data melodies` (as recorded in a room,
and clean with attacks as players make them, recorded anew), synthetic voices that scoop and glide,
phrases of real single notes (a folder whose manifest.json lists {"file", "midi"}), each an
instrument's own attacks and mistuning, synthetic amateurs, who are seldom where they mean to
be, and singers with words. The V3 model hears them as it does live and is not touched: no label
reaches its weights.

What was heard up to a frame, and which note was meant in it since when, trains a perceptron. The
tracker's own state is no part of it, so that one pass over the sound will do.

The shipped weights are what this command gives, with the seeds that are its defaults, of 220 clips
of FluidR3_GM (seed 0) and 330 of MuseScore_General (seed 5): `make model` says how. It takes one
core 45 minutes, by the sum of its parts, for 21 hours of sound in two rounds; the last bits depend
on torch's threads.
"""

from __future__ import annotations

import argparse
import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import soxr
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import signal
from torch import nn

from training import words
from training.attacks import speak
from training.clips import SAMPLE_RATE, Clip, find_clips
from training.phrases import TICKS_PER_S, PhraseNote, TrueNote, compose, slurred_s
from training.rooms import coloured_noise, disturb
from training.voices import VOICE_NOTES, sing, waver
from v3audio.belief import (
    AGES_S,
    HOP_S,
    N_SCORES,
    NEIGHBOUR,
    NOTHING,
    OTHER,
    NoteBelief,
    Sounding,
    note_named,
)
from v3audio.bundle import load_bundle
from v3audio.errors import ConfigError
from v3audio.live_hearing import LiveHearing
from v3audio.notes import FrameNotes, NoteTracker
from v3audio.paths import atomic_write

FloatArray = NDArray[np.float32]

RIGHT_SEMITONES = 0.6  # a note-on within this of the true pitch is right
MAX_CLIP_S = 20.0
WINDOW = 2048
NEAR_S = 0.02, 0.25  # before and after an onset: here is what the belief is for
NEAR_SHARE, FAR_SHARE = 0.5, 0.12  # of the frames are learned from,
FAR_WORTH = 2.0  # and those far away count for so many
EPOCHS = 9
NEXT_ROUND = 1_000  # so far apart are the seeds of rounds
UNTRAINED = 0.67  # singers with words
AMATEURS_WORTH = 2.5  # of their frames, which are few and hard
_WHOLE_S = (2.0, 5.0)  # of a note that is left whole, where it is that long
_FADES_S = (0.01, 0.045)
_DURATIONS_S = (0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0)
_GAPS_S = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.03, 0.03, 0.08, 0.15, 0.3, 0.5)


Sounds = Iterator[tuple[FloatArray, list[TrueNote]]]


class Lesson(NamedTuple):
    """Frames to learn from.

    rows: (N, features) float16. due: (N, OTHER + 1 + ages): which notes may be meant, then how long
    ago the note began. worth: (N,).
    """

    rows: NDArray[np.float16]
    due: NDArray[np.bool_]
    worth: FloatArray


# -- sound ----------------------------------------------------------------------------------------


def melodies(folder: Path, seed: int) -> Sounds:
    """Clips of a rendered folder: each as recorded in its room, then played and recorded anew."""
    for number, clip in enumerate(find_clips(folder)):
        notes, noisy, clean = rendered(clip)
        yield noisy, notes
        if clean is not None:
            yield taken(np.random.default_rng([seed, 1, number]), clean, notes), notes


def rendered(clip: Clip) -> tuple[list[TrueNote], FloatArray, FloatArray | None]:
    """A rendered clip's notes, the recording, and its clean render."""
    notes = [TrueNote(n.onset_s, n.offset_s, n.midi + n.cents / 100) for n in clip.notes()]
    return notes, *clip.read()


def voices(n_clips: int, seed: int, first: int = 100) -> Sounds:
    """Synthetic singers, from `first` on, in one to two octaves, who slide and scoop often."""
    for number in range(n_clips):
        rng = np.random.default_rng([seed, 2, number])
        sound, phrase = sung(rng, first + number)
        notes = [
            TrueNote(n.onset / TICKS_PER_S, n.offset / TICKS_PER_S, n.midi + n.cents / 100)
            for n in phrase
        ]
        yield taken(rng, sound, notes, spoken=0.2), notes


def sung(rng: np.random.Generator, voice: int) -> tuple[FloatArray, list[PhraseNote]]:
    """14 s of one synthetic singer, clean."""
    phrase = melody(rng)
    return sing(rng, phrase, voice, round(14.0 * SAMPLE_RATE), SAMPLE_RATE), phrase


def melody(rng: np.random.Generator) -> list[PhraseNote]:
    """What a singer sings in 14 s, in one to two octaves; slides and scoops are frequent."""
    low = int(rng.integers(VOICE_NOTES[0], VOICE_NOTES[-1] - 18))
    return compose(
        rng,
        list(range(low, low + int(rng.integers(8, 18)))),
        14.0,
        sustained=True,
        detune_cents=float(rng.uniform(-45, 45)),
        glides=float(rng.uniform(0.6, 1.6)),
    )


def amateurs(n_clips: int, seed: int, first: int = 1_000) -> Sounds:
    """Synthetic singers without training, from `first` on: see `training.voices.waver`.

    A note is due from its vowel on, in a scoop too, and after a portamento from halfway.
    """
    hum = signal.butter(2, 600, fs=SAMPLE_RATE, output="sos")
    for number in range(n_clips):
        rng = np.random.default_rng([seed, 8, number])
        phrase = wavering(rng)
        breathier_db = float(rng.uniform(0, 12))
        length = round(14.0 * SAMPLE_RATE)
        sound = sing(rng, phrase, first + number, length, SAMPLE_RATE, breathier_db)
        murmur = signal.sosfilt(hum, sound)
        hums = float(rng.uniform(0.0, 0.6))
        notes: list[TrueNote] = []
        for n in phrase:
            onset_s, offset_s = n.onset / TICKS_PER_S, n.offset / TICKS_PER_S
            midi = n.midi + n.cents / 100
            before = notes[-1] if notes else TrueNote(0.0, 0.0, 0.0)
            start, later_s = round(onset_s * SAMPLE_RATE), 0.0
            if not n.slurred and offset_s - onset_s > 0.2 and rng.random() < hums:
                length = int(rng.integers(480, 1440))
                part = slice(start, start + length)
                sound[part] = hummed(sound[part], murmur[part], rng.uniform(-14, -2))
                later_s = length / SAMPLE_RATE
            if before.offset_s == onset_s and abs(before.midi - midi) > RIGHT_SEMITONES:
                later_s = max(slurred_s(n, before.midi) - onset_s, later_s)
            notes.append(TrueNote(onset_s + later_s, offset_s, midi))
        yield taken(rng, sound, notes, spoken=0.2), notes


def reciters(n_clips: int, seed: int) -> Sounds:
    """Singers with words (`training.words`)."""
    for number in range(n_clips):
        rng = np.random.default_rng([seed, 9, number])
        sound, notes = recited(rng)
        yield taken(rng, sound, notes, spoken=0.0), notes


def recited(rng: np.random.Generator) -> tuple[FloatArray, list[TrueNote]]:
    """14 s of somebody who sings words, in two of three cases without training."""
    phrase = wavering(rng) if rng.random() < UNTRAINED else melody(rng)
    return words.sing(rng, phrase, round(14.0 * SAMPLE_RATE))


def wavering(rng: np.random.Generator) -> list[PhraseNote]:
    """What an amateur sings in 14 s (`training.voices.waver`)."""
    low = int(rng.integers(VOICE_NOTES[0], VOICE_NOTES[-1] - 13))
    line = compose(
        rng,
        list(range(low, low + int(rng.integers(5, 14)))),
        14.0,
        sustained=True,
        detune_cents=0.0,
        glides=float(rng.uniform(0.3, 1.3)),
    )
    return [n for n in waver(rng, line) if n.offset < 13.9 * TICKS_PER_S]


def hummed(vowel: FloatArray, murmur: FloatArray, gain_db: float) -> FloatArray:
    """The beginning of a vowel as m, n or l: the mouth opens from a murmur at `gain_db`."""
    into = np.linspace(0.0, 1.0, len(vowel)) ** 4
    return into * vowel + (1.0 - into) * 10 ** (gain_db / 20) * murmur


def single_notes(folder: Path, n_clips: int, seed: int) -> Sounds:
    """Phrases of one instrument's recorded single notes, often repeated, transposed by resampling.

    A note's label is the pitch it was meant to have, not the one it was measured at: players and
    strings are out of tune, and still named right.

    Raises: ConfigError if the folder has no manifest.json.
    """
    for number in range(n_clips):
        rng = np.random.default_rng([seed, 3, number])
        phrase, notes = single_phrase(rng, folder, number)
        yield taken(rng, phrase, notes, spoken=0.5), notes


def single_phrase(
    rng: np.random.Generator,
    folder: Path,
    number: int,
    whole: float = 0.0,
    shifts: tuple[int, int] = (-3, 13),
) -> tuple[FloatArray, list[TrueNote]]:
    """A clean phrase of the single notes of the instrument whose turn `number` is.

    `whole` is the share of notes that are left to end as they did; `shifts` bound the semitones by
    which all are transposed.

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
    shift, cents = int(rng.integers(*shifts)), float(rng.normal(0, 8))
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


def taken(
    rng: np.random.Generator, clean: FloatArray, notes: list[TrueNote], spoken: float = 0.6
) -> FloatArray:
    """One take of a clean clip: sometimes with other attacks, in a room or as it is."""
    if rng.random() < spoken:
        clean = speak(rng, clean, notes, SAMPLE_RATE)
    return disturb(rng, clean, SAMPLE_RATE)[0] if rng.random() < 0.4 else _recorded(rng, clean)


def _recorded(rng: np.random.Generator, sound: FloatArray) -> FloatArray:
    """At some level, half of the time over faint pink noise."""
    gain = 10 ** (rng.uniform(-20, -2) / 20) / max(float(np.abs(sound).max()), 1e-6)
    recorded = gain * sound.astype(np.float64)
    if rng.random() < 0.5:
        level = np.sqrt(np.mean(recorded**2)) * 10 ** (-rng.uniform(26, 50) / 20)
        recorded += level * coloured_noise(rng, len(sound), 1.0)
    return recorded.astype(np.float32)


def hear(hearing: LiveHearing, sound: FloatArray) -> Iterator[FrameNotes]:
    """Hear a clip as the engine does live: frame k ends at (k + 1) * HOP_S."""
    padded = np.concatenate([np.zeros(WINDOW, np.float32), sound])
    hop = round(HOP_S * SAMPLE_RATE)
    return hearing.each(sliding_window_view(padded, WINDOW)[hop::hop])


# -- what is due ----------------------------------------------------------------------------------


class Listener(NoteBelief):
    """A belief that writes down what it sees in some frames, and never says anything.

    Args:
        wanted: (T,) which frames.
    """

    def __init__(self, wanted: NDArray[np.bool_]) -> None:
        super().__init__()
        self._wanted = iter(wanted.tolist())
        self.rows: list[NDArray[np.float16]] = []

    def hear(self, *frame: Any) -> None:
        """Take one frame."""
        super().hear(*frame)
        if next(self._wanted):
            self._weigh()
            self.rows.append(self._x.astype(np.float16))

    def probabilities(self, now: Sounding) -> list[float]:
        """Nothing is due."""
        return [0.0] * NOTHING + [1.0]


def due_classes(note: TrueNote | None, age_s: float, pitch: float) -> NDArray[np.bool_]:
    """Which notes may be meant, several if the pitch lies between notes, and the class of its age.

    Args:
        note: the true note now, None in a rest.
        age_s: since it began.
        pitch: heard, MIDI.
    """
    due = np.zeros(N_SCORES, np.bool_)
    ages = due[OTHER + 1 :]
    if note is None:
        ages[-1] = True
    else:
        for kind in range(NEIGHBOUR + 1):
            due[kind] = abs(note_named(kind, pitch) - note.midi) <= RIGHT_SEMITONES
        ages[bisect_right(AGES_S, age_s)] = True
    due[OTHER] = not due[:OTHER].any()
    return due


def lesson(
    hearing: LiveHearing, sound: FloatArray, notes: list[TrueNote], rng: np.random.Generator
) -> Lesson:
    """What is to be learned from a clip."""
    sound = sound[: round(MAX_CLIP_S * SAMPLE_RATE)]
    n_frames = len(sound) // round(HOP_S * SAMPLE_RATE)
    times_s = np.arange(1, n_frames + 1) * HOP_S
    onsets = np.array([note.onset_s for note in notes])
    index = np.searchsorted(onsets, times_s, "right") - 1  # of the last note that has begun
    after = times_s - np.where(index >= 0, onsets[index], -1e3)
    before = np.append(onsets, 1e3)[index + 1] - times_s
    near = (before < NEAR_S[0]) | (after < NEAR_S[1])
    wanted = rng.random(n_frames) < np.where(near, NEAR_SHARE, FAR_SHARE)
    listener = Listener(wanted)
    tracker = NoteTracker(None, HOP_S, listener)
    due = []
    for k, frame in enumerate(hear(hearing, sound)):
        tracker.step(frame, k)
        if wanted[k]:
            note = notes[index[k]] if index[k] >= 0 else None
            if note is not None and times_s[k] >= note.offset_s:
                note = None
            due.append(due_classes(note, after[k], frame.pitch_midi))
    worth = np.where(near[wanted], 1.0, FAR_WORTH).astype(np.float32)
    return Lesson(np.array(listener.rows), np.array(due), worth)


# -- learning -------------------------------------------------------------------------------------


def unlikely(scores: torch.Tensor, due: torch.Tensor) -> torch.Tensor:
    """(B,) surprise that one of the classes due, of (B, classes), is."""
    return -(torch.softmax(scores, 1) * due).sum(1).clamp_min(1e-9).log()


def surprise(scores: torch.Tensor, due: torch.Tensor) -> torch.Tensor:
    """(B,) surprise at the note that is meant and at how old it is."""
    notes = slice(OTHER + 1), slice(OTHER + 1, None)
    return sum(unlikely(scores[:, part], due[:, part]) for part in notes)


def fit(
    rows: NDArray[np.floating],
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
    some = rows[:: 1 + len(rows) // 1_000_000].astype(np.float32)
    mean, spread = some.mean(0), some.std(0) + 1e-2
    shift, scale = torch.from_numpy(mean), torch.from_numpy(spread)
    x, y, w = torch.from_numpy(rows), torch.from_numpy(due), torch.from_numpy(worth)
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
            seen = (x[pick].float() - shift) / scale
            loss = (loss_of(net(seen), y[pick]) * w[pick]).mean()
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


def study(groups: Iterable[tuple[float, Sounds]], seed: int) -> Lesson:
    """What is to be learned from all clips of groups, each of which counts for so much."""
    hearing = load_bundle(None).load_live_hearing()
    number, lessons = count(), []
    for worth, clips in groups:
        for sound, notes in clips:
            part = lesson(hearing, sound, notes, np.random.default_rng([seed, 4, next(number)]))
            lessons.append(part._replace(worth=np.float32(worth) * part.worth))
    return joined(lessons)


def joined(lessons: list[Lesson]) -> Lesson:
    """One after the other."""
    return Lesson(*(np.concatenate(parts) for parts in zip(*lessons, strict=True)))


def sounds(options: argparse.Namespace, seed: int) -> Iterator[tuple[float, Sounds]]:
    """All kinds, and what each counts for."""
    yield 1.0, voices(options.n_voices, seed)
    for folder in options.melodies:
        yield 1.0, melodies(folder, seed)
    if options.singles:
        yield 1.0, single_notes(options.singles, options.n_singles, seed)
    yield AMATEURS_WORTH, amateurs(options.n_amateurs, seed)
    yield AMATEURS_WORTH, reciters(options.n_reciters, seed)


def main() -> None:
    """Parse the options, hear, learn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--melodies", type=Path, action="append", default=[])
    parser.add_argument("--singles", type=Path, help="folder of single notes with manifest.json")
    parser.add_argument("--n-singles", type=int, default=200, help="phrases made of them")
    parser.add_argument("--n-voices", type=int, default=200, help="phrases sung")
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--rounds", type=int, default=2, help="times that all is sung, phrased and recorded anew"
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("belief.npz"))
    parser.add_argument("--n-amateurs", type=int, default=450, help="phrases sung by amateurs")
    parser.add_argument("--n-reciters", type=int, default=250, help="phrases sung with words")
    options = parser.parse_args()
    seeds = [options.seed + NEXT_ROUND * k for k in range(options.rounds)]
    learned = joined([study(sounds(options, seed), seed) for seed in seeds])
    layers = fit(*learned, tuple(options.hidden), options.seed, EPOCHS, loss_of=surprise)
    save(layers, options.out)


if __name__ == "__main__":
    main()
