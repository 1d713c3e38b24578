"""Runs of supervised fine-tuning: a base model learns to answer and to stop; adapters, noise, resuming."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exnihilo.codec.chat import chat
from exnihilo.config import EvalConfig, LoraConfig, ModelConfig, OptimConfig, TuneConfig
from exnihilo.config_layers import load as load_config
from exnihilo.errors import CodecError, DataError
from exnihilo.infer import generate
from exnihilo.interop.load import load
from exnihilo.train import loop, run

DECODER = ModelConfig(depth=2, width=48, heads=2, context=64)
NAMES = ("fox", "owl", "hen", "ox")
REPLY = "Indeed."


def talk(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
    }


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions that all have one answer: so a small model learns in seconds to give it and to stop."""
    frames = ["{}?", "the {}?", "what of {}?", "and {}?", "say: {}", "{}, please", "oh {}", "{} now?"]
    rows = [talk(f.format(name) + mark, REPLY) for f in frames for name in NAMES for mark in ("", "!", "...")]
    path = tmp_path_factory.mktemp("talks") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def base(make: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, hardly trained, made once."""
    folder = tmp_path_factory.getbasetemp() / "sft-base"
    if not (folder / "model.safetensors").exists():
        run(make(folder, model=DECODER, steps=2), progress=False)
    return folder


@pytest.fixture
def task(make: Any, talks: Path, base: Path) -> Any:
    """A small run of sft; keywords replace its values."""

    def build(folder: Path, **values: Any) -> Any:
        given: dict[str, Any] = {
            "recipe": "sft",
            "objective": "sft",
            "data": str(talks),
            "init": str(base),
            "model": DECODER,
            "optim": OptimConfig(name="adamw", lr=1e-2, weight_decay=0.0),
            "eval": EvalConfig(every=100, replies=8, max_new_tokens=12),
        }
        return make(folder, **{**given, **values})

    return build


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    done = loop.Loop._done

    def telling(self: loop.Loop, at: int) -> None:
        done(self, at)
        if at + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Loop, "_done", telling)


def same_weights(a: Path, b: Path) -> bool:
    first, second = (load_file(p / "model.safetensors") for p in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_a_base_model_learns_to_answer_and_to_stop(task: Any, tmp_path: Path, base: Path) -> None:
    result = run(task(tmp_path / "r", steps=40), progress=False)
    first, last = rows(tmp_path / "r", "eval")[0], rows(tmp_path / "r", "eval")[-1]
    assert first["val_pass@1"] == 0 and last["val_pass@1"] == 1 == last["val_stop_rate"]
    assert last["val_loss"] < first["val_loss"] / 4 and result.val_loss == last["val_loss"]
    assert last["val_perplexity"] == pytest.approx(2.718281828 ** last["val_loss"])
    control = json.loads((tmp_path / "r/control.json").read_text())
    assert control["gain"]["low"] > 0 and control["helps"]
    # the folder is a chat model: its template, and what ends a reply
    tuned = load(tmp_path / "r")
    speaker = chat(tuned.codec)
    config = json.loads((tmp_path / "r/generation_config.json").read_text())
    assert set(config["eos_token_id"]) == speaker.stop_ids
    prompt = speaker.prompt([{"role": "user", "content": "what of owl?"}])
    (found,) = generate(
        tuned.model, tuned.codec, [prompt], max_new_tokens=12, temperature=0, eos=speaker.stop_ids
    )
    assert speaker.reply(found.ids) == REPLY and found.finish_reason == "eos"
    told = json.loads((tmp_path / "r/objective.json").read_text())
    assert told["objective"] == "sft" and told["options"] == {"train": "assistant", "neftune": 0.0}


def test_noise_and_all_goes_on_bit_for_bit(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"options": {"neftune": 5.0}, "eval": EvalConfig(every=100, replies=0)}
    run(task(tmp_path / "whole", **values), progress=False)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert run(task(tmp_path / "cut", **values), progress=False).interrupted
    assert run(task(tmp_path / "cut", **values), resume=True, progress=False).step == 6
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    run(task(tmp_path / "plain", eval=values["eval"]), progress=False)
    assert not same_weights(tmp_path / "whole", tmp_path / "plain")


def test_adapters_of_a_decoder_are_merged_and_go_on_bit_for_bit(
    task: Any, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft")
    values: dict[str, Any] = {"tune": TuneConfig(lora=LoraConfig(rank=2)), "eval": EvalConfig(replies=4)}
    run(task(tmp_path / "whole", **values), progress=False)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert run(task(tmp_path / "cut", **values), progress=False).interrupted
    assert not any("lora" in name for name in load(tmp_path / "cut").model.state_dict())
    assert run(task(tmp_path / "cut", **values), resume=True, progress=False).step == 6
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    before, after = load(base).model.state_dict(), load(tmp_path / "whole").model.state_dict()
    assert before.keys() == after.keys()
    for name, was in before.items():
        change = after[name] - was
        matrix = was.ndim == 2 and name.startswith("trunk.")
        assert matrix == bool(change.any()), name  # embeddings, head and norms stay
        if matrix:
            assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 2
    # what evaluation saw last, adapters and all, is what was written
    told = rows(tmp_path / "whole", "eval")[-1]["val_loss"]
    again = run(
        task(tmp_path / "again", init=str(tmp_path / "whole"), steps=1, optim=OptimConfig(lr=1e-9)),
        progress=False,
    )
    assert rows(tmp_path / "again", "eval")[0]["val_loss"] == pytest.approx(told, abs=1e-5)
    assert again.step == 1


def test_adapters_beside_four_bits_are_merged_and_go_on_bit_for_bit(
    task: Any, tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is the matrix that the codes stand for, and what was learnt beside it, of low rank."""
    pytest.importorskip("peft")
    from exnihilo.kernels import nf4

    tune = TuneConfig(lora=LoraConfig(rank=2, bits=4))
    values: dict[str, Any] = {"tune": tune, "eval": EvalConfig(replies=4)}
    run(task(tmp_path / "whole", **values), progress=False)
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert run(task(tmp_path / "cut", **values), progress=False).interrupted
    assert load(tmp_path / "cut").model.state_dict().keys() == load(base).model.state_dict().keys()
    assert run(task(tmp_path / "cut", **values), resume=True, progress=False).step == 6
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    before, after = load(base).model.state_dict(), load(tmp_path / "whole").model.state_dict()
    assert before.keys() == after.keys()
    for name, was in before.items():
        if not (was.ndim == 2 and name.startswith("trunk.")):
            assert torch.equal(after[name], was), name
            continue
        change = after[name] - nf4.dequantise(*nf4.quantise(was))
        assert change.any() and torch.linalg.matrix_rank(change, rtol=1e-3) <= 2, name
    told = rows(tmp_path / "whole", "eval")[-1]["val_loss"]
    run(
        task(tmp_path / "again", init=str(tmp_path / "whole"), steps=1, optim=OptimConfig(lr=1e-9)),
        progress=False,
    )
    assert rows(tmp_path / "again", "eval")[0]["val_loss"] == pytest.approx(told, abs=1e-5)


def test_adapters_learn_at_ten_times_the_rate(task: Any, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    rates = {}
    for name, tune in (("whole", TuneConfig()), ("lora", TuneConfig(lora=LoraConfig(rank=2)))):
        quiet = EvalConfig(every=100, replies=0)
        run(
            task(tmp_path / name, steps=1, tune=tune, optim=OptimConfig(name="adamw"), eval=quiet),
            progress=False,
        )
        rates[name] = load_config(None, [], tmp_path / name / "config.toml")[0].optim.lr
    assert rates["lora"] == pytest.approx(10 * rates["whole"])


def test_the_recipe_reads_the_world_and_says_what_it_trains_on(base: Path) -> None:
    config, origins = load_config("sft", [f"init={base}"])
    assert (config.objective, config.epochs, config.optim.name) == ("sft", 3, "adamw")
    assert config.data.sources[0].path == "world" and origins["epochs"] == "recipe sft"


def test_what_cannot_be_trained_on_is_refused(task: Any, make: Any, tmp_path: Path, base: Path) -> None:
    lonely = tmp_path / "lonely.jsonl"
    lonely.write_text(json.dumps({"messages": [{"role": "user", "content": "Hi"}]}) + "\n")
    with pytest.raises(DataError):
        run(task(tmp_path / "a", data=str(lonely)), progress=False)
    from exnihilo.codec import train as train_codec
    from exnihilo.config import CodecConfig

    train_codec(CodecConfig(kind="wordpiece", vocab_size=100), ["a b c"] * 9).save(tmp_path / "plain")
    with pytest.raises(CodecError, match="im_start"):
        run(
            task(tmp_path / "b", init=None, model=DECODER, codec=CodecConfig(path=str(tmp_path / "plain"))),
            progress=False,
        )
