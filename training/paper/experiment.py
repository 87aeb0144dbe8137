"""One experiment: a method, a data set, a seed; trained, resumed, adapted to unheard styles.

Letters: B clips, N fragments of a clip.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from training import checkpoint
from training.paper.datasets import DataConfig
from training.paper.fragments import Batch, Fragments, draw
from training.paper.methods import Method, MethodConfig
from training.paper.networks import Autoencoder, NetworkConfig
from training.train import OptimConfig, learning_rate

CRITIC_LR = 1e-3
KMEANS_RUNS = 5
LOG_EVERY = 50  # steps
UNKNOWN = -1  # a style the supervised method has no name for


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """The budget, the same for every method.

    Attributes:
        steps: batches.
        clips: B.
        fragments: N.
        free_steps: before the codebook starts; until then contents reach the decoder as they are.
        recolour: spread of a random change of each clip's colour, spectral or visible; 0: none.
        checkpoint_every: steps; 0 for runs shorter than a minute.
        shot_steps: batches of few-shot adaptation.
        shot_lr: their learning rate.
        device: `cpu` or `cuda`.
    """

    steps: int = 600
    clips: int = 32
    fragments: int = 12
    free_steps: int = 0
    recolour: float = 0.0
    checkpoint_every: int = 0
    shot_steps: int = 60
    shot_lr: float = 3e-4
    device: str = "cpu"

    def __post_init__(self) -> None:
        """A codebook that never starts is a mistake."""
        if self.steps <= self.free_steps:
            raise ValueError(f"steps = {self.steps}: give more than free_steps = "
                             f"{self.free_steps}, or the codebook never starts")


@dataclass(frozen=True, slots=True)
class Experiment:
    """All that decides a run but its seed."""

    data: DataConfig = field(default_factory=DataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)


class Trained(NamedTuple):
    """A run's result."""

    method: Method  # in eval mode
    log: list[dict[str, float]]
    cpu_s: float  # of this process, in training alone

    @property
    def model(self) -> Autoencoder:
        """The autoencoder."""
        return self.method.model


def build(experiment: Experiment, data: Fragments, seed: int) -> Method:
    """A method with fresh weights of a seed, sized for the data."""
    torch.manual_seed(seed)
    model = Autoencoder(data.shape, experiment.network)
    return Method(model, experiment.method, len(data.content_names), len(data.style_names))


