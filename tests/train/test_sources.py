"""Sources of batches: batches drawn ahead, importance weights, plain copies, tasks, references, refusals."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exnihilo.codec import train as train_codec
from exnihilo.config import CodecConfig, DataConfig, LoraConfig, ModelConfig, RunConfig, SourceConfig
from exnihilo.errors import CodecError, ConfigError, DataError
from exnihilo.interop import hf
from exnihilo.model import build
from exnihilo.nn.layout import Attention
from exnihilo.objective import registry
from exnihilo.objective._branches import lay
from exnihilo.parallel.mesh import World
from exnihilo.train import lineage
from exnihilo.train.source import create, reference
from exnihilo.train.source.ahead import Ahead, drift, is_weights
from exnihilo.train.source.reference import Reference
from exnihilo.train.source.tasks import Tasks, task_of
from exnihilo.train.source.weights import Weights

SHAPE = ModelConfig(depth=2, width=32, heads=2, context=32, vocab_size=64, dropout=0.2)
ALONE = World(0, 1, torch.device("cpu"))


# ahead ----------------------------------------------------------------------------------------------


class Number:
    """Weights that are one number, which training raises."""

    def __init__(self) -> None:
        self.model: Any = nn.Linear(1, 1)
        self.set(0)

    def set(self, value: int) -> None:
        with torch.no_grad():
            self.model.weight.fill_(value)

    def newest(self) -> Any:
        return self.model

    def frozen(self) -> Any:
        twin = nn.Linear(1, 1)
        twin.load_state_dict(self.model.state_dict())
        return twin


@pytest.mark.parametrize("lag", [0, 1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_drawn_ahead_is_exactly_that_old_whatever_the_speed(lag: int, seed: int) -> None:
    weights, draw = Number(), random.Random(seed)

    def slow(model: Any, number: int, version: int) -> tuple[int, int, int]:
        time.sleep(draw.random() * 0.01)
        return number, version, int(model.weight)

    ahead = Ahead(slow, weights, lag=lag)  # type: ignore[arg-type]
    for number in range(8):
        found = ahead.get(number)
        then = max(0, number - lag)
        assert found == (number, then, then) and ahead.get(number) is found
        time.sleep(draw.random() * 0.01)
        weights.set(number + 1)
    ahead.close()


def test_after_a_cut_what_is_on_disk_is_taken_and_the_rest_is_drawn_again() -> None:
    weights = Number()
    disk = {4: "four", 5: "five"}
    calls: list[int] = []

    def draw(model: Any, number: int, version: int) -> str:
        calls.append(number)
        return f"drawn {number}"

    ahead = Ahead(draw, weights, lag=2, known=disk.get)  # type: ignore[arg-type]
    assert [ahead.get(n) for n in (4, 5, 6)] == ["four", "five", "drawn 6"]
    ahead.settle()
    assert calls == [6, 7, 8]
    ahead.forget()  # the weights went back: nothing drawn is of use
    assert ahead.get(6) == "drawn 6" and calls[3] == 6
    ahead.close()


def test_an_error_of_the_thread_reaches_the_loop() -> None:
    def broken(model: Any, number: int, version: int) -> str:
        raise ConfigError("no such thing")

    ahead = Ahead(broken, Number(), lag=1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no such thing"):
        ahead.get(0)
    ahead.close()


@given(
    st.lists(st.floats(0.01, 1), min_size=2, max_size=6), st.lists(st.floats(0.01, 1), min_size=6, max_size=6)
)
@settings(max_examples=50, deadline=None)
def test_importance_weights_make_the_samplers_mean_the_trainers(one: list[float], other: list[float]) -> None:
    p = np.array(one) / sum(one)
    q = np.array(other[: len(p)]) / sum(other[: len(p)])
    values = np.arange(len(p)) ** 2.0
    whole = is_weights(np.log(p), np.log(q), 1e9)
    assert float((q * whole * values).sum()) == pytest.approx(float((p * values).sum()), rel=1e-5)
    cut = is_weights(np.log(p), np.log(q), 1.5)
    np.testing.assert_allclose(cut, np.minimum(whole, 1.5))
    assert drift(np.log(p), np.log(q), np.ones(len(p))) == pytest.approx(np.abs(np.log(p / q)).mean())


# weights ----------------------------------------------------------------------------------------------


def outputs(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model({"tokens": tokens}, Attention.CAUSAL)


def test_a_copy_has_the_adapters_merged_and_nothing_in_common_with_what_is_trained() -> None:
    pytest.importorskip("peft")
    from exnihilo.train.adapt import Adapters

    model = build(SHAPE, heads=("tokens",), seed=1)
    tokens = torch.randint(0, 64, (2, 9))
    plain = Weights(model, SHAPE, heads=("tokens",))
    assert plain.newest() is model and plain.frozen() is not model
    Adapters.put(model, LoraConfig(rank=3), seed=0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p)
    weights = Weights(model, SHAPE, heads=("tokens",), scale=2.0)
    copy = weights.frozen()
    torch.testing.assert_close(outputs(copy, tokens), outputs(model, tokens), rtol=1e-4, atol=1e-5)
    before = outputs(copy, tokens)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5)
    torch.testing.assert_close(outputs(copy, tokens), before, rtol=0, atol=0)
    assert weights.newest() is weights.newest() is not copy
    torch.testing.assert_close(
        outputs(weights.newest(), tokens), outputs(model, tokens), rtol=1e-3, atol=1e-4
    )
    assert not any(p.requires_grad for p in copy.parameters())


def test_a_hash_is_of_weights_and_names_alone() -> None:
    one, same = (build(SHAPE, heads=("tokens",), seed=3) for _ in range(2))
    other = build(SHAPE, heads=("tokens",), seed=4)
    assert lineage.weights_hash(one) == lineage.weights_hash(same) != lineage.weights_hash(other)


# tasks ------------------------------------------------------------------------------------------------


def test_a_dialogue_asks_for_its_last_reply() -> None:
    said = [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"},
        {"role": "user", "content": "e"},
    ]  # fmt: skip
    asked = task_of({"messages": said, "_index": 7})
    assert asked is not None
    assert (asked["prompt"], asked["answer"], asked["_index"]) == (said[:3], "d", 7)
    assert task_of({"messages": said[:1]}) is None and task_of({"text": "x"}) is None
    plain = task_of({"prompt": "2+2?", "chosen": said[3:4]})
    assert plain is not None
    assert plain["prompt"] == [{"role": "user", "content": "2+2?"}] and plain["answer"] == "d"


def test_tasks_are_known_by_their_content() -> None:
    examples = [
        {"prompt": [{"role": "user", "content": str(i)}], "answer": str(i), "_file": i} for i in range(5)
    ]
    tasks = Tasks(examples, context=8)
    moved = Tasks([{**e, "_file": 9} for e in examples], context=8)
    assert tasks.hash == moved.hash != Tasks(examples[:4], context=8).hash
    order = tasks.order(3)
    assert sorted(order.rows(0, 5).tolist()) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(order.rows(1, 2), order.rows(0, 4)[2:])  # a function of the number alone
    assert tasks.refs(2)[0].preview == "2"


# reference --------------------------------------------------------------------------------------------


class Rows:
    """Pairs laid out as rows, one a row."""

    def __init__(self, count: int, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        items = [
            lay(
                draw.integers(1, 64, 5).tolist(),
                [draw.integers(1, 64, draw.integers(1, 5)).tolist() for _ in "ab"],
            )
            for _ in range(count)
        ]
        self.row = max(len(i["tokens"]) for i in items)  # type: ignore[arg-type]
        self.rows, self.tokens, self.context, self.hash = count, count * self.row, self.row - 1, f"rows{seed}"
        self.columns: dict[str, Any] = {}
        self.whole = {name: np.zeros((count, self.row), np.int64) for name in items[0]}
        self.whole["doc"] = np.full((count, self.row), -1)
        self.whole["pos"] = np.tile(np.arange(self.row), (count, 1))
        for r, item in enumerate(items):
            n = len(item["tokens"])  # type: ignore[arg-type]
            self.whole["doc"][r, :n] = 0
            for name, value in item.items():
                self.whole[name][r, :n] = value

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: value[rows] for name, value in self.whole.items()}


def literal(model: Any, data: Rows) -> np.ndarray:
    """log p of each continuation's tokens, each behind its prompt in a row of its own, float64 softmax."""
    out = np.zeros((data.rows, data.row))
    head = model.heads["tokens"]
    for r in range(data.rows):
        tokens, branch, mask = (data.whole[n][r] for n in ("tokens", "branch", "mask"))
        inside = data.whole["doc"][r] >= 0
        for b in (1, 2):
            at = np.flatnonzero(inside & ((branch == 0) | (branch == b)))
            hidden = outputs(model, torch.from_numpy(tokens[at])[None])[0]
            logp = (hidden @ head.weight.T).detach().double().log_softmax(-1).numpy()
            for i, place in enumerate(at):
                if mask[place]:
                    out[r, place] = logp[i - 1, tokens[place]]
    return out


