"""The rows of a file as examples to predict, one for each: in order, none left out.

for example in read_rows(Path("in.jsonl"), ("text",)): ...
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from exnihilo import log
from exnihilo.config import DataConfig
from exnihilo.data.base import MEDIA, Drops
from exnihilo.errors import DataError


def read_rows(
    source: Path | None,
    inputs: Sequence[str],
    *,
    columns: Mapping[str, str] | None = None,
    reading: DataConfig | None = None,
) -> Iterator[Any]:
    """The rows of a file as examples, one for each; a row that cannot be read comes as its DataError.

    Args:
        source: any format of docs/data.md; with another suffix one text a line; None: standard input, JSON
            lines or texts.
        inputs: the roles that are needed.
        columns: role -> column, where the names do not tell.
        reading: format, encoding, columns, header, quotes; the sources it names are not read.
    """
    from exnihilo.data.formats import choose
    from exnihilo.data.formats.reading import Reading, lines_of
    from exnihilo.data.text import strings

    config = reading or DataConfig()
    where = "standard input" if source is None else str(source)
    if source is None:
        lines: Iterator[str] = iter(sys.stdin)
        first = next(lines, "")
        lined = _both([first] if first else [], lines)
        kind = "jsonl" if first.lstrip().startswith(("{", '"')) else "text"
    else:
        if not source.is_file():
            raise DataError(f"{source} does not exist", expected="a file of examples", next="check --file")
        how = Reading.of(config)
        kind = choose.choose(source, roles=inputs, setting=config.format, reading=how) or "text"
        if kind not in ("jsonl", "text"):
            drops = Drops()
            rows = _mapped(iter(choose.read(source, kind, how, drops)), inputs, columns, where)
            yield from _placed(rows, source)
            if drops.counts:
                log.warn(f"{where}: {drops.summary()}")
            return
        lined = lines_of(strings(source, config.encoding))
    if kind == "jsonl":
        yield from _placed(_mapped(_json_lines(lined), inputs, columns, where), source)
    elif len(inputs) > 1 or columns:
        raise DataError(
            f"{where} is plain text: one text a line, but an example has {', '.join(inputs)}",
            expected="a file with columns: .jsonl, .csv, .tsv, .parquet",
            next="write it as JSON lines",
        )
    else:
        for line in lined:
            yield line.rstrip("\r\n")


def _placed(rows: Iterator[Any], source: Path | None) -> Iterator[Any]:
    """Rows whose files are named relative to the folder of their table, as training reads them; a path that
    leads to a file from here stays."""
    for row in rows:
        if source is None or not isinstance(row, Mapping):
            yield row
            continue
        named = {role: row[role] for role in MEDIA if isinstance(row.get(role), str)}
        beside = {role: source.parent / path for role, path in named.items() if not Path(path).is_file()}
        yield {**row, **{role: str(path) for role, path in beside.items() if path.is_file()}}


def _json_lines(lines: Iterable[str]) -> Iterator[Any]:
    """A value a line; a broken one as an error, blank ones not at all."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            yield DataError(f"line {number} is broken JSON ({error})")
            continue
        good = isinstance(value, (dict, str))
        yield value if good else DataError(f"line {number} is a JSON {type(value).__name__}, not a record")


def _mapped(
    records: Iterator[Any], inputs: Sequence[str], columns: Mapping[str, str] | None, where: str
) -> Iterator[Any]:
    """Records with their columns under the roles' names; what is not asked for stays as it is."""
    from exnihilo.data import fields

    head = list(islice(records, fields.SAMPLE))
    sample = [record for record in head if isinstance(record, Mapping)]
    mapping = _roles(sample, inputs, columns or {}, where) if sample else {}
    for record in _both(head, records):
        if isinstance(record, Mapping) and mapping:
            roles = {role: _joined(record, fields.parts(c, record)) for role, c in mapping.items()}
            yield {**record, **roles}
        else:
            yield record


def _joined(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    values = [record.get(name) for name in names]
    return values[0] if len(values) == 1 else " ".join(str(v) for v in values if v is not None)


def _roles(
    sample: Sequence[Mapping[str, Any]], inputs: Sequence[str], columns: Mapping[str, str], where: str
) -> dict[str, str]:
    """Role -> column; empty where the columns have the roles' own names."""
    from exnihilo.data import fields

    known = set().union(*sample)
    wanted = tuple(inputs)
    if wanted == ("words",) and "words" not in known | set(columns):
        try:
            fields.detect(sample, roles=wanted, given=columns, where=where)
        except DataError:
            wanted = ("text",)  # words are found in it
    if not columns and set(wanted) <= known:
        return {}
    found = fields.detect(sample, roles=wanted, given=columns, where=where)
    shown = ", ".join(f"{role} = column {column!r}" for role, column in found.items())
    log.say(f"predict {where}: {shown}")
    return dict(found)


def _both(head: Sequence[Any], rest: Iterator[Any]) -> Iterator[Any]:
    yield from head
    yield from rest
