"""The verb `world`: examples of the embedded world as files, to look at, to listen to, to train on."""

from __future__ import annotations

from exnihilo.cli.actions import Figures, out
from exnihilo.cli.parse import Arguments


def world(a: Arguments) -> Figures:
    """`exnihilo world [VIEW] --out DIR`."""
    from exnihilo import api
    from exnihilo.errors import UsageError

    if "out" not in a.options:
        raise UsageError("no out given", expected="out=DIR or --out DIR", next="add --out DIR")
    given = a.given("count", "start", "kind", "size", "rate")
    view = a.positional(0) or "scenes"
    figures = api.world(view, out=a.options["out"], force="force" in a.flags, **given)
    made = ", ".join(f"{figures[name]:,} {name}" for name in ("rows", "pictures", "sounds") if figures[name])
    out(a, f"{figures['table']}: {made}")
    return figures
