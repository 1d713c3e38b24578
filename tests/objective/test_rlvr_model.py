"""The objective on a model: batches in parts, shared prompts, the token that stops, temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from exnihilo.config import ModelConfig
from exnihilo.data import collate
from exnihilo.model import build
from exnihilo.nn.layout import Attention
from exnihilo.objective import _branches, registry
from exnihilo.objective._rl.advantages import of_groups
from exnihilo.objective._rl.presets import PRESETS
from exnihilo.objective.rlvr import RLVR, item
from exnihilo.parallel.mesh import World
from exnihilo.train.batches import Micro
from exnihilo.train.gradients import step_gradients

F64 = torch.float64
LONGEST = 5


def make(preset: str, **options: Any) -> RLVR:
    made = registry.create(
        "rlvr", {"preset": preset, **options}, length=16, facts={"max_new_tokens": LONGEST}
    )
    assert isinstance(made, RLVR)
    return made


# on a model ----------------------------------------------------------------------------------------------

SHAPE = ModelConfig(family="qwen3", depth=2, width=32, heads=2, context=32, vocab_size=23)


def rollouts(objective: RLVR, seed: int = 0, shared: bool = True) -> list[dict[str, Any]]:
    chance = np.random.default_rng(seed)
    items = []
    for number in range(5):
        prompt = chance.integers(3, 23, 3 + number).tolist()
        ids = [chance.integers(3, 23, n).tolist() + [2] for n in chance.integers(1, 7, 4)]
        advantage = of_groups("mean", chance.integers(0, 2, 4).astype(float), np.zeros(4))
        columns = {
            "advantage": [np.full(len(c), a) for c, a in zip(ids, advantage, strict=True)],
            "old_logp": [-3 + 0.2 * chance.normal(size=len(c)) for c in ids],
            "value": [np.zeros(len(c)) for c in ids],
            "target": [chance.normal(size=len(c)) for c in ids],
        }
        columns = {k: v for k, v in columns.items() if k in objective.columns}
        if shared:
            items.append(item(prompt, ids, columns))
        else:
            items += [item(prompt, [c], {k: [v[i]] for k, v in columns.items()}) for i, c in enumerate(ids)]
    return items


def laid(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    size = max(len(i["tokens"]) for i in items)
    found = collate.of_items(
        [[(i, 0, len(x["tokens"]))] for i, x in enumerate(items)], items, row=size, pad_id=0
    )
    return {k: torch.from_numpy(v) for k, v in found.items()}


@pytest.mark.parametrize("preset", PRESETS)
def test_how_a_batch_is_split_and_who_shares_a_prompt_changes_nothing(preset: str):
    objective = make(preset)
    model = build(SHAPE, heads=objective.heads, seed=1)
    alone = World(0, 1, torch.device("cpu"))

    def gradient(batches: Sequence[Sequence[dict[str, Any]]]) -> tuple[float, Tensor]:
        model.zero_grad()
        found = step_gradients(model, objective, [Micro(laid(b)) for b in batches], alone)
        return found.loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    shared, single = rollouts(objective), rollouts(objective, shared=False)
    loss, want = gradient([shared])
    for batches in (
        [[i] for i in shared],
        [shared[:2], shared[2:]],
        [single],
        [single[:3], single[3:]],
        [shared[::-1]],
    ):
        other, got = gradient(batches)
        assert other == pytest.approx(loss, abs=1e-5)
        assert float((got - want).abs().max()) <= 1e-5 * max(1.0, float(want.abs().max()))


def test_the_token_that_stops_has_a_gradient_and_the_prompt_has_none():
    objective = make("field")
    model = build(SHAPE, seed=0).double()
    made = item([5, 6, 7], [[9, 2]], {"advantage": [[1.0, 1.0]], "old_logp": [[np.nan, np.nan]]})
    batch = {k: v.double() if v.is_floating_point() else v for k, v in laid([made]).items()}
    logp = _branches.token_logps(model, batch)
    leaf = logp.detach().requires_grad_()
    (grad,) = torch.autograd.grad(objective.policy(leaf, batch)["policy"], leaf)
    assert grad[0, -1] == -1 and grad[0, -2] == -1  # -A for the stop token as for any other
    assert not grad[0, :-2].any()
    before = float(logp[0, -1].detach())
    (objective.sums(model, batch)["policy"]).backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 1e-3 * p.grad
        assert float(_branches.token_logps(model, batch)[0, -1]) > before


def test_constant_groups_move_nothing():
    objective = make("grpo")
    model = build(SHAPE, seed=0)
    columns = {"advantage": [np.full(2, a) for a in of_groups("std", np.full(3, 0.1), np.zeros(3))]}
    columns["old_logp"] = [np.full(2, -3.0)] * 3
    batch = laid([item([5, 6], [[7, 2], [8, 2], [9, 2]], columns)])
    objective.sums(model, batch)["policy"].backward()
    assert all(p.grad is None or not bool(p.grad.any()) for p in model.parameters())


def test_temperature_divides_the_logits_that_are_trained():
    warm = registry.create("rlvr", facts={"temperature": 2.0})
    assert isinstance(warm, RLVR)
    model = build(SHAPE, seed=0).double()
    made = item([5, 6], [[7, 2]], {"advantage": [[1.0, 1.0]], "old_logp": [[-1.0, -1.0]]})
    batch = {k: v.double() if v.is_floating_point() else v for k, v in laid([made]).items()}
    batch["fresh"] = torch.ones(())
    hidden = model(_branches.inputs(batch), Attention.CAUSAL)
    logits = model.heads["tokens"].logits(hidden)[0, 1:] / 2.0  # type: ignore[operator]
    want = logits.log_softmax(-1)[[0, 1], [7, 2]]
    drift = float((want + 1.0).abs().sum().detach())
    assert float(warm.sums(model, batch)["policy@drift"].detach()) == pytest.approx(drift)


def test_text_completions_that_were_scored_elsewhere():
    from exnihilo.codec import train as train_codec
    from exnihilo.config import CodecConfig
    from exnihilo.errors import DataError

    codec = train_codec(CodecConfig(kind="bytes"), ["abc"])
    objective = make("field")
    found = objective.encode({"prompt": "2+2?", "completions": ["4", "5"], "rewards": [1.0, 0.0]}, codec)
    assert isinstance(found, dict)
    ends = [i for i, t in enumerate(np.asarray(found["tokens"])) if t == codec.token_id("<|im_end|>")]
    mask = np.asarray(found["mask"])
    assert mask.sum() == 4 and mask[ends[-1]] == mask[ends[-2]] == 1  # each reply and what ends it
    assert sorted(set(np.asarray(found["advantage"]).tolist())) == [-0.5, 0.0, 0.5]
    with pytest.raises(DataError, match="completions"):
        objective.encode({"prompt": "2+2?"}, codec)
