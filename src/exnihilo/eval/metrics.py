"""Accumulators that hold sums and counts, never means: they merge in any order and grouping to the same
figure.

::

    a, b = Mean(), Mean()
    a.add(3.0, 2); b.add(5.0, 2)
    a.merge(b).value            # 2.0 = (3 + 5) / (2 + 2)

A mean of batch means depends on the batch size and on the number of workers; a sum over a count does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from exnihilo.infer.interval import bootstrap, wilson

__all__ = ["Mean", "Totals", "bootstrap", "wilson"]


@dataclass
class Mean:
    """A sum and a count.

    >>> Mean(6.0, 4).value
    1.5
    """

    total: float = 0.0
    count: float = 0.0

    def add(self, total: float, count: float = 1) -> None:
        self.total += total
        self.count += count

    def merge(self, other: Mean) -> Mean:
        """A new accumulator of both."""
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        """total / count; NaN where nothing was counted."""
        return self.total / self.count if self.count else math.nan


@dataclass
class Totals:
    """Named sums with their counts, e.g. the terms of an objective over many batches.

    >>> totals = Totals()
    >>> totals.add({"nll": 6.0}, {"nll": 3})
    >>> totals.add({"nll": 2.0}, {"nll": 1})
    >>> totals.means()
    {'nll': 2.0}
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, sums: Mapping[str, float], counts: Mapping[str, float]) -> None:
        """Add a batch's numerators and denominators; the keys must agree."""
        if sums.keys() != counts.keys():
            raise ValueError(f"sums of {sorted(sums)} with counts of {sorted(counts)}")
        for key, value in sums.items():
            self.sums[key] = self.sums.get(key, 0.0) + float(value)
            self.counts[key] = self.counts.get(key, 0.0) + float(counts[key])

    def merge(self, others: Iterable[Totals]) -> Totals:
        """New totals of this and the others, e.g. of all workers."""
        out = Totals(dict(self.sums), dict(self.counts))
        for other in others:
            out.add(other.sums, other.counts)
        return out

    def means(self) -> dict[str, float]:
        """sum / count of each key that counted anything."""
        return {key: self.sums[key] / n for key, n in self.counts.items() if n}
