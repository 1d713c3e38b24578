"""Causal attention in blocks against the plain reference, in float64, and where `attend` uses it."""

import pytest
import torch

from exnihilo.kernels import causal
from exnihilo.kernels.attention import attend, plan, reference


def inputs(B: int, T: int, H: int, d: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(T)
    # as the layers lay them out: positions before heads
    return [
        torch.randn(B, T, H, d, generator=g, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)
    ]


@pytest.mark.parametrize("T", [1, 63, 64, 65, 128, 200, 256])
def test_equals_the_reference_in_value_and_gradient(T: int):
    q, k, v = inputs(2, T, 3, 8)
    rule = plan(torch.empty(2, T, 24))
    fast, plain = causal.causal_attention(q, k, v), reference(q, k, v, rule)
    torch.testing.assert_close(fast, plain)
    out = torch.randn(fast.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(fast, (q, k, v), out), torch.autograd.grad(plain, (q, k, v), out), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_the_future_has_exactly_no_influence():
    q, k, v = inputs(1, 150, 2, 8)
    (grad_k, grad_v) = torch.autograd.grad(causal.causal_attention(q, k, v)[:, :, :70].sum(), (k, v))
    assert (grad_k[:, :, 70:] == 0).all() and (grad_v[:, :, 70:] == 0).all()
    assert (grad_v[:, :, :70] != 0).any()


def test_gradcheck():
    q, k, v = inputs(1, 70, 1, 2)
    assert torch.autograd.gradcheck(causal.causal_attention, (q, k, v), fast_mode=True)


def test_attend_uses_it_in_training_only(monkeypatch: pytest.MonkeyPatch):
    used = []
    real = causal.causal_attention
    monkeypatch.setattr(causal, "causal_attention", lambda *a: (used.append(1), real(*a))[1])
    q, k, v = inputs(1, 130, 2, 8, torch.float32)
    rule = plan(torch.empty(1, 130, 16))
    trained = attend(q, k, v, rule)
    with torch.no_grad():
        decoded = attend(q, k, v, rule)
    assert len(used) == 1
    torch.testing.assert_close(trained, decoded, atol=1e-6, rtol=1e-5)
    attend(q[:, :, :100], k[:, :, :100], v[:, :, :100], plan(torch.empty(1, 100, 16)))
    assert len(used) == 1
