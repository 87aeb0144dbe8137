"""The V3 trainer: sound in, codes and style out, no label anywhere.

One run trains one or several seeds and keeps the one that predicts unheard clips best. A run
folder holds the resolved recipe, the checkpoints and logs of each seed, and the chosen model.

Letters: B clips, N frames of a clip, F bins.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import checkpoint
from training.dataset import FrameTable, build_table, describe
from training.losses import LossConfig, decorrelation, pitch_in_style, total_loss, v3_terms
from v3audio.bundle import save_model
from v3audio.config import from_table, load_toml, to_table, to_toml
from v3audio.errors import ConfigError
from v3audio.features import Views
from v3audio.model import ModelConfig, V3Model

LOG_EVERY = 20  # steps
EQUALISER_WAVES = 5  # cosines over the log-frequency axis


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What is run, and where it is kept."""

    out: Path = Path("runs/v3")
    seeds: list[int] = field(default_factory=lambda: [0])
    steps: int = 600  # of everything
    style_steps: int = 500  # then of style and decoder alone, the content head and codes kept
    checkpoint_every: int = 100
    jobs: int = 0  # seeds trained side by side; 0: as many as there are cores
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is heard, and what is asked for."""

    folder: Path = Path("data/melodies")
    hop_length: int = 256  # samples between training frames (16 ms)
    ahead_frames: int = 4  # the target lies this far in the future: 64 ms
    validation_clips: int = 16  # never trained on; they choose among seeds
    clips: int = 16  # B
    frames: int = 64  # N, random frames of each clip
    equaliser_db: float = 2.5  # spread of a smooth random filter on what is heard only


@dataclass(frozen=True, slots=True)
class OptimConfig:
    """AdamW with a linear warm-up and a cosine down to a fraction of the rate."""

    lr: float = 1e-3
    weight_decay: float = 0.01
    warm_up: int = 50  # steps
    final: float = 0.03  # of lr
    clip_norm: float = 5.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole training run; the TOML file's tables are its fields."""

    kind: str = "v3"
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)


