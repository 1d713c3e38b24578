"""Catches what would ruin the weights before the update: non-finite losses and gradients, and spikes.

A bad step is skipped: the weights stay, the step counts, so the order stays a pure function of the step.
After `max_skips` bad steps in a row the run goes back to its last good checkpoint, and on the way forward
again it leaves out the rows of the bad steps *and of a few steps before them*: replay is deterministic, so
leaving out only the bad ones would lead to the very same weights. Each further rewind goes back further and
leaves out more.

What was skipped never enters the history that it was judged by (a NaN in a running mean would blind the
guard).

Reference: PaLM (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1) restarts 100 steps before a spike and
skips the batches around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from exnihilo.config import GuardConfig
from exnihilo.errors import TrainError
from exnihilo.train.state import GuardState

if TYPE_CHECKING:
    from exnihilo.train.source.base import Rows

LEAST = 32  # good steps before a spike can be told from the fall of a young run
FLOOR = 0.02  # a deviation is at least this share of the mean, so that a flat history is not jumpy
NAMED = 3  # rows of a bad step whose documents are named


@dataclass(frozen=True)
class Verdict:
    """Whether a step is good, and what is wrong with it."""

    ok: bool
    why: str = ""


class Guard:
    """Judges steps by their loss and gradient norm; its memory is the state's.

    Args:
        spikes: whether a high loss is a bad sign. That of policy gradients is not: it lies around 0 where
            nothing is to be learnt, and far from it where a rare success is.
    """

    def __init__(self, config: GuardConfig, *, spikes: bool = True) -> None:
        self.config, self.spikes = config, spikes

    def judge(self, memory: GuardState, loss: float, norm: float) -> Verdict:
        """Call after backward, before the update. Non-finite steps are never let through, guard or not.

        Raises:
            TrainError: the guard is off and the step is not finite.
        """
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = "loss" if not math.isfinite(loss) else "gradient norm"
            why = f"the {what} is {loss if what == 'loss' else norm}"
            if not self.config.enabled:
                raise TrainError(why, expected="a finite number", next="guard.enabled=true skips such steps")
            return Verdict(False, why)
        if self.config.enabled and self.spikes and len(memory.history) >= LEAST:
            mean = fmean(memory.history)
            deviation = max(pstdev(memory.history), FLOOR * abs(mean), 1e-6)
            limit = mean + self.config.sigmas * deviation
            if loss > limit:
                return Verdict(False, f"the loss {loss:.4g} is a spike (mean {mean:.4g}, limit {limit:.4g})")
        return Verdict(True)

    def good(self, memory: GuardState, loss: float) -> None:
        """A step was applied: it becomes history, and the streak of bad ones ends."""
        memory.history.append(loss)
        del memory.history[: -self.config.window]
        memory.streak.clear()

    def bad(self, memory: GuardState, step: int) -> bool:
        """A step was skipped; returns whether it is time to rewind."""
        memory.streak.append(step)
        memory.skipped += 1
        return len(memory.streak) >= self.config.max_skips

    def avoid(self, memory: GuardState) -> list[int]:
        """Steps whose rows the replay leaves out: the streak, and some before it, more at each rewind."""
        before = self.config.max_skips * (memory.rewinds + 1)
        first = max(0, memory.streak[0] - before)
        return sorted({*memory.avoid, *range(first, memory.streak[0]), *memory.streak})

    def may_rewind(self, memory: GuardState) -> bool:
        return memory.rewinds < self.config.max_rewinds


def offenders(
    dataset: Rows, row_losses: Sequence[tuple[int, float]], most: int = NAMED
) -> list[dict[str, Any]]:
    """The documents of the worst rows of a step, worst first (a non-finite loss is worst)."""
    ranked = sorted(row_losses, key=lambda pair: -pair[1] if math.isfinite(pair[1]) else -math.inf)
    out: list[dict[str, Any]] = []
    for row, loss in ranked[:most]:
        documents = [
            {"source": d.source, "file": str(d.file), "index": d.index, "preview": d.preview}
            for d in dataset.refs(int(row))
        ]
        out.append(
            {"row": int(row), "loss": loss if math.isfinite(loss) else str(loss), "documents": documents}
        )
    return out


def describe(found: Sequence[Mapping[str, Any]]) -> str:
    """One line that names the documents of a bad step."""
    names = [
        f"{d['file']}[{d['index']}] ({d['preview'][:40]!r})"
        for row in found[:1]
        for d in row["documents"][:2]
    ]
    return "worst row: " + ", ".join(names) if names else "its rows could not be told apart"
