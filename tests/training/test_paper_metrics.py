"""The paper's metrics against cases worked by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from training.paper.metrics import (
    above_chance,
    balanced_accuracy,
    codebook_accuracy,
    confusion,
    fragment_accuracy,
    labels_covered,
    name_codes,
    retrieval,
)
from training.paper.probes import probe

TWO_MERGED = np.array([[10, 0, 0], [0, 10, 9], [0, 0, 1]])
"""Code 1 stands for two labels, of which one has a stray code of its own."""


def test_confusion_counts_pairs():
    codes, labels = np.array([0, 2, 2, 2]), np.array([1, 0, 0, 1])
    assert confusion(codes, labels, 3, 2).tolist() == [[0, 1], [0, 0], [2, 1]]


def test_merged_labels_show_in_both_accuracies():
    assert codebook_accuracy(TWO_MERGED) == pytest.approx(21 / 30)
    assert fragment_accuracy(TWO_MERGED) == pytest.approx(21 / 30)
    assert labels_covered(TWO_MERGED) == 3
    assert labels_covered(TWO_MERGED[:2]) == 2


def test_codebook_accuracy_is_blind_to_a_code_that_never_names_its_label():
    # both codes have label 0 as their majority: the paper's measure is content, ours is not
    table = np.array([[10, 9], [10, 1]])
    assert codebook_accuracy(table) == pytest.approx(20 / 30)
    assert name_codes(table).tolist() == [1, 0]
    assert fragment_accuracy(table) == pytest.approx(19 / 30)
    assert labels_covered(table) == 1


def test_spare_codes_go_where_they_fit():
    table = np.array([[5, 0], [4, 0], [0, 6], [1, 3]])
    assert name_codes(table).tolist() == [0, 0, 1, 1]
    assert fragment_accuracy(table) == pytest.approx(18 / 19)


def test_above_chance():
    assert above_chance(1 / 12, 1 / 12) == 0
    assert above_chance(1.0, 1 / 12) == 1


def test_retrieval_equals_average_precision_of_scikit_learn():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 60)
    z = rng.normal(size=(60, 3)) + 0.7 * labels[:, None]
    expected = []
    for i in range(60):
        others = np.arange(60) != i
        distance = np.linalg.norm(z[others] - z[i], axis=1)
        expected.append(average_precision_score(labels[others] == labels[i], -distance))
    assert retrieval(z, labels).auc == pytest.approx(np.mean(expected), abs=1e-9)


def test_retrieval_by_hand():
    # 0 and 1 share a label; from 0 the nearest is 2 (wrong), then 1: precision 1/2, recall 1
    z, labels = np.array([[0.0], [2.0], [1.0]]), np.array([0, 0, 1])
    found = retrieval(z, labels)
    assert found.auc == pytest.approx(1 / 2)
    assert found.best_f1 == pytest.approx(2 / 3)


def test_retrieval_is_perfect_or_chance():
    labels = np.arange(600) % 3
    assert retrieval(labels[:, None].astype(float), labels) == pytest.approx((1.0, 1.0))
    noise = np.random.default_rng(1).normal(size=(600, 4))
    assert retrieval(noise, labels).auc == pytest.approx(1 / 3, abs=0.03)
    assert retrieval(noise, labels, n_most=90).auc == pytest.approx(1 / 3, abs=0.1)


def test_balanced_accuracy_equals_scikit_learn():
    rng = np.random.default_rng(2)
    true, said = rng.integers(0, 3, 50), rng.integers(0, 3, 50)
    assert balanced_accuracy(said, true) == pytest.approx(balanced_accuracy_score(true, said))


def ring(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A disc inside a ring: two labels that no line parts."""
    labels = rng.integers(0, 2, n)
    angle, radius = rng.uniform(0, 2 * np.pi, n), 1 + 2 * labels + 0.2 * rng.normal(size=n)
    z = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return z.astype(np.float32), labels


def test_probes_find_what_is_there_and_nothing_else():
    rng = np.random.default_rng(3)
    (z, y), (z_test, y_test) = ring(400, rng), ring(400, rng)
    assert probe(z, y, z_test, y_test, linear=False) > 0.97
    assert probe(z, y, z_test, y_test, linear=True) < 0.65
    shuffled = rng.permutation(y)
    assert probe(z, shuffled, z_test, y_test, linear=False) == pytest.approx(0.5, abs=0.12)
