"""Learning-rate schedules: pure functions of (step, total), so that a resumed run cannot get them wrong.

Warm-up-stable-decay (Hu et al. 2024, MiniCPM, arXiv:2404.06395) is the default: its stable part does not
depend on the run's length, so a run can be extended, or ended by the clock. Cosine: Loshchilov & Hutter
2017, arXiv:1608.03983.
"""

from __future__ import annotations

import math

from exnihilo.config import ScheduleConfig
from exnihilo.errors import ConfigError


def span(share_or_steps: float, total: int | None, name: str) -> int:
    """Steps that `share_or_steps` stands for: a share of the run below 1, else a number of steps."""
    if share_or_steps >= 1 or share_or_steps == 0:
        return round(share_or_steps)
    if total is None:
        if name == "warmup":
            return 50  # the run's length is not known yet (minutes=): a fixed short warm-up
        return 0
    return max(1, round(share_or_steps * total))


def scale(config: ScheduleConfig, step: int, total: int | None) -> float:
    """Learning rate of `step` (0-based) as a share of the peak, in (0, 1].

    Args:
        total: the run's steps; None while a time budget has not fixed them, which `wsd` and `constant` allow.

    Example:
        >>> [scale(ScheduleConfig(warmup=2, cooldown=4), s, 10) for s in (0, 1, 5, 8, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.25]
    """
    warmup = span(config.warmup, total, "warmup")
    if step < warmup:
        return (step + 1) / warmup
    if config.name == "constant":
        return 1.0
    if total is None:
        if config.name == "wsd":
            return 1.0
        raise ConfigError(
            f"schedule {config.name!r} without a number of steps",
            expected="steps= or tokens=",
            next="or use wsd",
        )
    final = config.final
    if config.name == "wsd":
        cooldown = min(span(config.cooldown, total, "cooldown"), max(total - warmup, 0))
        left = total - step
        return 1.0 if left > cooldown or cooldown == 0 else _toward(final, left / cooldown)
    done = (step - warmup) / max(1, total - warmup)
    done = min(max(done, 0.0), 1.0)
    if config.name == "linear":
        return _toward(final, 1 - done)
    return _toward(final, 0.5 * (1 + math.cos(math.pi * done)))


def _toward(final: float, share: float) -> float:
    return final + (1 - final) * min(max(share, 0.0), 1.0)
