"""Two hours take no more memory than two minutes: only a few bytes a frame are kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from v3audio.bundle import Bundle

MEASURE = """
import resource, sys
from v3audio.cli import app

def peak_mb(source):
    words = [{"IN": source}.get(word, word) for word in sys.argv[3:]]
    try:
        app(words)
    except SystemExit as end:
        assert not end.code, end.code
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

short = peak_mb(sys.argv[1])
own = next(int(x.split()[1]) for x in open("/proc/self/status") if x.startswith("RssAnon"))
print("own", own / 1024)  # read now: the kernel takes idle library pages back as it likes
print("grown", peak_mb(sys.argv[2]) - short)
"""


def write_melody(path: Path, duration_s: int, sample_rate: int) -> Path:
    rng = np.random.default_rng(0)
    time_s = np.arange(sample_rate) / sample_rate
    with soundfile.SoundFile(path, "w", sample_rate, 2, "PCM_16") as file:
        for _ in range(duration_s):
            tone = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 800) * time_s)
            file.write(np.stack([tone, tone], axis=1))
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("words", "short_s", "long_s", "sample_rate"),
    [
        (["transcribe", "IN", "-o", "out.mid"], 125, 185, 192_000),  # in stretches of 120 s
        (["encode", "IN", "-o", "out.npz"], 5, 65, 192_000),
        (["transfer", "IN", "-o", "out.wav", "--timbre", "reed"], 5, 45, 192_000),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else "",
)
def test_memory_does_not_grow_with_the_length(
    instrument: Bundle,
    tmp_path: Path,
    words: list[str],
    short_s: int,
    long_s: int,
    sample_rate: int,
) -> None:
    short = write_melody(tmp_path / "short.wav", short_s, sample_rate)
    long = write_melody(tmp_path / "long.wav", long_s, sample_rate)
    said = subprocess.run(
        [sys.executable, "-c", MEASURE, str(short), str(long), *words],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ).stdout  # fmt: skip
    words_by_line = (line.split() for line in said.splitlines())
    mb = {w[0]: float(w[1]) for w in words_by_line if w[0] in ("grown", "own")}
    in_memory_mb = (long_s - short_s) * sample_rate * 4 / 2**20  # what one mono copy would take
    assert mb["grown"] < 0.6 * in_memory_mb
    assert mb["own"] < 600  # without the libraries, which are mapped from disk and shared
