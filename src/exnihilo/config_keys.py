"""The key paths of a configuration: which exist, what each accepts, and the nearest one to a misspelt name.

``model.depth`` is a key path; ``model`` a section. Read from the pydantic fields of `RunConfig`, so that a
new option is known here without a second list::

    leaves()["model.depth"]            # FieldInfo
    expected("batch.tokens")           # 'a whole number, at least 1'
    suggest("modle.depth")             # "did you mean 'model.depth'?"
"""

from __future__ import annotations

import difflib
import types
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from exnihilo.config import RunConfig, Section

OPEN = frozenset({"options"})  # sections whose keys another room checks
SOURCES = frozenset({"data", "val"})  # sections that a bare path stands for
# what only the recipe `chat` takes: its stages (sft=PATH, sft.KEY=VALUE), and the prompts of the last one
STAGES = frozenset({"base", "sft", "preference", "rlvr", "prompts"})


def _parts(annotation: Any) -> list[Any]:
    """The alternatives of a type: `float | None` -> [float, NoneType]; Annotated is looked through."""
    if get_origin(annotation) is Annotated:
        return _parts(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for alternative in get_args(annotation) for part in _parts(alternative)]
    return [annotation]


def section_of(annotation: Any) -> type[Section] | None:
    """The section class an annotation holds, through Annotated and Optional; None for a value."""
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, Section):
            return part
    return None


@cache
def _walk(model: type[Section], prefix: str) -> tuple[dict[str, FieldInfo], dict[str, FieldInfo]]:
    values: dict[str, FieldInfo] = {}
    sections: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = section_of(field.annotation)
        if inner is None:
            values[path] = field
        else:
            sections[path] = field
            below, deeper = _walk(inner, f"{path}.")
            values.update(below)
            sections.update(deeper)
    return values, sections


def leaves() -> dict[str, FieldInfo]:
    """Every key path that holds a value, e.g. ``model.depth``."""
    return _walk(RunConfig, "")[0]


def sections() -> dict[str, FieldInfo]:
    """Every key path that holds a group, e.g. ``model`` or ``optim.schedule``."""
    return _walk(RunConfig, "")[1]


def is_open(path: str) -> bool:
    """Whether a path lies in a group whose keys are checked elsewhere (``options.KEY``)."""
    return "." in path and path.split(".", 1)[0] in OPEN


def allows(path: str, kind: type) -> bool:
    """Whether the value at a key path may be of a plain type, e.g. ``allows("run", str)``."""
    field = leaves().get(path) or sections().get(path)
    return field is not None and any(part is kind for part in _parts(field.annotation))


def allows_none(path: str) -> bool:
    """Whether ``none`` is accepted at a key path."""
    return allows(path, type(None)) or is_open(path)


def is_text(path: str) -> bool:
    """Whether the value is text whatever it looks like: ``run=2024`` is a folder's name, not a number."""
    field = leaves().get(path)
    if field is None:
        return False
    kinds = [part for part in _parts(field.annotation) if part is not type(None)]
    return all(part is str or get_origin(part) is Literal for part in kinds)


def expected(path: str) -> str:
    """What a key path accepts, in words: ``'a number, above 0, or none'``."""
    if path in sections():
        bare = "a path, a list of paths, or a table" if path in SOURCES else "a table"
        return f"{bare} with: {', '.join(k for k in leaves() if k.startswith(path + '.'))}"
    field = leaves()[path]
    kinds = [part for part in _parts(field.annotation) if part is not type(None)]
    words = [" or ".join(dict.fromkeys(_kind(part) for part in kinds))]
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    words += [
        f"{word} {getattr(rule, name)}"
        for rule in field.metadata
        for name, word in signs.items()
        if getattr(rule, name, None) is not None
    ]
    if allows(path, type(None)):
        words.append("or none")
    return ", ".join(words)


def _kind(part: Any) -> str:
    origin = get_origin(part)
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(part)))
    if origin is tuple:
        items = get_args(part)
        if Ellipsis in items:
            return "a list"
        return f"a list of {len(items)} numbers"
    if origin is dict or part is dict:
        return "a table"
    named = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return named.get(part, getattr(part, "__name__", str(part)))


def suggest(path: str) -> str:
    """A hint for an unknown key path: the nearest over all known ones, full paths first."""
    known = [*leaves(), *sections()]
    last = path.rsplit(".", 1)[-1]
    ends = [name for name in known if name.rsplit(".", 1)[-1] == last and "." in name and last]
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.75)
    if near and ("." in path or not ends):
        return f"did you mean {near[0]!r}?"
    if ends:
        return "did you mean " + " or ".join(repr(name) for name in ends) + "?"
    tails = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    tail = difflib.get_close_matches(last, tails, n=1, cutoff=0.7)
    if tail:
        return f"did you mean {tails[tail[0]]!r}?"
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return "one of: " + ", ".join(name for name in known if "." not in name)
