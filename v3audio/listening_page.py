"""A page to listen to and look at: one HTML file that needs no network and no other file.

A recording as it came, the same line in every timbre, on the way from one timbre to another, and in
a timbre captured from it. Each sound is what `v3audio transfer` makes, brought to one loudness.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from v3audio import __version__, timbres
from v3audio.api import transcribe
from v3audio.audio_file import audio_info, read_mono
from v3audio.bundle import load_bundle
from v3audio.capture import SURE, capture
from v3audio.engine import Engine
from v3audio.engine import HearingPart as LiveHearingPart
from v3audio.errors import AudioFileError, TimbreError
from v3audio.hear_file import HOP_S, HearingPart, Progress, open_sound
from v3audio.live_hearing import Heard
from v3audio.loudness import loudness_lufs
from v3audio.notes import Note, TrackerConfig, file_gate_db
from v3audio.paths import atomic_write, check_target
from v3audio.pictures import (
    HIGH_HZ,
    LOW_HZ,
    data_url,
    roll_span,
    roll_svg,
    spectrogram_db,
    spectrogram_png,
)
from v3audio.score import Score, hear_score
from v3audio.settings import note_name
from v3audio.timbres import Timbre
from v3audio.units import db_to_gain, gain_to_db

Samples = NDArray[np.float32]

MAX_S = 15.0  # of a recording that the page plays
LEAD_S = 0.3  # before the first note of a longer one
MORPH = ("flute", "trumpet")
MORPH_STEPS = (0.25, 0.5, 0.75)
HEADROOM_DB = 1.0  # for what coding adds to a peak
RATES = (32_000, 44_100, 48_000)  # that every browser plays; others are resampled for the page
SCALE_HZ = ((100, "100 Hz"), (1_000, "1 kHz"), (10_000, "10 kHz"))

_ICONS = (
    '<svg class="go" viewBox="0 0 16 16" aria-hidden="true"><path d="M4 2v12l10-6z"/></svg>'
    '<svg class="pause" viewBox="0 0 16 16" aria-hidden="true">'
    '<path d="M3 2h4v12H3zM9 2h4v12H9z"/></svg>'
)
_CAPTURED = (
    "A timbre made of this recording alone plays its line: by <code>v3audio capture</code>, and "
    "learned more closely by <code>--adapt</code>."
)
_CURSOR = '<i class="cursor"></i>'


@dataclass(frozen=True, slots=True)
class Voice:
    """One sound of the page.

    Attributes:
        key: names the sound within the page.
        name: as the page calls it.
        detail: a few words on it.
        sound: (n,) samples as made, at the recording's rate.
        lufs: its loudness; -inf for silence.
        transposed: by how many semitones it plays the line.
    """

    key: str
    name: str
    detail: str
    sound: Samples
    lufs: float
    transposed: int = 0


def write_page(
    path: Path | str,
    source: Path | str,
    timbre: str = "clarinet",
    *,
    from_s: float = 0.0,
    credit: str = "",
    midi: Path | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the page of a recording.

    Args:
        path: the HTML file; it appears only when complete.
        source: a sound file, of which the page takes `MAX_S` at most.
        from_s: where a longer one becomes interesting: its first note.
        timbre: shown in full width: a name, a file or a blend.
        credit: whose recording it is.
        midi: the notes as a file, to be taken from the page.
        progress: told voices done and in all.

    Returns:
        How many sounds the page holds.

    Raises:
        AudioFileError: `source` cannot be read or has no notes, `path` cannot be written.
        TimbreError, BundleError: as `Engine`.
    """
    source = Path(source)
    check_target(path, AudioFileError)
    bundle = load_bundle()
    known = timbres.load_all(bundle.checksum)
    chosen = known.get(timbre) or timbres.find(timbre, bundle.checksum)
    listener = _Listener(bundle.load_hearing())
    sound, rate, first_s = _excerpt(source, from_s)
    notes, pitch = listener.hear(sound, rate)
    if not notes:
        raise AudioFileError(f"{source}: no notes heard, wanted one clear voice; play it louder")

    score = hear_score(open_sound((sound, rate)), listener.hearing)
    live = bundle.load_live_hearing()  # which an engine has, though it plays from the score
    players = _Players(sound, rate, notes, score, live, progress, len(known) + 6)
    before = players.add(source.name, "as recorded", sound)
    after = players.play(timbre, chosen)
    grid = [players.play(name, each) for name, each in known.items()]
    ends = [name for name in dict.fromkeys((*MORPH, *known)) if name in known][:2]
    morph = players.morph(*(known[name] for name in ends)) if len(ends) == 2 else []
    own = players.captured(source, listener.hearing)

    played = listener.hear(after.sound, rate)[1]
    page = _Writer(rate, _common_lufs(players.voices), before)
    fill = {
        "title": escape(f"{source.stem} - v3audio"),
        "heading": escape(source.stem),
        "facts": escape(", ".join(_facts(source, len(sound) / rate, first_s, notes, credit))),
        "midi": _link(midi) if midi else "",
        "timbre": escape(after.name),
        "shown": f", drawn {-after.transposed:+d} semitones" if after.transposed else "",
        "roll": _roll(notes, pitch, played - after.transposed, len(sound) / rate),
        "pair": page.cards("stack", [before, after], wide=True),
        "timbres": page.cards("grid", grid),
        "morph": page.section(f"From {' to '.join(ends)}", "", "grid row", morph),
        "captured": page.section("Captured", _CAPTURED, "grid", [before, *own] if own else []),
        "lufs": f"{page.target_lufs:.1f}",
        "format": "MP3" if _has_mp3() else "FLAC",
        "version": __version__,
        "seconds": f"{len(sound) / rate:.3f}",
        "icons": _ICONS,
    }
    template = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    with atomic_write(path, AudioFileError) as temporary:
        text = re.sub("@@([a-z]+)@@", lambda found: fill[found[1]], template)
        temporary.write_text(text, encoding="utf-8")
    return len(players.voices)


