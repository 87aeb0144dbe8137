"""A table of runs: variants of one recipe, each at several codebook sizes and seeds.

One recipe, one command, one domain. Each run leaves a folder of its own with `run.json` (what was
run and every figure) and `model.safetensors`; a run that is there is not run again, so that an
interrupted table goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from training.folders import write_json
from training.paper.datasets import DataConfig, Splits, load
from training.paper.experiment import Experiment, Trained, TrainingConfig, build, train
from training.paper.measure import measure
from training.paper.methods import MethodConfig
from training.paper.networks import NetworkConfig
from training.train import OptimConfig
from v3audio.config import from_table, load_toml, to_table
from v3audio.errors import ConfigError
from v3audio.paths import atomic_write

Value = bool | int | float | str | list[int]
KIND = "paper"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What is run.

    Attributes:
        out: folder of all runs.
        codes: K, one run each.
        seeds: one run each.
        only: names of variants to run; empty: all of them.
        jobs: runs side by side, one thread each; 0: as many as there are cores.
    """

    out: Path = Path("runs/insnotes")
    codes: list[int] = field(default_factory=lambda: [12])
    seeds: list[int] = field(default_factory=lambda: [0])
    only: list[str] = field(default_factory=list)
    jobs: int = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """A table; the TOML file's tables are its fields. `network.codes` is set by `run.codes`.

    A variant is named by its table, `[variants."mean style"]`, and changes values of the recipe
    by their dotted names, `"method.mean_style" = true`.
    """

    kind: str = KIND
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    variants: dict[str, dict[str, Value]] = field(default_factory=lambda: {"v3": {}})


class Run(NamedTuple):
    """One cell of the table and seed."""

    variant: str
    experiment: Experiment
    seed: int
    out: Path

    @property
    def folder(self) -> Path:
        """Its own: variant, codebook size and seed."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.variant.lower()).strip("-")
        return self.out / f"{slug}-k{self.experiment.network.codes}-seed{self.seed}"


def plan(recipe: Recipe) -> list[Run]:
    """All runs of a recipe, in the order they are run: seed by seed, so that a part is a table.

    Raises:
        ConfigError: a variant changes what does not exist, or `run.only` names none.
    """
    only = recipe.run.only or list(recipe.variants)
    if missing := [name for name in only if name not in recipe.variants]:
        raise ConfigError(f"run.only: no variant {missing[0]!r}; there are "
                          + ", ".join(recipe.variants))
    runs = []
    for name in only:
        table = to_table(recipe)
        del table["variants"]
        for key, value in recipe.variants[name].items():
            *path, last = key.split(".")
            inner: Any = table
            for part in path:
                inner = inner.setdefault(part, {})  # an unknown one is refused below
            inner[last] = value
        own = from_table(Recipe, table, f"variants.{name}")
        runs += [Run(name, Experiment(own.data, replace(own.network, codes=k), own.method,
                                      own.training, own.optim), seed, recipe.run.out)
                 for seed in own.run.seeds for k in own.run.codes]
    return sorted(runs, key=lambda run: run.seed)


def main(recipe_path: Path, overrides: list[str] | None = None, resume: bool = False,
         say: Callable[[str], None] = print) -> Path:
    """Run what is missing of a recipe's table, then write the table; its folder.

    Args:
        recipe_path: a TOML file of `kind = "paper"`.
        overrides: `section.key=value` each.
        resume: needless: finished runs are always kept, long ones go on from their checkpoints.
        say: takes progress lines.

    Raises:
        ConfigError: the recipe, or a folder with runs of other settings.
    """
    from training.paper.report import write_table

    recipe = from_table(Recipe, load_toml(recipe_path, overrides or []))
    runs = plan(recipe)
    left = [run for run in runs if not _is_done(run)]
    say(f"{len(runs)} runs, {len(runs) - len(left)} of them done before")
    jobs = min(recipe.run.jobs or os.cpu_count() or 1, max(1, len(left)))
    started = time.monotonic()
    for data in dict.fromkeys(run.experiment.data for run in left):
        load(data)  # fills the caches, so that the jobs do not
    # fresh processes: torch's thread pools do not survive a fork
    with (multiprocessing.get_context("spawn").Pool(jobs) if jobs > 1
          else contextlib.nullcontext()) as pool:
        done = pool.imap_unordered(perform, left) if pool else map(perform, left)
        for n, line in enumerate(done):
            left_s = (time.monotonic() - started) / (n + 1) * (len(left) - n - 1)
            say(f"{line}; {left_s / 60:.0f} min left")
    write_table(recipe.run.out)
    return recipe.run.out


_loaded: dict[DataConfig, Splits] = {}  # of this process: one table has few data sets


def perform(run: Run) -> str:
    """Train and measure one run and write its folder; one line about it."""
    torch.set_num_threads(1)
    if run.experiment.data not in _loaded:
        _loaded[run.experiment.data] = load(run.experiment.data)
    splits = _loaded[run.experiment.data]
    run.folder.mkdir(parents=True, exist_ok=True)
    trained = train(run.experiment, splits.train, run.seed, folder=run.folder)
    started = time.process_time()
    figures = measure(trained, run.experiment, splits, run.seed)
    with atomic_write(run.folder / "model.safetensors") as part:
        save_file({k: v.contiguous().cpu() for k, v in trained.method.state_dict().items()}, part)
    figures["train_cpu_s"] = round(trained.cpu_s, 1)
    figures["measure_cpu_s"] = round(time.process_time() - started, 1)
    write_json(run.folder / "run.json", {
        "kind": KIND, "variant": run.variant, "seed": run.seed,
        "experiment": to_table(run.experiment), "figures": figures, "log": trained.log})
    for state in run.folder.glob("step_*/*"):  # the run is done: nothing to go on from
        state.unlink()
    for state in run.folder.glob("step_*"):
        state.rmdir()
    return (f"{run.folder.name}: codebook accuracy {figures['codebook_accuracy']:.3f}, "
            f"unheard styles {figures['ood']['0']['mean']:.3f}, {figures['train_cpu_s']:.0f} s")


def _is_done(run: Run) -> bool:
    """Whether the run is there.

    Raises:
        ConfigError: another one is.
    """
    path = run.folder / "run.json"
    if not path.is_file():
        return False
    if json.loads(path.read_text())["experiment"] != _as_json(to_table(run.experiment)):
        raise ConfigError(f"{run.folder} holds a run with other settings; choose another folder "
                          "with --set run.out=DIR, or delete it")
    return True


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def open_run(folder: Path) -> tuple[Run, dict[str, Any], Trained, Splits]:
    """A finished run with its model and data: (run, figures, trained, splits).

    Raises:
        ConfigError: no run there, or its data are gone.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise ConfigError(f"{folder}: no finished run here; 'v3audio train insnotes' makes some")
    stored = json.loads(path.read_text())
    experiment = from_table(Experiment, stored["experiment"])
    splits = load(experiment.data)
    method = build(experiment, splits.train, stored["seed"])
    method.load_state_dict(load_file(folder / "model.safetensors"))
    run = Run(stored["variant"], experiment, stored["seed"], folder.parent)
    return run, stored["figures"], Trained(method.eval(), stored["log"],
                                           stored["figures"]["train_cpu_s"]), splits
