"""What a measure of influence gives: values of positions on sites, and what is read off them.

Key: N texts, T positions, Q sites
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exnihilo.errors import UsageError


@dataclass(frozen=True)
class Influence:
    """Influence of positions on sites.

    Attributes:
        nats_NQT: of each text; NaN where it was not measured, or where a text has no such position.
        sites: position of each site (-1: the whole text).
        seconds: what it took. forwards: rows that went through the model.
        causal: whether sites see what comes after them; if not, distances count both ways.
        lengths: positions of each text, where they differ.
    """

    nats_NQT: np.ndarray
    sites: tuple[int, ...]
    seconds: float
    forwards: int
    causal: bool = True
    lengths: tuple[int, ...] | None = None

    @property
    def nats_QT(self) -> np.ndarray:
        """Mean over the texts."""
        return _nanmean(self.nats_NQT, 0)

    def on(self, site: int) -> tuple[np.ndarray, np.ndarray]:
        """(values (N, T), place of the site in each text) of one site: negative ones from each text's end."""
        N, Q, T = self.nats_NQT.shape
        if self.lengths is None or site >= 0 or len(self.sites) < T:
            at = self.sites[site]
            return self.nats_NQT[:, site], np.full(N, at)
        ends = np.array(self.lengths) + site
        return self.nats_NQT[np.arange(N), ends], ends

    def at(
        self, site: int, position: int, *, level: float = 0.95, seed: int = 0
    ) -> tuple[float, float, float]:
        """(mean, low, high) nats of one position on one site: a bootstrap interval over the texts.

        Args:
            site: its number, negative ones from the end.
        """
        values = self.on(site)[0][:, position]
        values = values[~np.isnan(values)]
        if not len(values):
            raise UsageError(
                f"position {position} was not measured on site {site}", expected="a position that was"
            )
        return _interval(values, level, seed)

    def total(self, site: int = -1, *, level: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
        """(mean, low, high) nats of all measured positions together on one site."""
        return _interval(np.nansum(self.on(site)[0], 1), level, seed)

    def by_distance(self) -> np.ndarray:
        """Mean nats at distance 0 .. T-1 behind a site, of encoders to either side; of a site that is the
        whole text at position 0 .. T-1. NaN where nothing was measured."""
        nats_QT = self.nats_QT
        Q, T = nats_QT.shape
        total, count = np.zeros(T), np.zeros(T)
        for q, site in enumerate(self.sites):
            far = np.arange(T) if site < 0 else site - np.arange(T)
            far = far if self.causal else np.abs(far)
            known = (far >= 0) & ~np.isnan(nats_QT[q])
            np.add.at(total, far[known], nats_QT[q, known])
            np.add.at(count, far[known], 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return total / count

    def reach(self, share: float = 0.9, site: int = -1) -> int:
        """The effective receptive field: the nearest positions that hold so much of a site's influence.

        Returns:
            The least d such that positions at most d from the site hold `share` of all nats on it; of a site
            that is the whole text the least number of positions that hold them, the largest first; 0 where
            there are none. Of a decoder nothing after the site counts.
        """
        values_NT, ends_N = self.on(site)
        total = np.zeros(values_NT.shape[1] + 1)
        for values_T, end in zip(values_NT, ends_N, strict=True):
            held_T = np.nan_to_num(values_T)
            if end < 0:
                total[1:] += np.sort(held_T)[::-1]
                continue
            far_T = end - np.arange(len(held_T))
            far_T = far_T if self.causal else np.abs(far_T)
            np.add.at(total, far_T[far_T >= 0], held_T[far_T >= 0])
        summed = total.cumsum()
        if summed[-1] <= 0:
            return 0
        return int(np.searchsorted(summed, share * summed[-1]))


def _interval(values: np.ndarray, level: float, seed: int) -> tuple[float, float, float]:
    """The mean with a bootstrap interval."""
    draws = np.random.default_rng(seed).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(values[draws].mean(1), [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    count = (~np.isnan(values)).sum(axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, np.nansum(values, axis) / count, np.nan)
