"""How long a run lasts, and what its schedule's horizon is: steps, tokens, epochs or minutes, whichever ends
first.

With steps, tokens or epochs the horizon is known. With minutes it is measured, once, and stored, so that the
learning rate stays a pure function of (step, horizon):

- wsd needs none until its cool-down begins, which is when the time that is left is the cool-down's share;
- cosine and linear take an estimate after the first `TIMED` steps;
- constant needs none.

A machine that becomes slower after that would end the run in the middle of its cool-down, and one that
becomes faster would leave part of the time unused. So the pace is looked at again and again: a run that falls
behind gets a nearer horizon, one that gains on the clock a farther one, to which its rate falls straight from
where it is (`State.bend`).

Minutes count training, evaluation and saving, over all resumes; preparing the data does not count.
"""

from __future__ import annotations

import math

from exnihilo.config import RunConfig, ScheduleConfig
from exnihilo.errors import ConfigError
from exnihilo.optim.schedule import scale, span
from exnihilo.train.state import State

TIMED = 10  # steps that are timed before a horizon is estimated
MARGIN = 0.98  # of the minutes is aimed at, so that the cool-down ends before the clock
LOOK = 0.08  # of the minutes pass between two looks at the pace
LATE = 1.03  # times the minutes: a run that would take longer gets a nearer horizon
EARLY = 0.93  # times the minutes: a run that would end before gets a farther one


def steps_of(config: RunConfig, step_tokens: int, epoch_tokens: int | None = None) -> int | None:
    """Steps that a budget of steps, tokens or epochs allows, whichever ends first; None without these.

    >>> steps_of(RunConfig(epochs=2.5), step_tokens=100, epoch_tokens=1000)
    25
    """
    limits = [config.steps] if config.steps is not None else []
    if config.tokens is not None:
        limits.append(math.ceil(config.tokens / step_tokens))
    if config.epochs is not None and epoch_tokens is not None:
        limits.append(max(1, round(config.epochs * epoch_tokens / step_tokens)))
    return min(limits) if limits else None


class Budget:
    """The end of a run and the horizon of its schedule.

    Args:
        config: its steps, tokens, epochs, minutes and schedule.
        step_tokens: positions that one step trains on.
        epoch_tokens: positions of all rows of the training split; needed for epochs.
    """

    def __init__(self, config: RunConfig, step_tokens: int, epoch_tokens: int | None = None) -> None:
        self.steps: int | None = steps_of(config, step_tokens, epoch_tokens)
        self.seconds: float | None = config.minutes * 60 if config.minutes is not None else None
        if self.steps is None and self.seconds is None:
            raise ConfigError(
                "the run has no budget", expected="steps=, tokens=, epochs= or minutes=", next="e.g. epochs=3"
            )
        self.schedule: ScheduleConfig = config.optim.schedule

    def begin(self, state: State, step_seconds: float) -> None:
        """At a run's first step: fix a warm-up that is a share of a length not yet known."""
        if self.seconds is None:
            state.horizon = self.steps
        elif state.warmup is None and 0 < self.schedule.warmup < 1:
            estimate = self.seconds / max(step_seconds, 1e-6)
            if self.steps is not None:
                estimate = min(estimate, self.steps)
            state.warmup = max(1, min(round(self.schedule.warmup * estimate), 2000))

    def resolved(self, state: State) -> ScheduleConfig:
        """The schedule with its warm-up in steps where that was measured."""
        if state.warmup is None:
            return self.schedule
        return self.schedule.model_copy(update={"warmup": float(state.warmup)})

    def scale(self, state: State, step: int) -> float:
        """Share of the peak learning rate at a step: a pure function of (step, horizon)."""
        schedule = self.resolved(state)
        total = state.horizon
        if state.bend is not None and total is not None and step >= state.bend[0]:
            start, at = state.bend
            left = max(0.0, (total - step) / max(1.0, total - start))
            return schedule.final + (at - schedule.final) * left
        if total is None and schedule.name in ("cosine", "linear"):
            # the first few steps of a run by the clock: all within the warm-up or at the peak
            schedule = schedule.model_copy(update={"name": "constant"})
        return scale(schedule, step, total)

    def estimate(self, state: State) -> float:
        """Steps the whole run will have, as far as is known now."""
        if state.horizon is not None:
            return float(state.horizon)
        limit = math.inf if self.steps is None else float(self.steps)
        if self.seconds is None:
            return limit
        return min(limit, state.step + max(0.0, MARGIN * self.seconds - state.seconds) / self.pace(state))

    def pace(self, state: State) -> float:
        """Seconds a step, first steps (compiling, cold caches) left out."""
        timed = state.step - state.startup_steps
        if timed < 1 or not state.startup_steps or state.seconds <= state.startup_seconds:
            return max(state.choices.step_seconds, 1e-6)  # measured before the first step
        return max((state.seconds - state.startup_seconds) / timed, 1e-6)

    def update(self, state: State) -> bool:
        """After a step: fix the horizon where it is time to. Returns whether it did."""
        if self.seconds is None or self.schedule.name == "constant":
            return False
        if state.horizon is not None:
            return self._moved(state)
        whole = max(state.step + 1, round(self.estimate(state)))
        if self.schedule.name == "wsd":
            cooldown = span(self.schedule.cooldown, whole, "cooldown")
            if whole - state.step > cooldown or cooldown == 0:
                return False
        elif state.step < TIMED:
            return False
        state.horizon = whole
        state.mark = [state.step, state.seconds]
        return True

    def _moved(self, state: State) -> bool:
        """Take another horizon where the clock would cut the run or leave it idle; returns whether."""
        assert self.seconds is not None and state.horizon is not None
        if state.mark is None:
            return False
        looked, at = state.mark
        halfway = state.step - looked >= max(3, state.horizon - state.step)  # no end comes unseen
        if state.seconds - at < LOOK * self.seconds and not halfway:
            return False
        pace = (state.seconds - at) / max(1.0, state.step - looked)
        state.mark = [state.step, state.seconds]
        end = state.seconds + (state.horizon - state.step) * pace
        if end < EARLY * self.seconds:  # one quick stretch is no promise: the whole run's pace counts, too
            pace = max(pace, self.pace(state))
            end = state.seconds + (state.horizon - state.step) * pace
        if EARLY * self.seconds <= end <= LATE * self.seconds:
            return False
        horizon = state.step + max(1, int(max(0.0, MARGIN * self.seconds - state.seconds) / pace))
        if self.steps is not None:
            horizon = max(state.step + 1, min(horizon, self.steps))
        if horizon == state.horizon:
            return False
        state.bend, state.horizon = [state.step, self.scale(state, state.step)], horizon
        return True

    def over(self, state: State) -> bool:
        """Whether the run has reached its end."""
        ends = [
            n
            for n in (self.steps, state.horizon if self.schedule.name != "constant" else None)
            if n is not None
        ]
        if ends and state.step >= min(ends):
            return True
        return self.seconds is not None and state.seconds >= self.seconds

    def progress(self, state: State) -> float:
        """Share of the run that is done, in [0, 1]."""
        shares = []
        if self.steps is not None:
            shares.append(state.step / self.steps)
        if self.seconds is not None:
            shares.append(state.seconds / self.seconds)
        if state.horizon is not None:
            shares.append(state.step / state.horizon)
        return min(1.0, max(shares, default=0.0))
