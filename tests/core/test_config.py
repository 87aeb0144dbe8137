from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from v3audio.config import from_table, load_config, load_toml, to_table, to_toml
from v3audio.errors import ConfigError


@dataclass(frozen=True)
class Optim:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    warm_up: int = 50


@dataclass(frozen=True)
class Recipe:
    name: str
    out: Path = Path("runs")
    optim: Optim = field(default_factory=Optim)
    seeds: list[int] = field(default_factory=lambda: [0])
    layers: tuple[int, ...] = (4, 8)
    clip: float | None = None
    second: Optim | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    fast: bool = False
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError("seeds is empty")


def test_a_whole_table() -> None:
    recipe = from_table(
        Recipe,
        {
            "name": "a", "out": "x/y", "optim": {"lr": 1, "betas": [0.5, 1]}, "seeds": [1, 2],
            "layers": [], "clip": 3, "second": {"warm_up": 7}, "device": "cuda", "fast": True,
            "weights": {"a": 2},
        },
    )  # fmt: skip
    assert recipe == Recipe(
        "a", Path("x/y"), Optim(1.0, (0.5, 1.0)), [1, 2], (), 3.0, Optim(warm_up=7), "cuda", True,
        {"a": 2.0},
    )  # fmt: skip
    assert type(recipe.optim.lr) is float


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"name": "a", "optin": {}}, r"unknown name 'optin'; did you mean 'optim'\?"),
        ({"name": "a", "optim": {"Lr": 1.0}}, r"\[optim\] unknown name 'Lr'; did you mean 'lr'\?"),
        ({}, "'name' is missing; expected text"),
        ({"name": 3}, "name = 3: expected text"),
        ({"name": "a", "optim": {"lr": "3e-4"}}, r"optim\.lr = '3e-4': expected a number"),
        ({"name": "a", "optim": {"warm_up": 1.5}}, r"warm_up = 1\.5: expected a whole number"),
        ({"name": "a", "optim": {"warm_up": True}}, "warm_up = True: expected a whole number"),
        ({"name": "a", "optim": {"betas": [0.9]}}, "a list of 2: a number, a number"),
        ({"name": "a", "optim": 3}, "optim = 3: expected a table"),
        ({"name": "a", "seeds": [1, "2"]}, r"seeds\[1\] = '2': expected a whole number"),
        ({"name": "a", "clip": "x"}, "clip = 'x': expected a number"),
        ({"name": "a", "device": "gpu"}, "device = 'gpu': expected one of cpu, cuda"),
        ({"name": "a", "fast": 1}, "fast = 1: expected true or false"),
        ({"name": "a", "seeds": []}, "seeds is empty"),
    ],
)
def test_what_it_refuses(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        from_table(Recipe, table)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "a"\n[optim]\nlr = 1e-2\n')
    return path


def test_overrides_are_read_by_their_fields_type(recipe_file: Path) -> None:
    recipe = load_config(
        Recipe,
        recipe_file,
        [
            "name=3", "optim.lr=3e-4", "optim.betas=0.8,0.9", "seeds=[4, 5]", "fast=true", "clip=2",
            "second.warm_up=9", "device=cuda", "out=a=b", "layers=",
        ],
    )  # fmt: skip
    assert recipe == Recipe(
        "3", Path("a=b"), Optim(3e-4, (0.8, 0.9)), [4, 5], (), 2.0, Optim(warm_up=9), "cuda", True
    )
    assert load_config(Recipe, recipe_file, ["clip=none"]).clip is None


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.lr", "expected NAME=VALUE"),
        ("=3", "expected NAME=VALUE"),
        ("optim..lr=3", "expected NAME=VALUE"),
        ("name.x=3", "'name' is a value, not a table"),
        ("optim.lr=fast", r"optim\.lr = 'fast': expected a number"),
        ("optim.warm_up=1e3", "expected a whole number"),
        ("fast=maybe", "expected true or false"),
        ("optim.rl=1", "did you mean 'lr'"),
        ("optim=3", "expected a table"),
    ],
)
def test_overrides_it_refuses(recipe_file: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(Recipe, recipe_file, [override])


def test_files_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        load_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_toml(tmp_path)
    bad = tmp_path / "bad.toml"
    bad.write_bytes(b"a = \xff")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_toml(bad)
    bad.write_text("a = ")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load_toml(bad)


def test_the_resolved_recipe_reads_back(tmp_path: Path) -> None:
    recipe = Recipe(
        'quo"te\n\u00e9', Path("a b"), Optim(float("inf"), (1e-9, 0.1)), clip=None,
        second=Optim(), weights={"a.b": 1.0},
    )  # fmt: skip
    path = tmp_path / "resolved.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert load_config(Recipe, path) == recipe
    assert from_table(Recipe, to_table(recipe)) == recipe
