"""Transcribe recordings with one program: run by notes.py in the environment of that program.

    PYTHON benchmarks/peers.py PROGRAM OUT FILE...     writes OUT/<stem>.json for each file

Programs, and how each becomes notes of one voice, all on one core with their own defaults:

- v3audio: `v3audio.transcribe`;
- swift-f0: `SwiftF0.detect_file`, then its own `segment_notes`;
- basic-pitch: its own `predict`; of notes that sound together the louder stays (see `one_voice`);
- aubionotes: `aubio.notes`, stamped when it decides, as its command prints them;
- aubio-yinfft: `aubio.pitch("yinfft")` (window 2048, every 10 ms, -60 dB gate), then `plain_notes`;
- pyin: `librosa.pyin` (MIDI 24 to 100, 16 ms), then `plain_notes`.

A JSON file holds `notes` ([onset_s, offset_s, MIDI with fraction]) and, where the program gives
one, `f0` ([time_s, hz] of its frames, 0 where it hears none). OUT/speed.json holds CPU and wall
seconds of the files alone, CPU seconds of the whole process, and those of one live step where there
is such.
This file imports nothing of v3audio unless asked for it, so that any environment can run it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Rows = list[tuple[float, float, float]]  # onset_s, offset_s, MIDI with its fraction
Track = list[tuple[float, float]]  # time_s, Hz (0: none)
Program = Callable[[str], "tuple[Rows, Track]"]

MODEL = "V3AUDIO_BENCH_MODEL"  # environment variable: a model other than the shipped one
STEP_RATE, STEP_BLOCK = 48_000, 128


def v3audio() -> Program:
    """Our own; the fine pitch of each frame is looked at separately (see notes.py)."""
    import v3audio
    from v3audio.bundle import load_bundle

    hearing = load_bundle(os.environ.get(MODEL) or None).load_hearing()

    def run(path: str) -> tuple[Rows, Track]:
        notes = v3audio.transcribe(path, hearing=hearing)
        return [(n.onset_s, n.offset_s, n.midi + n.cents / 100) for n in notes], []

    return run


def swift_f0() -> Program:
    """swift-f0 with its own notes."""
    from swift_f0 import SwiftF0, segment_notes

    detector = SwiftF0(threads=1)

    def run(path: str) -> tuple[Rows, Track]:
        found = detector.detect_file(path)
        notes = [(n.start, n.end, _midi(n.pitch_hz)) for n in segment_notes(found)]
        return notes, list(zip(found.timestamps, found.pitch_hz, strict=True))

    return run


def basic_pitch() -> Program:
    """basic-pitch, reduced to one voice."""
    with contextlib.redirect_stdout(sys.stderr):
        from basic_pitch import ICASSP_2022_MODEL_PATH
        from basic_pitch.inference import Model, predict

        model_path = Path(ICASSP_2022_MODEL_PATH)
        onnx = model_path if model_path.suffix == ".onnx" else model_path.parent / "nmp.onnx"
        model = Model(onnx)

    def run(path: str) -> tuple[Rows, Track]:
        with contextlib.redirect_stdout(sys.stderr):
            events = predict(path, model)[2]
        return one_voice([(float(e[0]), float(e[1]), float(e[2]), float(e[3])) for e in events]), []

    return run


def aubionotes() -> Program:
    """The note object, fed as its command feeds it."""
    import aubio
    import numpy as np

    hop = 256

    def run(path: str) -> tuple[Rows, Track]:
        x, rate = _read(path)
        notes = aubio.notes("default", 2 * hop, hop, rate)
        rows: Rows = []
        sounding: tuple[float, float] | None = None
        for start in range(0, len(x), hop):
            block = np.pad(x[start : start + hop], (0, max(0, start + hop - len(x))))
            midi, _, ended = notes(block)
            now_s = start / rate
            if (ended or midi) and sounding:
                rows.append((sounding[0], now_s, sounding[1]))
                sounding = None
            if midi:
                sounding = now_s, float(midi)
        if sounding:
            rows.append((sounding[0], len(x) / rate, sounding[1]))
        return [r for r in rows if r[1] > r[0]], []

    return run


def aubio_yinfft() -> Program:
    """The pitch, then `plain_notes`."""
    import aubio
    import numpy as np

    def run(path: str) -> tuple[Rows, Track]:
        x, rate = _read(path)
        hop, window = round(0.01 * rate), 2048
        detect = aubio.pitch("yinfft", window, hop, rate)
        detect.set_silence(-60)
        padded = np.pad(x, (0, -len(x) % hop))
        hz = [float(detect(padded[i : i + hop])[0]) for i in range(0, len(padded), hop)]
        # a frame is the newest 2048 samples: its pitch stands half of them back
        track = [((i + 1) * hop / rate - window / rate / 2, f) for i, f in enumerate(hz)]
        return plain_notes(track), track

    return run


def pyin() -> Program:
    """The pYIN of librosa, then `plain_notes`."""
    import librosa
    import numpy as np

    def run(path: str) -> tuple[Rows, Track]:
        x, rate = librosa.load(path, sr=16_000)
        hz, voiced, _ = librosa.pyin(
            x, fmin=32.7, fmax=2637.0, sr=rate, frame_length=2048, hop_length=256, fill_na=None
        )
        track = [(i * 0.016, float(f)) for i, f in enumerate(hz)]
        heard = [(t, f if v else 0.0) for (t, f), v in zip(track, voiced, strict=True)]
        return plain_notes(heard), [(t, f) for t, f in track if np.isfinite(f)]

    return run


PROGRAMS: dict[str, tuple[str, Callable[[], Program]]] = {
    "v3audio": ("v3audio", v3audio),
    "swift-f0": ("swift-f0", swift_f0),
    "basic-pitch": ("basic-pitch", basic_pitch),
    "aubionotes": ("aubio", aubionotes),
    "aubio-yinfft": ("aubio", aubio_yinfft),
    "pyin": ("librosa", pyin),
}
"""Program: the package whose version is told, and what makes it."""


def plain_notes(track: Track) -> Rows:
    """Notes of a pitch track by the plainest rule: stretches of one semitone.

    The pitch is smoothed by a median of five voiced frames; neighbouring frames whose nearest
    semitone agrees are a note if they last 60 ms; its pitch is the median of the frames.
    """
    from statistics import median

    midi = [_midi(f) if f > 0 else None for _, f in track]
    rows: Rows = []
    smooth: list[int | None] = []
    for i, m in enumerate(midi):
        near = [n for n in midi[max(0, i - 2) : i + 3] if n is not None]
        smooth.append(None if m is None else round(median(near)))
    start = 0
    step_s = track[1][0] - track[0][0] if len(track) > 1 else 0.0
    for i in range(1, len(smooth) + 1):
        if i < len(smooth) and smooth[i] == smooth[start]:
            continue
        onset_s, offset_s = max(track[start][0], 0.0), track[i - 1][0] + step_s
        if smooth[start] is not None and offset_s - onset_s >= 0.06:
            rows.append((onset_s, offset_s, median(m for m in midi[start:i] if m is not None)))
        start = i
    return rows


def one_voice(events: list[tuple[float, float, float, float]]) -> Rows:
    """One voice of notes with a loudness: (onset_s, offset_s, MIDI, loudness) in any order.

    From the loudest on, a note stays unless it begins within one that stays; it ends where the next
    begins.
    """
    kept: list[tuple[float, float, float, float]] = []
    for e in sorted(events, key=lambda e: -e[3]):
        if not any(k[0] <= e[0] < k[1] - 0.03 for k in kept):
            kept.append(e)
    kept.sort()
    ends = [*(k[0] for k in kept), float("inf")][1:]
    return [
        (on, min(off, end), midi)
        for (on, off, midi, _), end in zip(kept, ends, strict=True)
        if min(off, end) > on
    ]


def live_step_us(name: str, path: str) -> tuple[float, float] | None:
    """Median and 95 % of CPU microseconds in a call that hears something: 48 kHz, blocks of 128.

    v3audio: all of `Engine.process`, the sound included. swift-f0: `PitchStream.push`, which gives
    pitch alone. None: the program has no such.
    """
    import numpy as np

    step: Callable[[Any], bool]
    if name == "v3audio":
        from v3audio.engine import Engine

        engine = Engine("flute", STEP_RATE, STEP_BLOCK, os.environ.get(MODEL) or None)
        engine.warm_up()

        def step(block: Any) -> bool:
            before = engine.n_frames
            engine.process(block)
            return engine.n_frames > before
    elif name == "swift-f0":
        from swift_f0 import SwiftF0

        stream = SwiftF0(threads=1, spin=False).stream()

        def step(block: Any) -> bool:
            return len(stream.push(block, STEP_RATE).pitch_hz) > 0
    else:
        return None
    x, _ = _read(path)  # played at 48 kHz whatever its rate: the work is the same
    x = np.resize(x, 20 * STEP_RATE).astype(np.float32)
    spent = []
    for start in range(0, len(x), STEP_BLOCK):
        begun = time.process_time()  # not the wall's: other programs run beside
        if step(x[start : start + STEP_BLOCK]):
            spent.append(1e6 * (time.process_time() - begun))
    return float(np.median(spent)), float(np.percentile(spent, 95))


def _read(path: str) -> tuple[Any, int]:
    import soundfile

    x, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return x.mean(1), rate


def _midi(hz: float) -> float:
    from math import log2

    return 69 + 12 * log2(hz / 440)


def main() -> None:
    """Transcribe, and say how long it took."""
    name, out, *files = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):  # onnxruntime would take every core it sees
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    package, make = PROGRAMS[name]
    program = make()
    program(files[0])  # compiles and loads what the first call does: that is the start's
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    found = [program(file) for file in files]
    speed = {
        "version": version(package),
        "cpu_s": time.process_time() - cpu_s,
        "wall_s": time.perf_counter() - wall_s,
        "all_cpu_s": time.process_time(),
    }
    for file, (notes, track) in zip(files, found, strict=True):
        rows = {"notes": [[float(v) for v in n] for n in notes],
                "f0": [[float(v) for v in t] for t in track]}  # fmt: skip
        (Path(out) / f"{Path(file).stem}.json").write_text(json.dumps(rows))
    speed["step_us"] = live_step_us(name, files[0])
    (Path(out) / "speed.json").write_text(json.dumps(speed))


if __name__ == "__main__":
    main()
