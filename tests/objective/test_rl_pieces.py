"""The pure pieces of reinforcement learning against literal formulas and laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.errors import ConfigError, TrainError
from exnihilo.objective._rl import losses
from exnihilo.objective._rl.advantages import Kind, gae, of_groups, to_go, whiten
from exnihilo.objective._rl.presets import PRESETS, pieces
from exnihilo.objective._rl.sequences import sequences
from exnihilo.objective._rl.shaping import brevity, overlong

GROUPED: tuple[Kind, ...] = ("mean", "std", "loo", "maxrl")


@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.integers(2, 17), st.sampled_from(GROUPED))
def test_a_constant_group_gives_exactly_zero_whatever_rounding_does(value: float, size: int, kind: Kind):
    value = abs(value) if kind == "maxrl" else value
    rewards = np.full(size, value)
    assert not of_groups(kind, rewards, np.zeros(size)).any()
    noisy = rewards * (1 + 1e-16 * np.arange(size)) + 1e-17
    assert not of_groups(kind, noisy, np.zeros(size)).any()


def test_rewards_that_are_sums_of_parts_do_not_differ_by_rounding():
    rewards = np.array([0.1 + 0.2, 0.3, 0.15 + 0.15])
    assert rewards.std() > 0  # as floats they differ, and dividing by this would give advantages of 1
    assert not of_groups("std", rewards, np.zeros(3)).any()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=5), min_size=1, max_size=4), st.randoms())
def test_groups_are_judged_alone_wherever_their_members_stand(groups: list[list[int]], chance):
    flat = [(g, float(r)) for g, rewards in enumerate(groups) for r in rewards]
    shuffled = list(range(len(flat)))
    chance.shuffle(shuffled)
    group_N = np.array([g for g, _ in flat])
    reward_N = np.array([r for _, r in flat])
    for kind in GROUPED:
        want = np.concatenate([of_groups(kind, np.array(r, float), np.zeros(len(r))) for r in groups])
        got = of_groups(kind, reward_N[shuffled], group_N[shuffled])
        np.testing.assert_allclose(got, want[shuffled], atol=1e-12)


def test_advantages_by_their_formulas():
    r = np.array([1.0, 0.0, 0.0, 0.5])
    one = np.zeros(4)
    mean = sum(r) / 4
    std = math.sqrt(sum((x - mean) ** 2 for x in r) / 4)
    np.testing.assert_allclose(of_groups("mean", r, one), [x - mean for x in r])
    np.testing.assert_allclose(of_groups("std", r, one), [(x - mean) / std for x in r])
    np.testing.assert_allclose(
        of_groups("loo", r, one), [r[i] - sum(r[j] for j in range(4) if j != i) / 3 for i in range(4)]
    )
    np.testing.assert_allclose(of_groups("maxrl", r, one), [(x - mean) / mean for x in r])
    with pytest.raises(TrainError, match="negative|-1"):
        of_groups("maxrl", np.array([-1.0, 1.0]), np.zeros(2))


def test_gae_is_the_sum_of_discounted_errors_and_its_ends_are_known():
    chance = np.random.default_rng(0)
    r, v = chance.normal(size=7), chance.normal(size=7)
    for gamma, lam in ((1.0, 1.0), (0.9, 0.95), (0.97, 0.0)):
        after = np.append(v[1:], 0.0)
        delta = r + gamma * after - v
        want = [sum((gamma * lam) ** k * delta[t + k] for k in range(7 - t)) for t in range(7)]
        np.testing.assert_allclose(gae(r, v, gamma=gamma, lam=lam), want)
    togo = [sum(r[t:]) for t in range(7)]
    np.testing.assert_allclose(gae(r, v, gamma=1.0, lam=1.0), togo - v)  # Monte Carlo less the baseline


def test_whitening_and_returns():
    chance = np.random.default_rng(1)
    values, mask = chance.normal(size=50), chance.integers(0, 2, 50)
    white = whiten(values, mask)
    assert abs(white[mask > 0].mean()) < 1e-12 and abs(white[mask > 0].std() - 1) < 1e-12
    assert not white[mask == 0].any()
    assert not whiten(np.full(5, 0.1), np.ones(5)).any()
    penalty = chance.normal(size=5)
    np.testing.assert_allclose(to_go(2.0, penalty), [2.0 - penalty[t:].sum() for t in range(5)])


def test_overlong_is_dapos_equation_13():
    limit, cache = 100, 20
    for n in range(0, 130):
        if n <= limit - cache:
            want = 0.0
        elif n <= limit:
            want = ((limit - cache) - n) / cache
        else:
            want = -1.0
        assert overlong(n, limit, cache) == want


def test_brevity_is_for_right_answers_alone():
    lengths = np.array([5, 9, 7, 3, 11])
    right = np.array([1, 1, 1, 0, 0])
    score = brevity(lengths, right)
    for i in range(5):
        assert score[i] == (0.5 - (lengths[i] - 5) / 4 if right[i] else 0.0)
    assert not brevity(np.array([4, 4, 9]), np.array([1, 1, 0])).any()
    assert not brevity(np.array([4, 9]), np.array([0, 0])).any()


def test_sequences_by_row_document_and_branch():
    doc = torch.tensor([[0, 0, 0, 1, 1, -1], [0, 0, 0, 0, 0, 0]])
    branch = torch.tensor([[0, 1, 2, 1, 1, 0], [0, 0, 1, 1, 2, 2]])
    mask = torch.tensor([[0.0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 1]])
    found = sequences(mask, doc, branch)
    assert found.tokens_S[found.tokens_S > 0].tolist() == [1, 1, 1, 1, 1]
    assert float(found.number) == 5
    values = torch.arange(12.0).view(2, 6)
    assert found.sums(values)[found.tokens_S > 0].tolist() == [1, 2, 4, 9, 11]
    whole = sequences(torch.ones(2, 3))
    assert whole.tokens_S.tolist() == [3, 3]
    assert whole.spread(torch.tensor([5.0, 7.0])).tolist() == [[5, 5, 5], [7, 7, 7]]


def _categorical(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(3, generator=chance, dtype=torch.float64).log_softmax(0) for _ in range(3))  # type: ignore


def _expected(kind: losses.Divergence, logits: torch.Tensor, old: torch.Tensor, ref: torch.Tensor):
    """E over old of the estimate, by enumeration; and its gradient."""
    logp = logits.log_softmax(0)
    ratio = (logp - old).view(1, 3)
    each = losses.divergence(kind, logp.view(1, 3), ref.view(1, 3), ratio)[0]
    value = (old.exp() * each).sum()
    return value, torch.autograd.grad(value, logits)[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_divergences_have_the_gradients_that_are_claimed(seed: int):
    start, old, ref = _categorical(seed)
    logits = start.clone().requires_grad_()
    logp = logits.log_softmax(0)
    true = (logp.exp() * (logp - ref)).sum()
    want = torch.autograd.grad(true, logits)[0]
    value, got = _expected("k3_weighted", logits, old, ref)  # off-policy: unbiased in both
    torch.testing.assert_close(value, true.detach())
    torch.testing.assert_close(got, want)
    on = logits.detach().log_softmax(0)
    _, got = _expected("k2", logits, on, ref)
    torch.testing.assert_close(got, want)
    value, got = _expected("k3", logits, on, ref)
    torch.testing.assert_close(value, true.detach())
    assert not torch.allclose(got, want, atol=1e-3)  # GRPO's: the value is right, the gradient is another's
    reverse = (ref.exp() * (ref - logits.log_softmax(0))).sum()  # ... it is that of KL(ref‖π)
    torch.testing.assert_close(got, torch.autograd.grad(reverse, logits)[0])


def test_clip_fraction_marks_the_tokens_without_gradient():
    logp = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64).requires_grad_()
    for advantage in (-1.0, 1.0):
        for dual in (None, 3.0):
            a = torch.full_like(logp, advantage)
            bounds = {"clip": "ppo", "low": 0.2, "high": 0.28, "dual": dual}
            total = losses.surrogate(logp[None], logp[None], a[None], **bounds).sum()  # type: ignore[arg-type]
            (grad,) = torch.autograd.grad(total, logp)
            held = losses.clipped(logp[None], a[None], **bounds)[0]  # type: ignore[arg-type]
            assert torch.equal(held > 0, grad == 0)


def test_a_huge_ratio_stays_finite():
    logp = torch.tensor([[500.0]], requires_grad=True)
    found = sequences(torch.ones(1, 1))
    for level in ("token", "sequence"):
        ratio = losses.log_ratio(logp, torch.tensor([[-500.0]]), level, found)  # type: ignore[arg-type]
        loss = losses.surrogate(ratio, logp, -torch.ones(1, 1), clip="ppo", dual=3.0)
        assert torch.isfinite(loss).all() and loss.item() == 3.0


def test_presets_are_named_and_contradictions_are_refused():
    assert set(PRESETS) >= set("grpo dr_grpo dapo gspo cispo rloo reinforce_pp maxrl ppo".split())
    assert pieces("dapo", high=0.3).high == 0.3
    for wrong in (
        {"clip": "none", "ratio": "sequence"},
        {"clip": "cispo", "dual": 3.0},
        {"beta": 0.1, "kl": "none"},
        {"lam": 0.9},
    ):
        with pytest.raises(ConfigError):
            pieces("field", **wrong)
