"""Attention over long rows and attention sinks: values and gradients of the plain reference.

Key: B batch, T positions, H heads, d head width
"""

from __future__ import annotations

import warnings
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from exnihilo.kernels import attention as room
from exnihilo.kernels import long as longs
from exnihilo.kernels.attention import attend, attend_some, plan, reference, visible
from exnihilo.kernels.long import ranges

H, d = 3, 8


def _qkv(B: int, T: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    g = torch.Generator().manual_seed(T)
    made = (torch.randn(B, T, H, d, generator=g, dtype=dtype).transpose(1, 2) for _ in range(3))
    return [x.requires_grad_() for x in made]


def _sink() -> Tensor:
    return torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)


def _packed(B: int, T: int) -> dict[str, Tensor]:
    """Documents with padding behind the first row's, and what a row may have beside them."""
    g = torch.Generator().manual_seed(T)
    doc_BT = (torch.rand(B, T, generator=g) < 3 / T).cumsum(1).int()
    doc_BT[0, -T // 5 :] = -1
    return {"doc_BT": doc_BT}


def _branched(B: int, T: int) -> dict[str, Tensor]:
    """A stem of a third, then two branches that go on at its end."""
    at_T, third = torch.arange(T), T // 3
    branch_T = ((at_T - third).div(third, rounding_mode="floor") + 1).clamp(0, 2)
    place_T = torch.where(branch_T == 2, at_T - third, at_T)
    return {"branch_BT": branch_T.expand(B, T), "place_BT": place_T.expand(B, T)}


RULES: dict[str, Any] = {
    "documents": lambda B, T: _packed(B, T),
    "window": lambda B, T: {"window": 20},
    "both": lambda B, T: {**_packed(B, T), "window": 9},
    "full window": lambda B, T: {"group": 1, "window": 33},
    "full documents": lambda B, T: {"group": 1, **_packed(B, T)},
    "blocks": lambda B, T: {"group": (torch.arange(T) // 40 % 3).expand(B, T), **_packed(B, T)},
    "branches": lambda B, T: {**_branched(B, T), "window": 50},
}


@pytest.mark.parametrize("sunk", [False, True])
@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("T", [257, 300])
def test_long_rows_equal_the_reference(
    kind: str, T: int, sunk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(longs, "LONG", 128)
    B, inputs, sink_H = 2, _qkv(2, T), _sink() if sunk else None
    rule = plan(inputs[0].transpose(1, 2), **RULES[kind](B, T))
    assert rule.kind == "long" and rule.bias is None
    grad = torch.randn(B, H, T, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = [*inputs, *([sink_H] if sink_H is not None else [])]
    results = []
    for function in (reference, attend):
        out = function(inputs[0], inputs[1], inputs[2], rule, sink_H=sink_H)
        results.append((out, *torch.autograd.grad(out, wanted, grad)))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8, check_stride=False)


@pytest.mark.parametrize("T", [7, 100, 300])
@pytest.mark.parametrize("kind", ["causal", "full", "documents", "window", "both"])
def test_sinks_equal_the_reference(kind: str, T: int) -> None:
    plain: dict[str, dict[str, Any]] = {"causal": {}, "full": {"group": 1}}
    given = plain[kind] if kind in plain else RULES[kind](2, T)
    inputs, sink_H = _qkv(2, T), _sink()
    rule = plan(inputs[0].transpose(1, 2), **given)
    grad = torch.randn(2, H, T, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for function in (reference, attend):
        out = function(inputs[0], inputs[1], inputs[2], rule, sink_H=sink_H)
        results.append((out, *torch.autograd.grad(out, (*inputs, sink_H), grad)))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-8, check_stride=False)


def test_a_sink_is_one_more_logit_of_gpt_oss() -> None:
    modeling = pytest.importorskip("transformers.models.gpt_oss.modeling_gpt_oss")
    q, k, v = (x.detach() for x in _qkv(2, 12))
    sink_H = _sink().detach()

    class Module(torch.nn.Module):
        num_key_value_groups, sinks = 1, sink_H

    mask = torch.full((12, 12), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    theirs, _ = modeling.eager_attention_forward(Module().eval(), q, k, v, mask, scaling=d**-0.5)
    ours = attend(q, k, v, plan(q.transpose(1, 2)), sink_H=sink_H)
    torch.testing.assert_close(ours, theirs.transpose(1, 2), atol=1e-12, rtol=1e-9, check_stride=False)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("sunk", [False, True])
def test_over_a_cache(window: int | None, sunk: bool) -> None:
    q, k, v = (x.detach() for x in _qkv(2, 20))
    pos_BT = torch.tensor([[17, 18], [12, 13]])
    sink_H = _sink().detach() if sunk else None
    rule = plan(q[:, :, :2].transpose(1, 2), pos_BT=pos_BT, window=window)
    assert rule.first == (7 if window else 0)
    ours = attend(q[:, :, :2], k, v, rule, sink_H=sink_H)
    theirs = reference(q[:, :, :2], k, v, rule, sink_H=sink_H)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9, check_stride=False)
    for b, t in ((0, 0), (1, 1)):  # the rule by hand
        p = int(pos_BT[b, t])
        low = 0 if window is None else p - window
        scores_HS = torch.einsum("hd,hsd->hs", q[b, :, t], k[b, :, low : p + 1]) / d**0.5
        if sink_H is not None:
            scores_HS = torch.cat((scores_HS, sink_H[:, None]), 1)
        share_HS = scores_HS.softmax(1)[:, : p + 1 - low]
        want = torch.einsum("hs,hsd->hd", share_HS, v[b, :, low : p + 1])
        torch.testing.assert_close(ours[b, :, t], want, atol=1e-12, rtol=1e-9)


def test_chosen_queries_with_a_sink() -> None:
    q, k, v = (x.detach() for x in _qkv(2, 30))
    rule, sink_H = plan(q.transpose(1, 2), doc_BT=_packed(2, 30)["doc_BT"]), _sink().detach()
    chosen_BM = torch.tensor([[3, 11], [0, 29]])
    some = torch.stack([q[b][:, chosen_BM[b]] for b in range(2)])
    found = attend_some(some, k, v, rule, chosen_BM, sink_H=sink_H)
    whole = reference(q, k, v, rule, sink_H=sink_H)
    want = torch.stack([whole[b][:, chosen_BM[b]] for b in range(2)])
    torch.testing.assert_close(found, want, atol=1e-12, rtol=1e-9)


def test_flex_with_a_sink_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    monkeypatch.setattr(room, "_compiled_flex", [flex_attention])
    q, k, v = (x.detach().float() for x in _qkv(2, 40))
    sink_H = _sink().detach().float()
    rule = plan(q.transpose(1, 2), flex=True, doc_BT=_packed(2, 40)["doc_BT"], window=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that it is not compiled: it is not, here
        out = attend(q, k, v, rule, sink_H=sink_H)
        dropped = attend(q, k, v, rule, sink_H=sink_H, dropout=1e-9)
    want = reference(q, k, v, rule, sink_H=sink_H)
    torch.testing.assert_close(out, want, atol=2e-6, rtol=1e-5, check_stride=False)
    torch.testing.assert_close(dropped, want, atol=2e-6, rtol=1e-5, check_stride=False)


def test_dropout_of_long_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mean over many draws is the output without it, its gradient the derivative of what it gave."""
    monkeypatch.setattr(longs, "LONG", 16)
    q, k, v = _qkv(1, 40)
    rule = plan(q.transpose(1, 2), window=8)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    outs = [attend(q, k, v, rule, dropout=0.4).detach() for _ in range(600)]
    want = attend(q, k, v, rule).detach()
    assert (torch.stack(outs).mean(0) - want).abs().max() < 0.25
    assert (torch.stack(outs).std(0).mean()) > 0.1

    def run(*given: Tensor) -> Tensor:
        torch.set_rng_state(state)
        return attend(given[0], given[1], given[2], rule, dropout=0.4)

    small = [x[:, :1, :20].detach().clone().requires_grad_() for x in (q, k, v)]
    rule = plan(small[0].transpose(1, 2), window=8)
    assert rule.kind == "long"
    assert torch.autograd.gradcheck(run, small, eps=1e-6, atol=1e-5)


@given(
    T=st.integers(1, 400),
    window=st.none() | st.integers(0, 200),
    cuts=st.lists(st.integers(0, 400), max_size=4),
    group=st.sampled_from([0, 1]),
    heads=st.sampled_from([1, 1 << 12, 1 << 16]),
)
@settings(max_examples=80, deadline=None)
def test_ranges_hold_all_that_is_seen(
    T: int, window: int | None, cuts: list[int], group: int, heads: int
) -> None:
    doc_BT = sum((torch.arange(T) >= c).int() for c in cuts)
    doc_BT = doc_BT[None] if isinstance(doc_BT, Tensor) else None
    see_TT = visible(T, group, doc_BT, None, window)[0]
    found = ranges(T, group=group, doc_BT=doc_BT, window=window, heads=heads)
    assert [r.start for r in found] == [0, *(r.end for r in found)][: len(found)]
    assert found[-1].end == T
    for r in found:
        part = see_TT[r.start : r.end].clone()
        part[:, r.low : r.high] = False
        assert not part.any()


def test_no_square_matrix_is_held() -> None:
    """A windowed row of 20,000 positions, forward and backward; a mask of it would take 1.6 GB."""
    T = 20_000
    q, k, v = (torch.randn(1, 1, T, 4, requires_grad=True) for _ in range(3))
    largest = 0

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    with Watch():
        rule = plan(q.transpose(1, 2).flatten(2), window=64)
        attend(q, k, v, rule).sum().backward()
    assert rule.kind == "long" and largest <= 4 * 8 * T
