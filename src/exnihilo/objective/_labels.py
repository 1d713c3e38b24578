"""Labels as they stand in raw data -> class names, sets of names, or numbers; and what a split says of them.

What a label column holds is *declared* (`kind`), never guessed from its type; a value that does not fit is
refused with its row. Names are text: 1, 1.0, "1" and "1.0" are the class "1", true is "true". Their order is
fixed and does not depend on the order of the rows: by value where all are numbers, else by code points;
``options.labels`` declares another.

    survey(examples, "multiclass", roles=("text",))["labels"]      # ["0", "1", "2"]
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from exnihilo import log
from exnihilo.errors import DataError
from exnihilo.objective._layout import begins, missing, name_rows, texts_of, where
from exnihilo.objective.base import Example

Kind = Literal["binary", "multiclass", "multilabel", "regression"]
_WHOLE = re.compile(r"[+-]?\d+\.0*")
_MANY = 8  # labels named in a message


class Unfit(ValueError):
    """A label that does not fit the declared kind."""


def name_of(value: Any) -> str:
    """The name of a class.

    Raises:
        Unfit: the value is a list or an object.

    >>> name_of(1), name_of(1.0), name_of("1.0"), name_of(True), name_of(" x ")
    ('1', '1', '1', 'true', 'x')
    """
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(float(value))
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, str):
        text = value.strip()
        return str(int(text.split(".")[0])) if _WHOLE.fullmatch(text) else text
    raise Unfit(f"{value!r:.60} is no single label (for lists declare options.kind=multilabel)")


def number_of(value: Any) -> float:
    """A finite number, from a number or its text.

    Raises:
        Unfit: it is none.
    """
    try:
        if isinstance(value, (bool, np.bool_)):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise Unfit(f"{value!r:.60} is no number, which kind=regression needs") from None
    if not math.isfinite(number):
        raise Unfit(f"{value!r:.60} is not finite")
    return number


def set_of(value: Any, separator: str) -> tuple[str, ...]:
    """Names of a set of labels: a list, or one text that is split; empty where there are none."""
    if isinstance(value, str):
        parts: Iterable[Any] = value.split(separator)
    elif isinstance(value, (list, tuple, set, frozenset, np.ndarray)):
        parts = value
    else:
        parts = [value]
    return tuple(sorted({name_of(part) for part in parts if not missing(part)}))


def parse(value: Any, kind: Kind, separator: str = "|") -> str | float | tuple[str, ...] | None:
    """One cell of a label column; None where it is empty (for multilabel only None and NaN are: an empty
    text or list is the empty set).

    Raises:
        Unfit: it does not fit the kind.
    """
    if kind == "multilabel":
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        return set_of(value, separator)
    if missing(value):
        return None
    return number_of(value) if kind == "regression" else name_of(value)


def order(names: Iterable[str]) -> list[str]:
    """By value where all names are numbers, else by code points.

    >>> order(["10", "9"]), order(["b", "10", "9"])
    (['9', '10'], ['10', '9', 'b'])
    """
    found = sorted(set(names))
    try:
        return sorted(found, key=float)
    except ValueError:
        return found


def survey(
    examples: Iterable[Example],
    kind: Kind,
    *,
    roles: Sequence[str],
    separator: str = "|",
    declared: Sequence[str] = (),
) -> dict[str, Any]:
    """Facts of a training split: `labels` in their order, `counts`, `examples` of use, `skipped` by reason;
    for regression `mean`, `std`, `low`, `high`.

    Raises:
        DataError: labels that do not fit (rows named), only one class, nothing of use.
    """
    counts: Counter[Any] = Counter()
    skipped: Counter[str] = Counter()
    wrong: list[str] = []
    values: list[float] = []
    sets: Counter[int] = Counter()  # how many labels an example has
    for number, example in enumerate(examples):
        if not begins(example):
            continue
        found = texts_of(example, roles)
        if isinstance(found, str):
            skipped[found] += 1
            continue
        try:
            label = parse(example.get("label"), kind, separator)
            if kind in ("binary", "multiclass") and label is not None:
                _no_fraction(str(label), declared)
        except Unfit as error:
            wrong.append(f"{where(example, number)}: {error}")
            continue
        if label is None:
            skipped["no label"] += 1
        elif isinstance(label, float):
            values.append(label)
        else:
            names = label if isinstance(label, tuple) else (label,)
            unknown = [n for n in names if declared and n not in declared]
            if unknown:
                wrong.append(f"{where(example, number)}: {unknown[0]!r} is not in options.labels")
                continue
            counts.update(names)
            sets[len(names)] += 1
    if wrong:
        raise DataError(
            f"{len(wrong):,} labels do not fit options.kind={kind}. {name_rows(wrong)}",
            expected=_EXPECTED[kind].format(separator=separator),
            next='declare another options.kind, or name the column with data.fields={label = "COLUMN"}',
        )
    facts: dict[str, Any] = {"kind": kind}
    if kind == "regression":
        facts |= _numbers(values, skipped)
    else:
        facts |= _names(counts, sets, skipped, kind, declared)
    facts["skipped"] = dict(skipped)
    if skipped:
        log.warn(f"{skipped.total():,} training rows are skipped: {_listed(skipped)}")
    return facts


_EXPECTED = {
    "binary": "one of two class names",
    "multiclass": "a class name (a number with a fraction is one only if options.labels declares it)",
    "multilabel": "a list of names, or names separated by {separator!r} (options.separator)",
    "regression": "a number",
}


def _no_fraction(name: str, declared: Sequence[str]) -> None:
    try:
        fraction = not float(name).is_integer() and name not in declared
    except (ValueError, OverflowError):
        return
    if fraction:
        raise Unfit(f"{name} is a number with a fraction: declare options.kind=regression")


def _listed(counts: Mapping[Any, int]) -> str:
    named = [f"{key}: {n:,}" for key, n in Counter(counts).most_common(_MANY)]
    more = len(counts) - _MANY
    return ", ".join(named) + (f" and {more:,} more" if more > 0 else "")


def _nothing(skipped: Counter[str]) -> DataError:
    return DataError(
        "no training row has a text and a label" + (f" (skipped: {_listed(skipped)})" if skipped else ""),
        expected="at least two rows with different labels",
        next='name the columns with data.fields={text = "COLUMN", label = "COLUMN"}',
    )


def _numbers(values: list[float], skipped: Counter[str]) -> dict[str, Any]:
    if not values:
        raise _nothing(skipped)
    array = np.array(values, np.float64)
    if array.min() == array.max():
        raise DataError(
            f"every label of {len(array):,} is {array[0]:g}: there is nothing to learn",
            expected="at least two different numbers",
            next="give more data, or check the label column",
        )
    return {
        "mean": float(array.mean()),
        "std": float(array.std()),
        "low": float(array.min()),
        "high": float(array.max()),
        "examples": len(array),
    }


def _names(
    counts: Counter[str], sets: Counter[int], skipped: Counter[str], kind: Kind, declared: Sequence[str]
) -> dict[str, Any]:
    total = sets.total()
    if not total or not counts:
        raise _nothing(skipped)
    labels = list(declared) or order(counts)
    constant = len(counts) == 1 if kind != "multilabel" else all(n == total for n in counts.values())
    if constant:
        raise DataError(
            f"all {total:,} training rows have the same label: {', '.join(map(repr, order(counts)))}",
            expected="at least two different labels",
            next="give more data, or check the label column",
        )
    if kind == "binary" and len(labels) != 2:
        raise DataError(
            f"{len(labels)} classes where options.kind=binary says two: {_listed(counts)}",
            expected="exactly two",
            next="options.kind=multiclass, or correct the labels",
        )
    log.say(f"labels of {total:,} training rows ({kind}): {_listed(counts)}")
    return {"labels": labels, "counts": {name: counts[name] for name in labels}, "examples": total}
