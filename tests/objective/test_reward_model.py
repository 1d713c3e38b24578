"""Reward models: scores of branches against separate rows, decoder and encoder, predictions.

Key: P pairs
"""

# ruff: noqa: E741 - w and l are the y_w and y_l of the papers

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from exnihilo.codec import train as train_codec
from exnihilo.codec.base import Codec
from exnihilo.codec.chat import chat
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.data import collate
from exnihilo.data.base import Noted
from exnihilo.errors import DataError
from exnihilo.infer.predict import Predictor
from exnihilo.model import build
from exnihilo.model.model import Model
from exnihilo.objective import registry
from exnihilo.objective._layout import encode_texts, lay_out
from exnihilo.objective.base import Objective

WORDS = "the fox ran to the mill and asked the owl for bread at noon user assistant system tool"
BPE = train_codec(CodecConfig(kind="bpe", vocab_size=400), [WORDS] * 4)
WORDPIECE = train_codec(CodecConfig(kind="wordpiece", vocab_size=400, lowercase=True), [WORDS] * 4)
PAIRS = [
    {"prompt": q, "chosen": a, "rejected": b}
    for q, a, b in (
        ("Who ran?", "The fox ran.", "An owl"),
        ("Where to?", "To the mill at noon.", "To the mill at noon, said the owl, and then for bread."),
        ("And who asked the owl for bread at noon?", "The fox.", "the"),
    )
]
KINDS = [("qwen3", BPE), ("gpt2", BPE), ("bert", WORDPIECE), ("modernbert", WORDPIECE)]


def made(family: str, codec: Codec, **options: Any) -> tuple[Objective, Model]:
    config = ModelConfig(
        family=family, depth=2, width=32, heads=4, context=64, vocab_size=codec.vocab_size, dropout=0.0
    )
    model = build(config, heads=("value",), seed=1).double().eval()
    with torch.no_grad():
        model.heads["value"].dense.weight.mul_(50)  # else all scores are nearly 0
    return registry.create("reward_model", options, length=64), model


def score(model: Model, codec: Codec, prompt: str, reply: str) -> Tensor:
    """Of a row of its own: at the end of the turn, or at [CLS]."""
    if codec.cls_id is None:
        ids = chat(codec).prompt([{"role": "user", "content": prompt}]) + chat(codec).completion(reply)
        return model.heads["value"].logits(model({"tokens": torch.tensor([ids])})[:, -1])[0]
    item = lay_out(encode_texts([(prompt, reply)], codec)[0], codec, 64)
    raw = {k: torch.from_numpy(np.asarray(item[k], np.int64))[None] for k in ("tokens", "segment")}
    return model.heads["value"].logits(model(raw)[:, 0])[0]


def batch_of(objective: Objective, codec: Codec) -> dict[str, Tensor]:
    items = [i for several in objective.encode_many(PAIRS, codec) for i in several]
    sizes = [len(np.asarray(i["tokens"])) for i in items]
    pieces = [[(0, 0, sizes[0]), (1, 0, sizes[1])], [(2, 0, sizes[2])]]
    row = max(sizes[0] + sizes[1], sizes[2]) + 3
    columns = collate.of_items(pieces, items, row=row, pad_id=codec.pad_id)
    return {k: torch.from_numpy(v) for k, v in columns.items() if k in objective.columns}


@pytest.mark.parametrize(("family", "codec"), KINDS)
def test_bradley_terry_of_branches_equals_separate_rows(family: str, codec: Codec) -> None:
    objective, model = made(family, codec, center=0.3)
    batch = batch_of(objective, codec)
    sums, counts = objective.sums(model, batch), objective.counts(batch)
    assert {float(v) for v in counts.values()} == {3.0}
    loss = sums["bt"] / 3 + objective.weights["center"] * sums["center"] / 3
    w, l = (
        torch.stack([score(model, codec, p["prompt"], p[role]) for p in PAIRS])
        for role in ("chosen", "rejected")
    )
    # Ouyang et al. 2022, equation 1; Eisenstein et al. 2023
    want = -torch.log(1 / (1 + torch.exp(-(w - l)))).mean() + 0.3 * ((w + l) ** 2).mean()
    torch.testing.assert_close(loss, want, rtol=1e-9, atol=1e-9)
    assert float(sums["accuracy"]) == float((w > l).sum())
    assert float(sums["margin"]) == pytest.approx(float((w - l).sum().detach()))
    params = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(loss, params, allow_unused=True),
        torch.autograd.grad(want, params, allow_unused=True),
        strict=True,
    ):
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
        else:
            assert not any(bool(g.any()) for g in (a, b) if g is not None)


@pytest.mark.parametrize(("family", "codec"), KINDS)
def test_a_prediction_is_the_score_that_was_trained(family: str, codec: Codec) -> None:
    objective, model = made(family, codec)
    predictor = Predictor(model, codec, objective)
    singles = [{"prompt": p["prompt"], "completion": p["chosen"]} for p in PAIRS]
    turns = [{"prompt": [{"role": "user", "content": p["prompt"]}], "completion": p["chosen"]} for p in PAIRS]
    want = [float(score(model, codec, p["prompt"], p["chosen"]).detach()) for p in PAIRS]
    for asked in (singles, turns):
        assert [p["score"] for p in predictor.predict(asked)] == pytest.approx(want, abs=1e-6)
    both = predictor.predict(PAIRS)
    assert [p["chosen"] for p in both] == pytest.approx(want, abs=1e-6)
    scored = objective.score(both, PAIRS)
    right = np.mean([p["chosen"] > p["rejected"] for p in both])
    assert scored["accuracy"] == pytest.approx(right) and objective.majority(PAIRS)["accuracy"] == 0.5
    wrong = predictor.predict([{"prompt": "Who?"}, {"prompt": "Who?", "completion": ""}])
    assert all("error" in p for p in wrong)


def test_what_does_not_fit_is_left_out_or_cut() -> None:
    objective, model = made("qwen3", BPE)
    gone = objective.encode({**PAIRS[0], "chosen": WORDS * 3}, BPE)
    assert isinstance(gone, Noted) and not gone and "fit" in gone.note
    with pytest.raises(DataError, match="cannot be read"):
        objective.query({"prompt": "Who?", "completion": WORDS * 3}, BPE)
    cut = objective.encode({**PAIRS[0], "chosen": WORDS * 9}, WORDPIECE)
    assert isinstance(cut, Noted) and "cut" in cut.note
    assert len(np.asarray(cut[0]["tokens"])) <= objective.row  # type: ignore[operator]
