"""InsNotes: twelve instruments play the twelve notes of one octave, again and again.

As the paper describes it (section 4.1): General MIDI programs of FluidR3 play MIDI 60..71 in cyclic
order, one second each every 1.056 s, with random velocities and a random envelope over each note;
16 kHz. A fragment is the 33 hops of one note less the last: 32 STFT frames. Four more programs and
their few shots are the paper's out-of-distribution set (`InsNotes-OOD`).

Letters: R files, L notes of a file, F bins, T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray

from training.folders import claim
from training.paper.fragments import Fragments
from training.soundfonts import (
    BLOCK,
    GM_NAMES,
    SYNTH_RATE,
    Synth,
    file_sha256,
    find_soundfonts,
)
from v3audio.errors import ConfigError
from v3audio.paths import atomic_write

FloatArray = NDArray[np.float32]

SAMPLE_RATE = 16_000
N_FFT, HOP = 1024, 512
FRAMES = 32  # of a fragment
STEP_FRAMES = 33  # from one note to the next: 1.056 s
STEP_SAMPLES = STEP_FRAMES * HOP
FIRST_NOTE, N_NOTES = 60, 12
NOTES_PER_FILE = 120
PROGRAMS = (64, 19, 21, 41, 56, 59, 68, 71, 72, 75, 22, 52)
OOD_PROGRAMS = (0, 4, 73, 78)
_STEP_BLOCKS = STEP_SAMPLES * SYNTH_RATE // SAMPLE_RATE // BLOCK
_NOTE_BLOCKS = SYNTH_RATE // BLOCK  # one second
NOTE_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")

Features = Literal["spectrogram", "log-frequency"]


def render(folder: Path, *, seed: int = 0, files_per_program: int = 8,
           programs: tuple[int, ...] = PROGRAMS + OOD_PROGRAMS, soundfont: Path | None = None,
           progress: Callable[[int, int], None] | None = None) -> int:
    """Render the data set, or finish one that was interrupted; the same seed gives the same bytes.

    Args:
        folder: to make or to go on with: `manifest.json`, and `PPP/NN.flac` for each program.
        seed: of velocities and envelopes.
        files_per_program: the paper has 100; 8 train the compact recipe to the same figures.
        programs: General MIDI programs.
        soundfont: None finds the system's FluidR3.
        progress: called with (files done, files in all).

    Returns:
        Files rendered now.

    Raises:
        ConfigError: a setting makes no sense, or the folder holds other data.
        V3AudioError: FluidSynth or the soundfont is missing.
    """
    if files_per_program < 1:
        raise ConfigError(f"files_per_program = {files_per_program}: give at least 1")
    if not programs or not all(0 <= p <= 127 for p in programs):
        raise ConfigError(f"programs {programs}: General MIDI programs are 0 to 127")
    font = find_soundfonts([soundfont] if soundfont else None)[0]
    claim(folder, {"kind": "insnotes", "seed": seed, "programs": list(programs),
                   "soundfont": font.name, "sha256": file_sha256(font)})
    wanted = [(p, k) for p in programs for k in range(files_per_program)]
    n_rendered = 0
    with Synth(font) as synth:
        for done, (program, index) in enumerate(wanted):
            path = folder / f"{program:03d}" / f"{index:02d}.flac"
            if not path.exists():
                sound = _play(synth, program, np.random.default_rng([seed, program, index]))
                path.parent.mkdir(exist_ok=True)
                with atomic_write(path) as part:
                    soundfile.write(part, sound, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
                n_rendered += 1
            if progress:
                progress(done + 1, len(wanted))
    return n_rendered


def _play(synth: Synth, program: int, rng: np.random.Generator) -> FloatArray:
    """One file: (NOTES_PER_FILE * STEP_SAMPLES,) at SAMPLE_RATE, peak 0.9."""
    if not synth.start(program):
        raise ConfigError(f"the soundfont has no program {program} ({GM_NAMES[program]})")
    out = np.zeros(NOTES_PER_FILE * _STEP_BLOCKS * BLOCK, np.float32)
    channels = Synth.CHANNELS
    for note in range(NOTES_PER_FILE):
        channel, key = channels[note % len(channels)], FIRST_NOTE + note % N_NOTES
        at = note * _STEP_BLOCKS
        synth.note_on(channel, key, int(rng.integers(80, 121)))
        synth.render(out, at, _NOTE_BLOCKS)
        synth.note_off(channel, key)
        synth.render(out, at + _NOTE_BLOCKS, _STEP_BLOCKS - _NOTE_BLOCKS)
        synth.silence(channel)
        part = out[at * BLOCK : (at + _STEP_BLOCKS) * BLOCK]
        part *= _envelope(rng, len(part))
    sound = soxr.resample(out, SYNTH_RATE, SAMPLE_RATE, quality="HQ")
    return np.asarray(sound * (0.9 / max(float(np.abs(sound).max()), 1e-9)), np.float32)


def _envelope(rng: np.random.Generator, n: int) -> FloatArray:
    """From one gain of 0.8..1.2 to another, in a line or a quarter of a sine."""
    first, last = rng.uniform(0.8, 1.2, 2)
    shape = np.linspace(0, 1, n)
    if rng.random() < 0.5:
        shape = np.sin(shape * np.pi / 2)
    return np.asarray(first + (last - first) * shape, np.float32)


@dataclass(frozen=True, slots=True)
class Normaliser:
    """What the training set's features were standardised with: one mean and spread for all."""

    mean: float
    std: float


