"""Attention: every fast path equals the reference, the reference equals the rule read out loud.

Key: B batch, T queries, S keys, H heads, G key-value heads, d head width
"""

from __future__ import annotations

import math
import warnings

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from exnihilo.kernels import attention as room
from exnihilo.kernels.attention import Rule, attend, cached, plan, reference, visible
from exnihilo.kernels.blocked import LEAST, pays, spans

H, G, d = 4, 2, 8


def _qkv(B: int, T: int, S: int | None = None, dtype: torch.dtype = torch.float32, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    shapes = ((B, T, H, d), (B, S or T, G, d), (B, S or T, G, d))
    # as a model makes them: heads split out of the last dimension, so not contiguous
    return [torch.randn(s, generator=g, dtype=dtype).transpose(1, 2).requires_grad_() for s in shapes]


def _docs(B: int, T: int, seed: int = 0, padded: bool = True) -> torch.Tensor:
    """Packed rows: documents of random lengths, padding at the end of some rows and the start of others."""
    g = torch.Generator().manual_seed(seed)
    cuts = torch.rand(B, T, generator=g) < 8 / T
    doc_BT = cuts.cumsum(1).int()
    if padded:
        doc_BT[0, -T // 5 :] = -1
        doc_BT[-1, : T // 7] = -1
    return doc_BT


def _compare(inputs: list[torch.Tensor], rule: Rule, tolerance: float = 2e-6, **kw) -> torch.Tensor:
    """Outputs and gradients of both; returns the fast output."""
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(9)).to(inputs[0].dtype)
    results = []
    for function in (reference, attend):
        out = function(inputs[0], inputs[1], inputs[2], rule, **kw)
        results.append((out, *torch.autograd.grad(out, inputs, grad)))
    for slow, fast in zip(*results, strict=True):
        assert torch.isfinite(fast).all()
        assert (slow - fast).abs().max() <= tolerance * max(1.0, slow.abs().max().item())
    return results[1][0]


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("T", [1, 7, 64, 130, 200])
def test_without_documents_no_mask_is_made(group: int, T: int) -> None:
    inputs = _qkv(2, T)
    rule = plan(inputs[0].transpose(1, 2), group=group)
    assert rule.kind == ("full" if group else "causal")
    assert rule.bias is None and rule.blocks is None and rule.spans is None
    _compare(inputs, rule)


@pytest.mark.parametrize("group", [0, 1])
@pytest.mark.parametrize("T", [5, 64, 130, 200, 450, 600])
def test_packed_and_padded_rows(group: int, T: int) -> None:
    inputs, doc_BT = _qkv(3, T), _docs(3, T)
    rule = plan(inputs[0].transpose(1, 2), group=group, doc_BT=doc_BT)
    blocked = LEAST <= T if group else T > 512  # moderate causal rows have a kernel of their own
    assert rule.kind == "mask" and (rule.spans is not None) == blocked
    out = _compare(inputs, rule)
    assert (out.transpose(1, 2)[doc_BT < 0] == 0).all()  # what sees nothing is zeros


def test_float64_reference_is_exact_softmax() -> None:
    q, k, v = _qkv(2, 9, dtype=torch.float64)
    doc_BT = _docs(2, 9, padded=False)
    out = reference(q, k, v, Rule("mask", doc_BT=doc_BT))
    for b in range(2):
        for h in range(H):
            for t in range(9):
                seen = [s for s in range(t + 1) if doc_BT[b, s] == doc_BT[b, t]]
                keys, values = k[b, h // (H // G), seen], v[b, h // (H // G), seen]
                weights = torch.softmax(keys @ q[b, h, t] / math.sqrt(d), 0)
                assert torch.allclose(out[b, h, t], weights @ values, atol=1e-13)


@given(
    group=st.lists(st.integers(0, 2), min_size=6, max_size=6),
    doc=st.lists(st.integers(-1, 2), min_size=6, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_rule_is_what_it_says(group: list[int], doc: list[int]) -> None:
    see = visible(6, torch.tensor([group]), torch.tensor([doc]))[0]
    for q in range(6):
        for k in range(6):
            together = k <= q or (group[q] == group[k] and group[q] > 0)
            assert see[q, k].item() == (together and doc[q] == doc[k] and doc[q] >= 0)


@pytest.mark.parametrize("T", [12, 160])
def test_blocks_that_see_themselves_both_ways(T: int) -> None:
    """A prefix: the first third sees all of itself, the rest is causal."""
    inputs = _qkv(2, T)
    group_BT = (torch.arange(T) < T // 3).long().expand(2, T)
    rule = plan(inputs[0].transpose(1, 2), group=group_BT)
    _compare(inputs, rule)
    see = visible(T, group_BT)
    assert see[0, 0, T // 3 - 1] and not see[0, 0, T // 3] and not see[0, T // 3, T // 3 + 1]


def test_blocks_are_used_only_where_enough_is_skipped() -> None:
    one, many = torch.zeros(2, 512), torch.arange(512).div(64, rounding_mode="floor").expand(2, -1)
    assert not pays(spans(visible(512, 1, one)), 512, windowed=False)
    assert pays(spans(visible(512, 1, many)), 512, windowed=False)
    assert not pays(spans(visible(256, 1, many[:, :256])), 256, windowed=False)


def test_rows_that_see_nothing_at_all() -> None:
    for T in (16, 192):
        inputs = _qkv(2, T)
        doc_BT = torch.full((2, T), -1)
        out = _compare(inputs, plan(inputs[0].transpose(1, 2), doc_BT=doc_BT))
        assert (out == 0).all()


def test_not_a_number_is_not_hidden() -> None:
    """A diverged model must be noticed: only rows that see nothing become zeros."""
    inputs = [t.detach().clone() for t in _qkv(1, 128)]
    inputs[0][0, 0, 3] = math.nan
    doc_BT = torch.zeros(1, 128, dtype=torch.int32)
    doc_BT[0, 5:] = -1
    q, k, v = inputs
    out = attend(q, k, v, plan(q.transpose(1, 2), doc_BT=doc_BT))
    assert out[0, 0, 3].isnan().all() and torch.isfinite(out[0, 0, 4:]).all()


@pytest.mark.parametrize("T", [1, 5])
def test_cached_keys_by_slot(T: int) -> None:
    """Chunks of queries at their positions among S slots; what stands in later slots is not seen."""
    inputs = _qkv(2, T, 11)
    pos_BT = torch.tensor([[2], [6]]) + torch.arange(T)
    rule = plan(inputs[0].transpose(1, 2), pos_BT=pos_BT)
    out = _compare(inputs, rule)
    q, k, v = (t.detach().clone() for t in inputs)
    k[0, :, 2 + T :], v[0, :, 2 + T :] = 1e3, 1e3  # garbage after the last position of row 0
    assert torch.equal(attend(q, k, v, rule)[0], out[0])
    assert cached(pos_BT, 11).sum(-1).equal(pos_BT + 1)


def test_spans_hold_all_that_is_seen_and_little_else() -> None:
    T = 200
    see = visible(T, 0, _docs(3, T))
    for b, row in enumerate(spans(see)):
        touched = torch.zeros(T, T, dtype=torch.bool)
        for start, end, low, high, blind in row:
            touched[start:end, low:high] = True
            assert blind == bool((~see[b, start:end].any(-1)).any())
            if high > low:
                assert see[b, start:end, low].any() and see[b, start:end, high - 1].any()
        assert not (see[b] & ~touched).any()
    assert [(s.low, s.high) for s in spans(visible(T))[0]] == [(0, 64), (0, 128), (0, 192), (0, 200)]


def test_blocked_gradient_in_double_precision() -> None:
    inputs = _qkv(1, 140, dtype=torch.float64)
    rule = plan(inputs[0].transpose(1, 2), doc_BT=_docs(1, 140, seed=3))
    _compare(inputs, rule, tolerance=1e-12)


def test_flex_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path for CUDA, run uncompiled on the CPU: same block mask, same operator."""
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(room, "_compiled_flex", [flex_attention])
    for group in (0, (torch.arange(150) < 40).long().expand(2, 150)):
        q, k, v = (t.detach() for t in _qkv(2, 150))
        doc_BT = _docs(2, 150)
        rule = plan(q.transpose(1, 2), group=group, doc_BT=doc_BT, flex=True)
        assert rule.kind == "flex" and rule.bias is None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # says that it is not compiled: it is not, here
            out = attend(q, k, v, rule)
        assert (out - reference(q, k, v, rule)).abs().max() < 2e-6


def test_flex_with_dropout_falls_back_to_the_mask() -> None:
    q, k, v = (t.detach() for t in _qkv(2, 20))
    rule = plan(q.transpose(1, 2), doc_BT=_docs(2, 20), flex=True)
    torch.manual_seed(0)
    out = attend(q, k, v, rule, dropout=0.5)
    assert torch.isfinite(out).all() and not torch.allclose(out, reference(q, k, v, rule))


def test_dropout_keeps_the_expectation() -> None:
    q, k, v = (t.detach().expand(4000, *t.shape[1:]) for t in _qkv(1, 6))
    rule = plan(q.transpose(1, 2))
    torch.manual_seed(0)
    exact = reference(q, k, v, rule)[0]
    for function in (attend, reference):
        out = function(q, k, v, rule, dropout=0.3)
        error = out.std(0) / math.sqrt(4000)
        assert ((out.mean(0) - exact).abs() <= 5 * error + 1e-6).all() and error.max() > 0.005


def test_low_precision_masks_have_the_dtype_of_the_products() -> None:
    doc_BT = _docs(2, 140)
    q, k, v = (t.detach().bfloat16() for t in _qkv(2, 140))
    exact = reference(q.float(), k.float(), v.float(), Rule("mask", doc_BT=doc_BT))
    out = attend(q, k, v, plan(q.transpose(1, 2), doc_BT=doc_BT))
    assert out.dtype == torch.bfloat16 and (out.float() - exact).abs().max() < 0.03
    x = torch.zeros(2, 140, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rule = plan(x, doc_BT=doc_BT)
    assert rule.bias is not None and rule.bias.dtype == torch.bfloat16


def test_grouped_heads_share_keys() -> None:
    q, k, v = (t.detach() for t in _qkv(2, 10))
    wide_k, wide_v = k.repeat_interleave(H // G, 1), v.repeat_interleave(H // G, 1)
    grouped = attend(q, k, v, plan(q.transpose(1, 2)))
    assert torch.equal(grouped, F.scaled_dot_product_attention(q, wide_k, wide_v, is_causal=True))


def test_on_meta_tensors_shapes_come_out() -> None:
    q, k, v = (torch.empty(s, device="meta") for s in ((2, H, 256, d), (2, G, 256, d), (2, G, 256, d)))
    doc_BT = torch.empty(2, 256, dtype=torch.int32, device="meta")
    for rule in (plan(q.transpose(1, 2)), plan(q.transpose(1, 2), doc_BT=doc_BT)):
        assert attend(q, k, v, rule).shape == (2, H, 256, d)
