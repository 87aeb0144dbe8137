"""Analysis of notes, the loss's mel spectra, the metric, and a small training from end to end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from training import render_data, render_train
from training.render_data import (
    NOTE_PAD,
    InstrumentTable,
    RenderDataConfig,
    analyse_note,
    frame_times,
)
from training.render_train import LossConfig, OptimConfig, Recipe, RunConfig, StyleConfig
from v3audio import render_loss, spectra
from v3audio.errors import ConfigError
from v3audio.loudness import k_weight
from v3audio.renderer import RendererConfig
from v3audio.spectra import SYNTH_RATE

SMALL = RendererConfig(hidden=48, n_blocks=1)
HOLD_S = 0.5


def tone(midi: int, rms: np.ndarray, *, cents: float = 0.0, noise: float = 0.0, slope_db: float = 0,
         seed: int = 0) -> np.ndarray:
    """A stereo note with the given RMS per harmonic, as `StereoSynth.play_note` returns one."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(HOLD_S * SYNTH_RATE)) / SYNTH_RATE
    hz = 440 * 2 ** ((midi - 69 + cents / 100) / 12)
    x = sum(np.sqrt(2) * r * np.sin(2 * np.pi * hz * (k + 1) * t + rng.uniform(0, 6.3))
            for k, r in enumerate(rms) if hz * (k + 1) < 20_000)
    x = (x + noise * rng.standard_normal(len(t))) * 10 ** (slope_db * t / 20)
    return np.pad(np.stack([x, x], 1), ((NOTE_PAD, 0), (0, 0))).astype(np.float32)


def small_table(program: int, slope: float, noise: float) -> InstrumentTable:
    """An instrument whose harmonics fall as k**-slope at every pitch."""
    notes = [analyse_note(tone(m, 0.1 * np.arange(1, 31.0) ** -slope, noise=noise, seed=m), m, 80,
                          HOLD_S, SMALL) for m in range(57, 72, 2)]
    columns = {name: np.stack([getattr(n, name) for n in notes]) for name in (
        "level_db", "frame_cents", "harmonics", "noise", "mel")}
    return InstrumentTable(
        program, np.array([n.midi for n in notes], np.int16), np.full(len(notes), 80, np.int16),
        notes[0].age_s, columns["level_db"], columns["frame_cents"].astype(np.float16),
        columns["harmonics"].astype(np.float16), columns["noise"].astype(np.float16),
        columns["mel"].astype(np.float16), np.zeros((0, 0), np.int16), np.zeros(0, np.int16),
        columns["level_db"])


@pytest.fixture(scope="module")
def tables() -> list[InstrumentTable]:
    return [small_table(0, 0.5, 0.02), small_table(1, 2.0, 0.0005)]


def recipe(out: Path, steps: int = 100) -> Recipe:
    return Recipe(run=RunConfig(out=out, checkpoint_every=1000), model=SMALL,
                  style=StyleConfig(note_share=0.0, jitter=0.01), loss=LossConfig(),
                  optim=OptimConfig(lr=5e-3, warm_up=10, steps=steps, pitches=8, frames=16,
                                    average=0.9))


@pytest.mark.parametrize("midi", [36, 57, 84])
def test_analysis_finds_what_was_put_in(midi: int) -> None:
    want = 0.1 * np.arange(1, 31.0) ** -1.0
    sigma = 0.01
    found = analyse_note(tone(midi, want, cents=12.0, noise=sigma), midi, 80, HOLD_S, SMALL)
    assert found is not None
    assert found.cents == pytest.approx(12.0, abs=2.0)
    assert found.stretch == 0.0
    steady = (found.age_s > 0.15) & (found.age_s < 0.4)
    n = min(10, int(19_000 / (440 * 2 ** ((midi - 69) / 12))))
    got = 20 / np.log(10) * np.log(np.exp(2 * found.harmonics[steady, :n]).mean(0)) / 2
    np.testing.assert_allclose(got, 20 * np.log10(want[:n]), atol=1.0)
    edges = SMALL.noise_edges_hz()
    density = sigma**2 / (SYNTH_RATE / 2)
    want_noise = 10 * np.log10(density * np.diff(edges))[25:]
    got_noise = 10 * np.log10(np.exp(2 * found.noise[steady, 25:]).mean(0))
    np.testing.assert_allclose(got_noise, want_noise, atol=3.0)
    power = np.exp(2 * found.harmonics).sum(1) + np.exp(2 * found.noise).sum(1)
    np.testing.assert_allclose(10 * np.log10(power[steady]), found.level_db[steady], atol=1.0)


