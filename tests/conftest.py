"""What all tests share: a home of their own, synthesised sound, and skips that are said by name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

# Frames are heard one by one: a second thread only waits, and on a busy machine waits long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

NO_SKIPS = os.environ.get("V3AUDIO_NO_SKIPS") == "1"  # set where everything is installed

WriteSound = Callable[..., Path]


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user home, so that no test sees or touches the real one."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("V3AUDIO_HOME", str(folder))
    return folder


@pytest.fixture
def write_sound(tmp_path: Path) -> WriteSound:
    """Write samples, or a 440 Hz tone of `duration_s`, to a file below the test's folder."""

    def write(
        name: str = "tone.wav",
        samples: np.ndarray | None = None,
        *,
        duration_s: float = 0.5,
        sample_rate: int = 16_000,
        n_channels: int = 1,
        subtype: str | None = None,
    ) -> Path:
        if samples is None:
            time_s = np.arange(round(duration_s * sample_rate)) / sample_rate
            samples = 0.3 * np.sin(2 * np.pi * 440 * time_s)
        if n_channels > 1 and samples.ndim == 1:
            samples = np.stack([samples] * n_channels, axis=1)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, sample_rate, subtype=subtype)
        return path

    return write


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what needs something that this machine lacks."""
    reasons = {"fluidsynth": _fluidsynth_lacks, "gpu": _gpu_lacks, "browser": _browser_lacks}
    for marker, lacks in reasons.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and (reason := lacks()):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With V3AUDIO_NO_SKIPS=1, a skipped test fails the run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if NO_SKIPS and skipped:
        reporter.write_line(f"\nV3AUDIO_NO_SKIPS=1, but {len(skipped)} skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _fluidsynth_lacks() -> str:
    from training.soundfonts import find_soundfonts, fluidsynth_available
    from v3audio.errors import V3AudioError

    if not fluidsynth_available():
        return "FluidSynth is missing: apt install fluidsynth"
    try:
        find_soundfonts()
    except V3AudioError as e:
        return str(e)
    return ""


def _gpu_lacks() -> str:
    import torch

    return "" if torch.cuda.is_available() else "no CUDA device"


def _browser_lacks() -> str:
    known = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return "" if any(map(shutil.which, known)) else "no Chromium: apt install chromium"