def main(recipe_path: Path, overrides: list[str] | None = None, resume: bool = False,
         say: Callable[[str], None] = print) -> Path:
    """Run a recipe; the folder of the chosen model.

    Args:
        recipe_path: a TOML file; `kind = "renderer"` belongs to `training.render_train`.
        overrides: `section.key=value` each.
        resume: go on from the newest checkpoints in `run.out`.
        say: takes progress lines.

    Raises:
        ConfigError: the recipe, or a run folder that already holds another run.
    """
    recipe = from_table(Recipe, load_toml(recipe_path, overrides or []))
    if not recipe.run.seeds:
        raise ConfigError("run.seeds is empty; give at least one, for example seeds = [0]")
    _claim(recipe, resume)
    started = time.monotonic()
    table = build_table(recipe.data.folder, recipe.model.geometry, recipe.data.hop_length,
                        recipe.data.ahead_frames,
                        lambda done, all_: say(f"frames: {done}/{all_} clips")
                        if done % 20 == 0 or done == all_ else None)
    jobs = recipe.run.jobs or min(os.cpu_count() or 1, len(recipe.run.seeds))
    threads = max(1, (os.cpu_count() or 1) // jobs)
    if jobs == 1:
        results = [train_seed(recipe, seed, resume, threads, say, table)
                   for seed in recipe.run.seeds]
    else:
        # fresh processes: torch's thread pools do not survive a fork
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            results = pool.starmap(train_seed, [(recipe, seed, resume, threads)
                                                for seed in recipe.run.seeds])
    best = min(results, key=lambda r: r["selection"])
    summary = {"seeds": results, "chosen": best["seed"],
               "chosen_by": "validation loss: recon of unheard clips' future plus V3 hinges",
               "wall_s": round(time.monotonic() - started, 1)}
    (recipe.run.out / "summary.json").write_text(json.dumps(summary, indent=1))
    folder = export(recipe, best, summary)
    say(f"seed {best['seed']} predicts unheard clips best ({best['selection']:.4f}); "
        f"{summary['wall_s']:.0f} s in all")
    say(f"wrote {folder}; name its codes with 'v3audio calibrate {folder}'")
    return folder


def export(recipe: Recipe, result: dict[str, Any], summary: dict[str, Any]) -> Path:
    """Write the model folder of one trained seed: `<run>/model`."""
    model = V3Model(recipe.model)
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoint.load_latest(recipe.run.out / f"seed_{result['seed']}", model, optimizer,
                           torch.Generator())
    table = to_table(recipe)
    made_by = {"v3audio": version("v3audio"), "seed": result["seed"],
               "recipe": {name: table[name] for name in ("data", "loss", "optim")},
               "steps": list(_lengths(recipe)), "data": describe(recipe.data.folder),
               "train_wall_s": summary["wall_s"], "train_cpu_s": result["cpu_s"]}
    save_model(recipe.run.out / "model", model, made_by=made_by, metrics={"validation": result})
    return recipe.run.out / "model"


def _claim(recipe: Recipe, resume: bool) -> None:
    """Make the run folder, or refuse one that holds a run that would be lost or mixed."""
    out, text = recipe.run.out, to_toml(recipe)
    kept = out / "recipe.toml"
    if kept.exists():
        if not resume:
            raise ConfigError(f"{out}: already holds a run; go on with --resume, "
                              "or choose another folder with --set run.out=DIR")
        old = from_table(Recipe, load_toml(kept))
        if _without_run(old) != _without_run(recipe) or _lengths(old) != _lengths(recipe):
            raise ConfigError(f"{kept}: the run there has other settings; give the same recipe "
                              "to --resume it, or choose another folder with --set run.out=DIR")
    out.mkdir(parents=True, exist_ok=True)
    kept.write_text(text)


def _lengths(recipe: Recipe) -> tuple[int, int]:
    return recipe.run.steps, recipe.run.style_steps


def _without_run(recipe: Recipe) -> tuple[object, ...]:
    return recipe.data, recipe.model, recipe.loss, recipe.optim


def train_seed(recipe: Recipe, seed: int, resume: bool = False, threads: int = 1,
               say: Callable[[str], None] = print, table: FrameTable | None = None,
               stop_after: int | None = None) -> dict[str, Any]:
    """Train one seed to its end; {"seed", "selection", "cpu_s", validation terms}.

    Args:
        recipe: all settings.
        seed: of the weights, the batches and the codebook.
        resume: go on from the newest checkpoint.
        threads: torch threads.
        say: takes progress lines.
        table: frames, read from the recipe's folder when not given.
        stop_after: end early after this many steps, as a killed run would (tests).
    """
    torch.set_num_threads(threads)
    d, g = recipe.data, recipe.model.geometry
    table = table or build_table(d.folder, g, d.hop_length, d.ahead_frames)
    trained, held = split_clips(table, d.validation_clips)
    folder = recipe.run.out / f"seed_{seed}"
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # initial weights
    model = V3Model(recipe.model).to(recipe.run.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.optim.lr,
                                  weight_decay=recipe.optim.weight_decay)
    history: dict[str, Any] = {"cpu_s": 0.0}
    first = 0
    if resume and (found := checkpoint.load_latest(folder, model, optimizer, generator)):
        first, history = found
    writer = _tensorboard(folder / "log")
    clock, spent = time.process_time(), float(history["cpu_s"])
    both, n_steps = recipe.run.steps, recipe.run.steps + recipe.run.style_steps
    for step in range(first, n_steps):
        for group in optimizer.param_groups:
            group["lr"] = (learning_rate(recipe.optim, step, both) if step < both else
                           learning_rate(recipe.optim, step - both, recipe.run.style_steps))
        batch = draw_batch(table, trained, d.clips, d.frames, generator,
                           ahead=0 if step < both else d.ahead_frames)
        batch = batch._replace(views=equalise(batch.views, d.clips, d.equaliser_db, generator))
        terms = train_step(model, optimizer, _to(batch, recipe.run.device), recipe, generator)
        done = step + 1
        if done % LOG_EVERY == 0:
            if not math.isfinite(terms["total"]):
                raise ConfigError(f"seed {seed} diverged at step {done}; lower optim.lr")
            for name, value in terms.items():
                writer.add_scalar(f"train/{name}", value, done)
        if done % recipe.run.checkpoint_every == 0 or done in (n_steps, stop_after):
            history["cpu_s"] = spent + time.process_time() - clock
            checkpoint.save(folder, done, model, optimizer, generator, history)
            shown = ", ".join(f"{k} {v:.3f}" for k, v in terms.items())
            say(f"seed {seed} step {done}/{n_steps}: {shown}")
        if done == stop_after:
            break
    writer.close()
    result = {"seed": seed, **validate(model, table, held, recipe),
              "cpu_s": round(spent + time.process_time() - clock, 1)}
    (folder / "result.json").write_text(json.dumps(result, indent=1))
    return result


def split_clips(table: FrameTable, n_validation: int) -> tuple[list[int], list[int]]:
    """Clip indices to train on and to validate on: the latter spread evenly over the folder."""
    usable = [c for c in range(len(table.clips)) if len(table.rows(c)) >= 2]
    n = min(n_validation, len(usable) // 4)
    held = {usable[int((i + 0.5) * len(usable) / n)] for i in range(n)} if n else set()
    return [c for c in usable if c not in held], sorted(held)


class Batch(NamedTuple):
    """Random frames of random clips."""

    views: Views  # (B * N, F) each
    target: Tensor  # (B, N, F) clean long spectra, a little later
    later: Views | None = None  # views of the target's moment, to say where its pitch is


def draw_batch(table: FrameTable, clips: list[int], n_clips: int, n_frames: int,
               generator: torch.Generator, ahead: int = 0) -> Batch:
    """Draw N frames of each of B clips; with `ahead`, also the views that many rows later."""
    order = torch.randperm(len(clips), generator=generator)
    if len(clips) < n_clips:
        order = torch.randint(len(clips), (n_clips,), generator=generator)
    rows = []
    for index in order[:n_clips].tolist():
        own = table.rows(clips[index])
        pick = torch.randint(len(own), (n_frames,), generator=generator)
        rows.append(own[pick.numpy()])
    row = np.concatenate(rows)

    def read(at: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.asarray(table.views[at])).float()  # (B * N, 4, F)

    taken = read(row)
    then = read(np.minimum(row + ahead, len(table.views) - 1)) if ahead else None
    return Batch(Views(taken[:, 0], taken[:, 1], taken[:, 2]),
                 taken[:, 3].unflatten(0, (-1, n_frames)),
                 None if then is None else Views(then[:, 0], then[:, 1], then[:, 2]))


def equalise(views: Views, n_clips: int, spread_db: float, generator: torch.Generator) -> Views:
    """One smooth random filter per clip over the spectra (B * N, F); periodicity stays.

    The decoder is still asked for the unfiltered future, so a pitch must not hang on how strong
    its fundamental is: small speakers, distant microphones and bright reeds all lack it.
    """
    if spread_db <= 0:
        return views
    n_bins = views.long.shape[-1]
    place = torch.arange(n_bins) / n_bins
    waves = torch.cos(math.pi * torch.arange(1, EQUALISER_WAVES + 1)[:, None] * place)
    size = spread_db / torch.arange(1, EQUALISER_WAVES + 1).sqrt()
    gain_db = (torch.randn(n_clips, EQUALISER_WAVES, generator=generator) * size) @ waves
    gain = (10 ** (gain_db / 20)).repeat_interleave(views.long.shape[0] // n_clips, 0)
    filtered = []
    for view in (views.long, views.short):
        magnitude = torch.expm1(view * math.log(101)) * gain  # undoes features._compress
        magnitude = magnitude / magnitude.amax(1, keepdim=True).clamp_min(1e-7)
        filtered.append(torch.log1p(100 * magnitude) / math.log(101))
    return Views(filtered[0], filtered[1], views.lag)


def train_step(model: V3Model, optimizer: torch.optim.Optimizer, batch: Batch, recipe: Recipe,
               generator: torch.Generator) -> dict[str, float]:
    """One step of gradient and codebook; the value of every term.

    A batch with `later` trains style and decoder only, on both renders of its clips.
    """
    keep_content = batch.later is not None
    model.train()
    model.content_head.train(not keep_content).requires_grad_(not keep_content)
    if not model.codebook.started:
        with torch.no_grad():
            model.codebook.start(model.encode(batch.views).content, generator)
    terms, content, codes = forward_terms(model, batch, recipe.loss)
    loss = total_loss(terms, recipe.loss)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.optim.clip_norm)
    optimizer.step()
    if not keep_content:
        model.codebook.update(content, codes, generator)
    return {k: v.item() for k, v in terms.items()} | {"total": loss.item()}


def forward_terms(model: V3Model, batch: Batch,
                  config: LossConfig) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """All loss terms of a batch, its contents (B * N, P, detached) and codes (B * N).

    The decoder gets the *clip's mean* style: what changes inside a clip must go through content.
    With `later`, a clip's styles are those of its noisy frames and of its clean ones together, so
    that V3's invariance inside a clip covers the room and the noise too.
    """
    shape = batch.target.shape[:2]
    position, z_c = model.content_head(batch.views)
    quantized = model.quantize(z_c)
    spectra, place = batch.views.long, position.argmax(-1)
    if batch.later is not None:
        spectra = torch.cat([spectra, batch.target.flatten(0, 1)])
        place = torch.cat([place, model.content_head(batch.later)[0].argmax(-1)])
    style = model.style_head(spectra, place).unflatten(0, (-1, *shape))  # (renders, B, N, D)
    style = style.transpose(0, 1).flatten(1, 2)
    heard = place.unflatten(0, (-1, *shape)).transpose(0, 1).flatten(1, 2)
    content, content_q = z_c.unflatten(0, shape), quantized.z_q.unflatten(0, shape)
    rebuilt = model.decode(content_q, style.mean(1))
    terms = {
        "reconstruction": (rebuilt.spectrum - batch.target).square().mean(),
        "commitment": quantized.commitment,
        "decorrelation": decorrelation(style),
        # before the content head has settled, where it hears the pitch is not worth following
        "pitch_in_style": (style.new_zeros(()) if batch.later is None else
                           pitch_in_style(style, 2 * heard / position.shape[-1] - 1)),
        "template": rebuilt.added.square().mean(),
    } | v3_terms(content, content_q, style, config)
    return terms, z_c.detach(), quantized.codes


@torch.no_grad()
def validate(model: V3Model, table: FrameTable, clips: list[int],
             recipe: Recipe) -> dict[str, float]:
    """Terms on clips never trained on, the same frames for every seed; `selection` is their sum."""
    if not clips:
        return {"selection": 0.0}
    model.eval()
    generator = torch.Generator().manual_seed(0)
    batch = draw_batch(table, clips, len(clips), 256, generator)
    terms, _, codes = forward_terms(model, _to(batch, recipe.run.device), recipe.loss)
    values = {k: round(float(v), 5) for k, v in terms.items()}
    values["codes_used"] = float(codes.unique().numel())
    return values | {"selection": float(total_loss(terms, recipe.loss))}


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine from `lr` to `final * lr`."""
    if step < config.warm_up:
        return config.lr * (step + 1) / config.warm_up
    part = (step - config.warm_up) / max(1, steps - config.warm_up)
    return config.lr * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * part)))


def _to(batch: Batch, device: str) -> Batch:
    later = batch.later and Views(*(v.to(device) for v in batch.later))
    return Batch(Views(*(v.to(device) for v in batch.views)), batch.target.to(device), later)


class _NoWriter:
    """Stands in where TensorBoard is not installed."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Forget it."""

    def close(self) -> None:
        """Nothing to close."""


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return _NoWriter()
    return SummaryWriter(str(folder))
