"""Training sound: seeded melodies of many instruments, each clean and as a room would record it.

A folder holds, for each clip, `00000.clean.flac`, `00000.flac` (the same with room, noise and
level; sample-aligned) and `00000.json` (the notes and the true pitch, for measuring only; training
never reads it), plus `manifest.json` and `pitch_check.json`.
"""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from training.clips import SAMPLE_RATE
from training.folders import claim, write_json
from training.phrases import TICKS_PER_S, PhraseNote, compose
from training.rooms import disturb
from training.soundfonts import (
    BLOCK,
    GM_NAMES,
    MELODIC,
    SUSTAINED,
    SYNTH_RATE,
    ProgramCheck,
    Synth,
    check_soundfont,
    file_sha256,
    find_soundfonts,
    fluidsynth_version,
)
from training.voices import VOICE_NOTES, sing
from v3audio.errors import ConfigError
from v3audio.paths import atomic_write

FloatArray = NDArray[np.float32]

FORMAT = 1
"""Of the folder; a change in what a seed gives raises it."""
_MOST_CLIPS = 100_000  # file names have five digits
_CHECK_FILE = "pitch_check.json"
_VOICES = 8  # singers in one data set
_AUDIBLE_DB = 35.0  # below the clip's loud parts, a note counts as faded away


@dataclass(frozen=True, slots=True)
class Summary:
    """What a render did: clips written now, clips found complete, and what was usable."""

    folder: Path
    n_clips: int
    n_rendered: int
    n_kept: int
    seconds: float
    programs: list[int]
    dropped: dict[str, str]


def render(
    out_dir: Path,
    *,
    seed: int = 0,
    n_clips: int = 200,
    clip_s: float = 32.0,
    soundfonts: list[Path] | None = None,
    programs: list[int] | None = None,
    voice_share: float = 0.1,
    progress: Callable[[int, int], None] | None = None,
) -> Summary:
    """Render a data set, or finish one that was interrupted.

    The same seed and settings give the same bytes, clip by clip, wherever it was interrupted;
    `n_clips` may grow later.

    Args:
        out_dir: folder to make or to go on with.
        seed: of all that is random.
        n_clips: how many clips the folder shall hold.
        clip_s: length of each in seconds.
        soundfonts: General MIDI soundfonts; None finds the system's.
        programs: GM programs 0..127 to use; None tries all melodic ones. Those that a soundfont
            plays out of tune are dropped and named in the manifest.
        voice_share: share of clips sung by synthetic voices; 1 needs no FluidSynth.
        progress: called with (clips done, n_clips) after every clip, and once at the start.

    Raises:
        ConfigError: a setting makes no sense, the folder was made with other settings, or it holds
            other files.
        V3AudioError: FluidSynth or a soundfont is missing, or the folder cannot be written.
    """
    if n_clips < 1:
        raise ConfigError(f"n_clips = {n_clips}: give at least 1")
    if n_clips > _MOST_CLIPS:
        raise ConfigError(f"n_clips = {n_clips}: give at most {_MOST_CLIPS}")
    if not 2.0 <= clip_s <= 600.0:
        raise ConfigError(f"clip_s = {clip_s}: give a clip length of 2 to 600 seconds")
    if not 0.0 <= voice_share <= 1.0:
        raise ConfigError(f"voice_share = {voice_share}: give a share of 0 to 1")
    wanted = list(MELODIC) if programs is None else sorted(set(programs))
    if bad := [p for p in wanted if not 0 <= p <= 127]:
        raise ConfigError(f"programs {bad}: General MIDI programs are 0 to 127")
    fonts = find_soundfonts(soundfonts) if voice_share < 1.0 else []
    hashes = [file_sha256(font) for font in fonts]
    settings = {
        "format": FORMAT,
        "seed": seed,
        "clip_s": clip_s,
        "programs": wanted,
        "soundfonts": [
            {"name": font.name, "sha256": sha} for font, sha in zip(fonts, hashes, strict=True)
        ],
        "voice_share": voice_share,
    }
    versions = {
        name: importlib.metadata.version(name) for name in ("numpy", "scipy", "soundfile", "soxr")
    }
    if fonts:
        versions["fluidsynth"] = fluidsynth_version()
    # the pitch check takes a while and may be copied over from another folder
    claim(out_dir, settings, keep=_CHECK_FILE)

    checks: list[tuple[int, ProgramCheck]] = []  # (index of the soundfont, program)
    kept: list[dict[str, Any]] = []
    dropped: dict[str, str] = {}
    for index, (font, sha) in enumerate(zip(fonts, hashes, strict=True)):
        table = check_soundfont(font, wanted, out_dir / _CHECK_FILE, sha256=sha)
        for program, check in table.items():
            if not check.good:
                dropped[f"{font.name}:{program} {GM_NAMES[program]}"] = check.reason
                continue
            checks.append((index, check))
            kept.append(
                {
                    "soundfont": font.name,
                    "program": program,
                    "name": GM_NAMES[program],
                    "low": check.notes[0],
                    "high": check.notes[-1],
                    "n_notes": len(check.notes),
                }
            )
    if not checks and voice_share < 1.0:
        names = ", ".join(font.name for font in fonts)
        raise ConfigError(f"no program of {names} is in tune; try another soundfont")

    manifest = {
        "settings": settings,
        "versions": versions,
        "kept": kept,
        "dropped": dropped,
        "n_clips": max(n_clips, sum(1 for _ in out_dir.glob("[0-9]*.json"))),
        "complete": False,
    }
    write_json(out_dir / "manifest.json", manifest)
    n_kept = n_rendered = 0
    synths: dict[int, Synth] = {}
    try:
        if progress:
            progress(0, n_clips)
        for clip in range(n_clips):
            if (out_dir / f"{clip:05d}.json").is_file():
                n_kept += 1
            else:
                _render_clip(out_dir, clip, seed, clip_s, voice_share, checks, fonts, synths)
                n_rendered += 1
            if progress:
                progress(clip + 1, n_clips)
    finally:
        for synth in synths.values():
            synth.close()
    write_json(out_dir / "manifest.json", manifest | {"complete": True})
    used = sorted({check.program for _, check in checks})
    return Summary(out_dir, n_clips, n_rendered, n_kept, n_clips * clip_s, used, dropped)


