"""The parts of a block against their formulas.

Key: B batch, T positions, H heads, d head width, K coordinates
"""

from __future__ import annotations

import cmath
import math

import pytest
import torch
import torch.nn.functional as F

from exnihilo.kernels.attention import plan
from exnihilo.nn.block import Block, Setting, Shape
from exnihilo.nn.mlp import GeluMLP, SwiGLU
from exnihilo.nn.norms import LayerNorm, RMSNorm, norm
from exnihilo.nn.rotary import Rotary, angles, rotate


def test_a_turn_is_a_complex_product() -> None:
    """Entry i and entry i + d/2 of a head are one complex number, turned by position × theta^(-2i/d)."""
    d, theta, pos = 8, 100.0, 7
    x = torch.randn(d, generator=torch.Generator().manual_seed(0))
    out = rotate(x.view(1, 1, 1, d), angles(torch.tensor([[pos]]), d, theta)).flatten()
    for i in range(d // 2):
        z = complex(x[i], x[i + d // 2]) * cmath.exp(1j * pos * theta ** (-2 * i / d))
        assert out[i].item() == pytest.approx(z.real, abs=1e-5)
        assert out[i + d // 2].item() == pytest.approx(z.imag, abs=1e-5)


def test_products_depend_on_the_distance_alone() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 1, 1, 16, generator=g), torch.randn(1, 1, 1, 16, generator=g)

    def product(a: int, b: int) -> float:
        turns = [angles(torch.tensor([[p]]), 16, 10_000.0) for p in (a, b)]
        return (rotate(q, turns[0]) * rotate(k, turns[1])).sum().item()

    assert product(3, 1) == pytest.approx(product(103, 101), abs=1e-4)
    assert abs(product(3, 1) - product(3, 2)) > 1e-3
    assert rotate(q, angles(torch.tensor([[50]]), 16, 1e4)).norm().item() == pytest.approx(q.norm().item())


def test_with_two_coordinates_each_has_half_of_the_frequencies() -> None:
    here, moved = (angles(torch.tensor([p]), 8, 100.0).cos.flatten() for p in ([2, 5], [2, 6]))
    assert (here != moved).tolist() == [False, True, False, True] * 2


def test_the_table_grows_and_stays_exact() -> None:
    rotary = Rotary(8, 10_000.0, 4)
    for T in (3, 4, 9, 33):
        turn, exact = rotary(T, None), rotary(T, torch.arange(T)[None, :, None])
        assert torch.equal(turn.cos, exact.cos[0, 0]) and torch.equal(turn.sin, exact.sin[0, 0])
    assert rotary.cos.shape[0] == 64
    assert not rotary.state_dict()  # nothing of it is saved
    low = rotary.to(torch.bfloat16)
    assert low.cos.dtype == torch.float32 and torch.equal(low(9, None).cos, turn.cos[:9])
    late = Rotary(8, 10_000.0, 9).to("meta").to_empty(device="cpu")
    assert torch.equal(late(9, None).cos, turn.cos[:9])


def test_mlps_are_their_formulas() -> None:
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    glu = SwiGLU(6, 10, bias=False)
    gate, up, down = (m.weight for m in (glu.gate, glu.up, glu.down))
    inner = (x @ gate.T) * torch.sigmoid(x @ gate.T) * (x @ up.T)
    assert torch.allclose(glu(x), inner @ down.T, atol=1e-6)
    gelu = GeluMLP(6, 10, bias=True)
    h = x @ gelu.up.weight.T + gelu.up.bias
    h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    assert torch.allclose(gelu(x), h @ gelu.down.weight.T + gelu.down.bias, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_norms_keep_the_dtype_and_the_law(dtype: torch.dtype) -> None:
    x = (5 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0)) + 3).to(dtype)
    for kind in ("rms", "layer"):
        module = norm(kind, 64, 1e-6)
        for name, p in module.named_parameters():
            torch.nn.init.constant_(p, 1.0 if name == "weight" else 0.0)
        assert isinstance(module, RMSNorm if kind == "rms" else LayerNorm)
        for weights in (module, module.to(dtype)):
            out = weights(x)
            assert out.dtype == dtype
            assert torch.allclose(out.double().pow(2).mean(-1), torch.ones(4).double(), atol=0.02)
            if kind == "layer":
                assert out.double().mean(-1).abs().max() < 0.02
        scaled = module(3 * x)
        assert torch.allclose(scaled.double(), out.double(), atol=0.03)  # scale does not matter


def test_a_block_written_out() -> None:
    """Pre-norm, two residual branches, grouped heads, norms on queries and keys."""
    shape = Shape(12, 4, 2, 6, 20, "rms", 1e-6, True, "swiglu", False, 0.0)
    torch.manual_seed(0)
    block = Block(shape, 0)
    for name, p in block.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(p, 0.5, 1.5)
    x = torch.randn(2, 5, 12)
    a, rotary = block.attention, Rotary(6, 100.0, 5)
    turn = rotary(5, None)
    out = block(x, Setting(plan(x), turn))

    def rms(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * w

    h = rms(x, block.attention_norm.weight)  # type: ignore[arg-type]
    q, k, v = ((h @ m.weight.T).view(2, 5, -1, 6).transpose(1, 2) for m in (a.q, a.k, a.v))
    q, k = rotate(rms(q, a.q_norm.weight), turn), rotate(rms(k, a.k_norm.weight), turn)  # type: ignore
    heads = []
    for head in range(4):
        scores = q[:, head] @ k[:, head // 2].transpose(1, 2) / math.sqrt(6)
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ v[:, head // 2])
    y = x + torch.cat(heads, -1) @ a.o.weight.T
    h = rms(y, block.mlp_norm.weight)  # type: ignore[arg-type]
    m = block.mlp
    assert isinstance(m, SwiGLU)
    y = y + F.silu(h @ m.gate.weight.T) * (h @ m.up.weight.T) @ m.down.weight.T
    assert torch.allclose(out, y, atol=1e-5)
