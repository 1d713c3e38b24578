"""Attention: one masking rule, a plain reference, and the fast version with the same signature.

The rule (see nn/layout.py): q sees k if both are in the same document (`doc`, -1 = padding: sees nothing,
is seen by nothing) and k is not after q, or both are in the same block n > 0 (`group`); with a `window`, also
only if they are at most that many places apart; with branches (`branch`), also only if k is in the stem
(branch 0) or in the branch of q. `plan` turns it into a `Rule` once a forward, all layers share it, and it
holds a T×T mask only if nothing cheaper says the same, and never in rows above `long.LONG`::

    rule = plan(x_BTD, group=0, doc_BT=None)
    out_BHTd = attend(q_BHTd, k_BGTd, v_BGTd, rule)     # == reference(q_BHTd, k_BGTd, v_BGTd, rule)

A query that sees nothing gives zeros, never NaN, in value and gradient. A sink (`sink_H`) is a logit a head
that stands beside those of the keys and whose weight goes nowhere.

Roads not taken: a loop over documents (as fast as a mask on a CPU only for few, long documents); nested
tensors (no gradient through half of the operators needed).

Sources: Vaswani et al. 2017 (arXiv 1706.03762); Ainslie et al. 2023 (GQA, arXiv 2305.13245); Dao 2023 (arXiv
2307.08691); torch.nn.attention.flex_attention.

Key: B batch, T queries, S keys, H heads, G key-value heads, d head width
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from exnihilo.kernels import kept
from exnihilo.kernels import long as longs
from exnihilo.kernels import sink as sinks
from exnihilo.kernels.blocked import LEAST, Spans, blocked_attention, pays, spans
from exnihilo.kernels.dropout import dropout as drop

Kind = Literal["causal", "full", "mask", "long", "flex"]
_SHOWN = 1 << 26  # booleans of blocks that a rule keeps for the layers that come


@dataclass
class Rule:
    """Who sees whom, in the cheapest form that says it.

    Attributes:
        kind: causal or full (no mask at all), mask (`bias`, shared by all layers), long (`ranges`, see
            long.py), flex (`blocks`).
        bias: (B or 1, 1, T, S), 0 where q sees k and -inf where not, in the dtype of the products.
        blocks: the BlockMask of torch's flex attention.
        spans: with a bias on CPUs: which keys each block of queries needs at all.
        ranges: of long rows: which keys each block of queries needs at all.
        group, doc_BT, pos_BT, window, branch_BT, place_BT: what it was planned from; `visible` reads them.
        first: over a cache with a window, the first slot that any query sees.
    """

    kind: Kind
    bias: Tensor | None = None
    blocks: Any = None
    spans: Spans | None = None
    ranges: list[longs.Range] | None = None
    group: Tensor | int = 0
    doc_BT: Tensor | None = None
    pos_BT: Tensor | None = None  # set: keys come from a cache, whose slot index is its position
    window: int | None = None
    branch_BT: Tensor | None = None
    place_BT: Tensor | None = None
    first: int = 0
    device: Any = None
    _biases: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _shown: dict[tuple[int, ...], Tensor] = field(default_factory=dict, repr=False)
    _sunk: Rule | None = field(default=None, repr=False)

    def visible(self, T: int, device: Any = None) -> Tensor:
        """Booleans (B or 1, T, T): True where query t sees key s; not for a rule over a cache."""
        return visible(T, self.group, self.doc_BT, device, self.window, self.branch_BT, self.place_BT)

    def sees(self, row: int, start: int, end: int, low: int, high: int) -> Tensor:
        """Booleans (end - start, high - low): which of these keys these queries of a row see."""
        key = (row, start, end, low, high)
        if key in self._shown:
            return self._shown[key]
        group, doc_BT, branch_BT, place_BT = self.group, self.doc_BT, self.branch_BT, self.place_BT
        given = (x for x in (doc_BT, branch_BT, place_BT, group) if isinstance(x, Tensor))
        device = next((x.device for x in given), self.device)
        q, k = (torch.arange(a, b, device=device) for a, b in ((start, end), (low, high)))
        see = (
            torch.ones(len(q), len(k), dtype=torch.bool, device=device)
            if isinstance(group, int) and group > 0
            else k <= q[:, None]
        )
        if isinstance(group, Tensor):
            see = see | ((group[row, q, None] == group[row, k]) & (group[row, q, None] > 0))
        if doc_BT is not None:
            see = see & (doc_BT[row, q, None] == doc_BT[row, k]) & (doc_BT[row, q, None] >= 0)
        if self.window is not None:
            at = (q, k) if place_BT is None else (place_BT[row, q], place_BT[row, k])
            see = see & ((at[0][:, None] - at[1]).abs() <= self.window)
        if branch_BT is not None:
            see = see & ((branch_BT[row, k] == 0) | (branch_BT[row, q, None] == branch_BT[row, k]))
        if sum(x.numel() for x in self._shown.values()) + see.numel() <= _SHOWN:
            self._shown[key] = see
        return see

    def bias_for(self, slots: int, dtype: torch.dtype) -> Tensor:
        """The mask over a cache of so many slots, from `first` on, made once a forward."""
        if slots not in self._biases:
            assert self.pos_BT is not None
            see_BTS = cached(self.pos_BT, slots, self.window)[:, :, self.first :]
            self._biases[slots] = _bias(see_BTS, dtype)
        return self._biases[slots]

    def with_sink(self) -> Rule:
        """The same rule with the sink's place before each row, made once a forward."""
        if self._sunk is None:
            if self.bias is None:
                self._sunk = Rule(self.kind, group=self.group, window=self.window)
            else:
                self._sunk = Rule("mask", bias=sinks.beside(self.bias), group=self.group, window=self.window)
        return self._sunk


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that matrix products of `x` come out in, autocast considered."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return x.dtype
    return torch.get_autocast_dtype(kind)


