"""States that nobody reads are not computed in the last block; those that are read are the same.

Key: B rows, T positions, D width
"""

from __future__ import annotations

import pytest
import torch

from exnihilo.config import ModelConfig
from exnihilo.model import build
from exnihilo.nn.layout import Attention

B, T = 3, 40


def batch(packed: bool) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    raw = {"tokens": torch.randint(5, 50, (B, T), generator=g)}
    if packed:
        doc_BT = (torch.arange(T) // 15).expand(B, T).clone()
        doc_BT[0, 31:] = -1
        raw |= {"doc": doc_BT, "pos": torch.arange(T).expand(B, T) % 15}
    return raw


def needed(rows: list[int]) -> torch.Tensor:
    """So many positions of each row, none in the last quarter."""
    out = torch.zeros(B, T, dtype=torch.bool)
    for row, count in enumerate(rows):
        out[row, torch.randperm(30, generator=torch.Generator().manual_seed(row))[:count]] = True
    return out


@pytest.mark.parametrize("rows", [[1, 1, 1], [4, 9, 2], [0, 5, 1], [0, 0, 0], [30, 30, 30]])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", ["bert", "modernbert", "qwen3"])
def test_needed_states_and_all_gradients_are_the_same(family: str, packed: bool, rows: list[int]) -> None:
    config = ModelConfig(family=family, depth=4, width=32, heads=2, context=64, vocab_size=50)
    if family == "modernbert":
        config = config.model_copy(update={"window": 8, "global_every": 3})
    outputs = ("tokens",) if family == "qwen3" else ("embedding",)
    model = build(config, heads=outputs).double()
    raw, want_BT = batch(packed), needed(rows)
    found = []
    for given in (raw, {**raw, "needed": want_BT}):
        model.zero_grad()
        hidden_BTD = model(given, Attention.FULL)
        assert hidden_BTD.shape == (B, T, 32)
        weight_D = torch.linspace(-1, 1, 32, dtype=torch.float64)
        ((hidden_BTD * weight_D).sin() * want_BT.unsqueeze(-1)).sum().backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
        found.append((hidden_BTD[want_BT], *grads))
    for all_, some in zip(*found, strict=True):
        torch.testing.assert_close(all_, some)


def test_less_is_computed() -> None:
    """The last block's MLP is given the needed states only."""
    model = build(ModelConfig(family="bert", depth=2, width=32, heads=2, context=64, vocab_size=50))
    seen: list[torch.Size] = []
    for block in model.trunk.blocks:
        block.mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))  # type: ignore
    model({**batch(False), "needed": needed([4, 9, 2])}, Attention.FULL)
    assert seen == [(B, T, 32), (B, 9, 32)]
    seen.clear()
    with torch.no_grad():
        model({**batch(False), "needed": torch.ones(B, T, dtype=torch.bool)}, Attention.FULL)
    assert seen == [(B, T, 32), (B, T, 32)]
