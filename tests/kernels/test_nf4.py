"""Four bits a weight: the nearest of 16 levels of each block, against brute force; the product and its
gradient against those of the matrix that the codes stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.errors import UsageError
from exnihilo.kernels import nf4


def literal(weight: np.ndarray) -> np.ndarray:
    """The matrix after rounding, by loops in float64."""
    out = np.zeros_like(weight, dtype=np.float64)
    for row in range(weight.shape[0]):
        for at in range(0, weight.shape[1], nf4.BLOCK):
            block = weight[row, at : at + nf4.BLOCK].astype(np.float64)
            scale = np.abs(block).max()
            for i, value in enumerate(block):
                level = min(nf4.LEVELS, key=lambda x: abs(x * scale - value))
                out[row, at + i] = level * scale
    return out


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 4),
    pairs=st.integers(1, 70),
    seed=st.integers(0, 2**16),
    size=st.sampled_from([0.0, 1e-6, 1.0, 1e4]),
)
def test_each_weight_becomes_the_nearest_level_of_its_block(
    rows: int, pairs: int, seed: int, size: float
) -> None:
    weight = size * np.random.default_rng(seed).standard_normal((rows, 2 * pairs)).astype(np.float32)
    codes, scales = nf4.quantise(torch.from_numpy(weight))
    assert codes.shape == (rows, pairs) and scales.shape == (rows, math.ceil(2 * pairs / nf4.BLOCK))
    close = nf4.dequantise(codes, scales)
    np.testing.assert_allclose(close.numpy(), literal(weight), rtol=1e-5, atol=1e-6 * size)
    again = nf4.quantise(close)
    assert torch.equal(again[0], codes) or size == 0  # what is rounded stays (of nothing any code is one)
    assert torch.equal(nf4.dequantise(*again), close)


def test_the_levels_are_those_of_a_normal_distribution() -> None:
    """The paper's appendix E: quantiles of both halves of a normal distribution, scaled to -1 .. 1."""
    normal = torch.distributions.Normal(0.0, 1.0)
    offset = 0.9677083
    upper = normal.icdf(torch.linspace(offset, 0.5, 9)[:-1])
    lower = -normal.icdf(torch.linspace(offset, 0.5, 8)[:-1])
    wanted = torch.cat([upper, torch.zeros(1), lower]).sort().values
    np.testing.assert_allclose(np.array(nf4.LEVELS), (wanted / wanted.max()).numpy(), atol=1e-5)


def test_product_and_gradient_are_those_of_the_rounded_matrix() -> None:
    g = torch.Generator().manual_seed(0)
    weight, x = torch.randn(24, 96, generator=g), torch.randn(3, 5, 96, generator=g, requires_grad=True)
    codes, scales = nf4.quantise(weight)
    close = nf4.dequantise(codes, scales)
    assert 0.02 < float((close - weight).std()) < 0.15  # rounded, and not by much
    out = nf4.product(x, codes, scales)
    torch.testing.assert_close(out, x @ close.T)
    grad = torch.randn(out.shape, generator=g)
    out.backward(grad)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, grad @ close)


def test_what_cannot_be_quantised_is_refused() -> None:
    for bad in (torch.zeros(2, 3), torch.tensor([[1.0, float("nan")]])):
        with pytest.raises(UsageError):
            nf4.quantise(bad)
