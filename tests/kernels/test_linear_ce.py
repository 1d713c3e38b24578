"""The chunked loss against a plain float64 reference, PyTorch's cross-entropy, finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from exnihilo.kernels import linear_ce
from exnihilo.kernels.linear_ce import linear_cross_entropy, reference, token_logprobs


def case(n: int, d: int, v: int, seed: int, dtype: torch.dtype = torch.float64, bias: bool = True):
    g = torch.Generator().manual_seed(seed)
    h = torch.randn(n, d, generator=g, dtype=dtype, requires_grad=True)
    w = torch.randn(v, d, generator=g, dtype=dtype, requires_grad=True)
    b = torch.randn(v, generator=g, dtype=dtype, requires_grad=True) if bias else None
    y = torch.randint(0, v, (n,), generator=g)
    y[torch.rand(n, generator=g) < 0.3] = -100
    return h, w, b, y


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(2, 30),
    st.integers(1, 50),
    st.integers(0, 99),
    st.booleans(),
)
def test_equals_the_reference_in_value_and_gradient(
    n: int, d: int, v: int, chunk: int, seed: int, bias: bool
):
    h, w, b, y = case(n, d, v, seed, bias=bias)
    inputs = [t for t in (h, w, b) if t is not None]
    total, nll = linear_cross_entropy(h, w, y, bias_V=b, chunk=chunk)
    right, right_nll = reference(h, w, y, bias_V=b)
    torch.testing.assert_close(total, right)
    torch.testing.assert_close(nll, right_nll)
    for got, want in zip(
        torch.autograd.grad(total / 7, inputs), torch.autograd.grad(right / 7, inputs), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_is_the_cross_entropy_against_one_hot_targets():
    h, w, _, y = case(50, 8, 17, 1, bias=False)
    total, nll = linear_cross_entropy(h, w, y, chunk=7)
    logits, kept = h @ w.T, y >= 0
    onehot = F.one_hot(y.clamp(min=0), 17).double()
    by_hand = -(onehot * logits.softmax(-1).log()).sum(-1)[kept].sum()
    torch.testing.assert_close(total, by_hand)
    torch.testing.assert_close(total, F.cross_entropy(logits, y, reduction="sum"))
    torch.testing.assert_close(total, F.cross_entropy(logits[kept], onehot[kept], reduction="sum"))
    assert (nll[~kept] == 0).all()


def test_ignored_targets_give_exactly_zero_gradient_and_all_ignored_gives_zero():
    h, w, _, y = case(20, 4, 9, 2, torch.float32, bias=False)
    total, _ = linear_cross_entropy(h, w, y)
    (grad,) = torch.autograd.grad(total, [h])
    assert (grad[y < 0] == 0).all() and (grad[y >= 0].abs().sum(1) > 0).all()
    none, _ = linear_cross_entropy(h, w, torch.full_like(y, -100))
    assert none.item() == 0
    assert all((g == 0).all() for g in torch.autograd.grad(none, [h, w]))


def test_improbable_targets_do_not_underflow():
    h = torch.tensor([[1000.0, 0.0]])
    w = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    total, _ = linear_cross_entropy(h, w, torch.tensor([1]))
    assert total.item() == 1000.0


def test_never_holds_the_logits_of_all_positions(monkeypatch: pytest.MonkeyPatch):
    seen = []
    softmax = torch.softmax
    monkeypatch.setattr(
        torch, "softmax", lambda x, *a, **k: (seen.append(x.shape[0]), softmax(x, *a, **k))[1]
    )
    h, w, _, y = case(1000, 4, 600, 3, torch.float32, bias=False)
    linear_cross_entropy(h, w, y, chunk=64)[0].backward()
    assert max(seen) == 64 and sum(seen) == 1000


def test_autocast_computes_products_low_and_softmax_high():
    h, w, _, y = case(64, 32, 50, 4, torch.float32, bias=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = linear_cross_entropy(h, w, y)
    total.backward()
    assert total.dtype == torch.float32 and h.grad is not None and h.grad.dtype == torch.float32
    assert abs(total.item() / reference(h, w, y)[0].item() - 1) < 0.02


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs_take_any_gradient(temperature: float):
    h, w, b, _ = case(23, 5, 11, 5)
    assert b is not None
    y = torch.randint(0, 11, (23,), generator=torch.Generator().manual_seed(0))
    weights = torch.randn(23, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got = token_logprobs(h, w, y, bias_V=b, chunk=4, temperature=temperature)
    want = ((h @ w.T + b) / temperature).log_softmax(-1).gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(got, want)
    for a, c in zip(
        torch.autograd.grad((got * weights).sum(), [h, w, b]),
        torch.autograd.grad((want * weights).sum(), [h, w, b]),
        strict=True,
    ):
        torch.testing.assert_close(a, c)


def test_gradcheck():
    h, w, _, _ = case(6, 3, 5, 6, bias=False)
    y = torch.tensor([0, 1, 2, 3, 4, 0])
    assert torch.autograd.gradcheck(lambda a, c: token_logprobs(a, c, y, chunk=4), (h, w))
    assert torch.autograd.gradcheck(lambda a, c: linear_cross_entropy(a, c, y, chunk=4)[0], (h, w))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("bias", [True, False])
def test_logprobs_and_entropy_equal_autograd(
    kept: bool, temperature: float, bias: bool, monkeypatch: pytest.MonkeyPatch
):
    if not kept:
        monkeypatch.setattr(linear_ce, "KEPT", 0)
    h, w, b, _ = case(23, 5, 11, 7, bias=bias)
    y = torch.randint(0, 11, (23,), generator=torch.Generator().manual_seed(0))
    weights = torch.randn(23, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got, entropy = linear_ce.logprobs(h, w, y, b, temperature=temperature, entropy=True, chunk=4)
    logits = h @ w.T if b is None else h @ w.T + b
    whole = (logits / temperature).log_softmax(-1)
    want = whole.gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(got, want)
    assert entropy is not None and not entropy.requires_grad
    torch.testing.assert_close(entropy, -(whole.exp() * whole).sum(-1).detach())
    leaves = [t for t in (h, w, b) if t is not None]
    first = torch.autograd.grad((got * weights).sum(), leaves, retain_graph=True)
    for a, again, c in zip(
        first,
        torch.autograd.grad((got * weights).sum(), leaves),  # what was kept is not used up
        torch.autograd.grad((want * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, c)
        torch.testing.assert_close(again, c)
    assert linear_ce.logprobs(h, w, y)[1] is None


def test_logprobs_of_no_position_and_of_impossible_tokens():
    w = torch.zeros(4, 3, requires_grad=True)
    none, entropy = linear_ce.logprobs(torch.zeros(0, 3), w, torch.zeros(0, dtype=torch.long), entropy=True)
    assert none.shape == (0,) and entropy is not None and entropy.shape == (0,)
    none.sum().backward()
    assert w.grad is not None and not w.grad.any()
    bias = torch.tensor([0.0, -math.inf, 0.0, -math.inf])
    logp, entropy = linear_ce.logprobs(torch.zeros(1, 3), w, torch.tensor([1]), bias, entropy=True)
    assert logp.item() == -math.inf and entropy is not None
    assert entropy.item() == pytest.approx(math.log(2))
