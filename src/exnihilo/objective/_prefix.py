"""A text behind something that is no text: the picture or the sound is read first, the loss is on the text.

    whole = behind(item, ids)                     # the item, with [bos] text [eos] behind it
    targets_BT = own(batch)                       # what is to be learnt, nothing at padding
    texts = continued(model, rows, codec, attention, most=32)      # greedy, each row after its own prefix

The prefix is a *block* (column ``group`` = 1): its positions see each other both ways, as in an encoder,
and the text, which is in no block, sees all of it and itself causally. Positions of a text go on behind the
largest coordinate of the prefix, the same number in each: so a decoder of text, whose positions have one
coordinate, reads them as it always did.

Sources: Liu et al. 2018 and Raffel et al. 2019 (prefix language models, arXiv 1910.10683); Wang et al. 2024
(positions of pictures and text, Qwen2-VL, arXiv 2409.12191).

Key: B rows, T positions, K coordinates, P pieces (prefixes), U tokens of a text
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from exnihilo.nn.layout import Attention
from exnihilo.objective.base import Batch, Item
from exnihilo.objective.pieces import IGNORE

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

BLOCK = 1
"""`group` of a prefix; a row's documents do not see each other, so that all may have the same."""


def behind(item: Item, ids: Sequence[int], *, block: bool = True) -> Item:
    """An item with a text behind it.

    Args:
        item: of a picture or a sound, of both, of anything: arrays as long as ``tokens`` are per-token
            columns and are filled up with zeros; ``place`` (T, K) goes on behind its largest coordinate.
        ids: of the text, [bos] first and [eos] last; of a prediction [bos] alone or nothing.
        block: whether the prefix sees itself both ways.

    Returns:
        The item with the columns ``targets`` (the next id at each of the text's but the last, else -100) and,
        of a block, ``group``.

    Example:
        >>> item = {"tokens": np.zeros(2, np.int32), "kind": np.ones(2, np.int8)}
        >>> behind(item, [7, 8, 9])["targets"].tolist()
        [-100, -100, 8, 9, -100]
    """
    T, U = len(np.asarray(item["tokens"])), len(ids)
    out: Item = {}
    for name, value in item.items():
        if not isinstance(value, np.ndarray):
            out[name] = value
        elif name == "tokens":
            out[name] = np.concatenate((value, np.asarray(ids, value.dtype)))
        elif name == "place":
            out[name] = np.concatenate((value, _after(value, U)))
        else:
            out[name] = np.concatenate((value, np.zeros((U, *value.shape[1:]), value.dtype)))
    targets = np.full(T + U, IGNORE, np.int32)
    if U > 1:
        targets[T:-1] = ids[1:]
    out["targets"] = targets
    if block:
        out["group"] = np.concatenate((np.full(T, BLOCK, np.int8), np.zeros(U, np.int8)))
    return out


def _after(place_TK: np.ndarray, count: int) -> np.ndarray:
    """Coordinates of what follows: 1, 2, 3 ... beyond the largest, in each coordinate the same."""
    first = int(place_TK.max()) + 1 if len(place_TK) else 0
    line = np.arange(first, first + count, dtype=place_TK.dtype)
    return np.repeat(line[:, None], place_TK.shape[1], 1)


def own(batch: Batch) -> Tensor:
    """Targets (B, T), none at padding."""
    targets_BT = batch["targets"]
    return targets_BT if "doc" not in batch else targets_BT.where(batch["doc"] >= 0, IGNORE)


def apart(batch: Batch, columns: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Each document of a packed batch alone, in the order of `pieces.firsts`: columns (1, T, ...).

    Args:
        batch: says by ``doc`` and ``pos`` where documents stand; without them each row is one.
        columns: what a forward reads, (B, T, ...); ``doc`` is left out.
    """
    B, T = batch["tokens"].shape
    doc_BT = batch.get("doc")
    out: list[dict[str, Tensor]] = []
    for b in range(B):
        spans = [(0, T)]
        if doc_BT is not None:
            doc_T = doc_BT[b].cpu().numpy()
            edges = np.flatnonzero(np.diff(doc_T, prepend=-2, append=-2))
            spans = [(int(s), int(e)) for s, e in zip(edges, edges[1:], strict=False) if doc_T[s] >= 0]
        out += [{n: v[b : b + 1, s:e] for n, v in columns.items() if n != "doc"} for s, e in spans]
    return out


@torch.no_grad()
def continued(
    model: Model, rows: Sequence[Mapping[str, Tensor]], codec: Codec, attention: Attention, *, most: int
) -> list[list[int]]:
    """What a decoder writes behind each prefix, greedily, up to [eos].

    Rows of one length are read together. The whole row is read again for each token: a prefix that sees
    itself both ways has no place in a cache of keys that only look back, and texts behind pictures are short.

    Args:
        rows: columns of one prefix each, (1, T, ...), as `apart` gives them.
        attention: of the model.
        most: tokens of a text at most.

    Returns:
        Ids without [bos] and [eos].
    """
    out: list[list[int]] = [[] for _ in rows]
    lengths = [int(row["tokens"].shape[1]) for row in rows]
    for length in sorted(set(lengths)):
        chosen = [i for i, n in enumerate(lengths) if n == length]
        raw = {name: torch.cat([rows[i][name] for i in chosen]) for name in rows[chosen[0]]}
        room = min(most, model.config.context - length)
        for i, ids in zip(chosen, _greedy(model, raw, codec, attention, room), strict=True):
            out[i] = ids
    return out


def _greedy(
    model: Model, raw: dict[str, Tensor], codec: Codec, attention: Attention, most: int
) -> list[list[int]]:
    head: Any = model.heads["tokens"]
    B = raw["tokens"].shape[0]
    texts: list[list[int]] = [[] for _ in range(B)]
    going = torch.ones(B, dtype=torch.bool, device=raw["tokens"].device)
    last_B = torch.full((B,), codec.bos_id, device=raw["tokens"].device)
    for _ in range(most):
        raw = _longer(raw, last_B)
        hidden_BTD = model(raw, attention)
        last_B = head.logits(hidden_BTD[:, -1]).argmax(-1)
        going &= last_B != codec.eos_id
        if not bool(going.any()):
            break
        for b in torch.nonzero(going).flatten().tolist():
            texts[b].append(int(last_B[b]))
    return texts


def _longer(raw: Mapping[str, Tensor], ids_B: Tensor) -> dict[str, Tensor]:
    """The rows with one more token each."""
    out: dict[str, Tensor] = {}
    for name, value in raw.items():
        end = value.new_zeros(value.shape[0], 1, *value.shape[2:])
        if name == "tokens":
            end[:, 0] = ids_B
        elif name == "pos":
            end[:, 0] = value[:, -1] + 1
        elif name == "place":
            end[:] = value.amax((1, 2), keepdim=True) + 1
        out[name] = torch.cat((value, end), 1)
    return out
