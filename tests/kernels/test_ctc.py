"""CTC against brute force over all paths."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.kernels import ctc


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(s for s, _ in itertools.groupby(path) if s != ctc.BLANK)


def all_texts(logp_TC: np.ndarray) -> dict[tuple[int, ...], float]:
    """ln p of every text, by adding up all paths."""
    T, C = logp_TC.shape
    out: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(C), repeat=T):
        p = float(sum(logp_TC[t, s] for t, s in enumerate(path)))
        text = collapsed(path)
        out[text] = float(np.logaddexp(out.get(text, -math.inf), p))
    return out


def drawn(T: int, C: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((T, C)) * 2
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_the_sum_over_all_paths(seed: int):
    rng = np.random.default_rng(seed)
    frames = [5, 4, 6]
    logps = [drawn(T, 3, seed * 10 + i) for i, T in enumerate(frames)]
    texts = [[1, 2], [1, 1], list(rng.integers(1, 3, 3))]
    want = -sum(all_texts(p)[tuple(int(s) for s in t)] for p, t in zip(logps, texts, strict=True))
    logits = torch.zeros(3, 6, 3, dtype=torch.float64)
    targets = torch.zeros(3, 3, dtype=torch.int64)
    for i, (p, t) in enumerate(zip(logps, texts, strict=True)):
        logits[i, : len(p)] = torch.from_numpy(p) + 3.0  # any shift: it is normalised
        targets[i, : len(t)] = torch.tensor(t)
    found = ctc.ctc_sum(logits, torch.tensor(frames), targets, torch.tensor([2, 2, 3]))
    assert float(found) == pytest.approx(want, rel=1e-9)


def test_a_text_that_takes_more_frames_than_there_are_counts_nothing():
    logits = torch.randn(1, 2, 3, requires_grad=True)
    loss = ctc.ctc_sum(logits, torch.tensor([2]), torch.tensor([[1, 1]]), torch.tensor([2]))
    loss.backward()
    assert float(loss.detach()) == 0 and logits.grad is not None and not logits.grad.any()
    assert ctc.least_frames([1, 1]) == 3


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(2, 3), st.integers(0, 10_000))
def test_a_wide_beam_finds_the_likeliest_text(T: int, C: int, seed: int):
    logp = drawn(T, C, seed)
    texts = all_texts(logp)
    found = tuple(ctc.beam(logp, width=len(texts)))
    assert texts[found] == pytest.approx(max(texts.values()))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_greedy_collapses_the_likeliest_path(path: list[int]):
    assert tuple(ctc.greedy(np.log(np.eye(4)[path] + 1e-6))) == collapsed(tuple(path))


def test_beam_adds_up_paths_that_greedy_does_not():
    logp = np.log(np.array([[0.4, 0.35, 0.25], [0.4, 0.35, 0.25]]))
    assert ctc.greedy(logp) == [] and ctc.beam(logp, width=9) == [1]


def test_gather_lays_packed_pieces_out_one_a_row():
    states = torch.arange(12.0).view(2, 6, 1)
    inside = torch.tensor([[0, 1, 1, 0, 1, 0], [0, 1, 1, 1, 0, 0]], dtype=torch.bool)
    piece = torch.tensor([[0, 0, 0, 1, 1, 1], [2, 2, 2, 2, 2, 2]])
    found, counts = ctc.gather(states, inside, piece, 3)
    assert counts.tolist() == [2, 1, 3]
    assert found.squeeze(-1).tolist() == [[1, 2, 0], [4, 0, 0], [7, 8, 9]]