def train(experiment: Experiment, data: Fragments, seed: int,
          say: Callable[[str], None] | None = None, folder: Path | None = None) -> Trained:
    """Train one method on one data set.

    Args:
        experiment: sizes, weights, budget.
        data: training rows; labels are shown to the supervised method alone.
        seed: of weights and batches.
        say: takes a line every hundred steps.
        folder: where checkpoints go, and from where an interrupted run goes on; None: nowhere.
    """
    c = experiment.training
    method = build(experiment, data, seed).to(c.device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = _optimizer(method, experiment.optim)
    log: list[dict[str, float]] = []
    cpu_before = 0.0
    first = 0
    if folder is not None and (found := checkpoint.load_latest(folder, method, optimizer,
                                                               generator)):
        first, history = found
        log, cpu_before = history["log"], history["cpu_s"]
    started = time.process_time()
    method.train()
    for step in range(first, c.steps):
        _set_rate(optimizer, learning_rate(experiment.optim, step, c.steps) / experiment.optim.lr)
        batch = draw(data, c.clips, c.fragments, generator)
        if c.recolour:
            batch = batch._replace(x=_recolour(batch.x, c.recolour, generator))
        batch = _to(batch, c.device)
        if step == c.free_steps:
            _start(method.model, batch, generator)
        terms, content, codes = train_step(method, optimizer, batch, experiment.optim.clip_norm)
        if step >= c.free_steps:
            method.model.codebook.update(content, codes, generator)
        done = step + 1
        if done % LOG_EVERY == 0 or done == c.steps:
            log.append({"step": done} | {name: round(term.item(), 5)
                                         for name, term in terms.items()})
            if say and done % (2 * LOG_EVERY) == 0:
                say(", ".join(f"{k} {v:.3g}" for k, v in log[-1].items()))
        if folder is not None and c.checkpoint_every and done % c.checkpoint_every == 0:
            spent = cpu_before + time.process_time() - started
            checkpoint.save(folder, done, method, optimizer, generator,
                            {"log": log, "cpu_s": spent})
    method.eval()
    return Trained(method, log, cpu_before + time.process_time() - started)


def train_step(method: Method, optimizer: torch.optim.Optimizer, batch: Batch,
               clip_norm: float) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """One step of the critic, where there is one, and one of all else; the codebook is left.

    Returns:
        Weighted terms, z_c (B * N, D) detached, codes (B * N).
    """
    if method.critic is not None:
        optimizer.zero_grad(set_to_none=True)  # what has no gradient is left by the optimizer
        method.critic_loss(batch).backward()
        optimizer.step()
    terms, content, codes = method(batch)
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    if method.critic is not None:
        for p in method.critic.parameters():
            p.grad = None
    torch.nn.utils.clip_grad_norm_(method.parameters(), clip_norm)
    optimizer.step()
    return terms, content.detach(), codes


def adapt(trained: Trained, experiment: Experiment, shots: Fragments, n_shots: int,
          seed: int) -> Method:
    """Few-shot learning of unheard styles: the method's own loss, the codebook frozen.

    Args:
        trained: left as it is.
        experiment: as it was trained.
        shots: clips of unheard styles, the same number of each, in order of style.
        n_shots: clips of each style that are shown.
        seed: of the batches.

    Returns:
        A copy, adapted, in eval mode. The supervised method is told contents only.
    """
    c = experiment.training
    method = copy.deepcopy(trained.method)
    nth = torch.cat([torch.arange(int((shots.style == s).sum()))
                     for s in range(len(shots.style_names))]).numpy()
    shown = shots.rows(nth < n_shots)
    generator = torch.Generator().manual_seed(seed)
    optimizer = _optimizer(method, OptimConfig(lr=c.shot_lr,
                                               weight_decay=experiment.optim.weight_decay))
    method.train()
    for _ in range(c.shot_steps):
        batch = draw(shown, c.clips, shown.content.shape[1], generator)
        batch = batch._replace(style=torch.full_like(batch.style, UNKNOWN))
        train_step(method, optimizer, _to(batch, c.device), experiment.optim.clip_norm)
    return method.eval()


@torch.no_grad()
def _start(model: Autoencoder, batch: Batch, generator: torch.Generator) -> None:
    """Place the atoms among the contents of a batch: the best of some runs of k-means."""
    content = model.encode(batch.x.flatten(0, 1)).content.cpu()  # where the generator is
    book, device = model.codebook.cpu(), batch.x.device
    tried = []
    for _ in range(KMEANS_RUNS):
        book.start(content, generator)
        tried.append((float(book(content).commitment), copy.deepcopy(book.state_dict())))
    book.load_state_dict(min(tried, key=lambda t: t[0])[1])
    book.to(device)


def _optimizer(method: Method, config: OptimConfig) -> torch.optim.Optimizer:
    """One for everything, so that a checkpoint holds everything; the critic has its own rate."""
    groups = [{"params": list(method.learned()), "lr": config.lr, "full_lr": config.lr}]
    if method.critic is not None:
        groups.append({"params": list(method.critic.parameters()), "lr": CRITIC_LR,
                       "full_lr": CRITIC_LR, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def _set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = share * group["full_lr"]


def _to(batch: Batch, device: str) -> Batch:
    return Batch(*(v.to(device) for v in batch))


def _recolour(x: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    """Change the colour of each clip at random, the same for all its fragments.

    Spectra (B, N, F, T): a smooth curve over the log-frequency axis is added, low shapes varying
    most: what rooms, microphones and other instruments of the kind do. Pictures (B, N, 3, H, W):
    ink is thinned by up to `spread` of it, and each channel's once more, mostly little or nearly
    whole, which is how colours differ.
    """
    if x.dim() == 5:
        thinned = torch.rand(len(x), 1, 1, 1, 1, generator=generator)
        drawn = torch.rand(len(x), 1, x.shape[2], 1, 1, generator=generator)
        by_channel = torch.sin(math.pi / 2 * drawn).square()
        return x * (1 - spread * thinned) * (1 - spread * by_channel)
    weight = torch.tensor([1.0, 1.0, 1.5, 2.0, 2.5, 3.0])
    u = torch.linspace(0, 1, x.shape[2])
    shapes = torch.cos(math.pi * torch.arange(len(weight))[:, None] * u) / weight[:, None]
    drawn = torch.randn(len(x), len(weight), generator=generator)
    return x + spread * (drawn @ shapes)[:, None, :, None]
