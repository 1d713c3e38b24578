"""Attention with branches: the rule read out loud, and every fast path against the reference.

Key: B batch, T positions, H heads, G key-value heads, d head width
"""

from __future__ import annotations

import warnings

import pytest
import torch

from exnihilo.errors import ModelError
from exnihilo.kernels import attention as room
from exnihilo.kernels.attention import Rule, attend, attend_some, plan, reference, visible
from exnihilo.kernels.blocked import LEAST
from exnihilo.model.trunk import Trunk
from exnihilo.nn.block import Shape
from exnihilo.nn.layout import Seq

H, G, d = 4, 2, 8


def _qkv(B: int, T: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes = ((B, T, H, d), (B, T, G, d), (B, T, G, d))
    return [torch.randn(s, generator=g).transpose(1, 2).requires_grad_() for s in shapes]


def _rows(B: int, T: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed documents of a stem and up to three branches, padding at the end."""
    g = torch.Generator().manual_seed(seed)
    doc_BT, branch_BT = torch.full((B, T), -1), torch.zeros(B, T, dtype=torch.long)
    for b in range(B):
        at, document, end = 0, 0, T - int(torch.randint(0, T // 4 + 1, (1,), generator=g))
        while at < end:
            for number in range(int(torch.randint(1, 5, (1,), generator=g))):
                size = int(torch.randint(1, 12, (1,), generator=g))
                doc_BT[b, at : min(at + size, end)] = document
                branch_BT[b, at : min(at + size, end)] = number
                at += size
            document += 1
    return doc_BT, branch_BT


def _compare(inputs: list[torch.Tensor], rule: Rule) -> None:
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(9))
    results = []
    for function in (reference, attend):
        out = function(inputs[0], inputs[1], inputs[2], rule)
        results.append((out, *torch.autograd.grad(out, inputs, grad)))
    for slow, fast in zip(*results, strict=True):
        assert torch.isfinite(fast).all()
        assert (slow - fast).abs().max() <= 2e-6 * max(1.0, slow.abs().max().item())


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("packed", [True, False])
def test_the_rule_read_out_loud(group: int, packed: bool) -> None:
    doc_BT, branch_BT = _rows(3, 30)
    see = visible(30, group, doc_BT if packed else None, branch_BT=branch_BT)
    for b in range(3):
        for q in range(30):
            for k in range(30):
                same = not packed or (int(doc_BT[b, q]) == int(doc_BT[b, k]) >= 0)
                shown = int(branch_BT[b, k]) in (0, int(branch_BT[b, q]))
                assert bool(see[b, q, k]) == (same and shown and (group > 0 or k <= q))


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("T", [9, 130, 450])
def test_fast_paths_equal_the_reference(group: int, T: int) -> None:
    doc_BT, branch_BT = _rows(3, T)
    inputs = _qkv(3, T)
    rule = plan(inputs[0].transpose(1, 2), group=group, doc_BT=doc_BT, branch_BT=branch_BT)
    assert rule.kind == "mask" and (rule.spans is not None) == (group > 0 and T >= LEAST)
    _compare(inputs, rule)
    whole = plan(inputs[0].transpose(1, 2), group=group, branch_BT=branch_BT)
    _compare(inputs, whole)


def test_some_queries_and_dropout_obey_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    doc_BT, branch_BT = _rows(2, 40)
    q, k, v = _qkv(2, 40)
    rule = plan(q.transpose(1, 2), doc_BT=doc_BT, branch_BT=branch_BT)
    chosen_BM = torch.tensor([[3, 17, 21], [0, 5, 30]])
    want = reference(q, k, v, rule).gather(2, chosen_BM[:, None, :, None].expand(2, H, 3, d))
    some = attend_some(want.detach() * 0 + _at(q, chosen_BM), k, v, rule, chosen_BM)
    torch.testing.assert_close(some, want)
    # dropped weights are a subset of the rule's: what is seen by nobody stays without influence
    out = attend(q, k, v, rule, dropout=0.5)
    hidden = ~visible(40, 0, doc_BT, branch_BT=branch_BT)[0, 20]
    (grad,) = torch.autograd.grad(out[0, :, 20].sum(), [v])
    assert (grad[0].abs().sum((0, 2))[hidden] == 0).all()


def _at(q_BHTd: torch.Tensor, chosen_BM: torch.Tensor) -> torch.Tensor:
    return q_BHTd.gather(2, chosen_BM[:, None, :, None].expand(-1, H, -1, d))


def test_flex_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(room, "_compiled_flex", [flex_attention])
    doc_BT, branch_BT = _rows(2, 40)
    q, k, v = (x.detach() for x in _qkv(2, 40))
    rule = plan(q.transpose(1, 2), flex=True, branch_BT=branch_BT, doc_BT=doc_BT)
    assert rule.kind == "flex"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that it is not compiled: it is not, here
        out = attend(q, k, v, rule)
    torch.testing.assert_close(out, reference(q, k, v, rule), atol=2e-6, rtol=1e-5, check_stride=False)


def test_local_layers_refuse_branches_of_a_stem_without_positions() -> None:
    shape = Shape(16, 2, 2, 8, 32, "layer", 1e-5, False, "gelu", False, 0.0)
    trunk = Trunk(shape, 2, None, window=4, local=(True, False))
    x_BTD = torch.randn(1, 20, 16)
    own = torch.arange(20)[None] // 10
    trunk(Seq(x_BTD, branch_BT=1 + own))  # branches without a stem are documents: places are distances
    with pytest.raises(ModelError, match="stem"):
        trunk(Seq(x_BTD, branch_BT=own))
