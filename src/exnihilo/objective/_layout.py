"""One or two texts -> [CLS] a [SEP] or [CLS] a [SEP] b [SEP], cut to a length.

    ids = encode_texts([("A man sleeps.", "Nobody sleeps.")], codec)
    item = lay_out(ids[0], codec, length=128)      # tokens, segment (two texts only), cut

What is too long loses tokens at its end, the longer text first: token by token from whichever is longer then,
from the second where both are as long. `cut` counts them.

Source: Devlin et al., *BERT*, 2019, `_truncate_seq_pair`
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo.errors import ConfigError
from exnihilo.objective.base import Example, Item

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

SHOWN = 5  # rows named in a message


def missing(value: Any) -> bool:
    """Whether a cell holds nothing: absent, NaN, or white space alone."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def texts_of(example: Example, roles: Sequence[str]) -> tuple[str, ...] | str:
    """The example's texts, or the reason why it has none: "empty ROLE", "no ROLE", "ROLE is no text"."""
    found = []
    for role in roles:
        value = example.get(role)
        if missing(value):
            return f"no {role}" if value is None else f"empty {role}"
        if not isinstance(value, str):
            return f"{role} is no text"
        found.append(value)
    return tuple(found)


def where(example: Example, number: int) -> str:
    """The place of a row for a message: its number in its file, from 1."""
    index = example.get("_index")
    return f"row {(number if index is None else int(index)) + 1}"


def name_rows(rows: Sequence[str]) -> str:
    """The first few of some rows, and how many there are more."""
    more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
    return "; ".join(rows[:SHOWN]) + more


def begins(example: Example) -> bool:
    """Whether this is a whole document or the first part of a giant one: later parts would be cut off."""
    return bool(example.get("_begin", True))


def encode_texts(texts: Sequence[tuple[str, ...]], codec: Codec) -> list[tuple[list[int], ...]]:
    """The ids of many tuples of texts, in one call of the codec."""
    ids = iter(codec.encode_batch([text for group in texts for text in group]))
    return [tuple(next(ids) for _ in group) for group in texts]


def ends(codec: Codec) -> tuple[int, int]:
    """The ids that begin and end a text: [CLS] and [SEP], else bos and eos."""
    cls_id, sep_id = codec.cls_id, codec.sep_id
    return codec.bos_id if cls_id is None else cls_id, codec.eos_id if sep_id is None else sep_id


def ids_dtype(codec: Codec) -> type[np.unsignedinteger]:
    """The smallest type that holds the codec's ids on disk."""
    return np.uint16 if codec.vocab_size <= 1 << 16 else np.uint32


def lay_out(ids: tuple[list[int], ...], codec: Codec, length: int | None) -> Item:
    """[CLS] a [SEP], or [CLS] a [SEP] b [SEP] with the column `segment`: 0 up to the first [SEP], then 1."""
    first, last = ends(codec)
    lengths = [len(x) for x in ids]
    kept = keep(lengths, None if length is None else length - 1 - len(ids))
    tokens = np.empty(1 + sum(kept) + len(ids), ids_dtype(codec))
    tokens[0], at = first, 1
    for part, n in zip(ids, kept, strict=True):
        tokens[at : at + n] = part[:n]
        tokens[at + n] = last
        at += n + 1
    item: Item = {"tokens": tokens}
    if len(ids) == 2:
        segment = np.ones(len(tokens), np.int32)
        segment[: kept[0] + 2] = 0
        item["segment"] = segment
    item["cut"] = sum(lengths) - sum(kept)
    return item


def keep(lengths: Sequence[int], room: int | None) -> list[int]:
    """How many tokens of one or two texts stay when there is room for so many.

    >>> keep([10, 3], 9), keep([6, 6], 9), keep([5], 3)
    ([6, 3], [5, 4], [3])
    """
    if room is None or sum(lengths) <= room:
        return list(lengths)
    if len(lengths) == 1:
        return [room]
    a, b = lengths
    if b <= room // 2:
        return [room - b, b]
    if a <= (room + 1) // 2:
        return [a, room - a]
    return [(room + 1) // 2, room // 2]


def check_length(length: int | None, least: int) -> None:
    """Refuses rows that have no room for a token of each text.

    Raises:
        ConfigError: the row is shorter than `least`.
    """
    if length is not None and length < least:
        raise ConfigError(
            f"model.context={length} leaves no room for text between [CLS] and [SEP]",
            expected=f"{least} or more",
            next="set model.context",
        )
