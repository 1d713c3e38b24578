"""Signs that learning from rewards or preferences goes wrong, read from the figures of steps and evaluations.

::

    alarms = Alarms(config.alarms, dtype="fp32")
    for alarm in alarms.step(memory, 17, {"reward": 0.4, "entropy": 0.2, "drift": 3e-7, ...}):
        log.warn(alarm.text)
    for alarm in alarms.evaluated(memory, 20, {"score": 0.6, "independent": 0.3}):
        ...

Figures that are read, each where it is there:

    drift        mean |Δ log p| of sampler and trainer on a fresh batch: one forward, so rounding only
    pass@1, @k   share of right completions; of groups with at least one
    entropy      of the distributions that tokens were drawn from, nats
    length, cut  tokens of a completion; share of completions that the limit cut
    reward, independent    mean reward, and the mean score of a grader that is not trained on
    chosen_logp  of preferences: log-probability of a chosen reply, nats

Drift is judged at once, with no average: it is a fault of the program, not of learning. The others are means
over `patience` steps, compared with those of the first `patience` steps: a policy that only sharpens what the
model could do loses pass@k (Yue et al. 2025, arXiv:2504.13837), entropy falls to nothing (Cui et al. 2025,
arXiv:2505.22617), length grows where it pays (Liu et al. 2025, arXiv:2503.20783), and a reward that is gamed
rises alone (Gao et al. 2023, arXiv:2210.10760). Losses of pairs look at differences alone: where the chosen
replies become unlikely with the rejected ones, what becomes likely is neither (Razin et al. 2024,
arXiv:2410.08847).

The memory is JSON, part of the run's state: a run that was cut is judged as one that was not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from exnihilo.config import AlarmsConfig

DRIFT = {"fp32": 1e-4}
DRIFT_LOW = 0.1  # of number formats with fewer bits
MOSTLY = 0.5  # share of completions that are cut, from which length runs away
SOLVED = 0.9  # pass@1 from which a policy may be sure of itself
LEAST_PASS = 0.05  # a pass@k that never was above this cannot collapse
SUNK = 2.0  # nats of a chosen reply: less than this lost is no collapse, however little there was
ALONE = 0.1  # an independent score that rises by less than this share of the reward's rise does not follow
WATCHED = ("pass@1", "pass@k", "entropy", "length", "cut", "reward", "independent", "chosen_logp")


@dataclass(frozen=True)
class Alarm:
    """One sign: its name, and what was seen."""

    name: str
    text: str


class Alarms:
    """Judges figures; its memory is the run's state.

    Args:
        config: limits.
        dtype: of the products; decides how much drift is rounding.
    """

    def __init__(self, config: AlarmsConfig, *, dtype: str = "fp32") -> None:
        self.config = config
        self.limit = config.drift if config.drift is not None else DRIFT.get(dtype, DRIFT_LOW)

    def step(self, memory: dict[str, Any], step: int, figures: Mapping[str, float]) -> list[Alarm]:
        """The alarms of a step, each when it begins and not again until it is over."""
        if not self.config.enabled:
            return []
        for name in WATCHED:
            if name in figures:
                self._note(memory, name, float(figures[name]))
        found = [*self._drift(figures), *self._series(memory)]
        return self._new(memory, "step", found)

    def evaluated(self, memory: dict[str, Any], step: int, figures: Mapping[str, float]) -> list[Alarm]:
        """The alarms of an evaluation: "score" of the reward on validation prompts and "independent";
        "chosen_logp" of validation pairs."""
        if not self.config.enabled:
            return []
        found: list[Alarm] = []
        if {"score", "independent"} <= figures.keys():
            pair = [float(figures["score"]), float(figures["independent"])]
            first = memory.setdefault("eval_first", pair)
            found += self._gap(first[0], pair[0], first[1], pair[1], "on validation prompts the score")
        if "chosen_logp" in figures:
            now = float(figures["chosen_logp"])
            found += self._sunk(memory.setdefault("eval_chosen", now), now)
        return self._new(memory, "eval", found)

    def _note(self, memory: dict[str, Any], name: str, value: float) -> None:
        """The first `patience` values' mean, and the last `patience` values."""
        first = memory.setdefault("first", {}).setdefault(name, [])
        if len(first) < self.config.patience:
            first.append(value)
        last = memory.setdefault("last", {}).setdefault(name, [])
        last.append(value)
        del last[: -self.config.patience]
        memory.setdefault("seen", {})[name] = memory.get("seen", {}).get(name, 0) + 1

    def _means(self, memory: Mapping[str, Any], name: str) -> tuple[float, float] | None:
        """(then, now); None until the two stretches are apart."""
        if memory.get("seen", {}).get(name, 0) < 2 * self.config.patience:
            return None
        return fmean(memory["first"][name]), fmean(memory["last"][name])

    def _drift(self, figures: Mapping[str, float]) -> list[Alarm]:
        drift = figures.get("drift")
        if drift is None or drift <= self.limit:  # not a number is no alarm: the guard's matter
            return []
        text = (
            f"sampler and trainer disagree: mean |Δ log p| {drift:.2g} (limit {self.limit:.2g}); "
            "they are not the same model any more, and gradients are biased"
        )
        return [Alarm("drift", text)]

    def _series(self, memory: Mapping[str, Any]) -> list[Alarm]:
        config, out = self.config, []
        if (seen := self._means(memory, "pass@k")) is not None:
            then, now = seen
            if then > LEAST_PASS and now < config.pass_k * then:
                out.append(
                    Alarm("pass@k", f"pass@k fell from {then:.3f} to {now:.3f}: it forgets what it could do")
                )
        if (seen := self._means(memory, "entropy")) is not None:
            then, now = seen
            right = self._means(memory, "pass@1")
            solved = right is not None and right[1] >= SOLVED  # then there is nothing left to explore
            if then > 0 and now < config.entropy * then and not solved:
                out.append(
                    Alarm("entropy", f"entropy fell from {then:.3g} to {now:.3g} nats: nothing is explored")
                )
        if (seen := self._means(memory, "length")) is not None:
            then, now = seen
            cut = self._means(memory, "cut")
            if now > config.length * then and (cut is None or cut[1] > MOSTLY):
                share = "" if cut is None else f", {cut[1]:.0%} of them cut by the limit"
                out.append(Alarm("length", f"completions grew from {then:.0f} to {now:.0f} tokens{share}"))
        if (seen := self._means(memory, "chosen_logp")) is not None:
            out += self._sunk(*seen)
        reward, other = self._means(memory, "reward"), self._means(memory, "independent")
        if reward is not None and other is not None:
            out += self._gap(reward[0], reward[1], other[0], other[1], "the reward")
        return out

    def _sunk(self, then: float, now: float) -> list[Alarm]:
        if not now < min(self.config.likelihood * then, then - SUNK):
            return []
        text = (
            f"the chosen replies' log-probability fell from {then:.4g} to {now:.4g} nats a reply, with that "
            "of the rejected ones: what becomes likely is neither (options.sft=1 holds it; a lower rate or "
            "a higher options.beta may)"
        )
        return [Alarm("likelihood", text)]

    def _gap(self, then: float, now: float, other: float, other_now: float, what: str) -> list[Alarm]:
        rise, follows = now - then, other_now - other
        if rise < self.config.gap or follows >= ALONE * rise:
            return []
        text = (
            f"{what} rose from {then:.3f} to {now:.3f}, the independent grader's only from "
            f"{other:.3f} to {other_now:.3f}: the reward is gamed"
        )
        return [Alarm("reward", text)]

    @staticmethod
    def _new(memory: dict[str, Any], kind: str, found: list[Alarm]) -> list[Alarm]:
        """Those that were not there the last time."""
        said: dict[str, list[str]] = memory.setdefault("said", {})
        before = said.get(kind, [])
        said[kind] = sorted(alarm.name for alarm in found)
        return [alarm for alarm in found if alarm.name not in before]
