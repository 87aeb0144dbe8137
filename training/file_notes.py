"""Learning what tells the file decoder where notes begin and sound (`v3audio.onsets`).

    python -m training.file_notes --melodies data/melodies --singles ../shared/train -o onsets.npz

Three kinds of sound with known notes: clean clips of `v3audio data melodies`, synthetic voices that
scoop, slide and breathe, and phrases of real single notes (see live_notes.py). Each is recorded
from afar (`rooms.degrade`): most through a room as loud as the direct sound, a phone, noise, or all
three. The V3 model hears them as it does a file and is not touched: no label reaches its weights.

A perceptron then learns three numbers a frame: does a note begin here, does one near here, does one
sound. On one core, hearing an hour of sound takes two minutes, learning one. The shipped weights
came from 220 melodies (`data melodies -n 220`, FluidR3_GM, seed 6), 200 sung phrases (80 of seed 2,
120 of seed 6) and 200 of single notes (80 of seed 4, 120 of seed 6).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import signal
from torch.nn.functional import binary_cross_entropy_with_logits

from training.clips import SAMPLE_RATE, find_clips
from training.live_notes import TrueNote, arrival_s, fit, save, single_phrase, sung
from training.phrases import TICKS_PER_S
from training.rooms import coloured_noise, degrade
from v3audio import hear_file
from v3audio.hear_file import HOP_S
from v3audio.notes import TrackerConfig, file_gate_db
from v3audio.onsets import describer

FloatArray = NDArray[np.float32]
CLIP_S = 14.0
FADED_DB = 28.0  # so far below its loudest, a note is over
BLUR_S = 0.012  # of an onset: half a frame either way is no error
NEAR_S = 0.035
BATCH = 1024  # frames a step of learning
Sounds = Iterator[tuple[FloatArray, list[TrueNote]]]


def melodies(folder: Path) -> Sounds:
    """The first seconds of a rendered folder's clean clips."""
    for clip in find_clips(folder):
        _, clean = clip.read()
        info = clip.info()
        if clean is None:
            continue
        notes: list[TrueNote] = []
        for n, contour in zip(info["notes"], info["f0"], strict=True):
            onset_s, midi = n["onset_s"], n["midi"] + n["cents"] / 100
            if notes and onset_s - notes[-1].offset_s < 0.01:
                points = np.array(contour)
                onset_s = arrival_s(points[:, 0], points[:, 1], notes[-1].midi, midi)
            notes.append(TrueNote(onset_s, n["offset_s"], midi))
        yield clean[: round(CLIP_S * SAMPLE_RATE)], [x for x in notes if x.onset_s < CLIP_S]


def voices(n_clips: int, seed: int) -> Sounds:
    """Synthetic singers, who breathe in where they have time and hum some consonants."""
    hum = signal.butter(2, 600, fs=SAMPLE_RATE, output="sos")
    for number in range(n_clips):
        rng = np.random.default_rng([seed, 5, number])
        sound, phrase = sung(rng, 1000 * (seed + 1) + number)
        murmur = signal.sosfilt(hum, sound)
        hums = float(rng.uniform(0.0, 0.7))
        notes: list[TrueNote] = []
        for n in phrase:
            onset_s, offset_s = n.onset / TICKS_PER_S, n.offset / TICKS_PER_S
            midi = n.midi + n.cents / 100
            start = round(onset_s * SAMPLE_RATE)
            before = notes[-1] if notes else TrueNote(0.0, 0.0, 0.0)
            if onset_s - before.offset_s > 0.3 and rng.random() < 0.7:
                first = round((before.offset_s + 0.1) * SAMPLE_RATE)
                length = start - first - round(0.03 * SAMPLE_RATE)
                loud = 10 ** (rng.uniform(-40, -22) / 20) * np.hanning(length)
                sound[first : first + length] += loud * coloured_noise(rng, length, 0.5)
            if n.slurred:
                t = (n.onset + np.arange(len(n.curve))) / TICKS_PER_S
                onset_s = arrival_s(t, n.midi + n.curve, before.midi, midi)
            elif offset_s - onset_s > 0.2 and rng.random() < hums:
                # m, n, l: the note is heard to begin with the vowel
                length = round(float(rng.uniform(0.03, 0.09)) * SAMPLE_RATE)
                part = slice(start, start + length)
                into = np.linspace(0.0, 1.0, length) ** 4
                soft = 10 ** (rng.uniform(-14, -4) / 20)
                sound[part] = into * sound[part] + (1.0 - into) * soft * murmur[part]
                onset_s += length / SAMPLE_RATE
            notes.append(TrueNote(onset_s, offset_s, midi))
        yield sound, notes


