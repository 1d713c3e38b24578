"""Policy losses token by token: ratio level × clip, divergences, aggregation. Pure.

::

    ratio = log_ratio(logp_BT, old_BT, "token", completions)
    loss_BT = surrogate(ratio, logp_BT, advantage_BT, clip="ppo", low=0.2, high=0.28)
    total, count = aggregate(loss_BT, completions, "token")

Every piece takes (B, T) tensors that are aligned with the predicted tokens; places that do not count hold
anything finite. Gradients run through `logp_BT` alone.

References: clip, PPO (Schulman et al. 2017, arXiv:1707.06347); dual clip (Ye et al. 2020, arXiv:1912.09729);
clip-higher, DAPO (arXiv:2503.14476); ratios of whole completions, GSPO (Zheng et al. 2025, arXiv:2507.18071);
clipped weights without a zero gradient, CISPO (MiniMax-M1, arXiv:2506.13585); k1, k2, k3 (Schulman 2020,
"Approximating KL divergence"); their gradients (Tang and Munos 2025, arXiv:2506.09477).

Key: B rows, T positions, S completions
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from exnihilo.objective._rl.sequences import Sequences

Ratio = Literal["token", "sequence"]
Clip = Literal["ppo", "cispo", "none"]
Divergence = Literal["none", "k2", "k3", "k3_weighted"]
Aggregation = Literal["token", "sequence", "sum", "constant"]

MOST = 20.0  # of a log-ratio: exp(20) is 5e8, beyond which a float32 loss is noise


def log_ratio(logp_BT: Tensor, old_BT: Tensor, level: Ratio, completions: Sequences) -> Tensor:
    """log π/π_old at each token, or its mean over the completion at each of the completion's tokens.

    The latter is GSPO's s_i(θ) = (π(y)/π_old(y))^(1/|y|): one ratio for the whole completion.
    """
    found_BT = (logp_BT - old_BT).clamp(-MOST, MOST)
    if level == "token":
        return found_BT
    return completions.spread(completions.means(found_BT))


def surrogate(
    log_ratio_BT: Tensor,
    logp_BT: Tensor,
    advantage_BT: Tensor,
    *,
    clip: Clip,
    low: float = 0.2,
    high: float = 0.2,
    dual: float | None = None,
) -> Tensor:
    """What is minimised at each token.

    Args:
        clip: ``ppo`` −min(ρA, clip(ρ, 1 − low, 1 + high)A); ``cispo`` −sg(clip(ρ, 1 − low, 1 + high))·A·log
            π; ``none`` −A·log π: plain REINFORCE, no ratio.
        dual: c > 1: where A < 0 the loss is at most −cA (ppo only).

    >>> one, up = torch.zeros(1, 1), torch.ones(1, 1)
    >>> surrogate(one + 0.5, one, up, clip="ppo", low=0.2, high=0.25).item()
    -1.25
    """
    if clip == "none":
        return -advantage_BT * logp_BT
    ratio_BT = log_ratio_BT.exp()
    bounded_BT = ratio_BT.clamp(1 - low, 1 + high)
    if clip == "cispo":
        return -bounded_BT.detach() * advantage_BT * logp_BT
    loss_BT = -torch.minimum(ratio_BT * advantage_BT, bounded_BT * advantage_BT)
    if dual is None:
        return loss_BT
    return torch.where(advantage_BT < 0, torch.minimum(loss_BT, -dual * advantage_BT), loss_BT)


def clipped(
    log_ratio_BT: Tensor, advantage_BT: Tensor, *, clip: Clip, low: float, high: float, dual: float | None
) -> Tensor:
    """1 where a bound decides about the token's loss, (B, T) float: of PPO's kind, where it has no
    gradient."""
    ratio_BT = log_ratio_BT.detach().exp()
    if clip == "none":
        return torch.zeros_like(ratio_BT)
    above_BT, below_BT = ratio_BT > 1 + high, ratio_BT < 1 - low
    if clip == "cispo":
        return ((above_BT | below_BT) & (advantage_BT != 0)).to(ratio_BT.dtype)
    held_BT = (above_BT & (advantage_BT > 0)) | (below_BT & (advantage_BT < 0))
    if dual is not None:
        held_BT |= (advantage_BT < 0) & (ratio_BT > dual)
    return held_BT.to(ratio_BT.dtype)


def divergence(kind: Divergence, logp_BT: Tensor, ref_BT: Tensor, log_ratio_BT: Tensor) -> Tensor:
    """An estimate of KL(π‖π_ref) at each token, to be added to the loss.

    ``k3`` π_ref/π − 1 − log(π_ref/π), as GRPO has it: its value is unbiased, its gradient is not.
    ``k2`` ½(log π/π_ref)²: on-policy its gradient is that of the true divergence. ``k3_weighted`` k3 times
    π/π_old, with the gradient through both: unbiased in value and gradient, on-policy or not.

    Args:
        log_ratio_BT: of tokens; only ``k3_weighted`` reads it.
    """
    gap_BT = (ref_BT - logp_BT).clamp(-MOST, MOST)
    if kind == "k2":
        return 0.5 * gap_BT.square()
    k3_BT = gap_BT.exp() - 1 - gap_BT
    return log_ratio_BT.exp() * k3_BT if kind == "k3_weighted" else k3_BT


def aggregate(
    loss_BT: Tensor, completions: Sequences, kind: Aggregation, length: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(numerator, denominator): their quotient over all micro-batches and workers is the loss.

    ``token`` Σ over all tokens / all tokens; ``sequence`` the mean over completions of their tokens' mean;
    ``sum`` the mean over completions of their tokens' sum; ``constant`` that divided by `length`, whatever
    the completion's own.
    """
    if kind == "token":
        return (loss_BT * completions.mask_BT).sum(), completions.mask_BT.sum()
    if kind == "sequence":
        return completions.means(loss_BT).sum(), completions.number
    total = (loss_BT * completions.mask_BT).sum()
    return (total / length if kind == "constant" else total), completions.number