def test_analysis_refuses_silence_and_other_pitches() -> None:
    flat = np.full(10, 0.1)
    assert analyse_note(tone(60, flat * 0), 60, 80, HOLD_S, SMALL) is None
    assert analyse_note(tone(66, flat[:3]), 60, 80, HOLD_S, SMALL) is None


def test_analysis_sees_stiff_strings() -> None:
    k = np.arange(1, 16)
    stretch, midi = 2e-4, 50
    hz = 440 * 2 ** ((midi - 69) / 12) * k * np.sqrt(1 + stretch * k**2)
    t = np.arange(round(HOLD_S * SYNTH_RATE)) / SYNTH_RATE
    x = (0.1 * np.sin(2 * np.pi * hz[:, None] * t)).sum(0)
    x = np.pad(np.stack([x, x], 1), ((NOTE_PAD, 0), (0, 0))).astype(np.float32)
    found = analyse_note(x, midi, 80, HOLD_S, SMALL)
    assert found is not None and found.stretch == pytest.approx(stretch, rel=0.5)


def test_predicted_mel_equals_measured_mel() -> None:
    """What the loss says a frame's mel spectrum is, a real FFT of the frame says too."""
    midi = 62
    rms = 0.1 * np.arange(1, 101.0) ** -1.0
    sound = tone(midi, rms)
    measured = spectra.mel_power(sound, np.array([NOTE_PAD + 12_000]))[0]
    hz = 440 * 2 ** ((midi - 69) / 12) * np.arange(1, 101)
    power = torch.from_numpy(rms**2 * (hz < 20_000)).float()
    predicted = (power @ render_loss.harmonic_mel(midi, 100)).numpy()
    loud = measured > measured.max() * 1e-4
    assert loud.sum() > 40
    np.testing.assert_allclose(10 * np.log10(predicted[loud]), 10 * np.log10(measured[loud]),
                               atol=0.5)


def test_predicted_noise_mel_equals_measured_mel() -> None:
    sigma = 0.1
    x = (sigma * np.random.default_rng(0).standard_normal(200_000)).astype(np.float32)
    measured = spectra.mel_power(x, np.arange(5_000, 195_000, 1_000)).mean(0)
    bands = sigma**2 / (SYNTH_RATE / 2) * np.diff(SMALL.noise_edges_hz())
    predicted = (torch.from_numpy(bands).float() @ render_loss.noise_mel(SMALL)).numpy()
    np.testing.assert_allclose(10 * np.log10(predicted[2:]), 10 * np.log10(measured[2:]), atol=1.0)


def test_mel_distance_is_a_mean_of_log_amplitude_ratios() -> None:
    real = np.full((10, 80), 1e-3, np.float32)
    assert render_train.mel_distance(real, real * 7) == pytest.approx(0.0, abs=1e-6)
    other = real.copy()
    other[:, ::2] *= np.e**2  # alternate bands one neper apart, whatever the common level
    assert render_train.mel_distance(real, other) == pytest.approx(0.5, abs=0.08)
    silent = real * 1e-9
    silent[:, 0] = 1.0
    assert render_train.mel_distance(silent, silent * np.float32(0.5) + silent * 0) < 1e-6


