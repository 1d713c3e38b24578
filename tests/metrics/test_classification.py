"""Classification figures equal scikit-learn's: random, constant, empty and unseen classes; counts add up."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

from exnihilo.metrics import classification as ours

CASES = [
    (3, 200, None),
    (3, 7, None),
    (2, 50, None),
    (5, 4, None),  # classes that occur nowhere
    (3, 40, "gold"),  # one class in the truth
    (3, 40, "predicted"),
    (3, 40, "both"),
    (12, 300, None),
]


def case(classes: int, n: int, constant: str | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, classes, n)
    predicted = np.where(rng.random(n) < 0.5, gold, rng.integers(0, classes, n))
    if constant in ("gold", "both"):
        gold = np.ones(n, np.int64)
    if constant in ("predicted", "both"):
        predicted = np.ones(n, np.int64)
    return gold, predicted


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")


@pytest.mark.parametrize("classes,n,constant", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_one_label_figures_equal_scikit_learns(theirs, classes, n, constant, seed):
    gold, predicted = case(classes, n, constant, seed)
    matrix = ours.confusion(gold, predicted, classes)
    found = ours.summary(matrix, positive=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (matrix == theirs.confusion_matrix(gold, predicted, labels=range(classes))).all()
        want = {
            "accuracy": theirs.accuracy_score(gold, predicted),
            "mcc": theirs.matthews_corrcoef(gold, predicted),
            "precision": theirs.precision_score(gold == 1, predicted == 1, zero_division=0),
            "recall": theirs.recall_score(gold == 1, predicted == 1, zero_division=0),
            "f1": theirs.f1_score(gold == 1, predicted == 1, zero_division=0),
            "macro_precision": theirs.precision_score(gold, predicted, average="macro", zero_division=0),
            "macro_recall": theirs.recall_score(gold, predicted, average="macro", zero_division=0),
        }
        for average in ("macro", "micro", "weighted"):
            want[f"{average}_f1"] = theirs.f1_score(gold, predicted, average=average, zero_division=0)
    assert found.keys() == want.keys()
    for name, value in want.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize(
    "labels,n,rate", [(4, 100, 0.3), (4, 3, 0.3), (6, 50, 0.0), (6, 50, 1.0), (1, 20, 0.5)]
)
def test_figures_of_several_labels_equal_scikit_learns(theirs, labels, n, rate):
    rng = np.random.default_rng(labels + n)
    gold = rng.random((n, labels)) < rate
    gold[:, -1] = False  # a label that never holds
    predicted = gold ^ (rng.random((n, labels)) < 0.2)
    found = ours.multilabel(gold, predicted)
    want = {
        "exact_match": (gold == predicted).all(1).mean(),
        "hamming": theirs.hamming_loss(gold, predicted),
        "micro_precision": theirs.precision_score(gold, predicted, average="micro", zero_division=0),
        "micro_recall": theirs.recall_score(gold, predicted, average="micro", zero_division=0),
    }
    if labels > 1:  # scikit-learn reads one column as a binary task
        for average in ("macro", "micro", "weighted"):
            want[f"{average}_f1"] = theirs.f1_score(gold, predicted, average=average, zero_division=0)
    else:
        want = {"hamming": want["hamming"], "exact_match": want["exact_match"]}
    for name, value in want.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_area_under_the_curve_equals_scikit_learns_with_ties(theirs, levels):
    rng = np.random.default_rng(levels)
    gold, score = rng.integers(0, 2, 300), rng.integers(0, levels, 300) / levels
    assert ours.auc(gold, score) == pytest.approx(theirs.roc_auc_score(gold, score), abs=1e-12)
    assert ours.auc(gold, np.ones(300)) == 0.5
    assert math.isnan(ours.auc(np.ones(5), score[:5]))


def test_matrices_of_two_halves_add_up_to_the_whole():
    gold, predicted = case(4, 101, None, 0)
    halves = [ours.confusion(gold[s], predicted[s], 4) for s in (slice(0, 37), slice(37, None))]
    assert (halves[0] + halves[1] == ours.confusion(gold, predicted, 4)).all()


def test_figures_of_nothing_and_of_many_are_finite():
    assert set(ours.summary(np.zeros((3, 3), np.int64)).values()) == {0.0}
    many = np.array([[4 << 30, 1], [1, 4 << 30]], np.int64)  # products beyond 2^63
    assert ours.mcc(many) == pytest.approx(1.0)


def test_wrong_classes_are_refused():
    with pytest.raises(ValueError, match="classes 0..3"):
        ours.confusion(np.array([0, 3]), np.array([0, 1]), 3)
    with pytest.raises(ValueError, match="equal rows"):
        ours.confusion(np.array([0, 1]), np.array([0]), 3)
