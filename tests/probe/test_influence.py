"""Influence against what is known: tasks with a truth, what cannot be seen, completeness."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from exnihilo.config import ModelConfig
from exnihilo.errors import UsageError
from exnihilo.model import Model, build
from exnihilo.probe import attention, faith, influence, tasks
from exnihilo.probe.subject import Subject

TASK = tasks.make("copy_first", length=12, values=8, keys=4)


def decoder(vocab_size: int, context: int = 64, family: str = "qwen3", depth: int = 2) -> Model:
    shape = ModelConfig(
        family=family, depth=depth, width=32, heads=2, kv_heads=2, context=context, vocab_size=vocab_size
    )
    return build(shape, seed=0)


def train(task: tasks.Task, steps: int = 250, rows: int = 64) -> Model:
    model = decoder(task.vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    head = model.heads["tokens"]
    for step in range(steps):
        rows_NT, _ = task.rows(rows, step)
        tokens = torch.from_numpy(rows_NT)
        logits = head.logits(model({"tokens": tokens[:, :-1]})[:, -1:])[:, 0]  # type: ignore[operator]
        loss = F.cross_entropy(logits, tokens[:, -1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def trained() -> Model:
    torch.manual_seed(0)
    return train(TASK)


def test_resampling_finds_the_truth_and_nothing_else(trained: Model):
    found = faith.judge(trained, TASK, texts=16)
    assert found.accuracy == 1.0 and found.hit == 1.0 and found.false_positives == 0.0
    assert found.nats > 1.0 and found.trusted and "to be trusted" in found.verdict


def test_the_screen_keeps_what_matters(trained: Model):
    found = faith.judge(trained, TASK, method="screened", texts=8)
    assert found.hit == 1.0


def test_an_untrained_model_depends_on_nothing_and_is_not_judged():
    found = faith.judge(decoder(TASK.vocabulary), TASK, texts=8)
    assert not found.trusted and "has not learnt" in found.verdict and found.nats < 0.1


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "llama"])
def test_the_future_has_exactly_no_influence(family: str):
    rows_NT = np.random.default_rng(0).integers(0, 20, (3, 9))
    found = influence.resampling(Subject.of(decoder(20, family=family)), rows_NT, draws=2)
    for q in range(9):
        assert (found.nats_QT[q, q + 1 :] == 0.0).all() and (found.nats_QT[q, : q + 1] > 0).all()
    screen = influence.gradient_norms(Subject.of(decoder(20, family=family)), rows_NT)
    assert all((screen.nats_QT[q, q + 1 :] == 0.0).all() for q in range(9))


def test_nothing_comes_from_beyond_window_times_layers():
    shape = ModelConfig(
        family="modernbert", depth=3, width=32, heads=2, context=64, vocab_size=30, window=4, global_every=99,
        outputs=("mlm",),
    )  # fmt: skip
    model = build(shape, seed=0)
    blocks: Any = model.trunk.blocks
    for block in blocks:
        block.local = True  # the first one of this family sees everything
    rows_NT = np.random.default_rng(0).integers(0, 30, (2, 40))
    found = influence.resampling(Subject.of(model), rows_NT, sites=[30], draws=2)
    reach = 3 * 2  # layers × half a window
    far = [t for t in range(40) if abs(t - 30) > reach]
    near = [t for t in range(40) if abs(t - 30) <= reach]
    assert found.nats_QT[0, near].min() > 0
    assert (found.nats_QT[0, far] == 0.0).all() and not found.causal


def test_integrated_gradients_add_up(trained: Model):
    rows_NT, _ = TASK.rows(3, 7)
    for tokens_T in rows_NT[:, :-1]:
        signed_T, whole = influence.signed_gradients(
            Subject.of(trained), tokens_T, site=10, target=None, steps=64
        )
        assert signed_T.sum() == pytest.approx(whole, abs=0.05)


def test_a_classifier_has_one_site_and_a_model_is_left_as_it_was():
    shape = ModelConfig(
        family="bert", depth=2, width=32, heads=2, context=16, vocab_size=20, outputs=("classes",), labels=3
    )
    model = build(shape, seed=0).train()
    rows_NT = np.random.default_rng(0).integers(0, 20, (2, 7))
    found = influence.resampling(Subject.of(model), rows_NT, draws=1)
    assert found.nats_NQT.shape == (2, 1, 7) and found.sites == (-1,) and (found.nats_QT > 0).all()
    influence.gradient_norms(Subject.of(model), rows_NT)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


def test_weights_are_those_that_attention_uses():
    model = decoder(20, depth=1).eval()
    tokens_BT = torch.from_numpy(np.random.default_rng(0).integers(0, 20, (2, 9)))
    (weights,) = attention.attention_weights(model, {"tokens": tokens_BT})
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 9)) and (weights.triu(1) == 0).all()
    block: Any = model.trunk.blocks[0]
    x_BTD = block.attention_norm(model.front({"tokens": tokens_BT}, model.attention).x_BTD)
    v_BHTd = block.attention.v(x_BTD).view(2, 9, 2, -1).transpose(1, 2)
    want = block.attention.o((weights @ v_BHTd).transpose(1, 2).flatten(2))
    kept: list[torch.Tensor] = []
    hook = block.attention.register_forward_hook(lambda m, i, o: kept.append(o))
    model({"tokens": tokens_BT})
    hook.remove()
    torch.testing.assert_close(kept[0], want, atol=1e-5, rtol=1e-4)
    rolled = attention.rollout([weights, weights])
    assert torch.allclose(rolled.sum(-1), torch.ones(2, 9))


@pytest.mark.parametrize("name", list(tasks.NAMES))
def test_swapping_the_truth_changes_the_answer_and_swapping_the_idle_does_not(name: str):
    """By a solver of each task that reads the text alone."""
    task = tasks.make(name, length=24, values=6, keys=6)
    rows_NT, lessons = task.rows(40, 3)
    assert rows_NT.shape == (40, 24) and rows_NT.max() < task.vocabulary
    random = np.random.default_rng(0)
    swap = influence.Others(rows_NT, task.classes_V)
    for lesson in lessons:
        assert solve(name, lesson.tokens_T) == lesson.answer
        for t in lesson.truth:
            other = lesson.tokens_T.copy()
            other[t] = swap(random, other, t)
            assert solve(name, other) != lesson.answer
        for t in lesson.idle:
            other = lesson.tokens_T.copy()
            other[t] = swap(random, other, t)
            assert solve(name, other) == lesson.answer


def solve(name: str, tokens_T: np.ndarray) -> int:
    text: list[Any] = tokens_T[:-1].tolist()
    if name == "copy_first":
        return text[0]
    if name == "copy_last":
        return text[-2]
    if name == "copy_marked":
        return text[text.index(tasks.MARK) + 1]
    if name == "variable_tracking":
        held: dict[Any, Any] = {}
        for at in range(len(text)):
            if text[at] == tasks.IS:
                held[text[at - 1]] = held.get(text[at + 1], text[at + 1])
        return held[text[-1]]
    return text[text.index(text[-1]) + 1]


def test_reach_and_distance_are_read_off_the_map():
    nats = np.zeros((1, 2, 5))
    nats[0, 1] = [0.1, 0.0, 0.0, 0.4, 0.5]
    found = influence.Influence(nats, (0, 4), 0.0, 0)
    assert found.reach(0.5) == 0 and found.reach(0.9) == 1 and found.reach(0.95) == 4
    assert found.by_distance()[[1, 4]].tolist() == [0.4, 0.1]
    mean, low, high = found.at(-1, 0)
    assert mean == low == high == pytest.approx(0.1)


def test_wrong_use_is_named():
    subject = Subject.of(decoder(20))
    with pytest.raises(UsageError, match="texts of shape"):
        influence.resampling(subject, np.zeros(4, int))
    with pytest.raises(UsageError, match="site"):
        influence.resampling(subject, np.zeros((1, 4), int), sites=[4])
    with pytest.raises(UsageError, match="no head"):
        Subject(decoder(20), "classes")
    with pytest.raises(UsageError, match="no task"):
        tasks.make("copy", length=8)
