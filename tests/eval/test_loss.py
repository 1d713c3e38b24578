"""The loss of a split against a naive computation in float64 and against Transformers'."""

from __future__ import annotations

import copy
import json
import math
import random
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from exnihilo.config import ModelConfig
from exnihilo.data.dataset import Dataset
from exnihilo.errors import DataError, UsageError
from exnihilo.eval import evaluate
from exnihilo.eval import loss as room
from exnihilo.interop import hf
from exnihilo.model import Model, build
from exnihilo.nn.layout import Attention
from exnihilo.objective.base import Objective
from exnihilo.objective.causal_lm import CausalLM
from exnihilo.parallel.mesh import World

VOCABULARY, CONTEXT = 61, 24
BYTES = np.array([0, 0, 0] + [1 + i % 3 for i in range(VOCABULARY - 3)], np.int32)


class Rows:
    """Documents of random ids, several a row, two unequal sources; the last row is nearly all padding."""

    context = CONTEXT

    def __init__(
        self, rows: int = 11, names: tuple[str, ...] = ("books", "code"), single: bool = False
    ) -> None:
        rng = np.random.default_rng(0)
        self.rows, self.source_names = rows, names
        self.documents: list[list[list[int]]] = []
        for row in range(rows):
            sizes = [CONTEXT + 1] if single else [7, 12, 5] if row < rows - 1 else [4]
            self.documents.append([rng.integers(3, VOCABULARY, n).tolist() for n in sizes])
        self.source = np.array([0 if row < 7 or len(names) == 1 else 1 for row in range(rows)], np.int64)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        shape = (len(rows), CONTEXT + 1)
        out = {"tokens": np.zeros(shape, np.int64), "doc": np.full(shape, -1, np.int32)}
        out["pos"] = np.zeros(shape, np.int64)
        for b, row in enumerate(rows):
            at = 0
            for number, ids in enumerate(self.documents[row]):
                span = slice(at, at + len(ids))
                out["tokens"][b, span], out["doc"][b, span] = ids, number
                out["pos"][b, span] = np.arange(len(ids))
                at += len(ids)
        return {**out, "source": self.source[rows]}


@pytest.fixture(scope="module")
def model() -> Model:
    made = build(
        ModelConfig(depth=2, width=32, heads=2, mlp_width=48, vocab_size=VOCABULARY, context=CONTEXT), seed=1
    )
    with torch.no_grad():
        for p in made.parameters():
            p.mul_(4.0)
    return made


def measure(model: Model, rows: Rows, objective: Objective | None = None, **options: Any) -> dict[str, float]:
    options = {"device": "cpu", "micro_rows": 4, **options}
    return evaluate(model, objective or CausalLM(), cast(Dataset, rows), **options)


@torch.no_grad()
def naive(model: Model, rows: Rows) -> dict[str, tuple[float, int, int]]:
    """(nll, tokens, bytes) of each source: document by document, token by token, in float64."""
    exact = copy.deepcopy(model).double()
    out: dict[str, tuple[float, int, int]] = {}
    for row, documents in enumerate(rows.documents):
        name = rows.source_names[rows.source[row]]
        for ids in documents:
            logp = exact.heads["tokens"].logits(exact({"tokens": torch.tensor([ids])}))[0].log_softmax(-1)
            nll = -sum(logp[t, ids[t + 1]].item() for t in range(len(ids) - 1))
            before = out.get(name, (0.0, 0, 0))
            size = int(BYTES[ids[1:]].sum())
            out[name] = (before[0] + nll, before[1] + len(ids) - 1, before[2] + size)
    return out


def test_it_is_the_naive_loss_in_float64(model):
    rows = Rows()
    parts, found = naive(model, rows), measure(model, rows, token_bytes=BYTES)
    nll, tokens, size = (sum(column) for column in zip(*parts.values(), strict=True))
    assert found["tokens"] == tokens
    assert found["loss"] == pytest.approx(nll / tokens, rel=1e-6)
    assert found["bpb"] == pytest.approx(nll / math.log(2) / size, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-5)
    for name, (part, count, _) in parts.items():
        assert found[f"loss@{name}"] == pytest.approx(part / count, rel=1e-6)


@pytest.mark.parametrize("micro_rows", [1, 2, 3, 7, 11, 100])
def test_batch_size_does_not_matter(model, micro_rows):
    whole = measure(model, Rows(), token_bytes=BYTES, micro_rows=4)
    assert measure(model, Rows(), token_bytes=BYTES, micro_rows=micro_rows) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("world", [2, 3, 20])
def test_the_number_of_workers_does_not_matter(model, world, monkeypatch):
    """Each worker's own totals, merged, are one worker's; all workers make as many forwards."""
    rows = Rows()
    alone = measure(model, rows, token_bytes=BYTES)
    told, forwards = [], []

    def tell(self: World, value: Any) -> list[Any]:
        told.append(json.loads(json.dumps(value)))
        return [told[0]]  # a worker without rows has nothing of its own to show

    monkeypatch.setattr(World, "gather", tell)
    for rank in range(world):
        calls: list[int] = []
        hook = model.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        measure(model, rows, token_bytes=BYTES, micro_rows=2, world=World(rank, world, torch.device("cpu")))
        hook.remove()
        forwards.append(len(calls))
    assert len(set(forwards)) == 1 and len(told) == world
    monkeypatch.setattr(World, "gather", lambda self, value: told)
    merged = measure(model, rows, token_bytes=BYTES, world=World(0, world, torch.device("cpu")))
    assert merged == pytest.approx(alone, rel=1e-6)


