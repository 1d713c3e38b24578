"""Optimisers against PyTorch's own, Muon against the law it follows, schedules as pure functions."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from exnihilo.config import ModelConfig, OptimConfig, ScheduleConfig
from exnihilo.errors import ConfigError, UsageError
from exnihilo.model import build
from exnihilo.optim import clip, create, find_lr, scale, split
from exnihilo.optim.create import optim_default
from exnihilo.optim.muon import orthogonalize

CONFIG = ModelConfig(width=8)


class Toy(nn.Module):
    """Named like a model: an embedding, a trunk with matrices, norms and biases, a tied head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.front = nn.Embedding(7, 8)
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 8, bias=False))
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.front.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(self.front(x)))


def loss_of(model: nn.Module, seed: int) -> torch.Tensor:
    x = torch.randint(0, 7, (32,), generator=torch.Generator().manual_seed(seed))
    return nn.functional.cross_entropy(model(x), (x + 1) % 7)


def test_split_takes_each_parameter_once():
    model = Toy()
    matrices, rest = split(model)
    assert set(matrices) == {"trunk.0.weight", "trunk.2.weight"}
    assert set(rest) == {"front.weight", "trunk.0.bias", "trunk.1.weight", "trunk.1.bias"}
    model.trunk[0].weight.requires_grad_(False)
    assert set(split(model)[0]) == {"trunk.2.weight"}


def test_adamw_equals_pytorchs():
    ours, theirs = Toy(), Toy()
    a = create(ours, OptimConfig(name="adamw", lr=1e-2, weight_decay=0.1), CONFIG)
    matrices, rest = split(theirs)
    b = torch.optim.AdamW(
        [
            {"params": list(matrices.values()), "weight_decay": 0.1},
            {"params": list(rest.values()), "weight_decay": 0},
        ],
        lr=1e-2,
        betas=(0.9, 0.95),
    )
    for step in range(20):
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_sgd_is_pytorchs_with_nesterov_momentum():
    optimizer = create(Toy(), OptimConfig(name="sgd", lr=0.1, momentum=0.9), CONFIG)
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(g["nesterov"] and g["momentum"] == 0.9 and g["peak_lr"] == 0.1 for g in optimizer.param_groups)


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd"])
def test_every_optimiser_learns_and_its_groups_cover_all_parameters(name: str):
    model = Toy()
    optimizer = create(model, OptimConfig(name=name), CONFIG)  # type: ignore[arg-type]
    covered = [n for g in optimizer.param_groups for n in g["names"]]
    assert sorted(covered) == sorted(n for n, _ in model.named_parameters())
    first = loss_of(model, 0).item()
    for step in range(60):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
    assert loss_of(model, 0).item() < 0.7 * first


def test_rates_fall_from_layer_to_layer():
    model = build(ModelConfig(depth=3, width=32, heads=2, context=16, vocab_size=50))
    optimizer = create(model, OptimConfig(name="adamw", lr=1e-3), model.config, layer_decay=0.5)
    rates = {n: g["peak_lr"] for g in optimizer.param_groups for n in g["names"]}
    assert sorted(rates) == sorted(n for n, _ in model.named_parameters())
    assert rates["trunk.norm.weight"] == 1e-3 and rates["front.tokens.weight"] == 1e-3 * 0.5**4
    for layer in range(3):
        mine = {r for n, r in rates.items() if n.startswith(f"trunk.blocks.{layer}.")}
        assert mine == {1e-3 * 0.5 ** (3 - layer)}
    assert {g["base_lr"] for g in optimizer.param_groups} == {1e-3}
    plain = create(model, OptimConfig(name="adamw", lr=1e-3), model.config)
    assert len(plain.param_groups) == 2 and all(g["peak_lr"] == 1e-3 for g in plain.param_groups)


def test_pretrained_weights_are_tuned_gently():
    for name in ("adamw", "muon", "sgd"):
        rates = [optim_default(name, 256, purpose) for purpose in ("pretrain", "learn", "tune")]
        assert rates == sorted(rates, reverse=True) and rates[2] < 0.5 * rates[1]
    assert 3e-5 < optim_default("adamw", 768, "tune") < 8e-5  # BERT-Base's are 2e-5 to 5e-5


def test_instructions_are_learnt_at_the_published_rate_and_preferences_at_a_tenth():
    assert optim_default("adamw", 2048, "instruct") == pytest.approx(2e-5, rel=0.02)
    assert optim_default("adamw", 128, "instruct") == pytest.approx(2e-3)
    for name in ("adamw", "muon", "sgd"):
        both = [optim_default(name, 256, purpose) for purpose in ("instruct", "align")]
        assert both[1] == pytest.approx(both[0] / 10) and both[0] < optim_default(name, 256, "pretrain")


