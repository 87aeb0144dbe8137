"""How well `v3audio transcribe` writes down real recordings: `notes_real.py FOLDER`.

FOLDER holds `manifest.json`, a list of clips: `id`, `file`, `duration_s`, `group`, `notes` (a JSON
list of `[onset_s, offset_s, midi]`, paths relative to FOLDER) and, where there is one, `f0` (a CSV
of `time_s,f0_hz`). The command runs as a user would run it, in a process of its own; scoring is
mir_eval's (onset within 50 ms, pitch within 50 cents; offset within 50 ms or 20 % of the note). A
group's figures are means over its clips. A clip without notes counts the notes found in it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mir_eval
import numpy as np
from numpy.typing import NDArray

Rows = list[tuple[float, float, float]]  # onset_s, offset_s, MIDI with its fraction
COLUMNS = ("F1 onset+pitch", "F1 +offset", "raw pitch", "false voicing")


@dataclass(frozen=True)
class Score:
    """One clip: four figures of 0..1 (NaN where the clip cannot say), and the notes found."""

    group: str
    figures: tuple[float, float, float, float]
    n_wanted: int
    n_found: int


def transcribe_all(clips: list[dict[str, Any]], folder: Path, model: str | None) -> dict[str, Rows]:
    """Run the command once over all clips and read what it wrote."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", "from v3audio.cli import main; main()"]
        command += ["transcribe", "-o", out, "--format", "json"]
        command += ["--model", model] if model else []
        command += [str(folder / clip["file"]) for clip in clips]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"transcribe failed ({done.returncode}): {done.stderr.strip()}")
        found = {}
        for clip in clips:
            notes = json.loads((Path(out) / f"{Path(clip['file']).stem}.json").read_text())
            found[clip["id"]] = [
                (n["onset_s"], n["offset_s"], n["midi"] + n["cents"] / 100) for n in notes
            ]
    return found


def score(clip: dict[str, Any], folder: Path, found: Rows) -> Score:
    """Compare one clip's notes with its reference."""
    wanted: Rows = [tuple(n[:3]) for n in json.loads((folder / clip["notes"]).read_text())]
    if not wanted:
        return Score(clip["group"], (np.nan,) * 4, 0, len(found))
    f1 = _f1(wanted, found, None), _f1(wanted, found, 0.2)
    time_s = np.arange(0.0, clip["duration_s"], 0.01)
    truth = _pitch_at(wanted, time_s)
    if clip.get("f0"):
        track = np.loadtxt(folder / clip["f0"], delimiter=",", ndmin=2)
        nearest = np.abs(track[:, :1] - time_s).argmin(0)
        hz = np.where(np.abs(track[nearest, 0] - time_s) <= 0.03, track[nearest, 1], 0.0)
        truth = np.where(hz > 0, 69 + 12 * np.log2(np.maximum(hz, 1.0) / 440), np.nan)
    heard = _pitch_at(found, time_s)
    voiced = np.isfinite(truth)
    right = float((np.abs(heard[voiced] - truth[voiced]) <= 0.5).mean())
    false = float(np.isfinite(heard[~voiced]).mean()) if (~voiced).any() else np.nan
    return Score(clip["group"], (*f1, right, false), len(wanted), len(found))


def _f1(wanted: Rows, found: Rows, offset_ratio: float | None) -> float:
    if not found:
        return 0.0
    (a, a_hz), (b, b_hz) = (_intervals(x) for x in (wanted, found))
    return float(
        mir_eval.transcription.precision_recall_f1_overlap(
            a, a_hz, b, b_hz, offset_ratio=offset_ratio
        )[2]
    )


def _intervals(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    table = np.array(rows)
    return table[:, :2], 440.0 * 2.0 ** ((table[:, 2] - 69.0) / 12.0)


def _pitch_at(rows: Rows, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
    pitch = np.full(len(time_s), np.nan)
    for onset_s, offset_s, midi in rows:
        pitch[(time_s >= onset_s) & (time_s < offset_s)] = midi
    return pitch


def report(scores: list[Score]) -> str:
    """A table: one row for each group that has notes, then the mean over all their clips."""
    scored = [s for s in scores if s.n_wanted]
    groups = {g: [s for s in scored if s.group == g] for g in sorted({s.group for s in scored})}
    groups["all clips with notes"] = scored
    lines = ["".join(f"{h:>16}" for h in (f"{'group':24}", "clips", *COLUMNS))]
    for name, rows in groups.items():
        means = np.nanmean([s.figures for s in rows], axis=0)
        lines.append(f"{name:24}{len(rows):16}" + "".join(f"{m:16.3f}" for m in means))
    silent = [s for s in scores if not s.n_wanted]
    lines.append(f"notes in {len(silent)} silent clip(s): {sum(s.n_found for s in silent)}")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="clips with manifest.json")
    parser.add_argument("--model", help="name or folder of a model; the shipped one if left out")
    args = parser.parse_args()
    clips = json.loads((args.folder / "manifest.json").read_text())
    start = time.monotonic()
    found = transcribe_all(clips, args.folder, args.model)
    wall_s = time.monotonic() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    sound_s = sum(clip["duration_s"] for clip in clips)
    sys.stdout.write(report([score(c, args.folder, found[c["id"]]) for c in clips]) + "\n")
    sys.stdout.write(
        f"{sound_s:.0f} s of sound in {wall_s:.1f} s ({sound_s / wall_s:.0f} times real time), "
        f"{usage.ru_utime + usage.ru_stime:.1f} s of CPU, the program's start included\n"
    )


if __name__ == "__main__":
    main()
