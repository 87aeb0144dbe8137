"""Does a melody keep its notes in another timbre? Transfers real clips and tracks the result anew.

    python benchmarks/transfer_pitch.py [FOLDER] [--clips a,b] [--timbres x,y] [--json OUT.json]

FOLDER holds a manifest.json as for live_latency.py. Each clip is transferred to each timbre with
`v3audio.transfer`, and the result tracked by an independent pitch tracker, librosa's pYIN (10 ms
frames, at 16 kHz). A frame counts where pYIN hears a pitch and the source has a note, now or up to
80 ms ago (the transfer plays live, so it is late by the time that a pitch takes to be sure). It is
right if it lies within 50 (25) cents of that note as played, which is the median of what pYIN hears
in the source during the note, or of what it hears there in any frame of those 80 ms (vibrato,
glides), where that is within 1.5 semitones of the note. An octave error is within 50 cents of a
multiple of 12 semitones from the note. The clips it takes unless told are ones in which pYIN hears
the source itself right; it does not in every clip (cor anglais: 85 %), and after a wrong octave it
stays there until the next rest.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import librosa
import numpy as np
import soxr

from v3audio import transfer
from v3audio.audio_file import load_mono

RATE, HOP, FRAME = 16000, 160, 2048
LAG_S = 0.08
CLIPS = (
    "weresax_altosax_a,philharmonia_bass_clarinet_a,vocadito_1,dsmolken_doublebass_arco_a,"
    "dsmolken_doublebass_pizz_a,meatbass_arco_a"
)
TIMBRES = "flute,trumpet,violin,cello,clarinet,nylon-guitar"


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


def main() -> None:
    """Parse the options, run, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", default="../shared/real", type=Path)
    parser.add_argument("--clips", default=CLIPS)
    parser.add_argument("--timbres", default=TIMBRES)
    parser.add_argument("--seconds", default=15.0, type=float, help="of each clip")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
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
            pitch = track(transfer(x, rate, timbre), rate)
            results.append(Result(name, timbre, *compare(pitch, notes, source)))
            sys.stdout.write(row(results[-1]) + "\n")
            sys.stdout.flush()
    n = np.array([r.n_frames for r in results])
    total = {
        key: float(np.average([getattr(r, key) for r in results], weights=n))
        for key in ("within_50", "within_25", "octave", "heard")
    }
    sys.stdout.write(row(Result("all", "", int(n.sum()), **total)) + "\n")
    if options.json:
        report = {"total": total, "results": [asdict(r) for r in results]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


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


def row(r: Result) -> str:
    """One line of the table."""
    return (
        f"{r.clip:30}{r.timbre:16}{r.n_frames:7} frames  within 50 cents {100 * r.within_50:5.1f} %"
        f"  25 cents {100 * r.within_25:5.1f} %  octave {100 * r.octave:4.1f} %"
        f"  heard {100 * r.heard:5.1f} %"
    )


if __name__ == "__main__":
    main()
