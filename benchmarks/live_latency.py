"""How late and how right are live notes? `live` from file to file over recordings with known notes.

    python benchmarks/live_latency.py [FOLDER] [--rate 48000] [--block 128] [--json OUT.json]

FOLDER holds a manifest.json: a list of {"id", "file", "notes"} whose notes file is a list of
[onset_s, offset_s, midi]. Each clip goes through `realtime.session.run_live` with `--midi`; the
.mid that a player would have recorded is then read and compared:

- a note-on is right if it has a true note's pitch (within 0.6 semitones) and comes from 50 ms
  before its onset until the note ends, at most 0.5 s later; each true note takes the first;
- its latency is note-on minus true onset; bands: above A3 (MIDI 57), E2 (40) to A3, below E2;
- all other note-ons are stray: of a wrong pitch (an octave or another overtone off, up to two
  semitones off, the note before again, another), a note that was right but came twice, or silence;
- RTF is the time spent in `Engine.process`, on one core, over the duration of the sound.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mido
import numpy as np

from realtime.session import LiveOptions, run_live
from v3audio.engine import Engine

E2, A3 = 40, 57
BANDS = {"above A3": (A3 + 0.5, 128.0), "E2 to A3": (E2 - 0.5, A3 + 0.5), "below E2": (0, E2 - 0.5)}
OVERTONES = (12, 19, 24, 28, 31, 36)  # semitones
EARLY_S, LATE_S = 0.05, 0.5
TOLERANCE = 0.6  # semitones


@dataclass
class Clip:
    """What one clip gave."""

    id: str
    n_true: int
    n_ons: int
    n_stray: int
    n_unmatched_offs: int
    strays: dict[str, int]
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
    truth = json.loads((folder / clip["notes"]).read_text())
    with tempfile.TemporaryDirectory() as scratch:
        midi = Path(scratch) / "live.mid"
        report = run_live(
            LiveOptions(str(folder / clip["file"]), "none", (str(midi),), rate=rate, block=block),
            engine=engine,
        )
        ons, n_unmatched = note_ons(midi)
    return judge(clip["id"], ons, truth, n_unmatched, report.to_json()["rtf"])


def judge(
    clip_id: str,
    ons: list[tuple[float, int]],
    truth: Sequence[Sequence[float]],
    n_unmatched_offs: int = 0,
    rtf: float = 0.0,
) -> Clip:
    """Note-ons against the truth.

    Args:
        clip_id: a name for the table.
        ons: (seconds, MIDI note) in order of time.
        truth: [onset_s, offset_s, midi, ...] a note.
        n_unmatched_offs: notes that never ended, or ended without having begun.
        rtf: time spent over the duration of the sound.
    """
    taken: set[int] = set()
    latencies_ms, pitches = [], []
    strays: Counter[str] = Counter()
    for time_s, note in ons:
        match = None
        for index, (onset_s, offset_s, midi_true, *_) in enumerate(truth):
            in_time = (
                onset_s - EARLY_S <= time_s <= min(onset_s + LATE_S, max(offset_s, onset_s + 0.1))
            )
            if index not in taken and in_time and abs(note - midi_true) <= TOLERANCE:
                match = index  # the latest such note, should two of one pitch overlap in reach
        if match is None:
            strays[kind_of_stray(time_s, note, truth)] += 1
            continue
        taken.add(match)
        latencies_ms.append(1000.0 * (time_s - truth[match][0]))
        pitches.append(truth[match][2])
    return Clip(
        clip_id,
        len(truth),
        len(ons),
        sum(strays.values()),
        n_unmatched_offs,
        dict(strays),
        latencies_ms,
        pitches,
        rtf,
    )


def kind_of_stray(time_s: float, note: int, truth: Sequence[Sequence[float]]) -> str:
    """What a note-on that matches no true note mistook."""
    sounding = [m for on_s, off_s, m, *_ in truth if on_s - EARLY_S <= time_s <= off_s]
    if not sounding:
        return "silence"
    if any(abs(note - m) <= TOLERANCE for m in sounding):
        return "twice"
    ended = [m for _, off_s, m, *_ in truth if off_s <= time_s + EARLY_S]
    if ended and abs(note - ended[-1]) <= TOLERANCE:
        return "note before"
    apart = round(abs(note - sounding[-1]))
    return "overtone" if apart in OVERTONES else "semitones" if apart <= 2 else "other"


def note_ons(path: Path) -> tuple[list[tuple[float, int]], int]:
    """(seconds, MIDI note) of each note-on of a MIDI file, and how many notes never end."""
    now_s, ons = 0.0, []
    open_notes: Counter[int] = Counter()
    for message in mido.MidiFile(path):  # iterating gives times in seconds
        now_s += message.time
        if message.type == "note_on" and message.velocity > 0:
            ons.append((now_s, message.note))
            open_notes[message.note] += 1
        elif message.type in ("note_off", "note_on"):
            open_notes[message.note] -= 1
    return ons, sum(abs(n) for n in open_notes.values())


def summarise(clips: list[Clip]) -> dict[str, dict[str, float]]:
    """Figures over all notes of all clips, and by band."""
    latency = np.array([ms for clip in clips for ms in clip.latencies_ms])
    pitch = np.array([p for clip in clips for p in clip.pitches])
    n_ons = sum(clip.n_ons for clip in clips)
    parts = {"all": pitch > -1}
    parts |= {name: (pitch >= low) & (pitch < high) for name, (low, high) in BANDS.items()}
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
        "unmatched_offs": sum(clip.n_unmatched_offs for clip in clips),
    }
    strays: Counter[str] = Counter()
    for clip in clips:
        strays.update(clip.strays)
    summary["strays"] = dict(strays.most_common())
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
    for name in ("all", *BANDS):
        s = summary[name]
        lines.append(f"{name}: {s['n']} notes, median {s['median_ms']} ms, p95 {s['p95_ms']} ms")
    notes, speed = summary["notes"], summary["speed"]
    kinds = ", ".join(f"{kind} {n:g}" for kind, n in summary["strays"].items())
    lines.append(
        f"found {notes['found_percent']} %, stray {notes['stray_percent']} % of note-ons "
        f"({kinds or 'none'}); note-offs unmatched {notes['unmatched_offs']:g}; "
        f"RTF mean {speed['rtf_mean']}, max {speed['rtf_max']}"
    )
    return "\n".join(lines) + "\n"


def _stay_on_one_core() -> None:
    import torch

    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # Linux: the figure is for one core, whatever BLAS does
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


if __name__ == "__main__":
    main()
