"""FluidSynth as a note renderer, and the check of what a soundfont's notes really sound like.

The binding is a few ctypes calls rather than a package because we need float output written in
whole synthesis blocks: then a note-on lands on a known sample and labels can be trusted.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import hashlib
import itertools
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from v3audio.errors import ConfigError, V3AudioError
from v3audio.paths import atomic_write

FloatArray = NDArray[np.float32]

SYNTH_RATE = 48000
"""Rate FluidSynth renders at, in Hz."""
BLOCK = 64
"""FluidSynth's internal block in samples: events take effect on multiples of it."""
LOWEST_NOTE, HIGHEST_NOTE = 22, 100
"""Notes that are ever tried (MIDI)."""
BEND_RANGE = 24
"""Pitch bend range in semitones: 0.3 cents a step, wide enough for any slur we play."""

_CENTS_LIMIT = 35.0
_MIN_GOOD_NOTES = 24
_CHECK_VERSION = 1
_INSTALL = (
    "install it with: apt install fluidsynth fluid-soundfont-gm   (macOS: brew install fluid-synth)"
)
_SOUNDFONT_PLACES = (
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "/usr/share/soundfonts/FluidR3_GM.sf2",
    "/usr/share/sounds/sf3/MuseScore_General.sf3",
    "/usr/share/sounds/sf2/default-GM.sf2",
    "/usr/share/sounds/sf3/default-GM.sf3",
    "/opt/homebrew/share/fluid-synth/sf2/FluidR3_GM.sf2",
    "/opt/homebrew/share/soundfonts/default.sf2",
    "/usr/local/share/soundfonts/default.sf2",
    "/usr/local/share/fluidsynth/sf2/FluidR3_GM.sf2",
)
_LIBRARY_PLACES = (
    "/opt/homebrew/lib/libfluidsynth.dylib",
    "/usr/local/lib/libfluidsynth.dylib",
    "libfluidsynth.so.3",
    "libfluidsynth.so.2",
    "libfluidsynth-3.dll",
)

# General MIDI names, 0-based. Programs that are not one clear pitch are left out of MELODIC below.
# fmt: off
GM_NAMES = (
    "acoustic grand piano", "bright acoustic piano", "electric grand piano", "honky-tonk piano",
    "electric piano 1", "electric piano 2", "harpsichord", "clavinet",
    "celesta", "glockenspiel", "music box", "vibraphone",
    "marimba", "xylophone", "tubular bells", "dulcimer",
    "drawbar organ", "percussive organ", "rock organ", "church organ",
    "reed organ", "accordion", "harmonica", "bandoneon",
    "nylon guitar", "steel guitar", "jazz guitar", "clean guitar",
    "muted guitar", "overdriven guitar", "distortion guitar", "guitar harmonics",
    "acoustic bass", "finger bass", "pick bass", "fretless bass",
    "slap bass 1", "slap bass 2", "synth bass 1", "synth bass 2",
    "violin", "viola", "cello", "contrabass",
    "tremolo strings", "pizzicato strings", "harp", "timpani",
    "string ensemble 1", "string ensemble 2", "synth strings 1", "synth strings 2",
    "choir aahs", "voice oohs", "synth voice", "orchestra hit",
    "trumpet", "trombone", "tuba", "muted trumpet",
    "french horn", "brass section", "synth brass 1", "synth brass 2",
    "soprano sax", "alto sax", "tenor sax", "baritone sax",
    "oboe", "english horn", "bassoon", "clarinet",
    "piccolo", "flute", "recorder", "pan flute",
    "blown bottle", "shakuhachi", "whistle", "ocarina",
    "square lead", "sawtooth lead", "calliope lead", "chiff lead",
    "charang lead", "voice lead", "fifths lead", "bass and lead",
    "new age pad", "warm pad", "polysynth pad", "choir pad",
    "bowed pad", "metallic pad", "halo pad", "sweep pad",
    "rain", "soundtrack", "crystal", "atmosphere",
    "brightness", "goblins", "echoes", "sci-fi",
    "sitar", "banjo", "shamisen", "koto",
    "kalimba", "bagpipe", "fiddle", "shanai",
    "tinkle bell", "agogo", "steel drums", "woodblock",
    "taiko", "melodic tom", "synth drum", "reverse cymbal",
    "fret noise", "breath noise", "seashore", "bird tweet",
    "telephone", "helicopter", "applause", "gunshot",
)
# fmt: on

