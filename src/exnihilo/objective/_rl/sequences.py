"""Which tokens make one completion: sums, counts and means over each, whatever rows they lie in.

A completion is a run of one (row, document, branch). Packing several into a row, or a group behind one
shared prompt, changes nothing.

Key: B rows, T positions, S completions (0 .. S−1, some without a counted token)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """Completions of a batch.

    Attributes:
        of_BT: the completion of each position.
        mask_BT: 1 at counted tokens, in the type of what is added up.
        tokens_S: counted tokens of each.
    """

    of_BT: Tensor
    mask_BT: Tensor
    tokens_S: Tensor

    @property
    def number(self) -> Tensor:
        """How many have a counted token; a 0-d tensor."""
        return (self.tokens_S > 0).sum().to(self.mask_BT.dtype)

    def sums(self, values_BT: Tensor) -> Tensor:
        """Σ over the counted tokens of each completion, (S,); differentiable."""
        flat = (values_BT * self.mask_BT).flatten()
        return flat.new_zeros(len(self.tokens_S)).index_add(0, self.of_BT.flatten(), flat)

    def means(self, values_BT: Tensor) -> Tensor:
        """The mean over the counted tokens of each completion, (S,); 0 where there are none."""
        return self.sums(values_BT) / self.tokens_S.clamp(min=1)

    def spread(self, values_S: Tensor) -> Tensor:
        """A completion's value at each of its positions, (B, T)."""
        return values_S[self.of_BT]


def sequences(mask_BT: Tensor, doc_BT: Tensor | None = None, branch_BT: Tensor | None = None) -> Sequences:
    """The completions of a batch.

    >>> mask = torch.tensor([[0.0, 1, 1, 0, 1]])
    >>> found = sequences(mask, branch_BT=torch.tensor([[0, 1, 1, 2, 2]]))
    >>> found.tokens_S.tolist(), found.means(torch.tensor([[9.0, 1, 3, 9, 5]])).tolist()
    ([0.0, 2.0, 1.0], [0.0, 2.0, 5.0])
    """
    starts_BT = torch.zeros(mask_BT.shape, dtype=torch.bool, device=mask_BT.device)
    starts_BT[:, 0] = True
    for column in (doc_BT, branch_BT):
        if column is not None:
            starts_BT[:, 1:] |= column[:, 1:] != column[:, :-1]
    of_BT = starts_BT.flatten().cumsum(0).view_as(starts_BT) - 1
    number = int(of_BT[-1, -1]) + 1
    tokens_S = mask_BT.new_zeros(number).index_add(0, of_BT.flatten(), mask_BT.flatten())
    return Sequences(of_BT, mask_BT, tokens_S)
