"""Each preset against a literal float64 transcription of its paper, and against enumeration of a bandit.

Key: G completions of one prompt
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from exnihilo.data import collate
from exnihilo.objective import registry
from exnihilo.objective._rl.advantages import gae, of_groups, to_go, whiten
from exnihilo.objective._rl.presets import PRESETS
from exnihilo.objective.rlvr import RLVR, item

F64 = torch.float64
LENGTHS = ((3, 1, 4), (2, 5, 2))  # of the completions of two prompts
REWARDS = ((1.0, 0.0, 0.25), (0.0, 1.0, 1.0))
LONGEST = 5


def make(preset: str, **options: Any) -> RLVR:
    made = registry.create(
        "rlvr", {"preset": preset, **options}, length=16, facts={"max_new_tokens": LONGEST}
    )
    assert isinstance(made, RLVR)
    return made


def spread(values: Sequence[Tensor], like: dict[str, Tensor]) -> Tensor:
    """Per-completion vectors at their places in the batch; differentiable."""
    out = torch.zeros(like["mask"].shape, dtype=F64)
    places = (like["mask"] > 0).nonzero()
    flat = torch.cat(list(values))
    return out.index_put((places[:, 0], places[:, 1]), flat)


class Case:
    """Two groups with their log-probabilities now, then, and under a reference; lists of (T,) tensors."""

    def __init__(self, seed: int, on_policy: bool = False) -> None:
        chance = torch.Generator().manual_seed(seed)

        def draw(shift: float) -> list[Tensor]:
            return [
                (-0.7 + shift * torch.randn(n, generator=chance, dtype=F64))
                for group in LENGTHS
                for n in group
            ]

        self.old, self.ref = draw(0.5), draw(0.5)
        more = draw(0.0)
        self.logp = [
            (o if on_policy else o + 0.4 * torch.randn(len(o), generator=chance, dtype=F64) + 0 * m)
            .clone()
            .requires_grad_()
            for o, m in zip(self.old, more, strict=True)
        ]
        self.groups = [0, 0, 0, 1, 1, 1]
        self.rewards = np.array([r for group in REWARDS for r in group])
        self.value = draw(1.0)

    def batch(self, advantage: Sequence[np.ndarray], **columns: Sequence[Any]) -> dict[str, Tensor]:
        items = []
        for g in (0, 1):
            mine = [i for i, group in enumerate(self.groups) if group == g]
            ids = [list(range(2, 2 + len(self.old[i]))) for i in mine]
            given = {"advantage": advantage, "old_logp": [o.numpy() for o in self.old], **columns}
            items.append(item([1, 5], ids, {k: [np.asarray(v[i]) for i in mine] for k, v in given.items()}))
        size = max(len(np.asarray(i["tokens"])) for i in items)
        laid = collate.of_items(
            [[(i, 0, len(np.asarray(x["tokens"])))] for i, x in enumerate(items)], items, row=size, pad_id=0
        )
        out = {k: torch.from_numpy(v) for k, v in laid.items()}
        for name in ("old_logp", "advantage", "ref_logp", "value", "target"):
            if name in out:
                out[name] = out[name].double()
        exact = {"advantage": advantage, "old_logp": [o.numpy() for o in self.old], **columns}
        for name, values in exact.items():  # float64, where items hold float32
            out[name] = spread([torch.as_tensor(np.asarray(v), dtype=F64) for v in values], out)
        return out

    def grads(self, loss: Tensor) -> Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, self.logp)])


def ours(objective: RLVR, case: Case, batch: dict[str, Tensor]) -> Tensor:
    total = objective.policy(spread(case.logp, batch), batch)["policy"]
    return total / objective.counts(batch)["policy"]


def per_token(case: Case, values: Sequence[float]) -> list[np.ndarray]:
    return [np.full(len(o), a) for o, a in zip(case.old, values, strict=True)]


# the papers, literally -----------------------------------------------------------------------------------


def z(r: Sequence[float]) -> list[float]:
    mean = sum(r) / len(r)
    std = math.sqrt(sum((x - mean) ** 2 for x in r) / len(r))
    return [(x - mean) / std for x in r]


def clip(x: Tensor, low: float, high: float) -> Tensor:
    return torch.clamp(x, 1 - low, 1 + high)


def by_group(case: Case) -> list[list[int]]:
    return [[i for i, g in enumerate(case.groups) if g == group] for group in (0, 1)]


def grpo(case: Case, eps: float = 0.2, beta: float = 0.04) -> Tensor:
    """DeepSeekMath, eq. 3 and 4, averaged over the questions."""
    J = torch.zeros((), dtype=F64)
    for group in by_group(case):
        A = z([case.rewards[i] for i in group])
        for a, i in zip(A, group, strict=True):
            inner = torch.zeros((), dtype=F64)
            for t in range(len(case.old[i])):
                rho = torch.exp(case.logp[i][t] - case.old[i][t])
                x = torch.exp(case.ref[i][t] - case.logp[i][t])
                kl = x - torch.log(x) - 1
                inner = inner + torch.minimum(rho * a, clip(rho, eps, eps) * a) - beta * kl
            J = J + inner / len(case.old[i]) / len(group) / 2
    return -J


def dr_grpo(case: Case) -> Tensor:
    """Dr. GRPO: neither 1/|o| nor 1/std; the sum over a constant budget."""
    J = torch.zeros((), dtype=F64)
    for group in by_group(case):
        mean = sum(case.rewards[i] for i in group) / len(group)
        for i in group:
            a = case.rewards[i] - mean
            for t in range(len(case.old[i])):
                rho = torch.exp(case.logp[i][t] - case.old[i][t])
                J = J + torch.minimum(rho * a, clip(rho, 0.2, 0.2) * a) / LONGEST / len(group) / 2
    return -J


def token_mean(case: Case, A: Sequence[float], low: float, high: float) -> Tensor:
    J, count = torch.zeros((), dtype=F64), 0
    for i, a in enumerate(A):
        for t in range(len(case.old[i])):
            rho = torch.exp(case.logp[i][t] - case.old[i][t])
            J = J + torch.minimum(rho * a, clip(rho, low, high) * a)
            count += 1
    return -J / count


def dapo(case: Case) -> Tensor:
    """DAPO, eq. 8 with its eq. 9 (the batch's questions as one pool of tokens)."""
    A = [a for group in by_group(case) for a in z([case.rewards[i] for i in group])]
    return token_mean(case, A, 0.2, 0.28)


def field(case: Case) -> Tensor:
    A = [
        case.rewards[i] - sum(case.rewards[j] for j in group) / len(group)
        for group in by_group(case)
        for i in group
    ]
    return token_mean(case, A, 0.2, 0.28)


def gspo(case: Case) -> Tensor:
    """GSPO, eq. 5 and 7."""
    J = torch.zeros((), dtype=F64)
    for group in by_group(case):
        for a, i in zip(z([case.rewards[i] for i in group]), group, strict=True):
            s = (case.logp[i].sum().exp() / case.old[i].sum().exp()) ** (1 / len(case.old[i]))
            J = J + torch.minimum(s * a, clip(s, 3e-4, 4e-4) * a) / len(group) / 2
    return -J


def cispo(case: Case) -> Tensor:
    """MiniMax-M1, eq. 4 and 5, with no lower bound and weights of at most 5."""
    J, count = torch.zeros((), dtype=F64), 0
    for group in by_group(case):
        for a, i in zip(z([case.rewards[i] for i in group]), group, strict=True):
            for t in range(len(case.old[i])):
                weight = float(torch.exp(case.logp[i][t] - case.old[i][t]).detach())
                J = J + min(weight, 5.0) * a * case.logp[i][t]
                count += 1
    return -J / count


def rloo(case: Case) -> Tensor:
    """RLOO, eq. 8: each completion is one action."""
    J = torch.zeros((), dtype=F64)
    for group in by_group(case):
        for i in group:
            others = [case.rewards[j] for j in group if j != i]
            J = J + (case.rewards[i] - sum(others) / len(others)) * case.logp[i].sum() / len(group) / 2
    return -J


def maxrl(case: Case) -> Tensor:
    """MaxRL: (r - mean) / mean on whole completions."""
    J = torch.zeros((), dtype=F64)
    for group in by_group(case):
        mean = sum(case.rewards[i] for i in group) / len(group)
        for i in group:
            J = J + (case.rewards[i] - mean) / mean * case.logp[i].sum() / len(group) / 2
    return -J


def reinforce_pp(case: Case) -> Tensor:
    """REINFORCE++, eq. 6 to 8, without divergence: one reward for all tokens, normed over the whole batch."""
    flat = [case.rewards[i] for i in range(6) for _ in range(len(case.old[i]))]
    mean = sum(flat) / len(flat)
    std = math.sqrt(sum((x - mean) ** 2 for x in flat) / len(flat))
    return token_mean(case, [(r - mean) / std for r in case.rewards], 0.2, 0.2)


PAPERS: dict[str, Callable[[Case], Tensor]] = {
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "field": field,
    "gspo": gspo,
    "cispo": cispo,
    "rloo": rloo,
    "maxrl": maxrl,
    "reinforce_pp": reinforce_pp,
}


def advantages_of(objective: RLVR, case: Case) -> list[np.ndarray]:
    kind = objective.pieces.advantage
    raw = per_token(case, of_groups(kind, case.rewards, np.array(case.groups)).tolist())
    if kind == "batch":
        sizes = np.cumsum([len(x) for x in raw])[:-1]
        return np.split(whiten(np.concatenate(raw), np.ones(sum(map(len, raw)))), sizes)
    return raw


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("preset", PAPERS)
def test_a_presets_loss_and_gradient_are_those_of_its_paper(preset: str, seed: int):
    case, objective = Case(seed), make(preset)
    found = ours(objective, case, case.batch(advantages_of(objective, case)))
    want = PAPERS[preset](case)
    if preset not in ("rloo", "maxrl", "cispo"):  # REINFORCE: equal values too, here
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(case.grads(found), case.grads(want), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_grpo_with_its_divergence(seed: int):
    case, objective = Case(seed), make("grpo", beta=0.04)
    assert "ref_logp" in objective.columns
    batch = case.batch(advantages_of(objective, case), ref_logp=[r.numpy() for r in case.ref])
    found, want = ours(objective, case, batch), grpo(case)
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(case.grads(found), case.grads(want), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_ppo_with_a_critic(seed: int):
    """PPO, eq. 7, and eq. 9's value term, with GAE (eq. 11 and 12)."""
    case, objective = Case(seed), make("ppo", gamma=0.97, lam=0.9)
    advantage, target = [], []
    for reward, value in zip(case.rewards, case.value, strict=True):
        v = value.tolist()
        T, a = len(v), 0.0
        mine = [0.0] * T
        for t in reversed(range(T)):
            r = reward if t == T - 1 else 0.0
            delta = r + 0.97 * (v[t + 1] if t + 1 < T else 0.0) - v[t]
            a = delta + 0.97 * 0.9 * a
            mine[t] = a
        np.testing.assert_allclose(
            gae(np.array([0.0] * (T - 1) + [reward]), np.array(v), gamma=0.97, lam=0.9), mine
        )
        advantage.append(np.array(mine))
        target.append(np.array(mine) + np.array(v))
    batch = case.batch(advantage, value=[v.numpy() for v in case.value], target=target)
    found = ours(objective, case, batch)
    want, count = torch.zeros((), dtype=F64), 0
    for i, A in enumerate(advantage):
        for t, a in enumerate(A):
            rho = torch.exp(case.logp[i][t] - case.old[i][t])
            want, count = want - torch.minimum(rho * a, clip(rho, 0.2, 0.2) * a), count + 1
    torch.testing.assert_close(found, want / count, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(case.grads(found), case.grads(want / count), rtol=1e-10, atol=1e-12)
    now = [
        torch.randn(len(v), dtype=F64, generator=torch.Generator().manual_seed(i))
        for i, v in enumerate(case.value)
    ]
    counted = objective.critic(spread(now, batch), batch) / objective.counts(batch)["value"]
    squares = [(a - torch.from_numpy(t)) ** 2 for a, t in zip(now, target, strict=True)]
    torch.testing.assert_close(counted, torch.cat(squares).mean())


def test_a_weight_for_stale_tokens_multiplies_their_loss():
    case, objective = Case(0), make("field")
    batch = case.batch(advantages_of(objective, case))
    weight = [np.full(len(o), 0.5) for o in case.old]
    halved = case.batch(advantages_of(objective, case), is_weight=weight)
    torch.testing.assert_close(ours(objective, case, halved), 0.5 * ours(objective, case, batch))


# the bandit ----------------------------------------------------------------------------------------------
# Three tokens, two steps; token 0 ends. Every completion: (0), (1, x), (2, x).

SEQUENCES = [(0,), *((a, b) for a in (1, 2) for b in range(3))]
TABLE = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.7, -0.4], [-0.6, 0.2, 0.4]], dtype=F64)
REWARD = {s: float(sum((i + 1) * t for i, t in enumerate(s)) in (2, 3, 5)) for s in SEQUENCES}


def probabilities(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p of each completion, and the gradient of its log p with respect to the table, token by token."""
    soft = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    p, score = [], []
    for s in SEQUENCES:
        chance, tokens, state = 1.0, [], 0
        for token in s:
            chance *= soft[state, token]
            g = np.zeros((3, 3))
            g[state] = -soft[state]
            g[state, token] += 1
            tokens.append(g)
            state = token  # after token 1 state 1, after token 2 state 2
        p.append(chance)
        score.append(tokens)
    return np.array(p), np.array(score, dtype=object)


def logps(table: Tensor, s: tuple[int, ...]) -> Tensor:
    rows = table.log_softmax(1)
    states = (0, *s[:-1])
    return torch.stack([rows[a, b] for a, b in zip(states, s, strict=True)])


def group_batch(group: Sequence[tuple[int, ...]], advantage: Sequence[np.ndarray]) -> dict[str, Tensor]:
    made = item(
        [4, 3],
        [list(s) for s in group],
        {"advantage": list(advantage), "old_logp": [np.full(len(s), np.nan) for s in group]},
    )
    out = {k: torch.from_numpy(np.asarray(v))[None] for k, v in made.items()}
    out["old_logp"] = out["old_logp"].double()
    out["advantage"] = spread([torch.as_tensor(a) for a in advantage], out)  # items hold float32
    return out


def weights(preset: str, group: Sequence[tuple[int, ...]], values: np.ndarray) -> list[np.ndarray]:
    """What multiplies each token's ∇log π in the paper's gradient at π = π_old, for one group."""
    r, G = [REWARD[s] for s in group], len(group)
    sizes = [len(s) for s in group]
    mean = sum(r) / G
    same = max(r) == min(r)
    std = math.sqrt(sum((x - mean) ** 2 for x in r) / G)
    normed = [0.0 if same else (x - mean) / std for x in r]
    if preset in ("grpo", "gspo"):
        return [np.full(n, a / n / G) for n, a in zip(sizes, normed, strict=True)]
    if preset in ("dapo", "cispo"):
        return [np.full(n, a / sum(sizes)) for n, a in zip(sizes, normed, strict=True)]
    if preset == "field":
        return [np.full(n, (x - mean) / sum(sizes)) for n, x in zip(sizes, r, strict=True)]
    if preset == "dr_grpo":
        return [np.full(n, (x - mean) / LONGEST / G) for n, x in zip(sizes, r, strict=True)]
    if preset == "rloo":
        return [np.full(n, (x - (sum(r) - x) / (G - 1)) / G) for n, x in zip(sizes, r, strict=True)]
    if preset == "maxrl":
        return [np.full(n, 0.0 if same else (x - mean) / mean / G) for n, x in zip(sizes, r, strict=True)]
    if preset == "reinforce_pp":
        flat = np.array([x for n, x in zip(sizes, r, strict=True) for _ in range(n)])
        spread_ = flat.std()
        return [
            np.full(n, 0.0 if same else (x - flat.mean()) / spread_ / sum(sizes))
            for n, x in zip(sizes, r, strict=True)
        ]
    out = []  # ppo, λ = γ = 1: return less value
    for s, x in zip(group, r, strict=True):
        states = (0, *s[:-1])
        out.append(np.array([x - values[state] for state in states]) / sum(sizes))
    return out


def advantages_for(objective: RLVR, group: Sequence[tuple[int, ...]], values: np.ndarray) -> list[np.ndarray]:
    """As the source of rollouts computes them."""
    r = np.array([REWARD[s] for s in group])
    kind = objective.pieces.advantage
    if kind == "gae":
        gained = [np.array([0.0] * (len(s) - 1) + [x]) for s, x in zip(group, r, strict=True)]
        return [gae(g, values[[0, *s[:-1]]], gamma=1.0, lam=1.0) for g, s in zip(gained, group, strict=True)]
    if kind == "batch":
        raw = [to_go(x, np.zeros(len(s))) for s, x in zip(group, r, strict=True)]
        white = whiten(np.concatenate(raw), np.ones(sum(map(len, raw))))
        return np.split(white, np.cumsum([len(s) for s in group])[:-1])
    found = of_groups(kind, r, np.zeros(len(group)))
    return [np.full(len(s), a) for s, a in zip(group, found, strict=True)]


def expected(objective: RLVR, size: int, values: np.ndarray) -> np.ndarray:
    """E over all groups of this size of the loss's gradient, by autograd through the objective."""
    table = TABLE.clone().requires_grad_()
    p, _ = probabilities(TABLE.numpy())
    chance = dict(zip(SEQUENCES, p, strict=True))
    logp = {s: logps(table, s) for s in SEQUENCES}
    total = torch.zeros((), dtype=F64)
    for group in product(SEQUENCES, repeat=size):
        batch = group_batch(group, advantages_for(objective, group, values))
        found = objective.policy(spread([logp[s] for s in group], batch), batch)["policy"]
        count = objective.counts(batch)["policy"]
        total = total + math.prod(chance[s] for s in group) * found / count
    return torch.autograd.grad(total, table)[0].numpy()


VALUES = np.array([0.4, -0.3, 0.8])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_expected_gradient_is_that_of_enumeration(preset: str):
    options = {"gamma": 1.0, "lam": 1.0} if preset == "ppo" else {}
    got = expected(make(preset, **options), 2, VALUES)
    p, score = probabilities(TABLE.numpy())
    index = {s: i for i, s in enumerate(SEQUENCES)}
    want = np.zeros((3, 3))
    for group in product(SEQUENCES, repeat=2):
        chance = math.prod(p[index[s]] for s in group)
        for s, w in zip(group, weights(preset, group, VALUES), strict=True):
            want -= chance * sum(w[t] * score[index[s]][t] for t in range(len(s)))
    np.testing.assert_allclose(got, want, atol=1e-12)
    assert np.abs(got).max() > 1e-3


def true_gradient() -> tuple[float, np.ndarray]:
    """(expected reward, its gradient) of the bandit."""
    p, score = probabilities(TABLE.numpy())
    r = np.array([REWARD[s] for s in SEQUENCES])
    each = [p[i] * r[i] * np.sum(score[i], axis=0) for i in range(len(SEQUENCES))]
    return float(p @ r), np.sum(each, axis=0)


@pytest.mark.parametrize("size", [2, 3])
def test_rloo_is_unbiased_and_the_mean_baseline_shrinks_by_its_own_share(size: int):
    _, want = true_gradient()
    np.testing.assert_allclose(expected(make("rloo"), size, VALUES), -want, atol=1e-12)
    biased = make("field", aggregate="sum")
    np.testing.assert_allclose(expected(biased, size, VALUES), -want * (size - 1) / size, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3])
def test_maxrl_climbs_the_first_terms_of_log_p(size: int):
    """E = Σ_{k<N} (1 − p)^(k−1) ∇p: the expansion of ∇log p up to order N − 1, N completions a group."""
    p, want = true_gradient()
    factor = sum((1 - p) ** (k - 1) for k in range(1, size))
    np.testing.assert_allclose(expected(make("maxrl"), size, VALUES), -factor * want, atol=1e-12)


def test_any_critic_leaves_ppo_unbiased_at_lambda_1():
    _, want = true_gradient()
    found = make("ppo", gamma=1.0, lam=1.0, aggregate="sum")
    for values in (VALUES, np.zeros(3), np.array([5.0, -2.0, 1.0])):
        np.testing.assert_allclose(expected(found, 1, values), -want, atol=1e-12)
