"""Errors that tell the user three things: what was given, what was expected, and what to do next.

Used by every room::

    raise DataError(f"{path} is empty (0 bytes)", expected="a file with text in it", next="check data=PATH")

Exit codes of the command line: 0 done, 1 failed (`ExNihiloError`), 2 wrong use (`UsageError`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ExNihiloError(Exception):
    """An error the user can act on.

    Args:
        given: what was found, with the value, path or number.
        expected: what would have been accepted.
        next: the next action.
    """

    exit_code = 1

    def __init__(self, given: str, *, expected: str = "", next: str = "") -> None:
        self.given, self.expected, self.next = given, expected, next
        lines = [given]
        if expected:
            lines.append(f"expected: {expected}")
        if next:
            lines.append(f"next: {next}")
        super().__init__("\n  ".join(lines))

    def __reduce__(self) -> tuple[object, ...]:  # errors cross process borders in data preparation
        return _rebuild, (type(self), self.given, self.expected, self.next)


def _rebuild(cls: type[ExNihiloError], given: str, expected: str, next: str) -> ExNihiloError:
    return cls(given, expected=expected, next=next)


class UsageError(ExNihiloError):
    """Wrong use: an unknown verb, option or value."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration that cannot be obeyed."""


class DataError(ExNihiloError):
    """Raw data that cannot be read or is of no use."""


class CodecError(ExNihiloError):
    """A tokenizer that is missing, broken or does not match."""


class ModelError(ExNihiloError):
    """A model that cannot be built, read or written."""


class CheckpointError(ExNihiloError):
    """A checkpoint that is missing, cut short, altered or belongs to another run."""


class TrainError(ExNihiloError):
    """Training that cannot go on."""


class MissingExtra(UsageError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtra:
        return cls(
            f"this needs the package {package!r}, which is not installed",
            expected=f"the extra {extra!r}",
            next=f"pip install 'exnihilo[{extra}]'",
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint `did you mean 'x'?` for the known name nearest to `name`, else the list of them."""
    names = sorted(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {match[0]!r}?" if match else "one of: " + ", ".join(names)
