"""Linear-chain conditional random field: log-likelihood, best path, marginals, over sequences of any lengths.

A path y of tags has the score  start[y_0] + Σ_t scores[t, y_t] + Σ_t transitions[y_t-1, y_t] + stop[y_last];
its probability is exp(score) over the sum of all paths' (forward algorithm)::

    scores_PWC, place_PW, length_P = batch(scores_MC, piece_M)      # tagged tokens of packed pieces -> padded
    ll_P = log_likelihood(scores_PWC, tags_PW, length_P, transitions_CC, start_C, stop_C)
    best_PW, score_P = viterbi(scores_PWC, length_P, transitions_CC, start_C, stop_C)

Float32 is stable at any length: what is summed over time is kept near 0 at each step and its offset is added
up in float64. A forbidden transition is a score of `FORBIDDEN` (finite: no NaN in gradients).

Key: P pieces (sequences), W places of the longest, C tags, M tagged tokens of all pieces

Source: Lafferty, McCallum & Pereira, *Conditional random fields*, 2001; Rabiner, *A tutorial on hidden Markov
models*, 1989 (forward, backward, Viterbi)
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FORBIDDEN = -10_000.0
"""Score of what must not be."""


def batch(
    scores_MC: Float[Tensor, "M C"], piece_M: Int[Tensor, " M"]
) -> tuple[Tensor, Int[Tensor, "P W"], Int[Tensor, " P"]]:
    """Scores of packed pieces, one after the other, as padded sequences.

    Args:
        piece_M: which piece each token belongs to; rising, gaps allowed.

    Returns:
        scores (P, W, C), 0 at padding; place (P, W): index into M, 0 at padding; lengths (P,).

    >>> batch(torch.arange(6.0).view(3, 2), torch.tensor([4, 4, 9]))[1:]
    (tensor([[0, 1],
            [2, 0]]), tensor([2, 1]))
    """
    length_P = torch.unique_consecutive(piece_M, return_counts=True)[1]
    P, W = len(length_P), int(length_P.max()) if len(length_P) else 0
    first_P = length_P.cumsum(0) - length_P
    step_W = torch.arange(W, device=scores_MC.device)
    real_PW = step_W < length_P[:, None]
    place_PW = (first_P[:, None] + step_W).where(real_PW, 0)
    padded = scores_MC[place_PW.reshape(-1)].view(P, W, scores_MC.shape[1])
    return padded * real_PW[..., None], place_PW, length_P


def log_likelihood(
    scores_PWC: Float[Tensor, "P W C"],
    tags_PW: Int[Tensor, "P W"],
    length_P: Int[Tensor, " P"],
    transitions_CC: Float[Tensor, "C C"],
    start_C: Float[Tensor, " C"],
    stop_C: Float[Tensor, " C"],
    *,
    begins_P: Bool[Tensor, " P"] | None = None,
    ends_P: Bool[Tensor, " P"] | None = None,
) -> Float[Tensor, " P"]:
    """Log-probability of each piece's tags, nats, float64; at most 0.

    Args:
        tags_PW: ids below C; anything valid at padding.
        length_P: at least 1.
        transitions_CC: row i, column j: score of tag j after tag i.
        begins_P, ends_P: False for a piece cut out of a longer sequence: `start` (`stop`) is left out.
    """
    first_PC, last_PC = _edges(scores_PWC, start_C, stop_C, begins_P, ends_P)
    P, W, _ = scores_PWC.shape
    real_PW = torch.arange(W, device=length_P.device) < length_P[:, None]
    own_PW = scores_PWC.gather(2, tags_PW[..., None]).squeeze(2)
    path_P = (own_PW * real_PW).double().sum(1)
    if W > 1:
        pair_PW = transitions_CC[tags_PW[:, :-1], tags_PW[:, 1:]]
        path_P = path_P + (pair_PW * real_PW[:, 1:]).double().sum(1)
    final_P = tags_PW.gather(1, (length_P - 1)[:, None])
    path_P = path_P + first_PC.gather(1, tags_PW[:, :1]).squeeze(1)
    path_P = path_P + last_PC.gather(1, final_P).squeeze(1)

    alpha_PC = first_PC + scores_PWC[:, 0]
    offset_P = torch.zeros(P, dtype=torch.float64, device=scores_PWC.device)
    for t in range(1, W):
        top_P1 = alpha_PC.detach().amax(1, keepdim=True)
        low_PC = alpha_PC - top_P1
        next_PC = (low_PC[:, :, None] + transitions_CC).logsumexp(1) + scores_PWC[:, t]
        live_P1 = real_PW[:, t, None]
        alpha_PC = torch.where(live_P1, next_PC, alpha_PC)
        offset_P = offset_P + (top_P1 * live_P1).squeeze(1)
    return path_P - (offset_P + (alpha_PC + last_PC).logsumexp(1))


@torch.no_grad()
def viterbi(
    scores_PWC: Float[Tensor, "P W C"],
    length_P: Int[Tensor, " P"],
    transitions_CC: Float[Tensor, "C C"],
    start_C: Float[Tensor, " C"],
    stop_C: Float[Tensor, " C"],
    *,
    begins_P: Bool[Tensor, " P"] | None = None,
    ends_P: Bool[Tensor, " P"] | None = None,
) -> tuple[Int[Tensor, "P W"], Float[Tensor, " P"]]:
    """The best path of each piece (0 at padding) and its score, float64. Of equal paths the lower tags."""
    first_PC, last_PC = _edges(scores_PWC, start_C, stop_C, begins_P, ends_P)
    P, W, C = scores_PWC.shape
    alpha_PC = first_PC + scores_PWC[:, 0]
    offset_P = torch.zeros(P, dtype=torch.float64, device=scores_PWC.device)
    back_WPC = torch.empty(W, P, C, dtype=torch.int16 if C < 1 << 15 else torch.int64)
    stay_C = torch.arange(C, device=scores_PWC.device)
    for t in range(1, W):
        top_P1 = alpha_PC.amax(1, keepdim=True)
        best_PC, from_PC = ((alpha_PC - top_P1)[:, :, None] + transitions_CC).max(1)
        live_P1 = (t < length_P)[:, None]
        alpha_PC = torch.where(live_P1, best_PC + scores_PWC[:, t], alpha_PC)
        offset_P = offset_P + (top_P1 * live_P1).squeeze(1)
        back_WPC[t] = torch.where(live_P1, from_PC, stay_C)
    top_P, tag_P = (alpha_PC + last_PC).max(1)
    path_PW = torch.empty(P, W, dtype=torch.int64)
    tag_P = tag_P.cpu()
    for t in range(W - 1, -1, -1):
        path_PW[:, t] = tag_P
        if t:
            tag_P = back_WPC[t].gather(1, tag_P[:, None]).squeeze(1).long()
    path_PW = path_PW.to(scores_PWC.device)
    real_PW = torch.arange(W, device=length_P.device) < length_P[:, None]
    return path_PW * real_PW, offset_P + top_P


@torch.no_grad()
def marginals(
    scores_PWC: Float[Tensor, "P W C"],
    length_P: Int[Tensor, " P"],
    transitions_CC: Float[Tensor, "C C"],
    start_C: Float[Tensor, " C"],
    stop_C: Float[Tensor, " C"],
    *,
    begins_P: Bool[Tensor, " P"] | None = None,
    ends_P: Bool[Tensor, " P"] | None = None,
) -> Float[Tensor, "P W C"]:
    """Probability of each tag at each place, over all paths; 0 at padding."""
    first_PC, last_PC = _edges(scores_PWC, start_C, stop_C, begins_P, ends_P)
    W = scores_PWC.shape[1]
    real_PW = torch.arange(W, device=length_P.device) < length_P[:, None]
    both_PWC = torch.empty_like(scores_PWC)
    alpha_PC = first_PC + scores_PWC[:, 0]
    for t in range(W):
        if t:
            low_PC = alpha_PC - alpha_PC.amax(1, keepdim=True)
            next_PC = (low_PC[:, :, None] + transitions_CC).logsumexp(1) + scores_PWC[:, t]
            alpha_PC = torch.where(real_PW[:, t, None], next_PC, alpha_PC)
        both_PWC[:, t] = alpha_PC
    beta_PC = last_PC.clone()
    for t in range(W - 1, -1, -1):
        if t + 1 < W:
            low_PC = beta_PC + scores_PWC[:, t + 1]
            low_PC = low_PC - low_PC.amax(1, keepdim=True)
            next_PC = (transitions_CC + low_PC[:, None, :]).logsumexp(2)
            beta_PC = torch.where(real_PW[:, t + 1, None], next_PC, last_PC)
        both_PWC[:, t] += beta_PC
    return both_PWC.softmax(2) * real_PW[..., None]


def _edges(
    scores_PWC: Tensor, start_C: Tensor, stop_C: Tensor, begins_P: Tensor | None, ends_P: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scores of beginning and ending with each tag, (P, C) both."""
    P, _, C = scores_PWC.shape
    first_PC, last_PC = start_C.expand(P, C), stop_C.expand(P, C)
    if begins_P is not None:
        first_PC = first_PC * begins_P[:, None]
    if ends_P is not None:
        last_PC = last_PC * ends_P[:, None]
    return first_PC, last_PC
