"""Connectionist temporal classification: the loss over packed sounds, and reading its outputs.

    loss_P = ctc_each(logits_PTC, frames_P, targets_PU, symbols_P)
    ids = greedy(logp_TC)                    # the likeliest symbol of each frame, repeats and blanks dropped
    ids = beam(logp_TC, width=8)             # the likeliest text: paths that spell the same are added up
    ids_T = spread(heard_T, ids)             # a text laid evenly over what is heard: where training begins

Symbol 0 is the blank. Products are in fp32 at least: the sums over paths underflow in less.

Source: Graves et al. 2006, *Connectionist Temporal Classification*; Hannun et al. 2014 (prefix beam search,
arXiv 1408.2873).

Key: P sounds, T frames, C symbols with the blank, U symbols of a text
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLANK = 0
_LOW = -math.inf


def least_frames(ids: list[int]) -> int:
    """Frames that a text takes at least: one a symbol, and a blank between two that are the same.

    >>> least_frames([3, 3, 4])
    4
    """
    return len(ids) + sum(a == b for a, b in zip(ids, ids[1:], strict=False))


def ctc_each(logits_PTC: Tensor, frames_P: Tensor, targets_PU: Tensor, symbols_P: Tensor) -> Tensor:
    """−ln p(text | sound) of each sound, nats (P,); 0 where the text takes more frames than there are.

    Args:
        logits_PTC: scores, padded at the end of each sound.
        frames_P: frames of each. targets_PU: symbols from 1, padded. symbols_P: of each text.
    """
    wide = torch.promote_types(logits_PTC.dtype, torch.float32)
    logp_TPC = logits_PTC.to(wide).log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(
        logp_TPC, targets_PU, frames_P, symbols_P, blank=BLANK, reduction="none", zero_infinity=True
    )


def ctc_sum(logits_PTC: Tensor, frames_P: Tensor, targets_PU: Tensor, symbols_P: Tensor) -> Tensor:
    """The same, added up over all sounds."""
    return ctc_each(logits_PTC, frames_P, targets_PU, symbols_P).sum()


def spread(heard_T: np.ndarray, ids: Sequence[int] | np.ndarray) -> np.ndarray:
    """A text laid over frames evenly: each symbol has as many of the frames in which something is heard, the
    others are blank. Int64 (T,).

    >>> spread(np.array([False, True, True, True, True, False]), [3, 5]).tolist()
    [0, 3, 3, 5, 5, 0]
    """
    out = np.zeros(len(heard_T), np.int64)
    at = np.flatnonzero(heard_T)
    if len(at) and len(ids):
        out[at] = np.asarray(ids, np.int64)[np.arange(len(at)) * len(ids) // len(at)]
    return out


def greedy(logp_TC: np.ndarray) -> list[int]:
    """The likeliest symbol of each frame; repeats are one, blanks are dropped.

    >>> greedy(np.log(np.eye(3)[[1, 1, 0, 1, 2]] + 1e-9))
    [1, 1, 2]
    """
    best_T = logp_TC.argmax(1)
    new_T = np.concatenate(([True], best_T[1:] != best_T[:-1])) & (best_T != BLANK)
    return best_T[new_T].tolist()


def beam(logp_TC: np.ndarray, *, width: int = 8, few: int = 20) -> list[int]:
    """The text whose paths together are likeliest, by prefix beam search.

    Args:
        logp_TC: log-probabilities.
        width: texts kept at each frame.
        few: symbols that are tried at each frame, the likeliest.
    """
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, _LOW)}  # ends in a blank, ends in a symbol
    C = logp_TC.shape[1]
    for row in np.asarray(logp_TC, np.float64):
        tried = np.argpartition(-row, few)[:few].tolist() if few < C else range(C)
        found: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [_LOW, _LOW])
        for text, (blank, symbol) in beams.items():
            both, last = _add(blank, symbol), text[-1] if text else BLANK
            for s in tried:
                p = float(row[s])
                if s == BLANK:
                    found[text][0] = _add(found[text][0], both + p)
                elif s == last:
                    found[text][1] = _add(found[text][1], symbol + p)
                    longer = found[(*text, s)]
                    longer[1] = _add(longer[1], blank + p)
                else:
                    longer = found[(*text, s)]
                    longer[1] = _add(longer[1], both + p)
        best = sorted(found.items(), key=lambda pair: -_add(*pair[1]))[:width]
        beams = {text: (ends[0], ends[1]) for text, ends in best}
    return list(max(beams, key=lambda text: _add(*beams[text])))


def _add(a: float, b: float) -> float:
    """ln(eᵃ + eᵇ)."""
    if a == _LOW or b == _LOW:
        return max(a, b)
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


def gather(states_BTD: Tensor, inside_BT: Tensor, piece_BT: Tensor, pieces: int) -> tuple[Tensor, Tensor]:
    """States of packed rows as one row a piece: (P, T, D) padded with zeros, and how many each has (P,).

    Args:
        inside_BT: which positions are taken. piece_BT: whose they are, 0 .. pieces-1, rising along each row.
    """
    at_N = piece_BT[inside_BT]
    count_P = torch.bincount(at_N, minlength=pieces)
    first_P = count_P.cumsum(0) - count_P
    place_N = torch.arange(len(at_N), device=at_N.device) - first_P[at_N]
    longest = int(count_P.max()) if pieces else 0
    out = states_BTD.new_zeros(pieces, max(1, longest), states_BTD.shape[-1])
    return out.index_put((at_N, place_N), states_BTD[inside_BT]), count_P
