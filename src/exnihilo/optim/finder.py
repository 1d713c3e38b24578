"""Learning-rate range finder (Smith 2017, arXiv:1506.01186): raise the rate step by step, watch the loss.

The caller gives a function that takes one training step at a rate and returns the loss; this file knows
nothing of models. The suggestion is the rate where the smoothed loss falls fastest per decade, or a tenth of
where it breaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from exnihilo.errors import UsageError


@dataclass
class Curve:
    """What the sweep saw: `rates`, raw and `smooth` losses in nats, and the `suggestion`."""

    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    smooth: list[float] = field(default_factory=list)
    suggestion: float = 0.0
    diverged_at: float | None = None


def find_lr(
    step: Callable[[float], float],
    *,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 60,
    smoothing: float = 0.8,
) -> Curve:
    """Sweep rates from `low` to `high` on a log scale; stops where the loss is not finite or 1.5× its best.

    Args:
        step: takes one optimiser step at the given rate, returns the loss before it.

    Example:
        >>> x = [10.0]
        >>> def step(lr):
        ...     loss = x[0] ** 2; x[0] -= lr * 2 * x[0]; return loss
        >>> 1e-3 < find_lr(step, high=10.0).suggestion < 1.0
        True
    """
    if not 0 < low < high:
        raise UsageError(f"low={low}, high={high}", expected="0 < low < high")
    if steps < 5:
        raise UsageError(f"steps={steps}", expected="at least 5")
    curve = Curve()
    average = 0.0
    best = math.inf
    for i in range(steps):
        rate = low * (high / low) ** (i / (steps - 1))
        loss = step(rate)
        if not math.isfinite(loss):
            curve.diverged_at = rate
            break
        average = smoothing * average + (1 - smoothing) * loss
        smooth = average / (1 - smoothing ** (i + 1))
        curve.rates.append(rate)
        curve.losses.append(loss)
        curve.smooth.append(smooth)
        best = min(best, smooth)
        if i >= 5 and smooth > 1.5 * best + 1e-12 and smooth > curve.smooth[0] * 0.5:
            curve.diverged_at = rate
            break
    curve.suggestion = _suggest(curve)
    return curve


def _suggest(curve: Curve) -> float:
    if len(curve.rates) < 3:
        return curve.rates[0] / 10 if curve.rates else 0.0
    lowest = min(range(len(curve.smooth)), key=curve.smooth.__getitem__)
    slopes = [
        (curve.smooth[i + 1] - curve.smooth[i - 1]) / math.log(curve.rates[i + 1] / curve.rates[i - 1])
        for i in range(1, max(2, min(lowest + 1, len(curve.rates) - 1)))
    ]
    steepest = curve.rates[1 + min(range(len(slopes)), key=slopes.__getitem__)]
    return min(steepest, curve.diverged_at / 10) if curve.diverged_at else steepest
