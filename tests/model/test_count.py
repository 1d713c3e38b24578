"""Counts from the structure equal what is there and what a profiler counts."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from exnihilo.config import ModelConfig
from exnihilo.kernels.attention import reference
from exnihilo.model import build, flops_per_token, parameters, resolve
from exnihilo.model.family import find


def _config(family: str, tied: bool) -> ModelConfig:
    own = {"heads": 4, "kv_heads": 2, "head_dim": 24} if find(family).grouped else {"heads": 4}
    return resolve(
        ModelConfig(family=family, depth=3, width=64, vocab_size=99, context=40, tied=tied, **own)  # type: ignore
    )


@pytest.mark.parametrize("tied", [True, False])
def test_parameters(family: str, tied: bool) -> None:
    config = _config(family, tied)
    assert parameters(config) == sum(p.numel() for p in build(config).parameters())


@pytest.mark.parametrize("T", [16, 40])
def test_flops_equal_the_profilers(family: str, T: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # the plain form of attention: faster ones skip blocks, or compute some twice
    monkeypatch.setattr("exnihilo.nn.block.attend", reference)
    config = _config(family, tied=True)
    model, tokens = build(config), torch.zeros(2, T, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        loss = model.heads["tokens"].logits(model({"tokens": tokens})).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    n = tokens.numel()
    assert forward.get_total_flops() == n * flops_per_token(config, T, training=False)
    both = forward.get_total_flops() + backward.get_total_flops()
    assert both == n * flops_per_token(config, T)


def test_flops_of_the_fast_kernel(family: str) -> None:
    config = _config(family, tied=True)
    model, tokens = build(config), torch.zeros(2, 32, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.heads["tokens"].logits(model({"tokens": tokens}))
    attention = 3 * 4 * 32 * 4 * (config.head_dim or 0)
    whole = flops_per_token(config, 32, training=False)
    # torch may not count its own CPU kernel
    assert counter.get_total_flops() / 64 in (whole, whole - attention)
