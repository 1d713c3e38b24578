"""Losses of preferences: pure functions of log-probabilities, one loss a pair (or a reply), without a model.

::

    delta_P = (chosen_P - ref_chosen_P) - (rejected_P - ref_rejected_P)      # sums of log p over each reply
    dpo(delta_P, beta=0.1).mean()

Notation: π the model, π₀ the reference, x a prompt, y_w the chosen and y_l the rejected reply, |y| its
tokens; r(y) = log π(y|x) − log π₀(y|x), and r̄ = r/|y|. Every function is elementwise, differentiable, and
exact for large arguments (no exp that overflows).

========  =================================================================  =============================
dpo       −log σ(β(r_w − r_l))                                               Rafailov et al. 2305.18290
rpo       dpo, and the chosen replies' −log π(y_w)/|y_w|                     Pang et al. 2404.19733
cdpo      (1−ε) dpo(Δ) + ε dpo(−Δ): a label is wrong with probability ε      Mitchell 2023, a note on DPO
robust    [(1−ε) dpo(Δ) − ε dpo(−Δ)] / (1−2ε): unbiased under such labels    Chowdhury et al. 2403.00409
ipo       (r̄_w − r̄_l − 1/2β)²                                                Azar et al. 2310.12036
kto       λ (1 − σ(±β(r − z))) of one reply, + if it is desirable            Ethayarajh et al. 2402.01306
simpo     −log σ(β(log π(y_w)/|y_w| − log π(y_l)/|y_l|) − γ)                 Meng et al. 2405.14734
orpo      −log σ(log odds(y_w) − log odds(y_l)), odds of exp(log π(y)/|y|)   Hong et al. 2403.07691
apo_zero  1 − σ(β r_w) + σ(β r_l)                                            D'Oosterlinck et al. 2408.06266
dpo_norm  −log σ(β(r̄_w − r̄_l))                                               Lambert et al. 2411.15124
========  =================================================================  =============================

IPO's Δ is averaged over tokens, as its authors did in their experiments; sums would tie β to the length.

Key: P pairs, or replies
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo(delta_P: Tensor, *, beta: float) -> Tensor:
    """−log σ(βΔ).

    Args:
        delta_P: r_w − r_l, nats.
        beta: how dearly a distance from the reference is paid.

    >>> round(dpo(torch.zeros(1), beta=0.1).item(), 4)
    0.6931
    """
    return -F.logsigmoid(beta * delta_P)


def cdpo(delta_P: Tensor, *, beta: float, smoothing: float) -> Tensor:
    """(1−ε) dpo(Δ) + ε dpo(−Δ).

    Args:
        smoothing: ε, the probability that a label is wrong, below 1/2.
    """
    return (1 - smoothing) * dpo(delta_P, beta=beta) + smoothing * dpo(-delta_P, beta=beta)


def robust(delta_P: Tensor, *, beta: float, smoothing: float) -> Tensor:
    """[(1−ε) dpo(Δ) − ε dpo(−Δ)] / (1−2ε): its mean over labels flipped with probability ε is dpo's on true
    ones. Not bounded below: stop early, or keep β small."""
    clean, flipped = dpo(delta_P, beta=beta), dpo(-delta_P, beta=beta)
    return ((1 - smoothing) * clean - smoothing * flipped) / (1 - 2 * smoothing)


def ipo(delta_P: Tensor, *, beta: float) -> Tensor:
    """(Δ̄ − 1/2β)², Δ̄ = r̄_w − r̄_l per token."""
    return (delta_P - 1 / (2 * beta)) ** 2


def simpo(delta_P: Tensor, *, beta: float, gamma: float) -> Tensor:
    """−log σ(βΔ − γ), Δ the difference of mean log-probabilities a token; no reference.

    Args:
        gamma: the margin that is asked for.
    """
    return -F.logsigmoid(beta * delta_P - gamma)


def orpo(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """−log σ of the log odds ratio; ORPO adds λ times it to the chosen reply's negative log-likelihood.

    Args:
        chosen_P, rejected_P: mean log-probability a token of each reply.
    """
    odds_w = chosen_P - log1mexp(chosen_P)
    odds_l = rejected_P - log1mexp(rejected_P)
    return -F.logsigmoid(odds_w - odds_l)


def apo_zero(chosen_P: Tensor, rejected_P: Tensor, *, beta: float) -> Tensor:
    """1 − σ(β r_w) + σ(β r_l): chosen replies become likelier, rejected ones less likely.

    Args:
        chosen_P, rejected_P: r of each reply.
    """
    return torch.sigmoid(-beta * chosen_P) + torch.sigmoid(beta * rejected_P)


def kto(
    ratio_P: Tensor,
    good_P: Tensor,
    z: Tensor | float,
    *,
    beta: float,
    desirable: float = 1.0,
    undesirable: float = 1.0,
) -> Tensor:
    """λ_D (1 − σ(β(r − z))) of desirable replies, λ_U (1 − σ(β(z − r))) of undesirable ones.

    Args:
        ratio_P: r of each reply.
        good_P: bool, whether it is desirable.
        z: the reference point, max(0, mean r of replies to other prompts); no gradient passes it.
        desirable, undesirable: λ_D and λ_U.
    """
    if isinstance(z, Tensor):
        z = z.detach()
    good = good_P.to(ratio_P.dtype)
    sign, weight = 2 * good - 1, undesirable + (desirable - undesirable) * good
    return weight * torch.sigmoid(-sign * beta * (ratio_P - z))


def bradley_terry(chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """−log σ(s_w − s_l) of two scores (Bradley & Terry 1952)."""
    return -F.logsigmoid(chosen_P - rejected_P)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 − eˣ) of x < 0 without cancellation (Mächler 2012).

    >>> round(log1mexp(torch.tensor(-1e-3, dtype=torch.float64)).item(), 4)
    -6.9083
    """
    x = x.clamp(max=-1e-7)  # a reply that is certain has infinite odds
    near = x > -math.log(2)
    # each branch is given what it can take: the other's gradient would be NaN
    a, b = torch.where(near, x, -1.0), torch.where(near, -1.0, x)
    return torch.where(near, torch.log(-torch.expm1(a)), torch.log1p(-torch.exp(b)))
