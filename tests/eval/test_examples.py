"""Scores of labelled examples: what prediction gives, whatever the batches; bad rows are counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import DataError, UsageError
from exnihilo.eval.examples import evaluate_examples
from exnihilo.model import Model, build
from exnihilo.nn.layout import Attention
from exnihilo.objective.base import Batch, Example, Item, Objective
from exnihilo.objective.causal_lm import CausalLM
from exnihilo.objective.pieces import firsts


class Sign(Objective):
    """Label of a text: the sign of a state."""

    attention: ClassVar[Attention] = Attention.FULL
    heads: ClassVar[tuple[str, ...]] = ("tokens",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens"})
    roles: ClassVar[tuple[str, ...]] = ("text", "label")
    supervised: ClassVar[bool] = True
    per_item: ClassVar[frozenset[str]] = frozenset({"value"})

    def encode(self, example: Example, codec: Codec) -> Item:
        assert "label" not in example
        return {"tokens": np.asarray([codec.bos_id, *codec.encode(example["text"])], np.int32)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"nll": firsts(batch).sum()}

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"value": hidden_BTD[firsts(batch)].sum(-1)}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        return {"label": "up" if float(outputs[0]["value"]) > 0 else "down"}

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        hits = [p["label"] == e["label"] for p, e in zip(predictions, examples, strict=True)]
        return {"accuracy": sum(hits) / len(hits)}

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        return {
            "accuracy": max(sum(e["label"] == n for e in examples) for n in ("up", "down")) / len(examples)
        }


@pytest.fixture(scope="module")
def codec() -> Codec:
    return codecs.train(CodecConfig(kind="bytes"), ["text"])


@pytest.fixture(scope="module")
def model(codec: Codec) -> Model:
    return build(ModelConfig(depth=1, width=32, heads=2, context=64, vocab_size=codec.vocab_size))


def run(
    model: Model, codec: Codec, examples: Any, **more: Any
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    return evaluate_examples(model, Sign(length=64), codec, examples, device="cpu", **more)


def test_the_score_is_that_of_the_predictions(model: Model, codec: Codec) -> None:
    texts = [f"text {i} " + "x" * (i % 40) for i in range(50)]
    _, said = run(model, codec, [{"text": t, "label": "up"} for t in texts])
    gold = [
        {"text": t, "label": p["label"] if i % 5 else "never"}
        for i, (t, p) in enumerate(zip(texts, said, strict=True))
    ]
    metrics, again = run(model, codec, iter(gold), batch_tokens=64)
    assert again == said and metrics["accuracy"] == 0.8 and metrics["examples"] == 50
    assert metrics["majority_accuracy"] == max(
        sum(e["label"] == name for e in gold) / 50 for name in ("up", "down")
    )
    part, _ = run(model, codec, iter(gold), max_examples=5)
    assert part["examples"] == 5 and part["accuracy"] == 0.8


def test_rows_that_cannot_be_read_are_counted(model: Model, codec: Codec) -> None:
    rows = [{"text": "good", "label": "up"}, {"text": " ", "label": "up"}, {"label": "down"}]
    metrics, said = run(model, codec, rows)
    assert metrics["examples"] == 1 and metrics["skipped"] == 2
    assert ["error" in p for p in said] == [False, True, True]
    with pytest.raises(DataError, match="empty text"):
        run(model, codec, [{"text": "", "label": "up"}])
    with pytest.raises(DataError, match="no examples"):
        run(model, codec, [])


def test_half_precision_is_close(model: Model, codec: Codec) -> None:
    rows = [{"text": "x" * n, "label": "up"} for n in range(1, 9)]
    whole, _ = run(model, codec, rows)
    half, _ = run(model, codec, rows, dtype=torch.bfloat16)
    assert abs(whole["accuracy"] - half["accuracy"]) <= 0.5


def test_wrong_use(model: Model, codec: Codec) -> None:
    with pytest.raises(UsageError, match="not a downstream type"):
        evaluate_examples(model, CausalLM(), codec, [], device="cpu")
    with pytest.raises(UsageError, match="max_examples"):
        run(model, codec, [], max_examples=0)
