"""Validation of a downstream type by its own metrics: each example is predicted as a user's, and scored.

`Examples.measure` gives figures on the way, `Examples.conclude` the last ones: temperature and thresholds are
fitted on the validation split first, once, after the last step. All workers read all examples: with sharded
weights a forward is a joint act.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from exnihilo import data as datas
from exnihilo.config import RunConfig
from exnihilo.eval.examples import evaluate_examples, figures
from exnihilo.eval.loss import spread
from exnihilo.infer.predict import Answer, Predictor
from exnihilo.objective.base import Example, Objective
from exnihilo.train.facts import reading

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

MAJORITY = "majority_"
LEAST = 64  # examples of an evaluation on the way
CHUNK = 512  # examples held as raw outputs at once, before they are kept


class Examples:
    """The validation examples of a run, read once.

    Args:
        config: names the data.
        objective: supervised; its facts are those of the run.
    """

    def __init__(self, config: RunConfig, model: Model, objective: Objective, codec: Codec) -> None:
        self.model, self.objective, self.codec = model, objective, codec
        found = datas.examples(config.data, config.val, "val", **reading(objective))
        self.examples: list[Example] = list(found)

    def measure(self, device: torch.device, dtype: torch.dtype, share: float) -> dict[str, float]:
        """The objective's metrics over a share of the examples, spread evenly, the same at every call."""
        count = len(self.examples)
        wanted = None if share >= 1 else min(count, max(LEAST, math.ceil(share * count)))
        part = [self.examples[i] for i in spread(count, wanted)]
        found, _ = evaluate_examples(self.model, self.objective, self.codec, part, device=device, dtype=dtype)
        return {name: value for name, value in found.items() if not name.startswith(MAJORITY)}

    def conclude(self, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, float]]:
        """(what was calibrated, the metrics of all examples with it); the objective has the new facts."""
        predictor = Predictor(self.model, self.codec, self.objective, dtype=dtype)
        answers: list[Answer] = []
        for at in range(0, len(self.examples), CHUNK):
            answers += predictor.answers(self.examples[at : at + CHUNK])
        good = [i for i, answer in enumerate(answers) if answer.error is None]
        gold = [self.examples[i] for i in good]
        kept = [answers[i] for i in good]
        found = self.objective.calibrate(gold, [a.items for a in kept], [a.outputs for a in kept])
        self.objective.facts.update(found)
        predictions = [predictor.decode(answer, i + 1) for i, answer in zip(good, kept, strict=True)]
        scored = [i for i, prediction in enumerate(predictions) if "error" not in prediction]
        told = figures(self.objective, [predictions[i] for i in scored], [gold[i] for i in scored])
        return found, {**told, "skipped": float(len(self.examples) - len(scored))}


def split_majority(found: dict[str, float]) -> tuple[dict[str, float], dict[str, float]]:
    """(own metrics, the majority baseline's under the same names).

    >>> split_majority({"accuracy": 0.9, "majority_accuracy": 0.5})
    ({'accuracy': 0.9}, {'accuracy': 0.5})
    """
    base = {n.removeprefix(MAJORITY): v for n, v in found.items() if n.startswith(MAJORITY)}
    return {n: v for n, v in found.items() if not n.startswith(MAJORITY)}, base
