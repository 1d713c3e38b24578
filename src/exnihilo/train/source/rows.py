"""Records -> rows of a batch: who shares a row with whom, and which rows make a micro-batch.

::

    items = lay(group_records, layout)                 # the items of one group
    for columns in batches(items, layout): ...         # rows, padded as little as pays

Completions of one prompt share its computation as branches of one row where that is cheaper: behind a long
prompt it is, behind a few tokens the wider attention costs more than it saves. Rows that hold one
completion each need neither documents nor branches, so attention takes its fastest path. Rows of like
length share a micro-batch.

The loss does not depend on any of this (`tests/objective/test_rlvr.py`).

Key: B rows, R tokens of a row
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from exnihilo.objective._branches import lay as lay_branches
from exnihilo.objective._branches import spread
from exnihilo.objective.base import Columns, Item
from exnihilo.train.source.records import Record

FILE = "layout.json"
OVERHEAD = 256  # tokens whose time one more micro-batch costs, at least


@dataclass(frozen=True)
class Layout:
    """What rows are laid out by.

    Attributes:
        width: of the model, which weighs matrix products against attention.
        micro_tokens: of one forward at most (one row may be longer).
        pad_id: fills rows. share: None: as is cheaper; else whether groups share their prompt.
        skip_cut: what did not end by itself is not learnt from.
    """

    width: int
    micro_tokens: int
    pad_id: int = 0
    share: bool | None = None
    skip_cut: bool = False

    def write(self, folder: Path) -> None:
        """Keep it beside the rollouts, for `replay`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Layout:
        """As it was written."""
        return cls(**json.loads((folder / FILE).read_text(encoding="utf-8")))


def cost(tokens: int, width: int, *, branches: bool) -> float:
    """Time of one row in arbitrary units: matrix products 12·D a token; attention T, four times that with a
    mask."""
    return tokens * (12.0 * width + (4.0 if branches else 1.0) * tokens)


def together(prompt: int, lengths: Sequence[int], layout: Layout) -> int:
    """How many completions of a group share a row: all, or fewer down to one.

    >>> together(6, [32] * 8, Layout(128, 4096)), together(200, [16] * 8, Layout(128, 4096))
    (1, 8)
    """
    if layout.share is not None:
        return len(lengths) if layout.share else 1

    def whole(size: int) -> float:
        parts = [lengths[i : i + size] for i in range(0, len(lengths), size)]
        return sum(
            cost(prompt - 1 + sum(part) + len(part), layout.width, branches=size > 1) for part in parts
        )

    sizes = sorted({1, *(-(-len(lengths) // n) for n in range(1, len(lengths) + 1))})
    return min(sizes, key=whole)


def lay(group: Sequence[Record], layout: Layout, columns: Sequence[str]) -> list[tuple[Item, list[Record]]]:
    """The items of one group's records, each with the records that it holds, in their order.

    Args:
        columns: names of the records' per-token floats that the items get.
    """
    prompt = group[0].prompt
    size = together(len(prompt), [len(r.completion) for r in group], layout)
    out = []
    for at in range(0, len(group), size):
        held = list(group[at : at + size])
        masks = [r.mask if r.stopped or not layout.skip_cut else (0,) * len(r.mask) for r in held]
        item = lay_branches(prompt, [r.completion for r in held], masks)
        if len(held) == 1:  # one branch sees what it would see anyway
            del item["branch"], item["back"]
        for name in columns:
            item[name] = spread([r.columns[name] for r in held], len(prompt))
        out.append((item, held))
    return out


def size(item: Item) -> int:
    """Tokens of an item."""
    return len(np.asarray(item["tokens"]))


def cuts(lengths: Sequence[int], most: int) -> list[int]:
    """Where rows of rising length are cut into micro-batches: the ends, so that padding and overhead are
    least.

    >>> cuts([10, 10, 10, 400], 4096), cuts([10, 10, 11, 11], 4096)
    ([3, 4], [4])
    """
    count = len(lengths)
    best = [0.0] + [np.inf] * count  # best[j]: cost of the first j rows
    came = [0] * (count + 1)
    for end in range(1, count + 1):
        widest = lengths[end - 1]
        for start in range(end - 1, -1, -1):
            tokens = widest * (end - start)
            if tokens > most and start < end - 1:
                break
            total = best[start] + tokens + OVERHEAD
            if total < best[end]:
                best[end], came[end] = total, start
    ends = [count] if count else []
    while ends and came[ends[0]] > 0:
        ends.insert(0, came[ends[0]])
    return ends


def collated(items: Sequence[Item], pad_id: int) -> Columns:
    """Items as rows, one a row, padded to the longest.

    Rows that hold one completion each have no `doc`, `pos`, `branch` or `back`: what is right of a token is
    not seen by it, and `mask` is 0 at padding.
    """
    width = max(map(size, items))
    plain = all("branch" not in item for item in items)
    out: Columns = {}
    for name in items[0].keys() | ({"branch", "back"} if not plain else set()):
        kind = np.asarray(next(i[name] for i in items if name in i)).dtype
        column = np.full((len(items), width), pad_id if name == "tokens" else 0, kind)
        for row, item in enumerate(items):
            if name in item:
                column[row, : size(item)] = item[name]
        out[name] = column.astype(np.int64) if name in ("tokens", "branch", "back") else column
    if not plain:
        doc = np.full((len(items), width), -1, np.int32)
        for row, item in enumerate(items):
            doc[row, : size(item)] = 0  # a row without branches is all stem
        out["doc"] = doc
        out["pos"] = np.tile(np.arange(width, dtype=np.int64), (len(items), 1))
    return out


def starts(prompt: int, lengths: Sequence[int]) -> list[int]:
    """Where in an item the first token of each completion stands.

    >>> starts(3, [2, 3])
    [3, 6]
    """
    out, at = [], prompt
    for length in lengths:
        out.append(at)
        at += length + 1
    return out
