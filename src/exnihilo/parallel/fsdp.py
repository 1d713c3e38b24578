"""Data parallelism on PyTorch's own engine: FSDP2 `fully_shard`, or replication.

Order of wrapping: activation checkpointing, compile of each block, sharding. Gradients are *summed* over
workers (divide factor 1), since the loop has divided by the count over all of them already. The root keeps
its parameters
gathered after forward: objectives read the head's weight outside of the model's forward.

``replicate`` keeps whole parameters on each worker and sums gradients with one all-reduce a bucket; it is
what to take where a backend has no reduce-scatter.

Reference: https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from exnihilo.parallel.mesh import World

BUCKET = 1 << 24  # elements of one all-reduce in `replicate`


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated parts of a model: the children of every list of equal modules that holds none deeper."""
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) and len({type(m) for m in module}) == 1:
            inside = {id(m) for block in found for m in block.modules()}
            if id(module) not in inside:
                found += list(module)
    return found


def shard(model: nn.Module, world: World, mode: Literal["fsdp", "replicate"]) -> nn.Module:
    """Distribute a model that every worker has built alike; alone it stays as it is."""
    if world.size == 1 or mode == "replicate":
        return model
    from torch.distributed.fsdp import fully_shard

    for block in blocks(model):
        fully_shard(block, mesh=world.mesh)
    fully_shard(model, mesh=world.mesh, reshard_after_forward=False)
    for module in _sharded(model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows plain sums only
    return model


def _sharded(model: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [m for m in model.modules() if isinstance(m, FSDPModule)]


def sync_on(model: nn.Module, on: bool) -> None:
    """Whether the next backward exchanges gradients: only that of a step's last micro-batch needs to."""
    setter = getattr(model, "set_requires_gradient_sync", None)
    if setter is not None:
        setter(on)


def reduce_gradients(model: nn.Module, world: World, mode: str) -> None:
    """`replicate` only: sum every gradient over the workers."""
    if world.size == 1 or mode != "replicate":
        return
    for p in model.parameters():
        if p.requires_grad and p.grad is None:
            p.grad = torch.zeros_like(p)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    bucket: list[Tensor] = []
    for i, grad in enumerate(grads):
        bucket.append(grad)
        if i + 1 == len(grads) or sum(g.numel() for g in bucket) >= BUCKET:
            flat = torch.cat([g.flatten() for g in bucket])
            dist.all_reduce(flat)
            for g, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                g.copy_(part.view_as(g))
            bucket = []


def reshard(model: nn.Module) -> None:
    """Free gathered parameters, so that `model.parameters()` are the workers' own shares again."""
    for module in _sharded(model) if dist.is_available() and dist.is_initialized() else ():
        module.reshard()


def full(tensor: Tensor) -> Tensor:
    """The whole tensor, detached, on the CPU. Every worker must call it: sharded ones are gathered."""
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]
    return whole.detach().to("cpu", copy=True).contiguous()


def like(whole: Tensor, example: Tensor) -> Tensor:
    """`whole` placed as `example` is: on its device, and this worker's share of it where it is sharded."""
    if not hasattr(example, "full_tensor"):
        return whole.to(example.device, copy=True)
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = example.device_mesh, example.placements  # type: ignore[attr-defined]
    return distribute_tensor(whole.to(example.device), mesh, placements, src_data_rank=None)
