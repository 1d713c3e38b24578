"""Laws of the loop: how rows are cut never changes the gradient; it learns; watching it leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from exnihilo.config import BatchConfig, EvalConfig, ModelConfig, OptimConfig, ScheduleConfig
from exnihilo.errors import TrainError
from exnihilo.model import build
from exnihilo.objective.registry import create
from exnihilo.optim import create as create_optimizer
from exnihilo.parallel.mesh import World
from exnihilo.train import metrics, run
from exnihilo.train.batches import Micro
from exnihilo.train.loop import named, step_gradients

CONFIG = ModelConfig(depth=2, width=32, heads=2, context=16, vocab_size=50)
ALONE = World(0, 1, torch.device("cpu"))


def batch(rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Rows of ragged documents with padding at the end."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 50, (rows, 17), generator=generator)
    doc = torch.zeros(rows, 17, dtype=torch.int32)
    pos = torch.arange(17).repeat(rows, 1)
    for r in range(rows):
        cut, end = 3 + r % 5, 17 - r % 4
        doc[r, cut:], pos[r, cut:] = 1, torch.arange(17 - cut)
        doc[r, end:], pos[r, end:] = -1, 0
    return {"tokens": tokens, "doc": doc, "pos": pos}


def gradients(sizes: list[int], **values: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    model = build(CONFIG, seed=1)
    with torch.no_grad():  # zero-initialised outputs would hide a wrong gradient
        for p in model.parameters():
            p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    whole = batch(8)
    micros, at = [], 0
    for size in sizes:
        micros.append(Micro({k: v[at : at + size] for k, v in whole.items()}))
        at += size
    micros += values.pop("more", [])
    found = step_gradients(model, create("causal_lm"), micros, ALONE, **values)
    return found, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("sizes", [[1] * 8, [3, 5], [2, 2, 2, 2], [7, 1]])
def test_however_the_rows_are_cut_the_gradient_is_the_same(sizes: list[int]) -> None:
    whole, expected = gradients([8])
    cut, found = gradients(sizes)
    assert cut.loss == pytest.approx(whole.loss, rel=1e-6)
    assert cut.norm == pytest.approx(whole.norm, rel=1e-5)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-7)


def test_a_filler_does_not_count() -> None:
    _, expected = gradients([8])
    _, found = gradients([8], more=[Micro(batch(2, seed=9), filler=True)])
    assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_clipping_bounds_the_norm() -> None:
    free, whole = gradients([8])
    clipped, found = gradients([8], max_norm=free.norm / 2)
    assert clipped.norm == pytest.approx(free.norm)  # the norm that is reported is the one before
    total = torch.stack([g.norm() for g in found.values()]).norm()
    assert float(total) == pytest.approx(free.norm / 2, rel=1e-3)
    assert whole.keys() == found.keys()


def test_nothing_to_predict_is_an_error() -> None:
    empty = batch(2)
    empty["doc"] = torch.full_like(empty["doc"], -1)
    with pytest.raises(TrainError, match="nothing to predict"):
        step_gradients(build(CONFIG), create("causal_lm"), [Micro(empty)], ALONE)


def test_one_batch_can_be_learnt_by_heart() -> None:
    model = build(CONFIG, seed=0)
    optimizer = create_optimizer(model, OptimConfig(), model.config)
    rows = batch(4)
    # nothing tells the first token of a document: repeat one row, so that all can be known
    rows = {k: v[:1].repeat(4, 1) for k, v in rows.items()}
    losses = []
    for _ in range(60):
        losses.append(step_gradients(model, create("causal_lm"), [Micro(rows)], ALONE, max_norm=1.0).loss)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[0] == pytest.approx(np.log(50), rel=0.05)
    assert losses[-1] < 0.1


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    return load_file(run_folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    x, y = weights(a), weights(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def test_it_learns_a_text(make: Any, tmp_path: Path) -> None:
    constant = OptimConfig(schedule=ScheduleConfig(name="cosine"))
    result = run(make(tmp_path / "r", steps=60, optim=constant), progress=False)
    losses = [r["loss"] for r in metrics.rows(tmp_path / "r/metrics.jsonl") if r["kind"] == "train"]
    assert len(losses) == 60 and losses[0] == pytest.approx(np.log(261), rel=0.02)  # ln V: pure randomness
    assert np.mean(losses[-10:]) < 0.55 * losses[0]
    assert result.val_loss is not None and result.val_loss < 0.6 * losses[0]


def test_watching_changes_nothing(make: Any, tmp_path: Path) -> None:
    model = ModelConfig(depth=1, width=32, context=32, dropout=0.2)
    run(make(tmp_path / "seldom", model=model), progress=False)
    often = EvalConfig(every=1, tokens=64, samples=2)
    run(make(tmp_path / "often", model=model, eval=often), progress=False)
    assert same(tmp_path / "seldom", tmp_path / "often")
    assert len(list((tmp_path / "often/samples").iterdir())) == 7


def test_recomputing_activations_changes_nothing(make: Any, tmp_path: Path) -> None:
    model = ModelConfig(depth=2, width=32, context=32, dropout=0.2)
    run(make(tmp_path / "kept", model=model), progress=False)
    run(make(tmp_path / "again", model=model, checkpointing=True), progress=False)
    assert same(tmp_path / "kept", tmp_path / "again")


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_lower_precision_learns_the_same(make: Any, tmp_path: Path, dtype: str) -> None:
    small = {"steps": 2, "batch": BatchConfig(tokens=64, micro_tokens=32)}
    full = run(make(tmp_path / "fp32", **small), progress=False)
    low = run(make(tmp_path / dtype, dtype=dtype, **small), progress=False)
    assert low.loss == pytest.approx(full.loss, rel=0.02)
    assert all(t.dtype == torch.float32 for t in weights(tmp_path / dtype).values())  # master weights


def test_the_averaged_weights_are_what_is_exported(make: Any, tmp_path: Path) -> None:
    run(make(tmp_path / "r", ema=0.5), progress=False)
    last = tmp_path / "r/checkpoints/step-00000006"
    average, end = load_file(last / "ema.safetensors"), load_file(last / "model.safetensors")
    out = weights(tmp_path / "r")["model.embed_tokens.weight"]
    name = "front.tokens.weight"
    assert torch.equal(out, average[name]) and not torch.equal(out, end[name])


def test_sources_have_their_own_loss(make: Any, tmp_path: Path, corpus: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text().upper())
    run(make(tmp_path / "r", data=[str(corpus), str(other)]), progress=False)
    rows = list(metrics.rows(tmp_path / "r/metrics.jsonl"))
    train = [r for r in rows if r["kind"] == "train"]
    names = sorted(k for k in train[0] if k.startswith("loss@"))
    assert names == ["loss@corpus", "loss@other"]
    assert min(train[0][n] for n in names) <= train[0]["loss"] <= max(train[0][n] for n in names)
    assert {f"val_{n}" for n in names} <= next(r for r in rows if r["kind"] == "eval").keys()


def test_terms_get_names_for_people() -> None:
    objective = create("causal_lm")
    assert named({"nll": 1.0, "nll@0": 2.0}, ("a",), objective) == {"loss@a": 2.0}
    assert named({"mlm": 1.0, "nsp": 2.0, "mlm@0": 3.0}, ("a",), objective) == {
        "mlm": 1.0,
        "nsp": 2.0,
        "mlm@a": 3.0,
    }
