"""The filters against Transformers, draws against the distribution they claim, numbers against their law."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.errors import UsageError
from exnihilo.infer.sampling import Sampling, process, sample, uniforms


def logits(rows: int = 4, vocabulary: int = 300, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def theirs(scores: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    ids: Any = torch.zeros(len(scores), 1, dtype=torch.long)
    scores = TemperatureLogitsWarper(float(sampling.temperature))(ids, scores)
    if sampling.top_k is not None:
        scores = TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p is not None and sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(ids, scores)
    if sampling.min_p is not None:
        scores = MinPLogitsWarper(sampling.min_p)(ids, scores)
    return scores


@settings(max_examples=150, deadline=None)
@given(
    temperature=st.floats(0.05, 5),
    top_k=st.none() | st.integers(1, 400),
    top_p=st.none() | st.floats(0.01, 1.0),
    min_p=st.none() | st.floats(0.0, 1.0),
    seed=st.integers(0, 10**6),
    spread=st.sampled_from([0.1, 1.0, 4.0]),
)
def test_kept_sets_are_those_of_transformers(temperature, top_k, top_p, min_p, seed, spread):
    sampling = Sampling(temperature, top_k, top_p, min_p)
    scores = logits(seed=seed, spread=spread)
    ours, reference = process(scores, sampling), theirs(scores, sampling)
    differ = ours.isinf() != reference.isinf()
    if differ.any():  # rounding may put a token on the other side of a border, and nothing else may differ
        assert differ.sum(-1).max() <= 1 and _on_a_border(scores, sampling)
    kept = ~(ours.isinf() | reference.isinf())
    torch.testing.assert_close(ours[kept], reference[kept])


def _on_a_border(scores: torch.Tensor, sampling: Sampling) -> bool:
    probs = (
        theirs(scores.double(), Sampling(sampling.temperature, sampling.top_k)).softmax(-1).sort(-1).values
    )
    mass = (probs.cumsum(-1) - (1 - (sampling.top_p or 1.0))).abs().min()
    share = (probs / probs[:, -1:] - (sampling.min_p or 0.0)).abs().min()
    return bool(mass < 1e-5 or share < 1e-5)


def test_ties_are_kept_or_dropped_together():
    scores = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    for sampling in (Sampling(top_k=1), Sampling(top_p=0.2), Sampling(min_p=1.0)):
        assert process(scores, sampling).isinf().tolist() == [[False, False, True, False]]


def test_filters_do_not_depend_on_the_order_of_the_vocabulary():
    scores = logits()
    order = torch.randperm(scores.shape[1], generator=torch.Generator().manual_seed(1))
    sampling = Sampling(0.7, 50, 0.9, 0.02)
    torch.testing.assert_close(process(scores, sampling)[:, order], process(scores[:, order], sampling))


def test_the_likeliest_token_always_stays():
    sampling = Sampling(top_k=1, top_p=1e-9, min_p=1.0)
    scores = logits()
    assert process(scores, sampling).argmax(-1).equal(scores.argmax(-1))
    assert (~process(scores, sampling).isinf()).sum(-1).tolist() == [1] * len(scores)


def test_greedy_is_argmax_with_its_log_probability():
    scores = logits()
    draw = sample(scores, Sampling(temperature=0))
    assert draw.ids_B.equal(scores.argmax(-1))
    torch.testing.assert_close(draw.logprobs_B, scores.log_softmax(-1).max(-1).values)
    assert draw.processed_B.tolist() == [0.0] * len(scores)


def test_draws_follow_the_processed_distribution():
    """Chi-squared over 20,000 draws: below the 99.99% quantile."""
    from scipy.stats import chi2

    sampling = Sampling(temperature=0.8, top_k=12, top_p=0.9)
    scores = logits(rows=1, vocabulary=40, spread=1.0)
    n = 20_000
    draw = sample(scores.expand(n, -1), sampling, torch.from_numpy(uniforms(3, 0, n)))
    expected = process(scores, sampling).softmax(-1)[0].double() * n
    seen = torch.bincount(draw.ids_B, minlength=40).double()
    assert seen[expected == 0].sum() == 0
    kept = expected > 0
    statistic = ((seen[kept] - expected[kept]) ** 2 / expected[kept]).sum().item()
    assert statistic < chi2.ppf(0.9999, int(kept.sum()) - 1)


def test_both_log_probabilities():
    sampling = Sampling(temperature=0.5, top_k=5)
    scores = logits()
    draw = sample(scores, sampling, torch.from_numpy(uniforms(0, 0, len(scores))))
    at = draw.ids_B[:, None]
    torch.testing.assert_close(draw.logprobs_B, scores.log_softmax(-1).gather(1, at)[:, 0])
    torch.testing.assert_close(
        draw.processed_B, process(scores, sampling).log_softmax(-1).gather(1, at)[:, 0]
    )


@pytest.mark.parametrize("u", [2.0**-52, 0.5, 1 - 2.0**-52])
def test_a_filtered_token_is_never_drawn(u):
    scores = torch.full((1, 1000), -math.inf)
    scores[0, [0, 500]] = 0.0
    for shifted in (scores, scores.roll(250, 1), scores.roll(499, 1)):
        draw = sample(shifted, Sampling(), torch.tensor([u], dtype=torch.float64))
        assert shifted[0, draw.ids_B].isfinite()


def test_a_row_does_not_depend_on_its_neighbours():
    scores, sampling = logits(rows=8), Sampling(temperature=1.3, top_p=0.8)
    numbers = torch.from_numpy(uniforms(5, 0, 8))
    together = sample(scores, sampling, numbers)
    for row in range(8):
        alone = sample(scores[row : row + 1], sampling, numbers[row : row + 1])
        assert alone.ids_B.item() == together.ids_B[row].item()


def test_uniforms_are_a_pure_function_of_seed_request_and_step():
    assert np.array_equal(uniforms(7, 3, 100)[:10], uniforms(7, 3, 10))
    others = [uniforms(7, 4, 10), uniforms(8, 3, 10), uniforms(3, 7, 10)]
    assert all(not np.isin(uniforms(7, 3, 10), other).any() for other in others)
    many = uniforms(0, 0, 100_000)
    assert 0 < many.min() and many.max() < 1
    from scipy.stats import kstest

    assert kstest(many, "uniform").pvalue > 1e-4


def test_global_random_state_is_not_touched():
    before, numpy_before = torch.get_rng_state(), np.random.get_state(legacy=False)
    sample(logits(), Sampling(), torch.from_numpy(uniforms(0, 0, 4)))
    assert torch.get_rng_state().equal(before)
    np.testing.assert_equal(np.random.get_state(legacy=False), numpy_before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("top_k", 0),
        ("top_k", -5),
        ("top_k", 1.5),
        ("top_k", True),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
    ],
)
def test_values_that_cannot_be_obeyed_are_refused_by_name(name, value):
    with pytest.raises(UsageError, match=f"{name}="):
        Sampling(**{name: value})


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(UsageError, match="seed="):
        uniforms(seed, 0, 1)


def test_sampling_without_numbers_is_refused():
    with pytest.raises(UsageError, match="random numbers"):
        sample(logits(), Sampling())
