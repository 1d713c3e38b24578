"""Which column plays which role: detected from the names and the first records, shown, and settable.

    mapping = detect(records, roles=("text",), given={})        # {"text": "story"}

A column is taken for a role by its name (`NAMES`, in order of preference; the two columns of a pair by
`PAIRS`). Where no name is known: for ``text`` the column of strings that is longest on average; for ``label``
the only other column with few values; for ``a`` and ``b`` the only two columns of sentences.

``data.fields={text="body"}`` sets it for all sources, ``data.sources=[{path="...", fields={text="body"}}]``
for one; ``text="title+body"`` joins columns with a space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exnihilo.data.formats.reading import NAMES, PAIRS
from exnihilo.data.tables import Record
from exnihilo.errors import DataError, nearest

SAMPLE = 100
"""Records that detection looks at."""

INSTEAD: Mapping[frozenset[str], tuple[str, ...]] = {frozenset({"words", "tags"}): ("text", "spans")}
"""Roles that other roles can stand for: words with tags may come as a text with spans."""

_FEW = 20  # values of a column of labels
_LABEL = 40  # characters of one
_WORDS = 3.0  # on average, of a column of sentences


def detect(
    sample: Sequence[Record],
    *,
    roles: Sequence[str],
    given: Mapping[str, str],
    where: str,
    extras: Sequence[str] = (),
) -> dict[str, str]:
    """Role -> column, or several columns joined by ``+``.

    Args:
        sample: the first records.
        roles: the roles that are needed; roles of `given` are added.
        given: what the user has set.
        where: the file, for messages.
        extras: roles that are taken where a column has their name.

    Raises:
        DataError: a column that is set is not there, or none fits; the message lists those that are.
    """
    columns = list(dict.fromkeys(name for record in sample for name in record if name[:1] != "_"))
    wanted = _instead(roles, given, columns)
    found: dict[str, str] = {}
    for role in (*wanted, *(r for r in given if r not in wanted)):
        column = given.get(role)
        if column is not None:
            for name in parts(column, columns):
                if name not in columns:
                    raise missing(where, role, name, columns)
            found[role] = column
    if {"a", "b"} <= set(wanted) and not {"a", "b"} & set(found):
        found.update(_pair(sample, columns, set(found.values())))
    for role in wanted:
        if role not in found:
            taken = set(found.values())
            column = _by_name(role, columns, taken)
            if column is None and role != "label":
                column = _longest(role, sample, [c for c in columns if c not in taken])
            if column is not None:
                found[role] = column
    if "label" in wanted and "label" not in found:
        label = _few(sample, columns, {p for c in found.values() for p in parts(c, columns)})
        if label is not None:
            found["label"] = label
    for role in wanted:
        if role not in found:
            raise missing(where, role, None, columns)
    for role in extras:
        column = given.get(role) or _by_name(role, columns, set(found.values()))
        if role not in found and column is not None:
            found[role] = column
    order = [*wanted, *(r for r in found if r not in wanted)]
    return {role: found[role] for role in order}


def parts(column: str, columns: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """The columns that are joined: ``title+body``, where there is no column of that very name."""
    if column in columns or "+" not in column:
        return [column]
    return [name.strip() for name in column.split("+")]


def missing(where: str, role: str, column: str | None, columns: Sequence[str]) -> DataError:
    """The error for a column that is not there."""
    listed = ", ".join(c for c in columns if c[:1] != "_") or "none"
    if column is None:
        return DataError(
            f"{where}: no column fits the role {role!r}; found: {listed}",
            expected=f"a column for it, best named {role!r}",
            next=f"set data.fields={{ {role} = COLUMN }} (a table without a header: data.columns=NAME,...)",
        )
    hint = f" ({nearest(column, columns)})" if columns else ""
    return DataError(
        f"{where}: no column {column!r} for the role {role!r}; found: {listed}",
        expected=f"one of these columns{hint}",
        next=f"set data.fields={{ {role} = COLUMN }}, or fields in its entry of data.sources",
    )


def _instead(roles: Sequence[str], given: Mapping[str, str], columns: Sequence[str]) -> tuple[str, ...]:
    for group, others in INSTEAD.items():
        if group <= set(roles) and not group & set(given):
            has = all(_by_name(r, columns, set()) for r in group)
            if not has and all(r in given or _by_name(r, columns, set()) for r in others):
                return (*others, *(r for r in roles if r not in group and r not in others))
    return tuple(roles)


def _by_name(role: str, columns: Sequence[str], taken: set[str]) -> str | None:
    by_lower = {name.lower(): name for name in reversed(columns) if name not in taken}
    return next((by_lower[name] for name in NAMES.get(role, (role,)) if name in by_lower), None)


def _pair(sample: Sequence[Record], columns: Sequence[str], taken: set[str]) -> dict[str, str]:
    by_lower = {name.lower(): name for name in reversed(columns) if name not in taken}
    for a, b in PAIRS:
        if a in by_lower and b in by_lower:
            return {"a": by_lower[a], "b": by_lower[b]}
    texts = [c for c in columns if c not in taken and _words(sample, c) >= _WORDS]
    return {"a": texts[0], "b": texts[1]} if len(texts) == 2 else {}


def _strings(sample: Sequence[Record], column: str) -> list[str]:
    """The values of a column, if all are strings."""
    values = [record[column] for record in sample if record.get(column) is not None]
    return values if all(isinstance(v, str) for v in values) else []


def _words(sample: Sequence[Record], column: str) -> float:
    values = _strings(sample, column)
    return sum(len(v.split()) for v in values) / len(values) if values else 0.0


def _longest(role: str, sample: Sequence[Record], columns: Sequence[str]) -> str | None:
    """The column of strings that is longest on average; the first of equals."""
    if role != "text":
        return None
    sizes = {c: sum(map(len, v)) / len(v) for c in columns if (v := _strings(sample, c))}
    best = max(sizes.values(), default=0.0)
    return next((name for name, size in sizes.items() if size == best), None) if best else None


def _few(sample: Sequence[Record], columns: Sequence[str], taken: set[str]) -> str | None:
    """The only column that is not taken, has two values at least, and few and short ones."""
    found = []
    for column in columns:
        values = [record.get(column) for record in sample]
        plain = all(isinstance(v, (str, int, bool)) and len(str(v)) <= _LABEL for v in values)
        if column not in taken and plain and 2 <= len(set(values)) <= min(_FEW, max(2, len(values) // 3)):
            found.append(column)
    return found[0] if len(found) == 1 else None
