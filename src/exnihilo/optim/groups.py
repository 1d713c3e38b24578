"""Which parameters an optimiser treats alike, and clipping of the global gradient norm.

Matrices of the trunk are decayed; norms, biases, embeddings and heads never are. Muon takes the matrices of
the trunk, AdamW everything else.
"""

from __future__ import annotations

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
