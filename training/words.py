"""Singers with words: speech, stretched and tuned to a melody.

General MIDI sings no words, and where a sung note begins is a matter of words: of vowels that open
out of closures, hisses and hums. Flite speaks verses (Black and Lenzo, 2001; its voices are
recorded speakers), and WORLD (Morise et al., 2016) gives each syllable the length and the pitch of
its note, and other singers other throats.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from training.phrases import TICKS_PER_S, PhraseNote, TrueNote, slurred_s
from training.voices import SINK_S, breathe, sink, sung_midi
from v3audio.errors import ConfigError

FloatArray = NDArray[np.float32]
Numbers = NDArray[np.float64]

SPEAKERS = WOMAN, *_ = "slt", "rms", "awb", "kal16"
"""Flite's voices."""
FRAME_S = 0.005  # of WORLD
RATE = 16_000  # Hz, of the voices
VERSE = 8  # words spoken at once
RANGE_DB = 20.0  # between the loudest and the softest note
LONGEST_S = 0.2  # of consonants before a vowel
MELISMAS = 0.15  # so many unslurred steps are sung on one vowel
BREATHES = 0.6  # in so many rests


def _listed(text: str) -> list[str]:
    return text.split()


_VOWELS = {*_listed("aa ae ah ao aw ax axr ay eh er ey ih iy ow oy uh uw")}
_VOICED = {*_VOWELS, *_listed("l r w y m n ng el em en")}
_WORDS = _listed(
    """
    la la la na na da do re mi fa so ti oh ah who you me we she they all one sun moon star sky
    rain river water mountain valley morning evening night day light dark home road long low
    high slow love heart mind soul hand eye voice song sing dream sleep wake walk run fly fall
    rise stay leave come go never ever always only lonely holy little baby brother sister mother
    father children summer winter autumn spring flower garden meadow ocean island sailor ship
    wind silver golden yellow blue green red white black happy merry weary gentle tender wonder
    yonder remember tomorrow today away along among below above around hello goodbye believe
    forgive deliver hallelujah bella luna notte mare amore sera cara mia vida noche corazon
    cielo tierra ami roi nuit rose lied wald still nacht kommt der mai shine through storm
    strong brave free bright street bridge train window kitchen table paper letter city music
    dancing laughing waiting calling dreaming falling rolling ring bell tell me why could should
    would please thank sweet dear deep near far
    """
)


class Syllable(NamedTuple):
    """At which spoken frames consonants, vowel, what closes it, and the next syllable begin."""

    start: float
    vowel: float
    close: float
    end: float


@dataclass(frozen=True, slots=True)
class Verse:
    """Spoken words as WORLD has them. envelope, noise: (T, F); voiced: (T,)."""

    envelope: Numbers
    noise: Numbers
    voiced: NDArray[np.bool_]
    syllables: list[Syllable]


def speak(rng: np.random.Generator, speaker: str, n_syllables: int) -> list[Verse]:
    """Verses of at least so many syllables.

    Raises: ConfigError without flite.
    """
    verses: list[Verse] = []
    while sum(len(v.syllables) for v in verses) < n_syllables:
        words = " ".join(rng.choice(_WORDS, VERSE))
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            command = ["flite", "-voice", speaker, "-psdur", "-t", words, "-o", file.name]
            try:
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            except (OSError, subprocess.CalledProcessError) as e:
                raise ConfigError(f"flite cannot speak ({e}): apt-get install flite") from e
            sound, rate = soundfile.read(file.name)
        phones = [(name, float(end)) for name, end in re.findall(r"(\S+):(\S+)", said)]
        verses.append(analyse(sound, rate, phones))
    return verses


def analyse(sound: Numbers, rate: int, phones: list[tuple[str, float]]) -> Verse:
    """Frames and syllables of (n,) speech, of which the phones end at these seconds."""
    pyworld = _world()
    f0, time_s = pyworld.dio(sound, rate, f0_floor=60.0, f0_ceil=400.0)
    f0 = pyworld.stonemask(sound, f0, time_s, rate)
    envelope = pyworld.cheaptrick(sound, f0, time_s, rate)
    noise = pyworld.d4c(sound, f0, time_s, rate, threshold=0.0)
    voiced = f0 > 0
    starts = [0.0, *(end for _, end in phones[:-1])]
    for (name, end), start in zip(phones, starts, strict=True):
        if name in _VOICED:
            voiced[round(start / FRAME_S) : round(end / FRAME_S)] = True
    names = [name for name, _ in phones]
    at = [k for k, name in enumerate(names) if name in _VOWELS]
    syllables = []
    for before, k, after in zip([-1, *at], at, [*at[1:], len(names)], strict=False):
        # Half of what stands between two vowels opens the second; one alone does.
        first = before + 1 + (k - before - 1) // 2
        last = k + 1 + (after - k - 1) // 2
        sounding = [j for j in range(first, last) if names[j] != "pau"]
        seconds = starts[sounding[0]], starts[k], phones[k][1], phones[sounding[-1]][1]
        syllables.append(Syllable(*(s / FRAME_S for s in seconds)))
    return Verse(envelope, noise, voiced, syllables)


