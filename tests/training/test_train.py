"""The trainer on a few seconds of seeded tones: it learns, resumes exactly, and takes no label."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch

from training import checkpoint
from training.calibrate import calibrate_bundle, common_offset
from training.clips import find_clips
from training.dataset import FrameTable, build_table, windows_of
from training.losses import LossConfig
from training.train import (
    DataConfig,
    OptimConfig,
    Recipe,
    RunConfig,
    draw_batch,
    forward_terms,
    learning_rate,
    main,
    train_seed,
    train_step,
)
from v3audio.bundle import load_bundle
from v3audio.config import to_toml
from v3audio.errors import ConfigError
from v3audio.geometry import Geometry
from v3audio.model import ModelConfig, V3Model

RATE = 16_000
MODEL = ModelConfig(codebook_size=48, hidden=32, partial_hidden=8)


def harmonic_note(midi: int, n: int, slope: float, noise: np.ndarray) -> np.ndarray:
    """A note of n samples whose k-th harmonic falls as k ** -slope."""
    hz = 440 * 2 ** ((midi - 69) / 12)
    t = np.arange(n) / RATE
    ks = range(1, min(20, int(7000 / hz)) + 1)
    x = sum(np.sin(2 * np.pi * hz * k * t + k) * k**-slope for k in ks)
    return 0.2 * x / np.abs(x).max() + 0.001 * noise[:n]


@pytest.fixture(scope="module")
def melodies(tmp_path_factory) -> Path:
    """Eight clips of twelve notes, each clip with a colour of its own, and their notes."""
    folder = tmp_path_factory.mktemp("melodies")
    rng = np.random.default_rng(0)
    for clip in range(8):
        notes, parts, at = [], [], 0.0
        for midi in rng.permutation(np.arange(48, 84, 3)):
            n = int(0.25 * RATE)
            parts.append(harmonic_note(int(midi), n, 0.3 + 0.25 * clip, rng.standard_normal(n)))
            notes.append({"onset_s": at, "offset_s": at + 0.25, "midi": int(midi), "cents": 0.0})
            at += 0.25
        audio = np.concatenate(parts).astype(np.float32)
        soundfile.write(folder / f"{clip:05d}.flac", audio, RATE)
        (folder / f"{clip:05d}.json").write_text(json.dumps({"program": clip, "notes": notes}))
    return folder


@pytest.fixture
def recipe(melodies: Path, tmp_path: Path) -> Recipe:
    return Recipe(
        run=RunConfig(out=tmp_path / "run", seeds=[0], steps=8, style_steps=4, checkpoint_every=2,
                      jobs=1),
        data=DataConfig(folder=melodies, validation_clips=2, clips=4, frames=12),
        model=MODEL, optim=OptimConfig(warm_up=5))


class Fresh(NamedTuple):
    """A seeded model that has seen nothing, and what to draw its batches from."""

    model: V3Model
    table: FrameTable
    generator: torch.Generator

    def batch(self, clips=8, ahead=0):
        return draw_batch(self.table, list(range(8)), clips, 12, self.generator, ahead)


@pytest.fixture
def fresh(melodies: Path) -> Fresh:
    torch.manual_seed(0)
    table = build_table(melodies, MODEL.geometry, 256, 4)
    return Fresh(V3Model(MODEL), table, torch.Generator().manual_seed(0))


def test_windows_end_where_they_should():
    g = Geometry()
    audio = np.arange(1, 5001, dtype=np.float32)
    rows = windows_of(audio, g, 160)
    assert rows.shape == (5000 // 160, g.window_length)
    assert rows[0, -1] == 160 and rows[0, -161] == 0
    assert rows[20, -1] == 21 * 160


@pytest.mark.slow
def test_the_loss_falls_on_one_batch(recipe, fresh):
    optimizer, batch = torch.optim.AdamW(fresh.model.parameters(), lr=2e-3), fresh.batch()
    history = [train_step(fresh.model, optimizer, batch, recipe, fresh.generator)
               for _ in range(60)]
    assert history[-1]["reconstruction"] < 0.4 * history[0]["reconstruction"]
    assert history[-1]["total"] < 0.6 * history[0]["total"]


def test_every_part_gets_a_gradient(fresh):
    model, batch = fresh.model, fresh.batch(ahead=4)
    model.codebook.start(model.encode(batch.views).content.detach(), fresh.generator)
    terms, _, _ = forward_terms(model, batch, LossConfig())
    sum(terms.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.slow
def test_resumed_run_equals_an_uninterrupted_one(recipe, tmp_path):
    whole = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, out=tmp_path / "a"))
    cut = dataclasses.replace(recipe, run=dataclasses.replace(recipe.run, out=tmp_path / "b"))
    quiet = {"say": lambda _: None}
    first = train_seed(whole, 0, **quiet)
    train_seed(cut, 0, stop_after=10, **quiet)
    second = train_seed(cut, 0, resume=True, **quiet)
    assert first["selection"] == second["selection"]
    states = []
    for run in (whole, cut):
        model = V3Model(MODEL)
        optimizer = torch.optim.AdamW(model.parameters())
        steps, _ = checkpoint.load_latest(run.run.out / "seed_0", model, optimizer,
                                          torch.Generator())
        assert steps == 12
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.slow
def test_seeds_differ_and_repeat(recipe, tmp_path):
    results = []
    for i, seed in enumerate((0, 1, 0)):
        run = dataclasses.replace(recipe.run, out=tmp_path / str(i))
        results.append(train_seed(dataclasses.replace(recipe, run=run), seed,
                                  say=lambda _: None)["selection"])
    assert results[0] == results[2] != results[1]


def test_labels_do_not_enter_training(recipe, tmp_path):
    """The same sound with other notes beside it trains the same model."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for clip in find_clips(recipe.data.folder):
        (bare / clip.noisy.name).write_bytes(clip.noisy.read_bytes())
    with_labels = train_seed(recipe, 0, say=lambda _: None)
    without = dataclasses.replace(
        recipe, run=dataclasses.replace(recipe.run, out=tmp_path / "other"),
        data=dataclasses.replace(recipe.data, folder=bare))
    assert train_seed(without, 0, say=lambda _: None)["selection"] == with_labels["selection"]