def visible(
    T: int,
    group: Tensor | int = 0,
    doc_BT: Tensor | None = None,
    device: Any = None,
    window: int | None = None,
    branch_BT: Tensor | None = None,
    place_BT: Tensor | None = None,
) -> Tensor:
    """The rule itself, as booleans (B or 1, T, T): True where query t sees key s."""
    if doc_BT is not None:
        device = doc_BT.device
    elif isinstance(group, Tensor):
        device = group.device
    elif branch_BT is not None:
        device = branch_BT.device
    if isinstance(group, Tensor):
        same = (group[:, :, None] == group[:, None, :]) & (group[:, :, None] > 0)
        see = same | torch.ones(T, T, dtype=torch.bool, device=device).tril()
    elif group > 0:
        see = torch.ones(1, T, T, dtype=torch.bool, device=device)
    else:
        see = torch.ones(1, T, T, dtype=torch.bool, device=device).tril()
    if doc_BT is not None:
        see = see & (doc_BT[:, :, None] == doc_BT[:, None, :]) & (doc_BT[:, :, None] >= 0)
    if window is not None:
        place_BT = torch.arange(T, device=device)[None] if place_BT is None else place_BT
        see = see & ((place_BT[:, :, None] - place_BT[:, None, :]).abs() <= window)
    if branch_BT is not None:
        own = branch_BT[:, :, None] == branch_BT[:, None, :]
        see = see & (own | (branch_BT[:, None, :] == 0))
    return see


def cached(pos_BT: Tensor, slots: int, window: int | None = None) -> Tensor:
    """The rule with a cache, as booleans (B, T, S): a query at position p sees slots 0 .. p, with a window
    from p - window on."""
    slot_S, pos_BT1 = torch.arange(slots, device=pos_BT.device), pos_BT[:, :, None]
    see = slot_S <= pos_BT1
    return see if window is None else see & (slot_S >= pos_BT1 - window)


def _bias(see_BTS: Tensor, dtype: torch.dtype) -> Tensor:
    bias = torch.zeros(see_BTS.shape, dtype=dtype, device=see_BTS.device)
    return bias.masked_fill_(~see_BTS, -math.inf).unsqueeze(1)