def test_decay_is_measured_over_pitch(tables: list[InstrumentTable]) -> None:
    age = frame_times(1.2).astype(np.float32)
    midi = np.arange(40, 85, 3, dtype=np.int16)
    slopes = 5 + 0.5 * (midi - 40.0)
    level = -20 - slopes[:, None] * age
    guitar = next(t for t in render_data.TIMBRES if t.name == "nylon-guitar")
    flute = next(t for t in render_data.TIMBRES if t.name == "flute")
    table = dataclasses.replace(tables[0], midi=midi, age_s=age, level_db=level.astype(np.float32))
    low, high = render_data.decay(table, guitar)
    assert low == pytest.approx(5.0, abs=0.3) and high == pytest.approx(27.0, abs=0.3)
    assert render_data.decay(table, flute) == (0.0, 0.0)


def test_k_weighting() -> None:
    gain = 10 * np.log10(k_weight(np.array([38.0, 997.0, 10_000.0])))
    assert gain[0] == pytest.approx(-6.0, abs=0.1)  # the high-pass's corner
    assert gain[1] == pytest.approx(0.69, abs=0.05)  # the -0.691 of BS.1770 undoes it
    assert gain[2] == pytest.approx(4.0, abs=0.2)


def test_tells_two_instruments_apart_on_an_unseen_pitch(
    tables: list[InstrumentTable], tmp_path: Path
) -> None:
    styles = render_train.stand_in_styles([0, 1], 16)
    said: list[str] = []
    net = render_train.train(recipe(tmp_path), tables, styles, say=said.append)
    assert said[-1].startswith("renderer step 100/100")
    for table, slope in zip(tables, (0.5, 2.0), strict=True):
        style = torch.from_numpy(styles[table.program])
        with torch.no_grad():
            row = net(style, torch.tensor([65.0]), torch.tensor([-20.0]), torch.tensor([0.2]))[0]
        got = float(row[0] - row[7]) / np.log(8)  # 65 is a multiple of 5: never trained on
        assert got == pytest.approx(slope, abs=0.35)


