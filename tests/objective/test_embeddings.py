"""Embeddings: sides that do not see each other, in-row negatives by brute force, figures, bad input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from exnihilo.codec import train as train_codec
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.data import collate
from exnihilo.errors import ConfigError, DataError
from exnihilo.model import build
from exnihilo.model.model import Model
from exnihilo.objective import registry
from exnihilo.objective.base import Example, Item, Look
from exnihilo.objective.embeddings import Embeddings

TEXTS = ("a good day", "it was bad", "so so", "the cat sat on the mat", "very good", "bad bad")
OTHERS = ("one", "two x", "three", "four cats", "five", "six is more")
PAIRS = [{"a": a, "b": b} for a, b in zip(TEXTS, OTHERS, strict=True)]
SCORED = [{**pair, "score": float(i)} for i, pair in enumerate(PAIRS)]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return train_codec(CodecConfig(kind="wordpiece", vocab_size=120), [*TEXTS, *OTHERS] * 3)


@pytest.fixture(scope="module")
def model(codec: Codec) -> Model:
    config = ModelConfig(family="bert", depth=2, width=32, heads=2, context=64, vocab_size=codec.vocab_size)
    return build(config, heads=("embedding",), seed=0).double()


def ready(examples: Sequence[Example], length: int = 40, **options: Any) -> Embeddings:
    objective = registry.create("embeddings", options, length=length)
    objective.facts = objective.survey(examples)
    assert isinstance(objective, Embeddings)
    return objective


def rows(items: Sequence[Item], codec: Codec, row: int, per_row: int) -> dict[str, Tensor]:
    lengths = [len(np.asarray(i["tokens"])) for i in items]
    pieces = [
        [(i, 0, lengths[i]) for i in range(at, min(at + per_row, len(items)))]
        for at in range(0, len(items), per_row)
    ]
    found = collate.of_items(pieces, items, row=row, pad_id=codec.pad_id)
    return {k: torch.from_numpy(v) for k, v in found.items()}


def items_of(objective: Embeddings, examples: Sequence[Example], codec: Codec) -> list[Item]:
    return [item for items in objective.encode_many(examples, codec) for item in items]


def vectors(objective: Embeddings, model: Model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        hidden = model(objective.inputs(batch), objective.attention)
        found = objective.outputs(model, hidden, batch)
    return found["a"], found["b"]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_both_sides_are_pooled_as_if_each_text_were_alone(codec: Codec, model: Model, pooling):
    objective = ready(PAIRS, pooling=pooling)
    a, b = vectors(objective, model, rows(items_of(objective, PAIRS, codec), codec, 64, 3))
    for pair, va, vb in zip(PAIRS, a, b, strict=True):
        for text, found in ((pair["a"], va), (pair["b"], vb)):
            tokens = torch.tensor([[codec.cls_id, *codec.encode(text), codec.sep_id]])
            with torch.no_grad():
                hidden = model({"tokens": tokens}, objective.attention)[0]
            want = F.normalize(hidden.mean(0) if pooling == "mean" else hidden[0], dim=0)
            torch.testing.assert_close(found, want, atol=1e-10, rtol=1e-8)


def test_a_text_alone_has_the_same_vector(codec: Codec, model: Model):
    objective = ready(PAIRS)
    both, _ = vectors(objective, model, rows(items_of(objective, PAIRS, codec), codec, 64, 2))
    alone = items_of(objective, [{"a": pair["a"]} for pair in PAIRS], codec)
    found, nothing = vectors(objective, model, rows(alone, codec, 64, 5))
    torch.testing.assert_close(found, both, atol=1e-10, rtol=1e-8)
    assert not nothing.any()


@pytest.mark.parametrize("symmetric", [True, False])
def test_contrastive_loss_equals_a_search_row_by_row(codec: Codec, model: Model, symmetric):
    objective = ready(PAIRS, symmetric=symmetric, temperature=0.1)
    batch = rows(items_of(objective, PAIRS, codec), codec, 80, 4)  # rows of 4 and of 2 pairs
    a, b = vectors(objective, model, batch)
    want = torch.zeros((), dtype=torch.float64)
    for part in (slice(0, 4), slice(4, 6)):
        logits = a[part] @ b[part].T / 0.1
        own = torch.arange(len(logits))
        loss = F.cross_entropy(logits, own, reduction="sum")
        want += (loss + F.cross_entropy(logits.T, own, reduction="sum")) / 2 if symmetric else loss
    torch.testing.assert_close(objective.sums(model, batch)["contrastive"], want)
    assert objective.counts(batch)["contrastive"] == 6


def test_a_batch_equals_its_rows_one_by_one_in_gradient(codec: Codec, model: Model):
    for objective in (
        ready(PAIRS), ready(SCORED, loss="cosine"), ready(SCORED, loss="cosent"), ready(SCORED, positive=2.0)
    ):  # fmt: skip
        batch = rows(items_of(objective, SCORED, codec), codec, 80, 4)
        params = [p for p in model.parameters() if p.requires_grad]

        def grads(batches, objective=objective, params=params):
            loss = sum(next(iter(objective.sums(model, b).values())) for b in batches)
            return torch.autograd.grad(loss, params, allow_unused=True)  # type: ignore[arg-type]

        parts = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(2)]
        padding = {k: torch.full_like(v[:1], -1 if k == "doc" else 0) for k, v in batch.items()}
        for x, y in zip(grads([batch]), grads([*parts, padding]), strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                torch.testing.assert_close(x, y, atol=1e-10, rtol=1e-8)


def test_equal_texts_are_never_each_others_negatives(codec: Codec, model: Model):
    pairs = [
        {"a": "a good day", "b": "very good"},
        {"a": "so so", "b": "very good"},
        {"a": "so so", "b": "bad"},
    ]
    objective = ready(pairs, symmetric=False)
    batch = rows(items_of(objective, pairs, codec), codec, 80, 3)
    a, b = vectors(objective, model, batch)
    logits = a @ b.T / 0.05
    logits[0, 1] = logits[1, 0] = logits[1, 2] = logits[2, 1] = -torch.inf
    want = F.cross_entropy(logits, torch.arange(3), reduction="sum")
    torch.testing.assert_close(objective.sums(model, batch)["contrastive"], want)


def test_a_text_is_not_a_wrong_answer_to_itself(codec: Codec, model: Model):
    pairs = [{"a": "so so", "b": "bad"}, {"a": "two", "b": "so so"}, {"a": "one", "b": "very good"}]
    objective = ready(pairs)
    batch = rows(items_of(objective, pairs, codec), codec, 80, 3)
    a, b = vectors(objective, model, batch)
    logits = a @ b.T / 0.05
    logits[0, 1] = -torch.inf
    want = sum(F.cross_entropy(way, torch.arange(3), reduction="sum") / 2 for way in (logits, logits.T))
    torch.testing.assert_close(objective.sums(model, batch)["contrastive"], want)


def test_pairs_below_the_positive_score_are_negatives_only(codec: Codec, model: Model):
    objective = ready(SCORED, positive=4.0, symmetric=False)
    batch = rows(items_of(objective, SCORED, codec), codec, 120, 6)
    a, b = vectors(objective, model, batch)
    nll = F.cross_entropy(a @ b.T / 0.05, torch.arange(6), reduction="none")
    torch.testing.assert_close(objective.sums(model, batch)["contrastive"], nll[4:].sum())
    assert objective.counts(batch)["contrastive"] == 2


def test_cosine_and_cosent_losses_equal_their_formulas(codec: Codec, model: Model):
    objective = ready(SCORED, loss="cosine")
    batch = rows(items_of(objective, SCORED, codec), codec, 80, 3)
    a, b = vectors(objective, model, batch)
    cosine, target = (a * b).sum(1), torch.arange(6, dtype=torch.float64) / 5
    torch.testing.assert_close(
        objective.sums(model, batch)["cosine"], (cosine - target).square().sum(), rtol=1e-6, atol=1e-6
    )
    objective = ready(SCORED, loss="cosent")
    want = 0.0
    for part in (range(0, 3), range(3, 6)):
        terms = [torch.exp(20 * (cosine[j] - cosine[i])) for i in part for j in part if target[i] > target[j]]
        want = want + torch.log(1 + torch.stack(terms).sum())
    torch.testing.assert_close(objective.sums(model, batch)["cosent"], want)
    assert objective.counts(batch)["cosent"] == 2


def test_training_brings_pairs_together(codec: Codec):
    config = ModelConfig(family="bert", depth=1, width=32, heads=2, context=64, vocab_size=codec.vocab_size)
    model = build(config, heads=("embedding",), seed=0)
    objective = ready(PAIRS)
    batch = rows(items_of(objective, PAIRS, codec), codec, 120, 6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (objective.sums(model, batch)["contrastive"] / 6).backward()
        optimizer.step()
    a, b = vectors(objective, model, batch)
    said = [
        objective.decode(e, [], [{"a": x.numpy(), "b": y.numpy()}])
        for e, x, y in zip(PAIRS, a, b, strict=True)
    ]
    found, base = objective.score(said, PAIRS), objective.majority(PAIRS)
    assert found["accuracy@1"] == found["mrr"] == 1.0
    assert base["accuracy@1"] == pytest.approx(1 / 6) and found.keys() == base.keys()


def test_decode_gives_vectors_of_length_one_and_scores_follow_the_similarity():
    objective = ready(SCORED, loss="cosine")
    angles = np.linspace(1.5, 0, 6)
    outputs = [{"a": np.array([1.0, 0.0]), "b": np.array([np.cos(t), np.sin(t)])} for t in angles]
    said = [objective.decode(e, [{"cut": 3}], [o]) for e, o in zip(SCORED, outputs, strict=True)]
    assert said[0]["similarity"] == pytest.approx(np.cos(1.5)) and said[0]["cut"] == 3
    assert objective.score(said, SCORED)["spearman"] == pytest.approx(1.0)
    assert objective.majority(SCORED)["spearman"] == 0.0
    assert objective.decode({"a": "x"}, [], outputs[:1]) == {"embedding": [1.0, 0.0]}


def test_bad_pairs_are_refused_or_skipped_with_a_count():
    with pytest.raises(DataError, match="options.positive=SCORE"):
        ready(SCORED)
    with pytest.raises(DataError, match="row 7.*no number"):
        ready([*SCORED, {"a": "x", "b": "y", "score": "high"}], loss="cosine")
    with pytest.raises(DataError, match="every score"):
        ready([{**p, "score": 1} for p in PAIRS], loss="cosine")
    with pytest.raises(DataError, match="no score reaches"):
        ready(SCORED, positive=9.0)
    with pytest.raises(DataError, match="0 training pairs"):
        ready([{"a": "x", "b": ""}, {"a": "x"}])
    assert ready([*PAIRS, {"a": "x", "b": " "}]).facts["skipped"] == {"empty b": 1}
    with pytest.raises(ConfigError, match="no meaning"):
        registry.create("embeddings", {"loss": "cosine", "temperature": 0.1})
    with pytest.raises(ConfigError, match="6 or more"):
        registry.create("embeddings", length=5)


def test_long_pairs_are_cut_and_counted(codec: Codec):
    objective = ready(PAIRS, length=20)
    long = {"a": "the cat sat on the mat " * 9, "b": "bad"}
    item = items_of(objective, [long], codec)[0]
    assert len(np.asarray(item["tokens"])) == 20 and int(item["cut"]) > 0
    assert np.asarray(item["place"])[-1] == len(codec.encode("bad")) + 1


def test_rows_without_negatives_are_said_once(codec: Codec, capsys: pytest.CaptureFixture[str]):
    objective = ready(PAIRS)
    lonely = {"doc": np.array([[0, 0, -1], [0, 0, 1]])}
    look = Look(2, np.arange(2), lambda ids: lonely, codec)
    for _ in range(2):
        assert objective.draw(lonely, [], look) is lonely
    assert capsys.readouterr().err.count("50% of the rows hold one pair") == 1
