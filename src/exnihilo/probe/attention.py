"""Attention weights, for comparison with influence: the last layer's, and their rollout over all layers.

::

    weights = attention_weights(model, {"tokens": tokens_BT})   # one (B, H, T, S) a layer
    rollout(weights)                                            # (B, T, S): where states come from

Weights say where a head looks, not what it makes of it: see `influence.py` for what is measured. Rollout
(Abnar & Zuidema 2020, arXiv:2005.00928) multiplies the layers' mean weights, half of each the residual path.

Key: B rows, T queries, S keys, H heads, G key-value heads, d head width
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from exnihilo.kernels.attention import cached
from exnihilo.nn.block import SelfAttention, Setting
from exnihilo.nn.rotary import rotate

if TYPE_CHECKING:
    from exnihilo.model.model import Model

LONGEST = 2048  # positions: weights are held as T×T matrices


def attention_weights(model: Model, raw: Mapping[str, Tensor]) -> list[Tensor]:
    """The weights of every layer, (B, H, T, T), computed anew from what its attention reads.

    Args:
        raw: what the front end reads, at most `LONGEST` positions.

    Raises:
        ValueError: rows too long to hold T×T matrices.
    """
    T = raw["tokens"].shape[1]
    if T > LONGEST:
        raise ValueError(f"{T} positions: attention weights are held as T×T matrices up to {LONGEST}")
    found: dict[int, Tensor] = {}

    def look(module: SelfAttention, inputs: tuple[Any, ...]) -> None:
        found[module.layer] = _weights(module, inputs[0], inputs[1])

    hooks = [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, SelfAttention)]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(raw)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return [found[layer] for layer in sorted(found)]


def _weights(module: SelfAttention, x_BTD: Tensor, setting: Setting) -> Tensor:
    split = (*x_BTD.shape[:2], -1, module.head_dim)
    q_BTHd, k_BTGd = module.q(x_BTD).view(split), module.k(x_BTD).view(split)
    if module.q_norm is not None and module.k_norm is not None:
        q_BTHd, k_BTGd = module.q_norm(q_BTHd), module.k_norm(k_BTGd)
    q_BHTd, k_BGTd = q_BTHd.transpose(1, 2), k_BTGd.transpose(1, 2)
    if setting.turn is not None:
        q_BHTd, k_BGTd = rotate(q_BHTd, setting.turn), rotate(k_BGTd, setting.turn)
    k_BHTd = k_BGTd.repeat_interleave(q_BHTd.shape[1] // k_BGTd.shape[1], dim=1)
    T, rule = x_BTD.shape[1], setting.rule
    see = cached(rule.pos_BT, T) if rule.pos_BT is not None else rule.visible(T, x_BTD.device)
    scores = (q_BHTd @ k_BHTd.mT / math.sqrt(module.head_dim)).float()
    scores = scores.masked_fill(~see.unsqueeze(1), -torch.inf)
    if module.sinks is not None:  # they take weight from all keys, and are none
        sink_BHT1 = module.sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        return torch.cat((scores, sink_BHT1), -1).softmax(-1)[..., :-1]
    return scores.softmax(-1).nan_to_num(0.0)


def last_layer(weights: list[Tensor]) -> Tensor:
    """Mean over the heads of the last layer, (B, T, S)."""
    return weights[-1].mean(1)


def rollout(weights: list[Tensor]) -> Tensor:
    """Products of (mean weights + identity) / 2 over the layers, (B, T, S); rows add up to 1.

    Example:
        >>> even = torch.full((1, 1, 2, 2), 0.5)
        >>> rollout([even])[0, 0].tolist()
        [0.75, 0.25]
    """
    out = None
    for layer in weights:
        mean = layer.mean(1)
        mixed = 0.5 * mean + 0.5 * torch.eye(mean.shape[-1], device=mean.device)
        mixed = mixed / mixed.sum(-1, keepdim=True)
        out = mixed if out is None else mixed @ out
    assert out is not None
    return out
