"""Examples of several roles as text: for the leak check, previews, tokenizers, and against broken Unicode.

readable({"question": "Who?", "context": "Mia ran.", "answers": []})    # "Who?\nMia ran."
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exnihilo.data.base import MEDIA, Example
from exnihilo.data.split import ANSWERS, utf8


def readable(example: Example) -> str:
    """What a model is given, as one text: the inputs in their order, words divided by spaces."""
    out = []
    for role, value in example.items():
        if role[0] == "_" or role in ANSWERS or role in MEDIA:
            continue
        if isinstance(value, str):
            out.append(value)
        elif isinstance(value, (list, tuple)):
            turns = value and isinstance(value[0], Mapping)
            out.append("\n".join(_said(value)) if turns else " ".join(map(str, value)))
    if not out:  # of a file alone: its name
        out = [str(example[role]).replace("\\", "/").rpartition("/")[2] for role in MEDIA if role in example]
    return "\n".join(out)


def _said(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the messages of a conversation say; a system's, which many may share, where there is no other."""
    turns = [m for m in messages if m.get("role") != "system"] or messages
    return [str(m.get("content", "")) for m in turns]


def size_of(example: Example) -> int:
    """About how many characters an example has: what bounds a batch on its way."""
    size = int(example.get("_size", 0))  # of its file
    for value in example.values():
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, (list, tuple)):
            size += sum(map(_size, value))
    return size


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value) + 1
    return 32 + (len(str(value.get("content", ""))) if isinstance(value, Mapping) else 0)


def repaired(example: Example) -> Example:
    """The example itself, or a copy in which half surrogate pairs (from escapes in JSON) became U+FFFD; of
    raw bytes (`data.raw`) itself, whose surrogates stand for bytes."""
    if "_raw" in example:
        return example
    fixed = {k: w for k, v in example.items() if k[0] != "_" and (w := _repair(v)) is not v}
    return {**example, **fixed} if fixed else example


def _repair(value: Any) -> Any:
    if isinstance(value, str):
        if value.isascii():
            return value
        body = utf8(value).decode()
        return value if body == value else body
    if isinstance(value, (list, tuple)):
        fixed = [_repair(v) for v in value]
        return value if all(a is b for a, b in zip(value, fixed, strict=True)) else fixed
    if isinstance(value, dict):
        fixed = {k: _repair(v) for k, v in value.items()}
        return value if all(fixed[k] is value[k] for k in value) else fixed
    return value