def test_the_reference_is_computed_once_without_dropout_and_kept_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "CHUNK", 4)
    model = build(SHAPE, heads=("tokens",), seed=1).train()
    data: Any = Rows(10)
    frozen = Reference(model, "tests")
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    calls: list[int] = []
    counted = Reference.logps

    def logps(self: Reference, columns: Any, **more: Any) -> np.ndarray:
        calls.append(len(columns["tokens"]))
        if len(calls) == 3:
            raise KeyboardInterrupt  # cut while the last part is computed
        return counted(self, columns, **more)

    monkeypatch.setattr(Reference, "logps", logps)
    with pytest.raises(KeyboardInterrupt):
        frozen.column(data, world=ALONE, cache=tmp_path)
    found = frozen.column(data, world=ALONE, cache=tmp_path)
    assert calls == [4, 4, 2, 2]  # what was done before the cut is not done again
    again = Reference(build(SHAPE, heads=("tokens",), seed=1), "elsewhere").column(
        data, world=ALONE, cache=tmp_path
    )
    assert calls == [4, 4, 2, 2]
    rows = np.array([9, 0, 5])
    np.testing.assert_allclose(found.batch(rows)["ref_logp"], literal(model, data)[rows], atol=1e-5)
    np.testing.assert_array_equal(found.batch(rows)["ref_logp"], again.batch(rows)["ref_logp"])
    np.testing.assert_array_equal(found.batch(rows)["tokens"], data.batch(rows)["tokens"])
    Reference(build(SHAPE, heads=("tokens",), seed=2), "other").column(data, world=ALONE, cache=tmp_path)
    other: Any = Rows(10, seed=1)
    frozen.column(other, world=ALONE, cache=tmp_path)
    assert len(calls) == 4 + 3 + 3  # other weights, other rows: computed


