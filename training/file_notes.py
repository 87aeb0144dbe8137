"""Learning where the notes of a file begin, end and sound, and which (`v3audio.onsets`).

    v3audio data melodies -o melodies --size 220
    v3audio data melodies -o second --seed 5 --size 330 --soundfont MuseScore_General.sf3
    python -m training.file_notes --melodies melodies --melodies second --singles ../shared/train \
        -o v3audio/onsets.npz

Sound with known notes: clean clips of `v3audio data melodies`; phrases of real single notes (see
live_notes.py), and of notes cut out of the clips, the low ones once more; synthetic voices that
scoop, slide and breathe, and twice as many without training; singers with words; rooms in which
nobody plays. Each is recorded from afar five times (`rooms.degrade`): of the first two a quarter
come out clean, a third through a room as loud as the direct sound, a phone and noise at once; of
the others all do. The V3 model hears them as it does a file and is not touched: no label reaches
its weights. The first is also learned as a hearing without traits would describe it.

A small network of convolutions over time then learns what is `due` in each frame. With the folders
above these are the settings of what ships. 28 hours of sound take one core an hour and a half, with
other work beside, and 7 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from scipy import signal
from torch import Tensor, nn
from torch.nn import functional

from training.clips import SAMPLE_RATE, find_clips, read_audio
from training.live_notes import hummed, recited, save, single_phrase, sung, wavering
from training.phrases import TICKS_PER_S, PhraseNote, TrueNote, arrival_s, slurred_s
from training.rooms import coloured_noise, degrade
from training.voices import SINK_S, breathe, sing, sink
from v3audio import hear_file, onsets
from v3audio.hear_file import HOP_S
from v3audio.notes import TrackerConfig, file_gate_db

FloatArray = NDArray[np.float32]
CLIP_S = 14.0
RELEASE_S = 0.03  # of a vowel
SETTLED_S = 0.01  # and so long after a consonant it is there
FADED_DB = 28.0  # so far below its loudest, a note is over
BLUR_S = 0.012  # of an onset: half a frame either way is no error
NEAR_S = 0.035
LOW_MIDI, LOW_SHIFTS = 45, (-4, 5)  # basses, and by how much they are transposed
BREATHIER_DB = 6.0  # amateurs than singers
DIP, HUM, NOISE = 1, 2, 3  # consonants
BATCH, CUT = 32, 256  # stretches a step of learning, frames of each
RIGHT_SEMITONES = 0.6
N_RECORDINGS, N_GOOD = 5, 2  # of each sound; those after the first N_GOOD are bad in any case
Sounds = Iterator[tuple[FloatArray, list[TrueNote]]]


def melodies(folder: Path, n_clips: int) -> Sounds:
    """The first seconds of a rendered folder's clean clips."""
    for clip in find_clips(folder)[:n_clips]:
        if clip.clean is None:
            continue
        clean, info = read_audio(clip.clean), clip.info()
        notes: list[TrueNote] = []
        for n, contour in zip(info["notes"], info["f0"], strict=True):
            onset_s, midi = n["onset_s"], n["midi"] + n["cents"] / 100
            if notes and onset_s - notes[-1].offset_s < 0.01:
                points = np.array(contour)
                onset_s = arrival_s(points[:, 0], points[:, 1], notes[-1].midi, midi)
            notes.append(TrueNote(onset_s, n["offset_s"], midi))
        clean = clean[: round(CLIP_S * SAMPLE_RATE)]
        yield clean, ended(clean, [n for n in notes if n.onset_s < CLIP_S])


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
                part = slice(first, start - round(0.03 * SAMPLE_RATE))
                breathe(rng, sound, part, (-40, -22))
            if n.slurred:
                onset_s = slurred_s(n, before.midi)
            elif offset_s - onset_s > 0.2 and rng.random() < hums:
                # m, n, l: the note is heard to begin with the vowel
                length = round(float(rng.uniform(0.03, 0.09)) * SAMPLE_RATE)
                part = slice(start, start + length)
                sound[part] = hummed(sound[part], murmur[part], rng.uniform(-14, -4))
                onset_s += length / SAMPLE_RATE
            notes.append(TrueNote(onset_s, offset_s, midi))
        yield sound, ended(sound, notes)


