"""The trunk: `Seq` → hidden states. It knows of no modality and no training type.

Key: B batch, T positions, D model width
"""

from __future__ import annotations

from torch import Tensor, nn

from exnihilo.errors import ModelError
from exnihilo.kernels.attention import plan
from exnihilo.nn.block import Block, Setting, Shape
from exnihilo.nn.cache import KVCache
from exnihilo.nn.layout import Seq
from exnihilo.nn.norms import norm
from exnihilo.nn.rotary import Rotary


class Trunk(nn.Module):
    """Blocks and a final norm.

    Attributes:
        blocks: ModuleList of `Block`; compile, checkpoint or shard them from outside.
        norm: the final norm.
        rotary: turns by position, or None where the front end adds positions.
    """

    def __init__(self, shape: Shape, depth: int, rotary: Rotary | None) -> None:
        super().__init__()
        self.rotary = rotary
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(depth))
        self.norm = norm(shape.norm, shape.width, shape.norm_eps)

    def forward(self, seq: Seq, cache: KVCache | None = None) -> Tensor:
        x_BTD = seq.x_BTD
        pos_BT = None
        if cache is not None:
            pos_BT = self._cached_positions(seq)
        rule = plan(x_BTD, group=seq.group_BT, doc_BT=seq.doc_BT, pos_BT=pos_BT)
        turn = None if self.rotary is None else self.rotary(x_BTD.shape[1], seq.pos_BTK)
        setting = Setting(rule, turn, cache, pos_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, setting)
        return self.norm(x_BTD)

    @staticmethod
    def _cached_positions(seq: Seq) -> Tensor:
        if seq.pos_BTK is None or seq.pos_BTK.shape[-1] != 1:
            raise ModelError("a cache without positions", expected="one position a token: its slot")
        if seq.doc_BT is not None or not (isinstance(seq.group_BT, int) and seq.group_BT == 0):
            raise ModelError(
                "a cache together with packed documents or full attention",
                expected="one document a row, causal attention",
                next="leave the cache or the column doc out",
            )
        return seq.pos_BTK[..., 0]
