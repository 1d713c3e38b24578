"""Scores against a naive loop in float64; choices against what the scores say."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from exnihilo.errors import UsageError
from exnihilo.infer import Probe, choose, log_likelihood, log_likelihoods
from exnihilo.infer import score as score_module

PAIRS = [([1], [5]), ([1, 2, 3], [4, 5, 6, 7]), ([9] * 20, [8] * 20), ([1, 7], [7]), ([1] * 47, [3, 4])]


def naive(model, before: list[int], after: list[int]) -> float:
    """One token at a time, in float64, without batch, padding or cache."""
    total, ids = 0.0, list(before)
    for token in after:
        hidden = model({"tokens": torch.tensor([ids])})
        total += model.heads["tokens"].logits(hidden)[0, -1].log_softmax(-1)[token].item()
        ids.append(token)
    return total


@torch.no_grad()
def test_scores_are_those_of_a_naive_loop_in_float64(model):
    scores = log_likelihoods(model, None, PAIRS)
    exact = copy.deepcopy(model).double()
    for score, (before, after) in zip(scores, PAIRS, strict=True):
        assert score.logprob == pytest.approx(naive(exact, before, after), abs=1e-4)
        assert (score.tokens, score.bytes) == (len(after), 0)


def test_batches_and_neighbours_do_not_matter(model, monkeypatch):
    together = [s.logprob for s in log_likelihoods(model, None, PAIRS)]
    monkeypatch.setattr(score_module, "_BATCH_TOKENS", 30)
    apart = [s.logprob for s in log_likelihoods(model, None, PAIRS)]
    alone = [log_likelihoods(model, None, [pair])[0].logprob for pair in PAIRS]
    np.testing.assert_allclose(together, apart, atol=1e-4)
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_all_continuations_of_one_token_sum_to_one(model):
    values = log_likelihood(model, None, [1, 5, 9], [[token] for token in range(97)])
    assert np.exp(values).sum() == pytest.approx(1.0, abs=1e-5)


def test_texts_are_encoded_apart_after_bos(make_model, bytes_codec):
    model = make_model("qwen3", vocab=bytes_codec.vocab_size)
    texts = log_likelihoods(model, bytes_codec, [("The fox", " é!"), ("", "a")])
    ids = [
        ([bytes_codec.bos_id, *bytes_codec.encode("The fox")], bytes_codec.encode(" é!")),
        ([bytes_codec.bos_id], bytes_codec.encode("a")),
    ]
    assert [s.logprob for s in texts] == [s.logprob for s in log_likelihoods(model, None, ids)]
    assert [s.bytes for s in texts] == [4, 1]


def test_choose_takes_the_likeliest(model):
    generator = np.random.default_rng(0)
    probes = [
        Probe([1, n], [generator.integers(3, 97, size).tolist() for size in (2, 3, 4)], n % 3)
        for n in range(30)
    ]
    for by, scale in (("sum", lambda s: s.logprob), ("token", lambda s: s.logprob / s.tokens)):
        result = choose(model, None, probes, by)  # type: ignore[arg-type]
        expected = [
            int(
                np.argmax(
                    [scale(s) for s in log_likelihoods(model, None, [(p.prompt, c) for c in p.choices])]
                )
            )
            for p in probes
        ]
        assert result.picks == expected
        right = sum(pick == probe.answer for pick, probe in zip(expected, probes, strict=True))
        assert result.accuracy == right / 30 and result.count == 30
        assert result.low <= result.accuracy <= result.high
        assert result.chance == pytest.approx(1 / 3)


def test_a_random_model_chooses_at_chance(make_model):
    generator = np.random.default_rng(1)
    probes = [Probe([1], generator.integers(3, 97, (4, 3)).tolist(), n % 4) for n in range(200)]
    result = choose(make_model("llama"), None, probes)
    assert result.low <= 0.25 <= result.high


def test_bad_pairs_are_refused(model, bytes_codec):
    for pairs, said in (
        ([([], [1])], "0 prompt tokens and 1"),
        ([([1], [2]), ([1], [])], "pair 1: 1 prompt tokens and 0"),
        ([([1] * 40, [2] * 10)], "50 tokens, the model's context is 48"),
        ([("text", [1])], "without a codec"),
        ([([1], "text")], "without a codec"),
    ):
        with pytest.raises(UsageError, match=said):
            log_likelihoods(model, None, pairs)
    log_likelihoods(model, None, [([1] * 40, [2] * 9)])  # the last token is predicted, never read
    for probes, by, said in (
        ([], "sum", "no probes"),
        ([Probe([1], [[2]], 0)], "sum", "1 choices"),
        ([Probe([1], [[2], [3]], 2)], "sum", "answer 2 of 2"),
        ([Probe([1], [[2], [3]], 0)], "byte", "given as ids"),
        ([Probe([1], [[2], [3]], 0)], "mean", "by='mean'"),
    ):
        with pytest.raises(UsageError, match=said):
            choose(model, None, probes, by)  # type: ignore[arg-type]


def test_mode_and_gradients_are_untouched(model):
    model.train()
    log_likelihood(model, None, [1], [[2]])
    assert model.training and all(p.grad is None for p in model.parameters())
