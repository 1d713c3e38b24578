"""The words the room speaks: examples, items, and the limits that keep memory flat.

An *example* is what a source yields: roles to values, ``{"text": "Once upon a time ..."}``, plus where it
came from: ``_file`` (the file's number in its source) and ``_index`` (its number in that file), and perhaps
``_group``, a string that examples share which must stand on one side of the split. A document of
more than `SEGMENT` characters comes as several consecutive examples, its *parts*: ``_begin`` is False on all
but the first, ``_end`` is False on all but the last, both are absent from a document that comes whole. An
objective that puts a mark at the beginning and the end of a document obeys them; the room joins the encoded
parts into one item again (unless it is told that every item stands for itself).

An *item* is an encoded example: 1-D arrays are per-token columns, all as long as ``tokens``; numbers are
per-item columns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Example = Mapping[str, Any]
Item = dict[str, np.ndarray | int | float]
Encode = Callable[[Sequence[Example]], list[list[Item]]]
"""Many examples to one list of items each. Called from several threads at once, on about a megabyte."""

SEGMENT = 1 << 20
"""Characters: a longer document is read, encoded and written in parts of at most this many."""

BLOCK = 1 << 20
"""Bytes read at once from a file."""

TEXT = ("text",)
"""The roles of plain documents."""


def begins(example: Example) -> bool:
    """Whether the example is a whole document or the first part of one."""
    return bool(example.get("_begin", True))


def ends(example: Example) -> bool:
    """Whether the example is a whole document or the last part of one."""
    return bool(example.get("_end", True))


@dataclass
class Drops:
    """Records that were left out while a source was read once: how many for which reason, and the first of
    each.

    Example:
        >>> drops = Drops(); drops.add("empty text", "a.csv, row 3"); drops.add("empty text", "a.csv, row 9")
        >>> drops.summary()
        'skipped 2 empty text (first: a.csv, row 3)'
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, where: str) -> None:
        """Counts one record."""
        self.counts[reason] += 1
        self.first.setdefault(reason, where)

    def summary(self, before: str = "", after: str = "") -> str:
        """All of it in one line; nothing where nothing was left out."""
        if not self.counts:
            return ""
        each = (f"{n:,} {reason} (first: {self.first[reason]})" for reason, n in sorted(self.counts.items()))
        return f"{before}skipped {', '.join(each)}{after}"

    def to_json(self) -> dict[str, list[Any]]:
        """Reason -> [count, the first]."""
        return {reason: [n, self.first[reason]] for reason, n in sorted(self.counts.items())}

    @classmethod
    def of(cls, value: Mapping[str, Sequence[Any]]) -> Drops:
        """From `to_json`."""
        return cls(
            Counter({k: int(v[0]) for k, v in value.items()}), {k: str(v[1]) for k, v in value.items()}
        )
