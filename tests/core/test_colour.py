"""A colour is found, held by pitch, played as it was fitted, and kept only where it helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from v3audio import colour
from v3audio.colour import Bench, Fit, level_shift_db, measure
from v3audio.notes import Note
from v3audio.renderer import (
    COLOUR_LOUDNESS,
    COLOUR_LOW,
    COLOUR_PITCHES,
    COLOUR_ROWS,
    COLOUR_STEP,
    LOUDNESS_DB,
    RendererConfig,
    colour_at,
)
from v3audio.renderer_net import RendererNet, frozen
from v3audio.spectra import SYNTH_RATE

CONFIG = RendererConfig(hidden=16, n_blocks=1)
LENGTH_S = 0.4
STYLE = np.linspace(-1, 1, 16, dtype=np.float32)


def take(pitches: list[int], levels_db: list[float] | None = None) -> tuple[np.ndarray, list[Note]]:
    """Hollow tones (odd harmonics) that grow brighter with pitch and loudness, over some noise."""
    t = np.arange(round(LENGTH_S * SYNTH_RATE)) / SYNTH_RATE
    rng = np.random.default_rng(0)
    parts, notes = [], []
    for i, midi in enumerate(pitches):
        louder_db = levels_db[i] if levels_db else 0.0
        hz = 440 * 2 ** ((midi - 69) / 12)
        slope = 1.6 - 0.03 * (midi - 60) - 0.03 * louder_db
        k = np.arange(1, 1 + int(18_000 / hz))
        rms = k**-slope * np.where(k % 2, 1.0, 0.05)
        phases = rng.uniform(0, 2 * np.pi, len(k))
        tone = (rms[:, None] * np.sin(2 * np.pi * hz * k[:, None] * t + phases[:, None])).sum(0)
        gain = 0.1 * 10 ** (louder_db / 20)
        parts.append(gain * tone + 1e-4 * rng.standard_normal(len(t)))
        notes.append(Note(i * LENGTH_S, (i + 1) * LENGTH_S, midi, 0.0, 80, 1.0))
    return np.concatenate(parts).astype(np.float32), notes


def bench(pitches: list[int], levels_db: list[float] | None = None) -> Bench:
    torch.manual_seed(0)
    frames = measure(*take(pitches, levels_db), CONFIG)
    return Bench(RendererNet(CONFIG).eval(), frames, STYLE, level_shift_db(frames, -20.0))


@pytest.fixture(scope="module")
def heard() -> Bench:
    return bench([57, 60, 63, 66, 69, 72])


NOTHING = Fit(STYLE, np.zeros((COLOUR_ROWS, 140), np.float32))


def test_frames_stand_by_pitch_at_the_level_of_mezzo_forte() -> None:
    sound, notes = take([69, 57])
    frames = measure(sound, notes, CONFIG)
    assert frames["midi"].unique().tolist() == [57, 69]
    assert (frames["midi"].diff() >= 0).all()
    np.testing.assert_allclose(frames["pitch"], frames["midi"], atol=0.15)
    loud = [float(frames["level"][frames["note"] == i].quantile(0.9)) for i in (0, 1)]
    assert np.median(loud) + level_shift_db(frames, -20.0) == pytest.approx(-20.0, abs=1.0)


def test_what_is_short_or_silent_is_left_out() -> None:
    sound, notes = take([60])
    wrong = [Note(0.0, 0.1, 60, 0.0, 80, 1.0), Note(5.0, 6.0, 60, 0.0, 80, 1.0)]
    assert measure(sound, wrong, CONFIG) == {}
    assert measure(0 * sound, notes, CONFIG) == {}


def test_a_colour_helps_at_pitches_that_were_never_heard(heard: Bench) -> None:
    between = bench([58, 65, 71])
    assert between.loss(heard.fit()) < 0.5 * between.loss(NOTHING)


def test_a_fit_plays_as_it_was_fitted(heard: Bench) -> None:
    """The network that plays adds exactly the colour that the search added."""
    fit = heard.fit(steps=5)
    net = frozen(RendererNet(CONFIG))
    for pitch, level_db in ((57.0, -20.0), (60.7, -30.0), (20.0, -90.0), (120.0, -5.0)):
        plain = net(fit.style, pitch, level_db, 0.3)
        played = net(np.append(fit.style, fit.colour.ravel()), pitch, level_db, 0.3)
        audible = plain > 0
        gain = np.log(played[audible]) - np.log(plain[audible])
        loudness = (max(level_db, -56.0) + 20.0) / LOUDNESS_DB
        wanted = colour_at(fit.colour.ravel(), pitch, loudness)[audible]
        np.testing.assert_allclose(gain - gain.mean(), wanted - wanted.mean(), atol=1e-3)


def test_a_colour_stands_between_its_rows() -> None:
    rows = np.arange(COLOUR_ROWS, dtype=np.float32)[:, None] * np.array([1.0, -2.0], np.float32)
    for row in (0.0, 7.25, COLOUR_PITCHES - 1.5):
        found = colour_at(rows.ravel(), COLOUR_LOW + COLOUR_STEP * row, 0.0)
        np.testing.assert_allclose(found, [row, -2 * row], rtol=1e-5)
    np.testing.assert_allclose(colour_at(rows.ravel(), 0.0, 0.0), 0.0)


def test_a_colour_follows_loudness_within_bounds() -> None:
    rows = np.zeros((COLOUR_ROWS, 2), np.float32)
    rows[-1] = 1.0, -2.0
    low, high = COLOUR_LOUDNESS
    for loudness, followed in ((0.5, 0.5), (-1.0, -1.0), (-9.0, low), (9.0, high)):
        found = colour_at(rows, 60.0, loudness)
        np.testing.assert_allclose(found, [followed, -2 * followed], rtol=1e-6)


def test_louder_notes_teach_how_it_brightens() -> None:
    pitches, levels_db = [57, 57, 61, 61, 65, 65], [0.0, -9.0] * 3
    fit = bench(pitches, levels_db).fit()
    k = np.arange(1, 20, 2)
    assert np.polyfit(np.log(k), fit.colour[-1, k - 1], 1)[0] > 0.03
    unheard = bench([59, 59, 63, 63], [0.0, -9.0] * 2)
    flat = fit._replace(colour=np.vstack([fit.colour[:-1], np.zeros((1, 140), np.float32)]))
    assert unheard.loss(fit) < unheard.loss(flat)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colour, "ADAPT_STEPS", 60)
    monkeypatch.setattr(colour, "STEPS", 20)


def test_adapting_comes_nearer_and_says_how_much(heard: Bench, quick: None) -> None:
    n_told = 0

    def told() -> None:
        nonlocal n_told
        n_told += 1

    fit, before, after = heard.adapt(told)
    assert 0 < after < before
    assert heard.loss(fit) < heard.loss(heard.fit(60))
    assert not np.array_equal(fit.style, STYLE)
    assert n_told == 120


def test_an_adaptation_that_does_not_help_is_dropped(
    heard: Bench, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 1.1])
    monkeypatch.setattr(Bench, "loss", lambda *_: next(losses))
    fit, before, after = heard.adapt()
    assert (before, after) == (1.0, 1.1)
    np.testing.assert_array_equal(fit.style, STYLE)
    np.testing.assert_allclose(fit.colour, heard.fit().colour, atol=1e-5)


def test_too_few_pitches_are_not_adapted_to(quick: None) -> None:
    fit, before, after = bench([60, 64]).adapt()
    assert (before, after) == (0.0, 0.0)
    np.testing.assert_array_equal(fit.style, STYLE)
