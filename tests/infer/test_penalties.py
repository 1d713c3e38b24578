"""Penalties against Transformers' processor and against the formula, a number at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exnihilo.errors import UsageError
from exnihilo.infer import Sampling
from exnihilo.infer.penalties import penalise

IDS = st.lists(st.integers(0, 11), max_size=8)


@given(
    IDS,
    IDS,
    st.floats(0.2, 5.0),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.dictionaries(st.integers(0, 11), st.floats(-9, 9), max_size=3),
)
def test_as_written(prompt, reply, repetition, presence, frequency, bias):
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(len(prompt)), dtype=torch.float64)
    sampling = Sampling(
        repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias
    )
    found = penalise(logits, sampling, [prompt], [reply])[0].tolist()
    for j, x in enumerate(logits[0].tolist()):
        if j in prompt or j in reply:
            x = x / repetition if x > 0 else x * repetition
        x = x - frequency * reply.count(j) - presence * (j in reply) + bias.get(j, 0.0)
        assert found[j] == pytest.approx(x, abs=1e-5)


def test_repetition_is_transformers():
    transformers = pytest.importorskip("transformers")
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    rows = [[1, 2, 2, 19], [0, 0, 5, 6], [7, 8, 9, 10]]
    theirs = transformers.RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor(rows), logits.clone())
    ours = penalise(logits, Sampling(repetition_penalty=1.3), [r[:2] for r in rows], [r[2:] for r in rows])
    torch.testing.assert_close(ours, theirs)


def test_rows_do_not_mix():
    sampling = Sampling(frequency_penalty=1.0)
    logits = torch.zeros(2, 4)
    assert penalise(logits, sampling, [[], []], [[1], [2, 2]]).tolist() == [[0, -1, 0, 0], [0, 0, -2, 0]]
    assert not logits.any()


@pytest.mark.parametrize(
    "bad",
    [
        {"repetition_penalty": 0}, {"repetition_penalty": float("inf")}, {"presence_penalty": float("nan")},
        {"frequency_penalty": "1"}, {"logit_bias": {-1: 1.0}}, {"logit_bias": {1: float("nan")}},
        {"logit_bias": {"a": 1.0}}, {"logit_bias": 3}, {"logit_bias": {1.5: 1.0}},
    ],
)  # fmt: skip
def test_bad_values_are_refused_by_name(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        Sampling(**bad)


def test_equal_settings_are_equal():
    assert Sampling(logit_bias={2: 1, 1: 0.5}) == Sampling(logit_bias=((1, 0.5), (2, 1.0)))
    assert hash(Sampling(logit_bias={2: 1})) == hash(Sampling(logit_bias={2: 1.0}))
    assert Sampling().plain and not Sampling(logit_bias={2: 1}).plain and not Sampling(top_k=3).plain
