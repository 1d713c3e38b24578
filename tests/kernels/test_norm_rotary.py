"""The fast norm and turn against their references, in value and gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.kernels import norm, rotary


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=0, max_size=3), st.integers(1, 9), st.integers(0, 99))
def test_rms_norm_equals_its_reference(lead: list[int], width: int, seed: int):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(*lead, width, generator=g, dtype=torch.float64, requires_grad=True)
    w = torch.randn(width, generator=g, dtype=torch.float64, requires_grad=True)
    fast, plain = norm.rms_norm(x, w, 1e-6), norm.reference(x, w, 1e-6)
    torch.testing.assert_close(fast, plain)
    out = torch.randn(fast.shape, generator=g, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(fast, (x, w), out), torch.autograd.grad(plain, (x, w), out), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_rms_norm_takes_transposed_input_and_zero_rows():
    x = torch.randn(2, 3, 5, 8).transpose(1, 2).requires_grad_()
    w = torch.rand(8, requires_grad=True)
    torch.testing.assert_close(norm.rms_norm(x, w, 1e-6), norm.reference(x, w, 1e-6))
    zero = torch.zeros(4, 8, requires_grad=True)
    out = norm.rms_norm(zero, w, 1e-6)
    out.sum().backward()
    assert (out == 0).all() and zero.grad is not None and torch.isfinite(zero.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_input_keeps_its_type(dtype: torch.dtype):
    x, w = torch.randn(4, 16), torch.rand(16)
    out = norm.rms_norm(x.to(dtype), w, 1e-6)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), norm.reference(x, w, 1e-6), atol=0.03, rtol=0.03)


def table(length: int, d: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.arange(length)[:, None] * 0.3 ** torch.arange(d // 2)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), -1).to(dtype), torch.cat((-sin, sin), -1).to(dtype)


def test_rotate_equals_its_reference_keeps_lengths_and_turns_back():
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64).transpose(1, 2).requires_grad_()
    x_BHTd = x.transpose(1, 2)
    cos, sin = table(7, 8, torch.float64)
    fast, plain = rotary.rotate(x_BHTd, cos, sin), rotary.reference(x_BHTd, cos, sin)
    torch.testing.assert_close(fast, plain)
    torch.testing.assert_close(fast.norm(dim=-1), x_BHTd.norm(dim=-1))
    torch.testing.assert_close(rotary.rotate(fast, cos, -sin), x_BHTd)
    out = torch.randn_like(fast)
    (a,), (b,) = torch.autograd.grad(fast, x, out), torch.autograd.grad(plain, x, out)
    torch.testing.assert_close(a, b)


def test_compiled_takes_the_plain_form():
    cos, sin = table(4, 8, torch.float32)
    x, w = torch.randn(1, 2, 4, 8), torch.rand(8)
    compiled = torch.compile(
        lambda x: rotary.rotate(norm.rms_norm(x, w, 1e-6), cos, sin), backend="eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(x), rotary.rotate(norm.rms_norm(x, w, 1e-6), cos, sin))
