"""Help pages, made from the table of verbs: short, without importing torch."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable

from exnihilo.cli.parse import Verb


def _rows(rows: list[tuple[str, str]], indent: int = 2) -> list[str]:
    width = max((len(left) for left, _ in rows), default=0) + 2
    room = max(40, min(shutil.get_terminal_size((100, 20)).columns, 110) - width - indent)
    lines: list[str] = []
    for left, right in rows:
        first, *more = textwrap.wrap(right, room) or [""]
        lines.append(f"{' ' * indent}{left:<{width}}{first}".rstrip())
        lines += [f"{' ' * (indent + width)}{line}" for line in more]
    return lines


def overview(verbs: Iterable[Verb]) -> str:
    """What `exnihilo --help` says."""
    lines = ["exnihilo: a transformer out of nothing, from random weights to a trained, sampled model", ""]
    lines += ["usage: exnihilo VERB [KEY=VALUE ...] [--flag ...]", ""]
    lines += _rows([(verb.name, verb.summary) for verb in verbs])
    lines += ["", "for example:"]
    lines += _rows(
        [
            ("exnihilo quickstart", "the whole chain in eight minutes on two cores"),
            ("exnihilo train gpt data=books/ minutes=10 run=runs/books", "a model of your own files"),
            ('exnihilo sample runs/books "Once"', "let it write"),
        ]
    )
    lines += ["", "exnihilo VERB --help says more. key=value, --key value and --key=value mean the same."]
    lines += [
        "--json: the last line of output is one JSON object. Exit codes: 0 done, 1 failed, 2 wrong use."
    ]
    return "\n".join(lines)


def verb(verb: Verb) -> str:
    """What `exnihilo VERB --help` says."""
    lines = [f"exnihilo {verb.name}: {verb.summary}", "", f"usage: {verb.usage}"]
    if verb.options:
        lines += ["", "options:"]
        lines += _rows(
            [(f"{name}={_value(name, verb)}", option.help) for name, option in verb.options.items()]
        )
    if verb.flags:
        lines += ["", "flags:"]
        lines += _rows([(f"--{name.replace('_', '-')}", text) for name, text in verb.flags.items()])
    if verb.settings:
        from exnihilo import config_keys

        lines += ["", "settings (KEY=VALUE; a value is a TOML literal or bare text, `none` empties):"]
        lines += [
            "  data= and val= take a file, a folder, a glob, - (standard input), world, hub:OWNER/NAME,"
        ]
        lines += ["  or a TOML list of these"]
        chosen = [
            path
            for path in config_keys.leaves()
            if verb.settings is True or path.split(".")[0] in (verb.settings or ())
        ]
        lines += _rows([(path, config_keys.expected(path)) for path in chosen])
    if verb.examples:
        lines += ["", "examples:"]
        lines += [f"  {example}" for example in verb.examples]
    return "\n".join(lines)


def _value(name: str, verb: Verb) -> str:
    option = verb.options[name]
    if option.choices:
        return "|".join(option.choices)
    return {int: "N", float: "X", str: "TEXT"}[option.kind]
