"""Local attention: a window over whatever else the rule says.

Key: B batch, T positions, H heads, d head width
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from exnihilo.kernels import attention as room
from exnihilo.kernels.attention import Rule, attend, plan, reference, visible
from exnihilo.kernels.blocked import LEAST

B, H, d = 2, 3, 8


def _qkv(T: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    g = torch.Generator().manual_seed(T)
    made = (torch.randn(B, T, H, d, generator=g, dtype=dtype).transpose(1, 2) for _ in range(3))
    return [x.requires_grad_() for x in made]


def _docs(T: int) -> Tensor:
    doc_BT = (torch.rand(B, T, generator=torch.Generator().manual_seed(T)) < 4 / T).cumsum(1).int()
    doc_BT[0, -T // 6 :] = -1
    return doc_BT


@given(
    doc=st.lists(st.integers(-1, 1), min_size=7, max_size=7),
    group=st.sampled_from([0, 1]),
    window=st.integers(0, 8),
)
@settings(max_examples=60, deadline=None)
def test_the_rule_is_what_it_says(doc: list[int], group: int, window: int) -> None:
    see = visible(7, group, torch.tensor([doc]), window=window)[0]
    for q in range(7):
        for k in range(7):
            near = abs(q - k) <= window and doc[q] == doc[k] and doc[q] >= 0
            assert see[q, k].item() == (near and (group > 0 or k <= q))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize(("T", "window"), [(5, 2), (64, 8), (130, 16), (200, 64), (1100, 20)])
def test_values_and_gradients_of_the_reference(packed: bool, group: int, T: int, window: int) -> None:
    inputs, doc_BT = _qkv(T), _docs(T) if packed else None
    rule = plan(inputs[0].transpose(1, 2), group=group, doc_BT=doc_BT, window=window)
    assert rule.kind == "mask" and (rule.spans is not None) == (T >= LEAST)
    grad = torch.randn(B, H, T, d, generator=torch.Generator().manual_seed(1))
    results = []
    for function in (reference, attend):
        out = function(inputs[0], inputs[1], inputs[2], rule)
        results.append((out, *torch.autograd.grad(out, inputs, grad)))
    for slow, fast in zip(*results, strict=True):
        assert torch.isfinite(fast).all() and (slow - fast).abs().max() < 5e-6
    if doc_BT is not None:
        assert (results[1][0].transpose(1, 2)[doc_BT < 0] == 0).all()


def test_float64_by_hand() -> None:
    T, window = 140, 5
    q, k, v = (x.detach() for x in _qkv(T, torch.float64))
    out = attend(q, k, v, plan(q.transpose(1, 2), group=1, window=window))
    for t in (0, 1, 70, 139):
        near = slice(max(0, t - window), t + window + 1)
        weights = torch.softmax(k[1, 2, near] @ q[1, 2, t] / math.sqrt(d), 0)
        assert torch.allclose(out[1, 2, t], weights @ v[1, 2, near], atol=1e-13)


def test_one_mask_serves_all_rows_and_what_is_far_costs_nothing() -> None:
    T = 512
    rule = plan(torch.zeros(8, T, 4), group=1, window=16)
    assert rule.bias is not None and rule.bias.shape == (1, 1, T, T)
    assert rule.spans is not None and len(rule.spans) == 1
    assert max(s.high - s.low for s in rule.spans[0]) <= 64 + 2 * 16


def test_flex_and_dropout_obey_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(room, "_compiled_flex", [flex_attention])
    q, k, v = (x.detach() for x in _qkv(150))
    rule = plan(q.transpose(1, 2), group=1, doc_BT=_docs(150), window=20, flex=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that it is not compiled: it is not, here
        assert (attend(q, k, v, rule) - reference(q, k, v, rule)).abs().max() < 2e-6
    v2 = v.clone()
    v2[:, :, 100:] += 1.0
    for one in (
        rule,
        Rule("mask", bias=plan(q.transpose(1, 2), group=1, window=20).bias, group=1, window=20),
    ):
        outs: list[Any] = []
        for values in (v, v2):
            torch.manual_seed(0)
            outs.append(attend(q, k, values, one, dropout=0.4)[:, :, :79])
        assert torch.equal(outs[0], outs[1])  # position 79 and before do not see 100