def test_resume_equals_uninterrupted(tables: list[InstrumentTable], tmp_path: Path) -> None:
    styles = render_train.stand_in_styles([0, 1], 16)
    whole = render_train.train(recipe(tmp_path / "a", 20), tables, styles, say=lambda s: None)
    render_train.train(recipe(tmp_path / "b", 20), tables, styles, say=lambda s: None, stop_after=9)
    resumed = render_train.train(recipe(tmp_path / "b", 20), tables, styles, say=lambda s: None,
                                 resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_held_out_notes_are_never_drawn(tables: list[InstrumentTable]) -> None:
    frames = render_train.FrameSet(tables, lambda midi: midi % 5 != 0)
    assert set(frames.midis.tolist()) == {57, 59, 61, 63, 67, 69, 71}
    batch = frames.draw(6, 10, torch.Generator().manual_seed(0))
    assert (batch["midi"].view(6, 10) == batch["midi"].view(6, 10)[:, :1]).all()
    with pytest.raises(ConfigError, match="no notes"):
        render_train.FrameSet(tables, lambda midi: False)


def test_measured_frames_play_back_as_the_note(tables: list[InstrumentTable]) -> None:
    """Analysis and resynthesis of a note come close to it: the bound of the metric."""
    sound = tone(60, 0.1 * np.arange(1, 31.0) ** -1.2, noise=0.003)
    found = analyse_note(sound, 60, 80, HOLD_S, SMALL)
    assert found is not None
    source = render_train.MeasuredSpectrum(
        SMALL, found.age_s, np.concatenate([found.harmonics, found.noise], 1))
    played = render_train.play_like(source, np.zeros(16, np.float32), found, 0.0, 0.45)
    centres = np.arange(4_800, 19_200, 480)
    real = spectra.mel_power(sound, centres + NOTE_PAD)
    assert render_train.mel_distance(real, spectra.mel_power(played, centres)) < 0.2
    octave = analyse_note(tone(72, 0.1 * np.arange(1, 31.0) ** -1.2), 72, 80, HOLD_S, SMALL)
    assert octave is not None
    wrong = render_train.play_like(source, np.zeros(16, np.float32), octave, 0.0, 0.45)
    assert render_train.mel_distance(real, spectra.mel_power(wrong, centres)) > 0.5


def test_style_table_hears_the_tones(tables: list[InstrumentTable]) -> None:
    """One vector a tone, and the same tone twice is the same vector, however loud."""
    from v3audio.model import ModelConfig, V3Model

    torch.manual_seed(0)
    model = V3Model(ModelConfig()).eval()
    t = np.arange(8_000) / 16_000
    saw = (t * 220 % 1 - 0.5) * 20_000
    pluck = saw * np.exp(-t / 0.01)  # over before the first frame is taken
    tones = np.stack([saw, saw / 2, pluck]).astype(np.int16)
    heard = render_train.style_table(model, [dataclasses.replace(tables[0], tones=tones)])
    assert heard[0].shape == (3, 16) and np.isfinite(heard[0]).all()
    np.testing.assert_allclose(heard[0][0], heard[0][1], atol=0.02)
    assert np.abs(heard[0][0] - heard[0][2]).max() > 0.05


def test_timbres_are_written_as_they_are_read(tmp_path: Path) -> None:
    from v3audio import timbres
    from v3audio.bundle import Bundle

    style = np.linspace(-1, 1, 16).astype(np.float32)
    measured = render_train.TimbreMeasures("nylon-guitar", 24, (40, 84), style, -1.5, (6.0, 30.0),
                                           0.8)
    (path,) = render_train.write_timbres(tmp_path / "t", Bundle(tmp_path / "m", {}, None, "a" * 64),
                                         [measured])
    back = timbres.load(path)
    np.testing.assert_array_equal(back.style, style)
    assert (back.name, back.note_range, back.gain_db) == ("nylon-guitar", (40, 84), -1.5)
    assert (back.model, back.model_sha256, back.licence) == ("m", "a" * 64, "MIT")
    assert back.decay_db_per_s == 18.0
    assert back.extras == {"decay_low_db_per_s": 6.0, "decay_high_db_per_s": 30.0,
                           "release_s": 0.8}


def test_refuses_a_run_folder_in_use(tmp_path: Path) -> None:
    one = recipe(tmp_path / "run")
    render_train._claim(one, resume=False)
    render_train._claim(one, resume=True)
    with pytest.raises(ConfigError, match="already holds a run"):
        render_train._claim(one, resume=False)
    other = dataclasses.replace(one, model=RendererConfig(hidden=32))
    with pytest.raises(ConfigError, match="other settings"):
        render_train._claim(other, resume=True)


def test_refuses_bad_recipes() -> None:
    with pytest.raises(ConfigError, match="velocities"):
        RenderDataConfig(velocities=[0])
    with pytest.raises(ConfigError, match="programs"):
        RenderDataConfig(programs=[127])
    with pytest.raises(ConfigError, match="hold_s"):
        RenderDataConfig(hold_s=0.01)
    with pytest.raises(ConfigError, match=r"no style vector for programs \[5\]"):
        render_train.Styles({1: np.zeros((1, 16), np.float32)}, [1, 5])


@pytest.mark.fluidsynth
def test_builds_a_cache_once(tmp_path: Path) -> None:
    from training.soundfonts import FluidSynthMissing, find_soundfonts, fluidsynth_available

    try:
        find_soundfonts()
    except FluidSynthMissing as e:
        pytest.skip(str(e))
    if not fluidsynth_available():
        pytest.skip("FluidSynth is not installed")
    config = RenderDataConfig(folder=tmp_path, programs=[73], velocities=[60, 100], note_step=12,
                              hold_s=0.4)
    said: list[str] = []
    paths = render_data.build(config, SMALL, said.append)
    assert [p.name for p in paths] == ["073.npz"] and len(said) == 1
    (table,) = render_data.load(paths, -20.0)
    assert table.midi.tolist() == [55, 55, 67, 67, 79, 79, 91, 91]
    assert np.all(np.diff(table.raw_level_db.max(1))[::2] > 5)  # velocity 100 is louder than 60
    assert np.abs(table.frame_cents.astype(float)).max() < 60
    assert table.tones.shape == (0, 0) or table.tones.dtype == np.int16
    assert render_data.build(config, SMALL, said.append) == paths and len(said) == 1
