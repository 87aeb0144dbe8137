"""A small instrument for the commands: an untrained, seeded model and a timbre that belongs to it.

These tests judge what the commands do with files, errors and signals, not how well a model hears.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from v3audio import bundle, timbres
from v3audio.cli import app, common
from v3audio.code_map import CodeMap
from v3audio.model import ModelConfig, V3Model
from v3audio.renderer import RendererConfig
from v3audio.renderer_net import RendererNet

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def untrained_model(tmp_path_factory: pytest.TempPathFactory) -> bundle.Bundle:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "untrained"
    made_by = {"data": "none", "seed": 0}
    made = bundle.save_model(folder, V3Model(ModelConfig()), made_by=made_by)
    notes = np.linspace(28, 100, ModelConfig().codebook_size).astype(int).tolist()
    named = replace(made, code_map=CodeMap(notes, 0.0))
    bundle.write_meta(named)
    net = RendererNet(RendererConfig(hidden=32, n_blocks=1))
    return bundle.save_renderer(named, net, made_by)


@pytest.fixture
def instrument(home: Path, untrained_model: bundle.Bundle) -> bundle.Bundle:
    """The model under the default name in the user's home, and the timbre 'reed'."""
    (home / "models").mkdir()
    (home / "models" / "default").symlink_to(untrained_model.folder, target_is_directory=True)
    style = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    reed = timbres.Timbre(
        name="reed", note_range=(50, 80), model="default", style=style,
        model_sha256=untrained_model.checksum,
    )  # fmt: skip
    timbres.save_as_users(reed)
    common.hearing.cache_clear()
    return untrained_model


@pytest.fixture
def run() -> Run:
    """Run a command line in this process; an exception that is our fault fails the test."""

    def invoke(*arguments: object) -> Result:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Run a command line that the user got wrong: exit 2 and one line, which is given back."""

    def invoke(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    return invoke
