"""How well a list is ordered: reciprocal rank, nDCG, average precision; and retrieval over a whole split.

    reciprocal_rank(score_N, relevant_N), ndcg(score_N, gain_N, k=10), average_precision(score_N, relevant_N)
    retrieval(query_ND, key_ND)["mrr"]

Equal scores are never decided by the order in which they came: the reciprocal rank and nDCG are means over
the orders of equals, average precision reads them together (the latter two as scikit-learn does). So a model
that gives every document one score gains nothing over chance.

Key: N documents of one query (or pairs of a split), D width
"""

from __future__ import annotations

import math

import numpy as np

_ROWS = 1024  # queries compared with all keys at once


def reciprocal_rank(score_N: np.ndarray, relevant_N: np.ndarray) -> float:
    """1 / rank of the first relevant document, the mean over the orders of equals; NaN where there is none.

    >>> reciprocal_rank(np.array([0.9, 0.5, 0.1]), np.array([0, 1, 0]))
    0.5
    >>> reciprocal_rank(np.array([0.5, 0.5]), np.array([0, 1]))
    0.75
    """
    score_N, relevant_N = np.asarray(score_N, np.float64), np.asarray(relevant_N, bool)
    if not relevant_N.any():
        return math.nan
    best = score_N[relevant_N].max()
    before = int((score_N > best).sum())
    equal, good = int((score_N == best).sum()), int((relevant_N & (score_N == best)).sum())
    # chance that the first good one of `equal` in random order comes at place j
    orders = math.comb(equal, good)
    places = range(1, equal - good + 2)
    return sum(math.comb(equal - j, good - 1) / orders / (before + j) for j in places)


def chance_average_precision(documents: int, relevant: int) -> float:
    """Mean average precision over all orders of the documents: what knowing nothing is worth.

    >>> chance_average_precision(2, 1)
    0.75
    """
    n, r = documents, relevant
    if not 0 < r <= n:
        return math.nan
    place = np.arange(1, n + 1)
    return float(((1 + (place - 1) * (r - 1) / max(1, n - 1)) / place).mean())


def average_precision(score_N: np.ndarray, relevant_N: np.ndarray) -> float:
    """Σ over distinct scores of (recall gained × precision there); NaN where none is relevant.

    >>> average_precision(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1]))
    0.8333333333333333
    """
    score_N, relevant_N = np.asarray(score_N, np.float64), np.asarray(relevant_N, bool)
    if not relevant_N.any():
        return math.nan
    order = np.argsort(-score_N, kind="stable")
    score_N, relevant_N = score_N[order], relevant_N[order]
    last = np.append(score_N[1:] < score_N[:-1], True)  # the last of each group of equals
    hits = np.cumsum(relevant_N)[last]
    called = np.flatnonzero(last) + 1
    return float((np.diff(hits, prepend=0) * hits / called).sum() / relevant_N.sum())


def ndcg(score_N: np.ndarray, gain_N: np.ndarray, k: int = 10) -> float:
    """Discounted gain of the first k over the best possible: gains as they are, discount 1 / log2(1 + rank).

    NaN where no gain is above 0.

    >>> ndcg(np.array([0.9, 0.5]), np.array([1.0, 0.0]))
    1.0
    """
    score_N, gain_N = np.asarray(score_N, np.float64), np.asarray(gain_N, np.float64)
    if not (gain_N > 0).any():
        return math.nan
    discount_N = 1.0 / np.log2(np.arange(2, len(score_N) + 2))
    discount_N[k:] = 0.0
    _, group_N, count = np.unique(-score_N, return_inverse=True, return_counts=True)
    group_N = group_N.reshape(-1)
    mean_gain = np.bincount(group_N, gain_N) / count
    shares = np.bincount(np.repeat(np.arange(len(count)), count), discount_N)  # discounts of each group
    return float((mean_gain * shares).sum() / (np.sort(gain_N)[::-1] * discount_N).sum())


def retrieval(
    query_ND: np.ndarray,
    key_ND: np.ndarray,
    same_N: np.ndarray | None = None,
    asking_N: np.ndarray | None = None,
    query_same_N: np.ndarray | None = None,
) -> dict[str, float]:
    """Each query looks for its own key among all keys of the split, by the product of their vectors.

    Args:
        query_ND, key_ND: rows belong together.
        same_N: a number for each key; keys with equal numbers are the same text, and any of them is right.
        asking_N: which queries are counted; default all. The keys of the others are in the way.
        query_same_N: the numbers of the queries' texts: a key that is the query's very text is left out.

    Returns:
        accuracy@1 and mrr; equal scores of other keys count as before the right one.

    >>> retrieval(np.eye(3), np.eye(3))
    {'accuracy@1': 1.0, 'mrr': 1.0}
    """
    query_ND, key_ND = np.asarray(query_ND, np.float64), np.asarray(key_ND, np.float64)
    N = len(query_ND)
    asking_N = np.ones(N, bool) if asking_N is None else np.asarray(asking_N, bool)
    if not asking_N.any():
        return {"accuracy@1": math.nan, "mrr": math.nan}
    same_N = np.arange(N) if same_N is None else np.asarray(same_N)
    rank_N = np.empty(N, np.int64)
    for at in range(0, N, _ROWS):
        part = slice(at, at + _ROWS)
        score_RN = query_ND[part] @ key_ND.T
        own_RN = same_N[part, None] == same_N[None, :]
        mine_R = np.where(own_RN, score_RN, -np.inf).max(1)
        before_RN = (score_RN >= mine_R[:, None]) & ~own_RN
        if query_same_N is not None:
            before_RN &= query_same_N[part, None] != same_N[None, :]
        rank_N[part] = 1 + before_RN.sum(1)
    rank_N = rank_N[asking_N]
    return {"accuracy@1": float((rank_N == 1).mean()), "mrr": float((1.0 / rank_N).mean())}
