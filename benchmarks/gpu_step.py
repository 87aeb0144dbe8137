"""How long a live frame takes on a GPU, and how many players one card carries.

    python benchmarks/gpu_step.py [--streams 1,8,64,512] [--seconds 3] [--device cuda] [--json OUT]

B windows of the shipped recording go to the card, through the captured graph, and back, again and
again. A frame is due every hop (5 ms), so the card carries as many players as fit into half of it
at the 99th percentile; the other half is left for their renderers and for what else runs. Beside
it stand the times without a graph, and of the CPU's own way (`LiveHearing`, one window). With
`--device cpu` the same steps run without a graph.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from v3audio.bundle import load_bundle
from v3audio.cuda_hearing import CudaHearing
from v3audio.paths import demo_recording
from v3audio.streaming import ANALYSIS_RATE, HOP, WINDOW
from v3audio.threads import one_thread

HOP_MS = 1000.0 * HOP / ANALYSIS_RATE


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", default="1,8,64,256,1024")
    parser.add_argument("--seconds", default=3.0, type=float, help="of measuring for each line")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    bundle = load_bundle()
    hearing = bundle.load_torch_hearing(options.device)
    live = bundle.load_live_hearing("cpu")
    on_gpu = options.device == "cuda"
    name = torch.cuda.get_device_name() if on_gpu else platform.processor() or "CPU"
    say(f"{name}, torch {torch.__version__}, a frame is due every {HOP_MS:g} ms")
    say(f"{'':24}{'streams':>8}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    rows = []

    def row(what: str, n_streams: int, step: Callable[[], object]) -> None:
        p50, p99, longest = timed(step, options.seconds)
        rows.append({"what": what, "streams": n_streams, "p50_ms": p50, "p99_ms": p99,
                     "max_ms": longest})  # fmt: skip
        say(f"{what:24}{n_streams:8}{p50:9.3f}{p99:9.3f}{longest:9.3f}")

    one = some_windows(1)
    with one_thread():
        row("LiveHearing (CPU)", 1, lambda: live.frame(one[0]))
    row("network, no graph", 1, lambda: hearing.frames(one))
    for n_streams in map(int, options.streams.split(",")):
        windows = some_windows(n_streams)
        graph = CudaHearing(hearing, n_streams)
        row("graph and both copies", n_streams, lambda g=graph, w=windows: g.step(w))
    carried = [r["streams"] for r in rows[2:] if r["p99_ms"] < HOP_MS / 2]
    say(f"carries at least {max(carried, default=0)} of those at half load")
    if options.json:
        options.json.write_text(json.dumps({"device": name, "rows": rows}, indent=1))


def say(line: str) -> None:
    """One line on stdout, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def some_windows(n: int) -> np.ndarray:
    """Windows all over the shipped recording, (n, WINDOW) float32."""
    sound, rate = soundfile.read(demo_recording(), dtype="float32")
    x = soxr.resample(sound, rate, ANALYSIS_RATE)
    firsts = np.linspace(0.3 * len(x), len(x) - WINDOW, n).astype(int)
    return np.stack([x[first : first + WINDOW] for first in firsts])


def timed(step: Callable[[], object], seconds: float) -> tuple[float, float, float]:
    """Median, 99th percentile and longest time of a step, in ms."""
    for _ in range(20):
        step()
    taken_ms = []
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        before_s = time.perf_counter()
        step()
        taken_ms.append(1000 * (time.perf_counter() - before_s))
    p50, p99 = np.percentile(taken_ms, [50, 99])
    return float(p50), float(p99), max(taken_ms)


if __name__ == "__main__":
    main()
