"""Metrics, changes, precision, averaged weights, choices of micro-batches, progress: each by its law."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exnihilo.config import DataConfig, EvalConfig, ModelConfig, OptimConfig, RunConfig, SourceConfig
from exnihilo.errors import ConfigError
from exnihilo.parallel.mesh import World
from exnihilo.train import changes, metrics, precision, tune
from exnihilo.train.ema import Ema
from exnihilo.train.progress import Plain, duration, line
from exnihilo.train.state import step_seed

CPU = torch.device("cpu")


# metrics


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, 400), step=st.integers(0, 6))
def test_after_a_cut_each_step_is_there_once(
    tmp_path_factory: pytest.TempPathFactory, cut: int, step: int
) -> None:
    path = tmp_path_factory.mktemp("m") / "metrics.jsonl"
    out = metrics.Metrics(path)
    for s in range(1, 6):
        out.write("train", s, {"loss": 1.0 / s, "odd": math.nan})
    out.close()
    path.write_bytes(path.read_bytes()[:cut])  # killed while it wrote
    whole = [r["step"] for r in metrics.rows(path)]
    metrics.truncate(path, step)
    kept = [r["step"] for r in metrics.rows(path)]
    assert kept == [s for s in whole if s <= step]
    again = metrics.Metrics(path)
    for s in range((kept or [0])[-1] + 1, 6):
        again.write("train", s, {"loss": 1.0 / s})
    again.close()
    assert [json.loads(x)["step"] for x in path.read_text().splitlines()] == [1, 2, 3, 4, 5]


def test_an_evaluation_that_will_be_done_again_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    out = metrics.Metrics(path)
    out.write("eval", 0, {"val_loss": 1.0})
    out.write("train", 1, {"loss": 1.0})
    out.write("eval", 1, {"val_loss": 1.0})
    out.close()
    metrics.truncate(path, 1, evaluated=0)
    assert [(r["kind"], r["step"]) for r in metrics.rows(path)] == [("eval", 0), ("train", 1)]


# changes


STORED = RunConfig(
    data=DataConfig(sources=(SourceConfig(path="a.txt"),)),
    steps=100,
    model=ModelConfig(width=64),
    optim=OptimConfig(lr=0.1),
    dtype="fp32",
).model_dump(mode="json")


def diff(**values: object) -> dict[str, tuple[object, object]]:
    config = RunConfig.model_validate(values)
    return {c.key: (c.old, c.new) for c in changes.compare(STORED, config, None)}


def test_only_what_was_given_counts_as_changed() -> None:
    assert diff() == {}
    assert diff(data="a.txt", steps=100) == {}
    assert diff(dtype="auto") == {}  # left open again: what was measured stays
    assert diff(steps=200, optim={"lr": 0.2}) == {"steps": (100, 200), "optim.lr": (0.1, 0.2)}
    assert "data.sources" in diff(data="b.txt")


def test_origins_tell_the_user_from_the_recipe() -> None:
    config = RunConfig(steps=7, optim=OptimConfig(lr=0.2))
    origins = {"steps": "command line", "optim.lr": "recipe gpt", "data.sources": "default"}
    assert [c.key for c in changes.compare(STORED, config, origins)] == ["steps"]


@pytest.mark.parametrize(
    ("key", "force", "refused"),
    [
        ("optim.lr", False, True),
        ("optim.lr", True, False),
        ("seed", False, True),
        ("model.width", True, True),
        ("codec.vocab_size", True, True),
        ("steps", False, False),
        ("eval.every", False, False),
        ("threads", False, False),
    ],
)
def test_what_may_change(key: str, force: bool, refused: bool) -> None:
    change = changes.Change(key, 1, 2)
    if refused:
        with pytest.raises(ConfigError, match=f"{key}: 1 -> 2"):
            changes.check([change], force=force)
    else:
        changes.check([change], force=force)
        assert change.new == 2


def test_changes_are_applied_and_nothing_else() -> None:
    config = changes.apply(STORED, [changes.Change("eval.every", None, 5), changes.Change("steps", 100, 200)])
    assert config.eval == EvalConfig(every=5) and config.steps == 200
    assert config.model.width == 64 and config.optim.lr == 0.1


# precision


def test_the_probe_chooses_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(bf16: float) -> str:
        speeds = {torch.float32: 100.0, torch.bfloat16: bf16}
        monkeypatch.setattr(precision, "matmul_flops", lambda device, dtype, **_: speeds[dtype])
        return precision.choose("auto", CPU)

    assert measured(1.0) == "fp32"
    assert measured(110.0) == "fp32"  # not worth it
    assert measured(400.0) == "bf16"
    assert precision.choose("bf16", CPU) == "bf16"  # an option that is given is obeyed


@given(st.lists(st.booleans(), max_size=2000))
def test_the_loss_scale_stays_a_power_of_two(steps: list[bool]) -> None:
    scaler = precision.LossScale(interval=3)
    for finite in steps:
        before = scaler.scale
        scaler.update(finite)
        assert scaler.scale <= before if not finite else scaler.scale >= before
        assert 1.0 <= scaler.scale <= 2.0**24 and math.log2(scaler.scale).is_integer()
    assert precision.LossScale.from_json(scaler.to_json()).scale == scaler.scale


def test_unscaling_is_exact() -> None:
    scaler = precision.LossScale(scale=2.0**14)
    gradient = torch.randn(5)
    scaled = gradient * scaler.scale
    scaler.unscale([scaled])
    assert torch.equal(scaled, gradient)


# averaged weights


def test_ema_is_its_formula_and_leaves_no_trace() -> None:
    model = nn.Linear(3, 2)
    ema = Ema(model, 0.9)
    expected = model.weight.detach().clone()
    for n in range(1, 6):
        with torch.no_grad():
            model.weight += 1.0
        ema.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    assert torch.allclose(ema.average["weight"], expected, atol=1e-6)
    last = model.weight.detach().clone()
    with ema.applied():
        assert torch.equal(model.weight, ema.average["weight"])
    assert torch.equal(model.weight, last)
    assert model.weight.requires_grad


# choices


@given(st.integers(1, 5000))
def test_candidates_reach_from_one_to_all(rows: int) -> None:
    found = tune.candidates(rows)
    assert found[0] == 1 and found[-1] == rows and found == sorted(set(found))
    assert all(b <= 2 * a for a, b in zip(found, found[1:], strict=False))


def test_the_micro_batch_search_leaves_no_trace_and_finds_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 1)
    random = torch.get_rng_state()
    clock = {1: 1.0, 2: 1.1, 4: 1.2, 8: 4.0, 16: 9.0}  # seconds of a forward and backward: best a row at 4

    def timed(forward: object, model: object, world: object, rows: int) -> float:
        return clock[rows]

    monkeypatch.setattr(tune, "timed", timed)
    best, pace = tune.micro_rows(
        lambda n: model(torch.ones(n, 2)).sum(), model, World(0, 1, CPU), rows=16, context=512
    )
    assert best == 4 and pace == pytest.approx(0.3)
    monkeypatch.undo()
    tune.timed(lambda n: model(torch.randn(n, 2)).sum(), model, World(0, 1, CPU), 3)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


def test_threads_are_as_given() -> None:
    assert tune.threads(3) == 3


def test_seeds_of_steps_differ() -> None:
    seeds = {step_seed(s, n, r) for s in range(5) for n in range(50) for r in range(4)}
    assert len(seeds) == 1000 and all(0 <= s < 2**63 for s in seeds)


# progress


def test_plain_lines() -> None:
    stream = io.StringIO()
    shown = Plain(stream)
    shown.start("encode", unit="documents")
    shown.advance(5)
    row = {"step": 1, "loss": 2.0, "tokens_per_s": 1000.0, "mfu": 0.5}
    shown.train(row, 0.5, 2, 65.0)
    shown.close()
    assert "step 1/2  loss 2.0000  1,000 tokens/s  MFU 50%  1:05 left" in stream.getvalue()
    assert "encode: 5 documents" in stream.getvalue()
    assert line(row, None, None) == "step 1  loss 2.0000  1,000 tokens/s  MFU 50%"
    assert duration(3600) == "1:00:00"
