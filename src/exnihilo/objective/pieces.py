"""Where the pieces of a packed row begin: what stands for a whole document is read at its first token.

::

    first_BT = firsts(batch)                  # True at [CLS] of each document of each row
    logits_PC = head.logits(hidden_BTD[first_BT])       # P pieces: row by row, left to right
    label_P = batch["label"][first_BT]

A label of a document is a per-token column that holds it at the document's first token and `IGNORE` elsewhere
(`at_first`), so that it survives packing, cutting and reordering with its tokens.

Key: B rows, T positions, P pieces (documents) of all rows
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

IGNORE = -100
"""A label that is none: nothing is learnt or measured there."""


def firsts(batch: Mapping[str, Tensor]) -> Tensor:
    """Bool (B, T): the first token of each document, where ``pos == 0`` and ``doc >= 0``.

    Without `pos` the first column of each row; without `doc` nothing is padding.

    >>> firsts({"tokens": torch.zeros(1, 4), "pos": torch.tensor([[0, 1, 0, 0]]),
    ...         "doc": torch.tensor([[0, 0, 1, -1]])}).tolist()
    [[True, False, True, False]]
    """
    tokens = batch["tokens"]
    pos, doc = batch.get("pos"), batch.get("doc")
    if pos is not None:
        first_BT = pos == 0
    else:
        first_BT = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        first_BT[:, 0] = True
    return first_BT if doc is None else first_BT & (doc >= 0)


def at_first(value: int | float, length: int) -> np.ndarray:
    """A column of a document of `length` tokens that holds `value` at the first one and nothing elsewhere.

    Whole numbers give int32, other numbers float32.

    >>> at_first(2, 3).tolist()
    [2, -100, -100]
    """
    column = np.full(length, IGNORE, np.float32 if isinstance(value, float) else np.int32)
    column[0] = value
    return column