# No honky-tonk (two detuned strings), bells and drums (inharmonic), string ensembles and pads
# (many voices at once), fifths lead, effects; nor the fiddle, mostly the violin once more.
MELODIC = tuple(
    p for p in range(112) if p not in {3, 14, 47, 48, 49, 50, 51, 55, 86, *range(88, 104), 110}
)
"""Programs tried by default; the pitch check then drops those a soundfont has wrong."""
SUSTAINED = frozenset({*range(16, 24), 29, 30, *range(40, 45), *range(52, 88), *range(109, 112)})
"""Programs that hold their sound while the note lasts, so slurs without a new attack make sense."""


class FluidSynthMissing(V3AudioError):
    """FluidSynth's library or a soundfont is not on this machine."""


def _load_library() -> Any:
    names = [ctypes.util.find_library("fluidsynth"), *_LIBRARY_PLACES]
    for name in names:
        if name is None:
            continue
        try:
            lib = ctypes.CDLL(name)
        except OSError:
            continue
        for function in ("new_fluid_settings", "new_fluid_synth"):
            getattr(lib, function).restype = ctypes.c_void_p
        return lib
    raise FluidSynthMissing(f"FluidSynth's library was not found; {_INSTALL}")


def fluidsynth_available() -> bool:
    """Whether FluidSynth can be loaded here (a soundfont is another question)."""
    try:
        _load_library()
    except FluidSynthMissing:
        return False
    return True


def find_soundfonts(paths: list[Path] | None = None) -> list[Path]:
    """The soundfonts to render with: those asked for, or the first one a system usually has.

    Raises: FluidSynthMissing when an asked-for file is missing or none is installed.
    """
    if paths:
        for path in paths:
            if not path.is_file():
                raise FluidSynthMissing(f"soundfont {path} does not exist; give an .sf2/.sf3 file")
        return list(paths)
    for place in _SOUNDFONT_PLACES:
        if Path(place).is_file():
            return [Path(place)]
    raise FluidSynthMissing(
        f"no General MIDI soundfont was found; {_INSTALL}, or give one with --soundfont FILE"
    )


