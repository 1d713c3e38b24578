"""A run from end to end: the folder it leaves, going on, starting from another, being told to stop."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exnihilo.config import (
    CheckpointConfig,
    EvalConfig,
    GuardConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
)
from exnihilo.config_layers import load_toml
from exnihilo.errors import CodecError, ConfigError, ModelError, TrainError, UsageError
from exnihilo.interop.load import load
from exnihilo.train import loop, run


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal in the middle of a step."""
    done = loop.Loop._done

    def telling(self: loop.Loop, at: int) -> None:
        done(self, at)
        if at + 1 == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(loop.Loop, "_done", telling)


def test_the_folder_it_leaves(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    result = run(make(folder, eval=EvalConfig(every=3, tokens=128, samples=1)), progress=False)
    assert result.run == folder and result.step == 6 and result.tokens == 6 * 256 and not result.interrupted
    found = {p.name for p in folder.iterdir()}
    assert {"config.toml", "env.json", "data.json", "metrics.jsonl", "checkpoints", "samples"} <= found
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"} <= found
    assert [r["step"] for r in rows(folder) if r["kind"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in rows(folder) if r["kind"] == "eval"] == [0, 3, 6]
    settled = load_toml(folder / "config.toml")
    assert settled.model.width == 32 and settled.model.vocab_size == 261 and settled.optim.lr is not None
    text = (folder / "config.toml").read_text()
    assert "derived" in text
    env = json.loads((folder / "env.json").read_text())
    assert env["packages"]["torch"].startswith("2.") and env["device"] == "cpu"


def test_the_model_it_leaves_has_the_loss_it_says(make: Any, tmp_path: Path) -> None:
    result = run(make(tmp_path / "r"), progress=False)
    loaded = load(tmp_path / "r")
    own = load_file(tmp_path / "r/checkpoints/step-00000006/model.safetensors")
    assert all(torch.equal(p, own[n]) for n, p in loaded.model.named_parameters())
    assert loaded.codec.vocab_size == 261
    assert (
        result.val_loss
        == next(r for r in rows(tmp_path / "r") if r.get("step") == 6 and "val_loss" in r)["val_loss"]
    )


def test_told_to_stop_it_saves_and_goes_on_bit_for_bit(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make(tmp_path / "whole"), progress=False)
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        cut = run(make(tmp_path / "cut"), progress=False)
    assert cut.interrupted and cut.step == 4
    assert not (tmp_path / "cut/model.safetensors").exists()
    assert load(tmp_path / "cut").path.name == "step-00000004"  # usable meanwhile
    again = run(make(tmp_path / "cut"), resume=True, progress=False)
    assert not again.interrupted and again.step == 6
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    keys = ("kind", "step", "loss", "lr", "grad_norm", "val_loss")
    whole, cut_rows = ([{k: r.get(k) for k in keys} for r in rows(tmp_path / n)] for n in ("whole", "cut"))
    assert whole == cut_rows


def test_a_second_ctrl_c_leaves_at_once(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stop_at(patch, 2, signal.SIGINT)
        saving = loop.Keeper.save

        def impatient(self: Any) -> None:
            if self.state.step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            saving(self)

        patch.setattr(loop.Keeper, "save", impatient)
        with pytest.raises(KeyboardInterrupt):
            run(make(tmp_path / "r"), progress=False)
    assert run(make(tmp_path / "r"), resume=True, progress=False).step == 6


def test_a_finished_run_can_be_extended(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(make(tmp_path / "r"), progress=False)
    assert run(make(tmp_path / "r"), resume=True, progress=False).step == 6  # nothing to do
    capsys.readouterr()
    assert run(make(tmp_path / "r", steps=9), resume=True).step == 9
    said = capsys.readouterr().err
    assert "steps: 6 -> 9" in said and "the learning rate is" in said
    with pytest.raises(ConfigError, match="ends at step 5, the run is at step 9"):
        run(make(tmp_path / "r", steps=5), resume=True, progress=False)


def test_starting_from_another_run(make: Any, tmp_path: Path) -> None:
    first = run(make(tmp_path / "a", steps=30), progress=False)
    run(make(tmp_path / "b", init=str(tmp_path / "a"), steps=1), progress=False)
    start = next(r for r in rows(tmp_path / "b") if r["kind"] == "eval")
    assert start["step"] == 0 and start["val_loss"] == pytest.approx(first.val_loss, rel=1e-6)
    state = json.loads((tmp_path / "b/checkpoints/step-00000001/state.json").read_text())
    assert state["parent"]["path"] == str(tmp_path / "a") and len(state["parent"]["sha256"]) == 64


def test_init_decides_the_shape(make: Any, tmp_path: Path) -> None:
    run(make(tmp_path / "a"), progress=False)
    config = make(tmp_path / "b", init=str(tmp_path / "a"), model=ModelConfig(depth=3, context=32))
    with pytest.raises(ModelError, match="model.depth=3, but the model of init=.* has 1"):
        run(config, origins={"model.depth": "command line"}, progress=False)


def test_a_tokenizer_that_does_not_match_is_refused(make: Any, tmp_path: Path) -> None:
    from exnihilo.config import CodecConfig

    run(make(tmp_path / "a"), progress=False)
    run(make(tmp_path / "b", codec=CodecConfig(kind="chars")), progress=False)
    other = CodecConfig(path=str(tmp_path / "b"))
    with pytest.raises(CodecError, match="261 ids, hash") as caught:
        run(make(tmp_path / "c", init=str(tmp_path / "a"), codec=other), progress=False)
    assert "is not that of init" in str(caught.value)
    assert load(tmp_path / "a").codec.vocab_size == 261


def test_measured_choices_are_obeyed_after_a_resume(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exnihilo.config import BatchConfig
    from exnihilo.train import tune

    open_ = make(tmp_path / "r", batch=BatchConfig(tokens=256), threads=None, dtype="auto", compile="auto")
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        run(open_, progress=False)
    state = json.loads((tmp_path / "r/checkpoints/step-00000003/state.json").read_text())
    assert 1 <= state["choices"]["micro_rows"] <= 8 and state["choices"]["dtype"] in ("fp32", "bf16")

    def never(*args: object, **kwargs: object) -> object:
        raise AssertionError("measured again")

    monkeypatch.setattr(tune, "micro_rows", never)
    monkeypatch.setattr(tune, "threads", never)
    assert run(open_, resume=True, progress=False).step == 6


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's tracer looks at activations
def test_compiled_blocks_learn_the_same(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole path of compile=on, with a backend that captures graphs and leaves them as they are."""
    from functools import partial

    from exnihilo.parallel import compile as compiling

    monkeypatch.setattr(compiling, "unavailable", lambda device: None)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    watch = EvalConfig(every=2, tokens=128, samples=1)
    run(make(tmp_path / "plain", eval=watch), progress=False)
    run(make(tmp_path / "on", compile="on", eval=watch), progress=False)
    run(make(tmp_path / "on", compile="on", eval=watch, steps=8), resume=True, progress=False)
    run(make(tmp_path / "plain", eval=watch, steps=8), resume=True, progress=False)
    a, b = (load_file(tmp_path / n / "model.safetensors") for n in ("plain", "on"))
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-4)
    assert load_toml(tmp_path / "on/config.toml").compile == "on"


def test_the_last_evaluation_reads_all_where_that_is_quick(make: Any, tmp_path: Path) -> None:
    config = make(
        tmp_path / "r", eval=EvalConfig(every=3, samples=0), data={"sources": [{"path": "world:800"}]}
    )
    run(config, progress=False)
    read = [r["val_tokens"] for r in rows(tmp_path / "r") if r["kind"] == "eval"]
    assert read[0] == read[1] == read[2] < 1.1 * 4096 and read[3] > 2 * read[0]


def test_by_the_clock(make: Any, tmp_path: Path) -> None:
    result = run(
        make(tmp_path / "r", steps=None, minutes=0.04, eval=EvalConfig(every=10**6, tokens=64)),
        progress=False,
    )
    train = [r for r in rows(tmp_path / "r") if r["kind"] == "train"]
    assert 5 < result.step and result.seconds < 6
    assert train[-1]["lr"] < 0.5 * max(r["lr"] for r in train)  # it cooled down
    assert (
        run(make(tmp_path / "r", steps=None, minutes=0.04), resume=True, progress=False).step == result.step
    )


ODD = """
import torch
from exnihilo.objective.causal_lm import CausalLM

BAD = {bad}
CALLS = []

class Odd(CausalLM):
    def sums(self, model, batch):
        out = super().sums(model, batch)
        if not torch.is_grad_enabled():
            return out
        CALLS.append(1)
        if (len(CALLS) - 3) // 2 in BAD:  # two calls are timed before the first step, then two a step
            out["nll"] = out["nll"] * float("nan")
        return out
"""


def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: object) -> str:
    """A training type of the user's own whose loss breaks at some steps."""
    name = f"odd_{abs(hash((str(tmp_path), str(bad))))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / name / "objective.py").write_text(ODD.format(bad=bad))
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"{name}.objective"


def test_a_bad_step_is_skipped_and_named(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make(tmp_path / "r", objective=odd(tmp_path, monkeypatch, {3}), steps=8)
    result = run(config, progress=False)
    assert result.step == 8
    events = [r for r in rows(tmp_path / "r") if r["kind"] == "event"]
    assert len(events) == 1 and "the loss is nan" in events[0]["why"]
    documents = events[0]["rows"][0]["documents"]
    assert documents[0]["file"].endswith("corpus.txt") and documents[0]["preview"]
    kept = [r for r in rows(tmp_path / "r") if r["kind"] == "train"]
    assert all(r["loss"] == r["loss"] for r in kept) and len(kept) == 7
    assert json.loads((tmp_path / "r/guard.json").read_text())[0]["event"] == "skip"


def test_a_bad_stretch_rewinds_and_leaves_its_rows_out(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exnihilo.config import CheckpointConfig

    bad = odd(tmp_path, monkeypatch, {7, 8})
    guard = GuardConfig(max_skips=2)
    config = make(tmp_path / "r", objective=bad, steps=12, guard=guard, checkpoint=CheckpointConfig(every=4))
    assert run(config, progress=False).step == 12
    events = [r["event"] for r in rows(tmp_path / "r") if r["kind"] == "event"]
    assert events == ["rewind", *["left_out"] * 4]
    steps = [r["step"] for r in rows(tmp_path / "r") if r["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 10, 11, 12]  # steps 5..8 (0-based) were left out
    told = json.loads((tmp_path / "r/guard.json").read_text())
    assert [t["event"] for t in told] == ["skip", "skip", "rewind"] and told[-1]["left_out"] == [5, 6, 7, 8]


def test_a_run_that_stays_bad_gives_up(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = odd(tmp_path, monkeypatch, "range(4, 10**6)")
    guard = GuardConfig(max_skips=2, max_rewinds=1)
    with pytest.raises(TrainError, match="bad steps in a row") as caught:
        run(make(tmp_path / "r", objective=bad, steps=40, guard=guard), progress=False)
    assert "lower optim.lr" in str(caught.value)
    assert (tmp_path / "r/checkpoints/step-00000000/model.safetensors").exists()


def test_no_data_and_no_budget(make: Any, tmp_path: Path) -> None:
    from exnihilo.config import DataConfig

    with pytest.raises(UsageError, match="no data"):
        run(make(tmp_path / "a", data=DataConfig()), progress=False)
    with pytest.raises(ConfigError, match="no budget"):
        run(make(tmp_path / "b", steps=None), progress=False)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_run_can_end_with_the_weights_whose_loss_was_lowest(
    make: Any, tmp_path: Path, ema: float | None
) -> None:
    # a rate that destroys what the first steps learnt: the lowest loss is not the last one
    given: dict[str, Any] = {
        "optim": OptimConfig(name="adamw", lr=0.3 if ema else 0.1, schedule=ScheduleConfig(name="constant")),
        "eval": EvalConfig(every=1, tokens=128, samples=0),
        "checkpoint": CheckpointConfig(use="best"),
        "guard": GuardConfig(enabled=False),
        "ema": ema,
    }
    folder = tmp_path / "r"
    result = run(make(folder, **given), progress=False)
    found = {r["step"]: r["val_loss"] for r in rows(folder) if r["kind"] == "eval" and not r.get("final")}
    best = min(found, key=lambda step: found[step])
    assert 0 < best < result.step and found[best] < found[result.step]
    kept = load_file(folder / f"checkpoints/step-{best:08d}" / f"{'ema' if ema else 'model'}.safetensors")
    last = load_file(folder / f"checkpoints/step-{result.step:08d}" / "model.safetensors")
    own = dict(load(folder).model.named_parameters())
    assert all(torch.equal(own[name], kept[name]) for name in own)
    assert not all(torch.equal(own[name], last[name]) for name in own)  # a longer run goes on from the last


def test_the_best_weights_must_be_kept_to_be_used() -> None:
    with pytest.raises(ValueError, match="use=best"):
        CheckpointConfig(best=False, use="best")
