"""Several continuations of one prompt in one item: its layout, the forward, log-probabilities and sums.

::

    item = lay([1, 5, 6], [[7, 2], [8, 9, 2]])
    tokens    1 5 | 6 7 2 | 6 8 9 2       the stem is the prompt without its last token; each branch begins
    branch    0 0 | 1 1 1 | 2 2 2 2       with that token, so that what stands before a predicted token lies
    back      0 0 | 0 0 0 | 3 3 3 3       in its own branch. Position = place in the item − back: each branch
    mask      0 0 | 0 1 1 | 0 1 1 1       goes on after the stem. mask = 1 exactly at predicted tokens.

A position sees the stem and its own branch (`kernels.attention`), so each continuation has the states and the
gradients that it would have in a row of its own, and the prompt is computed once::

    logp_BR = token_logps(model, batch)       # at the place of the token that is predicted, 0 where mask is 0
    found = branch_sums(logp_BR, batch)
    found.sums_M, found.counts_M              # of each continuation of each piece

The rows of a batch hold the tokens that are fed and one more (`lookahead` 1).

Key: B rows, R tokens of a row, T = R − 1 positions fed, N predicted tokens, D model width, M branches of all
pieces
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from exnihilo.errors import DataError
from exnihilo.kernels.linear_ce import logprobs
from exnihilo.nn.layout import Attention
from exnihilo.objective.base import Batch, Item

if TYPE_CHECKING:
    from exnihilo.model.model import Model

COLUMNS = frozenset({"tokens", "doc", "pos", "branch", "back", "mask"})
"""The batch columns of items laid out here."""


def lay(
    prompt_ids: Sequence[int],
    continuations: Sequence[Sequence[int]],
    masks: Sequence[Sequence[int]] | None = None,
    *,
    dtype: type[np.integer] = np.int64,
) -> Item:
    """One item of a prompt and its continuations; see the layout on top.

    Args:
        prompt_ids: one id or more: the last one is what each continuation's first token is predicted from.
        continuations: ids of each; an empty one is allowed, and has nothing to predict.
        masks: for each continuation, 1 where a token is predicted (trained on) and 0 where it is only read;
            None: all are predicted.
        dtype: of the ids.

    Returns:
        Columns ``tokens``, ``branch``, ``back`` (int32) and ``mask`` (int8), all of one length.

    Raises:
        DataError: no prompt, no continuation, or a mask of another length.

    Example:
        >>> lay([1, 5, 6], [[7, 2], [8, 9, 2]])["back"].tolist()
        [0, 0, 0, 0, 0, 3, 3, 3, 3]
    """
    if not len(prompt_ids) or not len(continuations):
        raise DataError(
            f"a prompt of {len(prompt_ids)} tokens with {len(continuations)} continuations",
            expected="at least one of each",
        )
    stem = len(prompt_ids) - 1
    tokens, branch, back, mask = list(prompt_ids[:stem]), [0] * stem, [0] * stem, [0] * stem
    for number, ids in enumerate(continuations):
        kept = [1] * len(ids) if masks is None else list(masks[number])
        if len(kept) != len(ids):
            raise DataError(
                f"continuation {number} has {len(ids)} tokens and a mask of {len(kept)}",
                expected="a mask entry a token",
            )
        before = len(tokens) - stem
        tokens += [prompt_ids[-1], *ids]
        branch += [number + 1] * (1 + len(ids))
        back += [before] * (1 + len(ids))
        mask += [0, *kept]
    return {
        "tokens": np.asarray(tokens, dtype),
        "branch": np.asarray(branch, np.int32),
        "back": np.asarray(back, np.int32),
        "mask": np.asarray(mask, np.int8),
    }


def spread(values: Sequence[Sequence[float]], prompt_length: int) -> np.ndarray:
    """A per-token float column of an item of `lay`: each continuation's values at its tokens, 0 elsewhere.

    Args:
        values: for each continuation, one value a token.
        prompt_length: ids of the prompt.

    Example:
        >>> spread([[.5, .25], [1., 2., 3.]], 3).tolist()
        [0.0, 0.0, 0.0, 0.5, 0.25, 0.0, 1.0, 2.0, 3.0]
    """
    parts = [np.zeros(prompt_length - 1, np.float32)]
    for each in values:
        parts += [np.zeros(1, np.float32), np.asarray(each, np.float32)]
    return np.concatenate(parts)


def inputs(batch: Batch, *, ahead: int = 1) -> dict[str, Tensor]:
    """What the forward reads: tokens, doc, pos (place − back), branch, without the last `ahead` columns.

    With `ahead` 1 and a mask also ``needed``: the states before predicted tokens, all that is read.
    """
    tokens_BR = batch["tokens"]
    stop = tokens_BR.shape[1] - ahead
    out = {"tokens": tokens_BR[:, :stop]}
    if "doc" in batch:
        out["doc"] = batch["doc"][:, :stop]
    if "branch" not in batch:
        if "pos" in batch:
            out["pos"] = batch["pos"][:, :stop]
        return out
    place_BR = batch.get("pos")
    if place_BR is None:
        place_BR = torch.arange(tokens_BR.shape[1], device=tokens_BR.device).expand_as(tokens_BR)
    out["branch"] = batch["branch"][:, :stop]
    out["pos"] = (place_BR - batch["back"])[:, :stop]
    if ahead == 1 and "mask" in batch:
        out["needed"] = predicted(batch)[:, 1:]  # no other state is read
    return out


def predicted(batch: Batch) -> Tensor:
    """Bool (B, R): the tokens that count. The first of a row never does: nothing stands before it."""
    mask_BR = batch["mask"] > 0
    if "doc" in batch:
        mask_BR = mask_BR & (batch["doc"] >= 0)
    return mask_BR & (torch.arange(mask_BR.shape[1], device=mask_BR.device) > 0)


@overload
def token_logps(
    model: Model, batch: Batch, *, temperature: float = 1.0, entropy: Literal[False] = False
) -> Tensor: ...
@overload
def token_logps(
    model: Model, batch: Batch, *, temperature: float = 1.0, entropy: Literal[True]
) -> tuple[Tensor, Tensor]: ...
def token_logps(
    model: Model, batch: Batch, *, temperature: float = 1.0, entropy: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """log p of each predicted token of a batch, at its own place; 0 where `mask` is 0. Differentiable.

    Args:
        model: a decoder with the head ``tokens``.
        batch: the columns of `lay` as rows; ``doc`` and ``pos`` may be left out where a row is one piece.
        temperature: of the distribution.
        entropy: also give the entropy of the distribution that each of these tokens was drawn from.

    Returns:
        (B, R) nats, shaped like ``batch["tokens"]``; with `entropy` a pair, the second detached.

    Example::

        nll = -token_logps(model, batch).sum()
    """
    hidden_BTD = model(inputs(batch), Attention.CAUSAL)
    return logps_of(model, hidden_BTD, batch, temperature=temperature, entropy=entropy)  # type: ignore


def logps_of(
    model: Model, hidden_BTD: Tensor, batch: Batch, *, temperature: float = 1.0, entropy: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """`token_logps` from states that are there already (other heads may read them, too)."""
    head: Any = model.heads["tokens"]
    kept_BT = predicted(batch)[:, 1:]
    at_N = kept_BT.flatten().nonzero().squeeze(1)
    hidden_ND = hidden_BTD.flatten(0, 1).index_select(0, at_N)
    targets_N = batch["tokens"][:, 1:].flatten()[at_N]
    logp_N, entropy_N = logprobs(
        hidden_ND, head.weight, targets_N, head.bias, temperature=temperature, entropy=entropy
    )
    logp_BR = _at_places(logp_N, at_N, kept_BT)
    if entropy_N is None:
        return logp_BR
    return logp_BR, _at_places(entropy_N, at_N, kept_BT)


def _at_places(value_N: Tensor, at_N: Tensor, kept_BT: Tensor) -> Tensor:
    """(B, R): values at the places of the tokens, which stand one after the positions they come from."""
    flat = value_N.new_zeros(kept_BT.numel()).index_copy(0, at_N, value_N)
    return torch.nn.functional.pad(flat.view(kept_BT.shape), (1, 0))


class Branches(NamedTuple):
    """The branches of all pieces of a batch: row by row, from left to right, in each piece by number.

    Attributes:
        sums_M: of the values, differentiable where they are.
        counts_M: predicted tokens, float64.
        number_M: 1, 2, ... of each branch in its piece.
        piece_M: number of its piece in the batch, from 0.
        last_M: place of its last token in the flattened (B·R,) batch.
    """

    sums_M: Tensor
    counts_M: Tensor
    number_M: Tensor
    piece_M: Tensor
    last_M: Tensor


def branch_sums(values_BR: Tensor, batch: Batch) -> Branches:
    """Sums of a per-token value over the predicted tokens of each branch.

    Args:
        values_BR: (B, R), shaped like ``batch["tokens"]``.

    Example:
        >>> item = lay([1, 5, 6], [[7, 2], [8, 9, 2]])
        >>> batch = {k: torch.as_tensor(v)[None] for k, v in item.items()}
        >>> branch_sums(torch.ones(1, 9), batch).sums_M.tolist()
        [2.0, 3.0]
    """
    where = runs(batch)
    kept_BR = predicted(batch)
    M, index = where.number_M.shape[0], where.index_BR.flatten()
    # one slot more takes what belongs to no branch
    masked = torch.where(kept_BR, values_BR, 0.0).flatten()
    sums_M = masked.new_zeros(M + 1).index_add(0, index, masked)[:M]
    ones = kept_BR.flatten().to(torch.float64 if kept_BR.device.type != "mps" else torch.float32)
    counts_M = ones.new_zeros(M + 1).index_add(0, index, ones)[:M]
    return Branches(sums_M, counts_M, where.number_M, where.piece_M, where.last_M)


class Runs(NamedTuple):
    """Where the branches of a batch stand.

    Attributes:
        index_BR: the branch of each token, 0 .. M-1; M for tokens of no branch (stems, padding).
        number_M, piece_M, last_M: as in `Branches`.
        first_M: place of its first token in the flattened (B·R,) batch.
    """

    index_BR: Tensor
    number_M: Tensor
    piece_M: Tensor
    last_M: Tensor
    first_M: Tensor


def runs(batch: Batch) -> Runs:
    """Finds the branches of a batch: runs of one branch number above 0 within one document."""
    branch_BR = batch["branch"]
    doc_BR = batch.get("doc")
    if doc_BR is None:
        doc_BR = torch.zeros_like(branch_BR)
    inside_BR = (branch_BR > 0) & (doc_BR >= 0)
    change_BR = torch.ones_like(inside_BR)
    other_doc = doc_BR[:, 1:] != doc_BR[:, :-1]
    change_BR[:, 1:] = (branch_BR[:, 1:] != branch_BR[:, :-1]) | other_doc
    begin_BR = change_BR & inside_BR
    index_BR = (begin_BR.flatten().cumsum(0) - 1).view_as(branch_BR)
    at_M = begin_BR.flatten().nonzero().squeeze(1)
    M = at_M.shape[0]
    index_BR = torch.where(inside_BR, index_BR, M)
    piece_BR = torch.ones_like(inside_BR)
    piece_BR[:, 1:] = other_doc
    piece = (piece_BR & (doc_BR >= 0)).flatten().cumsum(0) - 1
    size_M = torch.bincount(index_BR.flatten(), minlength=M + 1)[:M]
    return Runs(index_BR, branch_BR.flatten()[at_M], piece[at_M], at_M + size_M - 1, at_M)