def file_sha256(path: Path) -> str:
    """Checksum that ties cached checks and manifests to one soundfont file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Synth:
    """One FluidSynth instance with one soundfont, rendering float mono in whole blocks.

    Reverb and chorus are off. `sounding` channels are 15 melodic ones, so that each note can have
    its own pitch bend and fade while the previous one still rings.

    Raises: FluidSynthMissing without the library; ConfigError for a file that is no soundfont.
    """

    CHANNELS = tuple(c for c in range(16) if c != 9)

    def __init__(self, soundfont: Path) -> None:
        """Open the synth and load `soundfont` (samples are read when a program is chosen)."""
        self._synth: ctypes.c_void_p | None = None
        self._settings: ctypes.c_void_p | None = None
        self._lib = lib = _load_library()
        for level in range(5):  # FluidSynth logs to stderr by itself; our errors say it better
            lib.fluid_set_log_function(level, None, None)
        settings = ctypes.c_void_p(lib.new_fluid_settings())
        self._settings = settings
        lib.fluid_settings_setnum(settings, b"synth.sample-rate", ctypes.c_double(SYNTH_RATE))
        lib.fluid_settings_setnum(settings, b"synth.gain", ctypes.c_double(0.2))
        for name, value in (
            (b"synth.reverb.active", 0),
            (b"synth.chorus.active", 0),
            (b"synth.polyphony", 64),
            (b"synth.cpu-cores", 1),
            (b"synth.dynamic-sample-loading", 1),
        ):
            lib.fluid_settings_setint(settings, name, value)
        self._synth = ctypes.c_void_p(lib.new_fluid_synth(settings))
        self._font = lib.fluid_synth_sfload(self._synth, os.fsencode(soundfont), 1)
        if self._font < 0:
            self.close()
            raise ConfigError(f"{soundfont} is not a soundfont that FluidSynth can read")
        # Every reset passes through the piano; unpacking it each time costs a second with an .sf3.
        if hasattr(lib, "fluid_synth_pin_preset"):  # since FluidSynth 2.2
            lib.fluid_synth_pin_preset(self._synth, self._font, 0, 0)

    def __enter__(self) -> Synth:
        """Use as a context manager: leaving it frees the synth."""
        return self

    def __exit__(self, *_: object) -> None:
        """Free the synth."""
        self.close()

    def close(self) -> None:
        """Free the synth and its samples; safe to call twice."""
        if self._synth is not None:
            self._lib.delete_fluid_synth(self._synth)
            self._synth = None
        if self._settings is not None:
            self._lib.delete_fluid_settings(self._settings)
            self._settings = None

    def start(self, program: int) -> bool:
        """Reset everything and choose `program` on every channel; False if the font lacks it."""
        self._lib.fluid_synth_system_reset(self._synth)
        self._lib.fluid_synth_set_interp_method(self._synth, -1, 7)
        for channel in self.CHANNELS:
            chosen = self._lib.fluid_synth_program_select(
                self._synth, channel, self._font, 0, program
            )
            if chosen != 0:
                return False
            self._lib.fluid_synth_pitch_wheel_sens(self._synth, channel, BEND_RANGE)
        # Reset voices fade over a block or two: render them away.
        self.render(np.zeros(16 * BLOCK, np.float32), 0, 16)
        return True

    def note_on(self, channel: int, key: int, velocity: int) -> None:
        """Start a note: it sounds from the first sample of the next block rendered."""
        self._lib.fluid_synth_noteon(self._synth, channel, key, velocity)

    def note_off(self, channel: int, key: int) -> None:
        """Release a note (its release tail goes on)."""
        self._lib.fluid_synth_noteoff(self._synth, channel, key)

    def silence(self, channel: int) -> None:
        """Cut what still rings on a channel."""
        self._lib.fluid_synth_all_sounds_off(self._synth, channel)

    def bend(self, channel: int, semitones: float) -> None:
        """Set the pitch deviation of a channel in semitones (within +-BEND_RANGE)."""
        value = round(8192 + semitones * 8192 / BEND_RANGE)
        self._lib.fluid_synth_pitch_bend(self._synth, channel, min(max(value, 0), 16383))

    def expression(self, channel: int, value: int) -> None:
        """Set a channel's expression (0..127, amplitude about (value/127)^2)."""
        self._lib.fluid_synth_cc(self._synth, channel, 11, value)

    def render(self, out: FloatArray, block: int, n_blocks: int) -> None:
        """Write the mono sum of the next `n_blocks` blocks into `out` from block index `block`.

        Args:
            out: (n_samples,) float32 at SYNTH_RATE.
            block: index of the first block to write.
            n_blocks: how many BLOCK-sample blocks to render.
        """
        n_samples = n_blocks * BLOCK
        pair = np.zeros((2, n_samples), np.float32)
        left, right = (ctypes.c_void_p(row.ctypes.data) for row in pair)
        self._lib.fluid_synth_write_float(self._synth, n_samples, left, 0, 1, right, 0, 1)
        out[block * BLOCK : block * BLOCK + n_samples] = pair.sum(0) * np.float32(0.5)


@dataclass(frozen=True, slots=True)
class ProgramCheck:
    """What one program of one soundfont really sounds like.

    notes: good MIDI notes, ascending. cents: their measured deviation from the note name, same
    length. reason: why the program is unusable ("" if it is good).
    """

    program: int
    notes: list[int]
    cents: list[float]
    reason: str

    @property
    def good(self) -> bool:
        """Whether enough notes are in tune to play melodies."""
        return not self.reason