def singles(folder: Path, n_clips: int, seed: int) -> Sounds:
    """Phrases of recorded single notes, some of which end as they did."""
    for number in range(n_clips):
        rng = np.random.default_rng([seed, 6, number])
        sound, notes = single_phrase(rng, folder, number, whole=0.2)
        yield sound[: round(CLIP_S * SAMPLE_RATE)], [n for n in notes if n.onset_s < CLIP_S]


def ended(sound: FloatArray, notes: list[TrueNote]) -> list[TrueNote]:
    """The notes with their ends where the clean sound has faded, or another begins."""
    hop = SAMPLE_RATE // 200
    n = len(sound) // hop
    power = np.square(sound[: n * hop].reshape(n, hop)).mean(1)
    level = 10 * np.log10(np.convolve(power, np.full(4, 0.25), "same") + 1e-12)
    out = []
    for note, following in zip_longest(notes, notes[1:]):
        first = int(note.onset_s * 200)
        last = int(following.onset_s * 200) if following else n
        part = level[first : max(last, first + 1)]
        if len(part):
            end_s = (first + int(np.flatnonzero(part >= part.max() - FADED_DB)[-1]) + 1) / 200
            out.append(TrueNote(note.onset_s, end_s, note.midi))
    return out


def hear(sounds: Sounds, seed: int) -> Iterator[tuple[hear_file.Frames, list[TrueNote]]]:
    """Each sound as a file's decoder has it, recorded from afar."""
    hearing = hear_file.load_hearing(None, "cpu")
    for number, (sound, notes) in enumerate(sounds):
        rng = np.random.default_rng([seed, 7, number])
        far = degrade(rng, sound, SAMPLE_RATE)
        kept = hear_file.KeptFrames()
        sound_at = hear_file.open_sound((far, SAMPLE_RATE))
        tail_s = hear_file.TAIL_S
        for heard in hear_file.hear(sound_at, hearing, tail_s, None, style=False, quieten=True):
            kept.add(heard)
        yield kept.frames(), ended(sound, notes)


def describe(frames: hear_file.Frames) -> FloatArray:
    """(T, features) as the decoder describes a whole file."""
    level = frames.level_db
    gate_db = file_gate_db(level, TrackerConfig())
    columns = (level, frames.onset, frames.periodicity, frames.pitch_midi, frames.confidence)
    return describer(*columns, gate_db, HOP_S)(0, len(level))


def due(n_frames: int, notes: list[TrueNote]) -> FloatArray:
    """(T, 3): whether a note begins in each frame (blurred by a frame), near it, or sounds."""
    time_s = HOP_S * np.arange(n_frames)
    rows = np.zeros((n_frames, 3), np.float32)
    for note in notes:
        apart = time_s - note.onset_s
        rows[:, 0] = np.maximum(rows[:, 0], np.exp(-0.5 * (apart / BLUR_S) ** 2))
        rows[np.abs(apart) <= NEAR_S, 1] = 1.0
        rows[(apart >= -HOP_S / 2) & (time_s < note.offset_s - HOP_S / 2), 2] = 1.0
    return rows


def main() -> None:
    """Parse the options, hear, learn, measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--melodies", type=Path, action="append", default=[])
    parser.add_argument("--singles", type=Path, help="folder of single notes with manifest.json")
    parser.add_argument("--n-singles", type=int, default=160, help="phrases made of them")
    parser.add_argument("--n-voices", type=int, default=160, help="phrases sung")
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 32])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("onsets.npz"))
    options = parser.parse_args()
    sounds = [voices(options.n_voices, options.seed)]
    sounds += [melodies(folder) for folder in options.melodies]
    if options.singles:
        sounds.append(singles(options.singles, options.n_singles, options.seed))
    rows, wanted = [], []
    for frames, notes in hear(chain.from_iterable(sounds), options.seed):
        rows.append(describe(frames))
        wanted.append(due(len(rows[-1]), notes))
    layers = fit(
        np.concatenate(rows), np.concatenate(wanted), np.ones(sum(map(len, rows)), np.float32),
        tuple(options.hidden), options.seed, 10, BATCH,
        lambda scores, y: binary_cross_entropy_with_logits(scores, y, reduction="none").mean(1),
    )  # fmt: skip
    save(layers, options.out)


if __name__ == "__main__":
    main()
