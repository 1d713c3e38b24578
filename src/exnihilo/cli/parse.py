"""Arguments of the command line: one rule for every verb.

``key=value``, ``--key=value`` and ``--key value`` mean the same; dashes in keys may stand for underscores.
Flags (``--json``) take no value. What is neither is positional; after ``--`` everything is. An unknown name
is refused with the nearest one; nothing is ignored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exnihilo.errors import UsageError

_SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*=", re.ASCII)
_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}


@dataclass(frozen=True)
class Option:
    """A named value of a verb."""

    help: str
    kind: type = str  # str, int, float
    many: bool = False  # may be given several times
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verb:
    """One verb: what it takes, what it says, what it does."""

    name: str
    summary: str
    usage: str
    run: Callable[[Arguments], Mapping[str, Any] | None]
    positionals: tuple[str, ...] = ()
    required: int = 0  # how many of the positionals
    endless: bool = False  # the last positional may be repeated
    options: Mapping[str, Option] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    settings: bool | tuple[str, ...] = False  # takes the key paths of a RunConfig: all, or those sections'
    examples: tuple[str, ...] = ()


@dataclass
class Arguments:
    """What was given to a verb."""

    positionals: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    settings: list[str] = field(default_factory=list)  # KEY=VALUE texts

    def positional(self, index: int, default: str | None = None) -> str | None:
        return self.positionals[index] if index < len(self.positionals) else default

    def given(self, *names: str) -> dict[str, Any]:
        """The named options that were given, for a call with keywords."""
        return {name: self.options[name] for name in names if name in self.options}


def near(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt option: the nearest, or all."""
    names = list(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {match[0]!r}?" if match else "one of: " + ", ".join(names)


def convert(name: str, option: Option, text: str) -> Any:
    """Text as an option's value; ``none`` is None."""
    words = {int: "a whole number", float: "a number", str: "text"}[option.kind]
    if option.choices:
        words = "one of " + ", ".join(option.choices)
    if option.least is not None:
        words += f", at least {option.least:g}"
    if option.most is not None:
        words += f", at most {option.most:g}"
    if text.lower() == "none" and option.kind is not str:
        return None
    value: Any
    try:
        value = option.kind(text)
    except ValueError:
        value = None
    bad = (
        value is None
        or (option.choices and value not in option.choices)
        or (isinstance(value, float) and value != value)
        or (option.least is not None and value < option.least)
        or (option.most is not None and value > option.most)
    )
    if bad:
        raise UsageError(f"{name} = {text!r}", expected=words, next=f"give {name}=VALUE of that kind")
    return value


def parse(verb: Verb, argv: Sequence[str]) -> Arguments:
    """The arguments of one verb.

    Raises:
        UsageError: an unknown option (with the nearest), a missing or repeated one, a wrong value.
    """
    out = Arguments()
    words = list(argv)
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "--":
            out.positionals += words[index:]
            break
        if word.startswith("--"):
            key, sign, value = word[2:].partition("=")
            name = key.replace("-", "_")
            if name in verb.flags and not sign:
                out.flags.add(name)
                continue
            if not sign:
                if not _takes_value(verb, name):
                    raise _unknown(verb, f"--{key}", name)
                if index >= len(words):
                    raise UsageError(
                        f"--{key} has no value",
                        expected=f"--{key} VALUE or {name}=VALUE",
                        next=f"exnihilo {verb.name} --help",
                    )
                value = words[index]
                index += 1
            _assign(verb, out, name, value, word)
        elif word.startswith("-") and len(word) > 1 and not re.match(r"-\d", word):
            raise UsageError(
                f"unknown option {word!r}",
                expected=near(
                    "--" + word.lstrip("-"), [f"--{name}" for name in (*verb.flags, *verb.options)]
                ),
                next=f"exnihilo {verb.name} --help; text that begins with a dash goes after --",
            )
        elif _SETTING.match(word):
            key, _, value = word.partition("=")
            _assign(verb, out, key.replace("-", "_"), value, word)
        else:
            out.positionals.append(word)
    _check_positionals(verb, out)
    return out


def _takes_value(verb: Verb, name: str) -> bool:
    if name in verb.options:
        return True
    if not verb.settings:
        return False
    if isinstance(verb.settings, tuple) and name.split(".")[0] not in verb.settings:
        return False
    from exnihilo import config_keys  # pydantic: only where a verb takes settings

    if verb.settings is True and name.split(".")[0] in config_keys.STAGES:
        return True  # of `train chat`; other recipes refuse it
    return name in config_keys.leaves() or name in config_keys.sections() or config_keys.is_open(name)


def _assign(verb: Verb, out: Arguments, name: str, value: str, word: str) -> None:
    if name in verb.flags:
        if value.lower() not in _TRUE | _FALSE:
            raise UsageError(
                f"{name} = {value!r}", expected="true or false", next=f"--{name} alone means true"
            )
        if value.lower() in _TRUE:
            out.flags.add(name)
    elif name in verb.options:
        option = verb.options[name]
        parsed = convert(name, option, value)
        if option.many:
            out.options.setdefault(name, []).append(parsed)
        elif name in out.options and out.options[name] != parsed:
            raise UsageError(
                f"{name} was given twice: {out.options[name]!r} and {parsed!r}",
                expected="one value",
                next=f"keep one {name}=",
            )
        else:
            out.options[name] = parsed
    elif _takes_value(verb, name):
        out.settings.append(f"{name}={value}")
    else:
        raise _unknown(verb, word, name)


def _unknown(verb: Verb, word: str, name: str) -> UsageError:
    known = [*verb.options, *verb.flags]
    hint = near(name, known) if known else "no options"
    if verb.settings and "did you mean" not in hint:
        from exnihilo import config_keys

        found, sections = config_keys.suggest(name), verb.settings
        if sections is True or any(f"'{section}" in found for section in sections):
            hint = found
        else:
            hint = ", ".join([hint, *(f"{section}.KEY" for section in sections)])
    return UsageError(
        f"exnihilo {verb.name}: unknown option {word!r}",
        expected=hint,
        next=f"exnihilo {verb.name} --help; text that contains = goes after --",
    )


def _check_positionals(verb: Verb, out: Arguments) -> None:
    if len(out.positionals) < verb.required:
        given = len(out.positionals)
        missing = verb.positionals[min(given, len(verb.positionals) - 1)]
        raise UsageError(
            f"exnihilo {verb.name}: no {'other ' if given else ''}{missing} given",
            expected=verb.usage,
            next=f"exnihilo {verb.name} --help",
        )
    if len(out.positionals) > len(verb.positionals) and not verb.endless:
        extra = out.positionals[len(verb.positionals)]
        raise UsageError(
            f"exnihilo {verb.name}: unexpected {extra!r}",
            expected=verb.usage,
            next="settings are KEY=VALUE; a text of several words needs quotes",
        )
