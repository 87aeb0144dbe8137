"""Synthetic singing voices: a pulse train through moving formants, with breath and consonants.

General MIDI has no solo singer; these fill the gap. A voice is a number: the same number is the
same singer everywhere.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from training.phrases import TICKS_PER_S, PhraseNote
from training.rooms import coloured_noise

VOICE_NOTES = list(range(36, 85))
"""MIDI range of the voices."""

# First four formants in Hz of a male vocal tract (after Peterson and Barney, 1952), rounded.
_VOWELS = np.array(
    [
        [730, 1090, 2440, 3400],
        [570, 840, 2410, 3300],
        [660, 1720, 2410, 3500],
        [530, 1840, 2480, 3500],
        [490, 1350, 1690, 3300],
        [390, 1990, 2550, 3600],
        [270, 2290, 3010, 3700],
        [440, 1020, 2240, 3300],
        [300, 870, 2240, 3200],
        [640, 1190, 2390, 3300],
    ]
)
_BANDWIDTHS = np.array([70, 90, 130, 180])
_TABLE_LENGTH = 8192
_SINKS = 0.25  # so many of amateurs' longer notes sink for a moment...
SINK_S = 0.08
"""...and for how long, seconds."""


def sing(
    rng: np.random.Generator,
    phrase: list[PhraseNote],
    voice: int,
    n_samples: int,
    sample_rate: int,
    breathier_db: float = 0.0,
) -> NDArray[np.float32]:
    """Sing a phrase.

    Args:
        rng: the clip's generator.
        phrase: the notes; their curves are the pitch that is sung.
        voice: which singer (>= 1).
        n_samples: length of the result.
        sample_rate: Hz.
        breathier_db: by how much there is more breath than this singer usually has.

    Returns: (n_samples,) float32, peak about 0.9.
    """
    singer = np.random.default_rng([0x501CE, voice])
    tract = singer.uniform(0.95, 1.35)  # short tract, high formants
    tilt = singer.uniform(0.9, 1.7)
    jitter, shimmer = singer.uniform(0.001, 0.006), singer.uniform(0.02, 0.1)
    breath = 10 ** ((singer.uniform(-40, -18) + breathier_db) / 20)
    vowels = singer.permutation(len(_VOWELS))[:6]

    time = np.arange(n_samples) / sample_rate
    knots_t, knots_a = [0.0], [0.0]
    attack_s, release_s = singer.uniform(0.015, 0.06), singer.uniform(0.03, 0.1)
    for i, note in enumerate(phrase):
        start, stop = note.onset / TICKS_PER_S, note.offset / TICKS_PER_S
        loud = 10 ** ((note.velocity - 127) / 127 * 30 / 20)
        joined = i > 0 and phrase[i - 1].offset == note.onset
        follows = i + 1 < len(phrase) and phrase[i + 1].onset == note.offset
        rise = min(attack_s, 0.3 * (stop - start))
        # Between joined notes the voice only dips; a slur does not even do that.
        floor = loud * (1.0 if note.slurred else rng.uniform(0.3, 0.9)) if joined else 0.0
        knots_t += [start, start + rise, stop - 1e-4]
        knots_a += [floor, loud, loud]
        if not follows:
            knots_t.append(stop + release_s)
            knots_a.append(0.0)
    amplitude = np.interp(time, knots_t, knots_a)

    midi = sung_midi(phrase, time, 60.0)
    slow = np.arange(0, n_samples + 80, 80)
    midi = midi + np.interp(np.arange(n_samples), slow, rng.normal(size=len(slow))) * jitter * 17
    amplitude = amplitude * np.exp(
        np.interp(np.arange(n_samples), slow, rng.normal(size=len(slow))) * shimmer
    )
    f0 = 440.0 * 2.0 ** ((midi - 69) / 12)
    phase = np.cumsum(f0 / sample_rate)

    source = np.zeros(n_samples)
    position = (phase % 1.0) * _TABLE_LENGTH
    # One wavetable an octave-third, with as many harmonics as fit: no aliasing.
    step = np.ceil(np.log2(np.maximum(f0, 20) / 20) * 3).astype(int)
    phases = singer.uniform(-0.3, 0.3, 512)
    for s in np.unique(step):
        at = np.flatnonzero(step == s)
        n_harmonics = max(int(0.48 * sample_rate / (20 * 2 ** (s / 3))), 1)
        k = np.arange(1, n_harmonics + 1)
        spectrum = np.zeros(_TABLE_LENGTH // 2 + 1, complex)
        spectrum[k] = k**-tilt * np.exp(1j * phases[k - 1])
        table = np.fft.irfft(spectrum) * _TABLE_LENGTH
        table = np.append(table, table[0])
        source[at] = np.interp(position[at], np.arange(_TABLE_LENGTH + 1), table)
    source /= np.sqrt(np.mean(source**2)) + 1e-9
    pulse = 0.4 + 0.6 * (phase % 1.0)
    source = amplitude * (source + breath * rng.normal(size=n_samples) * pulse)

    # A vowel a note, with quick moves between them: every vowel filters all, weights choose.
    which = rng.integers(0, len(vowels), len(phrase))
    out = np.zeros(n_samples)
    starts = np.array([note.onset for note in phrase]) / TICKS_PER_S
    index = np.maximum(np.searchsorted(starts, time, side="right") - 1, 0)
    smooth = signal.butter(1, 8.0, fs=sample_rate)
    for v, vowel in enumerate(vowels):
        weight = signal.lfilter(*smooth, (which[index] == v).astype(float))
        out += weight * _formants(source, _VOWELS[vowel] * tract, sample_rate)
    out /= np.sqrt(np.mean(out**2)) + 1e-9
    out += 0.5 * _consonants(rng, phrase, n_samples, sample_rate)
    return (out * (0.9 / max(float(np.abs(out).max()), 1e-9))).astype(np.float32)


def sung_midi(
    phrase: list[PhraseNote],
    time_s: NDArray[np.float64],
    first: float,
    leads_s: float = np.inf,
) -> NDArray[np.float64]:
    """(n,) pitch of a phrase at these times, which moves from `first` to its beginning.

    In rests it moves from one note to the next, or has that of the next from `leads_s` before it.
    """
    ticks, midi = [0.0], [first]
    for note in phrase:
        if ticks[-1] < note.onset - leads_s * TICKS_PER_S:
            ticks += [ticks[-1] + 1, note.onset - leads_s * TICKS_PER_S]
            midi += [midi[-1], note.midi + note.curve[0]]
        ticks += (note.onset + np.arange(len(note.curve) - 1)).tolist()
        midi += (note.midi + note.curve[:-1]).tolist()
    return np.interp(time_s, np.array(ticks) / TICKS_PER_S, midi)


def breathe(
    rng: np.random.Generator,
    sound: NDArray[np.floating],
    part: slice,
    level_db: tuple[float, float],
    loud: float = 1.0,
) -> None:
    """Breathe in during a part of a sound, between these levels below `loud`."""
    size = len(sound[part])
    breath = loud * 10 ** (rng.uniform(*level_db) / 20) * np.hanning(size)
    sound[part] += breath * coloured_noise(rng, size, 0.5)


def waver(rng: np.random.Generator, phrase: list[PhraseNote]) -> list[PhraseNote]:
    """The phrase as an amateur sings it, slower and never quite in tune.

    Notes are scooped into slowly or reached by a portamento, drift, waver and fall at their ends.
    Their `cents` then say where they settle.
    """
    tempo, tuning = rng.uniform(1.0, 2.2), rng.normal(0, 0.2)
    astray = rng.uniform(0.02, 0.2)  # semitones that single notes are out of tune
    drifts, scoops, falls = rng.uniform(0.05, 0.4), rng.uniform(0.1, 0.8), rng.uniform(0.0, 0.5)
    trembles = rng.uniform(0.1, 0.8) if rng.random() < 0.5 else 0.0
    end = round(tempo * phrase[-1].offset) + 1 if phrase else 1
    # From half a hertz up, as below that it is drift.
    rough = signal.butter(1, (0.5, 20.0), "bandpass", fs=TICKS_PER_S, output="sos")
    unsteady = signal.sosfilt(rough, np.cumsum(rng.normal(size=end)))
    unsteady *= rng.uniform(0.05, 0.25) / max(float(unsteady.std()), 1e-9)
    sung: list[PhraseNote] = []
    for i, note in enumerate(phrase):
        onset, offset = round(tempo * note.onset), round(tempo * note.offset)
        t = np.arange(offset - onset + 1) / TICKS_PER_S
        before = sung[-1] if sung and sung[-1].offset == onset else None
        rests = i + 1 == len(phrase) or phrase[i + 1].onset > note.offset
        curve = np.clip(tuning + rng.normal(0, astray), -0.45, 0.45) + unsteady[onset:][: len(t)]
        curve += rng.uniform(-1, 1) * drifts * (t / t[-1] - 0.5)
        curve += rng.uniform(-0.5, 0.5) * drifts * np.sin(np.pi * t / t[-1])
        if t[-1] > 0.3:
            curve += trembles * _tremble(rng, t)
        into = (0.0, 0.0)  # semitones, seconds
        if before and (note.slurred or rng.random() < 0.6):
            from_here = before.midi + before.curve[-1] - note.midi - curve[0]
            into = from_here, float(rng.uniform(0.06, 0.25))
        elif rng.random() < scoops:
            into = _scoop(rng)
        seconds = min(into[1], 0.6 * t[-1])
        if seconds:
            bent = np.clip(t / seconds, 0.0, 1.0) ** np.exp(rng.uniform(-0.7, 0.7))
            curve += into[0] * (0.5 + 0.5 * np.cos(np.pi * bent))
        fall_s = 0.0
        if rests and t[-1] > 0.25 and rng.random() < falls:
            fall_s = float(rng.uniform(0.05, 0.25 * min(t[-1], 1.0)))
            fall = np.clip((t - t[-1] + fall_s) / fall_s, 0.0, 1.0) ** rng.uniform(1.0, 2.5)
            curve += rng.uniform(-3.0, 0.3) * fall
        settled = curve[(t >= seconds) & (t <= t[-1] - fall_s)]
        cents = 100.0 * float(np.median(settled))
        sung.append(replace(note, onset=onset, offset=offset, cents=cents, curve=curve))
    return sung


def sink(rng: np.random.Generator, note: PhraseNote) -> float:
    """Let the pitch of a longer note sink for a moment, sometimes. Returns: when in it, s, or 0."""
    t = np.arange(len(note.curve)) / TICKS_PER_S
    if t[-1] < 0.35 or rng.random() > _SINKS:
        return 0.0
    at_s = float(rng.uniform(0.08, t[-1] - 0.15))
    note.curve[:] -= rng.uniform(0.0, 0.8) * np.interp(
        t - at_s, [-0.01, 0.01, SINK_S - 0.02, SINK_S + 0.02], [0, 1, 0.6, 0]
    )
    return at_s


def _scoop(rng: np.random.Generator) -> tuple[float, float]:
    """From how far away, in semitones, a note is taken, and in how many seconds."""
    depth = np.exp(rng.uniform(np.log(0.3), np.log(3.0)))
    seconds = np.exp(rng.uniform(np.log(0.08), np.log(0.4)))
    return float(-depth if rng.random() < 0.85 else 0.4 * depth), float(seconds)


def _tremble(rng: np.random.Generator, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """A vibrato whose rate and depth wander, at most about 1 deep."""
    knots = np.arange(0.0, t[-1] + 0.25, 0.25)
    hz = np.interp(t, knots, rng.uniform(3.5, 7.0) + rng.normal(0, 0.6, len(knots)))
    deep = np.interp(t, knots, rng.uniform(0.2, 1.0, len(knots)))
    swell = np.clip((t - rng.uniform(0.0, 0.4)) / 0.2, 0.0, 1.0)
    return np.asarray(deep * swell * np.sin(2 * np.pi * np.cumsum(hz) / TICKS_PER_S))


def _formants(
    x: NDArray[np.float64], formants_hz: NDArray[np.float64], sample_rate: int
) -> NDArray[np.float64]:
    """A cascade of two-pole resonators, unit gain at 0 Hz (Klatt, 1980)."""
    sections = []
    for f, bandwidth in zip(formants_hz, _BANDWIDTHS, strict=True):
        radius = np.exp(-np.pi * bandwidth / sample_rate)
        a1, a2 = -2 * radius * np.cos(2 * np.pi * f / sample_rate), radius**2
        sections.append([1 + a1 + a2, 0, 0, 1, a1, a2])
    return np.asarray(signal.sosfilt(np.array(sections), x))


def _consonants(
    rng: np.random.Generator, phrase: list[PhraseNote], n_samples: int, sample_rate: int
) -> NDArray[np.float64]:
    """Noise bursts in the gaps before notes: unvoiced consonants that must not become notes."""
    out = np.zeros(n_samples)
    free = 0
    for note in phrase:
        onset = round(note.onset / TICKS_PER_S * sample_rate)
        length = min(int(rng.uniform(0.02, 0.12) * sample_rate), onset - free)
        free = round(note.offset / TICKS_PER_S * sample_rate)
        if length < 0.015 * sample_rate or rng.random() < 0.5:
            continue
        low_hz = rng.uniform(800, 4000)
        band = (low_hz, min(low_hz * rng.uniform(1.5, 3.0), 0.47 * sample_rate))
        b, a = signal.butter(1, band, "bandpass", fs=sample_rate)
        burst = signal.lfilter(b, a, rng.normal(size=length))
        shape = np.hanning(length) if rng.random() < 0.6 else np.linspace(1, 0, length) ** 2
        loud = 10 ** ((note.velocity - 127) / 127 * 30 / 20)
        out[onset - length : onset] += loud * rng.uniform(0.2, 1.0) * burst * shape
    return out
