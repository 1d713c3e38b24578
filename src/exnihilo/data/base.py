"""The words the room speaks: examples, items, and the limits that keep memory flat.

An *example* is what a source yields: roles to values, ``{"text": "Once upon a time ..."}``, plus where it
came from: ``_file`` (the file's number in its source) and ``_index`` (its number in that file), and perhaps
``_group``, a string that examples share which must stand on one side of the split. A document of
more than `SEGMENT` characters comes as several consecutive examples, its *parts*: ``_begin`` is False on all
but the first, ``_end`` is False on all but the last, both are absent from a document that comes whole. An
objective that puts a mark at the beginning and the end of a document obeys them; the room joins the encoded
parts into one item again (unless it is told that every item stands for itself).

An *item* is an encoded example: arrays are per-token columns, all as long as ``tokens`` (a second dimension
is what each position holds: samples of a sound, pixels of a patch); numbers are per-item columns.
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


class Noted(list[Item]):
    """Items of an example, with what is worth counting about them: why there are none, or what was cut.

    Preparation counts each `note` like a reason for which a record is left out.

    Example:
        >>> Noted([], "conversations with nothing to train on").note
        'conversations with nothing to train on'
    """

    def __init__(self, items: Sequence[Item] = (), note: str = "") -> None:
        super().__init__(items)
        self.note = note


SEGMENT = 1 << 20
"""Characters: a longer document is read, encoded and written in parts of at most this many."""

PLACES = 5
"""Of the records that are left out for one reason, so many are named."""

BLOCK = 1 << 20
"""Bytes read at once from a file."""

TEXT = ("text",)
"""The roles of plain documents."""

MEDIA: Mapping[str, frozenset[str]] = {
    "sound": frozenset({".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff", ".au", ".w64", ".caf"}),
    "picture": frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}),
}
"""Roles whose value is a path to a file of its own, and the suffixes of such files."""


def begins(example: Example) -> bool:
    """Whether the example is a whole document or the first part of one."""
    return bool(example.get("_begin", True))


def ends(example: Example) -> bool:
    """Whether the example is a whole document or the last part of one."""
    return bool(example.get("_end", True))


@dataclass
class Drops:
    """Records that were left out while a source was read once: how many for which reason, and where the
    first `PLACES` of each stand.

    Example:
        >>> drops = Drops(); drops.add("empty text", "a.csv, row 3"); drops.add("empty text", "a.csv, row 9")
        >>> drops.summary()
        'skipped 2 empty text (first: a.csv, row 3; then row 9)'
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    later: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, where: str) -> None:
        """Counts one record."""
        self.counts[reason] += 1
        if reason not in self.first:
            self.first[reason] = where
        elif len(kept := self.later.setdefault(reason, [])) < PLACES - 1:
            kept.append(where)

    def _places(self, reason: str) -> str:
        """The first place, and the next ones as far as they are kept; a file's name once."""
        first = self.first[reason]
        file = first.rpartition(", ")[0] + ", "
        more = [place.removeprefix(file) if file != ", " else place for place in self.later.get(reason, ())]
        end = ", ..." if self.counts[reason] > 1 + len(more) else ""
        return f"first: {first}" + (f"; then {', '.join(more)}{end}" if more else "")

    def summary(self, before: str = "", after: str = "") -> str:
        """All of it in one line; nothing where nothing was left out."""
        if not self.counts:
            return ""
        each = (f"{n:,} {reason} ({self._places(reason)})" for reason, n in sorted(self.counts.items()))
        return f"{before}skipped {', '.join(each)}{after}"

    def to_json(self) -> dict[str, list[Any]]:
        """Reason -> [count, the first, the next ones]."""
        return {
            reason: [n, self.first[reason], *self.later.get(reason, ())]
            for reason, n in sorted(self.counts.items())
        }

    @classmethod
    def of(cls, value: Mapping[str, Sequence[Any]]) -> Drops:
        """From `to_json`."""
        return cls(
            Counter({k: int(v[0]) for k, v in value.items()}),
            {k: str(v[1]) for k, v in value.items()},
            {k: list(map(str, v[2:])) for k, v in value.items() if len(v) > 2},
        )
