"""What a trained encoder is worth on melodies it never heard: one JSON, one page, two pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.calibrate import draw_confusion
from training.measure import (
    LabelledFrames,
    encode_labelled,
    pitch_r2,
    retrieval,
    segment_means,
    times_to_right_code,
)
from v3audio.bundle import load_bundle
from v3audio.config import from_table, load_toml
from v3audio.errors import BundleError, ConfigError

HOP = 80  # samples: times are read on the live grid
REGISTERS = ((22, 35), (36, 50), (51, 65), (66, 80), (81, 100))


@dataclass(frozen=True, slots=True)
class EvaluationRecipe:
    """What is measured on."""

    kind: str = "evaluation"
    held_out: Path = Path("data/held-out")  # melodies of a soundfont never trained on


@dataclass(frozen=True, slots=True)
class Measured:
    """One condition (noisy or clean renders)."""

    stable_right: float  # frames whose window lies in one note and whose code names it
    all_right: float  # loud frames inside any note, attacks included
    octave_share: float  # of the wrong stable frames
    style_retrieval: float  # P@1 of 24-frame means, the same clip allowed
    style_retrieval_other_clips: float
    pitch_r2_from_style: float  # any clip; an instrument's own range counts
    pitch_r2_from_style_in_clip: float  # what z_s follows of the pitch inside a clip
    median_ms_to_right: dict[str, float]  # per register and "all"
    never_right: float  # notes whose code is never named
    stable_right_by_program: dict[str, float]


def measure(frames: LabelledFrames, code_to_note: list[int]) -> Measured:
    """All figures of one set of labelled frames."""
    said = np.asarray(code_to_note)[frames.code]
    right = said == frames.note
    stable = frames.stable
    inside = (frames.note >= 0) & frames.loud
    wrong = stable & ~right
    octave = wrong & ((said - frames.note) % 12 == 0)
    means, owners = segment_means(frames)
    times = list(times_to_right_code(frames, said, HOP / 16_000))
    names = np.asarray(frames.program)[frames.clip]
    return Measured(
        stable_right=_share(right, stable), all_right=_share(right, inside),
        octave_share=_share(octave, wrong),
        style_retrieval=round(retrieval(means, owners, frames.program, across_clips=False), 4),
        style_retrieval_other_clips=round(
            retrieval(means, owners, frames.program, across_clips=True), 4),
        pitch_r2_from_style=round(pitch_r2(frames, inside_clips=False), 4),
        pitch_r2_from_style_in_clip=round(pitch_r2(frames, inside_clips=True), 4),
        median_ms_to_right={"all": _median_ms([t for _, t in times])} | {
            f"{low}-{high}": _median_ms([t for n, t in times if low <= n <= high])
            for low, high in REGISTERS},
        never_right=round(float(np.mean([np.isinf(t) for _, t in times])), 4),
        stable_right_by_program={str(p): _share(right, stable & (names == p))
                                 for p in sorted(set(frames.program))})


def _share(which: NDArray[np.bool_], of: NDArray[np.bool_]) -> float:
    return round(float(which[of].mean()), 4) if of.any() else float("nan")


def _median_ms(times: list[float]) -> float:
    return round(1000 * float(np.median(times)), 1) if times else float("nan")


def evaluate(model_folder: Path, recipe_path: Path | None, out: Path,
             say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure a model; writes `evaluation.json`, `report.md` and pictures into `out`.

    Raises:
        BundleError: the codes have no names yet.
        ConfigError: the held-out melodies are missing.
    """
    table = load_toml(recipe_path, []) if recipe_path else {}
    recipe = from_table(EvaluationRecipe, table)
    bundle = load_bundle(model_folder)
    if bundle.code_map is None:
        raise BundleError(f"{model_folder}: the codes have no names yet; "
                          f"type 'v3audio calibrate {model_folder}' first")
    if not recipe.held_out.is_dir():
        raise ConfigError(f"{recipe.held_out}: no held-out melodies; make them with 'v3audio data "
                          f"melodies -o {recipe.held_out} --seed 1 --soundfont FONT' (a soundfont "
                          "the model was not trained on)")
    out.mkdir(parents=True, exist_ok=True)
    model = bundle.load_model()
    results: dict[str, Any] = {}
    for condition in ("noisy", "clean"):
        say(f"listening to {recipe.held_out} ({condition})")
        frames = encode_labelled(model, recipe.held_out, HOP, clean=condition == "clean")
        results[condition] = asdict(measure(frames, bundle.code_map.code_to_note))
        draw_confusion(frames, bundle.code_map, out / f"confusion_{condition}.png")
    (out / "evaluation.json").write_text(json.dumps(results, indent=1))
    (out / "report.md").write_text(_report(bundle.name, results))
    return results


def _report(name: str, results: dict[str, Any]) -> str:
    noisy, clean = results["noisy"], results["clean"]
    rows = [f"# {name} on melodies it never heard", "",
            "| | noisy rooms | clean |", "|---|---|---|"]
    for key in ("stable_right", "all_right", "octave_share", "style_retrieval",
                "style_retrieval_other_clips", "pitch_r2_from_style", "pitch_r2_from_style_in_clip",
                "never_right"):
        rows.append(f"| {key.replace('_', ' ')} | {noisy[key]} | {clean[key]} |")
    for register in noisy["median_ms_to_right"]:
        rows.append(f"| median ms to the right code, {register} | "
                    f"{noisy['median_ms_to_right'][register]} | "
                    f"{clean['median_ms_to_right'][register]} |")
    rows += ["", "![note played against note heard](confusion_noisy.png)", ""]
    return "\n".join(rows)
