"""Which column plays which role: detected from the names and the first records, shown, and settable.

    mapping = detect(records, roles=("text",), given={})        # {"text": "story"}

A column is taken for a role by its name (`NAMES`, in order of preference). For the role ``text``, where no
name is known, the column of strings that is longest on average is taken.
``data.sources=[{path="...", fields={text="body"}}]`` sets it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exnihilo.data.tables import Record
from exnihilo.errors import DataError, nearest

NAMES: Mapping[str, tuple[str, ...]] = {
    "text": (
        *("text", "content", "body", "story", "document", "doc", "article", "passage", "raw_content"),
        *("page", "markdown", "code", "raw_text", "full_text", "abstract", "sentence", "review", "poem"),
    ),
}
"""Role -> names of columns that are taken for it, the likeliest first; compared without regard to case."""

SAMPLE = 100
"""Records that detection looks at."""


def detect(
    sample: Sequence[Record], *, roles: Sequence[str], given: Mapping[str, str], where: str
) -> dict[str, str]:
    """Role -> column.

    Args:
        sample: the first records.
        roles: the roles that are needed; roles of `given` are added.
        given: what the user has set.
        where: the file, for messages.

    Raises:
        DataError: a column that is set is not there, or none fits; the message lists those that are.
    """
    columns = list(dict.fromkeys(name for record in sample for name in record))
    found: dict[str, str] = {}
    for role in (*roles, *(r for r in given if r not in roles)):
        column = given.get(role) or _by_name(role, columns) or _longest(role, sample, columns)
        if column is None or column not in columns:
            raise missing(where, role, column, columns)
        found[role] = column
    return found


def missing(where: str, role: str, column: str | None, columns: Sequence[str]) -> DataError:
    """The error for a column that is not there."""
    listed = ", ".join(columns) or "none"
    if column is None:
        return DataError(
            f"{where}: no column fits the role {role!r}; found: {listed}",
            expected=f"a column of strings, best named {role!r}",
            next=f"set it: fields = {{ {role} = COLUMN }} in its entry of data.sources",
        )
    hint = f" ({nearest(column, columns)})" if columns else ""
    return DataError(
        f"{where}: no column {column!r} for the role {role!r}; found: {listed}",
        expected=f"one of these columns{hint}",
        next=f"set fields = {{ {role} = COLUMN }} in its entry of data.sources",
    )


def _by_name(role: str, columns: Sequence[str]) -> str | None:
    by_lower = {name.lower(): name for name in reversed(columns)}
    return next((by_lower[name] for name in NAMES.get(role, (role,)) if name in by_lower), None)


def _longest(role: str, sample: Sequence[Record], columns: Sequence[str]) -> str | None:
    """The column of strings that is longest on average; the first of equals."""
    if role != "text":
        return None
    sizes: dict[str, float] = {}
    for name in columns:
        values = [record[name] for record in sample if record.get(name) is not None]
        if values and all(isinstance(v, str) for v in values):
            sizes[name] = sum(map(len, values)) / len(values)
    best = max(sizes.values(), default=0.0)
    return next((name for name, size in sizes.items() if size == best), None) if best else None
