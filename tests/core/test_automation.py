"""Faders moved fast over a steady tone: what is heard between its partials is no louder for it.

A control that acts in steps writes its own rate beside every partial (zipper noise). Each control
is moved up and down twice a second, a hundred steps a second as a surface sends them, and what
falls midway between two partials is compared with the same tone left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from v3audio import timbres
from v3audio.engine import Engine
from v3audio.notes import FrameNotes
from v3audio.renderer import Renderer, RendererConfig
from v3audio.settings import Settings
from v3audio.timbres import Timbre

RATE, PITCH, HZ = 48_000, 57.0, 220.0
STEP = RATE // 100
LEAST_DB = -65.0  # of all sound, spread over the spectrum: far below what a tone hides


class Ear:
    """Hears a steady A3."""

    def frame(self, window: np.ndarray) -> FrameNotes:
        return FrameNotes(-20.0, 0.0, 1.0, PITCH, 1.0)


class Reed:
    """Harmonics that fall as steeply as the style says, and no noise."""

    config = RendererConfig(n_harmonics=40, n_noise=1)

    def __call__(self, style: np.ndarray, pitch: float, level: float, age: float) -> np.ndarray:
        k = np.arange(1, 41, dtype=np.float32)
        rms = np.append(k ** -np.float32(style[0]), np.float32(0))
        return (rms / np.sqrt(rms @ rms)).astype(np.float32)


def timbre(slope: float) -> Timbre:
    return Timbre(name=f"reed-{slope:g}", note_range=(40, 80), model="none", model_sha256="0",
                  style=np.full(16, slope, np.float32))  # fmt: skip


DULL, BRIGHT = timbre(2.0), timbre(0.7)
CORNERS = (DULL, BRIGHT, timbre(1.0), timbre(1.5))


def setting(name: str, low: float, high: float) -> Callable[[Engine, float], None]:
    def move(engine: Engine, share: float) -> None:
        value = low + share * (high - low)
        engine.settings = replace(engine.settings, **{name: value})  # type: ignore[arg-type]

    return move


def morph(engine: Engine, share: float) -> None:
    engine.timbre = timbres.morph(DULL, BRIGHT, share)


def four_corners(engine: Engine, share: float) -> None:
    engine.timbre = timbres.four_corners(CORNERS, share, 1.0 - share)


MOVES: dict[str, Callable[[Engine, float], None]] = {
    "mix": setting("mix", 0.2, 1.0),
    "gain in": setting("gain_in_db", -6.0, 0.0),
    "gain out": setting("gain_out_db", -12.0, 0.0),
    "transpose": setting("transpose", -0.2, 0.2),
    "fine": setting("fine_cents", -20.0, 20.0),
    "snap": setting("snap", 0.0, 1.0),
    "formant": setting("formant", -4.0, 4.0),
    "morph": morph,
    "four corners": four_corners,
}


def between_partials_db(move: Callable[[Engine, float], None] | None, mix: float = 1.0) -> float:
    """Power midway between the partials, against all of it."""
    engine = Engine(DULL, RATE, STEP, hearing=Ear(), renderer=Renderer(Reed(), RATE),
                    settings=Settings(mix=mix, gain_out_db=-6.0))  # fmt: skip
    n = 3 * RATE
    t = np.arange(n) / RATE
    k = np.arange(1, 20)[:, None]
    x = (0.05 * (np.sin(2 * np.pi * HZ * k * t) / k).sum(0)).astype(np.float32)
    out = []
    for i in range(0, n, STEP):
        if move is not None:
            move(engine, abs((2 * i / RATE * 2 + 1) % 2 - 1))
        out.append(engine.process(x[i : i + STEP])[0])
    y = np.concatenate(out)[RATE:].astype(np.float64)  # the attack is over
    angle = 2 * np.pi * np.arange(len(y)) / len(y)
    blackman_harris = (0.35875, -0.48829, 0.14128, -0.01168)
    window = sum(a * np.cos(m * angle) for m, a in enumerate(blackman_harris))
    power = np.abs(np.fft.rfft(y * window)) ** 2
    hz = np.fft.rfftfreq(len(y), 1 / RATE)
    midway = (np.abs(hz / HZ % 1.0 - 0.5) < 0.2) & (hz > HZ) & (hz < 5_000)
    return float(10 * np.log10(power[midway].sum() / power.sum() + 1e-15))


@pytest.mark.parametrize("name", MOVES)
def test_a_moved_control_leaves_no_zipper_noise(name: str) -> None:
    assert between_partials_db(MOVES[name]) < LEAST_DB
