"""Advantages: how much better than its rivals a completion was. Host only, float64, pure.

::

    of_groups("mean", np.array([1.0, 0.0, 0.0, 1.0]), np.array([0, 0, 1, 1]))     # +0.5 -0.5 -0.5 +0.5
    whiten(values_N, mask_N)                                                     # over a whole batch
    gae(rewards_T, values_T, gamma=1.0, lam=0.95)                                # with a critic

A group that got the same reward throughout gives advantages of exactly zero: rounding in its mean would
otherwise leave differences of 1e-17, and dividing these by their own spread would make them 1.

References: mean and spread, GRPO (Shao et al. 2024, arXiv:2402.03300); mean alone, Dr. GRPO (Liu et al. 2025,
arXiv:2503.20783); leave one out, RLOO (Ahmadian et al. 2024, arXiv:2402.14740); whole batch, REINFORCE++ (Hu
et al. 2025, arXiv:2501.03262); (r − μ)/μ, MaxRL (Tajwar et al. 2026); GAE (Schulman et al. 2015,
arXiv:1506.02438).

Key: N completions, T tokens of one completion
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from exnihilo.errors import TrainError

Kind = Literal["mean", "std", "loo", "maxrl", "none", "batch", "gae"]
FLAT = 1e-9  # a spread below this share of the largest reward is rounding


def flat(values_N: np.ndarray) -> bool:
    """Whether all values are the same up to rounding.

    >>> flat(np.array([0.1 + 0.2, 0.3])), flat(np.array([0.0, 0.1]))
    (True, False)
    """
    if len(values_N) == 0:
        return True
    return float(np.ptp(values_N)) <= FLAT * max(1.0, float(np.abs(values_N).max()))


def of_groups(kind: Kind, rewards_N: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """The advantage of each completion within its group, float64 (N,).

    Args:
        kind: ``mean`` r − μ; ``std`` (r − μ)/σ with the group's own (population) σ; ``loo`` r − mean of the
            others; ``maxrl`` (r − μ)/μ; ``none``, ``batch`` and ``gae`` r itself: what follows is done per
            token.
        rewards_N: one number a completion.
        group_N: its group; a group's members need not stand together.

    Raises:
        TrainError: ``maxrl`` with a negative reward: it is the share of right answers that it divides by.

    >>> of_groups("loo", np.array([1.0, 0.0, 0.5]), np.zeros(3)).tolist()
    [0.75, -0.75, 0.0]
    """
    rewards_N = np.asarray(rewards_N, np.float64)
    if kind in ("none", "batch", "gae"):
        return rewards_N.copy()
    out_N = np.zeros_like(rewards_N)
    for group in np.unique(group_N):
        mine = group_N == group
        out_N[mine] = _of_group(kind, rewards_N[mine])
    return out_N


def _of_group(kind: Kind, r_G: np.ndarray) -> np.ndarray:
    if kind == "maxrl" and float(r_G.min()) < 0:
        raise TrainError(
            f"a reward of {r_G.min():g} with the advantage (r − μ)/μ",
            expected="rewards of 0 and above",
            next="another preset, or a grader without penalties",
        )
    if flat(r_G):
        return np.zeros_like(r_G)
    mean = r_G.mean()
    if kind == "mean":
        return r_G - mean
    if kind == "std":
        return (r_G - mean) / r_G.std()
    if kind == "loo":
        return (r_G - mean) * (len(r_G) / (len(r_G) - 1))
    return (r_G - mean) / mean


def whiten(values_N: np.ndarray, mask_N: np.ndarray) -> np.ndarray:
    """(v − mean)/σ over the counted tokens of a whole batch; 0 elsewhere, and everywhere where all are equal.

    >>> whiten(np.array([1.0, 3.0, 9.0]), np.array([1, 1, 0])).tolist()
    [-1.0, 1.0, 0.0]
    """
    values_N, kept_N = np.asarray(values_N, np.float64), np.asarray(mask_N) > 0
    out_N = np.zeros_like(values_N)
    held = values_N[kept_N]
    if flat(held):
        return out_N
    out_N[kept_N] = (held - held.mean()) / held.std()
    return out_N


def to_go(reward: float, penalty_T: np.ndarray) -> np.ndarray:
    """The reward at the last token less the penalties from each token on: REINFORCE++'s return, (T,).

    >>> to_go(1.0, np.array([0.1, 0.2])).tolist()
    [0.7, 0.8]
    """
    return reward - np.cumsum(np.asarray(penalty_T, np.float64)[::-1])[::-1]


def gae(rewards_T: np.ndarray, values_T: np.ndarray, *, gamma: float, lam: float) -> np.ndarray:
    """Generalised advantages of one finished completion, (T,).

    δ_t = r_t + γ V_{t+1} − V_t, A_t = δ_t + γλ A_{t+1}; after the last token the value is 0. The critic's
    targets are A + V.

    >>> gae(np.array([0.0, 1.0]), np.array([0.5, 0.25]), gamma=1.0, lam=1.0).tolist()
    [0.5, 0.75]
    """
    rewards_T, values_T = np.asarray(rewards_T, np.float64), np.asarray(values_T, np.float64)
    out_T = np.zeros_like(rewards_T)
    after, ahead = 0.0, 0.0
    for t in range(len(rewards_T) - 1, -1, -1):
        after = rewards_T[t] + gamma * ahead - values_T[t] + gamma * lam * after
        out_T[t], ahead = after, values_T[t]
    return out_T