def plan(
    x: Tensor,
    *,
    group: Tensor | int = 0,
    doc_BT: Tensor | None = None,
    pos_BT: Tensor | None = None,
    window: int | None = None,
    branch_BT: Tensor | None = None,
    place_BT: Tensor | None = None,
    flex: bool | None = None,
) -> Rule:
    """The cheapest `Rule` for hidden states `x` (B, T, ...), which give shape, device and dtype.

    Args:
        group: 0 causal, n > 0 full, or (B, T) blocks.
        doc_BT: documents, -1 = padding; None: one document a row.
        pos_BT: given with a cache: the slot each query was written to. Then `group` must be 0, `doc_BT` None.
        window: a query sees keys at most so many places away; None: any distance.
        place_BT: what distance is measured by; None: places in the row.
        branch_BT: 0 the stem, n > 0 a continuation of it; None: no branches.
        flex: use flex attention for masks; default: on CUDA, where it skips blocks that nobody sees.
    """
    B, T = x.shape[:2]
    if pos_BT is not None:
        # reading the smallest position back would stall an accelerator
        near = window is not None and pos_BT.device.type == "cpu"
        first = max(0, int(pos_BT.min()) - window) if near and window is not None else 0
        return Rule("mask", pos_BT=pos_BT, window=window, first=first)
    if doc_BT is None and isinstance(group, int) and window is None and branch_BT is None:
        return Rule("full" if group > 0 else "causal", group=group)
    given: dict[str, Any] = {"group": group, "doc_BT": doc_BT, "window": window, "branch_BT": branch_BT}
    given["place_BT"] = place_BT
    if flex if flex is not None else x.is_cuda:
        return Rule("flex", blocks=_blocks(B, T, x.device, **given), **given)
    # fake tensors have no values to look at
    if T > longs.LONG and type(x) is Tensor and x.device.type != "meta" and not torch.compiler.is_compiling():
        return Rule("long", ranges=_ranges(B, T, **given), device=x.device, **given)
    see = visible(T, group, doc_BT, x.device, window, branch_BT, place_BT)
    real = see.device.type == "cpu" and type(see) is Tensor  # fake tensors have no values to look at
    found = spans(see) if real and T >= LEAST and not torch.compiler.is_compiling() else None
    back = isinstance(group, int) and group == 0 and window is None and T in kept.LENGTHS
    if found is not None and (back or not pays(found, T, windowed=window is not None)):
        found = None
    return Rule("mask", bias=_bias(see, compute_dtype(x)), spans=found, **given)


def reference(
    q_BHTd: Tensor,
    k_BGSd: Tensor,
    v_BGSd: Tensor,
    rule: Rule,
    *,
    dropout: float = 0.0,
    sink_H: Tensor | None = None,
) -> Tensor:
    """Attention in a few lines of mathematics with an explicit mask, in the precision of its input."""
    T, S, d = q_BHTd.shape[2], k_BGSd.shape[2], q_BHTd.shape[3]
    if rule.pos_BT is not None:
        see_BTS = cached(rule.pos_BT, S, rule.window)
    else:
        see_BTS = rule.visible(T, q_BHTd.device)
    k_BHSd, v_BHSd = _repeat(q_BHTd, k_BGSd, v_BGSd)
    scores_BHTS = q_BHTd @ k_BHSd.transpose(-2, -1) / math.sqrt(d)
    scores_BHTS = scores_BHTS.masked_fill(~see_BTS.unsqueeze(1), torch.finfo(q_BHTd.dtype).min)
    if sink_H is not None:
        sink_BHT1 = sink_H[:, None, None].expand(*scores_BHTS.shape[:3], 1)
        scores_BHTS = torch.cat((scores_BHTS, sink_BHT1.to(scores_BHTS.dtype)), -1)
    weights_BHTS = scores_BHTS.softmax(-1)[..., :S] * see_BTS.unsqueeze(1)  # zeros where nothing is seen
    if dropout:
        weights_BHTS = F.dropout(weights_BHTS, dropout)
    return weights_BHTS @ v_BHSd


