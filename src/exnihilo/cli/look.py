"""The verb `probe`: what a model's outputs read, how far back, and whether the map is to be trusted."""

from __future__ import annotations

from exnihilo.cli.actions import Figures, out
from exnihilo.cli.parse import Arguments


def probe(a: Arguments) -> Figures:
    """`exnihilo probe RUN ["TEXT"]`."""
    from exnihilo import api
    from exnihilo.probe.run import summary

    given = a.given("data", "texts", "length", "draws", "block", "seed", "device", "out")
    figures = api.probe(a.positionals[0], text=a.positional(1), **given)
    for line in summary(figures):
        out(a, line)
    for path in figures["files"]:
        out(a, path)
    return figures