def amateurs(n_clips: int, seed: int) -> Sounds:
    """Synthetic singers without training (see `training.voices.waver`) who sing syllables."""
    for number in range(n_clips):
        rng = np.random.default_rng([seed, 11, number])
        phrase = wavering(rng)
        sinks = [sink(rng, n) for n in phrase]
        length = round(CLIP_S * SAMPLE_RATE)
        vowels = sing(rng, phrase, 10_000 * (seed + 1) + number, length, SAMPLE_RATE, BREATHIER_DB)
        yield speak(rng, vowels, phrase, sinks)


def reciters(n_clips: int, seed: int) -> Sounds:
    """Singers with words (`training.words`)."""
    for number in range(n_clips):
        sound, notes = recited(np.random.default_rng([seed, 12, number]))
        yield sound, released(sound, notes)


def speak(
    rng: np.random.Generator,
    vowels: FloatArray,
    phrase: list[PhraseNote],
    sinks: list[float],
) -> tuple[FloatArray, list[TrueNote]]:
    """A sung phrase with consonants and breaths, and where its vowels begin and end.

    Before a vowel the voice dips, hums or closes. Inside it the loudness wavers, sinks even for a
    moment, and nothing begins.
    """
    dips_db, waver_db = rng.uniform(6, 18), rng.uniform(0.5, 4.0)
    kinds = rng.dirichlet((0.7, 1.0, 1.0, 1.6))  # how often nothing, a dip, a hum, a noise
    t = np.arange(len(vowels)) / SAMPLE_RATE
    knots = np.arange(0.0, t[-1] + 0.12, 0.12)
    gain = 10 ** (np.interp(t, knots, rng.normal(0, waver_db, len(knots))) / 20)
    hum = signal.sosfilt(signal.butter(2, 600, fs=SAMPLE_RATE, output="sos"), vowels)
    loud = float(np.sqrt(np.mean(np.square(vowels))))
    others = np.zeros_like(vowels)
    notes: list[TrueNote] = []
    for n, sinks_s in zip(phrase, sinks, strict=True):
        onset_s, offset_s = n.onset / TICKS_PER_S, n.offset / TICKS_PER_S
        midi = n.midi + n.cents / 100
        before = notes[-1] if notes else TrueNote(0.0, 0.0, 0.0)
        joined, moves = onset_s - before.offset_s < 0.01, abs(midi - before.midi) > RIGHT_SEMITONES
        kind = int(rng.choice(4, p=kinds))
        if joined and not moves:
            kind = max(kind, 1)  # or there would be no note
        begins_s = start_s = onset_s
        if joined and moves:
            begins_s = start_s = slurred_s(n, before.midi)
        if kind:
            seconds = float(rng.uniform(0.03, 0.09 if kind == HUM else 0.15))
            seconds = min(seconds, 0.4 * (offset_s - onset_s))
            begins_s = max(start_s - rng.uniform(0.3, 1.0) * seconds, before.onset_s + 0.05)
            part = _samples(begins_s, begins_s + seconds)
            size, ramp = len(gain[part]), min(0.5, 0.02 / seconds)
            closed = np.interp(np.linspace(0, 1, size), [0, ramp, 1 - ramp, 1], [0, 1, 1, 0])
            if kind == DIP:
                gain[part] *= 10 ** (-closed * rng.uniform(0.3, 1.0) * dips_db / 20)
            else:
                gain[part] *= 1.0 - closed
            if kind == HUM:
                others[part] += closed * 10 ** (rng.uniform(-14, -2) / 20) * hum[part]
            elif kind == NOISE and rng.random() < 0.7:
                others[part] += loud * closed * _hiss(rng, size)
            start_s = begins_s + seconds + SETTLED_S
        if joined:
            notes[-1] = TrueNote(before.onset_s, begins_s, before.midi)
        elif start_s - before.offset_s > 0.3 and rng.random() < 0.7:
            part = _samples(before.offset_s + 0.1, onset_s - 0.1)
            breathe(rng, others, part, (-35, -15), loud)
        if sinks_s:
            part = _samples(onset_s + sinks_s, onset_s + sinks_s + SINK_S)
            gain[part] *= 10 ** (-rng.uniform(1, 5) / 20 * np.hanning(len(gain[part])) ** 0.3)
        notes.append(TrueNote(start_s, max(offset_s, start_s + 0.05), midi))
    sung_vowels = (gain * vowels).astype(np.float32)
    notes = released(sung_vowels, notes)
    sound = sung_vowels + others
    return sound / max(1.0, float(np.abs(sound).max())), notes


