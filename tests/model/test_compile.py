"""A model can be compiled from outside in one piece: nothing in it stops the tracer.

Key: B batch, T positions, D model width
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from exnihilo.config import ModelConfig
from exnihilo.kernels.attention import plan
from exnihilo.model import build
from exnihilo.nn.block import Setting


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_the_whole_model_packed_and_plain() -> None:
    model = build(ModelConfig(depth=1, width=32, heads=2, vocab_size=50, context=160))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    tokens = torch.randint(50, (2, 150), generator=torch.Generator().manual_seed(0))
    doc, pos = torch.arange(150).expand(2, 150) // 60, torch.arange(150).expand(2, 150) % 60
    for raw in ({"tokens": tokens}, {"tokens": tokens, "doc": doc, "pos": pos}):
        assert (compiled(raw) - model(raw)).abs().max() < 1e-5
        compiled(raw).square().sum().backward()
        assert all(p.grad is not None for p in model.trunk.parameters())


def test_whole_encoders(encoder: str) -> None:
    model = build(
        ModelConfig(family=encoder, depth=2, width=32, heads=2, vocab_size=50, context=160, outputs=("mlm",))
    )
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    tokens = torch.randint(50, (2, 150), generator=torch.Generator().manual_seed(0))
    doc, pos = torch.arange(150).expand(2, 150) // 70, torch.arange(150).expand(2, 150) % 70
    raw = {"tokens": tokens, "doc": doc, "pos": pos, "segment": pos % 2}
    assert (compiled(raw) - model(raw)).abs().max() < 1e-5
    compiled(raw).sin().sum().backward()
    assert all(p.grad is not None for p in model.trunk.parameters())


@torch.no_grad()
def test_a_block_with_the_block_mask_of_accelerators() -> None:
    """Flex attention inside a compiled block; on CPUs it has no backward, so forward alone."""
    model = build(ModelConfig(depth=1, width=32, heads=2, vocab_size=50, context=160))
    block, x_BTD = model.trunk.blocks[0], torch.randn(2, 150, 32)
    doc_BT = torch.arange(150).expand(2, 150) // 60
    turn = model.trunk.rotary(150, None) if model.trunk.rotary is not None else None
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    out = compiled(x_BTD, Setting(plan(x_BTD, doc_BT=doc_BT, flex=True), turn))
    assert (out - block(x_BTD, Setting(plan(x_BTD, doc_BT=doc_BT), turn))).abs().max() < 1e-5
