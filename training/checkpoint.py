"""Everything a killed run needs to go on exactly where it was. Tensors only; no pickle.

`step_000500/` holds `state.safetensors` (weights, optimiser moments, random state) and
`state.json` (step, history). It is written beside its name and renamed, and the last two are kept.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from v3audio.errors import ConfigError

KEEP = 2


def save(folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer,
         generator: torch.Generator, history: dict[str, Any]) -> None:
    """Write the state after `step` steps."""
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optim.{index}.{k}": v.clone() for k, v in moments.items()}
    tensors["generator"] = generator.get_state()
    target = folder / f"step_{step:06d}"
    partial = folder / f".partial_{step:06d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(tensors, partial / "state.safetensors")
    (partial / "state.json").write_text(json.dumps({"step": step, "history": history}))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    for old in sorted(folder.glob("step_*"))[:-KEEP]:
        shutil.rmtree(old)


def load_latest(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer,
                generator: torch.Generator) -> tuple[int, dict[str, Any]] | None:
    """Put the newest state back; (steps done, history), or None where there is none.

    Raises:
        ConfigError: the checkpoint is of another network.
    """
    found = sorted(folder.glob("step_*"))
    if not found:
        return None
    tensors = load_file(found[-1] / "state.safetensors")
    meta = json.loads((found[-1] / "state.json").read_text())
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        reason = str(e).splitlines()[-1].strip()
        raise ConfigError(f"{found[-1]}: made with other settings ({reason}); "
                          "use another run.out, or start without --resume") from e
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optim."):
            _, index, name = key.split(".", 2)
            moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments,
                               "param_groups": optimizer.state_dict()["param_groups"]})
    generator.set_state(tensors["generator"])
    return int(meta["step"]), meta["history"]
