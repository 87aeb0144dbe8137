"""How well are real recordings written down, by v3audio and by its peers? One run, one machine.

    python -m benchmarks.notes [FOLDER] --peers PEERS [--worse] [--pictures DIR] [--json OUT.json]

FOLDER holds `manifest.json`, a list of clips: `id`, `file`, `duration_s`, `instrument`, `group`,
`notes` (a JSON list of `[onset_s, offset_s, midi]`, paths relative to FOLDER) and, where there is
one, `f0` (a CSV of `time_s,f0_hz`). Scores and error classes: note_scores.py; how each peer becomes
notes: peers.py. Every program runs in a process of its own, on one core, over all clips. Rows are
means over clips, by family of instrument, for low clips (median note below E2) and for the
manifest's own groups. Speed is seconds of sound per second of CPU, which other work beside hardly
touches, with the start (imports, model, first clip) left out and counted in.

PEERS holds one environment for each peer; those missing are named and left out. Made by:

    for p in swift-f0 aubio basic-pitch pyin; do python3.11 -m venv PEERS/$p; done
    PEERS/swift-f0/bin/pip install 'swift-f0[audio]==0.3.0'
    PEERS/aubio/bin/pip install 'numpy<2' 'setuptools<70' wheel soundfile
    PEERS/aubio/bin/pip install --no-build-isolation aubio==0.4.9
    PEERS/basic-pitch/bin/pip install 'setuptools<70' onnxruntime 'numpy<2' 'librosa<0.11' \
        mir_eval pretty_midi 'resampy<0.4.3' scikit-learn
    PEERS/basic-pitch/bin/pip install --no-deps basic-pitch==0.4.0
    PEERS/pyin/bin/pip install librosa soundfile

--worse     every program again on the clips made worse (seeded by the clip), and the points of F1
            lost: `phone` 2nd-order band-pass 300 to 3400 Hz; `room` exponential tail of RT60 0.6 s
            with as much energy as the direct sound; `noise` pink, 15 dB below the clip's RMS; `all`
            the room, then the phone, then the noise. Without names: all.
--pictures  a PNG per clip: what the model hears (posterior over pitch, fine pitch, level, attack
            strength), reference and notes, errors by name, and the notes of the best peer.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from scipy import signal

from benchmarks.note_scores import ERRORS, Floats, Rows, Score, errors, mean, score
from benchmarks.peers import MODEL, PROGRAMS

PEER_OF_PICTURE = "swift-f0"
E2 = 40
LAG_S = 0.02  # the pitch of a frame is that of its newest sound, not of its very end
FAMILIES = {  # the first whose words the instrument's name holds
    "voice": r"voice|sing|vocal|choir|humm|soprano voice|tenor voice",
    "plucked, struck": r"pizz|guitar|banjo|mandolin|ukulele|\bharp\b|harpsichord|piano|marimba|"
    r"vibraphone|xylophone|glockenspiel|bells?\b|kalimba|celesta|\blute|sitar|koto|electric bass",
    "reeds": r"clarinet|oboe|bassoon|sax|cor anglais|english horn|harmonica|accordion|pipes|organ",
    "bowed": r"violin|viola|cello|bass\b|contrabass\b|arco|fiddle|strings?\b|erhu",
    "brass": r"trumpet|trombone|horn|tuba|euphonium|cornet|brass",
    "flutes": r"flute|piccolo|recorder|whistle|ocarina|shakuhachi",
}
COLUMNS = {
    "F1": "onset", "+offset": "offset", "octave": "octave", "pitch": "notes_pitch",
    "track": "track_pitch", "false": "false_voicing",
}  # fmt: skip
LEGEND = """\
F1 onset and pitch; +offset the end too; octave what F1 would gain were octaves forgiven; pitch: raw
pitch accuracy of the notes at each 10 ms; track: the same of the program's own pitch track; false:
share of the moments without pitch that got one"""
WORSE = ("phone", "room", "noise")


@dataclass(frozen=True)
class Clip:
    """One recording and its reference."""

    id: str
    file: Path
    duration_s: float
    groups: tuple[str, ...]
    wanted: Rows
    truth: Floats | None


@dataclass(frozen=True)
class Found:
    """What one program made of all clips, by clip id."""

    notes: dict[str, Rows]
    tracks: dict[str, Floats]
    speed: dict[str, Any]


def main() -> None:
    """Parse the options, run, print the tables, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", default="../shared/real", type=Path)
    parser.add_argument("--peers", type=Path, help="folder of the peers' environments")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="comma-separated")
    parser.add_argument("--only", help="comma-separated clip ids")
    parser.add_argument("--model", help="name or folder of a model; the shipped one if left out")
    parser.add_argument("--worse", nargs="*", choices=(*WORSE, "all"), help="disturb the clips")
    parser.add_argument("--pictures", type=Path, help="draw every clip into this folder")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    os.environ[MODEL] = options.model or ""
    clips = load_clips(options.folder, options.only.split(",") if options.only else None)
    programs = available(options.programs.split(","), options.peers)
    conditions = ["clean"]
    if options.worse is not None:
        conditions += options.worse or ["all"]
    report: dict[str, Any] = {"machine": machine()}
    clean: dict[str, list[Score]] = {}
    tell(report["machine"])
    for condition in conditions:
        with tempfile.TemporaryDirectory() as scratch:
            used = worsen(clips, condition, Path(scratch)) if condition != "clean" else clips
            found = {name: run(name, python, used) for name, python in programs.items()}
            heard = {c.id: hear(c.file, options.model) for c in used}
            if ours := found.get("v3audio"):
                ours.tracks.update({clip: track_of(h) for clip, h in heard.items()})
            scores = {name: score_all(used, f) for name, f in found.items()}
            clean = clean or scores
            tell(f"\n== {condition} ==")
            tell(table(used, scores, clean if condition != "clean" else None))
            report[condition] = as_json(used, found, scores)
            if condition == "clean":
                tell(speed_table(used, found))
            if options.pictures:
                options.pictures.mkdir(parents=True, exist_ok=True)
                for clip in used:
                    end = "" if condition == "clean" else f".{condition}"
                    draw(clip, found, heard[clip.id], options.pictures / f"{clip.id}{end}.png")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def tell(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def load_clips(folder: Path, only: Sequence[str] | None = None) -> list[Clip]:
    """The manifest's clips that have a reference."""
    clips = []
    for c in json.loads((folder / "manifest.json").read_text()):
        if not c.get("notes") or (only and c["id"] not in only):
            continue
        wanted = [tuple(n[:3]) for n in json.loads((folder / c["notes"]).read_text())]
        f0 = np.loadtxt(folder / c["f0"], delimiter=",", ndmin=2) if c.get("f0") else None
        groups = groups_of(c.get("instrument", ""), c["group"], wanted)
        clips.append(Clip(c["id"], folder / c["file"], c["duration_s"], groups, wanted, f0))
    return clips


def groups_of(instrument: str, group: str, wanted: Rows) -> tuple[str, ...]:
    """Every group that a clip counts in; none if it has no notes."""
    if not wanted:
        return ()
    words = instrument.lower()
    family = next((f for f, pattern in FAMILIES.items() if re.search(pattern, words)), "other")
    low = ("low",) if np.median([n[2] for n in wanted]) < E2 else ()
    return (family, *low, *((f"[{group}]",) if group != family else ()), "all")


def available(wanted: Iterable[str], peers: Path | None) -> dict[str, str]:
    """The Python of each program; what is missing is said."""
    pythons = {"v3audio": sys.executable}
    missing = []
    for name in wanted:
        package = PROGRAMS[name][0]
        for folder in (name, package) if peers and name != "v3audio" else ():
            python = peers / folder / "bin" / "python"
            if python.exists():
                pythons[name] = str(python)
        if name not in pythons:
            missing.append(name)
    if missing:
        tell(f"not run, no environment in {peers or '--peers FOLDER'}: {', '.join(missing)}")
    return {name: python for name, python in pythons.items() if name in wanted}


def run(name: str, python: str, clips: Sequence[Clip]) -> Found:
    """One program over all clips, in its own environment, on one thread."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    with tempfile.TemporaryDirectory() as out:
        script = Path(__file__).with_name("peers.py")
        command = [python, str(script), name, out, *(str(c.file) for c in clips)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | dict.fromkeys(threads, "1")
        )
        if done.returncode:
            raise SystemExit(f"{name} failed ({done.returncode}): {done.stderr.strip()[-2000:]}")
        notes, tracks = {}, {}
        for clip in clips:
            rows = json.loads((Path(out) / f"{clip.file.stem}.json").read_text())
            notes[clip.id] = [tuple(n) for n in rows["notes"]]
            if rows["f0"]:
                tracks[clip.id] = np.array(rows["f0"])
        return Found(notes, tracks, json.loads((Path(out) / "speed.json").read_text()))


def score_all(clips: Sequence[Clip], found: Found) -> list[Score]:
    """One score a clip."""
    return [
        score(c.wanted, found.notes[c.id], c.duration_s, c.truth, found.tracks.get(c.id))
        for c in clips
    ]


# -- worse sound ----------------------------------------------------------------------------------


def worsen(clips: Sequence[Clip], condition: str, folder: Path) -> list[Clip]:
    """The clips as a worse recording would have them."""
    out = []
    for clip in clips:
        x, rate = soundfile.read(clip.file, always_2d=True)
        y = worse(x.mean(1), rate, condition, zlib.crc32(clip.id.encode()))
        path = folder / f"{clip.id}.wav"
        soundfile.write(path, y, rate, subtype="PCM_24")
        out.append(replace(clip, file=path))
    return out


def worse(x: Floats, rate: int, condition: str, seed: int) -> Floats:
    """(n,) samples through a room, a phone, and with noise; not delayed, peak at most .99."""
    from training.rooms import coloured_noise, room_response

    rng = np.random.default_rng(seed)
    parts = WORSE if condition == "all" else (condition,)
    if "room" in parts:
        x = signal.oaconvolve(x, room_response(rng, rate, rt60_s=0.6, wet=1.0))[: len(x)]
    if "phone" in parts:
        band = signal.butter(2, (300, 3400), "bandpass", fs=rate, output="sos")
        x = signal.sosfilt(band, x)
    if "noise" in parts:
        level = np.sqrt(np.mean(x**2))
        x = x + level * 10 ** (-15 / 20) * coloured_noise(rng, len(x), 1.0)
    return x * min(1.0, 0.99 / max(float(np.abs(x).max()), 1e-9))


# -- tables ---------------------------------------------------------------------------------------


def table(
    clips: Sequence[Clip], scores: dict[str, list[Score]], clean: dict[str, list[Score]] | None
) -> str:
    """Scores by group, errors by program, and silence."""
    lines = [f"{'':32}{'clips':>6}" + "".join(f"{c:>9}" for c in COLUMNS)]
    lines[0] += "  points lost" if clean else ""
    for group in group_names(clips):
        inside = [i for i, c in enumerate(clips) if group in c.groups]
        lines.append(group)
        for name, all_of in scores.items():
            rows = [all_of[i] for i in inside]
            figures = "".join(f"{mean(rows, field):9.3f}" for field in COLUMNS.values())
            before = mean([clean[name][i] for i in inside], "onset") if clean else 0.0
            lost = f"{100 * (before - mean(rows, 'onset')):13.1f}" if clean else ""
            lines.append(f"    {name:28}{len(rows):6}{figures}{lost}")
    lines += [LEGEND, "", "errors per 100 notes of the reference"]
    lines.append(f"    {'':28}" + "".join(f"{e:>9}" for e in ERRORS))
    for name, rows in scores.items():
        total: Counter[str] = sum((s.errors for s in rows if s.n_wanted), Counter())
        n = sum(s.n_wanted for s in rows)
        lines.append(f"    {name:28}" + "".join(f"{100 * total[e] / n:9.1f}" for e in ERRORS))
    silent = {n: sum(s.n_found for s in rows if not s.n_wanted) for n, rows in scores.items()}
    n_silent = sum(not c.wanted for c in clips)
    told = ", ".join(f"{name} {n}" for name, n in silent.items())
    lines.append(f"notes in {n_silent} silent clip(s): {told}")
    return "\n".join(lines)


def group_names(clips: Sequence[Clip]) -> list[str]:
    """Families, low, the manifest's, all."""
    names = {g for c in clips for g in c.groups}
    order = [*FAMILIES, "other", "low"]
    manifest = sorted(n for n in names if n.startswith("["))
    return [n for n in (*order, *manifest, "all") if n in names]


def speed_table(clips: Sequence[Clip], found: dict[str, Found]) -> str:
    """Speed by program."""
    sound_s = sum(c.duration_s for c in clips)
    lines = [f"\nspeed on one core, {sound_s:.0f} s of sound; times real time in CPU seconds"]
    lines.append(f"    {'':28}{'version':>9}{'files':>9}{'+ start':>9}   live step, CPU us")
    for name, f in found.items():
        s = f.speed
        step = "{:.0f}, p95 {:.0f}".format(*s["step_us"]) if s["step_us"] else "-"
        lines.append(
            f"    {name:28}{s['version']:>9}{sound_s / s['cpu_s']:9.0f}"
            f"{sound_s / s['all_cpu_s']:9.0f}   {step}"
        )
    lines.append("live step: 48 kHz, block 128; v3audio with its sound, swift-f0 its pitch alone")
    return "\n".join(lines)


def as_json(
    clips: Sequence[Clip], found: dict[str, Found], scores: dict[str, list[Score]]
) -> dict[str, Any]:
    """All of it, by program and clip."""
    out = {}
    for name, f in found.items():
        of_clip = dict(zip((c.id for c in clips), scores[name], strict=True))
        groups = {}
        for group in group_names(clips):
            rows = [of_clip[c.id] for c in clips if group in c.groups]
            groups[group] = {title: mean(rows, field) for title, field in COLUMNS.items()}
        each = {clip: vars(s) for clip, s in of_clip.items()}
        out[name] = {"speed": f.speed, "groups": groups, "clips": each, "notes": f.notes}
    return out


def machine() -> str:
    """Processor, cores, load, system and Python."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{names[0] if names else platform.processor()} x{os.cpu_count()}{load}, "
        f"{platform.system()}, Python {platform.python_version()}"
    )


# -- what the model hears, and pictures ------------------------------------------------------------


def hear(path: Path, model: str | None) -> Any:
    """What the model hears every 10 ms of a file (`live_hearing.Heard`), frame k up to k + 1."""
    from v3audio.audio_file import load_mono
    from v3audio.bundle import load_bundle
    from v3audio.live_hearing import Heard
    from v3audio.streaming import ANALYSIS_RATE, Framer
    from v3audio.threads import one_thread

    hearing = load_bundle(model).load_hearing()
    framer = Framer(ANALYSIS_RATE // 100)
    windows, _ = framer.step(load_mono(path, sample_rate=ANALYSIS_RATE)[0], framer.init_state())
    with one_thread():
        parts = [hearing.frames(windows[i : i + 128]) for i in range(0, len(windows), 128)]
    return Heard(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def track_of(heard: Any) -> Floats:
    """(T, 2) time and Hz of every frame, `LAG_S` before its end: a pitch track."""
    time_s = (np.arange(len(heard.pitch_midi)) + 1) / 100 - LAG_S
    return np.stack([time_s, 440 * 2 ** ((heard.pitch_midi - 69) / 12)], 1)


def draw(clip: Clip, found: dict[str, Found], heard: Any, path: Path) -> None:
    """One picture; the pitch axis covers what is there."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lanes = [n for n in ("v3audio", PEER_OF_PICTURE) if n in found]
    pitches = [n[2] for n in clip.wanted] or [40.0, 80.0]
    span = min(pitches) - 5, max(pitches) + 14
    size = max(10, 1.1 * clip.duration_s), 4 * len(lanes) + 2
    figure, axes = pyplot.subplots(
        len(lanes) + 1, 1, sharex=True, figsize=size, height_ratios=[*(4 for _ in lanes), 1],
        layout="constrained",
    )  # fmt: skip
    end_s = len(heard.level_db) / 100
    for axis, name in zip(axes, lanes, strict=False):
        notes = found[name].notes[clip.id]
        s = score(clip.wanted, notes, clip.duration_s, clip.truth)
        axis.set_title(f"{clip.id}: {name}, F1 {s.onset:.2f}, + offset {s.offset:.2f}", loc="left")
        if name == "v3audio":
            n = heard.content.shape[1]
            axis.imshow(
                np.sqrt(heard.content.T), origin="lower", aspect="auto", cmap="Blues",
                extent=(0, end_s, 20 - 1 / 6, 20 + (n - 0.5) / 3), interpolation="nearest",
            )  # fmt: skip
            sure = heard.level_db > np.percentile(heard.level_db, 95) - 45
            t = (np.arange(len(sure)) + 1) / 100
            axis.plot(t[sure], heard.pitch_midi[sure], ".", ms=2, color="black")
        elif (track := found[name].tracks.get(clip.id)) is not None:
            axis.plot(track[:, 0], 69 + 12 * np.log2(track[:, 1] / 440), ".", ms=2, color="0.4")
        for on, off, midi in clip.wanted:
            axis.add_patch(
                pyplot.Rectangle((on, midi - 0.5), off - on, 1, fill=False, ec="green", lw=1.4)
            )
        for on, off, midi in notes:
            axis.plot((on, off), (midi, midi), color="red", lw=2.5, solid_capstyle="butt")
            axis.plot((on, on), (midi - 0.6, midi + 0.6), color="red", lw=1)
        for kind, on, _, midi in errors(clip.wanted, notes):
            axis.text(on, min(max(midi, span[0]), span[1] - 2) + 0.9, kind, color="purple", size=8)
        axis.set_ylim(*span)
        axis.set_ylabel("MIDI")
        axis.grid(axis="y", alpha=0.3)
    t = (np.arange(len(heard.level_db)) + 1) / 100
    axes[-1].plot(t, heard.level_db, lw=0.8, label="level, dBFS")
    axes[-1].plot(t, 4 * heard.onset - 80, lw=0.8, label="attack, 4 x dB - 80")
    axes[-1].plot(t, 40 * heard.periodicity - 80, lw=0.8, label="periodicity, 40 x - 80")
    axes[-1].set_ylim(-85, 0)
    axes[-1].legend(ncols=3, fontsize=7, loc="upper right")
    axes[-1].set_xlabel("s; green the reference, red the notes found")
    figure.savefig(path, dpi=70)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
