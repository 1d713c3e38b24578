"""How much each input position bears on each output: four measures, one of them the reference.

::

    rows_NT = ...                                               # token ids of N texts of one length
    found = resampling(Subject.of(model), rows_NT, swap=Others(rows_NT))
    found.nats_QT                                               # mean influence of position t on site q
    found.reach()                                               # how far back 90% of it comes from

*Resampling* is the reference: swap what one position holds for what stands there in another example, and
read by how many nats the distribution at each site has moved (KL). It asks the model itself, so it cannot be
misled by the inside of it; it costs one forward a position and draw. *Gradient norms* are a screen: one
backward pass a site gives all positions, the largest of which are then resampled (`screened`): so 4096
positions are affordable. *Integrated gradients* divide the change of a log-probability over the positions
(`gradients.py`). Attention (`attention.py`) is for comparison only.

Gradient × input and raw attention are not offered as influence: on tasks whose truth is known they point
elsewhere.

Key: N texts, T positions, Q sites, S swapped copies of a forward
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from exnihilo.probe.found import Influence
from exnihilo.probe.gradients import (
    gradient_norms,
    integrated_gradients,
    one_length,
    quiet,
    signed_gradients,
)
from exnihilo.probe.rows import Change, Given, Others, Rows, Swap
from exnihilo.probe.subject import Subject

__all__ = [
    "Given",
    "Influence",
    "Others",
    "ROUNDING",
    "Rows",
    "Swap",
    "gradient_norms",
    "integrated_gradients",
    "quiet",
    "resampling",
    "screened",
    "signed_gradients",
]

TOKENS = 8192  # of one forward: copies × positions
NUMBERS = 1 << 25  # that one forward says at most: copies × sites × outcomes
ROUNDING = 1e-6  # nats that two forwards of one text may differ by


def resampling(
    subject: Subject,
    rows: Given,
    *,
    swap: Swap | None = None,
    sites: Sequence[int] | None = None,
    positions: Sequence[int] | Sequence[Sequence[int]] | None = None,
    draws: int = 4,
    block: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Influence:
    """The reference: KL(p(·|text) ‖ p(·|text with one position swapped)) at each site, in nats.

    Args:
        rows: token ids (N, T) of N texts, or `Rows` of anything that the model reads.
        swap: what a token is swapped for; default: `Others` of these texts. Numbers of a position are
            swapped for those of the same position of another example.
        sites: positions of the outputs; default: all.
        positions: which input positions, for all texts, or a list for each; default: all.
        draws: swaps of each position, over which is averaged.
        block: neighbours that are swapped together, each of which then has the block's nats: what neighbours
            say alike (frames of a sound) shows only so.
        progress: called with (texts done, of all).

    Returns:
        An `Influence`. A position that a site cannot see (after a causal one, beyond window × layers) has
        exactly 0.

    Raises:
        UsageError: no texts, a site beyond them, or chosen sites of texts of several lengths.
    """
    begun = time.perf_counter()
    rows = Rows.of(rows, subject.model.config.inputs)
    T, sites_Q = one_length(subject, rows, sites)
    swap = swap or Others(rows)
    out_NQT = np.full((len(rows), len(sites_Q), T), np.nan)
    count = 0
    with quiet(subject), torch.no_grad():
        for n, length in enumerate(rows.lengths):
            mine_Q = sites_Q if subject.single else tuple(s for s in sites_Q if s < length)
            asked = None if subject.single else mine_Q
            random = np.random.default_rng([seed, n])
            base = subject.says(rows.batch(n, subject.device), asked)
            jobs = [
                {t: rows.other(random, n, t, swap) for t in together}
                for together in _blocks(_positions(positions, n, length), block)
                for _ in range(draws)
            ]
            per = max(1, min(TOKENS // length, NUMBERS // base.numel))
            total_QT, seen_T = np.zeros((len(mine_Q), length)), np.zeros(length)
            for part in _parts(jobs, per):
                moved = subject.says(rows.batch(n, subject.device, part), asked)
                kl_SQ = base.moved(moved).double().cpu().numpy()
                count += len(part)
                for kl_Q, change in zip(kl_SQ, part, strict=True):
                    if all(new is None for new in change.values()):
                        kl_Q = np.zeros_like(kl_Q)  # nothing else could stand there
                    # bits may differ where batches differ; what cannot be seen has no influence: more than
                    # rounding is a leak, and shows
                    hidden_Q = _hidden(subject, rows, n, mine_Q, change) & (kl_Q <= ROUNDING)
                    for t in change:
                        total_QT[:, t] += np.where(hidden_Q, 0.0, kl_Q)
                        seen_T[t] += 1
            measured = seen_T > 0
            whole_QT = out_NQT[n, : len(mine_Q), :length]
            whole_QT[:, measured] = total_QT[:, measured] / seen_T[measured]
            if progress is not None:
                progress(n + 1, len(rows))
    lengths = None if min(rows.lengths) == T else rows.lengths
    seconds = time.perf_counter() - begun
    return Influence(out_NQT, sites_Q, seconds, count + len(rows), subject.causal, lengths)


def _hidden(
    subject: Subject, rows: Rows, n: int, sites: tuple[int, ...], change: dict[int, Change]
) -> np.ndarray:
    """Which sites (Q,) can see none of the positions of a swap."""
    first, last, sites_Q = min(change), max(change), np.array(sites)
    hidden_Q = np.zeros(len(sites_Q), bool)
    if subject.single:
        return hidden_Q
    if subject.causal:
        group = rows.items[n].get("group")  # a block that sees itself both ways
        hidden_Q |= (sites_Q < first) & (True if group is None else group[sites_Q] == 0)
    if (window := subject.window) is not None:
        hidden_Q |= (sites_Q < first - window) | (sites_Q > last + window)
    return hidden_Q


def _parts(jobs: list[dict[int, Change]], per: int) -> Iterator[list[dict[int, Change]]]:
    for start in range(0, len(jobs), per):
        yield jobs[start : start + per]


def _blocks(positions: list[int], block: int) -> Iterator[list[int]]:
    """Neighbours that are swapped together."""
    for start in range(0, len(positions), max(1, block)):
        yield positions[start : start + max(1, block)]


def _positions(given: Sequence[int] | Sequence[Sequence[int]] | None, n: int, T: int) -> list[int]:
    if given is None:
        return list(range(T))
    mine = list(given)
    if mine and not isinstance(mine[0], (int, np.integer)):
        mine = list(mine[n])  # type: ignore[arg-type]
    return sorted({int(t) % T for t in mine})  # type: ignore[arg-type]


def screened(
    subject: Subject,
    rows: Given,
    *,
    site: int = -1,
    candidates: int = 64,
    rest: int = 32,
    also: Sequence[int] = (),
    swap: Swap | None = None,
    draws: int = 2,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Influence:
    """Resampling where it is worth it: the positions whose gradient norms are largest, and a sample of the
    others, so that what the screen would miss shows.

    Args:
        site: the output. candidates: positions with the largest norms that are resampled in each text.
        rest: positions drawn from the others (all of them, where there are fewer).
        also: positions that are resampled in any case: what is asked about.

    Returns:
        An `Influence` of one site; what was not resampled is NaN.
    """
    begun = time.perf_counter()
    rows = Rows.of(rows, subject.model.config.inputs)
    if not subject.single and min(rows.lengths) != max(rows.lengths):
        rows = rows.cut(min(rows.lengths))
    screen = gradient_norms(subject, rows, sites=[site], seed=seed)
    random = np.random.default_rng([seed, 1])
    chosen: list[list[int]] = []
    for n, length in enumerate(rows.lengths):
        order = np.argsort(-screen.nats_NQT[n, 0, :length])
        top, others = order[:candidates], order[candidates:]
        some = random.permutation(others)[:rest]
        chosen.append([*top.tolist(), *some.tolist(), *(t for t in also if -length <= t < length)])
    found = resampling(
        subject, rows, swap=swap, sites=[site], positions=chosen, draws=draws, seed=seed, progress=progress
    )
    seconds, forwards = time.perf_counter() - begun, found.forwards + screen.forwards
    return Influence(found.nats_NQT, found.sites, seconds, forwards, subject.causal, found.lengths)
