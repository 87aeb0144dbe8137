"""Is what comes out in tune, as loud as what went in, and like the instrument that was captured?

    python -m benchmarks.sound [FOLDER] [--train TRAIN] [--soundfont SF2] [--parts pitch,capture]
        [--clips a,b] [--timbres x,y] [--adapt] [--json OUT.json]

**pitch** FOLDER holds a manifest.json as for notes.py. Each clip is transferred to each timbre with
`v3audio.transfer`, and the result tracked by an independent pitch tracker, librosa's pYIN (10 ms
frames, at 16 kHz). A frame counts where pYIN hears a pitch and the source has a note, now or up to
80 ms ago (by so much do onsets as written and as pYIN hears them differ). It is right if it lies
within 50 (25) cents of that note as played, which is the median of what pYIN hears in the source
during the note, or of what it hears there in any frame of those 80 ms (vibrato, glides), where that
is within 1.5 semitones of the note. An octave error is within 50 cents of a
multiple of 12 semitones from the note. The clips it takes unless told are ones in which pYIN hears
the source itself right; it does not in every clip (cor anglais: 85 %), and after a wrong octave it
stays there until the next rest. *Loudness* is the correlation of the levels of source and result:
RMS of 50 ms in dB, every 10 ms, where the source is within 50 dB of its loudest, the result floored
there too, at the delay (0 to 60 ms) that fits best.

**capture** Instruments never trained: the 50 programs of `training.render_data` as another
soundfont plays them (those that sound in tune), and the CC0 takes of TRAIN. From 10 s of each
(13 seeded notes over its range, three velocities, peak 0.5; of the takes, every second pitch) a
timbre is captured with `v3audio.capture.capture`. Then the renderer plays pitches that the 10 s did
not hold with that timbre, at the level and pitch contour of the real note. Compared are
log-mel spectrograms (`training.render_train.mel_distance`: L1 in nepers over 80 bands and 10 ms
frames, total level set equal, so timbre and its course in time count and loudness does not) of that
rendering with the real notes, of that pitch, of the instrument itself and of 49 others of the
soundfont. Told are the mean distance to the real note; how far the real note is from the nearest
real other (a distance of about that size cannot tell them apart); in how many notes, and for how
many instruments by their mean over the notes, the true instrument is the nearest. Programs that
play the same samples (a soundfont's violin and viola: mean distance of their real notes below .2)
are twins: they are named and not counted as others.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile
import soxr

from training import render_data
from training.render_data import NOTE_PAD, StereoSynth
from training.render_train import mel_distance, play_like
from v3audio import transfer
from v3audio.audio_file import load_mono
from v3audio.bundle import load_bundle
from v3audio.capture import capture
from v3audio.errors import TimbreError
from v3audio.spectra import SYNTH_RATE, mel_power

RATE, HOP, FRAME = 16000, 160, 2048
LAG_S = 0.08
CLIPS = (
    "weresax_altosax_a,philharmonia_bass_clarinet_a,vocadito_1,dsmolken_doublebass_arco_a,"
    "dsmolken_doublebass_pizz_a,meatbass_arco_a"
)
TIMBRES = "flute,trumpet,violin,cello,clarinet,nylon-guitar"
LEVEL_RANGE_DB, LEVEL_LAG_S = 50.0, 0.06
SOUNDFONT = Path("/usr/share/sounds/sf2/TimGM6mb.sf2")
N_AMONG = 50
PHRASE = 13  # notes of 0.65 s, 0.12 s of rest between: 10 s
EVERY, FIRST = 4, 1  # MIDI = 1 (mod 4): pitches never in the 10 s, heard in the comparison
HOLD_S, VELOCITY = 1.2, 80
TWIN = 0.2  # mean distance of real notes below which two programs are one sound


# -- pitch and loudness ---------------------------------------------------------------------------


@dataclass
class Result:
    """One clip in one timbre."""

    clip: str
    timbre: str
    n_frames: int
    within_50: float
    within_25: float
    octave: float
    heard: float  # share of the source's note frames where the result has a pitch
    loudness: float  # correlation of the levels


def pitch_part(options: argparse.Namespace) -> dict[str, Any]:
    """Transfer, track, compare; a line each."""
    clips = {c["id"]: c for c in json.loads((options.folder / "manifest.json").read_text())}
    results = []
    for name in options.clips.split(","):
        clip = clips[name]
        x, rate = load_mono(options.folder / clip["file"])
        x = x[: round(options.seconds * rate)]
        notes = np.array([n[:3] for n in json.loads((options.folder / clip["notes"]).read_text())])
        source = track(x, rate)
        notes = as_played(notes, source)
        for timbre in options.timbres.split(","):
            y = transfer(x, rate, timbre)
            found = compare(track(y, rate), notes, source)
            results.append(Result(name, timbre, *found, loudness(x, y, rate)))
            tell(row(results[-1]))
    n = np.array([r.n_frames for r in results])
    total = {
        key: float(np.average([getattr(r, key) for r in results], weights=n))
        for key in ("within_50", "within_25", "octave", "heard", "loudness")
    }
    tell(row(Result("all", "", int(n.sum()), **total)))
    return {"total": total, "results": [asdict(r) for r in results]}


def track(x: np.ndarray, rate: int) -> np.ndarray:
    """MIDI pitch per 10 ms frame, NaN where pYIN hears none."""
    y = soxr.resample(x, rate, RATE)
    f0, voiced, _ = librosa.pyin(
        y, fmin=27.5, fmax=2500.0, sr=RATE, frame_length=FRAME, hop_length=HOP, fill_na=np.nan
    )
    with np.errstate(invalid="ignore"):
        midi = 69 + 12 * np.log2(f0 / 440)
    return np.where(voiced, midi, np.nan)


def as_played(notes: np.ndarray, pitch: np.ndarray) -> np.ndarray:
    """Notes (N, 3) with the pitch that pYIN hears in the source: its median within the note.

    It may stand an octave from the written note (a few samples speak so); where it stands anywhere
    else, pYIN is not believed.
    """
    played = notes.copy()
    for note in played:
        inside = pitch[round(note[0] * 100) : round(note[1] * 100)] - note[2]
        near = inside[np.abs((inside + 6) % 12 - 6) < 1.0]
        if len(near) >= 3:
            note[2] += np.median(near)
    return played


def compare(
    pitch: np.ndarray, notes: np.ndarray, source: np.ndarray
) -> tuple[int, float, float, float, float]:
    """Frames that count, share within 50 and 25 cents, share of octave errors, share heard."""
    t = np.arange(len(pitch)) * HOP / RATE
    error = np.full(len(pitch), np.nan)  # semitones from the nearest note that may sound
    has_note = np.zeros(len(pitch), bool)
    source = np.resize(source, len(pitch))
    moving = np.full((round(LAG_S * RATE / HOP) + 1, len(pitch)), np.nan)
    for lag in range(len(moving)):
        moving[lag, lag:] = source[: len(pitch) - lag]
    for onset_s, offset_s, midi in notes:
        sounds = (t >= onset_s) & (t < offset_s + LAG_S)
        has_note |= (t >= onset_s + LAG_S) & (t < offset_s)
        nearer = sounds & ~(np.abs(pitch - midi) >= np.abs(error)) & np.isfinite(pitch)
        error[nearer] = (pitch - midi)[nearer]
        for played in moving:
            followed = sounds & (np.abs(played - midi) < 1.5)
            followed &= np.abs(pitch - played) < np.abs(error)
            error[followed] = (pitch - played)[followed]
    counted = error[np.isfinite(error)]
    octave = (np.abs(counted) > 6) & (np.abs((counted + 6) % 12 - 6) <= 0.5)
    heard = np.isfinite(pitch[has_note]).mean() if has_note.any() else float("nan")
    if len(counted) == 0:
        return 0, float("nan"), float("nan"), float("nan"), float(heard)
    return (
        len(counted),
        float((np.abs(counted) <= 0.5).mean()),
        float((np.abs(counted) <= 0.25).mean()),
        float(octave.mean()),
        float(heard),
    )


def loudness(source: np.ndarray, result: np.ndarray, rate: int) -> float:
    """Correlation of the levels of two sounds of one length."""
    a, b = levels(source, rate), levels(result, rate)
    n = min(len(a), len(b))
    a, b = a[:n], b[:n]
    a, b = np.maximum(a, a.max() - LEVEL_RANGE_DB), np.maximum(b, b.max() - LEVEL_RANGE_DB)
    sounds = a > a.min()
    best = -1.0
    for lag in range(round(LEVEL_LAG_S * 100) + 1):
        used = sounds[: n - lag]
        later, earlier = b[lag:][used], a[: n - lag][used]
        if earlier.std() > 0 and later.std() > 0:
            best = max(best, float(np.corrcoef(earlier, later)[0, 1]))
    return best


def levels(x: np.ndarray, rate: int, window_s: float = 0.05) -> np.ndarray:
    """RMS in dB, every 10 ms."""
    square = np.concatenate([[0.0], np.cumsum(x.astype(np.float64) ** 2)])
    n = round(window_s * rate)
    starts = np.arange(0, len(x) - n, rate / 100).astype(int)
    power = (square[starts + n] - square[starts]) / n
    return 10 * np.log10(np.maximum(power, 1e-12))


def row(r: Result) -> str:
    """One line of the table."""
    return (
        f"{r.clip:30}{r.timbre:14}{r.n_frames:7} frames  within 50 cents {100 * r.within_50:5.1f} %"
        f"  25 cents {100 * r.within_25:5.1f} %  octave {100 * r.octave:4.1f} %"
        f"  heard {100 * r.heard:5.1f} %  loudness {r.loudness:.3f}"
    )


# -- capture --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Real:
    """A held-out note of an instrument, as its frames and mel power; level set as in the 10 s."""

    frames: render_data.NoteFrames
    mel: np.ndarray
    shift_db: float


@dataclass(frozen=True)
class Captured:
    """One instrument: the 10 s that were captured, and what they did not hold."""

    name: str
    program: int  # of the soundfont; -1 for takes
    phrase: np.ndarray  # (n,) at SYNTH_RATE
    held_out: list[Real]


@dataclass
class Score:
    """How like itself a captured instrument sounds."""

    name: str
    n_notes: int
    l1: float
    nearest_other: float
    right_notes: int
    is_nearest: bool
    confused_with: str
    twins: list[str]  # others of the same sound, which nobody could tell apart


class Soundfont:
    """The other instruments: mel power of any note, made when first asked for."""

    def __init__(self, path: Path) -> None:
        self.synth = StereoSynth(path)
        self._mels: dict[tuple[int, int], np.ndarray | None] = {}

    def note(self, program: int, midi: int, hold_s: float = HOLD_S) -> np.ndarray:
        """(n, 2) as `StereoSynth.play_note`."""
        self.synth.start(program)
        return self.synth.play_note(program, midi, VELOCITY, hold_s, 0.0)

    def mel(self, program: int, midi: int) -> np.ndarray | None:
        """Mel power of a note, None where there is none."""
        key = program, midi
        if key not in self._mels:
            sound = self.note(program, midi)
            audible = np.abs(sound).max() >= 1e-4
            self._mels[key] = mel_of(sound, HOLD_S) if audible else None
        return self._mels[key]


def capture_part(options: argparse.Namespace) -> dict[str, Any]:
    """Capture, play, compare; a line each."""
    bundle = load_bundle()
    net, hearing = bundle.load_frozen_renderer(), bundle.load_hearing()
    soundfont = Soundfont(options.soundfont)
    report = {}
    parts: dict[str, Callable[[], Iterator[Captured]]] = {
        options.soundfont.stem: lambda: of_soundfont(soundfont, net.config),
        "CC0 takes": lambda: of_takes(options.train, net.config),
    }
    for part, instruments in parts.items():
        scores = []
        for made in instruments():
            with tempfile.TemporaryDirectory() as scratch:
                path = Path(scratch) / "phrase.wav"
                soundfile.write(path, made.phrase, SYNTH_RATE)
                try:
                    taken = capture("captured", [path], hearing=hearing)
                    timbre = (taken.adapted() if options.adapt else taken).timbre
                except TimbreError as e:
                    tell(f"{part}: {made.name}: not captured: {e}")
                    continue
            scores.append(judge(made, timbre, net, soundfont))
            tell(f"{part:12}{line(scores[-1])}")
        if scores:
            report[part] = {**totals(scores), "instruments": [asdict(s) for s in scores]}
            t = report[part]
            tell(
                f"{part}: {len(scores)} instruments, L1 {t['l1']:.3f}, nearest real other "
                f"{t['nearest_other']:.3f}; the true one is nearest among {N_AMONG} in "
                f"{100 * t['notes']:.1f} % of notes and for {100 * t['by_instrument']:.1f} % of "
                "instruments"
            )
    return report


def line(s: Score) -> str:
    """One line of the table."""
    twins = f"  twins: {', '.join(s.twins)}" if s.twins else ""
    return (
        f"{s.name:26} L1 {s.l1:.3f} (nearest other {s.nearest_other:.3f})  nearest in "
        f"{s.right_notes:2}/{s.n_notes:2} notes  {'' if s.is_nearest else s.confused_with}{twins}"
    )


def totals(scores: Sequence[Score]) -> dict[str, float]:
    """Means over instruments, notes pooled."""
    return {
        "l1": float(np.mean([s.l1 for s in scores])),
        "nearest_other": float(np.mean([s.nearest_other for s in scores])),
        "notes": sum(s.right_notes for s in scores) / sum(s.n_notes for s in scores),
        "by_instrument": float(np.mean([s.is_nearest for s in scores])),
    }


def judge(made: Captured, timbre: Any, net: Any, soundfont: Soundfont) -> Score:
    """Play what was held out and see whom it is like."""
    names = {i.program: i.name for i in render_data.INSTRUMENTS if i.program != made.program}
    real_others: dict[int, list[float]] = defaultdict(list)  # from the real note to theirs
    others: dict[int, list[float]] = defaultdict(list)  # from the rendered note to theirs
    own = []
    for real in made.held_out:
        seconds = (len(real.mel) + 0.5) / 100
        played = play_like(
            net, timbre.voice, real.frames, real.shift_db + timbre.gain_db, seconds + 0.01
        )
        mel = mel_of(played, seconds + 0.01, pad=0)[: len(real.mel)]
        own.append(mel_distance(real.mel, mel))
        for program in list(names)[: N_AMONG - 1]:
            other = soundfont.mel(program, real.frames.midi)
            if other is None:
                continue
            n = min(len(mel), len(other))
            others[program].append(mel_distance(other[:n], mel[:n]))
            real_others[program].append(mel_distance(real.mel[:n], other[:n]))
    complete = [p for p, d in others.items() if len(d) == len(own)]
    twins = [p for p in complete if np.mean(real_others[p]) < TWIN]
    judged = [p for p in complete if p not in twins]
    of_note = np.array([others[p] for p in judged])  # (programs, notes)
    nearest = judged[int(of_note.mean(1).argmin())]
    return Score(
        made.name, len(own), float(np.mean(own)),
        float(np.array([real_others[p] for p in judged]).min(0).mean()),
        int((np.array(own) < of_note.min(0)).sum()), bool(np.mean(own) < of_note.mean(1).min()),
        names[nearest], [names[p] for p in twins],
    )  # fmt: skip


def of_soundfont(soundfont: Soundfont, config: Any) -> Iterator[Captured]:
    """Every instrument that plays at least three held-out notes in tune."""
    for instrument in render_data.INSTRUMENTS:
        pitches = range(instrument.low, instrument.high + 1)
        unheard = [m for m in pitches if m % EVERY == FIRST]
        rng = np.random.default_rng(instrument.program)
        heard = np.array([m for m in pitches if m % EVERY != FIRST])
        chosen = rng.permutation(heard)[np.arange(PHRASE) % len(heard)]
        soundfont.synth.start(instrument.program)
        notes = [
            soundfont.synth.play_note(instrument.program, int(m), int(v), 0.65, 0.12)[NOTE_PAD:]
            for m, v in zip(chosen, rng.choice((60, 80, 100), PHRASE), strict=True)
        ]
        phrase = np.concatenate(notes).mean(1)
        if np.abs(phrase).max() < 1e-4:
            continue
        gain = 0.5 / float(np.abs(phrase).max())
        real = [
            r for m in unheard
            if (r := real_note(soundfont.note(instrument.program, m), m, HOLD_S, gain, config))
        ]  # fmt: skip
        if len(real) >= 3:
            yield Captured(instrument.name, instrument.program, phrase * np.float32(gain), real)
        else:
            tell(f"{instrument.name}: out of tune in this soundfont, left out")


def of_takes(folder: Path, config: Any) -> Iterator[Captured]:
    """The takes of each instrument: every second pitch is captured, the others are held out."""
    takes = defaultdict(list)
    for t in json.loads((folder / "manifest.json").read_text()):
        takes[t["file"].split("/")[0]].append(t)
    for name, of_one in takes.items():
        pitches = sorted({t["midi"] for t in of_one})
        heard = [t for t in of_one if t["midi"] in pitches[::2]]
        each_s = 10.0 / len(heard)
        sounds = [take(folder / t["file"])[: round(each_s * SYNTH_RATE)] for t in heard]
        phrase = np.concatenate(sounds)
        gain = 0.5 / float(np.abs(phrase).max())
        real = []
        for t in of_one:
            if t["midi"] in pitches[1::2]:
                x = np.pad(take(folder / t["file"]), (NOTE_PAD, 0))[:, None]
                hold_s = min(HOLD_S, (len(x) - NOTE_PAD) / SYNTH_RATE - 0.1)
                if found := real_note(x, t["midi"], hold_s, gain, config):
                    real.append(found)
        if real:
            yield Captured(name, -1, phrase * np.float32(gain), real)
        else:
            tell(f"{name}: no held-out take is in tune, left out")


def take(path: Path) -> np.ndarray:
    """A take from its attack on, (n,) at SYNTH_RATE."""
    x, _ = load_mono(path, sample_rate=SYNTH_RATE)
    return x[max(int(np.argmax(np.abs(x) > 0.02 * np.abs(x).max())) - 48, 0) :]


def real_note(
    sound: np.ndarray, midi: int, hold_s: float, gain: float, config: Any
) -> Real | None:
    """A note taken apart, None if it is silent or more than 50 cents out of tune."""
    frames = render_data.analyse_note(sound, midi, VELOCITY, hold_s, config)
    if frames is None:
        return None
    return Real(frames, mel_of(sound, hold_s), 20 * float(np.log10(gain)))


def mel_of(sound: np.ndarray, seconds: float, pad: int = NOTE_PAD) -> np.ndarray:
    """Mel power every 10 ms from the attack on."""
    centres = (np.arange(0.0, seconds - 0.01, 0.01) * SYNTH_RATE).astype(np.int64)
    return mel_power(sound, centres + pad)


def tell(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Parse the options, run the parts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", default="../shared/real", type=Path)
    parser.add_argument("--parts", default="pitch,capture")
    parser.add_argument("--clips", default=CLIPS)
    parser.add_argument("--timbres", default=TIMBRES)
    parser.add_argument("--seconds", default=15.0, type=float, help="of each clip")
    parser.add_argument("--train", default="../shared/train", type=Path, help="the CC0 takes")
    parser.add_argument("--soundfont", default=SOUNDFONT, type=Path, help="one never trained")
    parser.add_argument("--adapt", action="store_true", help="capture with its adaptation")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    parts = {"pitch": pitch_part, "capture": capture_part}
    report = {name: parts[name](options) for name in options.parts.split(",")}
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
