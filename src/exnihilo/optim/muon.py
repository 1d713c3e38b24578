"""Muon for matrices, AdamW for the rest, as one `torch.optim.Optimizer`.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces a matrix's momentum by the
nearest semi-orthogonal matrix, found by a few Newton–Schulz steps, so that every direction of the matrix
learns at the same speed. The update is scaled by sqrt(max(1, rows/columns)).

torch.optim.Muon is not used: it is 2-D only, one matrix at a time, and not aware of DTensor. Here matrices
of one shape are orthogonalised as one batch, and sharded ones are gathered first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from exnihilo.optim.groups import whole

# Each step maps a singular value s to a·s + b·s³ + c·s⁵; this choice of (a, b, c) has the steepest slope at
# 0 that still keeps every value in about [0.7, 1.2] after five steps (see the post above).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(stack_KRC: Tensor, steps: int = 5, eps: float = 1e-7) -> Tensor:
    """The nearest semi-orthogonal matrix of each of K matrices R×C, roughly: singular values end in about
    [0.7, 1.2].

    Runs in bfloat16 on CUDA, in the matrices' own type elsewhere.
    """
    a, b, c = COEFFICIENTS
    x = stack_KRC.bfloat16() if stack_KRC.is_cuda else stack_KRC
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + eps)
    for _ in range(steps):
        gram = x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return (x.mT if flip else x).to(stack_KRC.dtype)


def _like(whole: Tensor, like: Tensor) -> Tensor:
    """`whole`, sharded as `like` is."""
    if not hasattr(like, "full_tensor"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements)  # type: ignore[attr-defined]


class MuonAdamW(torch.optim.Optimizer):
    """Groups whose ``algorithm`` is ``muon`` or ``adamw``; decoupled weight decay in both.

    Group keys: lr, weight_decay; muon: momentum, ns_steps; adamw: betas, eps.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("MuonAdamW takes no closure: compute the gradients before step()")
        for group in self.param_groups:
            (self._muon if group["algorithm"] == "muon" else self._adamw)(group)

    def _muon(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                by_shape[tuple(p.shape)].append(p)
        for shape, params in by_shape.items():
            grads = [p.grad for p in params if p.grad is not None]
            buffers = []
            for p in params:
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                buffers.append(state["momentum"])
            # Nesterov: the buffer is an average of gradients; the update looks one step ahead
            torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])  # pyright: ignore[reportPrivateImportUsage]
            ahead = torch._foreach_lerp(grads, buffers, group["momentum"])  # pyright: ignore[reportPrivateImportUsage]
            stack_KRC = torch.stack([whole(t) for t in ahead])
            update_KRC = orthogonalize(stack_KRC, group["ns_steps"])
            size = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(  # pyright: ignore[reportPrivateImportUsage]
                params, [_like(u, p) for u, p in zip(update_KRC.unbind(), params, strict=True)], alpha=-size
            )

    def _adamw(self, group: dict[str, Any]) -> None:
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        beta1, beta2 = group["betas"]
        adamw(
            params,
            [p.grad for p in params],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [self.state[p]["step"] for p in params],
            foreach=False,
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
