"""What is said of a probe: the figures in words, and when its map is not to be trusted.

::

    for line in summary(figures): print(line)
    doubts(figures)                              # reasons, [] where there are none
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from exnihilo.probe.found import Influence
from exnihilo.probe.rows import Rows


def future(found: Influence, rows: Rows | None = None) -> float:
    """The largest influence of a position on a site before it: exactly 0, or the model leaks.

    Args:
        rows: what was measured; of sites in a block that sees itself both ways (a prefix) nothing is asked.
    """
    worst = 0.0
    for n, nats_QT in enumerate(found.nats_NQT):
        group = None if rows is None else rows.items[n].get("group")
        for q, site in enumerate(found.sites):
            both = group is not None and site < len(group) and int(group[site]) > 0
            after = nats_QT[q, site + 1 :] if site >= 0 and not both else np.zeros(0)
            if after.size and not np.isnan(after).all():
                worst = max(worst, float(np.nanmax(after)))
    return worst


def doubts(figures: Mapping[str, Any]) -> list[str]:
    """Why the map is not to be trusted, if it is not."""
    out: list[str] = []
    truth = figures.get("truth")
    if truth and not truth["trusted"]:
        out.append(truth["verdict"])
    if figures.get("future"):
        out.append(f"positions bear on outputs before them ({figures['future']:g} nats): the model leaks")
    if figures.get("beyond"):
        out.append(f"positions beyond window × layers bear on outputs ({figures['beyond']:g} nats)")
    if figures["texts"] > 1 and figures["total"][1] <= figures["untrained_total"][2]:
        out.append("the output reads no more than that of an untrained network: the intervals overlap")
    if figures["texts"] == 1:
        out.append("one example: there is no interval; texts=8 has one")
    return out


def summary(figures: Mapping[str, Any]) -> Sequence[str]:
    """The figures in words."""
    mean, low, high = figures["first_to_last"]
    where = f"the last of {figures['length']}" if not figures.get("whole") else "the output"
    noun = "token" if figures["head"] in ("tokens", "mlm") else "position"
    blank, mixed = figures["untrained"], figures["shuffled"]
    more = "" if low > blank[2] else ": no more than without training"
    lines = [
        f"from the first {noun} to {where}: {mean:.4f} nats [{low:.4f}, {high:.4f}]",
        f"untrained {blank[0]:.4f} [{blank[1]:.4f}, {blank[2]:.4f}], in random order {mixed[0]:.4f}{more}",
    ]
    if figures.get("whole"):
        lines.append(
            f"90% of what the output reads lies in {figures['reach']} of {figures['length']} positions"
        )
    else:
        lines.append(f"90% of what the last output reads lies within {figures['reach']} positions")
    if figures["future"] is not None:
        lines.append(f"from the future: {figures['future']:g} nats")
    if figures.get("beyond") is not None:
        lines.append(f"from beyond window × layers: {figures['beyond']:g} nats")
    truth = figures.get("truth")
    if truth and truth["trusted"]:
        lines.append(truth["verdict"])
    lines += [f"not to be trusted: {why}" for why in figures.get("doubts", ())]
    return lines
