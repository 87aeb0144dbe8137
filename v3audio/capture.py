"""A new timbre from a musician's own take, and what that take is good for.

V3 hears the take: its mean style is what the instrument is. Our own notes say where each pitch
sounds, and the renderer's network, played at those pitches and levels, is compared with what was
measured there (`v3audio.colour`). No note has a label, and nothing is trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from v3audio import timbres
from v3audio.audio_file import read_mono
from v3audio.bundle import Bundle, load_bundle
from v3audio.colour import ADAPT_STEPS, Bench, Fit, level_shift_db, measure
from v3audio.errors import TimbreError
from v3audio.hear_file import (
    HOP_S,
    TAIL_S,
    FileSound,
    HearingPart,
    KeptFrames,
    Progress,
    decay_rates,
    decode,
    hear,
    load_hearing,
    open_sound,
    progress_after,
    release_times,
)
from v3audio.notes import Note, TrackerConfig
from v3audio.settings import note_name
from v3audio.spectra import SYNTH_RATE, k_weighted_db
from v3audio.timbres import Timbre, check_name

MIN_S = 1.0  # of sounding, pitched frames
SURE = 0.6  # voicing from which a frame tells of the timbre
DECAY_FROM_DB_PER_S = 6.0  # notes that fall faster by themselves are struck or plucked ones
RELEASE_S = 0.1  # where no rest lets a note be heard to fade
MEASURED_S = 90.0  # of all recordings together whose spectra are measured
CLIPPED = 0.995  # of full scale
QUIET_S = 0.2  # between the notes, from which noise is stated

# From here on a take is as good as it gets; below the second figure it is poor.
ENOUGH_S = (8.0, 3.0)
ENOUGH_SEMITONES = (12, 5)
ENOUGH_PITCHES = (8, 3)
ABOVE_NOISE_DB = (30.0, 15.0)
LOUD_DB = (-40.0, -50.0)
CLIPPED_SHARE = (0.002, 0.05)
STYLE_SPREAD = (0.75, 1.1)


@dataclass(frozen=True, slots=True)
class Report:
    """What a take holds.

    Attributes:
        usable_s: Clear, pitched, loud enough, not clipped.
        total_s: Length of the recordings.
        note_range: Lowest and highest MIDI note.
        pitches: How many different notes.
        level_db: Softest and loudest note (10th and 90th percentile), dBFS.
        noise_db: Level between the notes, dBFS; None where there is nothing between them.
        clipped_share: Share of the sounding frames that touch full scale.
        style_spread: How far the notes' styles lie from their mean, RMS over style values (about
            1 between instruments).
        nearest: Shipped timbre whose style is nearest, and how far it is in the same measure.
        gain_db: Makes it as loud as the shipped timbres.
        held_out: Distance to notes left out while fitting, without and with adaptation.
    """

    usable_s: float
    total_s: float
    note_range: tuple[int, int]
    pitches: int
    level_db: tuple[float, float]
    noise_db: float | None
    clipped_share: float
    style_spread: float
    nearest: tuple[str, float] | None
    gain_db: float
    held_out: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """``good``, ``fair`` or ``poor``."""
        return ("good", "fair", "poor")[max(grade for grade, _ in self._grades())]

    @property
    def advice(self) -> list[str]:
        """What to do better, the worst first."""
        return [text for grade, text in sorted(self._grades(), reverse=True) if grade]

    def _grades(self) -> list[tuple[int, str]]:
        low, high = (note_name(n) for n in self.note_range)
        loudest = self.level_db[1]
        above_db = np.inf if self.noise_db is None else loudest - self.noise_db
        return [
            (_grade(self.usable_s, ENOUGH_S),
             f"play longer: {self.usable_s:.1f} s are usable, {ENOUGH_S[0]:.0f} s are enough"),
            (_grade(self.note_range[1] - self.note_range[0], ENOUGH_SEMITONES),
             f"play lower and higher notes too: only {low} to {high} was heard"),
            (_grade(self.pitches, ENOUGH_PITCHES),
             f"play more different notes: {self.pitches} were heard"),
            (_grade(loudest, LOUD_DB),
             f"come closer or turn the input up: the notes reach {loudest:.0f} dBFS"),
            (_grade(above_db, ABOVE_NOISE_DB),
             f"come closer, or find a quieter room: the notes stand {above_db:.0f} dB above it"),
            (_grade(-self.clipped_share, (-CLIPPED_SHARE[0], -CLIPPED_SHARE[1])),
             f"turn the input down: {self.clipped_share:.1%} of the sound is clipped"),
            (_grade(-self.style_spread, (-STYLE_SPREAD[0], -STYLE_SPREAD[1])),
             "play one instrument alone, in one way: the notes differ much in colour"),
        ]  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """All figures, the verdict and the advice, as JSON takes them."""
        return asdict(self) | {"verdict": self.verdict, "advice": self.advice}

    def lines(self) -> list[str]:
        """The report as a musician reads it."""
        low, high = (note_name(n) for n in self.note_range)
        noise = "none heard" if self.noise_db is None else f"{self.noise_db:.0f} dBFS"
        table = {
            "verdict": self.verdict,
            "usable": f"{self.usable_s:.1f} s of {self.total_s:.1f} s"
            + (f", {self.clipped_share:.1%} clipped" if self.clipped_share else ""),
            "notes": f"{low} to {high}, {self.pitches} different",
            "level": f"{self.level_db[0]:.0f} to {self.level_db[1]:.0f} dBFS, noise {noise}",
            "colour": f"notes differ by {self.style_spread:.2f} (instruments by about 1)",
            "gain": f"{self.gain_db:+.1f} dB, as loud as the shipped timbres",
        }
        if self.nearest:
            table["nearest"] = f"{self.nearest[0]} ({self.nearest[1]:.2f} away)"
        if self.held_out:
            before, after = self.held_out
            table["adapted"] = (
                f"distance to notes it had not seen {before:.2f} -> {after:.2f}"
                if after < before
                else "no better than without on notes it had not seen; left as it was"
            )
        lines = [f"{label:<8} {value}" for label, value in table.items()]
        return lines + [f"{'better':<8} {text}" for text in self.advice]


@dataclass(frozen=True, slots=True)
class Take:
    """A timbre, what its recordings are good for, and what an adaptation needs."""

    timbre: Timbre
    report: Report
    bundle: Bundle
    bench: Bench | None  # None where no note could be measured, or the model has no renderer

    def adapted(self, progress: Progress | None = None) -> Take:
        """The same instrument, learned more closely; the same timbre where that does not help.

        Args:
            progress: told steps done and in all.

        Raises:
            TimbreError: no note could be measured.
        """
        if self.bench is None:
            raise TimbreError(
                f"'{self.timbre.name}': no note of it can be measured, so it cannot adapt; leave "
                "--adapt out, or record single notes of 0.2 s and more"
            )
        done = itertools.count(1)
        fit, before, after = self.bench.adapt(
            lambda: progress(next(done), 2 * ADAPT_STEPS) if progress else None
        )
        timbre = _matched(self.timbre, fit, self.bundle)
        report = replace(self.report, gain_db=timbre.gain_db, held_out=(before, after))
        return replace(self, timbre=timbre, report=report)


def capture(
    name: str,
    files: Sequence[Path | str],
    model: Path | str | None = None,
    *,
    device: str = "auto",
    licence: str = "",
    progress: Progress | None = None,
    hearing: HearingPart | None = None,
) -> Take:
    """Hear recordings of one instrument and make a timbre of them, not yet saved.

    Arguments and errors are those of `v3audio.api.capture`.
    """
    check_name(name)
    sounds = [open_sound(path) for path in files]
    bundle = load_bundle(model)
    hearing = hearing or load_hearing(model, device)
    n_all, n_done = sum(sound.n_samples for sound in sounds), 0
    heard = []
    for sound in sounds:
        heard.append(_Heard(sound, hearing, progress_after(progress, n_done, n_all)))
        n_done += sound.n_samples
    usable_s = sum(int(h.sure.sum()) for h in heard) * HOP_S
    pitches = [note.midi for h in heard for note in h.notes]
    if usable_s < MIN_S or not pitches:
        clipped_s = sum(int(h.clipped.sum()) for h in heard) * HOP_S
        clipped = f" ({clipped_s:.1f} s more are clipped: turn the input down)" if clipped_s else ""
        raise TimbreError(
            f"'{name}': found {usable_s:.1f} s of clear notes in {len(sounds)} file(s){clipped}, "
            f"wanted at least {MIN_S:g} s; record one instrument alone, one note at a time"
        )
    decays = [d for h in heard for d in decay_rates(h.notes, h.level_db)]
    decay = float(np.median(decays)) if decays else 0.0
    releases = [r for h in heard for r in release_times(h.notes, h.level_db)]
    release_s = float(np.clip(np.median(releases or [RELEASE_S]), 0.01, 2.0))
    style = np.concatenate([h.style[h.sure] for h in heard]).mean(0, dtype=np.float64)
    timbre = Timbre(
        name=name,
        style=style,
        note_range=(min(pitches), max(pitches)),
        model=bundle.name,
        model_sha256=bundle.checksum,
        decay_db_per_s=round(decay, 1) if decay >= DECAY_FROM_DB_PER_S else 0.0,
        source=f"captured from {', '.join(Path(f).name for f in files)}",
        licence=licence,
        extras={"release_s": round(release_s, 3)},
    )
    report = _report(heard, timbre)
    bench = _bench(files, heard, timbre, bundle) if bundle.renderer is not None else None
    if bench is not None:
        timbre = _matched(timbre, bench.fit(), bundle)
        report = replace(report, gain_db=timbre.gain_db)
    return Take(timbre, report, bundle, bench)


class _Heard:
    """One recording as V3 and the note decoder hear it; T frames."""

    def __init__(self, sound: FileSound, hearing: HearingPart, progress: Progress | None) -> None:
        self.duration_s = sound.n_samples / sound.sample_rate
        self._clipped: set[int] = set()  # frames
        kept, styles = KeptFrames(), []
        watched = replace(sound, blocks=self._watched(sound))
        for part in hear(watched, hearing, TAIL_S, progress):
            kept.add(part)
            styles.append(part.style.astype(np.float16))  # of two hours: 23 MB
        frames = kept.frames()
        self.level_db, self.style = frames.level_db, np.concatenate(styles)
        self.notes = decode(frames, TrackerConfig())
        clipped = np.zeros(len(self.level_db), np.bool_)
        clipped[[i for i in self._clipped if i < len(clipped)]] = True
        voicing = 0.5 * (frames.periodicity + frames.confidence)
        sounding = (voicing >= SURE) & (self.level_db >= TrackerConfig().file_gate_db)
        self.sure, self.clipped = sounding & ~clipped, sounding & clipped

    def _watched(self, sound: FileSound) -> Iterator[NDArray[np.float32]]:
        start = 0
        for block in sound.blocks:
            at = start + np.flatnonzero(np.abs(block) >= CLIPPED)
            self._clipped.update((at / sound.sample_rate / HOP_S).astype(int).tolist())
            start += len(block)
            yield block

    def rows(self, note: Note) -> slice:
        """The frames of a note."""
        return slice(round(note.onset_s / HOP_S), round(note.offset_s / HOP_S))


def _report(heard: Sequence[_Heard], timbre: Timbre) -> Report:
    levels, styles, between = [], [], []
    for h in heard:
        silent = np.ones(len(h.level_db), np.bool_)
        for note in h.notes:
            rows = h.rows(note)
            # a note rings on, and the room with it
            silent[max(rows.start - 5, 0) : rows.stop + 40] = False
            levels.append(float(np.quantile(h.level_db[rows], 0.9)))
            if h.sure[rows].any():
                styles.append(h.style[rows][h.sure[rows]].mean(0, dtype=np.float64))
        between.append(h.level_db[silent])
    quiet = np.concatenate(between)
    n_sure, n_clipped = (sum(int(x.sum()) for x in column) for column in zip(
        *((h.sure, h.clipped) for h in heard), strict=True))  # fmt: skip
    softest, loudest = np.quantile(levels, (0.1, 0.9))
    total_s = sum(h.duration_s for h in heard)
    spread = np.sqrt(np.mean(np.square(np.array(styles) - np.mean(styles, axis=0))))
    apart = {
        other.name: float(np.sqrt(np.mean(np.square(other.style - timbre.style))))
        for other in _shipped(timbre.model_sha256)
    }
    nearest = min(apart, key=apart.__getitem__, default=None)
    return Report(
        usable_s=round(min(n_sure * HOP_S, total_s), 2),
        total_s=round(total_s, 2),
        note_range=timbre.note_range,
        pitches=len({note.midi for h in heard for note in h.notes}),
        level_db=(round(float(softest), 1), round(float(loudest), 1)),
        noise_db=round(float(np.median(quiet)), 1) if len(quiet) * HOP_S >= QUIET_S else None,
        clipped_share=round(n_clipped / max(n_sure + n_clipped, 1), 4),
        style_spread=round(float(spread), 3),
        nearest=(nearest, round(apart[nearest], 3)) if nearest else None,
        gain_db=timbre.gain_db,
    )


def _bench(
    files: Sequence[Path | str], heard: Sequence[_Heard], timbre: Timbre, bundle: Bundle
) -> Bench | None:
    """The recordings' notes, measured, on the renderer's network; of long ones the beginning."""
    parts: list[NDArray[np.float32]] = []
    notes: list[Note] = []
    start_s, share_s = 0.0, max(1, round(MEASURED_S / len(files)))
    for path, h in zip(files, heard, strict=True):
        blocks = read_mono(path, sample_rate=SYNTH_RATE, block_samples=SYNTH_RATE)
        part = np.concatenate(list(itertools.islice(blocks, share_s)))
        end_s = len(part) / SYNTH_RATE
        notes += [
            replace(n, onset_s=start_s + n.onset_s, offset_s=start_s + min(n.offset_s, end_s))
            for n in h.notes
            if n.onset_s < end_s
        ]
        parts.append(part)
        start_s += end_s
    net = bundle.load_renderer()
    frames = measure(np.concatenate(parts), notes, net.config)
    if not frames:
        return None
    return Bench(net, frames, timbre.style, level_shift_db(frames, net.config.reference_db))


def _matched(timbre: Timbre, fit: Fit, bundle: Bundle) -> Timbre:
    """A timbre so played, and as loud as the shipped ones (K-weighted, at equal level)."""
    source = bundle.load_frozen_renderer()
    timbre = replace(timbre, style=fit.style, colour=fit.colour)

    def loudness_db(t: Timbre) -> float:
        return k_weighted_db(source, t.voice, *t.note_range) + t.gain_db

    others = [loudness_db(other) for other in _shipped(bundle.checksum)]
    if not others:
        return timbre
    missing_db = float(np.mean(others)) - loudness_db(timbre)
    return replace(timbre, gain_db=round(timbre.gain_db + missing_db, 2))


def _shipped(model_sha256: str) -> list[Timbre]:
    return [
        timbres.load(entry.path)
        for entry in timbres.list_timbres()
        if entry.is_shipped and entry.info and entry.info.model_sha256 == model_sha256
    ]


def _grade(value: float, limits: tuple[float, float]) -> int:
    """0 good, 1 fair, 2 poor, for a value that is better the larger it is."""
    return int(value < limits[0]) + int(value < limits[1])
