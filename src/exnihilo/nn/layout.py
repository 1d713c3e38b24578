"""What a trunk is given: embedded positions, and the data from which the one masking rule follows.

A position q sees a position k if both are in the same document, and k is not after q or both are in the same
block n > 0 that sees itself both ways (`group`). "After" is by place in the row, so it needs no position
numbers. Causal, bidirectional and prefix attention are thus data, not classes; mixing modalities is
concatenating `Seq`s. Where a document has branches (several continuations of one stem), q sees of all that
only the stem and its own branch. The rule itself is in kernels/attention.py.

Key: B batch, T positions, D model width, K coordinates of a position (1 text, sound, series; 2 pictures)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import Tensor


class Attention(Enum):
    """What a position may see: what came before it, or everything in its document."""

    CAUSAL = "causal"
    FULL = "full"

    @property
    def group(self) -> int:
        """The block that every position is in: 0 = causal, 1 = one block that sees itself both ways."""
        return 0 if self is Attention.CAUSAL else 1


@dataclass
class Seq:
    """Embedded positions and their layout.

    Attributes:
        x_BTD: embedded tokens, patches or frames.
        pos_BTK: integer coordinates of each position. None: 0 .. T-1 in each row, which saves a gather.
        group_BT: 0 = causal; the same n > 0 = one block that sees itself both ways. A plain int holds for
            all.
        doc_BT: document of each position, -1 = padding. None: one document a row and no padding, which lets
            attention take its fastest path.
        branch_BT: 0 = the stem of its document, n > 0 = the n-th continuation of it: a position sees the stem
            and its own branch, nobody sees another branch. None: all is stem.
        needed_BT: which states are read afterwards, bool; the others need not be computed in the last block.
            None: all.
    """

    x_BTD: Tensor
    pos_BTK: Tensor | None = None
    group_BT: Tensor | int = 0
    doc_BT: Tensor | None = None
    needed_BT: Tensor | None = None
    branch_BT: Tensor | None = None
