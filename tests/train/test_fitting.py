"""A size that follows the minutes: as large as fits, never where the user gave one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from exnihilo.config import ModelConfig, RunConfig
from exnihilo.config_layers import load, load_toml, recipe_names
from exnihilo.model import flops_per_token, resolve
from exnihilo.parallel import notes
from exnihilo.train import fitting, run
from exnihilo.train.changes import given


def whole(recipe: str, *overrides: str) -> tuple[RunConfig, set[str]]:
    """A recipe with nothing open in its model, and what the user said."""
    config, origins = load(recipe, overrides)
    return config.model_copy(update={"model": resolve(config.model, 4096)}), given(config, origins)


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if name != "rlvr"])
def test_every_recipe_fits_or_is_as_small_as_it_gets(recipe: str) -> None:
    config, said = whole(recipe, "minutes=1")
    for speed in (1e7, 1e9, 1e11, 1e16):
        small, marks = fitting.fitted(config, said, speed=speed)
        assert bool(marks) == (small != config)
        least = max(fitting.BATCH, config.model.context)
        fits = fitting.steps(small, small.model.context, speed) >= (fitting.STEPS if marks else fitting.FEW)
        assert fits or small.model.depth == fitting.LEAST and small.batch.tokens < 2 * least
        assert small.batch.tokens >= min(config.batch.tokens, config.model.context)
        assert small.batch.tokens <= config.batch.tokens
        # what was derived stays so: the written shape gives the same model again
        again = resolve(ModelConfig.model_validate(small.model.model_dump()))
        assert again == small.model
    assert fitting.fitted(config, said, speed=1e16) == (config, {})


def test_a_smaller_one_has_the_recipes_proportions() -> None:
    config, said = whole("bert", "minutes=1")
    small = fitting.fitted(config, said, speed=1e8)[0].model
    assert (small.depth, small.width, small.heads, small.mlp_width) == (2, 128, 2, 512)  # BERT-Tiny
    config, said = whole("gpt", "minutes=1")
    one = fitting.fitted(config, said, speed=1e8)[0].model
    dial = resolve(ModelConfig(family="qwen3", depth=2), 4096)
    assert (one.depth, one.width, one.heads, one.mlp_width) == (2, dial.width, dial.heads, dial.mlp_width)


def test_more_time_never_gives_a_smaller_model() -> None:
    found = []
    for minutes in (0.1, 1, 5, 10, 30, 60, 240):
        config, said = whole("gpt", f"minutes={minutes}")
        one = fitting.fitted(config, said, speed=7e10)[0]
        found.append((one.model.depth, one.batch.tokens))
    assert found == sorted(found) and found[0][0] == 2 and found[-1] == (6, 16384)


@pytest.mark.parametrize(
    "setting",
    ["model.depth=6", "model.width=384", "model.heads=6", "model.mlp_width=900", "init=somewhere", "steps=3"],
)
def test_what_the_user_gives_stays(setting: str) -> None:
    config, said = whole("gpt", setting, *(["minutes=1"] if "steps" not in setting else []))
    assert fitting.fitted(config, said, speed=1e7) == (config, {})


def test_a_batch_that_is_given_stays_and_a_short_budget_needs_no_more_steps() -> None:
    config, said = whole("gpt", "minutes=1", "batch.tokens=8192")
    small, marks = fitting.fitted(config, said, speed=1e9)
    assert small.batch.tokens == 8192 and small.model.depth == 2 and "batch.tokens" not in marks
    config, said = whole("gpt", "minutes=1", "steps=1")
    alone = flops_per_token(config.model, config.model.context) * config.batch.tokens / 60 / fitting.USED
    assert fitting.fitted(config, said, speed=1.1 * alone)[1] == {}
    config, said = whole("gpt", "minutes=1", "epochs=2")
    assert fitting.fitted(config, said, speed=2.1 * alone, epoch_tokens=16384)[1] == {}


def test_a_settings_object_says_itself_what_was_given() -> None:
    config = RunConfig(minutes=1)
    assert fitting.wanted(config, given(config, None))
    config = RunConfig(minutes=1, model=ModelConfig(depth=4))
    assert not fitting.wanted(config, given(config, None))


def test_the_best_speed_ever_seen_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXNIHILO_CACHE", str(tmp_path))
    cpu = torch.device("cpu")
    found = fitting.machine(cpu, "fp32")
    path = notes.note(cpu, "speed-fp32")
    assert json.loads(path.read_text()) == {"operations": found}
    notes.keep(path, {"operations": 1e15})
    assert fitting.machine(cpu, "fp32", workers=2) == 2e15
    path.write_text("{")
    assert fitting.machine(cpu, "fp32") == found  # an unreadable note: measured again


def test_a_run_takes_the_size_says_so_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fitting, "machine", lambda *_: 1e8)
    text = tmp_path / "a.txt"
    text.write_text("\n\n".join(f"The {n} cats of house {n} sleep." for n in range(300)))
    path = tmp_path / "r"
    more = [f"data={text}", f"run={path}", "codec.kind=bytes", "device=cpu", "threads=1", "model.context=32"]
    config, origins = load("gpt", [*more, "minutes=0.02", "steps=2", "compile=off"])
    run(config, origins=origins, progress=True)
    said = capsys.readouterr().err
    assert "because minutes=0.02 allows about" in said and "model.depth=6 keeps that" in said
    lines = (path / "config.toml").read_text()
    assert "depth = 2 # fitted to minutes" in lines and "tokens = 512 # fitted to minutes" in lines
    kept = load_toml(path / "config.toml")
    assert (kept.model.depth, kept.model.width, kept.batch.tokens) == (2, 128, 512)
    config, origins = load("gpt", [*more, "minutes=20", "steps=3", "compile=off"])
    assert run(config, resume=True, origins=origins, progress=False).step == 3
    assert load_toml(path / "config.toml").model.depth == 2
