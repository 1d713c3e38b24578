"""Lets `exnihilo.train` be both a verb (``xn.train("gpt", ...)``) and a room (``exnihilo.train.loop``).

Python binds a submodule on its package when it is first imported, over a function of the same name. The
package's class below makes such a module callable instead: called, it is the verb; looked into, it is the
room.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


class CallableRoom(ModuleType):
    """A module that is also a verb."""

    __verb__: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__verb__(*args, **kwargs)


class Package(ModuleType):
    """The package: rooms that share a verb's name become callable when they are bound."""

    def __setattr__(self, name: str, value: Any) -> None:
        verb = self.__dict__.get("__verbs__", {}).get(name)
        if verb is not None and isinstance(value, ModuleType) and not isinstance(value, CallableRoom):
            value.__class__ = CallableRoom
            value.__dict__["__verb__"] = verb
            value.__dict__["__signature__"] = inspect.signature(verb)
        super().__setattr__(name, value)


def install(package: str, verbs: dict[str, Callable[..., Any]]) -> None:
    """Give a package its verbs; rooms already imported become callable too."""
    module = sys.modules[package]
    module.__dict__["__verbs__"] = verbs
    module.__class__ = Package
    for name, verb in verbs.items():
        room = sys.modules.get(f"{package}.{name}")
        setattr(module, name, room if room is not None else verb)
