"""Time one training step of a paper recipe on this machine, and what the whole run would take.

    python -m benchmarks.paper_step training/recipes/insnotes-paper.toml [clips]

Batches of noise of the right shape: the data are not needed. Fewer clips than the recipe's make a
quicker first look on a CPU.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from training.paper import experiment
from training.paper.fragments import Fragments, draw
from training.paper.runs import Recipe, plan
from v3audio.config import from_table, load_toml

SHAPES = {("insnotes", "compact"): (144, 4), ("insnotes", "paper"): (512, 32),
          ("phonenums", "compact"): (3, 24, 16), ("phonenums", "paper"): (3, 48, 32)}
STEPS = 2


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main() -> None:
    """Build the recipe's first run and time its steps after one to warm up."""
    recipe = from_table(Recipe, load_toml(Path(sys.argv[1])))
    run = plan(recipe)[0]
    c = run.experiment.training
    n_clips = int(sys.argv[2]) if len(sys.argv) > 2 else c.clips
    device = c.device if torch.cuda.is_available() else "cpu"
    shape = SHAPES[run.experiment.data.domain, run.experiment.data.features]
    noise = torch.randn(4, c.fragments, *shape)
    data = Fragments(noise, np.tile(np.arange(c.fragments), (4, 1)), np.arange(4),
                     ("",) * c.fragments, ("",) * 4)
    small = replace(run.experiment, training=replace(c, steps=1, clips=n_clips, device=device))
    method = experiment.build(small, data, 0).to(device).train()
    optimizer = experiment._optimizer(method, small.optim)
    batch = experiment._to(draw(data, n_clips, c.fragments, torch.Generator()), device)
    experiment._start(method.model, batch, torch.Generator())
    took = []
    for _ in range(1 + STEPS):
        started = time.perf_counter()
        experiment.train_step(method, optimizer, batch, small.optim.clip_norm)
        if device == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - started)
    step_s = min(took[1:])
    n_parameters = sum(p.numel() for p in method.model.parameters())
    _say(f"{n_parameters / 1e6:.1f} million parameters, {n_clips} clips of {c.fragments}: "
          f"{step_s:.2f} s a step on {device}, {torch.get_num_threads()} threads; "
          f"{c.steps} steps: {step_s * c.steps / 3600:.1f} h")


if __name__ == "__main__":
    main()