@pytest.mark.slow
def test_run_calibrate_and_load(recipe, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe))
    lines: list[str] = []
    folder = main(path, ["run.steps=120", "run.style_steps=4", "run.checkpoint_every=62",
                         "optim.lr=2e-3"], say=lines.append)
    assert (folder.parent / "recipe.toml").exists()
    assert load_bundle(folder).code_map is None
    report = calibrate_bundle(folder, recipe.data.folder, picture=False)
    bundle = load_bundle(folder)
    assert bundle.code_map is not None
    assert bundle.metrics["calibration"]["frames"] == report.frames > 100
    assert bundle.made_by["seed"] == 0
    # 150 small steps without any label already place most notes; chance is one in twelve
    assert report.accuracy > 0.5
    with pytest.raises(ConfigError, match="--resume"):
        main(path, [], say=lines.append)
    with pytest.raises(ConfigError, match="other settings"):
        main(path, ["optim.lr=0.5"], resume=True, say=lines.append)


def test_offset_is_the_common_one_whatever_the_octave_errors():
    rng = np.random.default_rng(0)
    differences = np.concatenate([rng.normal(-9.7, 0.1, 300), rng.normal(2.3, 0.1, 120),
                                  rng.uniform(-40, 40, 80)])
    assert common_offset(differences) == pytest.approx(-9.7, abs=0.03)


def test_learning_rate_warms_up_and_ends_at_its_floor():
    config = OptimConfig(lr=1.0, warm_up=10, final=0.03)
    rates = [learning_rate(config, s, 100) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.04
    assert all(a >= b for a, b in itertools.pairwise(rates[9:]))


def test_empty_folder_says_what_to_type(tmp_path):
    with pytest.raises(ConfigError, match="v3audio data melodies"):
        find_clips(tmp_path)


def test_late_steps_keep_content_and_codes(recipe, fresh):
    model, optimizer = fresh.model, torch.optim.AdamW(fresh.model.parameters(), lr=1e-2)
    train_step(model, optimizer, fresh.batch(4), recipe, fresh.generator)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train_step(model, optimizer, fresh.batch(4, ahead=4), recipe, fresh.generator)
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert not any(k.startswith(("content_head", "codebook")) for k in moved)
    assert any(k.startswith("style_head") for k in moved)
    assert any(k.startswith("decoder") for k in moved)
