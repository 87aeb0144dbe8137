"""How late and how right are live notes? `live` from file to file over recordings with known notes.

    python benchmarks/live_latency.py [FOLDER] [--rate 48000] [--block 128] [--json OUT.json]

FOLDER holds a manifest.json: a list of {"id", "file", "notes"} whose notes file is a list of
[onset_s, offset_s, midi]. Each clip goes through `realtime.session.run_live` with `--midi`; the
.mid that a player would have recorded is then read and compared:

- a note-on is right if it has a true note's pitch (within 0.6 semitones) and comes from 50 ms
  before its onset until the note ends, at most 0.5 s later; each true note takes the first;
- its latency is note-on minus true onset; A3 is MIDI 57;
- all other note-ons are stray (wrong pitch, repeated, or in silence);
- RTF is the time spent in `Engine.process`, on one core, over the duration of the sound.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import mido
import numpy as np

from realtime.session import LiveOptions, run_live
from v3audio.engine import Engine

A3 = 57
EARLY_S, LATE_S = 0.05, 0.5
TOLERANCE = 0.6  # semitones


@dataclass
class Clip:
    """What one clip gave."""

    id: str
    n_true: int
    n_ons: int
    n_stray: int
    n_wrong_pitch: int
    latencies_ms: list[float]
    pitches: list[float]
    rtf: float


def main() -> None:
    """Parse the options, run, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", default="../shared/real", type=Path)
    parser.add_argument("--rate", default=48000, type=int)
    parser.add_argument("--block", default=128, type=int)
    parser.add_argument("--timbre", default="flute")
    parser.add_argument("--only", help="comma-separated clip ids")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    _stay_on_one_core()
    clips = json.loads((options.folder / "manifest.json").read_text())
    wanted = options.only.split(",") if options.only else None
    engine = Engine(options.timbre, options.rate, options.block)
    found = [
        run_clip(engine, options.folder, clip, options.rate, options.block)
        for clip in clips
        if clip.get("notes") and (wanted is None or clip["id"] in wanted)
    ]
    summary = summarise(found)
    sys.stdout.write(table(found, summary))
    if options.json:
        report = {"summary": summary, "clips": [asdict(clip) for clip in found]}
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def run_clip(engine: Engine, folder: Path, clip: dict[str, str], rate: int, block: int) -> Clip:
    """One clip through a live session, and its note-ons against the truth."""
    engine.reset()
    truth = [tuple(note[:3]) for note in json.loads((folder / clip["notes"]).read_text())]
    with tempfile.TemporaryDirectory() as scratch:
        midi = Path(scratch) / "live.mid"
        report = run_live(
            LiveOptions(str(folder / clip["file"]), "none", (str(midi),), rate=rate, block=block),
            engine=engine,
        )
        ons = note_ons(midi)
    taken: set[int] = set()
    latencies_ms, pitches = [], []
    n_stray = n_wrong = 0
    for time_s, note in ons:
        match = None
        for index, (onset_s, offset_s, midi_true) in enumerate(truth):
            in_time = (
                onset_s - EARLY_S <= time_s <= min(onset_s + LATE_S, max(offset_s, onset_s + 0.1))
            )
            if index not in taken and in_time and abs(note - midi_true) <= TOLERANCE:
                match = index  # the latest such note, should two of one pitch overlap in reach
        if match is None:
            n_stray += 1
            sounding = [m for a, b, m in truth if a - EARLY_S <= time_s <= b]
            n_wrong += bool(sounding) and all(abs(note - m) > TOLERANCE for m in sounding)
            continue
        taken.add(match)
        latencies_ms.append(1000.0 * (time_s - truth[match][0]))
        pitches.append(truth[match][2])
    rtf = report.to_json()["rtf"]
    return Clip(clip["id"], len(truth), len(ons), n_stray, n_wrong, latencies_ms, pitches, rtf)


def note_ons(path: Path) -> list[tuple[float, int]]:
    """(seconds, MIDI note) of each note-on of a MIDI file."""
    now_s, ons = 0.0, []
    for message in mido.MidiFile(path):  # iterating gives times in seconds
        now_s += message.time
        if message.type == "note_on" and message.velocity > 0:
            ons.append((now_s, message.note))
    return ons


def summarise(clips: list[Clip]) -> dict[str, dict[str, float]]:
    """Figures over all notes of all clips, above and below A3."""
    latency = np.array([ms for clip in clips for ms in clip.latencies_ms])
    pitch = np.array([p for clip in clips for p in clip.pitches])
    n_ons = sum(clip.n_ons for clip in clips)
    parts = {"all": pitch > -1, "above A3": pitch > A3, "A3 and below": pitch <= A3}
    summary: dict[str, dict[str, float]] = {
        name: {
            "n": int(part.sum()),
            "median_ms": round(float(np.median(latency[part])), 1) if part.any() else float("nan"),
            "p95_ms": round(float(np.percentile(latency[part], 95)), 1)
            if part.any()
            else float("nan"),
        }
        for name, part in parts.items()
    }
    summary["notes"] = {
        "true": sum(clip.n_true for clip in clips),
        "on": n_ons,
        "found_percent": round(100 * len(latency) / max(1, sum(c.n_true for c in clips)), 1),
        "stray_percent": round(100 * sum(clip.n_stray for clip in clips) / max(1, n_ons), 1),
        "wrong_pitch_percent": round(
            100 * sum(clip.n_wrong_pitch for clip in clips) / max(1, n_ons), 1
        ),
    }
    summary["speed"] = {
        "rtf_mean": round(float(np.mean([clip.rtf for clip in clips])), 3),
        "rtf_max": round(max(clip.rtf for clip in clips), 3),
    }
    return summary


def table(clips: list[Clip], summary: dict[str, dict[str, float]]) -> str:
    """The figures as text."""
    lines = [f"{'clip':34}{'true':>6}{'on':>6}{'found':>7}{'stray':>7}{'median':>9}{'RTF':>7}"]
    for c in clips:
        median = f"{np.median(c.latencies_ms):.0f} ms" if c.latencies_ms else "-"
        lines.append(
            f"{c.id:34}{c.n_true:6}{c.n_ons:6}{len(c.latencies_ms):7}{c.n_stray:7}"
            f"{median:>9}{c.rtf:7.3f}"
        )
    for name in ("all", "above A3", "A3 and below"):
        s = summary[name]
        lines.append(f"{name}: {s['n']} notes, median {s['median_ms']} ms, p95 {s['p95_ms']} ms")
    notes, speed = summary["notes"], summary["speed"]
    lines.append(
        f"found {notes['found_percent']} %, stray {notes['stray_percent']} % of note-ons "
        f"(wrong pitch {notes['wrong_pitch_percent']} %); RTF mean {speed['rtf_mean']}, "
        f"max {speed['rtf_max']}"
    )
    return "\n".join(lines) + "\n"


def _stay_on_one_core() -> None:
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # Linux: the figure is for one core, whatever BLAS does
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


if __name__ == "__main__":
    main()
