"""Ranking figures equal scikit-learn's with ties; retrieval by brute force; constant scores gain nothing."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from exnihilo.metrics import ranking as ours


@pytest.mark.parametrize("levels", [2, 4, 1000])
@pytest.mark.parametrize("n", [2, 9, 30])
def test_ndcg_and_average_precision_equal_scikit_learns(levels, n):
    theirs = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    for seed in range(10):
        rng = np.random.default_rng(seed)
        score, gain = rng.integers(0, levels, n) / levels, rng.integers(0, 4, n).astype(float)
        gain[rng.integers(n)] = 3.0
        for k in (1, 10, 100):
            assert ours.ndcg(score, gain, k) == pytest.approx(theirs.ndcg_score([gain], [score], k=k))
        assert ours.average_precision(score, gain > 1) == pytest.approx(
            theirs.average_precision_score(gain > 1, score)
        )


@pytest.mark.parametrize("seed", range(6))
def test_equals_count_as_the_mean_over_all_their_orders(seed):
    rng = np.random.default_rng(seed)
    score, good = rng.integers(0, 2, 6) / 2, rng.random(6) < 0.4
    good[rng.integers(6)] = True
    ranks, precisions = [], []
    for order in itertools.permutations(range(6)):
        shuffled = sorted(order, key=lambda i: -score[i])  # stable: equals stay as they were shuffled
        ranks.append(1 / (1 + int(np.argmax(good[list(shuffled)]))))
        hits = np.cumsum(good[list(order)]) / np.arange(1, 7)
        precisions.append(hits[good[list(order)]].mean())
    assert ours.reciprocal_rank(score, good) == pytest.approx(np.mean(ranks))
    assert ours.chance_average_precision(6, int(good.sum())) == pytest.approx(np.mean(precisions))


def test_nothing_relevant_is_undefined():
    for figure in (ours.reciprocal_rank, ours.ndcg, ours.average_precision):
        assert math.isnan(figure(np.array([0.2, 0.1]), np.zeros(2)))


def test_retrieval_equals_a_search_one_by_one():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(50, 8))
    b = a + rng.normal(size=(50, 8))
    b[7] = b[3]
    same = np.arange(50)
    same[7] = 3  # the same text
    ranks = []
    for i in range(50):
        scores = b @ a[i]
        own = same == same[i]
        ranks.append(1 + (scores[~own] >= scores[own].max()).sum())
    found = ours.retrieval(a, b, same)
    assert found["accuracy@1"] == np.mean(np.array(ranks) == 1)
    assert found["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)))
    asking = np.arange(50) < 10
    assert ours.retrieval(a, b, same, asking)["mrr"] == pytest.approx(np.mean(1 / np.array(ranks[:10])))


def test_a_key_that_is_the_query_itself_is_left_out():
    a = np.eye(3)
    b = a[[1, 0, 2]]  # pair 0 = (x, y), pair 1 = (y, x): x is nearest to itself
    found = ours.retrieval(a, b, np.array([1, 0, 2]), query_same_N=np.array([0, 1, 9]))
    assert ours.retrieval(a, b)["accuracy@1"] == pytest.approx(1 / 3)
    assert found["mrr"] == pytest.approx((0.5 + 0.5 + 1) / 3)  # text 2 ties at a product of 0


def test_retrieval_in_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(1)
    a, b = rng.integers(-3, 4, (40, 4)).astype(float), rng.integers(-3, 4, (40, 4)).astype(float)
    whole = ours.retrieval(a, b)
    monkeypatch.setattr(ours, "_ROWS", 7)
    assert ours.retrieval(a, b) == whole


def test_one_vector_for_all_texts_finds_nothing():
    ones = np.ones((10, 4))
    assert ours.retrieval(ones, ones) == {"accuracy@1": 0.0, "mrr": 0.1}
    assert math.isnan(ours.retrieval(ones[:0], ones[:0])["mrr"])
