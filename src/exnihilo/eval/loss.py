"""The loss over a whole split: one sum divided by one count, and no trace left behind.

::

    figures = evaluate(model, objective, splits.val, device="cpu", dtype=torch.float32, micro_rows=16,
                       token_bytes=codec.token_bytes())
    figures["loss"], figures["bpb"], figures["loss@books"], figures["tokens"]

Every token weighs the same, whichever batch, worker or row it stands in. Bits per byte make models with
different tokenizers comparable: Σ nll / ln 2 / Σ bytes, over all predicted tokens (an end of document costs
bits and has no bytes).

Nothing is changed by looking: each module's training mode, all random states and the gradients are as they
were, and an objective that draws (masks) draws the same at every evaluation (`objective.draws`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from exnihilo.data.collate import simplify
from exnihilo.errors import DataError, UsageError
from exnihilo.eval.metrics import Totals
from exnihilo.infer.decoder import Frozen
from exnihilo.objective import draws, preludes
from exnihilo.objective.base import Batch, Objective
from exnihilo.objective.causal_lm import CausalLM, shift

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.data.dataset import Dataset
    from exnihilo.model.model import Model
    from exnihilo.parallel.mesh import World

_BYTES = "@bytes"  # bytes of the predicted tokens, kept beside the terms like a slice of one
_SEED = 0  # of what an objective draws while it is evaluated
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def evaluate(
    model: Model,
    objective: Objective,
    dataset: Dataset,
    *,
    device: torch.device | str,
    dtype: torch.dtype | str = torch.float32,
    micro_rows: int,
    max_tokens: int | None = None,
    token_bytes: np.ndarray | None = None,
    codec: Codec | None = None,
    world: World | None = None,
) -> dict[str, float]:
    """Loss of a model over a dataset.

    Args:
        model, objective: what is evaluated; the objective's sums and counts are all that is used.
        dataset: rows, each read once.
        device: where batches go; the model is there already.
        dtype: type of the matrix products (autocast where it is not float32); a torch dtype or fp32, bf16,
            fp16.
        micro_rows: rows of one forward; changes speed and memory, never the result.
        max_tokens: read about this many at most, in whole rows spread evenly over the dataset, the same at
            every call.
        token_bytes: UTF-8 bytes of each id (`Codec.token_bytes`), for "bpb"; of use to causal_lm only.
        codec: the tokenizer, for objectives that draw masks or negatives.
        world: the workers, where there are several; all must call, all get the same figures.

    Returns:
        "loss" (terms times their weights, nats), "tokens" (predicted tokens), "bpb" ("bits_per_token" where
        the codec's ids stand for no bytes), "loss@SOURCE" where
        the dataset has several sources, and the objective's own metrics under their names.

    Raises:
        DataError: no rows, or none with anything to predict.
    """
    if micro_rows < 1 or (max_tokens is not None and max_tokens < 1):
        raise UsageError(
            f"micro_rows={micro_rows}, max_tokens={max_tokens}",
            expected="micro_rows and max_tokens of 1 or above",
        )
    rank, size = (world.rank, world.size) if world is not None else (0, 1)
    device, dtype = torch.device(device), _dtype(dtype)
    rows = spread(dataset.rows, None if max_tokens is None else math.ceil(max_tokens / dataset.context))
    if not len(rows):
        raise DataError(
            "nothing to evaluate on: the split has no rows", expected="at least one", next="add data"
        )
    by_source = len(dataset.source_names) > 1
    counts_bytes = token_bytes is not None and isinstance(objective, CausalLM)
    bytes_V = torch.as_tensor(token_bytes, dtype=torch.int64, device=device) if counts_bytes else None

    totals = Totals()
    frozen = Frozen(model)
    with ExitStack() as stack:
        stack.enter_context(untouched_randomness(device))
        stack.enter_context(frozen())
        if dtype != torch.float32:
            stack.enter_context(torch.autocast(device.type, dtype=dtype))

        def batches() -> Iterator[tuple[dict[str, Tensor], bool]]:
            for mine, counted in _turns(rows, micro_rows, rank, size):
                columns = simplify(draws.draw(objective, dataset, mine, codec=codec))
                if not by_source:
                    columns.pop("source", None)
                yield {n: torch.as_tensor(c, device=device) for n, c in columns.items()}, counted

        known = _prelude(model, objective, batches(), world, device)
        for plain, counted in batches():
            batch = {**plain, **known}
            sums, counts = objective.sums(model, batch), objective.counts(batch)
            if counted:
                totals.add(_floats(sums), _floats(counts))
                if bytes_V is not None:
                    totals.add({_BYTES: _predicted_bytes(batch, bytes_V)}, {_BYTES: 1})
    if world is not None and world.size > 1:
        # a worker may have met sources that another did not
        totals = Totals().merge(Totals(*told) for told in world.gather([totals.sums, totals.counts]))
    return _figures(objective, dataset, totals, "byte" if codec is None else codec.unit)


def _prelude(
    model: Model,
    objective: Objective,
    batches: Iterator[tuple[dict[str, Tensor], bool]],
    world: World | None,
    device: torch.device,
) -> dict[str, Tensor]:
    """What the objective must know of all that is read, in one pass before the other; see `preludes`."""
    if not objective.preludes:
        return {}
    totals: dict[str, float] = {}
    counts: dict[str, float] = {}
    for batch, counted in batches:
        one, many = preludes.add(model, objective, [batch])
        for key in one if counted else ():
            totals[key], counts[key] = totals.get(key, 0.0) + one[key], counts.get(key, 0.0) + many[key]
    if world is not None:
        totals, counts = world.sum(totals), world.sum(counts)
    return preludes.means(totals, counts, device)


def spread(rows: int, wanted: int | None) -> np.ndarray:
    """Row ids: all, or `wanted` of them at even distances, so that a part stands for the whole and every
    source.

    >>> spread(10, 4).tolist()
    [0, 2, 5, 7]
    """
    if wanted is None or wanted >= rows:
        return np.arange(rows)
    return np.arange(wanted) * rows // wanted


def _turns(rows: np.ndarray, micro_rows: int, rank: int, world: int) -> Iterator[tuple[np.ndarray, bool]]:
    """(row ids, do they count) of each forward of a worker. Every worker has as many turns: with sharded
    weights a forward
    is a joint act, so one that has run out reads its first row again and does not count it."""
    mine = rows[rank::world]
    turns = math.ceil(math.ceil(len(rows) / world) / micro_rows)
    for turn in range(turns):
        part = mine[turn * micro_rows : (turn + 1) * micro_rows]
        yield (part, True) if len(part) else (rows[:1], False)


def _floats(terms: Mapping[str, Tensor]) -> dict[str, float]:
    return {key: float(value) for key, value in terms.items()}


def _predicted_bytes(batch: Batch, bytes_V: Tensor) -> float:
    _, targets_BT = shift(batch)
    kept_BT = targets_BT >= 0
    return float((bytes_V[targets_BT.clamp(min=0)] * kept_BT).sum())


def _figures(objective: Objective, dataset: Dataset, totals: Totals, unit: str) -> dict[str, float]:
    means = totals.means()
    terms = [key for key in totals.sums if "@" not in key]
    main = next((k for k in terms if totals.counts[k]), None)
    if main is None:
        raise DataError(
            f"nothing to predict in {dataset.rows} rows",
            expected="a document of two tokens or more",
            next="add data",
        )
    loss = _weighted(objective, {k: means[k] for k in terms if k in means})
    out = {"loss": loss, "tokens": totals.counts[main]}
    if totals.sums.get(_BYTES):
        bits = "bpb" if unit == "byte" else f"bits_per_{unit}"
        out[bits] = totals.sums["nll"] / math.log(2) / totals.sums[_BYTES]
    for index, name in enumerate(dataset.source_names):
        sliced = {k: means[f"{k}@{index}"] for k in terms if f"{k}@{index}" in means}
        if sliced:
            out[f"loss@{name}"] = _weighted(objective, sliced)
    plain = objective.metrics({k: totals.sums[k] for k in terms}, {k: totals.counts[k] for k in terms})
    own = {k: v for k, v in plain.items() if k not in out and (k not in terms or len(terms) > 1)}
    return {**out, **own}


def _weighted(objective: Objective, means: Mapping[str, float]) -> float:
    return math.fsum(objective.weights.get(key, 1.0) * mean for key, mean in means.items())


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise UsageError(f"dtype={dtype!r}", expected=" or ".join(_DTYPES))
    return _DTYPES[dtype]


@contextmanager
def untouched_randomness(device: torch.device) -> Iterator[None]:
    """A block with its own random states (torch, NumPy, Python), begun at a fixed seed; the outer ones come
    back after."""
    python, numpy_state = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices, device_type="cuda"):
            torch.manual_seed(_SEED)
            random.seed(_SEED)
            np.random.seed(_SEED)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
