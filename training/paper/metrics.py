"""What the paper measures, and what it leaves open.

Letters: n fragments, K codes, C contents, D values of a latent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def confusion(codes: IntArray, labels: IntArray, n_codes: int, n_labels: int) -> IntArray:
    """(K, C) how often each code stood for each label."""
    table = np.zeros((n_codes, n_labels), np.int64)
    np.add.at(table, (codes, labels), 1)
    return table


def codebook_accuracy(table: IntArray) -> float:
    """Sum of row maxima over the sum: the paper's measure. Blind to merged labels when C > 2."""
    return float(table.max(1).sum() / table.sum())


def labels_covered(table: IntArray) -> int:
    """Labels that are the majority of some code."""
    used = table.sum(1) > 0
    return len(np.unique(table[used].argmax(1)))


def name_codes(table: IntArray) -> IntArray:
    """(K,) a label for each code, so that as many fragments as can be are named rightly.

    With as many codes as labels, one to one (Hungarian assignment); with more, each label gets
    one code of its own first, and the rest go where they fit best.
    """
    rows, columns = linear_sum_assignment(-table)
    name = table.argmax(1)
    name[rows] = columns
    return np.asarray(name)


def fragment_accuracy(table: IntArray) -> float:
    """Share of fragments named rightly by `name_codes`: a label without a code is lost."""
    return float(table[np.arange(len(table)), name_codes(table)].sum() / table.sum())


def above_chance(value: float, chance: float) -> float:
    """A measure whose chance level is not 0, rescaled: 0 chance, 1 perfect."""
    return (value - chance) / (1 - chance)


def balanced_accuracy(said: IntArray, true: IntArray) -> float:
    """Mean over the labels of the share of each that is said rightly; chance is one in C."""
    return float(np.mean([(said[true == label] == label).mean() for label in np.unique(true)]))


class Retrieval(NamedTuple):
    """How well neighbours share a label: 1 always, the label's share never more than by chance."""

    auc: float  # area under the precision-recall curve of all pairs, nearest first
    best_f1: float


def retrieval(z: FloatArray, labels: IntArray, n_most: int = 2000, seed: int = 0) -> Retrieval:
    """Precision and recall of "the same label" by Euclidean distance, each fragment asking once.

    Args:
        z: (n, D).
        labels: (n,).
        n_most: fragments used at most, drawn at random: all pairs are compared.
        seed: of that draw.

    Returns:
        Area and best F1, each averaged over the asking fragments (itself excluded).
    """
    if len(z) > n_most:
        keep = np.random.default_rng(seed).choice(len(z), n_most, replace=False)
        z, labels = z[keep], labels[keep]
    distance = cdist(z, z)
    np.fill_diagonal(distance, np.inf)
    order = np.argsort(distance, 1, kind="stable")[:, :-1]  # itself, last, is left out
    same = labels[order] == labels[:, None]  # (n, n - 1), nearest first
    hits = same.cumsum(1)
    n_same = hits[:, -1:]
    asked = n_same[:, 0] > 0
    same, hits, n_same = same[asked], hits[asked], n_same[asked]
    precision = hits / np.arange(1, hits.shape[1] + 1)
    recall = hits / n_same
    auc = float(((precision * same).sum(1) / n_same[:, 0]).mean())
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return Retrieval(auc, float(f1.max(1).mean()))
