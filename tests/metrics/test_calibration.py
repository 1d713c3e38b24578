"""Temperature against SciPy's search, calibration error against its definition, thresholds by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from exnihilo.metrics import calibration as ours


def draws(n: int, classes: int, true_temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from softmax(logits / true_temperature)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (n, classes))
    p = ours.softmax(logits / true_temperature)
    return logits, (rng.random((n, 1)) > p.cumsum(1)).sum(1).clip(max=classes - 1)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_is_where_the_likelihood_is_best(classes, true):
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed")
    logits, gold = draws(4000, classes, true, seed=classes)
    found = ours.temperature(logits, gold)
    assert found == pytest.approx(true, rel=0.1)

    def loss(log_t: float) -> float:
        return ours.nll(ours.softmax(logits / math.exp(log_t)), gold)

    best = optimize.minimize_scalar(loss, bounds=(-2.3, 2.3), method="bounded", options={"xatol": 1e-9})
    assert found == pytest.approx(math.exp(best.x), rel=1e-5)
    before, after = ours.ece(ours.softmax(logits), gold), ours.ece(ours.softmax(logits / found), gold)
    assert after < before or true == 1.0


def test_binary_temperature_equals_that_of_two_classes():
    logits, gold = draws(500, 2, 2.0, seed=0)
    as_one = logits[:, 1] - logits[:, 0]
    assert ours.temperature_binary(as_one, gold) == pytest.approx(ours.temperature(logits, gold), rel=1e-12)


def test_temperature_of_a_perfect_a_wrong_and_an_empty_split():
    z = np.eye(3) * 4
    assert ours.temperature(z, np.arange(3)) == pytest.approx(ours.COLDEST)
    assert ours.temperature(z, np.array([1, 2, 0])) == pytest.approx(ours.HOTTEST)
    assert ours.temperature(np.zeros((3, 2)), np.array([0, 1, 0])) == 1.0
    assert ours.temperature(z[:0], np.zeros(0, int)) == ours.temperature_binary(z[:0], z[:0]) == 1.0
    # adding a number to all logits of a row changes nothing
    logits, gold = draws(300, 4, 2.0, seed=1)
    assert ours.temperature(logits + 1000, gold) == pytest.approx(ours.temperature(logits, gold))


def test_probabilities_do_not_overflow():
    assert ours.sigmoid(np.array([1e4, -1e4])).tolist() == [1.0, 0.0]
    assert ours.softmax(np.array([[1e4, 0.0, -1e4]])).tolist() == [[1.0, 0.0, 0.0]]
    assert math.isfinite(ours.nll(np.array([[1.0, 0.0]]), np.array([1])))


@pytest.mark.parametrize("bins", [1, 15])
def test_calibration_error_equals_its_definition(bins):
    logits, gold = draws(400, 3, 2.0, seed=3)
    probs = ours.softmax(logits)
    probs[:5] = [1.0, 0.0, 0.0]  # at the last edge
    confidence, hit = probs.max(1), probs.argmax(1) == gold
    want = 0.0
    for i in range(bins):
        mask = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if mask.any():
            want += mask.mean() * abs(hit[mask].mean() - confidence[mask].mean())
    assert ours.ece(probs, gold, bins) == pytest.approx(want, abs=1e-12)
    assert ours.ece(probs, np.full(400, 7)) == pytest.approx(confidence.mean())  # no column: all wrong


def test_calibration_error_of_decisions():
    p, y = np.array([0.9, 0.9, 0.1, 0.0]), np.array([1, 0, 0, 0])
    assert ours.ece_binary(p, y) == pytest.approx((2 * 0.4 + 0.1) / 4)
    assert math.isnan(ours.ece_binary(p[:0], y[:0])) and math.isnan(ours.ece(np.zeros((0, 2)), y[:0]))


@pytest.mark.parametrize("by", ["f1", "accuracy"])
@pytest.mark.parametrize("levels", [4, 1000])
def test_threshold_is_the_best_by_brute_force(by, levels):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        gold = rng.random(30) < 0.3
        p = np.clip(rng.integers(0, levels, 30) / levels + 0.2 * gold, 0, 1)

        def value(cut: float, p=p, gold=gold) -> float:
            said = p >= cut
            if by == "accuracy":
                return float((said == gold).mean())
            return 2 * (said & gold).sum() / max(1, said.sum() + gold.sum())

        found = ours.threshold(p, gold, by)
        assert value(found) == pytest.approx(max(value(c) for c in [0.0, *p, 1.1]))
        assert found == 0.5 or value(0.5) < value(found)


def test_threshold_of_one_class_is_a_half():
    p = np.array([0.2, 0.4, 0.9])
    assert ours.threshold(p, np.zeros(3), "f1") == ours.threshold(p, np.ones(3), "accuracy") == 0.5
