"""How a model is run on one or many devices: it acts on the model from outside, the model does not know."""

from exnihilo.parallel.ckpt import checkpoint_blocks
from exnihilo.parallel.fsdp import blocks, full, reduce_gradients, reshard, shard, sync_on
from exnihilo.parallel.mesh import World, resolve_device
from exnihilo.parallel.peak import matmul_flops

__all__ = [
    "World",
    "blocks",
    "checkpoint_blocks",
    "full",
    "matmul_flops",
    "reduce_gradients",
    "reshard",
    "resolve_device",
    "shard",
    "sync_on",
]
