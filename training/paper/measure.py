"""All figures of one trained run, as one JSON value.

Letters: n fragments, K codes, S styles, D values of a latent.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from training.paper.datasets import SHOTS, Splits
from training.paper.experiment import Experiment, Trained, adapt
from training.paper.fragments import Fragments
from training.paper.insnotes import FIRST_NOTE, Normaliser
from training.paper.metrics import (
    above_chance,
    codebook_accuracy,
    confusion,
    fragment_accuracy,
    labels_covered,
    name_codes,
    retrieval,
)
from training.paper.networks import Autoencoder
from training.paper.probes import probe
from training.paper.sounds import pitch_of, to_sound

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_BATCH = 1024


class Latents(NamedTuple):
    """What a model made of n labelled fragments."""

    content: FloatArray  # (n, D) z_c
    style: FloatArray  # (n, D) z_s
    codes: IntArray  # (n,)
    content_label: IntArray  # (n,)
    style_label: IntArray  # (n,)
    error: float  # mean squared, of the rebuilt fragments

    def table(self, n_codes: int, n_labels: int) -> IntArray:
        """(K, C) codes against contents."""
        return confusion(self.codes, self.content_label, n_codes, n_labels)


@torch.no_grad()
def encode(model: Autoencoder, data: Fragments) -> Latents:
    """Latents of every fragment, on the CPU."""
    x, content_label, style_label = data.flat()
    device = model.codebook.atoms.device
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    error = 0.0
    for piece in x.split(_BATCH):
        piece = piece.to(device)
        content, style = model.encode(piece)
        quantized = model.quantize(content)
        rebuilt = model.decode(quantized.z_q, style)
        error += float((rebuilt - piece).square().mean()) * len(piece)
        parts.append((content.cpu(), style.cpu(), quantized.codes.cpu()))
    content, style, codes = (torch.cat(part) for part in zip(*parts, strict=True))
    return Latents(content.numpy(), style.numpy(), codes.numpy(), content_label, style_label,
                   error / len(x))


def measure(trained: Trained, experiment: Experiment, splits: Splits,
            seed: int) -> dict[str, Any]:
    """Every figure of the paper, and those it leaves open.

    Codes are named on the training data; all other figures are of fragments never trained on.

    Returns:
        JSON values; `*_auc` and `*_f1` are the paper's, `leak_*` the same less chance.
    """
    model = trained.model
    n_codes, n_labels = experiment.network.codes, len(splits.train.content_names)
    train, test = encode(model, splits.train), encode(model, splits.test)
    table = test.table(n_codes, n_labels)
    names = names_of(model, train, n_labels)
    figures: dict[str, Any] = {
        "codebook_accuracy": codebook_accuracy(table), "labels_covered": labels_covered(table),
        "fragment_accuracy": fragment_accuracy(table), "error": test.error,
    }
    for factor, labels in (("content", test.content_label), ("style", test.style_label)):
        for latent, z in (("content", test.content), ("style", test.style)):
            found = retrieval(z, labels)
            figures[f"{factor}_from_{latent}_auc"] = found.auc
            figures[f"{factor}_from_{latent}_f1"] = found.best_f1
    chance = {"content": 1 / n_labels, "style": 1 / len(splits.train.style_names)}
    for factor, latent in (("content", "style"), ("style", "content")):
        auc = figures[f"{factor}_from_{latent}_auc"]
        figures[f"leak_{factor}_from_{latent}"] = above_chance(auc, chance[factor])
        label = f"{factor}_label"
        for kind in ("linear", "mlp"):
            figures[f"probe_{kind}_{factor}_from_{latent}"] = probe(
                getattr(train, latent), getattr(train, label), getattr(test, latent),
                getattr(test, label), linear=kind == "linear")
        figures[f"probe_chance_{factor}"] = chance[factor]
    # what the decoder is given of a content is its atom
    atoms = model.codebook.atoms.cpu().numpy()
    figures["probe_mlp_style_from_atom"] = probe(
        atoms[train.codes], train.style_label, atoms[test.codes], test.style_label, linear=False)
    figures["ood"] = {"0": ood_accuracy(model, splits.ood, names)}
    for n_shots in SHOTS:
        adapted = adapt(trained, experiment, splits.shots, n_shots, seed)
        figures["ood"][str(n_shots)] = ood_accuracy(adapted.model, splits.ood, names)
    if experiment.data.domain == "insnotes":
        figures |= pitch_kept(recombine(model, train, names), splits.normaliser)
    return _rounded(figures)


def names_of(model: Autoencoder, found: Latents, n_labels: int) -> IntArray:
    """(K,) the content each code stands for; a code that nothing is heard as, that of the nearest.

    Such codes serve recoloured fragments, and may serve unheard styles.
    """
    table = found.table(model.config.codes, n_labels)
    names = name_codes(table)
    used = np.flatnonzero(table.sum(1))
    atoms = model.codebook.atoms.cpu().numpy()
    return names[used[cdist(atoms, atoms[used]).argmin(1)]]


def ood_accuracy(model: Autoencoder, data: Fragments, names: IntArray) -> dict[str, float]:
    """Share of fragments whose code has their name: of each unheard style, and `mean`."""
    found = encode(model, data)
    right = names[found.codes] == found.content_label
    by_style = {name: float(right[found.style_label == i].mean())
                for i, name in enumerate(data.style_names)}
    return by_style | {"mean": float(np.mean(list(by_style.values())))}


class Recombined(NamedTuple):
    """Every content in every style: k codes in use, S styles."""

    x: Tensor  # (k, S, *shape)
    codes: IntArray  # (k,)
    names: IntArray  # (k,) content each code stands for


@torch.no_grad()
def recombine(model: Autoencoder, latents: Latents, names: IntArray) -> Recombined:
    """Decode each code in use with each style's mean z_s, in the order of their names."""
    used = np.unique(latents.codes)
    codes = used[np.argsort(names[used], kind="stable")]
    styles = np.stack([latents.style[latents.style_label == s].mean(0)
                       for s in range(int(latents.style_label.max()) + 1)])
    device = model.codebook.atoms.device
    z_c = model.codebook.atoms[torch.from_numpy(codes).to(device)]
    z_s = torch.from_numpy(styles).to(device)
    x = model.decode(z_c.repeat_interleave(len(z_s), 0), z_s.repeat(len(z_c), 1))
    return Recombined(x.unflatten(0, (len(z_c), len(z_s))).cpu(), codes, names[codes])


def pitch_kept(made: Recombined, normaliser: Normaliser) -> dict[str, float]:
    """How well a code keeps its pitch class from timbre to timbre, in the decoder's own sound.

    Returns:
        `pitch_kept`: share of slots with the commonest pitch class of their code, as the authors'
        demo was measured; `pitch_right`: with the pitch class of the note the code stands for.
    """
    pitch = np.array([[round(pitch_of(to_sound(x.numpy(), normaliser))) % 12 for x in row]
                      for row in made.x])  # (k, S)
    commonest = np.array([np.bincount(row, minlength=12).argmax() for row in pitch])
    named = (FIRST_NOTE + made.names) % 12
    return {"pitch_kept": float((pitch == commonest[:, None]).mean()),
            "pitch_right": float((pitch == named[:, None]).mean())}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value
