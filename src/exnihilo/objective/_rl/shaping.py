"""Rewards that depend on length. Host only, float64, pure.

References: the soft punishment of overlong answers, DAPO (Yu et al. 2025, arXiv:2503.14476, eq. 13); the
length reward within a group, Kimi k1.5 (2025, arXiv:2501.12599, section 2.3.3).

Key: G completions of one group
"""

from __future__ import annotations

import numpy as np


def overlong(length: int, limit: int, buffer: int) -> float:
    """0 up to ``limit − buffer`` tokens, then a straight line to −1 at `limit`, and −1 beyond.

    >>> overlong(80, 100, 20), overlong(90, 100, 20), overlong(100, 100, 20)
    (0.0, -0.5, -1.0)
    """
    if buffer <= 0 or length <= limit - buffer:
        return 0.0
    return max(-1.0, (limit - buffer - length) / buffer)


def brevity(lengths_G: np.ndarray, right_G: np.ndarray) -> np.ndarray:
    """From +0.5 for the shortest right answer of a group to −0.5 for the longest; wrong ones get 0.

    Kimi's rule also punishes long wrong answers; a model that is mostly wrong then learns to say nothing
    (docs/rlvr.md). 0 where all right ones are equally long.

    >>> brevity(np.array([10, 5, 20, 30]), np.array([True, False, True, True])).tolist()
    [0.5, 0.0, 0.0, -0.5]
    """
    lengths_G, right_G = np.asarray(lengths_G, np.float64), np.asarray(right_G, bool)
    out_G = np.zeros_like(lengths_G)
    held = lengths_G[right_G]
    if len(held) and np.ptp(held) > 0:
        out_G[right_G] = 0.5 - (held - held.min()) / np.ptp(held)
    return out_G