def encode_sound(x: Samples, sample_rate: int) -> tuple[str, bytes]:
    """A mono sound as a file that every browser plays, and its media type.

    MP3 of the best quality, whose players know its true length; FLAC where libsndfile has no MP3.
    """
    if sample_rate not in RATES:
        x, sample_rate = soxr.resample(x, sample_rate, RATES[-1]), RATES[-1]
    out = io.BytesIO()
    if _has_mp3():
        soundfile.write(out, x, sample_rate, format="MP3", compression_level=0.0)
        return "audio/mpeg", out.getvalue()
    soundfile.write(out, x, sample_rate, format="FLAC", subtype="PCM_16")
    return "audio/flac", out.getvalue()


class _Listener:
    """`transcribe`, and the pitch of each frame beside it."""

    def __init__(self, hearing: HearingPart) -> None:
        self.hearing = hearing
        self._heard: list[Heard] = []

    def frames(self, windows: Samples, *, style: bool) -> Heard:
        self._heard.append(self.hearing.frames(windows, style=style))
        return self._heard[-1]

    def hear(self, x: Samples, sample_rate: int) -> tuple[list[Note], Samples]:
        """Notes, and (T,) MIDI pitch, NaN where the pitch is not sure or too quiet."""
        self._heard.clear()
        notes = transcribe((x, sample_rate), hearing=self)
        level = np.concatenate([h.level_db for h in self._heard])
        pitch = np.concatenate([h.pitch_midi for h in self._heard])
        voicing = np.concatenate([0.5 * (h.periodicity + h.confidence) for h in self._heard])
        sure = (voicing >= SURE) & (level >= file_gate_db(level, TrackerConfig()))
        return notes, np.where(sure, pitch, np.float32(np.nan))


