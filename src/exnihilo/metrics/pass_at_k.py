"""pass@k: the chance that one of k answers is right; unbiased, with intervals over problems.

::

    each_P = pass_at_k([3, 0, 8], 8, 4)              # of three problems with 8 samples each
    mean, low, high = interval(each_P, seed=0)       # 95% bootstrap over problems

With n ≥ k samples of which c are right, 1 − C(n − c, k)/C(n, k) is unbiased; the naive 1 − (1 − c/n)^k is
too low. Samples of one problem are not independent of each other, so problems are drawn anew, not samples.

References: Chen et al. 2021, *Evaluating Large Language Models Trained on Code*, arXiv:2107.03374, section
2.1; bootstrap: Efron 1979.

Key: P problems
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exnihilo.errors import UsageError

DRAWS = 2000


def pass_at_k(
    right: Sequence[int] | np.ndarray, samples: int | Sequence[int] | np.ndarray, k: int
) -> np.ndarray:
    """The unbiased estimate of pass@k for each problem, float64 (P,).

    Args:
        right: right samples of each problem.
        samples: drawn samples of each problem, or of all.
        k: at most the fewest samples.

    Raises:
        UsageError: k is not between 1 and the samples, or more are right than were drawn.

    >>> pass_at_k([0, 1, 4], 4, 2).tolist()
    [0.0, 0.5, 1.0]
    """
    right_P = np.asarray(right, np.int64)
    samples_P = np.broadcast_to(np.asarray(samples, np.int64), right_P.shape)
    if len(right_P) and not 1 <= k <= int(samples_P.min()):
        raise UsageError(
            f"k={k} with {int(samples_P.min())} samples",
            expected="1 to the number of samples",
            next="a smaller k",
        )
    if (right_P < 0).any() or (right_P > samples_P).any():
        raise UsageError("more right samples than samples", expected="0 to the number of samples")
    pairs, place_P = np.unique(np.stack([right_P, samples_P]), axis=1, return_inverse=True)
    each = [_chance(int(c), int(n), k) for c, n in pairs.T]
    return np.array(each, np.float64)[place_P.reshape(-1)]


def _chance(c: int, n: int, k: int) -> float:
    """1 − C(n − c, k)/C(n, k), as a product: no large numbers."""
    return 1.0 if n - c < k else 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def interval(
    values: Sequence[float] | np.ndarray, *, confidence: float = 0.95, seed: int = 0, draws: int = DRAWS
) -> tuple[float, float, float]:
    """(mean, low, high): the percentile bootstrap over problems; all nan where there are none.

    >>> interval([0.5, 0.5, 0.5])
    (0.5, 0.5, 0.5)
    """
    values_P = np.asarray(values, np.float64)
    if not len(values_P):
        nothing = float("nan")
        return nothing, nothing, nothing
    chance = np.random.default_rng(seed)
    means = np.array(
        [values_P[chance.integers(0, len(values_P), len(values_P))].mean() for _ in range(draws)]
    )
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(values_P.mean()), float(low), float(high)