def _turns(share: float, clip: int) -> tuple[bool, int]:
    """Spread voices evenly over the clips: whether this one sings, and its number in its kind."""
    before, after = int(clip * share + 1e-9), int((clip + 1) * share + 1e-9)
    return after > before, before if after > before else clip - before


def _render_clip(
    out_dir: Path,
    clip: int,
    seed: int,
    clip_s: float,
    voice_share: float,
    checks: list[tuple[int, ProgramCheck]],
    fonts: list[Path],
    synths: dict[int, Synth],
) -> None:
    """Render and write one clip; its JSON comes last and marks it complete."""
    # A generator a step, so that a change in one does not reshuffle the others.
    plan_rng, phrase_rng, sound_rng, room_rng = (
        np.random.default_rng(s) for s in np.random.SeedSequence([seed, clip]).spawn(4)
    )
    detune_cents = float(plan_rng.uniform(-30, 30))
    glides = float(plan_rng.random() ** 2)
    sings, turn = _turns(voice_share, clip)
    n_samples = round(clip_s * SAMPLE_RATE)
    label: dict[str, Any] = {"format": FORMAT, "clip": clip, "seed": seed}
    if sings:
        voice = seed * _VOICES + turn % _VOICES + 1
        phrase = compose(
            phrase_rng,
            VOICE_NOTES,
            clip_s,
            sustained=True,
            detune_cents=detune_cents,
            glides=0.3 + 0.7 * glides,
        )
        clean = sing(sound_rng, phrase, voice, n_samples, SAMPLE_RATE)
        label |= {"program": f"voice-{voice}", "name": "voice", "soundfont": None}
    else:
        # Every instrument once, in an order of its own, before any comes again.
        lap, place = divmod(turn, len(checks))
        order = np.random.default_rng([seed, 0x0DE2, lap]).permutation(len(checks))
        font, check = checks[int(order[place])]
        if font not in synths:
            synths[font] = Synth(fonts[font])
        sustained = check.program in SUSTAINED
        phrase = compose(
            phrase_rng,
            check.notes,
            clip_s,
            sustained=sustained,
            detune_cents=detune_cents,
            glides=glides if sustained else 0.3 * glides,
        )
        clean = _play(sound_rng, synths[font], check, phrase, clip_s)[:n_samples]
        label |= {
            "program": check.program,
            "name": GM_NAMES[check.program],
            "soundfont": fonts[font].name,
        }
    noisy, room = disturb(room_rng, clean, SAMPLE_RATE)
    label |= {
        "sample_rate": SAMPLE_RATE,
        "clip_s": clip_s,
        "detune_cents": round(detune_cents, 2),
        "room": room,
        "notes": _note_labels(phrase, clean),
        "f0": [_contour(note) for note in phrase],
    }
    stem = out_dir / f"{clip:05d}"
    for suffix, sound in ((".clean.flac", clean), (".flac", noisy)):
        encoded = io.BytesIO()  # so that a full disk is an OSError, which has words for the user
        soundfile.write(encoded, sound, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        with atomic_write(stem.with_suffix(suffix)) as part:
            part.write_bytes(encoded.getvalue())
    write_json(stem.with_suffix(".json"), label)


def _play(
    rng: np.random.Generator,
    synth: Synth,
    check: ProgramCheck,
    phrase: list[PhraseNote],
    clip_s: float,
) -> FloatArray:
    """Play a phrase on FluidSynth.

    Each attack gets a channel of its own, so that a bend or a fade touches one note only. What is
    known of the soundfont's mistuning is bent away: the sound is the pitch the labels say.

    Returns: (n_samples,) float32 mono at SAMPLE_RATE, peak 0.9.
    """
    tuning = dict(zip(check.notes, check.cents, strict=True))
    # Most players damp a note when the next comes; some let it ring.
    ring = 1.0 if rng.random() < 0.15 else float(np.exp(rng.uniform(np.log(0.03), np.log(0.3))))
    fade = range(127, -1, -1)
    events: dict[int, list[tuple[int, str, int, float]]] = {}

    def at(tick: int, rank: int, kind: str, channel: int, value: float) -> None:
        events.setdefault(tick, []).append((rank, kind, channel, value))

    free_from = dict.fromkeys(Synth.CHANNELS, 0)
    i = 0
    while i < len(phrase):
        voiced = [phrase[i]]
        while i + len(voiced) < len(phrase) and phrase[i + len(voiced)].slurred:
            voiced.append(phrase[i + len(voiced)])
        i += len(voiced)
        first, last = voiced[0], voiced[-1]
        key = first.midi
        channel = min(free_from, key=lambda c: free_from[c])
        correction = -tuning[key] / 100
        bent: float | None = None
        for note in voiced:
            for offset, deviation in enumerate(note.curve[:-1]):
                bend = note.midi - key + deviation + correction
                # Bends cost calls; 0.5 cents apart is fine enough.
                if bent is None or abs(bend - bent) > 0.005:
                    at(note.onset + offset, 1, "bend", channel, bend)
                    bent = bend
        at(first.onset, 0, "clear", channel, 0)
        at(first.onset, 2, "on", channel, key * 128 + first.velocity)
        at(last.offset, 3, "off", channel, key)
        # Channels are few: whatever rings is faded out before its channel comes round again.
        n_fade = max(int(ring * TICKS_PER_S), 8)
        for step, value in enumerate(fade):
            at(last.offset + 1 + n_fade * step // len(fade), 4, "fade", channel, value)
        free_from[channel] = last.offset + n_fade + 2

    n_ticks = int(np.ceil(clip_s * TICKS_PER_S))
    out = np.zeros(n_ticks * BLOCK, np.float32)
    if not synth.start(check.program):
        raise ConfigError(f"program {check.program} cannot be chosen; is the soundfont changed?")
    now = 0
    for tick in [*sorted(t for t in events if t < n_ticks), n_ticks]:
        if tick > now:
            synth.render(out, now, tick - now)
            now = tick
        for _, kind, channel, value in sorted(events.get(tick, ()) if tick < n_ticks else ()):
            if kind == "bend":
                synth.bend(channel, value)
            elif kind == "fade":
                synth.expression(channel, int(value))
            elif kind == "on":
                synth.note_on(channel, int(value) // 128, int(value) % 128)
            elif kind == "off":
                synth.note_off(channel, int(value))
            else:
                synth.silence(channel)
                synth.expression(channel, 127)
    sound = soxr.resample(out, SYNTH_RATE, SAMPLE_RATE, quality="HQ")
    peak = float(np.abs(sound).max())
    return np.asarray(sound * (0.9 / max(peak, 1e-9)), np.float32)


def _note_labels(phrase: list[PhraseNote], clean: FloatArray) -> list[dict[str, float]]:
    """Notes as JSON values; `audible_s` is read off the clean sound."""
    hop = SAMPLE_RATE // 100
    n = len(clean) // hop
    power = np.mean(clean[: n * hop].reshape(n, hop).astype(np.float64) ** 2, axis=1)
    level_db = 10 * np.log10(power + 1e-12)
    heard = level_db > np.percentile(level_db, 95) - _AUDIBLE_DB
    labels = []
    for note in phrase:
        onset, offset = note.onset / TICKS_PER_S, note.offset / TICKS_PER_S
        inside = np.flatnonzero(heard[int(onset * 100) : int(np.ceil(offset * 100))])
        last_s = (int(onset * 100) + int(inside[-1]) + 1) / 100 if len(inside) else onset
        labels.append(
            {
                "onset_s": round(onset, 6),
                "offset_s": round(offset, 6),
                "midi": note.midi,
                "velocity": note.velocity,
                "cents": round(note.cents, 2),
                "audible_s": round(min(max(last_s, onset), offset), 6),
            }
        )
    return labels


def _contour(note: PhraseNote) -> list[list[float]]:
    """[time_s, midi] points that redraw the pitch by straight lines: every 10 ms if it moves."""
    n = len(note.curve) - 1
    picks = np.unique(np.append(np.arange(0, n, 8), n))
    if np.ptp(note.curve) < 0.005:
        picks = np.array([0, n])
    return [
        [round((note.onset + int(k)) / TICKS_PER_S, 6), round(note.midi + float(note.curve[k]), 3)]
        for k in picks
    ]
