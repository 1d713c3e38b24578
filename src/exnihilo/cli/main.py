"""Entry point: picks the verb, runs it, turns errors into exit codes.

Exit codes: 0 done, 1 failed (or what was examined is broken), 2 wrong use, 130 interrupted. Results go to
standard output, everything else to standard error; with ``--json`` the last line of standard output is one
JSON object and nothing else is there.
An error is printed once, without a traceback (``EXNIHILO_DEBUG=1`` shows it).
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exnihilo.errors import ExNihiloError, UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except ExNihiloError as error:
        if os.environ.get("EXNIHILO_DEBUG"):
            raise
        complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `exnihilo ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def complain(error: ExNihiloError) -> None:
    """One error, once, red where there is a terminal."""
    head, *rest = str(error).split("\n")
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        head = f"\x1b[31merror: {head}\x1b[0m"
    else:
        head = f"error: {head}"
    print("\n".join([head, *rest]), file=sys.stderr)


def _run(words: list[str]) -> int:
    from exnihilo.cli import help as pages
    from exnihilo.cli.parse import near, parse
    from exnihilo.cli.verbs import VERBS

    if not words or words[0] in ("-h", "--help", "help"):
        named = words[1:2]
        if named and named[0] in VERBS:
            print(pages.verb(VERBS[named[0]]))
        else:
            print(pages.overview(VERBS.values()))
        return 0
    if words[0] in ("-V", "--version", "version"):
        from exnihilo.api import VERSION

        print(f"exnihilo {VERSION}")
        return 0
    name = words[0].replace("_", "-") if words[0].replace("_", "-") in VERBS else words[0]
    if name not in VERBS:
        raise UsageError(f"unknown verb {name!r}", expected=near(name, VERBS), next="exnihilo --help")
    verb = VERBS[name]
    rest = words[1:]
    before = rest[: rest.index("--")] if "--" in rest else rest
    if "-h" in before or "--help" in before:
        print(pages.verb(verb))
        return 0

    from exnihilo import environment

    environment.prepare()
    arguments = parse(verb, rest)
    figures = verb.run(arguments)
    if "json" in arguments.flags and os.environ.get("RANK", "0") == "0":
        sys.stdout.flush()
        print(json.dumps(plain(figures or {}), ensure_ascii=False, allow_nan=False), flush=True)
    if not figures:
        return 0
    return 130 if figures.get("interrupted") else 1 if figures.get("broken") else 0


def plain(value: Any) -> Any:
    """A value as JSON holds it: paths as text, arrays as lists, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    if hasattr(value, "tolist"):  # numpy and torch numbers
        return plain(value.tolist())
    return str(value)
