"""Find an objective by its file's name, or a user's own by its dotted path. No central list is edited to add
one."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import exnihilo.objective as room
from exnihilo.errors import ConfigError, nearest
from exnihilo.objective.base import Objective

_NOT_OBJECTIVES = {"base", "draws", "pieces", "preludes", "registry"}


def names() -> list[str]:
    """Registry entries: the files of this folder, but for shared parts (named with a first ``_``)."""
    found = (m.name for m in pkgutil.iter_modules(room.__path__))
    return sorted(name for name in found if name not in _NOT_OBJECTIVES and not name.startswith("_"))


def find(name: str) -> type[Objective]:
    """The objective class of a file in this folder (`causal_lm`), or of a dotted module
    (`my_package.mine`)."""
    dotted = name if "." in name else f"{room.__name__}.{name}"
    if "." not in name and name not in names():
        raise ConfigError(
            f"unknown objective {name!r}", expected=nearest(name, names()), next="objective=NAME"
        )
    here = os.getcwd()
    if "." in name and here not in sys.path and Path(here, name.partition(".")[0]).is_dir():
        sys.path.append(here)  # a script's own folder stands there, not the one it is called from
    try:
        module = importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"objective {name!r}: {error}",
            expected=f"one of {', '.join(names())}, or an importable dotted path",
            next="check the spelling and PYTHONPATH",
        ) from error
    found = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, Objective) and not inspect.isabstract(c) and c.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(
            f"{dotted} defines {len(found)} objectives",
            expected="exactly one subclass of Objective in the file",
        )
    return found[0]


def create(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    length: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Objective:
    """The objective with its options checked; unknown ones are refused with the nearest name.

    Args:
        length: positions of a row (``model.context``).
        facts: what was learnt before, as ``RUN/objective.json`` holds it.

    >>> create("causal_lm").attention.value
    'causal'
    """
    cls = find(name)
    try:
        return cls(cls.Config(**(options or {})), length=length, facts=facts)
    except ValidationError as error:
        first = error.errors()[0]
        key, kind = ".".join(map(str, first["loc"])), first["type"]
        said = first["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden":
            hint = nearest(key, cls.Config.model_fields)
            given, then = f"unknown option options.{key}={first['input']!r}", "options.KEY=VALUE"
        elif key:
            hint = said.removeprefix("Input should be ")
            given, then = f"options.{key}={first['input']!r}", f"options.{key}=VALUE of that kind"
        else:  # two options that do not go together
            given, hint, then = said, "options that go together", "leave one of them out"
        raise ConfigError(f"objective {name}: {given}", expected=hint, next=then) from error
