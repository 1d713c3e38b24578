"""Heads that compare two texts: means by hand, nothing crosses pieces, a run folder gives them back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from exnihilo.config import ModelConfig
from exnihilo.errors import ModelError
from exnihilo.interop import hf
from exnihilo.model import build
from exnihilo.model.count import parameters
from exnihilo.objective._match import question_and_near
from exnihilo.objective.pair_classification import means
from exnihilo.objective.registry import create


def packed(seed: int) -> tuple[dict[str, torch.Tensor], list[tuple[int, int, int, int]]]:
    """A batch of packed pairs and (row, start, first token of the second text, end) of each."""
    rng = np.random.default_rng(seed)
    B, T = 3, 40
    columns = {name: torch.zeros(B, T, dtype=torch.long) for name in ("tokens", "pos", "segment")}
    columns["doc"] = torch.full((B, T), -1)
    pieces = []
    for b in range(B):
        at = doc = 0
        while at + 4 < T - 3:
            asked, held = int(rng.integers(1, 4)), int(rng.integers(1, 16))
            end = min(at + 1 + asked + held, T - 2)
            columns["pos"][b, at:end] = torch.arange(end - at)
            columns["doc"][b, at:end] = doc
            columns["segment"][b, at + 1 + asked : end] = 1
            pieces.append((b, at, at + 1 + asked, end))
            at, doc = end, doc + 1
    return columns, [p for p in pieces if p[2] < p[3]]


@pytest.mark.parametrize("seed", range(4))
def test_means_and_matches_are_those_of_each_piece_alone(seed: int) -> None:
    batch, pieces = packed(seed)
    hidden_BTD = torch.randn(3, 40, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found_P2D = means(hidden_BTD, batch)
    question_BTD, near_BTD = question_and_near(hidden_BTD, batch, reach=3)
    assert len(found_P2D) == len(pieces)
    for (b, start, middle, end), pair_2D in zip(pieces, found_P2D, strict=True):
        a_D, b_D = hidden_BTD[b, start + 1 : middle].mean(0), hidden_BTD[b, middle:end].mean(0)
        torch.testing.assert_close(pair_2D, torch.stack([a_D, b_D]))
        for t in range(middle, end):
            torch.testing.assert_close(question_BTD[b, t], a_D)
            near_D = hidden_BTD[b, max(middle, t - 3) : min(end, t + 4)].mean(0)
            torch.testing.assert_close(near_BTD[b, t], near_D)


@pytest.mark.parametrize(
    ("objective", "options", "outputs"),
    [
        ("pair_classification", {"pooling": "compare"}, ("classes",)),
        ("span_qa", {"match": True}, ("span",)),
    ],
)
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_folder_keeps_it_and_the_count_is_right(
    objective: str, options: dict[str, Any], outputs: tuple[str, ...], family: str, tmp_path: Any
) -> None:
    config = ModelConfig(
        family=family,
        depth=1,
        width=16,
        heads=2,
        vocab_size=50,
        context=32,
        compares=True,
        outputs=outputs,
        labels=3,
    )
    model = build(config, heads=outputs).eval()
    assert sum(p.numel() for p in model.parameters()) == parameters(model.config)
    hf.save(model, None, tmp_path)
    again, _ = hf.load(tmp_path)
    assert again.config.compares
    for (name, p), (_, q) in zip(
        sorted(model.named_parameters()), sorted(again.named_parameters()), strict=True
    ):
        assert torch.equal(p, q), name
    plain = build(config.model_copy(update={"compares": False}), heads=outputs)
    made = create(
        objective, options, length=32, facts={"labels": ["a", "b", "c"], "counts": {}, "examples": 3}
    )
    batch = {"tokens": torch.randint(5, 50, (1, 8)), "segment": torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])}
    hidden_BTD = model(batch)
    out = made.outputs(model, hidden_BTD, batch)
    assert all(torch.isfinite(v).all() for v in out.values())
    with pytest.raises(ModelError, match="built for the other"):
        made.outputs(plain, hidden_BTD, batch)


def test_the_first_token_is_the_default() -> None:
    assert "compares" not in create("pair_classification", {}, length=32).model_settings
    assert create("pair_classification", {"pooling": "compare"}, length=32).model_settings["compares"] is True
