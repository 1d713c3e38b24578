"""The learning-rate range finder on a configured run: real data, real model, rising rates; nothing is
kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exnihilo.config import RunConfig

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from exnihilo.optim.finder import Curve


def find(config: RunConfig, *, low: float, high: float, steps: int, out: Path | None = None) -> Curve:
    """Sweep from `low` to `high`; every group's rate keeps its ratio to the first group's.

    Args:
        out: a PNG of the sweep.
    """
    from exnihilo.data.collate import simplify
    from exnihilo.interop.load import load
    from exnihilo.measure import prepare_for, surveyed
    from exnihilo.objective import draws
    from exnihilo.optim import find_lr
    from exnihilo.rehearse import Bench
    from exnihilo.train import tune
    from exnihilo.train.progress import shown

    with shown(True) as display:
        init = load(config.init) if config.init is not None else None
        if init is not None:
            config = config.model_copy(update={"model": init.model.config})
        codec, splits = prepare_for(config, display, init.codec if init is not None else None)
        objective = surveyed(config)
        model = init.model if init is not None else None
        bench = Bench.make(config, codec.vocab_size, model, objective)
        data = splits.train
        order = data.order(config.seed)
        context = data.context  # of a row, which may be longer than the model's
        rows = max(1, config.batch.tokens // context)

        def batch(part: np.ndarray, number: int) -> dict[str, Tensor]:
            drawn = draws.draw(objective, data, part, codec=codec, seed=config.seed, step=number)
            wanted = {n: v for n, v in simplify(drawn).items() if n in objective.columns}
            return bench.tensors(wanted)

        if config.batch.micro_tokens is not None:
            micro = max(1, min(rows, config.batch.micro_tokens // context))
        else:
            micro, _ = tune.micro_rows(
                lambda n: bench.loss(batch(order.rows(0, n), 0)),
                bench.model,
                bench.world,
                rows=rows,
                context=context,
            )
        groups = bench.optimizer.param_groups
        ratios = [group["peak_lr"] / groups[0]["peak_lr"] for group in groups]
        done = 0

        def step(rate: float) -> float:
            nonlocal done
            for group, ratio in zip(groups, ratios, strict=True):
                group["lr"] = rate * ratio
            chosen = order.rows(done, rows)
            parts = [chosen[start : start + micro] for start in range(0, len(chosen), micro)]
            loss = bench.step([batch(part, done) for part in parts])
            done += 1
            display.advance()
            return loss

        display.start("sweep learning rates", total=steps, unit="steps")
        curve = find_lr(step, low=low, high=high, steps=steps)
        display.stop()
    if out is not None:
        from exnihilo.report import plot

        plot.sweep(curve.rates, curve.smooth, curve.suggestion, out)
    return curve