def _samples(start_s: float, end_s: float) -> slice:
    return slice(round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE))


def _hiss(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """(size,) a consonant without voice, some dB below what is sung at RMS 1: s, or h and t."""
    low_hz = rng.uniform(300, 4000)
    band = low_hz, min(low_hz * rng.uniform(2.0, 12.0), 7500)
    sos = signal.butter(1, band, "bandpass", fs=SAMPLE_RATE, output="sos")
    burst = np.asarray(signal.sosfilt(sos, rng.normal(size=size)))
    burst *= 10 ** (rng.uniform(-25, -3) / 20) / (burst.std() + 1e-9)
    if rng.random() < 0.5:  # closed first, then a burst that dies away
        burst[: int(rng.uniform(0.1, 0.6) * size)] = 0.0
        burst *= np.linspace(1.5, 0.5, size)
    return burst


def singles(folder: Path, n_clips: int, seed: int, shifts: tuple[int, int] = (-3, 13)) -> Sounds:
    """Phrases of recorded single notes, some of which end as they did."""
    for number in range(n_clips):
        rng = np.random.default_rng([seed, 6, number])
        sound, notes = single_phrase(rng, folder, number, whole=0.2, shifts=shifts)
        sound = sound[: round(CLIP_S * SAMPLE_RATE)]
        yield sound, ended(sound, [n for n in notes if n.onset_s < CLIP_S])


def silences(n_clips: int, seed: int) -> Sounds:
    """Rooms in which nobody plays: noise, and some mains hum."""
    time_s = np.arange(round(CLIP_S * SAMPLE_RATE)) / SAMPLE_RATE
    for number in range(n_clips):
        rng = np.random.default_rng([seed, 10, number])
        sound = coloured_noise(rng, len(time_s), float(rng.uniform(0.0, 2.0)))
        if rng.random() < 0.3:
            hum = np.sin(2 * np.pi * rng.choice((50, 60, 100, 120)) * time_s)
            sound += 10 ** (rng.uniform(-30, -10) / 20) * hum
        yield sound.astype(np.float32), []


def cut_notes(folder: Path, out: Path, n_clips: int, highest: int = 127) -> None:
    """Write notes of a rendered folder's clean clips that begin out of silence as single notes.

    What `singles` makes of them has the repeats and the unbroken steps of played melodies, by many
    more instruments than anybody has recorded note by note.
    """
    listed = []
    out.mkdir(exist_ok=True)
    for number, clip in enumerate(find_clips(folder)[-n_clips:]):
        if clip.clean is None:
            continue
        clean, before_s = read_audio(clip.clean), 0.0
        for k, note in enumerate(clip.notes()):
            long = note.onset_s - before_s > 0.12 and note.audible_s - note.onset_s > 0.2
            if long and note.midi <= highest:
                path = out / f"{number}" / f"{k}.flac"
                path.parent.mkdir(parents=True, exist_ok=True)
                part = slice(round(note.onset_s * SAMPLE_RATE), round(note.offset_s * SAMPLE_RATE))
                soundfile.write(path, clean[part], SAMPLE_RATE)
                listed.append({"file": str(path.relative_to(out)), "midi": note.midi})
            before_s = note.offset_s
    (out / "manifest.json").write_text(json.dumps(listed), encoding="utf-8")


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


def released(sound: FloatArray, notes: list[TrueNote]) -> list[TrueNote]:
    """A singer's notes, which end soon after the vowel is let go, or where the sound has faded."""
    return [
        TrueNote(n.onset_s, min(n.offset_s + RELEASE_S, faded.offset_s), n.midi)
        for n, faded in zip(notes, ended(sound, notes), strict=True)
    ]


def hear(
    sounds: Sounds, seed: int, times: int = 1
) -> Iterator[tuple[hear_file.Frames, list[TrueNote]]]:
    """Each sound as a file's decoder has it, recorded from afar so often; badly after N_GOOD."""
    hearing = hear_file.load_hearing(None, "cpu")
    for number, (sound, notes) in enumerate(sounds):
        for time in range(times):
            rng = np.random.default_rng([seed, 7, number, time])
            far = degrade(rng, sound, SAMPLE_RATE, badly=time >= N_GOOD)
            kept, opened = hear_file.KeptFrames(), hear_file.open_sound((far, SAMPLE_RATE))
            tail_s = hear_file.TAIL_S
            for heard in hear_file.hear(opened, hearing, tail_s, None, style=False, quieten=True):
                kept.add(heard)
            yield kept.frames(), notes


def describe(frames: hear_file.Frames, *, bare: bool = False) -> FloatArray:
    """(T, inputs) as the decoder describes a whole file; `bare`: one heard without traits."""
    level = frames.level_db
    cues = onsets.Cues(
        level, frames.onset, frames.periodicity, frames.pitch_midi, frames.confidence,
        frames.note_probs, None if bare else frames.traits,
    )  # fmt: skip
    return onsets.describe(cues, file_gate_db(level, TrackerConfig()))


def due(pitch: FloatArray, notes: list[TrueNote]) -> FloatArray:
    """What is to be said of each frame.

    (T, 4 + C): whether a note begins in it (blurred by a frame), near it, ends near it, or sounds;
    and which of the classes name it.

    Args:
        pitch: (T,) heard.
        notes: the truth.
    """
    time_s = HOP_S * np.arange(len(pitch))
    rows = np.zeros((len(pitch), onsets.N_PLAIN + onsets.N_CLASSES), np.float32)
    begins, near, ends, sounds = rows.T[: onsets.N_PLAIN]
    named, none = rows[:, onsets.N_PLAIN : -1], rows[:, -1]
    could_be = onsets.candidates(pitch)
    for note in notes:
        apart = time_s - note.onset_s
        np.maximum(begins, np.exp(-0.5 * (apart / BLUR_S) ** 2), out=begins)
        near[np.abs(apart) <= NEAR_S] = 1.0
        ends[np.abs(time_s - note.offset_s) <= NEAR_S] = 1.0
        inside = (apart >= -HOP_S / 2) & (time_s < note.offset_s - HOP_S / 2)
        sounds[inside] = 1.0
        named[inside] = np.abs(could_be[inside] - note.midi) < RIGHT_SEMITONES
    none[:] = (sounds == 1.0) & ~named.any(1)
    return rows


class Net(nn.Module):
    """`onsets.perceive`, to be learned."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        sizes = (onsets.N_INPUTS, *(hidden for _ in onsets.DILATIONS))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, 3, padding=apart, dilation=apart)
            for a, b, apart in zip(sizes, sizes[1:], onsets.DILATIONS, strict=False)
        )
        self.last = nn.Conv1d(hidden, onsets.N_PLAIN + onsets.N_CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, T) to scores (B, 4 + C, T)."""
        for k, convolution in enumerate(self.convolutions):
            y = functional.dropout(functional.relu(convolution(x)), 0.1, self.training)
            x = x + y if k else y
        scores: Tensor = self.last(x)
        return scores


def surprise(scores: Tensor, wanted: Tensor) -> Tensor:
    """Loss of scores (B, 4 + C, T) where `due` says these."""
    n = onsets.N_PLAIN
    plain = functional.binary_cross_entropy_with_logits(scores[:, :n], wanted[:, :n])
    right = (torch.softmax(scores[:, n:], 1) * wanted[:, n:]).sum(1).clamp_min(1e-6).log()
    return plain - 0.3 * (right * wanted[:, n - 1]).mean()


def learn(
    takes: list[tuple[FloatArray, FloatArray]], hidden: int, epochs: int, seed: int
) -> onsets.Layers:
    """The network that says what is due, from (T, inputs) and (T, 4 + C) of each take."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 8])
    some = np.concatenate([x[::10] for x, _ in takes]).astype(np.float32)
    mean, scale = some.mean(0), 1.0 / (some.std(0) + 1e-2)
    net = Net(hidden)
    n_cuts = sum(max(1, len(x) // CUT) for x, _ in takes)
    steps = epochs * (n_cuts // BATCH)
    share = np.array([len(x) for x, _ in takes]) / sum(len(x) for x, _ in takes)
    optimiser = torch.optim.AdamW(net.parameters(), 4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for step in range(steps):
        x = np.zeros((BATCH, CUT, onsets.N_INPUTS), np.float32)
        y = np.zeros((BATCH, CUT, takes[0][1].shape[1]), np.float32)
        for k, take in enumerate(rng.choice(len(takes), BATCH, p=share)):
            heard, wanted = takes[take]
            start = int(rng.integers(max(1, len(heard) - CUT)))
            n = min(CUT, len(heard))
            x[k, :n] = (heard[start : start + n] - mean) * scale
            y[k, :n] = wanted[start : start + n]
        loss = surprise(net(torch.from_numpy(x).mT), torch.from_numpy(y).mT)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % 200 == 0:
            sys.stderr.write(f"step {step} of {steps}: {loss.item():.4f}\n")
    weights = [(c.weight.permute(2, 1, 0), c.bias) for c in (*net.convolutions, net.last)]
    weights[-1] = weights[-1][0][0], weights[-1][1]
    return [(mean, scale), *((w.detach().numpy().copy(), b.detach().numpy()) for w, b in weights)]


def main() -> None:
    """Parse the options, hear, learn, measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--melodies", type=Path, action="append", default=[])
    parser.add_argument("--singles", type=Path, help="folder of single notes with manifest.json")
    parser.add_argument("--n-melodies", type=int, default=130, help="clips of each folder")
    parser.add_argument("--n-cut", type=int, default=80, help="phrases of notes cut out of each")
    parser.add_argument("--n-singles", type=int, default=130, help="phrases of single notes")
    parser.add_argument("--n-voices", type=int, default=80, help="phrases sung")
    parser.add_argument("--n-amateurs", type=int, default=200, help="phrases sung by amateurs")
    parser.add_argument("--n-reciters", type=int, default=220, help="phrases sung with words")
    parser.add_argument("--n-low", type=int, default=200, help="phrases of the low ones")
    parser.add_argument("--n-silences", type=int, default=20, help="rooms in which nobody plays")
    parser.add_argument("--times", type=int, default=N_RECORDINGS, help="recordings of each sound")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=Path("onsets.npz"))
    options = parser.parse_args()
    lows: list[Sounds] = []
    sounds = [voices(options.n_voices, options.seed), silences(options.n_silences, options.seed)]
    with tempfile.TemporaryDirectory() as scratch:
        if options.singles:
            sounds.append(singles(options.singles, options.n_singles, options.seed))
        for number, folder in enumerate(options.melodies):
            cut = Path(scratch) / str(number)
            cut_notes(folder, cut, options.n_cut)
            sounds.append(melodies(folder, options.n_melodies))
            sounds.append(singles(cut, options.n_cut, options.seed + 1 + number))
            low = Path(scratch) / f"low{number}"
            cut_notes(folder, low, 1_000, LOW_MIDI)
            lows.append(singles(low, options.n_low, options.seed + 101 + number, LOW_SHIFTS))
        sounds += [*lows, amateurs(options.n_amateurs, options.seed)]
        sounds.append(reciters(options.n_reciters, options.seed))
        takes = []
        recordings = hear(chain.from_iterable(sounds), options.seed, options.times)
        for number, (frames, notes) in enumerate(recordings):
            wanted = due(frames.pitch_midi, notes)
            takes.append((describe(frames), wanted))
            if number % options.times == 0:
                takes.append((describe(frames, bare=True), wanted))
            if number % 100 == 0:
                sys.stderr.write(f"{number} recordings heard\n")
    layers = learn(takes, options.hidden, options.epochs, options.seed)
    save(layers, options.out)


if __name__ == "__main__":
    main()
