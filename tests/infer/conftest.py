"""Small models whose next tokens are far from equally likely, so that greedy choices have clear gaps; small
objectives that need no head of their own: predictions are read from the hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import DataError
from exnihilo.model import Model, build
from exnihilo.nn.layout import Attention
from exnihilo.objective.base import Batch, Example, Item, Objective
from exnihilo.objective.pieces import IGNORE, at_first, firsts

FAMILIES = ("qwen3", "llama", "gpt2")


Maker = Callable[..., Model]


def _small(family: str, vocab: int = 97, context: int = 48, seed: int = 0) -> Model:
    kv_heads = 4 if family == "gpt2" else 2
    config = ModelConfig(
        family=family,
        depth=2,
        width=32,
        heads=4,
        mlp_width=48,
        vocab_size=vocab,
        context=context,
        kv_heads=kv_heads,
    )
    model = build(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.fixture(scope="session")
def bytes_codec() -> Codec:
    return codecs.train(CodecConfig(kind="bytes"), ["text"])


@pytest.fixture(scope="session")
def make_model() -> Maker:
    """make_model(family, vocab=97, context=48, seed=0)"""
    return _small


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Model:
    return _small(request.param)


class Windows(Objective):
    """A long text as several items; a vector a token and one a piece."""

    attention: ClassVar[Attention] = Attention.FULL
    heads: ClassVar[tuple[str, ...]] = ("tokens",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "label", "cut"})
    roles: ClassVar[tuple[str, ...]] = ("text", "label")
    supervised: ClassVar[bool] = True
    per_item: ClassVar[frozenset[str]] = frozenset({"first"})
    main_metric: ClassVar[str] = "accuracy"

    def encode(self, example: Example, codec: Codec) -> list[Item]:
        text = example["text"]
        if "cannot" in text:
            raise DataError(f"this text cannot be read: {text[:20]!r}", expected="another")
        ids = codec.encode(text)
        step = (self.length or 48) - 2
        items: list[Item] = []
        for at in range(0, max(1, len(ids)), step):
            tokens = np.asarray([codec.bos_id, *ids[at : at + step], codec.eos_id], np.int32)
            label = {"even": 0, "odd": 1}.get(example.get("label", ""), IGNORE)
            items.append({"tokens": tokens, "label": at_first(label, len(tokens)), "cut": at})
        return items

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"nll": firsts(batch).sum().double()}

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"nll": hidden_BTD[firsts(batch)].square().sum()}

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        assert "label" not in batch or bool((batch["label"] <= 0).all()), "the gold is not to be seen"
        return {"every": hidden_BTD[..., :4], "first": hidden_BTD[firsts(batch)], "id": batch["tokens"]}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        for item, output in zip(items, outputs, strict=True):
            assert output["every"].shape == (len(np.asarray(item["tokens"])), 4)
            np.testing.assert_array_equal(output["id"], item["tokens"])
        vector = np.concatenate([o["first"] for o in outputs])
        tokens = np.concatenate([o["every"].sum(1) for o in outputs])
        label = "even" if float(vector.sum()) > 0 else "odd"
        return {"label": label, "vector": vector.tolist(), "tokens": tokens.tolist(), "windows": len(items)}

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        hits = [p["label"] == e["label"] for p, e in zip(predictions, examples, strict=True)]
        return {"accuracy": sum(hits) / len(hits)}

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        return {"accuracy": sum(e["label"] == "even" for e in examples) / len(examples)}


class Pairs(Windows):
    """Two texts with segments."""

    roles: ClassVar[tuple[str, ...]] = ("a", "b", "label")

    def encode(self, example: Example, codec: Codec) -> list[Item]:
        a, b = codec.encode(example["a"]), codec.encode(example["b"])
        tokens = np.asarray([codec.bos_id, *a, codec.eos_id, *b, codec.eos_id], np.int32)
        return [{"tokens": tokens, "segment": np.repeat([0, 1], [len(a) + 2, len(b) + 1])}]


@pytest.fixture(scope="session")
def windows() -> type[Windows]:
    return Windows


@pytest.fixture(scope="session")
def pairs() -> type[Pairs]:
    return Pairs
