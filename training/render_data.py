"""Single notes of a soundfont, and what each 5 ms of them is made of: the renderer's training data.

Every note is played by FluidSynth at 48 kHz without reverb or chorus and taken apart in its
spectrum: RMS of each harmonic and of 40 noise bands, the level, and the mel spectrum that the
renderer is judged by. Both stereo channels are analysed and their powers averaged; a mono sum would
comb the two microphones of a stereo sample into a spectrum that no single note has.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from training.soundfonts import BLOCK, SUSTAINED, Synth, file_sha256, find_soundfonts
from v3audio.errors import ConfigError
from v3audio.renderer import RendererConfig
from v3audio.spectra import SYNTH_RATE, take_apart

FloatArray = NDArray[np.float32]

FORMAT = 3
"""Version of the cached analysis; an older cache is made anew."""
STYLE_RATE = 16_000
"""Rate of the mono sound kept for the style head, Hz."""

NOTE_PAD = 4096
"""Samples of silence before each note that `StereoSynth.play_note` returns."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """A program and the notes it sounds right on (MIDI, both ends included)."""

    name: str
    program: int
    low: int
    high: int


TIMBRES = (
    Instrument("flute", 73, 60, 96),
    Instrument("oboe", 68, 58, 91),
    Instrument("clarinet", 71, 50, 91),
    Instrument("bassoon", 70, 34, 72),
    Instrument("alto-sax", 65, 49, 80),
    Instrument("tenor-sax", 66, 44, 76),
    Instrument("trumpet", 56, 54, 86),
    Instrument("muted-trumpet", 59, 54, 86),
    Instrument("trombone", 57, 40, 72),
    Instrument("french-horn", 60, 41, 77),
    Instrument("tuba", 58, 33, 60),
    Instrument("violin", 40, 55, 96),
    Instrument("viola", 41, 48, 88),
    Instrument("cello", 42, 36, 76),
    Instrument("double-bass", 43, 33, 57),
    Instrument("harmonica", 22, 55, 91),
    Instrument("accordion", 21, 48, 91),
    Instrument("church-organ", 19, 36, 84),
    Instrument("pan-flute", 75, 55, 96),
    Instrument("choir", 52, 43, 84),
    Instrument("nylon-guitar", 24, 40, 84),
    Instrument("electric-piano", 4, 33, 93),
    Instrument("harpsichord", 6, 36, 89),
    Instrument("vibraphone", 11, 53, 89),
    Instrument("piano", 0, 33, 96),
    Instrument("marimba", 12, 45, 91),
    Instrument("steel-guitar", 25, 40, 84),
    Instrument("harp", 46, 36, 96),
    Instrument("soprano-sax", 64, 56, 88),
    Instrument("baritone-sax", 67, 36, 69),
    Instrument("english-horn", 69, 52, 84),
    Instrument("piccolo", 72, 72, 98),
    Instrument("recorder", 74, 60, 96),
    Instrument("banjo", 105, 48, 84),
)
"""The instruments that ship as timbres."""

# Others fill the space between: a style vector that lies between two timbres should find itself
# among instruments, and a captured one near some.
_OTHERS = (
    (5, 33, 96), (7, 36, 88), (80, 36, 96), (20, 36, 91), (23, 48, 91), (26, 40, 84),
    (32, 33, 60), (33, 33, 60), (45, 36, 91), (48, 36, 91), (53, 43, 84), (61, 40, 86),
    (79, 60, 91), (107, 48, 84), (110, 55, 96), (111, 55, 91),
)
INSTRUMENTS = TIMBRES + tuple(Instrument(f"gm-{p:03d}", p, low, high) for p, low, high in _OTHERS)


@dataclass(frozen=True, slots=True)
class RenderDataConfig:
    """What is played and analysed.

    Attributes:
        model: V3 model folder (or name) whose style vectors the renderer is conditioned on.
        soundfont: SF2/SF3 file; empty finds the installed General MIDI one.
        folder: Where the analysis is kept.
        programs: General MIDI programs (0-based); empty means all of `INSTRUMENTS`.
        velocities: Loudness layers; the middle one stands for mezzo-forte.
        note_step: Semitones between notes.
        margin: Semitones played beyond each instrument's range, so that its ends are not edges.
        held_out_every: Notes whose MIDI number is a multiple of this are never trained on.
        hold_s: Seconds from note-on to note-off.
    """

    model: Path = Path("presets/models/default")
    soundfont: str = ""
    folder: Path = Path("data/render")
    programs: list[int] = field(default_factory=list)
    velocities: list[int] = field(default_factory=lambda: [40, 80, 120])
    note_step: int = 1
    margin: int = 5
    held_out_every: int = 5
    hold_s: float = 1.2

    def __post_init__(self) -> None:
        """Refuse what cannot be rendered.

        Raises: ConfigError.
        """
        if not self.velocities or not all(1 <= v <= 127 for v in self.velocities):
            raise ConfigError(f"data.velocities = {self.velocities}: expected numbers in 1..127")
        if self.note_step < 1 or self.held_out_every < 2 or self.hold_s < 0.2:
            raise ConfigError(
                f"data.note_step = {self.note_step}, held_out_every = {self.held_out_every}, "
                f"hold_s = {self.hold_s}: expected at least 1, 2 and 0.2"
            )
        known = {i.program for i in INSTRUMENTS}
        if unknown := sorted(set(self.programs) - known):
            raise ConfigError(f"data.programs: {unknown} not known; choose from {sorted(known)}")

    def instruments(self) -> list[Instrument]:
        """The instruments asked for."""
        return [i for i in INSTRUMENTS if not self.programs or i.program in self.programs]


@dataclass(frozen=True, slots=True)
class NoteFrames:
    """One note taken apart. T frames, K harmonics, N noise bands, M mel bands.

    Attributes:
        midi: MIDI note.
        velocity: 1..127.
        cents: Measured deviation of the whole note.
        stretch: Inharmonicity B: harmonic k sounds at k f0 sqrt(1 + B k^2).
        age_s: (T,) time of each frame after note-on, seconds.
        level_db: (T,) RMS, dB re FluidSynth's full scale.
        frame_cents: (T,) deviation of each frame.
        harmonics: (T, K) natural log RMS.
        noise: (T, N) natural log RMS of each band.
        mel: (T, M) natural log mel power.
    """

    midi: int
    velocity: int
    cents: float
    stretch: float
    age_s: FloatArray
    level_db: FloatArray
    frame_cents: FloatArray
    harmonics: FloatArray
    noise: FloatArray
    mel: FloatArray


def frame_times(hold_s: float) -> NDArray[np.float64]:
    """Ages at which a note is analysed, seconds: dense in the attack, sparse where little moves."""
    return np.concatenate([
        np.arange(0.0, 0.1, 0.005), np.arange(0.1, 0.3, 0.01), np.arange(0.3, hold_s - 0.03, 0.03)
    ])


class StereoSynth(Synth):
    """FluidSynth that keeps both channels apart."""

    def play_note(self, program: int, midi: int, velocity: int, hold_s: float, tail_s: float
                  ) -> FloatArray:
        """One note from silence, (n_samples, 2); `NOTE_PAD` samples of silence come first."""
        n_hold, n_tail = (round(t * SYNTH_RATE / BLOCK) for t in (hold_s, tail_s))
        channel = self.CHANNELS[0]
        pair = np.zeros((2, NOTE_PAD + (n_hold + n_tail) * BLOCK), np.float32)
        self.note_on(channel, midi, velocity)
        self._render_pair(pair, NOTE_PAD, n_hold)
        self.note_off(channel, midi)
        self._render_pair(pair, NOTE_PAD + n_hold * BLOCK, n_tail)
        self.silence(channel)
        self._render_pair(np.zeros((2, 16 * BLOCK), np.float32), 0, 16)
        return np.ascontiguousarray(pair.T)

    def _render_pair(self, pair: FloatArray, at: int, n_blocks: int) -> None:
        import ctypes

        n = n_blocks * BLOCK
        part = np.zeros((2, n), np.float32)
        left, right = (ctypes.c_void_p(row.ctypes.data) for row in part)
        self._lib.fluid_synth_write_float(self._synth, n, left, 0, 1, right, 0, 1)
        pair[:, at : at + n] = part


def analyse_note(sound: FloatArray, midi: int, velocity: int, hold_s: float,
                 config: RendererConfig) -> NoteFrames | None:
    """`take_apart` of a note as `StereoSynth.play_note` gives it; None where it finds none.

    Args: sound: (n_samples, C); config: sizes.
    """
    age_s = frame_times(hold_s)
    parts = take_apart(sound, (NOTE_PAD + age_s * SYNTH_RATE).astype(np.int64), age_s, float(midi),
                       config)
    return parts and NoteFrames(
        midi, velocity, parts.cents, parts.stretch, age_s.astype(np.float32), parts.level_db,
        parts.frame_cents, parts.harmonics, parts.noise, parts.mel,
    )


def build(config: RenderDataConfig, renderer: RendererConfig,
          say: Callable[[str], None] = print) -> list[Path]:
    """Render and analyse what is not yet in the cache; one file per instrument, ascending.

    An interrupted build goes on where it was.

    Raises: FluidSynthMissing without FluidSynth or a soundfont.
    """
    soundfont = find_soundfonts([Path(config.soundfont)] if config.soundfont else None)[0]
    folder = config.folder / _cache_key(config, renderer, soundfont)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    synth: StereoSynth | None = None
    instruments = config.instruments()
    try:
        for done, instrument in enumerate(instruments, 1):
            path = folder / f"{instrument.program:03d}.npz"
            if not path.is_file():
                synth = synth or StereoSynth(soundfont)
                tables = _play_instrument(synth, instrument, config, renderer)
                if not tables:
                    say(f"{instrument.name}: nothing in tune in {soundfont.name}, left out")
                    continue
                part = path.with_suffix(".part.npz")
                np.savez(part, **tables)
                os.replace(part, path)
                say(f"notes: {done}/{len(instruments)} instruments ({instrument.name})")
            paths.append(path)
    finally:
        if synth is not None:
            synth.close()
    if not paths:
        raise ConfigError(f"{soundfont}: no instrument of the recipe plays in tune in it")
    return paths


def _cache_key(config: RenderDataConfig, renderer: RendererConfig, soundfont: Path) -> str:
    about = asdict(config) | {"model": "", "folder": "", "programs": [], "held_out_every": 0,
                              "soundfont": file_sha256(soundfont), "format": FORMAT,
                              "sizes": [renderer.n_harmonics, renderer.n_noise,
                                        renderer.noise_low_hz, renderer.noise_high_hz]}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


def _play_instrument(synth: StereoSynth, instrument: Instrument, config: RenderDataConfig,
                     renderer: RendererConfig) -> dict[str, NDArray[Any]]:
    """All frames of an instrument as flat tables; empty when no note is usable.

    Most instruments of a soundfont have one velocity layer: their notes differ by a factor only,
    and are then analysed once.
    """
    if not synth.start(instrument.program):
        return {}
    low = max(instrument.low - config.margin, 28)
    high = min(instrument.high + config.margin, 100)
    notes: list[NoteFrames] = []
    tones, tone_midi = [], []
    for midi in range(low, high + 1, config.note_step):
        previous: tuple[FloatArray, NoteFrames] | None = None
        for velocity in config.velocities:
            sound = synth.play_note(instrument.program, midi, velocity, config.hold_s, 0.0)
            found = _scaled_copy(sound, previous, velocity)
            if found is None:
                found = analyse_note(sound, midi, velocity, config.hold_s, renderer)
            if found is None:
                break
            previous = (sound, found)
            notes.append(found)
            if velocity == config.velocities[len(config.velocities) // 2] and midi % 2 == 0:
                mono = soxr.resample(sound[NOTE_PAD:].mean(1), SYNTH_RATE, STYLE_RATE)
                tones.append(mono / max(float(np.abs(mono).max()), 1e-9))
                tone_midi.append(midi)
    if not notes:
        return {}
    n_frames = len(notes[0].age_s)
    def stacked(name: str) -> NDArray[Any]:
        return np.stack([getattr(n, name) for n in notes])
    return {
        "midi": np.array([n.midi for n in notes], np.int16),
        "velocity": np.array([n.velocity for n in notes], np.int16),
        "cents": np.array([n.cents for n in notes], np.float32),
        "stretch": np.array([n.stretch for n in notes], np.float32),
        "age_s": notes[0].age_s,
        "level_db": stacked("level_db").astype(np.float32).reshape(-1, n_frames),
        "frame_cents": stacked("frame_cents").astype(np.float16),
        "harmonics": stacked("harmonics").astype(np.float16),
        "noise": stacked("noise").astype(np.float16),
        "mel": stacked("mel").astype(np.float16),
        "tones": np.round(np.stack(tones) * 32000).astype(np.int16) if tones else np.zeros((0, 0)),
        "tone_midi": np.array(tone_midi, np.int16),
    }


def _scaled_copy(sound: FloatArray, previous: tuple[FloatArray, NoteFrames] | None, velocity: int
                 ) -> NoteFrames | None:
    """The previous note's frames at another level, if `sound` is that note times a factor."""
    if previous is None:
        return None
    before, frames = previous
    factor = float((sound * before).sum() / max(float((before**2).sum()), 1e-20))
    if factor <= 0 or float(np.abs(sound - factor * before).max()) > 1e-3 * np.abs(sound).max():
        return None
    gain = np.float32(np.log(factor))
    return NoteFrames(
        frames.midi, velocity, frames.cents, frames.stretch, frames.age_s,
        frames.level_db + np.float32(20 / np.log(10)) * gain, frames.frame_cents,
        frames.harmonics + gain, frames.noise + gain, frames.mel + 2 * gain,
    )


