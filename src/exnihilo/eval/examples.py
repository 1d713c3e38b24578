"""What a downstream model is worth on labelled examples: predict each as a user's text would be, then score.

::

    metrics, predictions = evaluate_examples(model, objective, codec, examples, device="cpu",
                                             dtype=torch.float32)
    metrics["accuracy"], metrics["majority_accuracy"], metrics["examples"], metrics["skipped"]

The model never sees the gold (`infer.predict.GOLD` is taken away), the decode is that of prediction, and the
metrics come from the raw counts of the whole split: they do not depend on batches or on order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from exnihilo import log
from exnihilo.errors import DataError, UsageError
from exnihilo.eval.loss import _dtype
from exnihilo.infer.predict import TOKENS, Predictor
from exnihilo.objective.base import Example, Objective

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

MAJORITY = "majority_"
"""Prefix of the majority baseline's metrics."""


def evaluate_examples(
    model: Model,
    objective: Objective,
    codec: Codec,
    examples: Iterable[Example],
    *,
    device: torch.device | str,
    dtype: torch.dtype | str = torch.float32,
    batch_tokens: int | None = None,
    max_examples: int | None = None,
    progress: log.Progress | None = None,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics of a supervised objective, and the predictions they come from.

    Args:
        examples: with their gold; those that cannot be predicted are counted as "skipped" and score nothing.
        device: where the model is; it is moved there if it is not.
        dtype: of the matrix products; a torch dtype or fp32, bf16, fp16.
        batch_tokens: tokens of one forward; changes speed and memory, never the result.
        max_examples: read at most this many, from the beginning.

    Returns:
        The objective's metrics, the same of the majority baseline under "majority_...", "examples" (scored)
        and "skipped"; and one prediction an example, an error for those that were skipped.

    Raises:
        UsageError: an objective that has no metrics of its own.
        DataError: not one example could be predicted.
    """
    if not objective.supervised:
        raise UsageError(
            f"{type(objective).__name__} is not a downstream type: it has a loss, and no answers to score",
            expected="a supervised objective",
            next="exnihilo.eval.evaluate gives its loss",
        )
    if max_examples is not None and max_examples < 1:
        raise UsageError(f"max_examples={max_examples}", expected="at least 1, or none")
    device = torch.device(device)
    if next(model.parameters()).device != device:
        model.to(device)
    predictor = Predictor(model, codec, objective, dtype=_dtype(dtype))
    gold: list[Example] = []

    def kept() -> Iterable[Example]:
        for example in islice(examples, max_examples):
            gold.append(example)
            yield example

    predictions = list(predictor.stream(kept(), batch_tokens=batch_tokens or TOKENS, progress=progress))
    good = [i for i, prediction in enumerate(predictions) if "error" not in prediction]
    if not good:
        reason = predictions[0]["error"] if predictions else "there are no examples"
        raise DataError(
            f"nothing to evaluate on: {reason}", expected="at least one example", next="check data=PATH"
        )
    scored, told = [predictions[i] for i in good], [gold[i] for i in good]
    return {**figures(objective, scored, told), "skipped": float(len(predictions) - len(good))}, predictions


def figures(
    objective: Objective, predictions: list[dict[str, Any]], examples: list[Example]
) -> dict[str, float]:
    """The objective's metrics and the majority baseline's, with the number of examples."""
    own = objective.score(predictions, examples)
    base: Mapping[str, float] = objective.majority(examples)
    return {
        **{name: float(value) for name, value in own.items()},
        **{f"{MAJORITY}{name}": float(value) for name, value in base.items()},
        "examples": float(len(examples)),
    }
