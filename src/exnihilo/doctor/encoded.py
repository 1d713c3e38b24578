"""What can be seen once examples are tokens: lengths, what is cut, unknown words, rows, ends of documents.

Key: B rows, T positions of a row (context and what an objective looks ahead)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from exnihilo.data import collate, packing
from exnihilo.data.base import Item
from exnihilo.doctor import replies
from exnihilo.doctor.report import Diagnosis, Table, share
from exnihilo.objective.base import Columns, Objective
from exnihilo.objective.causal_lm import CausalLM

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.doctor.examine import Side

_BARS = 8
_UNKNOWN = 0.02  # share of tokens that is warned of
_CUT = 0.01  # share of examples


class Held:
    """Items in memory as rows, like a data set."""

    def __init__(self, items: Sequence[Item], objective: Objective, context: int, pad_id: int) -> None:
        self.items, self.pad_id = items, pad_id
        lengths = np.asarray([len(np.asarray(item["tokens"])) for item in items], np.int64)
        row = max(2, (objective.row or context) + objective.lookahead)
        self.frame = objective.frame
        most = 0.05 if objective.joins or self.frame else 1.0
        overlap = sum(self.frame) if self.frame else objective.lookahead
        self.plan = packing.plan(lengths, row, overlap=overlap, max_padding=most)

    @property
    def rows(self) -> int:
        return self.plan.rows

    def batch(self, rows: np.ndarray) -> Columns:
        """The columns of some rows."""
        pieces = [self.plan.pieces(int(row)) for row in rows]
        return collate.of_items(pieces, self.items, row=self.plan.row, pad_id=self.pad_id, frame=self.frame)


def look(objective: Objective, codec: Codec, train: Side, context: int, made: Diagnosis) -> None:
    """All checks of items."""
    kept = [items for items in train.items if items]
    flat = _joined(train) if objective.joins else [item for items in kept for item in items]
    sizes = np.asarray([len(np.asarray(item["tokens"])) for item in flat], np.int64)
    _lengths(sizes, context, made)
    _cut(kept, flat, objective.supervised, made)
    _unknown(flat, codec, int(sizes.sum()), made)
    held = Held(flat, objective, context, codec.pad_id)
    made.facts["rows"] = (
        f"{held.rows:,} of {held.plan.row - objective.lookahead} positions, "
        f"padded {held.plan.padded:.1%}, items a row {len(held.plan.doc) / max(1, held.rows):.1f}"
    )
    if held.plan.padded > 0.1 and held.rows > 20:
        made.found(
            "note",
            f"{held.plan.padded:.0%} of the rows' places would be padding: items are long for {context}",
            "a larger model.context packs better",
        )
    if getattr(objective.config, "loss", "") == "contrastive":
        _negatives(held, made)
    if replies.masked(train.items):
        replies.look(codec, train, made)
    if isinstance(objective, CausalLM):
        _ends(flat, codec, sizes, held, made)


def _joined(train: Side) -> list[Item]:
    """The parts of a very long document as one item, as the data room joins them."""
    out: list[Item] = []
    for example, items in zip(train.examples, train.items, strict=True):
        if out and not example.get("_begin", True):
            parts = [out[-1]["tokens"], *(item["tokens"] for item in items)]
            out[-1] = {"tokens": np.concatenate([np.asarray(part) for part in parts])}
        else:
            out += items
    return out


def _negatives(held: Held, made: Diagnosis) -> None:
    """Contrastive pairs find their negatives in their own row."""
    alone = int((np.diff(held.plan.row_start) == 1).sum())
    made.facts["rows of one pair"] = f"{alone:,} of {held.rows:,} ({share(alone, held.rows)})"
    if alone > 0.2 * held.rows:
        made.found(
            "warning",
            f"{share(alone, held.rows)} of the rows hold one pair only, which has no negatives to learn from",
            "a larger model.context",
        )


def _lengths(sizes: np.ndarray, context: int, made: Diagnosis) -> None:
    at = np.percentile(sizes, [0, 50, 90, 99, 100]).astype(int).tolist()
    made.facts["tokens an item"] = (
        f"mean {sizes.mean():.1f}; least {at[0]}, median {at[1]}, 90% {at[2]}, 99% {at[3]}, most {at[4]}"
    )
    edges = np.unique(np.geomspace(max(1, at[0]), at[4] + 1, _BARS + 1).astype(int))
    if len(edges) < 3:
        return
    counts, _ = np.histogram(sizes, [*edges[:-1], edges[-1] + 1])
    rows = []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        bar = "#" * round(30 * count / counts.max())
        rows.append([f"{low}-{high - 1}" if high - 1 > low else f"{low}", int(count), bar.ljust(30)])
    made.tables.append(Table("length in tokens", ("tokens", "items", ""), rows))


def _cut(kept: Sequence[Sequence[Item]], flat: Sequence[Item], supervised: bool, made: Diagnosis) -> None:
    windows = sum(len(items) > 1 for items in kept)
    if windows:
        made.facts["in several windows"] = f"{windows:,} examples ({share(windows, len(kept))})"
        if windows > 0.5 * len(kept) and supervised:
            made.found(
                "note",
                f"{share(windows, len(kept))} of the examples need several windows",
                "a larger model.context reads more of each at once, at more time a row",
            )
    lost = [sum(int(np.max(item.get("cut", 0))) for item in items[:1]) for items in kept]
    cut = sum(n > 0 for n in lost)
    if cut:
        tokens = sum(len(np.asarray(item["tokens"])) for item in flat)
        part = share(sum(lost), tokens + sum(lost))
        made.facts["truncated"] = f"{cut:,} examples ({share(cut, len(kept))}), {part} of the tokens"
        made.found(
            "warning" if cut > _CUT * len(kept) else "note",
            f"{cut:,} examples ({share(cut, len(kept))}) lose {part} of all tokens at their end",
            "a larger model.context",
        )


def _unknown(flat: Sequence[Item], codec: Codec, total: int, made: Diagnosis) -> None:
    if codec.unk_id is None:
        return
    count = sum(int((np.asarray(item["tokens"]) == codec.unk_id).sum()) for item in flat)
    made.facts["[UNK]"] = f"{count:,} tokens ({share(count, total)})"
    if count > _UNKNOWN * total:
        made.found(
            "warning",
            f"{share(count, total)} of the tokens are unknown to the tokenizer",
            "train a tokenizer on this data, or take one of its language: codec.path=DIR",
        )


def _ends(flat: Sequence[Item], codec: Codec, sizes: np.ndarray, held: Held, made: Diagnosis) -> None:
    """Of a decoder's documents: do they begin and end, how many are cut, what bears the loss."""
    begin = sum(int(np.asarray(item["tokens"])[0]) == codec.bos_id for item in flat)
    end = sum(int(np.asarray(item["tokens"])[-1]) == codec.eos_id for item in flat)
    made.facts["documents with BOS, with EOS"] = f"{share(begin, len(flat))}, {share(end, len(flat))}"
    if end < len(flat) // 2 + 1:
        made.found(
            "warning",
            f"{share(len(flat) - end, len(flat))} of the documents do not end with EOS: the model would not "
            "learn to stop",
            "give whole documents",
        )
    if codec.pad_id == codec.eos_id:
        made.found(
            "note", "the tokenizer's padding is its EOS: padding is told apart by the rows, not by the id"
        )
    plan = held.plan
    longer = int((sizes > plan.row).sum())
    made.facts["documents cut"] = (
        f"{longer:,} longer than a row ({share(longer, len(flat))}), {plan.cut:.1%} shorter ones to fill "
        f"gaps; cropped {plan.cropped:.2%} of the tokens"
    )
    predicted = int((plan.length.astype(np.int64) - 1).clip(min=0).sum())
    made.facts["places that bear the loss"] = share(predicted, held.rows * (plan.row - 1))
