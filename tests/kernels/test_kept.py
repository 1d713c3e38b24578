"""Attention that keeps its weights against the plain reference, in float64, and where `attend` uses it."""

import math
from functools import partial

import pytest
import torch

from exnihilo.kernels import dropout as dropping
from exnihilo.kernels import kept
from exnihilo.kernels.attention import Rule, attend, plan, reference

FORMS = [kept.kept_attention, kept.unrolled]


def inputs(B: int, T: int, H: int, d: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(T)
    # as the layers lay them out: positions before heads
    return [
        torch.randn(B, T, H, d, generator=g, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)
    ]


def rule_of(B: int, T: int, causal: bool, packed: str) -> Rule:
    doc_BT = None
    if packed:
        doc_BT = (torch.arange(T) * 5 // T).expand(B, T).clone()
    if packed == "padded":
        assert doc_BT is not None
        doc_BT[0, -T // 4 :] = -1
        doc_BT[-1, : T // 6] = -1
    return plan(torch.empty(B, T, 8, dtype=torch.float64), group=0 if causal else 1, doc_BT=doc_BT)


@pytest.mark.parametrize("packed", ["", "packed", "padded"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("T", [1, 63, 64, 65, 130, 200])
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_reference_in_value_and_gradient(form, T: int, causal: bool, packed: str):
    given, rule = inputs(2, T, 3, 8), rule_of(2, T, causal, packed)
    fast, plain = form(*given, causal=causal, bias=rule.bias), reference(given[0], given[1], given[2], rule)
    torch.testing.assert_close(fast, plain)
    grad = torch.randn(fast.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(fast, given, grad), torch.autograd.grad(plain, given, grad), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_the_future_has_exactly_no_influence():
    q, k, v = inputs(1, 150, 2, 8)
    out = kept.kept_attention(q, k, v, causal=True)[:, :, :70].sum()
    (grad_k, grad_v) = torch.autograd.grad(out, (k, v))
    assert (grad_k[:, :, 70:] == 0).all() and (grad_v[:, :, 70:] == 0).all()
    assert (grad_v[:, :, :70] != 0).any()


@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck(causal: bool):
    q, k, v = inputs(1, 70, 1, 2)
    assert torch.autograd.gradcheck(partial(kept.kept_attention, causal=causal), (q, k, v), fast_mode=True)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("T", [64, 140])
def test_dropout_drops_weights_in_value_and_gradient(causal: bool, T: int):
    """The same multipliers, written out over the reference's weights, give the same numbers."""
    q, k, v = inputs(2, T, 2, 8)
    torch.manual_seed(3)
    fast = kept.kept_attention(q, k, v, causal=causal, dropout=0.3)
    torch.manual_seed(3)
    size = kept.BLOCK if causal else kept.WIDE
    keep = torch.zeros(4, T, T, dtype=torch.float64)
    for start in range(0, T, size):
        end = min(start + size, T)
        seen = end if causal else T
        shape = torch.Size([4, end - start, seen])
        keep[:, start:end, :seen] = dropping.multipliers(shape, 0.3, torch.float64)
    scores = q @ k.mT / math.sqrt(8)
    if causal:
        scores = scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -math.inf)
    plain = (scores.softmax(-1) * keep.view(2, 2, T, T)) @ v
    torch.testing.assert_close(fast, plain)
    grad = torch.randn(fast.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(fast, (q, k, v), grad), torch.autograd.grad(plain, (q, k, v), grad), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_attend_uses_it_in_training_only(monkeypatch: pytest.MonkeyPatch):
    used = []
    real = kept.kept_attention
    monkeypatch.setattr(kept, "kept_attention", lambda *a, **kw: (used.append(1), real(*a, **kw))[1])
    q, k, v = inputs(1, 130, 2, 8, torch.float32)
    rule = plan(torch.empty(1, 130, 16))
    trained = attend(q, k, v, rule)
    with torch.no_grad():
        decoded = attend(q, k, v, rule)
    assert len(used) == 1
    torch.testing.assert_close(trained, decoded, atol=1e-6, rtol=1e-5)
    short = [x[:, :, :100] for x in (q, k, v)]
    attend(short[0], short[1], short[2], plan(torch.empty(1, 100, 16)))
    assert len(used) == 1  # nothing to skip there
    attend(short[0], short[1], short[2], plan(torch.empty(1, 100, 16)), dropout=0.1)
    assert len(used) == 2  # but dropout


def test_multipliers_are_the_same_for_a_seed_and_right_in_the_mean():
    shape = torch.Size([1000, 1001])
    torch.manual_seed(5)
    a = dropping.multipliers(shape, 0.1, torch.float32)
    torch.manual_seed(5)
    assert torch.equal(a, dropping.multipliers(shape, 0.1, torch.float32))
    assert set(a.unique().tolist()) == {0.0, a.max().item()} and a.max().item() == pytest.approx(
        1 / 0.9, 1e-4
    )
    sigma = math.sqrt(0.1 * 0.9 / shape.numel())
    assert abs((a == 0).double().mean().item() - 0.1) < 5 * sigma
    assert abs(a.double().mean().item() - 1) < 5 * sigma / 0.9
    # neighbours, which share a word of the generator, are independent
    zero = (a == 0).double().view(-1)[: 1000 * 1001 // 4 * 4].view(-1, 4)
    assert torch.corrcoef(zero.T).sub(torch.eye(4)).abs().max() < 0.012


def test_dropout_goes_by_pytorch_where_little_is_dropped_or_something_compiles():
    x = torch.ones(64, 64, requires_grad=True)
    torch.manual_seed(0)
    y = dropping.dropout(x, 0.5)
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach()) and 0.4 < (y == 0).double().mean() < 0.6
    torch.manual_seed(0)
    small = dropping.dropout(torch.ones(10), 0.5)
    torch.manual_seed(0)
    assert torch.equal(small, torch.nn.functional.dropout(torch.ones(10), 0.5))