def test_every_row_is_read_once(model):
    seen: list[int] = []
    rows = Rows()
    inner = rows.batch
    rows.batch = lambda ids: seen.extend(ids.tolist()) or inner(ids)  # type: ignore[method-assign]
    measure(model, rows, micro_rows=3)
    assert sorted(seen) == list(range(rows.rows))


def test_a_part_is_spread_over_the_split_and_always_the_same(model):
    rows = Rows()
    part = measure(model, rows, max_tokens=4 * CONTEXT)
    assert part == measure(model, rows, max_tokens=4 * CONTEXT)
    assert part["tokens"] < measure(model, rows)["tokens"]
    assert {"loss@books", "loss@code"} <= set(part)
    assert measure(model, rows, max_tokens=10**9) == measure(model, rows)
    ids = [tuple(room.spread(100, n)) for n in (1, 7, 100, 200, None)]
    assert [len(i) for i in ids] == [1, 7, 100, 100, 100]
    assert all(len(set(i)) == len(i) and max(i) < 100 for i in ids)


def test_one_source_has_no_slices(model):
    found = measure(model, Rows(names=("books",)))
    assert not any("@" in key for key in found) and "bpb" not in found


@pytest.mark.parametrize("family", ["qwen3", "llama", "gpt2"])
def test_it_is_transformers_loss(family, tmp_path):
    transformers = pytest.importorskip("transformers")
    made = build(
        ModelConfig(
            family=family, depth=2, width=32, heads=2, mlp_width=48, vocab_size=VOCABULARY, context=CONTEXT
        ),
        seed=2,
    )
    rows = Rows(rows=4, single=True)
    hf.save(made, None, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([d[0][:CONTEXT] for d in rows.documents])
    for row in rows.documents:  # rows of context tokens, since learned positions end there
        row[0] = row[0][:CONTEXT]
    with torch.no_grad():
        expected = theirs(ids, labels=ids).loss.item()
    assert measure(made, rows)["loss"] == pytest.approx(expected, abs=1e-5)


class Drawing(Objective):
    """Draws from every random source there is, and weighs two terms."""

    attention = Attention.CAUSAL
    heads = ("tokens",)
    columns = frozenset({"tokens"})
    weights = {"b": 0.5}

    def encode(self, example: Any, codec: Any) -> Any:
        return {"tokens": np.zeros(1)}

    def counts(self, batch: Any) -> dict[str, Tensor]:
        return {"a": torch.tensor(2.0), "b": torch.tensor(4.0)}

    def sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        drawn = torch.rand(()) + random.random() + np.random.rand()
        return {"a": drawn, "b": torch.tensor(8.0)}


def test_drawing_objectives_draw_the_same_each_time(model):
    first = measure(model, Rows(), Drawing())
    torch.rand(3)
    random.random()
    assert measure(model, Rows(), Drawing()) == first
    assert first["loss"] == pytest.approx(first["a"] + 0.5 * 2.0)
    assert first["b"] == 2.0


def test_nothing_is_left_behind(model):
    model.train()
    model.trunk.blocks[1].eval()
    modes = [m.training for m in model.modules()]
    states = torch.get_rng_state(), np.random.get_state(legacy=False), random.getstate()
    measure(model, Rows(), Drawing())
    measure(model, Rows(), dtype=torch.bfloat16)
    with pytest.raises(KeyError):
        measure(model, Rows(), _Broken())
    assert [m.training for m in model.modules()] == modes
    assert torch.get_rng_state().equal(states[0])
    np.testing.assert_equal(np.random.get_state(legacy=False), states[1])
    assert random.getstate() == states[2]
    assert all(p.grad is None for p in model.parameters()) and torch.is_grad_enabled()
    model.eval()


class _Broken(CausalLM):
    def sums(self, model: Any, batch: Any) -> dict[str, Tensor]:
        assert not model.training
        raise KeyError("broken")


def test_dropout_is_off(model):
    dropped = Model(model.config.model_copy(update={"dropout": 0.5}))
    dropped.load_state_dict(model.state_dict())
    dropped.train()
    assert measure(dropped, Rows()) == measure(model, Rows())


def test_low_precision_is_near(model):
    exact, low = measure(model, Rows()), measure(model, Rows(), dtype="bf16")
    assert low != exact and low["loss"] == pytest.approx(exact["loss"], rel=0.02)


def test_bad_input(model):
    with pytest.raises(DataError, match="no rows"):
        measure(model, Rows(rows=0))
    nothing = Rows(rows=2)
    nothing.documents = [[[5]], [[6], [7]]]
    with pytest.raises(DataError, match="nothing to predict in 2 rows"):
        measure(model, nothing)
    wrong: list[dict[str, Any]] = [
        {"micro_rows": 0},
        {"max_tokens": 0},
        {"dtype": "int4"},
    ]
    for options in wrong:
        with pytest.raises(UsageError):
            measure(model, Rows(), **options)
