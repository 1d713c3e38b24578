"""The words the room speaks: examples, items, and the limits that keep memory flat.

An *example* is what a source yields: roles to values, ``{"text": "Once upon a time ..."}``, plus where it
came from: ``_file`` (the file's number in its source) and ``_index`` (its number in that file). A document of
more than `SEGMENT` characters comes as several consecutive examples, its *parts*: ``_begin`` is False on all
but the first, ``_end`` is False on all but the last, both are absent from a document that comes whole. An
objective that puts a mark at the beginning and the end of a document obeys them; the room joins the encoded
parts into one item again.

An *item* is an encoded example: 1-D arrays are per-token columns, all as long as ``tokens``; numbers are
per-item columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