class _Players:
    """All voices that play one recording."""

    def __init__(
        self,
        sound: Samples,
        sample_rate: int,
        notes: Sequence[Note],
        score: Score,
        hearing: LiveHearingPart,
        progress: Progress | None,
        n_expected: int,
    ) -> None:
        self.voices: list[Voice] = []
        self._sound, self._rate, self._notes = sound, sample_rate, notes
        self._score, self._hearing = score, hearing
        self._progress, self._n_expected = progress, n_expected
        self._made: dict[tuple[str, int], Voice] = {}

    def add(self, name: str, detail: str, sound: Samples, transposed: int = 0) -> Voice:
        key, lufs = f"v{len(self.voices)}", loudness_lufs(sound, self._rate)
        self.voices.append(Voice(key, name, detail, sound, lufs, transposed))
        if self._progress:
            self._progress(len(self.voices), max(self._n_expected, len(self.voices)))
        return self.voices[-1]

    def play(self, name: str, timbre: Timbre, octaves: int | None = None) -> Voice:
        """The line in a timbre; where most of it lies out of range, in another octave."""
        octaves = self._octaves(timbre) if octaves is None else octaves
        if (name, octaves) not in self._made:
            shift = 12 * octaves
            engine = Engine(timbre, self._rate, 4096, transpose=shift, hearing=self._hearing)
            engine.reset(self._score)
            sound = engine.process(self._sound)[0]
            self._made[name, octaves] = self.add(name, self._detail(timbre, octaves), sound, shift)
        return self._made[name, octaves]

    def morph(self, a: Timbre, b: Timbre) -> list[Voice]:
        """From one timbre to the other, all in one octave."""
        octaves = self._octaves(timbres.blend([(a, 1.0), (b, 1.0)]))
        blends = [timbres.morph(a, b, amount) for amount in (0.0, *MORPH_STEPS, 1.0)]
        return [self.play(each.name, each, octaves) for each in blends]

    def captured(self, source: Path, hearing: HearingPart) -> list[Voice]:
        """The line in a timbre made of the recording itself, as far as that has clear sound."""
        voices = []
        with contextlib.suppress(TimbreError):
            take = capture("captured", [source], hearing=hearing)
            # no timbre of the user's has a name with a space in it
            voices.append(self.play(f"{source.stem} captured", take.timbre))
            voices.append(self.play(f"{source.stem} adapted", take.adapted().timbre))
        return voices

    def _octaves(self, timbre: Timbre) -> int:
        if 2 * self._n_beyond(timbre, 0) <= len(self._notes):
            return 0
        few = len(self._notes) // 10  # are no reason to go another octave further
        return min(range(-3, 4), key=lambda k: (max(few, self._n_beyond(timbre, k)), abs(k)))

    def _n_beyond(self, timbre: Timbre, octaves: int) -> int:
        low, high = timbre.note_range
        return sum(not low <= n.midi + 12 * octaves <= high for n in self._notes)

    def _detail(self, timbre: Timbre, octaves: int) -> str:
        words = ["{} to {}".format(*map(note_name, timbre.note_range))]
        if beyond := self._n_beyond(timbre, octaves):
            words.append(f"{beyond} of {len(self._notes)} beyond")
        if octaves:
            words.append(f"transposed {12 * octaves:+d}")
        return ", ".join(words)


