"""Which parameters an optimiser treats alike, and clipping of the global gradient norm.

Matrices of the trunk are decayed; norms, biases, embeddings and heads never are. Muon takes the matrices of
the trunk, AdamW everything else. `level` numbers what a parameter belongs to from the input up, for rates
that fall from layer to layer (Howard & Ruder 2018, arXiv:1801.06146; Clark et al. 2020, arXiv:2003.10555).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def split(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """(matrices of the trunk, the rest), by name; each parameter once, frozen ones left out.

    A tied output matrix is an embedding, so it belongs to the rest.
    """
    matrices: dict[str, nn.Parameter] = {}
    rest: dict[str, nn.Parameter] = {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        inside = name.startswith("trunk.") or ".trunk." in name
        (matrices if p.ndim == 2 and inside else rest)[name] = p
    return matrices, rest


def level(name: str, depth: int) -> int:
    """0 for the embeddings, 1 .. depth for the layers, depth + 1 for what reads the last one.

    >>> [level(n, 4) for n in ("front.tokens.weight", "trunk.blocks.0.mlp.up.weight", "heads.tags.weight")]
    [0, 1, 5]
    """
    if name.startswith("front."):
        return 0
    found = re.match(r"trunk\.blocks\.(\d+)\.", name)
    return int(found[1]) + 1 if found else depth + 1


def by_level(
    params: dict[str, nn.Parameter], depth: int, decay: float
) -> list[tuple[float, dict[str, nn.Parameter]]]:
    """(share of the learning rate, parameters) of each level, from the top down; all in one where it does not
    decay."""
    if decay == 1.0 or not params:
        return [(1.0, params)] if params else []
    levels: dict[int, dict[str, nn.Parameter]] = {}
    for name, p in params.items():
        levels.setdefault(level(name, depth), {})[name] = p
    return [(decay ** (depth + 1 - n), levels[n]) for n in sorted(levels, reverse=True)]


def whole(t: Tensor) -> Tensor:
    """The full tensor of a sharded one (DTensor); any other as it is."""
    return t.full_tensor() if hasattr(t, "full_tensor") else t  # pyright: ignore


def clip(params: Iterable[Tensor], max_norm: float | None) -> Tensor:
    """The global L2 norm of the gradients before clipping; scales them in place to at most `max_norm`.

    Sharded gradients (DTensor) count whole: the norm is that of the full gradient on every worker.
    """
    grads = [p.grad for p in params if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(grads)
    norm = whole(norm)
    if max_norm is not None:
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, factor.to(grads[0].device))  # pyright: ignore[reportPrivateImportUsage]
    return norm