def attend(
    q_BHTd: Tensor,
    k_BGSd: Tensor,
    v_BGSd: Tensor,
    rule: Rule,
    *,
    dropout: float = 0.0,
    sink_H: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention under a rule, by the fastest means that this device has.

    Args:
        q_BHTd, k_BGSd, v_BGSd: queries, keys, values; G divides H (grouped queries).
        rule: from `plan`.
        dropout: share of attention weights dropped; 0 outside training.
        sink_H: a logit a head that takes weight and gives nothing.

    Returns:
        (B, H, T, d); rows that see nothing are zeros.
    """
    if rule.kind == "flex" and not dropout:
        return _flexed(q_BHTd, k_BGSd, v_BGSd, rule, sink_H)
    k_BHSd, v_BHSd = _repeat(q_BHTd, k_BGSd, v_BGSd)
    if rule.kind == "long" and rule.ranges is not None:
        more: dict[str, Any] = {"sink_H": sink_H, "dropout": dropout}
        return longs.long_attention(q_BHTd, k_BHSd, v_BHSd, rule.ranges, rule.sees, **more)
    if sink_H is not None:
        return _sunk(q_BHTd, k_BHSd, v_BHSd, rule, sink_H, dropout)
    if rule.pos_BT is not None and rule.first:
        k_BHSd, v_BHSd = k_BHSd[:, :, rule.first :], v_BHSd[:, :, rule.first :]
    if not dropout and rule.spans is not None and rule.bias is not None and _in_blocks(q_BHTd):
        if len(rule.spans) < q_BHTd.shape[0]:  # one rule for all rows: all rows are one
            rows = [x.flatten(0, 1).unsqueeze(0) for x in (q_BHTd, k_BHSd, v_BHSd)]
            return blocked_attention(rows[0], rows[1], rows[2], rule.spans, rule.bias).view(q_BHTd.shape)
        return blocked_attention(q_BHTd, k_BHSd, v_BHSd, rule.spans, rule.bias)
    if _keeps_weights(q_BHTd, k_BHSd, rule, dropout):
        fast = kept.unrolled if torch.compiler.is_compiling() else kept.kept_attention
        return fast(q_BHTd, k_BHSd, v_BHSd, causal=_looks_back(rule), bias=rule.bias, dropout=dropout)
    if rule.kind == "causal":
        return F.scaled_dot_product_attention(q_BHTd, k_BHSd, v_BHSd, is_causal=True, dropout_p=dropout)
    if rule.kind == "full":
        return F.scaled_dot_product_attention(q_BHTd, k_BHSd, v_BHSd, dropout_p=dropout)
    if rule.pos_BT is not None:
        bias = rule.bias_for(rule.first + k_BHSd.shape[2], q_BHTd.dtype)
    elif rule.bias is not None:
        bias = rule.bias
    else:
        bias = _made(rule, q_BHTd)
    return F.scaled_dot_product_attention(q_BHTd, k_BHSd, v_BHSd, attn_mask=bias, dropout_p=dropout)


def _made(rule: Rule, q_BHTd: Tensor) -> Tensor:
    """The mask of a rule that has none, since flex attention has no dropout: made once."""
    if 0 not in rule._biases:
        rule._biases[0] = _bias(rule.visible(q_BHTd.shape[2], q_BHTd.device), q_BHTd.dtype)
    return rule._biases[0]


def _sunk(
    q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, rule: Rule, sink_H: Tensor, dropout: float
) -> Tensor:
    """`attend` with a sink: a place before the row (sink.py)."""
    d = q_BHTd.shape[-1]
    if rule.pos_BT is not None:
        bias = rule.bias_for(k_BHSd.shape[2], q_BHTd.dtype)
        k_BHSd, v_BHSd = k_BHSd[:, :, rule.first :], v_BHSd[:, :, rule.first :]
        q, k, v = sinks.widened(q_BHTd, k_BHSd, v_BHSd, sink_H, query=False)
        mask = sinks.beside(bias, query=False)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)[..., :d]
    if rule.kind == "flex":
        rule = Rule("mask", bias=_made(rule, q_BHTd), group=rule.group, window=rule.window)
    q, k, v = sinks.widened(q_BHTd, k_BHSd, v_BHSd, sink_H)
    return attend(q, k, v, rule.with_sink(), dropout=dropout)[:, :, 1:, :d]


def _flexed(q_BHTd: Tensor, k_BGSd: Tensor, v_BGSd: Tensor, rule: Rule, sink_H: Tensor | None) -> Tensor:
    """Flex attention; a sink's weight follows from what it returns beside the output, log Σ exp."""
    given: dict[str, Any] = {"block_mask": rule.blocks, "enable_gqa": True}
    if sink_H is None:
        return _flex()(q_BHTd, k_BGSd, v_BGSd, **given)  # pyright: ignore
    out, lse_BHT = _flex()(q_BHTd, k_BGSd, v_BGSd, return_lse=True, **given)  # pyright: ignore
    return out * torch.sigmoid(lse_BHT - sink_H[:, None].to(lse_BHT.dtype)).unsqueeze(-1).to(out.dtype)


def attend_some(
    q_BHMd: Tensor,
    k_BGTd: Tensor,
    v_BGTd: Tensor,
    rule: Rule,
    chosen_BM: Tensor,
    *,
    dropout: float = 0.0,
    sink_H: Tensor | None = None,
) -> Tensor:
    """`attend` for M queries a row, which stand at positions `chosen_BM` of it; (B, H, M, d)."""
    k_BHTd, v_BHTd = _repeat(q_BHMd, k_BGTd, v_BGTd)
    (B, _, M, d), T = q_BHMd.shape, k_BHTd.shape[2]
    scores_BHMT = (q_BHMd * (1 / math.sqrt(d))) @ k_BHTd.mT
    sunk = () if sink_H is None else (sink_H[:, None, None].expand(*scores_BHMT.shape[:3], 1),)
    if rule.bias is None and rule.kind == "full":
        weights_BHMT = torch.softmax(torch.cat((scores_BHMT, *sunk), -1) if sunk else scores_BHMT, -1)
    else:
        bias = rule.bias
        if bias is None:
            bias = _bias(rule.visible(T, q_BHMd.device), q_BHMd.dtype)
        bias_B1MT = bias.expand(B, 1, T, T).gather(2, chosen_BM[:, None, :, None].expand(B, 1, M, T))
        blind_B1M1 = (bias_B1MT == -math.inf).all(-1, keepdim=True)  # a softmax over nothing is NaN
        open_B1MT = bias_B1MT.masked_fill(blind_B1M1, 0.0)
        scores_BHMT = scores_BHMT + open_B1MT
        weights_BHMT = torch.softmax(torch.cat((scores_BHMT, *sunk), -1) if sunk else scores_BHMT, -1)
        weights_BHMT = weights_BHMT.masked_fill(blind_B1M1, 0.0)
    weights_BHMT = weights_BHMT[..., :T]
    return (drop(weights_BHMT, dropout) if dropout else weights_BHMT) @ v_BHTd


def _in_blocks(q_BHTd: Tensor) -> bool:
    """Whether blocks of queries are faster than a mask over all of them."""
    return q_BHTd.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()


def _keeps_weights(q_BHTd: Tensor, k_BHTd: Tensor, rule: Rule, dropout: float) -> bool:
    """Whether `kernels.kept` applies: training on a CPU, rows of moderate length, everyone sees itself or
    nobody."""
    return (
        q_BHTd.device.type == "cpu"
        and torch.is_grad_enabled()
        and (q_BHTd.requires_grad or k_BHTd.requires_grad)
        and q_BHTd.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and rule.pos_BT is None
        and (rule.kind != "mask" or rule.bias is not None)
        and rule.kind != "flex"
        and kept.gains(q_BHTd.shape[2], causal=_looks_back(rule), dropout=dropout > 0)
    )


def _looks_back(rule: Rule) -> bool:
    """Whether nobody sees what comes later."""
    return rule.kind != "full" and isinstance(rule.group, int) and rule.group == 0


def _repeat(q_BHTd: Tensor, k_BGSd: Tensor, v_BGSd: Tensor) -> tuple[Tensor, Tensor]:
    """Each key-value head for its H/G query heads (faster than `enable_gqa` on CPUs; compiled: no copy)."""
    H, (B, G, S, d) = q_BHTd.shape[1], k_BGSd.shape
    if G == H:
        return k_BGSd, v_BGSd
    n = H // G
    k_BHSd = k_BGSd[:, :, None].expand(B, G, n, S, d).flatten(1, 2)
    return k_BHSd, v_BGSd[:, :, None].expand(B, G, n, S, d).flatten(1, 2)


def _ranges(
    B: int,
    T: int,
    group: Tensor | int,
    doc_BT: Tensor | None,
    window: int | None,
    branch_BT: Tensor | None,
    place_BT: Tensor | None,
) -> list[longs.Range]:
    """The keys of each block of queries; rows that differ only in branches or places differ, too."""
    alike = doc_BT is None and branch_BT is None and place_BT is None and isinstance(group, int)
    if doc_BT is None and not alike:
        doc_BT = torch.zeros(B, T, dtype=torch.int)
    heads = 8 * (B if alike else 1)
    return longs.ranges(T, group=group, doc_BT=doc_BT, window=window, place_BT=place_BT, rows=B, heads=heads)


def _blocks(
    B: int,
    T: int,
    device: torch.device,
    group: Tensor | int = 0,
    doc_BT: Tensor | None = None,
    window: int | None = None,
    branch_BT: Tensor | None = None,
    place_BT: Tensor | None = None,
) -> Any:
    """The rule as a BlockMask: blocks of 128×128 that nobody sees are skipped, in time and memory."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        del h
        see = k <= q
        if isinstance(group, Tensor):
            see = see | ((group[b, q] == group[b, k]) & (group[b, q] > 0))
        elif group > 0:
            see = k == k
        if doc_BT is not None:
            see = see & (doc_BT[b, q] == doc_BT[b, k]) & (doc_BT[b, q] >= 0)
        if window is not None:
            apart = q - k if place_BT is None else place_BT[b, q] - place_BT[b, k]
            see = see & (apart.abs() <= window)
        if branch_BT is not None:
            see = see & ((branch_BT[b, k] == 0) | (branch_BT[b, q] == branch_BT[b, k]))
        return see

    return create_block_mask(sees, B, None, T, T, device=device)  # pyright: ignore


_compiled_flex: list[Callable[..., Tensor]] = []


def _flex() -> Callable[..., Tensor]:
    """Flex attention, compiled on first use: uncompiled it would hold the T×T scores."""
    if not _compiled_flex:
        from torch.nn.attention.flex_attention import flex_attention

        _compiled_flex.append(torch.compile(flex_attention, dynamic=False))
    return _compiled_flex[0]
