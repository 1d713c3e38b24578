"""Reranking: loss against torch, figures by query, grades, calibration, bad input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from exnihilo.codec import train as train_codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.data import collate
from exnihilo.errors import ConfigError, DataError
from exnihilo.metrics.calibration import sigmoid
from exnihilo.model import build
from exnihilo.objective import registry
from exnihilo.objective.base import Example
from exnihilo.objective.rerank import Rerank

JUDGED = [
    {"query": "cat", "document": "the cat sat", "label": 1},
    {"query": "cat", "document": "a dog ran", "label": 0},
    {"query": "dog", "document": "the cat sat", "label": "0"},
    {"query": "dog", "document": "a dog ran", "label": True},
    {"query": "fox", "document": "a dog ran", "label": 0},
]


def ready(examples: Sequence[Example], **options: Any) -> Rerank:
    objective = registry.create("rerank", options, length=32)
    objective.facts = objective.survey(examples)
    assert isinstance(objective, Rerank)
    return objective


@pytest.mark.parametrize("highest", [1, 3])
def test_loss_equals_torchs_mean_and_grades_are_shares(highest):
    judged = [{**e, "label": float(e["label"]) * highest} for e in JUDGED]
    judged[1]["label"] = highest / 2
    judged.append({"query": "fox", "document": "no label yet"})
    codec = train_codec(CodecConfig(kind="wordpiece", vocab_size=80), [e["document"] for e in judged] * 3)
    objective = ready(judged[:5])
    config = ModelConfig(
        family="bert", depth=1, width=32, heads=2, context=32, vocab_size=codec.vocab_size, labels=1
    )
    model = build(config, heads=objective.heads, seed=0).double()
    items = [item for found in objective.encode_many(judged, codec) for item in found]
    pieces = [[(i, 0, len(np.asarray(item["tokens"])))] for i, item in enumerate(items)]
    columns = collate.of_items(pieces, items, row=32, pad_id=codec.pad_id)
    batch = {k: torch.from_numpy(v) for k, v in columns.items()}
    with torch.no_grad():
        logits = objective.outputs(model, model(objective.inputs(batch), objective.attention), batch)[
            "logits"
        ]
    assert logits.shape == (6,) and objective.counts(batch)["bce"] == 5
    target = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.0], dtype=torch.float64)
    want = F.binary_cross_entropy_with_logits(logits[:5], target, reduction="sum")
    torch.testing.assert_close(objective.sums(model, batch)["bce"], want)


def test_figures_are_means_over_queries_that_have_an_answer():
    objective = ready(JUDGED)
    said = [{"score": s} for s in (0.9, 0.1, 0.8, 0.2, 0.5)]
    found = objective.score(said, JUDGED)
    assert found["queries"] == 2 and found["unanswered"] == 1
    assert found["mrr"] == found["map"] == 0.75
    assert found["ndcg@10"] == pytest.approx((1 + 1 / np.log2(3)) / 2)
    base = objective.majority(JUDGED)
    assert base["mrr"] == base["map"] == 0.75 and base.keys() == found.keys()  # random order of two
    order = [4, 2, 0, 3, 1]
    assert objective.score([said[i] for i in order], [JUDGED[i] for i in order]) == found
    with pytest.raises(DataError, match="nothing to score"):
        objective.score(said[4:], JUDGED[4:])


def test_decode_uses_the_temperature_that_was_calibrated():
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 500)
    examples = [{"query": "q", "document": "d", "label": int(v)} for v in rng.random(500) < sigmoid(z)]
    objective = ready(examples)
    facts = objective.calibrate(examples, [[{}]] * 500, [[{"logits": np.array(3 * v)}] for v in z])
    assert facts["temperature"] == pytest.approx(3.0, rel=0.2) and facts["ece_after"] < facts["ece_before"]
    objective.facts |= facts
    said = objective.decode({}, [{"cut": 2}], [{"logits": np.array(3.0)}])
    assert said == {"score": pytest.approx(1 / (1 + np.exp(-3 / facts["temperature"]))), "cut": 2}
    assert ready(JUDGED).calibrate(JUDGED, [[{}]] * 5, [[{"logits": 0.0}]] * 5)["temperature"] == 1.0  # type: ignore[list-item]


def test_bad_rows_are_refused_or_skipped_with_a_count():
    for label, message in (("yes", "row 6.*no number"), (-1, "row 6.*no relevance")):
        with pytest.raises(DataError, match=message):
            ready([*JUDGED, {"query": "a", "document": "b", "label": label}])
    with pytest.raises(DataError, match="every label is 0"):
        ready(JUDGED[1:3])
    with pytest.raises(DataError, match="no training row"):
        ready([{"query": "", "document": "b", "label": 1}])
    facts = ready(
        [*JUDGED, {"query": "a", "document": " ", "label": 1}, {"query": "a", "document": "b"}]
    ).facts
    assert facts["skipped"] == {"empty document": 1, "no label": 1} and facts["queries"] == 3
    with pytest.raises(ConfigError, match="5 or more"):
        registry.create("rerank", length=4)