def test_the_reference_must_be_something_that_was_trained(tmp_path: Path) -> None:
    codec = train_codec(CodecConfig(kind="bytes"), ["a"])
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match="random weights"):
        Reference.open(RunConfig(objective="preference"), None, codec, cpu)
    with pytest.raises(ConfigError, match="reference=none"):
        Reference.open(RunConfig(objective="preference", reference="none"), None, codec, cpu)
    other = train_codec(CodecConfig(kind="chars"), ["abc"])
    shape = SHAPE.model_copy(update={"vocab_size": other.vocab_size})
    hf.save(build(shape, heads=("tokens",)), other, tmp_path / "m")
    with pytest.raises(CodecError, match="tokenizer"):
        Reference.open(RunConfig(reference=str(tmp_path / "m")), None, codec, cpu)


# refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "values", "what"),
    [
        ("causal_lm", {"rollout": {"group": 4}}, "rollout"),
        ("causal_lm", {"grader": "exact"}, "grader"),
        ("causal_lm", {"reference": "runs/x"}, "reference"),
        ("sft", {"environment": "calculator"}, "environment"),
        ("sft", {"alarms": {"patience": 3}}, "alarms.patience"),
        ("preference", {"alarms": {"patience": 3, "gap": 0.5}}, "alarms.gap"),
        ("rlvr", {}, "without a grader"),
        ("rlvr", {"grader": "exact", "rollout": {"engine": "vllm"}}, "rollout.url"),
        ("rlvr", {"grader": "exact", "rollout": {"url": "http://x"}}, "rollout.url"),
        ("sft", {"eval": {"tries": 2, "temperature": 0}}, "eval.tries"),
    ],
)
def test_options_that_nothing_would_read_are_refused(
    objective: str, values: dict[str, Any], what: str
) -> None:
    config = RunConfig.model_validate({"objective": objective, **values})
    with pytest.raises(ConfigError, match=what):
        create.check(config, registry.create(objective))


def test_options_that_are_read_pass() -> None:
    for objective, values in (
        ("causal_lm", {}),
        ("sft", {"grader": "number"}),
        ("preference", {"alarms": {"likelihood": 3.0, "stop": False}}),
        ("rlvr", {"grader": "number", "rollout": {"group": 4}, "environment": "calculator"}),
    ):
        config = RunConfig.model_validate({"objective": objective, **values})
        create.check(config, registry.create(objective))
        assert config.objective == objective


def test_records_without_a_task_are_counted_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    good = [f'{{"prompt": "{i}+1?", "answer": "{i + 1}"}}' for i in range(6)]
    odd = ['{"prompt": "x"', '{"answer": "4"}', '{"prompt": "", "answer": "3"}']
    path.write_text("\n".join(good[:3] + odd + good[3:]) + "\n")
    source = DataConfig(sources=(SourceConfig(path=str(path)),), val_fraction=0.0)
    objective = registry.create("rlvr")
    tasks = Tasks.read(RunConfig(objective="rlvr", data=source), objective, "train")
    assert len(tasks) == 6 and tasks.drops.counts.total() == 3
    assert {"line 4", "line 5", "line 6"} == {w.rpartition(", ")[2] for w in tasks.drops.first.values()}
    path.write_text("\n".join(odd) + "\n")
    with pytest.raises(DataError, match=r"line 1|no prompt|no column"):
        Tasks.read(RunConfig(objective="rlvr", data=source), objective, "train")