def test_nothing_left_to_train_is_an_error():
    model = Toy()
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(ConfigError, match="every parameter is frozen"):
        create(model, OptimConfig(), CONFIG)


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_muon_makes_the_singular_values_alike_and_keeps_the_singular_vectors(shape: tuple[int, int]):
    g = torch.Generator().manual_seed(0)
    stack = torch.randn(3, *shape, generator=g, dtype=torch.float64)
    out = orthogonalize(stack)
    for k in range(3):
        u, s, vt = torch.linalg.svd(stack[k], full_matrices=False)
        values = torch.diag(u.T @ out[k] @ vt.T)
        # a singular value that is tiny beside the norm needs more than five steps: look at the others
        large = s / s.norm() > 0.01
        assert ((values[large] > 0.6) & (values[large] < 1.3)).all()
        torch.testing.assert_close(u.T @ out[k] @ vt.T, torch.diag(values), atol=1e-9, rtol=0)


def test_muon_treats_a_batch_like_single_matrices():
    stack = torch.randn(4, 12, 20, generator=torch.Generator().manual_seed(1))
    together = orthogonalize(stack)
    for k in range(4):
        torch.testing.assert_close(together[k], orthogonalize(stack[k : k + 1])[0], atol=1e-5, rtol=1e-4)


def test_decay_shrinks_matrices_only():
    model = Toy()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = create(model, OptimConfig(name="adamw", lr=0.1, weight_decay=0.5), CONFIG)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if name in split(model)[0] else 1.0
        torch.testing.assert_close(p.detach(), before[name] * factor)


def test_state_dict_round_trip_continues_exactly():
    one, two = Toy(), Toy()
    a, b = (create(m, OptimConfig(), CONFIG) for m in (one, two))
    for step in range(3):
        a.zero_grad()
        loss_of(one, step).backward()
        a.step()
    two.load_state_dict(one.state_dict())
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for model, optimizer in ((one, a), (two, b)):
        optimizer.zero_grad()
        loss_of(model, 9).backward()
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_clip_equals_pytorchs():
    model = Toy()
    loss_of(model, 0).backward()
    grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))
    got = clip(model.parameters(), 0.01)
    torch.testing.assert_close(got, norm)
    after = torch.linalg.vector_norm(
        torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None])
    )
    assert math.isclose(after.item(), 0.01, rel_tol=1e-3)
    assert clip(model.parameters(), None).item() == pytest.approx(after.item())


@given(
    st.sampled_from(["wsd", "cosine", "linear", "constant"]),
    st.floats(0, 0.3),
    st.floats(0, 0.9),
    st.floats(0, 1),
    st.integers(1, 500),
)
def test_schedules_warm_up_never_exceed_the_peak_and_end_low(name, warmup, cooldown, final, total):
    config = ScheduleConfig(name=name, warmup=warmup, cooldown=cooldown, final=final)
    values = [scale(config, s, total) for s in range(total)]
    assert all(0 <= v <= 1 for v in values) and values[0] > 0
    peak = values.index(max(values))
    assert all(a <= b + 1e-12 for a, b in zip(values[:peak], values[1 : peak + 1], strict=True))
    assert all(a >= b - 1e-12 for a, b in zip(values[peak:], values[peak + 1 :], strict=False))
    assert values == [scale(config, s, total) for s in range(total)]


def test_wsd_does_not_depend_on_the_length_before_it_cools_down():
    config = ScheduleConfig(warmup=10, cooldown=0.5)
    open_ended = [scale(config, s, None) for s in range(100)]
    assert open_ended[10:] == [1.0] * 90
    assert open_ended == [scale(config, s, 1000) for s in range(100)]


def test_cosine_is_half_way_in_the_middle():
    config = ScheduleConfig(name="cosine", warmup=0, final=0.1)
    assert scale(config, 50, 100) == pytest.approx(0.55)
    with pytest.raises(ConfigError, match="steps="):
        scale(config, 5, None)


def test_range_finder_lands_below_the_rate_that_diverges():
    x = [10.0]

    def step(lr: float) -> float:
        loss = x[0] ** 2
        x[0] -= lr * 2 * x[0]
        return loss

    curve = find_lr(step, low=1e-5, high=100.0)
    # x² under gradient descent diverges exactly above 1
    assert curve.diverged_at is not None and curve.diverged_at > 1.0
    assert 1e-3 < curve.suggestion < 1.0
    with pytest.raises(UsageError, match="low"):
        find_lr(step, low=1.0, high=0.1)
