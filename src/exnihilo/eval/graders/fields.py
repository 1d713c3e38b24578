"""Where a grader finds the gold of an example: its roles first, then the raw record.

::

    answer({"answer": "7"})                                       # '7'
    value({"record": {"nums": [3, 4]}}, "numbers", "nums")        # [3, 4]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def value(example: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that an example or its record has; None where it has none."""
    record = example.get("record")
    for source in (example, record if isinstance(record, Mapping) else {}):
        for name in names:
            found = source.get(name)
            if found is not None:
                return found
    return None


def answer(example: Mapping[str, Any]) -> str | None:
    """The gold answer as text; None where there is none, or a blank one.

    >>> answer({"answer": 7}), answer({"answer": " "}), answer({"record": {"answer": "x"}})
    ('7', None, 'x')
    """
    found = value(example, "answer", "solution")
    if isinstance(found, (list, tuple)) and len(found) == 1:
        found = found[0]
    if found is None or isinstance(found, (list, tuple, dict)):
        return None
    text = str(found)
    return text if text.strip() else None
