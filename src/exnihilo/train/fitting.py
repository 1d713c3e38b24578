"""A model as large as its minutes allow, where the user gave minutes and no size.

A recipe's size is for a machine and a time that nobody knows beforehand: on two CPU cores the default of
``gpt`` makes two steps in a minute and a half, and nothing is learnt by two steps. So where fewer than
`FEW` steps fit, the size is lowered until `STEPS` do::

    size: depth 3, steps of 4,096 tokens, because minutes=10 allows about 937 of them here, and 42 of the
    recipe's (depth 6, steps of 16,384 tokens); model.depth=6 keeps that

The smaller model has the recipe's proportions (width and heads by layer), and its batch shrinks with the
square of the depth, as its matrices do; at two layers the batch alone goes on. A size, a batch or weights
that are given stay, and so does a run that is resumed.

How long a step takes is reckoned from its operations and the best matrix products that this machine was ever
seen to make: a timing of a step would give another size each time that something else is running.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set

import torch

from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.model import flops_per_token, resolve
from exnihilo.parallel import matmul_flops, notes
from exnihilo.train.budget import steps_of
from exnihilo.train.precision import DTYPES

FEW = 200  # steps that leave a recipe as it is
STEPS = 400  # of a smaller one: with 1.3e12 operations 2 layers learnt more in 400 steps than in 200 or 100
LEAST = 2  # layers
BATCH = 512  # tokens of a step, or one row
USED = 0.5  # share of the best product's speed that a step's operations have: 0.46 to 0.59 seen
SIZES = ("depth", "width", "heads", "kv_heads", "head_dim", "mlp_width", "preset")
FITTED = "fitted to minutes"  # the origin in config.toml


def wanted(config: RunConfig, said: Set[str]) -> bool:
    """Whether a run's size may follow its time: minutes, and neither a size nor weights are given.

    Args:
        said: keys that the user set (`changes.given`).
    """
    return config.minutes is not None and config.init is None and not said & {f"model.{n}" for n in SIZES}


def fitted(
    config: RunConfig,
    said: Set[str],
    *,
    speed: float,
    row: int | None = None,
    epoch_tokens: int | None = None,
) -> tuple[RunConfig, dict[str, str]]:
    """The configuration with a size that its minutes allow, and the origins of what was changed.

    Args:
        config: its model with nothing left open (`resolve`).
        said: keys that the user set: they stay.
        speed: operations a second, of all workers (`machine`).
        row: positions of a training row; None: the model's context.
        epoch_tokens: positions of all rows, for a budget of epochs beside the minutes.

    >>> tiny = RunConfig(minutes=1.0)
    >>> full = tiny.model_copy(update={"model": resolve(tiny.model, 4096)})
    >>> fitted(full, set(), speed=1e13)[1]  # a fast machine: as it was
    {}
    >>> small, _ = fitted(full, set(), speed=4e11)
    >>> small.model.depth, small.model.width, small.batch.tokens
    (2, 128, 4096)
    """
    if not wanted(config, said):
        return config, {}
    one, count = config, 0
    row = row or config.model.context
    for one in _sizes(config, row, "batch.tokens" in said):
        count, wanted_steps = steps(one, row, speed), FEW if one is config else STEPS
        limit = steps_of(one, _step_tokens(one, row), epoch_tokens)
        if count >= min(wanted_steps, limit or wanted_steps):
            break
    if one is config:
        return config, {}
    sizes = ("depth", "width", "heads", "kv_heads", "mlp_width") if one.model != config.model else ()
    names = [f"model.{name}" for name in sizes]
    names += ["batch.tokens"] if one.batch != config.batch else []
    log.say(
        f"size: {_words(one)}, because minutes={config.minutes:g} allows about {count:,} of them here, and "
        f"{steps(config, row, speed):,} of the recipe's ({_words(config)}); model.depth={config.model.depth} "
        "keeps that"
    )
    return one, dict.fromkeys(names, FITTED)


def steps(config: RunConfig, row: int, speed: float) -> int:
    """About how many steps of rows of `row` positions the minutes allow at `speed` operations a second."""
    assert config.minutes is not None
    operations = flops_per_token(config.model, row) * _step_tokens(config, row)
    return int(config.minutes * 60 * USED * speed / operations)


def _step_tokens(config: RunConfig, row: int) -> int:
    return max(1, config.batch.tokens // row) * row


def _sizes(config: RunConfig, row: int, same_batch: bool) -> Iterator[RunConfig]:
    """The configuration itself, then smaller ones of its proportions, then smaller batches."""
    yield config
    model, tokens, least = config.model, config.batch.tokens, max(row, BATCH)
    assert model.width is not None and model.heads is not None and model.kv_heads is not None
    for depth in range(model.depth - 1, LEAST - 1, -1):
        share = depth / model.depth
        kv_heads = max(1, round(model.kv_heads * share))
        heads = kv_heads * (model.heads // model.kv_heads)
        shape = {"depth": depth, "heads": heads, "kv_heads": kv_heads}
        shape |= {"width": model.width // model.heads * heads, "mlp_width": None, "preset": None}
        batch = tokens if same_batch else 2 ** round(math.log2(tokens * share**2))
        config = config.model_copy(update={"model": resolve(model.model_copy(update=shape))})
        yield (config := _batch(config, max(batch, min(least, tokens))))
    while not same_batch and config.batch.tokens // 2 >= least:
        yield (config := _batch(config, config.batch.tokens // 2))


def _batch(config: RunConfig, tokens: int) -> RunConfig:
    return config.model_copy(update={"batch": config.batch.model_copy(update={"tokens": tokens})})


def _words(config: RunConfig) -> str:
    return f"depth {config.model.depth}, steps of {config.batch.tokens:,} tokens"


def machine(device: torch.device, dtype: str, workers: int = 1) -> float:
    """Operations a second of `workers` such devices: the best matrix product that was ever seen here.

    The best is kept in the cache folder, so that a machine that is busy now has the same figure.
    """
    size = 512 if device.type == "cpu" else None
    found = matmul_flops(device, DTYPES[dtype], seconds=0.1, size=size)
    path = notes.note(device, f"speed-{dtype}")
    found = max(found, *(notes.read(path, "operations") or (0.0,)))
    notes.keep(path, {"operations": found})
    return workers * found
