"""The chain's likelihood, best path and marginals against plain enumeration of all paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from exnihilo.kernels import crf


def score_of(path, scores, transitions, start, stop) -> float:
    """The score of one path, one addition at a time."""
    total = start[path[0]] + stop[path[-1]]
    for t, tag in enumerate(path):
        total = total + scores[t, tag]
        if t:
            total = total + transitions[path[t - 1], tag]
    return float(total)


def enumerate_all(scores, transitions, start, stop):
    """(log of the sum over paths, best path, marginals) by listing every path."""
    W, C = scores.shape
    paths = list(itertools.product(range(C), repeat=W))
    values = [score_of(p, scores, transitions, start, stop) for p in paths]
    top = max(values)
    log_z = top + math.log(sum(math.exp(v - top) for v in values))
    share = torch.zeros(W, C, dtype=torch.float64)
    for path, value in zip(paths, values, strict=True):
        for t, tag in enumerate(path):
            share[t, tag] += math.exp(value - log_z)
    return log_z, paths[values.index(top)], share


def draw(seed: int, lengths: list[int], C: int, scale: float = 1.0):
    g = torch.Generator().manual_seed(seed)
    M = sum(lengths)
    scores = scale * torch.randn(M, C, generator=g, dtype=torch.float64)
    chain = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((C, C), (C,), (C,))]
    tags = torch.randint(0, C, (M,), generator=g)
    piece = torch.repeat_interleave(torch.arange(len(lengths)) * 3 + 1, torch.tensor(lengths))
    return scores, tags, piece, chain


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3))
def test_pieces_of_different_length_equal_enumeration(seed: int, lengths: list[int], C: int):
    scores, tags, piece, chain = draw(seed, lengths, C)
    padded, place, length = crf.batch(scores, piece)
    assert length.tolist() == lengths
    ll = crf.log_likelihood(padded, tags[place], length, *chain)
    best, value = crf.viterbi(padded, length, *chain)
    share = crf.marginals(padded, length, *chain)
    at = 0
    for p, n in enumerate(lengths):
        mine, gold = scores[at : at + n], tags[at : at + n].tolist()
        log_z, path, want = enumerate_all(mine, *chain)
        assert ll[p].item() == pytest.approx(score_of(gold, mine, *chain) - log_z, abs=1e-9)
        assert tuple(best[p, :n].tolist()) == path and not best[p, n:].any()
        assert value[p].item() == pytest.approx(score_of(path, mine, *chain))
        torch.testing.assert_close(share[p, :n], want)
        assert not share[p, n:].any()
        at += n


def test_a_piece_cut_out_of_a_longer_one_has_no_start_or_stop():
    scores, tags, piece, (transitions, start, stop) = draw(1, [3, 3], 3)
    padded, place, length = crf.batch(scores, piece)
    flags = torch.tensor([False, True])
    got = crf.log_likelihood(
        padded, tags[place], length, transitions, start, stop, begins_P=flags, ends_P=~flags
    )
    for p, (a, b) in enumerate(((0 * start, stop), (start, 0 * stop))):
        mine = scores[3 * p : 3 * p + 3]
        log_z, _, _ = enumerate_all(mine, transitions, a, b)
        want = score_of(tags[3 * p : 3 * p + 3].tolist(), mine, transitions, a, b) - log_z
        assert got[p].item() == pytest.approx(want)


def test_the_gradient_of_the_likelihood_is_gold_minus_marginals():
    scores, tags, piece, chain = draw(2, [5, 2], 4)
    padded, place, length = crf.batch(scores, piece)
    padded.requires_grad_()
    crf.log_likelihood(padded, tags[place], length, *chain).sum().backward()
    real = torch.arange(5) < length[:, None]
    gold = torch.nn.functional.one_hot(tags[place], 4) * real[..., None]
    torch.testing.assert_close(padded.grad, gold - crf.marginals(padded, length, *chain))


def test_gradients_by_finite_differences():
    scores, tags, piece, chain = draw(3, [3, 1], 2)
    padded, place, length = crf.batch(scores, piece)
    parts = [padded, *chain]
    for part in parts:
        part.requires_grad_()

    def f(padded: Tensor, *chain: Tensor) -> Tensor:
        return crf.log_likelihood(padded, tags[place], length, *chain)

    assert torch.autograd.gradcheck(f, parts)


def test_float32_stays_exact_over_a_thousand_words_and_huge_scores():
    scores, tags, piece, chain = draw(4, [1000], 5, scale=50.0)
    want = crf.log_likelihood(*_padded(scores, tags, piece), *chain)
    low = crf.log_likelihood(*_padded(scores.float(), tags, piece), *(c.float() for c in chain))
    assert low.item() == pytest.approx(want.item(), rel=1e-6)
    assert crf.viterbi(
        crf.batch(scores.float(), piece)[0], torch.tensor([1000]), *(c.float() for c in chain)
    )[1].item() == pytest.approx(
        crf.viterbi(crf.batch(scores, piece)[0], torch.tensor([1000]), *chain)[1].item()
    )


def _padded(scores: Tensor, tags: Tensor, piece: Tensor):
    padded, place, length = crf.batch(scores, piece)
    return padded, tags[place], length


def test_forbidden_transitions_are_never_taken_and_have_finite_gradients():
    scores, tags, piece, (transitions, start, stop) = draw(5, [6], 3)
    transitions = transitions.clone()
    transitions[0, 1] = crf.FORBIDDEN
    transitions.requires_grad_()
    padded, place, length = crf.batch(10 * scores, piece)
    best, _ = crf.viterbi(padded, length, transitions, start, stop)
    pairs = list(itertools.pairwise(best[0].tolist()))
    assert (0, 1) not in pairs
    crf.log_likelihood(padded, tags[place], length, transitions, start, stop).sum().backward()
    assert transitions.grad is not None and torch.isfinite(transitions.grad).all()


def test_no_pieces():
    padded, place, length = crf.batch(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    assert padded.shape == (0, 0, 3) and place.shape == (0, 0) and length.shape == (0,)
