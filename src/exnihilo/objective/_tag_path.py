"""The tags of a text's words, from their scores: the best sequence that is allowed, and how sure each tag is.

    best_N, probs_N = best_path(scores_NC, None, allowed(names, "bio"))

Up to `LONG` words the sequence is found exactly. Longer ones are divided into blocks of that length that are
decoded together, each with `EDGE` words of its neighbours on both sides: what stands so far away moves no tag
but in a chain that never forgets. Should two blocks not fit together, the whole is decoded at once.

Key: N words, C labels, P blocks, W words of a block
"""

from __future__ import annotations

import numpy as np
import torch

from exnihilo.kernels import crf
from exnihilo.metrics import calibration

LONG, EDGE = 2048, 128
Allowed = tuple[np.ndarray, np.ndarray, np.ndarray]
"""What may follow what (C, C), begin (C,), end (C,): bool."""


def best_path(scores_NC: np.ndarray, chain: np.ndarray | None, may: Allowed) -> tuple[np.ndarray, np.ndarray]:
    """(label ids, their probabilities) of the words.

    Args:
        chain: (C + 2, C), a CRF's transitions, start and stop: probabilities are then its marginals. Without,
            they are the softmax of a word's own scores.
    """
    N, C = scores_NC.shape
    follow, begin, end = may
    if not N:
        return np.zeros(0, np.int64), np.zeros(0)
    probs_NC = None
    if chain is None:
        probs_NC = calibration.softmax(scores_NC)
        best_N = scores_NC.argmax(1)
        if begin[best_N[0]] and end[best_N[-1]] and _fits(best_N, follow):
            return best_N, probs_NC.max(1)
        chain = np.zeros((C + 2, C))
    bans = np.where(np.concatenate([follow, begin[None], end[None]]), 0.0, crf.FORBIDDEN)
    held = torch.from_numpy(np.asarray(chain, np.float64) + bans)
    best_N, margin_NC = _decode(scores_NC, held, probs_NC is None, LONG)
    if N > LONG and not _fits(best_N, follow):
        best_N, margin_NC = _decode(scores_NC, held, probs_NC is None, N)
    sure_NC = margin_NC if probs_NC is None else probs_NC
    return best_N, sure_NC[np.arange(N), best_N]


def _fits(best_N: np.ndarray, follow: np.ndarray) -> bool:
    return bool(follow[best_N[:-1], best_N[1:]].all())


def _decode(
    scores_NC: np.ndarray, held: torch.Tensor, marginals: bool, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """Best path, and marginals where wanted (else zeros), by blocks of at most `block` words."""
    N, C = scores_NC.shape
    step = N if block >= N else block - 2 * EDGE
    owned = [(first, min(first + step, N)) for first in range(0, N, step)]
    read = [(max(0, a - EDGE), min(N, b + EDGE)) for a, b in owned]
    W = max(b - a for a, b in read)
    scores_PWC = torch.zeros(len(read), W, C, dtype=torch.float64)
    for row, (a, b) in zip(scores_PWC, read, strict=True):
        row[: b - a] = torch.from_numpy(np.ascontiguousarray(scores_NC[a:b], np.float64))
    length_P = torch.tensor([b - a for a, b in read])
    edges = {
        "begins_P": torch.tensor([a == 0 for a, _ in read]),
        "ends_P": torch.tensor([b == N for _, b in read]),
    }
    parts = (held[:C], held[C], held[C + 1])
    best_PW = crf.viterbi(scores_PWC, length_P, *parts, **edges)[0].numpy()
    best_N, margin_NC = np.zeros(N, np.int64), np.zeros((N, C))
    share_PWC = crf.marginals(scores_PWC, length_P, *parts, **edges).numpy() if marginals else None
    for p, ((first, last), (a, _)) in enumerate(zip(owned, read, strict=True)):
        best_N[first:last] = best_PW[p, first - a : last - a]
        if share_PWC is not None:
            margin_NC[first:last] = share_PWC[p, first - a : last - a]
    return best_N, margin_NC