class _Writer:
    """Voices as HTML, all equally loud; a sound stands in the page once, however often shown."""

    def __init__(self, sample_rate: int, target_lufs: float, reference: Voice) -> None:
        self.target_lufs = target_lufs
        self._rate = sample_rate
        self._written: set[str] = set()
        self._top_db = float(self._spectrogram(reference).max())

    def cards(self, kind: str, voices: Sequence[Voice], wide: bool = False) -> str:
        return "\n".join([f'<div class="{kind}">', *(self.card(v, wide) for v in voices), "</div>"])

    def section(self, heading: str, text: str, kind: str, voices: Sequence[Voice]) -> str:
        """Nothing where there are no voices."""
        if not voices:
            return ""
        return f"<h2>{escape(heading)}</h2>\n<p>{text}</p>\n{self.cards(kind, voices)}"

    def card(self, voice: Voice, wide: bool) -> str:
        name = escape(voice.name)
        picture = spectrogram_png(self._spectrogram(voice), self._top_db)
        labels = "".join(
            _label(np.log(HIGH_HZ / hz) / np.log(HIGH_HZ / LOW_HZ), text) for hz, text in SCALE_HZ
        )
        audio = ""
        if voice.key not in self._written:
            self._written.add(voice.key)
            address = data_url(*encode_sound(self._levelled(voice), self._rate))
            audio = (f'<audio id="{voice.key}" data-name="{name}" controls preload="none" '
                     f'src="{address}"></audio>')  # fmt: skip
        return (
            f'<figure data-sound="{voice.key}"><div class="picture"><img class="spectrum" '
            f'src="{data_url("image/png", picture)}" alt="Spectrogram of {name}">'
            f"{labels if wide else ''}{_CURSOR}</div><figcaption>"
            f'<button aria-label="Play {name}" aria-pressed="false">{_ICONS}</button>'
            f"<span>{name.replace(',', ',<wbr>')}<small>{escape(voice.detail)}</small></span>"
            f"</figcaption>{audio}</figure>"
        )

    def _levelled(self, voice: Voice) -> Samples:
        shift_db = self.target_lufs - voice.lufs if np.isfinite(voice.lufs) else 0.0
        return voice.sound * np.float32(db_to_gain(shift_db))

    def _spectrogram(self, voice: Voice) -> Samples:
        return spectrogram_db(self._levelled(voice), self._rate)


def _roll(notes: Sequence[Note], before: Samples, after: Samples, duration_s: float) -> str:
    low, high = roll_span(notes)
    height = high - low + 1
    named = [m for m in range(low + 1, high) if m % 12 == 0] or [min(n.midi for n in notes)]
    labels = "".join(_label((high + 0.5 - m) / height, note_name(m)) for m in named)
    picture = roll_svg(notes, [("before", before), ("after", after)], HOP_S, duration_s)
    step = max(1, round(duration_s / 8))
    seconds = "".join(
        f'<span style="left:{100 * s / duration_s:.2f}%">{s} s</span>'
        for s in range(step, int(duration_s) + 1, step)
    )
    return (
        f'<figure class="roll"><div class="picture">{picture}{labels}{_CURSOR}</div>'
        f'<div class="seconds" aria-hidden="true">{seconds}</div></figure>'
    )


def _common_lufs(voices: Sequence[Voice]) -> float:
    """As loud as all voices can be without a peak beyond full scale."""
    room = [v.lufs - gain_to_db(float(np.abs(v.sound).max())) for v in voices]
    return min(filter(np.isfinite, room), default=0.0) - HEADROOM_DB


def _facts(
    source: Path, length_s: float, first_s: float, notes: Sequence[Note], credit: str
) -> list[str]:
    low, high = (note_name(pick(n.midi for n in notes)) for pick in (min, max))
    part = " from {:.0f}:{:02.0f} on".format(*divmod(int(first_s), 60))
    is_whole = length_s > audio_info(source).duration_s - 0.01
    facts = [f"{length_s:.1f} s{'' if is_whole else part}", f"{len(notes)} notes"]
    return [*facts, f"{low} to {high}", *([credit] if credit else [])]


def _link(midi: Path) -> str:
    address = data_url("audio/midi", midi.read_bytes())
    return f'<a href="{address}" download="{escape(midi.name)}">Notes as MIDI</a>'


def _label(down: float, text: str) -> str:
    return f'<span class="label" style="top:{100 * down:.1f}%">{text}</span>'


def _excerpt(source: Path, from_s: float) -> tuple[Samples, int, float]:
    """What the page plays, its rate in Hz, and where it begins in the recording."""
    info = audio_info(source)
    first_s = max(0.0, from_s - LEAD_S) if info.duration_s > MAX_S else 0.0
    first = round(first_s * info.sample_rate)
    last = first + round(MAX_S * info.sample_rate)
    at, parts = 0, []
    for block in read_mono(source):
        parts.append(block[max(0, first - at) : max(0, last - at)])
        at += len(block)
        if at >= last:
            break
    return np.concatenate(parts), info.sample_rate, first_s


def _has_mp3() -> bool:
    return "MP3" in soundfile.available_formats()