def measure_pitch(sound: FloatArray, note: int, sample_rate: int) -> tuple[float, float, bool]:
    """Check a sound against the note it should be.

    The normalised square difference (McLeod) at the expected period says whether the sound is
    periodic there and not at a fraction or multiple of it; the spectrum's harmonic peaks then give
    the deviation in cents, which the lag view alone cannot resolve for high notes.

    Args:
        sound: (n_samples,) the steady part of one note.
        note: expected MIDI note.
        sample_rate: Hz.

    Returns: deviation in cents, periodicity (-1..1), and whether another octave explains it better.
    """
    f0 = 440.0 * 2.0 ** ((note - 69) / 12)
    n = len(sound)
    x = sound.astype(np.float64) - float(np.mean(sound))
    energy = float(x @ x)
    if energy <= 1e-12:
        return 0.0, 0.0, False
    period = sample_rate / f0
    n_fft = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(x, n_fft)
    # Interpolated autocorrelation: high notes have periods of a few samples.
    over = 4
    power = np.abs(spectrum) ** 2
    autocorrelation = np.fft.irfft(power, n_fft * over) * over
    n_lags = min(int(3.3 * period) + 3, n - 2)
    cumulative = np.concatenate([[0.0], np.cumsum(x * x)])
    lag = np.arange(n_lags * over) / over
    whole = lag.astype(int)
    norm = (cumulative[n - whole]) + (cumulative[n] - cumulative[whole])
    nsdf = 2 * autocorrelation[: len(lag)] / np.maximum(norm, 1e-12)

    def best(low: float, high: float) -> float:
        part = nsdf[(lag >= low * period) & (lag <= high * period)]
        return float(part.max()) if len(part) else -1.0

    tolerance = 2.0 ** (70 / 1200)
    here = best(1 / tolerance, tolerance)
    shorter = max(best(0.96 / k, 1.04 / k) for k in (2, 3, 4))
    longer = max(best(1.4, 1.6), best(1.9, 2.1), best(2.85, 3.15))
    other = shorter > here - 0.02 or longer > here + 0.1

    magnitude = np.abs(np.fft.rfft(x * np.hanning(n), n_fft * 2))
    hz_per_bin = sample_rate / (n_fft * 2)
    deviations, weights = [], []
    for harmonic in range(1, 9):
        centre = f0 * harmonic
        if centre > 0.45 * sample_rate:
            break
        low = int(centre * 2 ** (-60 / 1200) / hz_per_bin)
        high = max(int(centre * 2 ** (60 / 1200) / hz_per_bin) + 2, low + 3)
        k = low + int(np.argmax(magnitude[low:high]))
        if k in (low, high - 1):  # no peak of its own here
            continue
        a, b, c = np.log(magnitude[k - 1 : k + 2] + 1e-20)
        k_fine = k + 0.5 * (a - c) / (a - 2 * b + c) if a - 2 * b + c < 0 else float(k)
        deviations.append(1200 * np.log2(k_fine * hz_per_bin / centre))
        weights.append(magnitude[k] / np.sqrt(harmonic))
    if not deviations:
        return 0.0, min(here, 0.0), True
    order = np.argsort(deviations)
    share = np.cumsum(np.array(weights)[order])
    cents = deviations[order[int(np.searchsorted(share, share[-1] / 2))]]
    return float(cents), here, other


