"""What came out: one report of a run with its pictures and sheet, one table over all runs."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from v3audio.errors import ConfigError
from v3audio.paths import atomic_write

COLUMNS = (
    ("codebook_accuracy", "codebook acc."),
    ("labels_covered", "labels"),
    ("fragment_accuracy", "fragment acc."),
    ("content_from_content_auc", "content from z_c"),
    ("content_from_content_f1", "F1"),
    ("style_from_style_auc", "style from z_s"),
    ("style_from_style_f1", "F1"),
    ("content_from_style_auc", "content from z_s"),
    ("leak_content_from_style", "less chance"),
    ("style_from_content_auc", "style from z_c"),
    ("leak_style_from_content", "less chance"),
    ("probe_linear_content_from_style", "probe content in z_s"),
    ("probe_mlp_content_from_style", "MLP"),
    ("probe_linear_style_from_content", "probe style in z_c"),
    ("probe_mlp_style_from_content", "MLP"),
    ("probe_mlp_style_from_atom", "in VQ(z_c), MLP"),
    ("ood.0.mean", "unheard, 0 shots"),
    ("ood.1.mean", "1"),
    ("ood.5.mean", "5"),
    ("ood.10.mean", "10"),
    ("pitch_kept", "pitch kept"),
    ("pitch_right", "pitch right"),
    ("train_cpu_s", "CPU s"),
)
"""Figures of the table, dotted for nested ones, and what they are called."""

_LOW_IS_GOOD = ("content_from_style", "style_from_content", "style_from_atom", "cpu_s")


def figure(figures: dict[str, Any], name: str) -> float | None:
    """A figure by its dotted name, None where the run has none."""
    value: Any = figures
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """All finished runs below a folder, in order of variant, codebook size and seed.

    Raises:
        ConfigError: none.
    """
    found = [json.loads(path.read_text()) for path in folder.glob("*/run.json")]
    if not found:
        raise ConfigError(f"{folder}: no finished runs here; 'v3audio train insnotes' makes some")
    return sorted(found, key=lambda run: (run["variant"], codes_of(run), run["seed"]))


def codes_of(run: dict[str, Any]) -> int:
    """K of a stored run."""
    return int(run["experiment"]["network"]["codes"])


def write_table(folder: Path, out: Path | None = None) -> Path:
    """Write `table.md` (mean and worst over seeds) and `table.csv` (every run) of a folder.

    Returns:
        The Markdown file.
    """
    runs = read_runs(folder)
    out = out or folder
    cells = defaultdict(list)
    for run in runs:
        cells[run["variant"], codes_of(run)].append(run)
    with atomic_write(out / "table.csv") as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "codes", "seed", *(name for name, _ in COLUMNS)])
        for run in runs:
            writer.writerow([run["variant"], codes_of(run), run["seed"],
                             *(figure(run["figures"], name) for name, _ in COLUMNS)])
    kept = [(name, title) for name, title in COLUMNS
            if any(figure(run["figures"], name) is not None for run in runs)]
    lines = ["# All runs", "",
             "Mean over seeds, and the worst seed in brackets. Figures are of fragments never "
             "trained on; unheard styles are measured with the codebook frozen.", "",
             "| variant | K | seeds | " + " | ".join(title for _, title in kept) + " |",
             "|" + "---|" * (len(kept) + 3)]
    for (variant, codes), group in cells.items():
        values = [_mean_and_worst(name, [figure(run["figures"], name) for run in group])
                  for name, _ in kept]
        lines.append(f"| {variant} | {codes} | {len(group)} | " + " | ".join(values) + " |")
    with atomic_write(out / "table.md") as part:
        part.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return out / "table.md"


def _mean_and_worst(name: str, values: Iterable[float | None]) -> str:
    numbers = [v for v in values if v is not None]
    if not numbers:
        return ""
    low_is_good = any(part in name for part in _LOW_IS_GOOD)
    worst = max(numbers) if low_is_good else min(numbers)
    digits = 0 if name in ("labels_covered", "train_cpu_s") else 3
    mean = float(np.mean(numbers))
    return f"{mean:.{digits}f}" + (f" ({worst:.{digits}f})" if len(numbers) > 1 else "")


def evaluate(folder: Path, out: Path, say: Callable[[str], None] = print) -> Path:
    """Report on a run, or on a folder of runs; the page to read.

    A run's figures were measured when it was trained; its confusion matrix, latent maps and
    recombination sheet are made here, from its weights.

    Raises:
        ConfigError: no runs there.
    """
    from training.paper.measure import encode, names_of, recombine
    from training.paper.pictures import draw_confusion, draw_latents
    from training.paper.runs import open_run
    from training.paper.sheet import write_sheet

    out.mkdir(parents=True, exist_ok=True)
    if not (folder / "run.json").is_file():
        return write_table(folder, out)
    say(f"reading {folder}")
    run, figures, trained, splits = open_run(folder)
    model = trained.model
    train, test = encode(model, splits.train), encode(model, splits.test)
    n_labels = len(splits.train.content_names)
    names = names_of(model, train, n_labels)
    draw_confusion(test.table(model.config.codes, n_labels), names, splits.train.content_names,
                   out / "confusion.png")
    draw_latents(test, splits.test, out / "latents.png")
    say("decoding every content in every style")
    write_sheet(recombine(model, train, names), splits, f"{folder.name}", out / "sheet.html")
    lines = [f"# {run.variant}, {model.config.codes} codes, seed {run.seed}", "",
             "| | |", "|---|---|"]
    lines += [f"| {title} | {value} |" for name, title in _flat(figures)
              if (value := figure(figures, name)) is not None]
    lines += ["", "![codes against contents](confusion.png)", "",
              "![both latents, coloured by both factors](latents.png)", "",
              "[Every content in every style](sheet.html)", ""]
    with atomic_write(out / "report.md") as part:
        part.write_text("\n".join(lines), encoding="utf-8")
    (out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    return out / "report.md"


def _flat(figures: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Dotted names of all figures, and how they read."""
    found = []
    for key, value in figures.items():
        name = f"{before}{key}"
        if isinstance(value, dict):
            found += _flat(value, f"{name}.")
        else:
            words = name.replace("_", " ").replace(".", ", ")
            found.append((name, words.replace("ood, ", "unheard styles, shots ")))
    return found