class _Sung(NamedTuple):
    """A syllable, and the frames at which consonants, vowel, close and silence begin when sung."""

    said: Syllable
    first: float
    vowel: float
    close: float
    end: float


def sing(
    rng: np.random.Generator, phrase: list[PhraseNote], n_samples: int
) -> tuple[FloatArray, list[TrueNote]]:
    """Sing a phrase with words, about one syllable a note, breathing in where there is time.

    Vowels begin at a note's onset or somewhat later, their consonants before; slurs, and some other
    steps to another pitch, stay in one vowel.

    Args:
        rng: the singer's and the verse's.
        phrase: the notes, whose curves are sung.
        n_samples: length of the result at `RATE`.

    Returns: (n_samples,) at RMS 0.1 while somebody sings, within +-1; and the notes, each from
    where its vowel begins and its pitch is past the middle of a slide until the vowel closes.

    Raises: ConfigError without flite or pyworld.
    """
    pyworld = _world()
    speaker, throat = _singer(rng, float(np.median([n.midi for n in phrase])))
    verse = _joined(speak(rng, speaker, len(phrase)), throat)
    sung, notes = _syllables(rng, phrase, verse.syllables)
    n_frames = round(n_samples / RATE / FRAME_S) + 1
    at, gain_db = _said_at(rng, sung, verse, n_frames)
    singing = at >= 0
    at = np.maximum(at, 0.0)

    frame_s = FRAME_S * np.arange(n_frames)
    onset_s = np.array([n.onset for n in phrase]) / TICKS_PER_S
    gain_db += np.interp(frame_s, onset_s, [(n.velocity - 127) / 127 * RANGE_DB for n in phrase])
    knots = np.arange(0, n_frames + 24, 24)
    wavers_db = rng.normal(0, rng.uniform(0.3, 2.0), len(knots))
    gain_db += np.interp(np.arange(n_frames), knots, wavers_db)
    for note in phrase:
        if sunk_s := sink(rng, note):
            first = round((note.onset / TICKS_PER_S + sunk_s) / FRAME_S)
            part = gain_db[first : first + round(SINK_S / FRAME_S)]
            part -= rng.uniform(1, 5) * np.hanning(len(part) + 2)[1:-1] ** 0.3
    gain = np.where(singing, 10 ** (gain_db / 20), 0.0)
    gain = np.convolve(gain, np.hanning(7) / np.hanning(7).sum(), "same")

    low = at.astype(int)
    above, share = np.minimum(low + 1, len(verse.voiced) - 1), (at - low)[:, None]
    log = np.log(verse.envelope + 1e-14)
    envelope = np.exp((1 - share) * log[low] + share * log[above])
    noise = (1 - share) * verse.noise[low] + share * verse.noise[above]
    breathy = np.clip(np.arange(noise.shape[1]) / (0.4 * noise.shape[1]), 0.0, 1.0)  # from 3 kHz up
    noise += rng.uniform(0.0, 0.8) ** 2 * breathy * (1.0 - noise)
    midi = sung_midi(phrase, frame_s, phrase[0].midi, LONGEST_S)  # consonants have the note's
    hz = 440.0 * 2.0 ** ((midi - 69) / 12)
    f0 = np.where(verse.voiced[np.rint(at).astype(int)], hz, 0.0)
    sound = pyworld.synthesize(
        f0, envelope * gain[:, None] ** 2 + 1e-14, noise, RATE, FRAME_S * 1000
    )[:n_samples]
    sound = np.pad(sound, (0, n_samples - len(sound)))
    heard = np.repeat(singing, round(FRAME_S * RATE))[:n_samples]
    sound *= 0.1 / max(float(np.sqrt(np.mean(np.square(sound[heard])))), 1e-9)
    for before, note in pairwise(notes):
        if note.onset_s - before.offset_s > 0.45 and rng.random() < BREATHES:
            part = slice(round((before.offset_s + 0.12) * RATE), round((note.onset_s - 0.2) * RATE))
            breathe(rng, sound, part, (-35, -12), 0.1)
    return (sound / max(1.0, float(np.abs(sound).max()))).astype(np.float32), notes


def _world() -> Any:
    try:
        import pyworld
    except ImportError as e:
        raise ConfigError(f"no singers with words ({e}): pip install 'v3audio[train]'") from e
    return pyworld


