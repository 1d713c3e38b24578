"""Pure randomness: variances as stated, ln V at first, and the same bits however the model is made."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from exnihilo.config import ModelConfig
from exnihilo.errors import ModelError
from exnihilo.model import build, resolve
from exnihilo.model.init import draw
from exnihilo.nn.layout import Attention


def _loss(config: ModelConfig, attention: Attention = Attention.CAUSAL, seed: int = 0) -> float:
    model = build(config, seed=seed)
    V = model.config.vocab_size or 0
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(V, (4, 129), generator=g)
    with torch.no_grad():
        logits = model.heads["tokens"].logits(model({"tokens": tokens[:, :-1]}, attention))
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "size",
    [
        {"depth": 1, "vocab_size": 4096},
        {"depth": 2, "vocab_size": 256},
        {"depth": 4, "vocab_size": 65},
        {"depth": 6, "width": 256, "vocab_size": 4096},
        {"depth": 12, "width": 128, "vocab_size": 1000},
        {"depth": 2, "width": 1024, "vocab_size": 2048},
    ],
    ids=str,
)
def test_first_loss_is_ln_v(family: str, tied: bool, size: dict) -> None:
    config = ModelConfig(family=family, tied=tied, context=128, **size)
    assert abs(_loss(config) / math.log(size["vocab_size"]) - 1) < 0.02


def test_first_loss_of_both_attentions_and_of_the_same_token_repeated(family: str) -> None:
    config = ModelConfig(family=family, depth=3, context=128, vocab_size=512)
    assert abs(_loss(config, Attention.FULL) / math.log(512) - 1) < 0.02
    model = build(config)
    with torch.no_grad():  # the current token is what a tied model is most tempted to say
        logits = model.heads["tokens"].logits(model({"tokens": torch.full((1, 64), 7)}))
        again = F.cross_entropy(logits[0], torch.full((64,), 7)).item()
    assert abs(again / math.log(512) - 1) < 0.25


def test_variances_are_as_stated(family: str) -> None:
    config = resolve(ModelConfig(family=family, depth=4, vocab_size=2000, tied=False))
    seen = set()
    for name, p in build(config).named_parameters():
        kind = name.split(".")[-2] if "blocks" in name else name
        seen.add(kind)
        if name.endswith("norm.weight"):
            assert (p == 1).all()
        elif name.endswith("bias"):
            assert (p == 0).all()
        else:
            fan_in = p.shape[1]
            if name.startswith(("front", "heads")):
                expected = 0.02
            elif name.endswith(("attention.o.weight", "mlp.down.weight")):
                expected = 1 / math.sqrt(fan_in * 2 * 4)
            else:
                expected = 1 / math.sqrt(fan_in)
            error = 4 / math.sqrt(p.numel())  # four standard errors of a uniform's deviation, and more
            assert abs(p.std().item() / expected - 1) < error, name
            assert abs(p.mean().item()) < 4 * expected / math.sqrt(p.numel()), name
            assert p.abs().max() <= expected * math.sqrt(3) * 1.0001, name
    assert {"q", "k", "v", "o", "up", "down"} <= seen


def test_wide_embeddings_are_smaller() -> None:
    assert draw("front.tokens.weight", (300, 1024), 1024, 2, 0).std() == pytest.approx(0.01, rel=0.02)


def test_streams_are_independent_and_seeded() -> None:
    a = draw("x.weight", (64, 64), 64, 2, 0)
    assert torch.equal(a, draw("x.weight", (64, 64), 64, 2, 0))
    for other in (draw("y.weight", (64, 64), 64, 2, 0), draw("x.weight", (64, 64), 64, 2, 1)):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), other.flatten()]))[0, 1]) < 0.08


def test_the_same_bits_however_it_is_made(family: str) -> None:
    config = ModelConfig(family=family, depth=2, vocab_size=100, context=32)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    model = build(config, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)  # global randomness is not touched
    torch.manual_seed(2)
    late = build(config, seed=5, device="meta")
    assert all(p.is_meta for p in late.parameters())
    with pytest.raises(ModelError, match="has no memory"):
        late.init_weights(5)
    late.to_empty(device="cpu")
    late.init_weights(5)
    assert late.heads["tokens"].weight is late.front.tokens.weight
    for (name, a), (_, b) in zip(model.named_parameters(), late.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    tokens = torch.arange(20)[None]
    assert torch.equal(model({"tokens": tokens}), late({"tokens": tokens}))  # positions are there too
    other = build(config, seed=6)
    assert not torch.equal(other.front.tokens.weight, model.front.tokens.weight)


@pytest.fixture
def one_worker(tmp_path: Path) -> Iterator[None]:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_sharded_parameters_get_the_same_values(one_worker: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    config = ModelConfig(depth=2, vocab_size=100, context=32)
    mesh = init_device_mesh("cpu", (1,))
    model = build(config, seed=3, device="meta")
    for block in model.trunk.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.to_empty(device="cpu")
    model.init_weights(3)
    whole = dict(build(config, seed=3).named_parameters())
    assert len(whole) == len(list(model.named_parameters()))
    for name, p in model.named_parameters():
        assert torch.equal(p.full_tensor(), whole[name]), name  # type: ignore[attr-defined]
    tokens = torch.arange(20)[None]
    expected = build(config, seed=3)({"tokens": tokens})
    assert torch.equal(model({"tokens": tokens}), expected)


def test_an_unknown_parameter_has_no_silent_rule() -> None:
    with pytest.raises(ModelError, match="no rule"):
        draw("trunk.filter", (3, 3, 3), 64, 2, 0)
