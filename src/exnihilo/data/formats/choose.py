"""Which format a file has: set (`data.format`), by its suffix, or by its content; and its records.

    kind = choose(path, roles=("text", "label"), setting="auto", reading=Reading())     # "labelled"
    for record in read(path, kind, Reading()): ...

Where documents alone are wanted (the role ``text``), every file that is not a table is text, as ever. Only
where more roles are wanted is the content of a file with another suffix (.txt, .train, .dev, .conll, none)
looked at, and a file that is nothing of all this is refused, or left out of a folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from exnihilo.data import tables
from exnihilo.data.base import TEXT, Drops
from exnihilo.data.formats import conll, conllu, delimited, labelled, squad
from exnihilo.data.formats.reading import Reading
from exnihilo.data.text import blocks, plain_suffix, strings

KINDS = ("text", "jsonl", "json", "table", "parquet", "squad", "conll", "conllu", "labelled")
_SUFFIX = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "table", ".tsv": "table",
           ".parquet": "parquet"}  # fmt: skip
_HEAD = 1 << 16  # bytes that are looked at


def choose(
    path: Path, *, roles: Sequence[str], setting: str, reading: Reading, code: bool = False
) -> str | None:
    """One of `KINDS`; None where the content is none that has the roles.

    Args:
        roles: what is wanted.
        setting: `DataConfig.format`.
        code: the file stands in a folder of source code, whose tables are text too.
    """
    by_suffix = _SUFFIX.get(plain_suffix(path))
    if setting not in ("auto", "records"):
        return setting
    if setting == "auto" and set(roles) <= set(TEXT):
        return by_suffix if by_suffix and not code else "text"
    if by_suffix in ("jsonl", "parquet"):
        return by_suffix
    text, lines = _head(path, reading.encoding)
    if text[:1] in ("{", "["):
        if setting == "auto" and squad.looks(text):
            return "squad"
        return by_suffix or "json"
    if setting == "auto" and "words" in roles:
        if conllu.looks(lines):
            return "conllu"
        if conll.looks(lines):
            return "conll"
    if by_suffix:
        return by_suffix
    full = [line for line in lines if line.strip()]
    counts = [line.count("\t") for line in full[:100]]
    if counts and min(counts) > 0 and (setting == "records" or len(set(counts)) <= 3):
        return "table"
    if setting == "records":
        return "table" if full and all("," in line or ";" in line for line in full[:20]) else None
    if "label" in roles and "text" in roles and labelled.looks(lines):
        return "labelled"
    return None


def said(path: Path, kind: str) -> str:
    """What a report says of a file that is read otherwise than its suffix tells; else nothing."""
    if kind == "text" or _SUFFIX.get(plain_suffix(path)) == kind:
        return ""
    return {"table": "a table", "json": "JSON", "labelled": "labelled lines"}.get(kind, kind)


def read(
    path: Path,
    kind: str,
    reading: Reading,
    drops: Drops | None = None,
    only: tuple[str, ...] | None = None,
    lenient: bool = False,
) -> Iterator[Mapping[str, Any]]:
    """The records of a file.

    Args:
        kind: of `KINDS`, but text.
        drops: counts what is left out.
        only: columns that are needed, where the format lets one choose (Parquet).
        lenient: lines of JSON that are broken or no records are left out and counted, not an error.

    Raises:
        DataError: what cannot be read; the message names the file and the record.
    """
    if kind == "parquet":
        return tables.parquet(path, only)
    source = strings(path, reading.encoding)
    if kind == "table":
        return delimited.read(path, source, reading, drops, tabs=plain_suffix(path) == ".tsv")
    if kind == "squad":
        return squad.read(path, source)
    if kind == "conll":
        return conll.read(path, source, reading, drops)
    if kind == "conllu":
        return conllu.read(path, source, drops)
    if kind == "labelled":
        return labelled.read(path, source, drops)
    counted = (Drops() if drops is None else drops) if lenient else None
    return (tables.jsonl if kind == "jsonl" else tables.json_records)(path, source, counted)


def _head(path: Path, encoding: str) -> tuple[str, list[str]]:
    """The beginning of a file: as text without a byte order mark, and its complete lines."""
    held, size = [], 0
    for block in blocks(path, _HEAD):
        held.append(block)
        size += len(block)
        if size >= _HEAD:
            break
    text = b"".join(held).decode(encoding, "replace").lstrip("\ufeff \t\r\n")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    return text, lines[:-1] if size >= _HEAD and len(lines) > 1 else lines