def _singer(rng: np.random.Generator, middle: float) -> tuple[str, float]:
    """Who sings around this MIDI note, and by how much shorter the throat is than the speaker's."""
    high = middle + rng.normal(0, 4) > 60
    if rng.random() < 0.3:
        speaker = str(rng.choice(SPEAKERS))
    else:
        speaker = WOMAN if high else str(rng.choice(SPEAKERS[1:]))
    return speaker, float(rng.uniform(0.9, 1.15) * (1.15 if high and speaker != WOMAN else 1.0))


def _joined(verses: list[Verse], throat: float) -> Verse:
    """One verse of several, spoken by another throat."""
    firsts = np.cumsum([0, *(len(v.voiced) for v in verses)])
    return Verse(
        _stretch(np.concatenate([v.envelope for v in verses]), throat),
        _stretch(np.concatenate([v.noise for v in verses]), throat),
        np.concatenate([v.voiced for v in verses]),
        [
            Syllable(*(int(first) + np.array(s)).tolist())
            for v, first in zip(verses, firsts, strict=False)
            for s in v.syllables
        ],
    )


def _syllables(
    rng: np.random.Generator, phrase: list[PhraseNote], said: list[Syllable]
) -> tuple[list[_Sung], list[TrueNote]]:
    """When each syllable is sung, and the notes."""
    left, slow = iter(said), rng.uniform(0.8, 1.6)  # of consonants
    sung: list[_Sung] = []
    notes: list[TrueNote] = []
    for note, before in zip(phrase, [None, *phrase], strict=False):
        onset, offset = (t / TICKS_PER_S / FRAME_S for t in (note.onset, note.offset))
        midi, arrives_s = note.midi + note.cents / 100, 0.0
        joined = before is not None and before.offset == note.onset
        if joined and before.midi != note.midi:
            arrives_s = slurred_s(note, notes[-1].midi)
            if note.slurred or rng.random() < MELISMAS:
                sung[-1] = sung[-1]._replace(close=offset, end=offset)
                notes[-1] = replace(notes[-1], offset_s=arrives_s)
                notes.append(TrueNote(arrives_s, offset * FRAME_S, midi))
                continue
        s = next(left)
        size = min((s.vowel - s.start) * slow, 0.4 * (offset - onset), LONGEST_S / FRAME_S)
        vowel = onset + rng.uniform(0.0, 0.6 if joined else 0.3) * size
        first = max(vowel - size, 0.0)
        if joined:  # what closed the syllable before makes room
            older = sung[-1]
            first = max(first, 0.5 * (older.vowel + older.close))
            shut = min(older.end - older.close, 0.3 * (first - older.vowel))
            sung[-1] = older._replace(close=first - shut, end=first)
            notes[-1] = replace(notes[-1], offset_s=(first - shut) * FRAME_S)
        elif sung:
            first = max(first, sung[-1].close)
        close = offset - min((s.end - s.close) * slow, 0.3 * (offset - vowel))
        sung.append(_Sung(s, first, vowel, close, offset))
        notes.append(TrueNote(max(vowel * FRAME_S, arrives_s), close * FRAME_S, midi))
    return sung, [replace(n, offset_s=max(n.offset_s, n.onset_s + 0.05)) for n in notes]


def _said_at(
    rng: np.random.Generator, sung: list[_Sung], verse: Verse, n_frames: int
) -> tuple[Numbers, Numbers]:
    """(T,) which spoken frame each sung one is, -1 where nobody sings; and (T,) gain in dB.

    Vowels open and close as fast as spoken; what lies between is drawn out. Sung syllables differ
    less in level than spoken ones.
    """
    spoken_db = 10 * np.log10(verse.envelope.sum(1) + 1e-12)
    usual_db, evened = float(np.percentile(spoken_db, 75)), rng.uniform(0.4, 1.0)
    fades = rng.uniform(4, 16)
    at, gain_db = np.full(n_frames, -1.0), np.zeros(n_frames)
    for said, first, vowel, close, end in sung:
        edge = min(0.35 * (said.close - said.vowel), 0.4 * (close - vowel))
        last = max(end, close + fades)
        heard = [first, vowel, vowel + edge, close - edge, close, last]
        spoken = [
            said.start, said.vowel, said.vowel + edge, said.close - edge, said.close,
            max(said.end, said.close + 1.0),
        ]  # fmt: skip
        part = slice(round(first), min(round(last), n_frames))
        at[part] = np.interp(np.arange(part.start, part.stop), heard, spoken)
        level_db = float(spoken_db[round(said.vowel) : round(said.close) + 1].mean())
        gain_db[part] = evened * (usual_db - level_db)
    return at, gain_db


def _stretch(frames: Numbers, factor: float) -> Numbers:
    """(T, F) spectra with their frequencies multiplied by a factor."""
    n = frames.shape[1]
    at = np.minimum(np.arange(n) / factor, n - 1.001)
    low = at.astype(int)
    return np.asarray(frames[:, low] + (at - low) * (frames[:, low + 1] - frames[:, low]))