def check_program(synth: Synth, program: int) -> ProgramCheck:
    """Play every note of `program` briefly and keep those that sound as they are named."""
    if not synth.start(program):
        return ProgramCheck(program, [], [], "not in the soundfont")
    n_blocks = round(0.7 * SYNTH_RATE / BLOCK)
    n_gap = 4
    notes = range(LOWEST_NOTE, HIGHEST_NOTE + 1)
    sound = np.zeros((len(notes), n_blocks * BLOCK), np.float32)
    gap = np.zeros(n_gap * BLOCK, np.float32)
    channel = synth.CHANNELS[0]
    for row, note in zip(sound, notes, strict=True):
        synth.note_on(channel, note, 90)
        synth.render(row, 0, n_blocks)
        synth.note_off(channel, note)
        synth.silence(channel)
        synth.render(gap, 0, n_gap)
    rate = 16000
    low_rate = soxr.resample(np.ascontiguousarray(sound.T), SYNTH_RATE, rate).T
    loudness = np.sqrt(np.mean(low_rate[:, int(0.03 * rate) : int(0.3 * rate)] ** 2, axis=1))
    audible = (loudness > 10 ** (-40 / 20) * loudness.max()) & (loudness > 1e-5)
    good: list[int] = []
    cents: list[float] = []
    tally = {"octave": 0, "detuned": 0, "aperiodic": 0, "silent": 0}
    for note, row, heard in zip(notes, low_rate, audible, strict=True):
        if not heard:
            tally["silent"] += 1
            continue
        fault, deviation = _judge(row, note, rate)
        if fault:
            tally[fault] += 1
        else:
            good.append(note)
            cents.append(round(deviation, 1))
    good, cents = _longest_run(good, cents)
    reason = ""
    if len(good) < _MIN_GOOD_NOTES:
        bad = ", ".join(f"{count} {name}" for name, count in tally.items() if count)
        reason = f"only {len(good)} notes in tune in a row ({bad})"
    return ProgramCheck(program, good, cents, reason)


def _judge(sound: FloatArray, note: int, rate: int) -> tuple[str, float]:
    """What is wrong with a note ("" if nothing), and its deviation in cents.

    Plucked high notes are gone after 0.2 s, bowed and blown ones have no settled pitch before:
    it is enough to be right in one of the two places, and the late one tells the pitch better.
    """
    period_s = 1 / (440.0 * 2.0 ** ((note - 69) / 12))
    early = sound[int(0.06 * rate) : int((0.06 + min(max(0.12, 12 * period_s), 0.38)) * rate)]
    late = sound[int(0.28 * rate) : int(0.68 * rate)]
    fault = ""
    for piece in (late, early):
        if float(np.mean(piece**2)) < 1e-3 * float(np.mean(early**2)):
            continue
        deviation, periodicity, other = measure_pitch(piece, note, rate)
        if periodicity < 0.6:
            fault = fault or "aperiodic"
        elif other:
            fault = fault or "octave"
        elif abs(deviation) > _CENTS_LIMIT:
            fault = fault or "detuned"
        else:
            return "", deviation
    return fault, 0.0


def _longest_run(notes: list[int], cents: list[float]) -> tuple[list[int], list[float]]:
    """The largest group of good notes with no hole of more than two notes inside."""
    if not notes:
        return [], []
    cuts = [0, *(i for i in range(1, len(notes)) if notes[i] - notes[i - 1] > 3), len(notes)]
    first, last = max(itertools.pairwise(cuts), key=lambda cut: cut[1] - cut[0])
    return notes[first:last], cents[first:last]


def check_soundfont(
    soundfont: Path, programs: list[int], cache: Path, *, sha256: str | None = None
) -> dict[int, ProgramCheck]:
    """Check `programs` of a soundfont, remembering results in the JSON file `cache`.

    Returns: one ProgramCheck per program asked for.
    Raises: FluidSynthMissing, ConfigError as Synth does.
    """
    key = sha256 or file_sha256(soundfont)
    known: dict[str, Any] = {}
    if cache.is_file():
        with contextlib.suppress(json.JSONDecodeError):  # damaged: measure again
            known = json.loads(cache.read_text(encoding="utf-8"))
        if known.get("version") != _CHECK_VERSION:
            known = {}
    fonts = known.setdefault("soundfonts", {})
    known["version"] = _CHECK_VERSION
    entry = fonts.setdefault(key, {"name": soundfont.name, "programs": {}})
    missing = [p for p in programs if str(p) not in entry["programs"]]
    if missing:
        with Synth(soundfont) as synth:
            for program in missing:
                entry["programs"][str(program)] = asdict(check_program(synth, program))
        with atomic_write(cache) as part:
            part.write_text(json.dumps(known) + "\n", encoding="utf-8")
    return {p: ProgramCheck(**entry["programs"][str(p)]) for p in programs}


def fluidsynth_version() -> str:
    """Version of the FluidSynth library, for manifests."""
    lib = _load_library()
    lib.fluid_version_str.restype = ctypes.c_char_p
    return str(lib.fluid_version_str().decode())
