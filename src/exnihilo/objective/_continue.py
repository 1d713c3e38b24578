"""Greedy continuations of the documents of some rows, whatever their positions hold.

    ids_PU, logp_P = continuations(model, {"tokens": ..., "kind": ..., "sound": ...}, codec, most=32)

Each document of a batch is read once, its keys and values are kept, and tokens follow until the end mark;
many documents at once, the shorter ones with unused places behind them: a place is overwritten before any
query sees it. For objectives whose answer is text and whose question is more than text.

Key: B rows, T positions, F numbers a position, P documents, U tokens of a continuation, S slots of a cache
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from exnihilo.nn.layout import Attention

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

TOGETHER = 32
"""Documents that are continued at once."""


def continuations(
    model: Model, raw: Mapping[str, Tensor], codec: Codec, *, most: int
) -> tuple[Tensor, Tensor]:
    """What a decoder writes behind each document.

    Args:
        raw: columns of a forward, (B, T) and (B, T, F); ``doc`` where rows hold several documents.
        most: tokens of a continuation; never more than the model has positions left.

    Returns:
        ids (P, most) int64, -1 behind the end, and the log-probability (P) of each, its end included.
    """
    spans = documents(raw)
    ids_PU = torch.full((len(spans), most), -1, dtype=torch.int64)
    logp_P = torch.zeros(len(spans))
    order = sorted(range(len(spans)), key=lambda p: spans[p][2] - spans[p][1])
    for at in range(0, len(order), TOGETHER):
        chosen = order[at : at + TOGETHER]
        found, sums = _continue(model, raw, [spans[p] for p in chosen], codec, most)
        ids_PU[chosen], logp_P[chosen] = found, sums
    return ids_PU, logp_P


def documents(raw: Mapping[str, Tensor]) -> list[tuple[int, int, int]]:
    """Where the documents of some rows stand: (row, first position, one behind the last)."""
    B, T = raw["tokens"].shape
    doc_BT = raw.get("doc")
    if doc_BT is None:
        return [(b, 0, T) for b in range(B)]
    out: list[tuple[int, int, int]] = []
    for b, row in enumerate(doc_BT.tolist()):
        start = 0
        for t in range(1, T + 1):
            if t == T or row[t] != row[start]:
                if row[start] >= 0:
                    out.append((b, start, t))
                start = t
    return out


def _continue(
    model: Model,
    raw: Mapping[str, Tensor],
    spans: list[tuple[int, int, int]],
    codec: Codec,
    most: int,
) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([end - start for _, start, end in spans])
    P, T = len(spans), int(lengths.max())
    device = raw["tokens"].device
    columns = {name: value for name, value in raw.items() if name not in ("doc", "pos", "needed")}
    laid = {name: value.new_zeros((P, T, *value.shape[2:])) for name, value in columns.items()}
    for p, (b, start, end) in enumerate(spans):
        for name, value in columns.items():
            laid[name][p, : end - start] = value[b, start:end]
    laid["pos"] = torch.arange(T, device=device).expand(P, T)
    head = model.heads["tokens"]
    cache = Slots(P, min(model.config.context, T + most))
    hidden_PTD = model(laid, Attention.CAUSAL, cache)
    last_PD = hidden_PTD[torch.arange(P), lengths - 1]
    ids_PU = torch.full((P, most), -1, dtype=torch.int64)
    logp_P, done_P = torch.zeros(P), torch.zeros(P, dtype=torch.bool)
    for u in range(most):
        logp_PV = head.logits(last_PD).float().log_softmax(-1)  # type: ignore[operator]
        best = logp_PV.max(-1)
        next_P, score_P = best.indices.cpu(), best.values.cpu()
        logp_P += score_P.masked_fill(done_P, 0)
        done_P |= next_P == codec.eos_id
        ids_PU[:, u] = next_P.masked_fill(done_P, -1)
        place_P = lengths + u
        done_P |= place_P + 1 >= model.config.context
        if bool(done_P.all()) or u + 1 == most:
            break
        place_P = place_P.clamp(max=cache.slots - 1)  # of those that are done: read by nobody
        step = {"tokens": next_P.unsqueeze(1).to(device), "pos": place_P.unsqueeze(1).to(device)}
        last_PD = model(step, Attention.CAUSAL, cache)[:, 0]
    return ids_PU, logp_P


class Slots:
    """Keys and values of some rows (`nn.cache.KVCache`): slot s of a row holds its position s."""

    def __init__(self, rows: int, slots: int) -> None:
        self.rows, self.slots = rows, slots
        self._held: dict[int, tuple[Tensor, Tensor]] = {}

    def write(self, layer: int, k_BHTd: Tensor, v_BHTd: Tensor, pos_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Puts them at their positions; gives back all slots."""
        if layer not in self._held:
            B, H, _, d = k_BHTd.shape
            self._held[layer] = (k_BHTd.new_zeros(B, H, self.slots, d), v_BHTd.new_zeros(B, H, self.slots, d))
        k_BHSd, v_BHSd = self._held[layer]
        rows_B1 = torch.arange(self.rows, device=pos_BT.device).unsqueeze(1)
        k_BHSd[rows_B1, :, pos_BT] = k_BHTd.transpose(1, 2)
        v_BHSd[rows_B1, :, pos_BT] = v_BHTd.transpose(1, 2)
        return k_BHSd, v_BHSd