@dataclass(frozen=True, slots=True)
class InstrumentTable:
    """One instrument's notes. L notes, T frames each; sizes as in `NoteFrames`.

    `level_db` is shifted so that the middle velocity plays at the renderer's reference level;
    the logs of `harmonics`, `noise` and `mel` are not.
    """

    program: int
    midi: NDArray[np.int16]
    velocity: NDArray[np.int16]
    age_s: FloatArray
    level_db: FloatArray
    frame_cents: NDArray[np.float16]
    harmonics: NDArray[np.float16]
    noise: NDArray[np.float16]
    mel: NDArray[np.float16]
    tones: NDArray[np.int16]
    tone_midi: NDArray[np.int16]
    raw_level_db: FloatArray


def load(paths: Sequence[Path], reference_db: float) -> Iterator[InstrumentTable]:
    """Read cached instruments one after the other."""
    for path in paths:
        with np.load(path, allow_pickle=False) as file:
            t = {name: file[name] for name in file.files}
        velocities = np.unique(t["velocity"])
        middle = t["velocity"] == velocities[len(velocities) // 2]
        loudest = np.quantile(t["level_db"][middle], 0.9, axis=1)
        shift = reference_db - float(np.median(loudest))
        yield InstrumentTable(
            int(path.stem), t["midi"], t["velocity"], t["age_s"],
            (t["level_db"] + shift).astype(np.float32), t["frame_cents"], t["harmonics"],
            t["noise"], t["mel"], t["tones"], t["tone_midi"], t["level_db"],
        )


def decay(table: InstrumentTable, instrument: Instrument) -> tuple[float, float]:
    """How fast a struck or plucked instrument dies, dB/s, at the low and the high end of its range.

    Each note's level is fitted by a line from its loudest moment to 35 dB below; the slopes by a
    line over pitch. 0 for sustained instruments.
    """
    if instrument.program in SUSTAINED:
        return 0.0, 0.0
    midi, slopes = [], []
    for note, level_db in zip(table.midi, table.level_db, strict=True):
        if not instrument.low <= note <= instrument.high:
            continue
        peak = int(level_db.argmax())
        taken = (np.arange(len(level_db)) >= peak) & (level_db > level_db[peak] - 35)
        if taken.sum() >= 8:
            # frames crowd in the attack: weigh them by the time they stand for
            weight = np.sqrt(np.gradient(table.age_s)[taken])
            slopes.append(-np.polyfit(table.age_s[taken], level_db[taken], 1, w=weight)[0])
            midi.append(int(note))
    if len(midi) < 4:
        raise ConfigError(f"{instrument.name}: too few notes to measure how it decays")
    rise, start = np.polyfit(midi, slopes, 1)
    low, high = (max(0.5, start + rise * n) for n in (instrument.low, instrument.high))
    return round(float(low), 1), round(float(high), 1)


def release_s(synth: StereoSynth, instrument: Instrument) -> float:
    """Time in which a note let go fades by 60 dB, median over the range, 0.01..2 s."""
    synth.start(instrument.program)
    times = []
    n_level = SYNTH_RATE // 100
    for midi in np.linspace(instrument.low + 2, instrument.high - 2, 7).astype(int):
        sound = synth.play_note(instrument.program, int(midi), 90, 0.4, 1.0)
        square = (sound[NOTE_PAD:] ** 2).mean(1)
        level = 10 * np.log10(square[: len(square) // n_level * n_level]
                              .reshape(-1, n_level).mean(1) + 1e-12)
        start = 40  # 10 ms blocks of the held note
        reference = float(level[start - 5 : start].mean())
        if reference < -80:
            continue
        below = np.flatnonzero(level[start:] < reference - 30)
        # a line through -30 dB stands for the whole fade
        times.append(2 * (below[0] if len(below) else 100) * n_level / SYNTH_RATE)
    return round(float(np.clip(np.median(times), 0.01, 2.0)), 3) if times else 0.01