def load(folder: Path, programs: tuple[int, ...], files: slice, features: Features,
         normaliser: Normaliser | None = None) -> tuple[Fragments, Normaliser]:
    """Read rendered files as fragments.

    Args:
        folder: as `render` made it.
        programs: which; their order gives the style index.
        files: which of each program's files.
        features: `spectrogram` (512, 32) as the paper, or `log-frequency` (144, 4), ours.
        normaliser: of the training set; None measures it here.

    Raises:
        ConfigError: the folder lacks them.
    """
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        raise ConfigError(f"{folder}: no InsNotes here; type 'v3audio data insnotes -o {folder}'")
    rows: list[FloatArray] = []
    styles: list[int] = []
    for index, program in enumerate(programs):
        paths = sorted((folder / f"{program:03d}").glob("*.flac"))[files]
        if not paths:
            raise ConfigError(f"{folder}: too few files of program {program}; "
                              "render more with 'v3audio data insnotes --size N'")
        for path in paths:
            rows.append(_cached(path, features))
            styles.append(index)
    x = np.stack(rows)  # (R, L, F, T)
    if normaliser is None:
        normaliser = Normaliser(float(x.mean()), float(x.std()))
    x = (x - np.float32(normaliser.mean)) / np.float32(normaliser.std)
    content = np.tile(np.arange(NOTES_PER_FILE) % N_NOTES, (len(rows), 1))
    return Fragments(torch.from_numpy(x), content, np.array(styles), NOTE_NAMES,
                     tuple(GM_NAMES[p] for p in programs)), normaliser


def _cached(path: Path, features: Features) -> FloatArray:
    """Log magnitudes (L, F, T) of one file, computed once and kept beside it."""
    cache = path.with_suffix(f".{features}.npy")
    if not cache.exists():
        sound, _ = soundfile.read(path, dtype="float32")
        made = log_frequency(sound) if features == "log-frequency" else spectrogram(sound)
        with atomic_write(cache) as part, open(part, "wb") as file:
            np.save(file, made)
    return np.asarray(np.load(cache), np.float32)


def spectrogram(sound: FloatArray) -> FloatArray:
    """The paper's fragments: log magnitudes of an STFT, (L, N_FFT / 2, FRAMES)."""
    return _fragments(_magnitudes(sound, N_FFT)[:-1])


LOG_N_FFT = 2048
LOG_LOW_HZ, LOG_PER_OCTAVE, LOG_BINS = 110.0, 24, 144
LOG_POOLED = 8  # frames averaged into one: a note's colour, not its beating


def log_frequency(sound: FloatArray) -> FloatArray:
    """Compact fragments: quarter tones over six octaves in four stretches of time, (L, 144, 4)."""
    return _fragments(log_bank() @ _magnitudes(sound, LOG_N_FFT), LOG_POOLED)


def _magnitudes(sound: FloatArray, n_fft: int) -> FloatArray:
    """(F, T) magnitudes, frame t centred on sample t * HOP."""
    padded = np.pad(sound, n_fft // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::HOP]
    hann = np.hanning(n_fft + 1)[:-1].astype(np.float32)
    spectrum = np.fft.rfft(windows * hann, axis=1)
    return np.abs(spectrum).astype(np.float32).T * np.float32(2 / hann.sum())


def _fragments(magnitudes: FloatArray, pooled: int = 1) -> FloatArray:
    """Cut (F, T) into the fragments of the notes, (L, F, FRAMES / pooled), log."""
    first = np.arange(NOTES_PER_FILE)[:, None] * STEP_FRAMES + np.arange(FRAMES)
    cut = magnitudes[:, first].transpose(1, 0, 2)  # (L, F, FRAMES)
    cut = cut.reshape(*cut.shape[:2], FRAMES // pooled, pooled).mean(-1)
    return np.log(cut + 1e-5).astype(np.float32)


def log_bank() -> FloatArray:
    """Triangles over the FFT bins, (LOG_BINS, LOG_N_FFT / 2 + 1), rows summing to one."""
    edges = LOG_LOW_HZ * 2.0 ** (np.arange(-1, LOG_BINS + 1) / LOG_PER_OCTAVE)
    at = edges * LOG_N_FFT / SAMPLE_RATE  # in FFT bins
    low = np.minimum(at[:-2], at[1:-1] - 1)[:, None]
    high = np.maximum(at[2:], at[1:-1] + 1)[:, None]
    bins, centre = np.arange(LOG_N_FFT // 2 + 1), at[1:-1, None]
    bank = np.clip(np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)), 0, 1)
    return np.asarray(bank / bank.sum(1, keepdims=True), np.float32)
