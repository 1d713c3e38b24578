"""Keys and values of the positions a model has read, so that each new token costs one position, not the
whole text.

`StaticCache` is slot-contiguous: slot index = position. It grows by doubling up to the context, so a short
text in a long context costs little, and hands attention only the slots in use::

    cache = StaticCache.of(model, rows=2)
    hidden_BTD = model({"tokens": tokens_BT, "pos": pos_BT}, cache=cache)

Prompts of unequal length are padded on the right. What a pad writes lies after every position that is read,
since a query at position p sees slots j <= p only, and the row's own next token overwrites the slot before
it is read.

On a CPU at 1 to 100 million parameters contiguous slots are enough; paging (vLLM, arXiv:2309.06180) pays
where a GPU's memory is shared by thousands of requests.

Key: B rows, H key-value heads, T new positions, S slots in use, d head width
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from exnihilo.errors import UsageError

if TYPE_CHECKING:
    from exnihilo.model.model import Model

_FIRST_BLOCK = 64  # slots allocated at once at least


class StaticCache:
    """Keys and values, one pair of tensors a layer, (rows, kv_heads, slots, head_dim).

    Args:
        layers, kv_heads, head_dim: the model's.
        rows: texts in the batch.
        limit: slots it may grow to: the model's context.

    Memory is taken at the first write, with the dtype and device of what is written: under autocast or mixed
    precision these are not the weights'.
    """

    def __init__(
        self,
        *,
        layers: int,
        kv_heads: int,
        head_dim: int,
        rows: int,
        limit: int,
    ) -> None:
        self.limit, self.rows = limit, rows
        self.capacity = 0
        self.used = 0  # slots that the last write reached, over all rows
        self._shape = (rows, kv_heads, 0, head_dim)
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._layers = layers
        self._layer = layers  # the layer that wrote last
        self._start: int | None = None  # where all rows write; None: each at its own positions
        self._row_B1 = torch.arange(rows)[:, None]
        self._chosen: Tensor | None = None  # rows of this forward; None: all, or the first so many

    @classmethod
    def of(cls, model: Model, rows: int, limit: int | None = None) -> StaticCache:
        """A cache with the model's shapes."""
        config = model.config
        heads = config.kv_heads or config.heads
        if heads is None or config.head_dim is None:
            raise UsageError("the model's configuration is not resolved", next="model.resolve(config) first")
        return cls(
            layers=config.depth,
            kv_heads=heads,
            head_dim=config.head_dim,
            rows=rows,
            limit=limit or config.context,
        )

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(t.nbytes for t in (*self._keys, *self._values))

    def write(
        self,
        layer: int,
        k_BHTd: Float[Tensor, "b h t d"],
        v_BHTd: Float[Tensor, "b h t d"],
        pos_BT: Int[Tensor, "b t"],
    ) -> tuple[Float[Tensor, "b h s d"], Float[Tensor, "b h s d"]]:
        """Put new keys and values at their positions; return the slots in use, [0, last position].

        Layers write in order within one forward: the first one decides where this forward's positions lie.
        """
        if layer <= self._layer:
            if not self._keys:
                self._keys = [k_BHTd.new_empty(self._shape) for _ in range(self._layers)]
                self._values = [v_BHTd.new_empty(self._shape) for _ in range(self._layers)]
                self._row_B1 = self._row_B1.to(k_BHTd.device)
                self._chosen = None if self._chosen is None else self._chosen.to(k_BHTd.device)
            self._aim(pos_BT)
        self._layer = layer
        k_BHCd, v_BHCd = self._keys[layer], self._values[layer]
        if self._chosen is not None:
            rows_B1 = self._chosen[:, None]
            k_BHCd[rows_B1, :, pos_BT] = k_BHTd.transpose(1, 2)
            v_BHCd[rows_B1, :, pos_BT] = v_BHTd.transpose(1, 2)
            return k_BHCd[self._chosen, :, : self.used], v_BHCd[self._chosen, :, : self.used]
        k_BHCd, v_BHCd = k_BHCd[: len(pos_BT)], v_BHCd[: len(pos_BT)]
        if self._start is not None:
            length = k_BHTd.shape[2]
            k_BHCd.narrow(2, self._start, length).copy_(k_BHTd)
            v_BHCd.narrow(2, self._start, length).copy_(v_BHTd)
        else:
            rows_B1 = self._row_B1[: len(pos_BT)]
            k_BHCd[rows_B1, :, pos_BT] = k_BHTd.transpose(1, 2)
            v_BHCd[rows_B1, :, pos_BT] = v_BHTd.transpose(1, 2)
        return k_BHCd.narrow(2, 0, self.used), v_BHCd.narrow(2, 0, self.used)

    def choose(self, rows: Sequence[int]) -> None:
        """The next forwards are of these rows only, in this order; rows 0, 1, 2 ... cost no copy."""
        first = list(rows) == list(range(len(rows)))
        self._chosen = None if first else torch.tensor(list(rows), device=self._row_B1.device)

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """Give other rows the first `length` slots of one."""
        for held in (self._keys, self._values):
            for tensor in held:
                tensor[list(targets), :, :length] = tensor[source, :, :length].clone()

    def keep(self, rows: Sequence[int]) -> None:
        """Drop finished rows: the batch becomes `rows`, in this order."""
        index = torch.tensor(rows, device=self._row_B1.device)
        for held in (self._keys, self._values):
            for layer, tensor in enumerate(held):
                held[layer] = tensor.index_select(0, index)
        self._row_B1 = self._row_B1[: len(rows)]
        self.rows = len(rows)

    def _aim(self, pos_BT: Tensor) -> None:
        """Read the positions on the host, once a forward; make room for them."""
        length = pos_BT.shape[1]
        firsts, lasts = pos_BT[:, 0].tolist(), pos_BT[:, -1].tolist()
        together = firsts.count(firsts[0]) == len(firsts) and lasts.count(firsts[0] + length - 1) == len(
            lasts
        )
        self._start = firsts[0] if together else None
        self.used = max(lasts) + 1
        if self.used > self.limit:
            raise UsageError(
                f"position {self.used - 1} in a cache of {self.limit} slots",
                expected=f"positions 0 to {self.limit - 1}, the model's context",
                next="shorten the text, or ask for fewer new tokens",
            )
        if self.used > self.capacity:
            self._grow(min(self.limit, max(_FIRST_BLOCK, 1 << (self.used - 1).bit_length())))

    def _grow(self, capacity: int) -> None:
        for held in (self._keys, self._values):
            for layer, old in enumerate(held):
                rows, heads, slots, width = old.shape
                # zeros, not empty memory: a masked slot still meets a weight of 0, and 0 * NaN is NaN
                new = old.new_zeros(rows, heads, capacity, width)
                new[:, :, :slots] = old
                held[layer] = new
        self.capacity = capacity
