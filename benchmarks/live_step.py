"""How long does the engine think per step, and about what? On one core, over real recordings.

    python benchmarks/live_step.py [FOLDER] [--block 128] [--paced] [--beside] [--repeat 3]

FOLDER holds a manifest.json: a list of {"id", "file"}. Every clip goes through `Engine.process`
block by block at 48 kHz. A step is a call in which a frame was heard (every 5 ms, more than every
second block of 128); the others only hand out what was rendered. Printed are microseconds.

--paced   waits for each block's time as a sound card does, so that caches and clock cool down
          between steps, as they do for a player; without it the steps run one after the other.
--beside  a second Python thread works 10 ms out of every 50 ms, as a status line or OSC would.
--repeat  plays each clip so many times and counts each step's least time: what the step itself
          takes, on a machine that other programs use too.
--numpy   without what was compiled when v3audio was installed.
--switch  seconds after which Python lets another thread have its turn (its own default: 0.005).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from v3audio import compiled
from v3audio.audio_file import load_mono
from v3audio.engine import Engine

RATE = 48000
PARTS = ("resample", "hear", "notes", "render")


class Stopwatch:
    """Time spent within calls, by part, of the step under way."""

    def __init__(self) -> None:
        self.spent_us = dict.fromkeys(PARTS, 0.0)

    def around(self, owner: Any, method: str, part: str) -> None:
        """Replace `owner.method` by itself with a clock around it."""
        call: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.spent_us[part] += 1e6 * (time.perf_counter() - start)

        setattr(owner, method, timed)


def main() -> None:
    """Parse the options, run, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", default="../shared/real", type=Path)
    parser.add_argument("--block", default=128, type=int)
    parser.add_argument("--timbre", default="flute")
    parser.add_argument("--seconds", default=60.0, type=float, help="of sound, all clips alike")
    parser.add_argument("--paced", action="store_true")
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--repeat", default=1, type=int)
    parser.add_argument("--numpy", action="store_true")
    parser.add_argument("--switch", type=float, help="sys.setswitchinterval")
    parser.add_argument("--core", type=int, help="stay on this core (Linux)")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    if options.switch:
        sys.setswitchinterval(options.switch)
    if options.numpy:
        compiled.library = lambda: None
    engine = Engine(options.timbre, RATE, options.block)
    engine.warm_up()
    gc.freeze()
    gc.disable()  # as a live session does
    watch = Stopwatch()
    watch.around(engine._newest, "step", "resample")
    watch.around(engine._hearing, "frame", "hear")
    watch.around(engine._tracker, "step", "notes")
    watch.around(engine._renderer, "render", "render")
    clips = json.loads((options.folder / "manifest.json").read_text())
    found = []
    with beside(options.beside):
        for clip in clips:
            n = int(options.seconds * RATE / len(clips))
            sound = load_mono(options.folder / clip["file"], sample_rate=RATE)[0][:n]
            again = range(options.repeat)
            runs = [run(engine, watch, sound, options.block, options.paced) for _ in again]
            found.append(np.min(runs, axis=0))
    sys.stdout.write(table(np.concatenate(found)))


def run(
    engine: Engine, watch: Stopwatch, sound: np.ndarray, block: int, paced: bool
) -> list[list[float]]:
    """One clip; microseconds of each step: whole, then `PARTS`."""
    engine.reset()
    steps = []
    due = time.perf_counter()
    for start in range(0, len(sound) - block + 1, block):
        part = sound[start : start + block]
        if paced:
            due += block / RATE
            time.sleep(max(0.0, due - time.perf_counter()))
        watch.spent_us = dict.fromkeys(PARTS, 0.0)
        n_frames, begun = engine.n_frames, time.perf_counter()
        engine.process(part)
        whole = 1e6 * (time.perf_counter() - begun)
        if engine.n_frames > n_frames:
            steps.append([whole, *watch.spent_us.values()])
    return steps


@contextmanager
def beside(wanted: bool) -> Iterator[None]:
    """A thread that formats text a fifth of the time."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.04):
            until = time.perf_counter() + 0.010
            while time.perf_counter() < until:
                " ".join(f"{k / 7:8.3f}" for k in range(50))

    thread = threading.Thread(target=work, daemon=True)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if wanted:
            thread.join()


def table(steps: np.ndarray) -> str:
    """The figures as text."""
    rest = steps[:, 0] - steps[:, 1:].sum(1)
    columns = {"step": steps[:, 0], **dict(zip(PARTS, steps[:, 1:].T, strict=True)), "rest": rest}
    how = "compiled" if compiled.library() else "numpy"
    lines = [f"{len(steps)} steps on {machine()}, {how}; microseconds"]
    lines.append(f"{'':10}{'median':>9}{'p95':>9}{'p99':>9}{'max':>9}")
    for name, column in columns.items():
        figures = (*np.percentile(column, (50, 95, 99)), column.max())
        lines.append(f"{name:10}" + "".join(f"{figure:9.0f}" for figure in figures))
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Processor, cores, system and Python."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    name = names[0] if names else platform.processor()
    return f"{name} x{os.cpu_count()}, {platform.system()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
