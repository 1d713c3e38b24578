"""What the project says while it works: one line a fact, on standard error.

`say` and `warn` are for everything that a user should know and that is no result (which dtype was measured
to be fastest, where a cache lies). `Progress` is what long work reports to; `Quiet` is one that shows
nothing::

    from exnihilo import log
    log.say("compile: off (would cost 40 s, save 12 s)")

Under torchrun only worker 0 speaks. Messages also go to listeners (`listen`), so that a progress bar can
print them above itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """What long work reports to."""

    def start(self, what: str, total: float | None = None, unit: str = "") -> None:
        """Begin a stage, e.g. ``start("encode", total=12_000, unit="documents")``; ends the one before it."""
        ...

    def advance(self, amount: float = 1) -> None:
        """`amount` more units of the stage are done."""
        ...

    def stop(self) -> None:
        """The stage is over."""
        ...

    def say(self, text: str) -> None:
        """A line that stays."""
        ...


class Quiet:
    """A `Progress` that shows nothing."""

    def start(self, what: str, total: float | None = None, unit: str = "") -> None: ...

    def advance(self, amount: float = 1) -> None: ...

    def stop(self) -> None: ...

    def say(self, text: str) -> None: ...


_listeners: list[Callable[[str], None]] = []


def rank() -> int:
    """This worker's number under torchrun, else 0."""
    return int(os.environ.get("RANK", "0"))


def say(text: str) -> None:
    """Tell the user a fact, once, from worker 0."""
    if rank() != 0:
        return
    if _listeners:
        _listeners[-1](text)
    else:
        print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Tell the user of something that may not be what they want."""
    say(f"warning: {text}")


@contextmanager
def listen(listener: Callable[[str], None]) -> Iterator[None]:
    """Send what is said to `listener` instead of standard error, within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def safe(text: str) -> str:
    """Text that cannot steer a terminal: control characters, which a model may write, become U+FFFD.

    >>> safe("a\\x1b[31mb\\n\\tc")
    'a\ufffd[31mb\\n\\tc'
    """
    return "".join(c if c in "\n\t" or not _controls(c) else "\ufffd" for c in text)


def _controls(character: str) -> bool:
    code = ord(character)
    return code < 0x20 or 0x7F <= code < 0xA0
