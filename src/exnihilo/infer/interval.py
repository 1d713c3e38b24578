"""How sure a measured share or mean is: two intervals.

`wilson` for shares (right of so many), `bootstrap` for means of anything::

    low, high = wilson(right=47, count=60)
    low, high = bootstrap(scores, seed=0)

References: Wilson 1927 (never leaves [0, 1], and is right for few and for extreme shares, where the normal
interval is not); Efron 1979 (percentile bootstrap).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from exnihilo.errors import UsageError


def wilson(right: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a share.

    Args:
        right: successes, 0 to count.
        count: trials; 0 gives (0, 1): nothing is known.
        confidence: e.g. 0.95.

    >>> [round(x, 4) for x in wilson(47, 60)]
    [0.6638, 0.8688]
    """
    _check(confidence)
    if not 0 <= right <= count:
        raise UsageError(f"{right} right of {count}", expected="0 <= right <= count")
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, shrink = right / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / shrink
    half = z / shrink * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    values: Sequence[float] | np.ndarray, *, confidence: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile interval of a mean: `draws` resamples, each as long as the data. The same seed, the
    same interval.

    >>> bootstrap([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    _check(confidence)
    data = np.asarray(values, np.float64)
    if data.ndim != 1 or data.size == 0:
        raise UsageError(f"values of shape {data.shape}", expected="a list of at least one number")
    rng = np.random.default_rng(seed)
    block = max(1, 4_000_000 // data.size)  # bounds memory, whatever the data's size
    means = np.concatenate(
        [
            data[rng.integers(0, data.size, (min(block, draws - done), data.size))].mean(1)
            for done in range(0, draws, block)
        ]
    )
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


def _check(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UsageError(
            f"confidence={confidence}", expected="a number between 0 and 1", next="confidence=0.95"
        )
