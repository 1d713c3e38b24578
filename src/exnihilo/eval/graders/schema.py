"""``json``: the reply is one JSON value that satisfies a JSON schema.

``json:FILE`` reads the schema from a file, ``json`` from the example (``schema`` or ``json_schema``, of it or
its record, an object or its text). The whole reply is the value, or one fenced block in it is
(```` ```json ````). NaN, Infinity and a key that stands twice are no JSON here.

Schemas are those of https://json-schema.org, by the package jsonschema (extra ``graders``), draft 2020-12
where the schema names none. Its patterns are regular expressions of the schema's author, so it runs in a
process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exnihilo.errors import MissingExtra, UsageError
from exnihilo.eval.graders import fields
from exnihilo.eval.graders.base import NO_GOLD, SECONDS, Checker, Graded
from exnihilo.eval.graders.pattern import WORK
from exnihilo.eval.graders.worker import Served

_FENCE = re.compile(r"```[A-Za-z0-9]*[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)


class Json(Checker):
    """1 where the reply satisfies the schema, else 0; None where there is no schema."""

    name = "json"

    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self._served = Served(WORK, "schema", {"schema": schema})

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        return self.many([example], [completion], seconds=SECONDS)[0].score

    def many(
        self, examples: Sequence[Mapping[str, Any]], completions: Sequence[str], *, seconds: float
    ) -> list[Graded]:
        wanted = [self.schema if self.schema is not None else _schema(example) for example in examples]
        asked = [n for n, schema in enumerate(wanted) if schema is not None]
        found = self._served.many(
            [{"schema": wanted[n]} for n in asked], [body(completions[n]) for n in asked], seconds=seconds
        )
        out = [Graded(None, NO_GOLD)] * len(wanted)
        for n, one in zip(asked, found, strict=True):
            out[n] = one
        return out

    def close(self) -> None:
        self._served.close()


def body(completion: str) -> str:
    """The JSON text of a reply: its only fenced block, else all of it.

    >>> body("```json\\n[1]\\n```")
    '[1]'
    """
    blocks = _FENCE.findall(completion)
    return blocks[0] if len(blocks) == 1 else completion.strip()


def _schema(example: Mapping[str, Any]) -> Any:
    found = fields.value(example, "schema", "json_schema")
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return None
    return found if isinstance(found, (dict, bool)) else None


def make(name: str, argument: str) -> Checker:
    """``json:FILE``, or ``json`` for schemas that stand in the data."""
    if importlib.util.find_spec("jsonschema") is None:
        raise MissingExtra.of("jsonschema", "graders")
    if not argument:
        return Json(None)
    try:
        schema = json.loads(Path(argument).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"grader {name}:{argument}: {error}", expected="a file that holds a JSON schema"
        ) from error
    if not isinstance(schema, (dict, bool)):
        raise UsageError(f"{argument} holds a {type(schema).__name__}", expected="a JSON schema: an object")
    return Json(schema)
