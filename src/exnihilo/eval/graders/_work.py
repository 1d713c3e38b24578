"""What runs in processes of its own, because its time is not bounded by its input's length: regular
expressions, JSON schemas (whose patterns are regular expressions), symbolic mathematics.

Started by `worker`, by path: it imports nothing of this package, and its packages when it is asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

Grade = Callable[[dict[str, Any], str], "float | None"]


def regex(argument: dict[str, Any]) -> Grade:
    """Whether the pattern is found in the reply; the example's pattern stands beside it."""
    fixed = argument["pattern"]

    def grade(example: dict[str, Any], completion: str) -> float | None:
        pattern = fixed if fixed is not None else example["pattern"]
        if pattern is None:
            return None
        return float(re.search(pattern, completion) is not None)

    return grade


def schema(argument: dict[str, Any]) -> Grade:
    """Whether the reply is one JSON value that satisfies the schema."""
    from jsonschema import exceptions, validators

    fixed = argument["schema"]

    def grade(example: dict[str, Any], completion: str) -> float | None:
        wanted = fixed if fixed is not None else example["schema"]
        if wanted is None:
            return None
        kind = validators.validator_for(wanted, default=validators.Draft202012Validator)
        try:
            kind.check_schema(wanted)
        except exceptions.SchemaError as error:
            raise ValueError(f"not a JSON schema: {error.message}") from error
        try:
            value = json.loads(completion, parse_constant=_refuse, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            return 0.0
        return float(kind(wanted).is_valid(value))

    return grade


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def math(argument: dict[str, Any]) -> Grade:
    """Whether the reply's final expression equals the gold one, by math-verify."""
    import logging

    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # of what it cannot parse it would write a page each
    kinds = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
    digits = int(argument["digits"])

    def read(text: str) -> list[Any]:
        found = parse(text, kinds, fallback_mode="no_fallback", parsing_timeout=None)  # type: ignore[arg-type]
        return [one for one in found if not isinstance(one, str)]  # text that it could not parse

    def grade(example: dict[str, Any], completion: str) -> float | None:
        gold = read(example["answer"]) or read(f"${example['answer']}$")
        if not gold:
            return None  # never a reward: a known checker pays for gold that it cannot read
        found = read(completion)
        if not found:
            return 0.0
        return float(verify(gold, found, float_rounding=digits, timeout_seconds=None))

    return grade
