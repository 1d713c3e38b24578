"""The trunk: `Seq` → hidden states. It knows of no modality and no training type.

Key: B batch, T positions, D model width
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from exnihilo.errors import ModelError
from exnihilo.kernels.attention import Rule, plan
from exnihilo.nn.block import Block, PostBlock, Setting, Shape
from exnihilo.nn.cache import KVCache
from exnihilo.nn.layout import Seq
from exnihilo.nn.norms import norm
from exnihilo.nn.rotary import Rotary

MOST_NEEDED = 0.7  # of a row's states: if more are read, all are computed


class Trunk(nn.Module):
    """Blocks and a final norm.

    Attributes:
        blocks: ModuleList of blocks; compile, checkpoint or shard them from outside.
        norm: the final norm; nothing where each block ends in one.
        rotary: turns by position, or None where the front end adds positions.
        local_rotary: the same for local layers, or None where there are none.
        window: how many places away a local layer sees; None: all layers see everything.
    """

    def __init__(
        self,
        shape: Shape,
        depth: int,
        rotary: Rotary | None,
        *,
        post_norm: bool = False,
        window: int | None = None,
        local: Sequence[bool] = (),
        local_rotary: Rotary | None = None,
    ) -> None:
        super().__init__()
        self.rotary, self.local_rotary, self.window = rotary, local_rotary, window
        kind = PostBlock if post_norm else Block
        self.blocks = nn.ModuleList(
            kind(shape, layer, layer < len(local) and local[layer]) for layer in range(depth)
        )
        self.norm = (
            nn.Identity() if post_norm else norm(shape.norm, shape.width, shape.norm_eps, shape.norm_bias)
        )

    def forward(self, seq: Seq, cache: KVCache | None = None) -> Tensor:
        x_BTD = seq.x_BTD
        pos_BT = None
        if cache is not None:
            pos_BT = self._cached_positions(seq)
        rule = plan(x_BTD, group=seq.group_BT, doc_BT=seq.doc_BT, pos_BT=pos_BT, branch_BT=seq.branch_BT)
        turn = None if self.rotary is None else self.rotary(x_BTD.shape[1], seq.pos_BTK)
        setting = local = Setting(rule, turn, cache, pos_BT)
        if self.window is not None:
            local = self._local(seq, setting)
        last = self.blocks[-1]
        some = self._chosen(seq.needed_BT, last, (local if last.local else setting).rule)
        for block in self.blocks[:-1] if some is not None else self.blocks:
            x_BTD = block(x_BTD, local if block.local else setting)
        if some is None:
            return self.norm(x_BTD)
        chosen_BM, place_N = some
        (B, T, D) = x_BTD.shape
        x_BMD = self.norm(last(x_BTD, local if last.local else setting, chosen_BM))
        out_ND = x_BMD.new_zeros(B * T + 1, D).index_copy(0, place_N, x_BMD.flatten(0, 1))
        return out_ND[:-1].view(B, T, D)

    @staticmethod
    def _chosen(needed_BT: Tensor | None, last: nn.Module, rule: Rule) -> tuple[Tensor, Tensor] | None:
        """(positions the last block computes in each row, where they stand in the flat result); None: all.

        The last block's queries, output and MLP are wanted where its states are read, and nowhere else: at
        [CLS] or at masked positions. That is most of one block saved, and the results are the same. Not in
        compiled code, whose shapes must not change, nor where accelerators would have to wait for the count.
        """
        if needed_BT is None or needed_BT.device.type != "cpu" or type(needed_BT) is not Tensor:
            return None
        if torch.compiler.is_compiling() or "forward" in last.__dict__ or rule.kind not in ("full", "mask"):
            return None
        (B, T), count_B1 = needed_BT.shape, needed_BT.sum(1, keepdim=True)
        M = int(count_B1.max())
        if M == 0 or M > MOST_NEEDED * T:
            return None
        place_BM = torch.arange(M).expand(B, M)
        chosen_BM = needed_BT.byte().argsort(dim=1, descending=True, stable=True)[:, :M]
        beyond_BM = place_BM >= count_B1
        chosen_BM = chosen_BM.where(~beyond_BM, chosen_BM[:, :1])
        flat_BM = chosen_BM + torch.arange(0, B * T, T).unsqueeze(1)
        return chosen_BM, flat_BM.masked_fill(beyond_BM, B * T).flatten()

    def _local(self, seq: Seq, setting: Setting) -> Setting:
        """What local layers share: a window, and a rotary base of their own."""
        x_BTD, turn, rule = seq.x_BTD, setting.turn, setting.rule
        if setting.cache is not None:
            rule = plan(x_BTD, pos_BT=setting.pos_BT, window=self.window)
        elif self.window is not None and x_BTD.shape[1] > self.window + 1:  # else it hides nothing
            # with branches, distance is that of positions: a branch begins where its stem ends
            place = seq.branch_BT is not None and seq.pos_BTK is not None and seq.pos_BTK.shape[-1] == 1
            if seq.branch_BT is not None and not place and self._stem(seq):
                raise ModelError(
                    "branches of a stem with local attention, and no positions to measure distance by",
                    expected="the column pos: where each branch continues",
                )
            rule = plan(
                x_BTD,
                group=seq.group_BT,
                doc_BT=seq.doc_BT,
                window=self.window,
                branch_BT=seq.branch_BT,
                place_BT=seq.pos_BTK[..., 0] if place and seq.pos_BTK is not None else None,
            )
        if self.local_rotary is not None:
            turn = self.local_rotary(x_BTD.shape[1], seq.pos_BTK)
        return Setting(rule, turn, setting.cache, setting.pos_BT)

    @staticmethod
    def _stem(seq: Seq) -> bool:
        """Whether some document has positions that all of its branches see."""
        assert seq.branch_BT is not None
        stem_BT = seq.branch_BT == 0
        return bool((stem_BT if seq.doc_BT is None else stem_BT & (seq.doc_BT >= 0)).any())

    @staticmethod
    def _cached_positions(seq: Seq) -> Tensor:
        if seq.pos_BTK is None or seq.pos_BTK.shape[-1] != 1:
            raise ModelError("a cache without positions", expected="one position a token: its slot")
        causal = isinstance(seq.group_BT, int) and seq.group_BT == 0
        if seq.doc_BT is not None or seq.branch_BT is not None or not causal:
            raise ModelError(
                "a cache together with branches, packed documents or full attention",
                expected="one document a row, causal attention",
                next="leave the cache or the columns doc and branch out",
            )
        return seq.pos_BTK[..., 0]
