"""Leakage probes: can a classifier read from a latent what should not be there?

Retrieval asks whether a factor decides the distances; a probe asks whether it can be found at all.

Letters: n fragments, D values of a latent, C labels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.paper.metrics import balanced_accuracy

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_MOST = 3000  # fragments learned from
_STEPS, _HIDDEN = 300, 64


def probe(z: FloatArray, labels: IntArray, z_test: FloatArray, labels_test: IntArray, *,
          linear: bool, seed: int = 0) -> float:
    """Balanced accuracy on held-out fragments of a classifier trained on others.

    Args:
        z: (n, D) to learn from, each value standardised over them first.
        labels: (n,).
        z_test: (m, D).
        labels_test: (m,).
        linear: a linear classifier, or a perceptron with one hidden layer of 64.
        seed: of its weights and of which fragments it learns from.

    Returns:
        0..1; chance is one in the number of labels.
    """
    generator = torch.Generator().manual_seed(seed)
    keep = torch.randperm(len(z), generator=generator)[:_MOST].numpy()
    mean, std = z[keep].mean(0), z[keep].std(0) + 1e-6
    x, x_test = (torch.from_numpy((v - mean) / std) for v in (z[keep], z_test))
    y = torch.from_numpy(labels[keep])
    n_labels = int(labels.max()) + 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier: nn.Module = (
            nn.Linear(z.shape[1], n_labels) if linear else
            nn.Sequential(nn.Linear(z.shape[1], _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, n_labels)))
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=0.01, weight_decay=0.01)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(classifier(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        said = classifier(x_test).argmax(1).numpy()
    return balanced_accuracy(said, labels_test)
