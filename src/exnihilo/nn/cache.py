"""The keys and values of what has been read, so that each new token costs one position instead of all.

The trunk knows this protocol only; `infer` implements it. One row of the cache holds one document, and the
index of a slot is the position it holds: a query at position p sees the slots 0 .. p. So what stands in
later slots (padding of a shorter prompt, a longer text that was there before) is never seen, and a prompt
can be read in chunks of any size.

Key: B batch, T new positions, S slots, H key-value heads, d head width
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class KVCache(Protocol):
    """What attention asks of a cache.

    Example::

        cache = StaticCache(model, rows=1, slots=256)
        hidden_BTD = model({"tokens": prompt_BT, "pos": pos_BT}, cache=cache)   # reads the prompt
        hidden_B1D = model({"tokens": next_B1, "pos": next_pos_B1}, cache=cache)   # one more
    """

    def write(self, layer: int, k_BHTd: Tensor, v_BHTd: Tensor, pos_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Put new keys and values of a layer into slots `pos_BT`; give back all slots, (k_BHSd, v_BHSd).

        S may be any number above the largest position, and must be the same for all layers of one forward.
        """
        ...
