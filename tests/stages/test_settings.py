"""Which stages a chain has, and which setting goes where: nothing is ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from exnihilo.errors import ConfigError, UsageError
from exnihilo.recipes.chat import SHARES
from exnihilo.stages.settings import NAMES, Plan, given, read


def plan(*texts: str, **settings: object) -> Plan:
    return read(given(texts, settings))


def test_each_source_is_a_stage() -> None:
    made = plan("data=books", "sft=chats.jsonl", "preference=pairs.jsonl", "prompts=t.jsonl", "grader=number")
    assert tuple(stage.name for stage in made.stages) == NAMES and not made.skipped
    configs = {stage.name: stage.config(Path("runs/x"), "runs/y")[0] for stage in made.stages}
    assert [configs[name].data.sources[0].path for name in NAMES] == [
        "books", "chats.jsonl", "pairs.jsonl", "t.jsonl",
    ]  # fmt: skip
    assert [configs[name].objective for name in NAMES] == ["causal_lm", "sft", "preference", "rlvr"]
    assert configs["rlvr"].grader == "number" and configs["sft"].run == "runs/x/sft"
    assert configs["sft"].init == "runs/y"


def test_what_is_missing_is_skipped_with_a_reason() -> None:
    made = plan("init=runs/base", "sft=chats.jsonl")
    assert [stage.name for stage in made.stages] == ["sft"] and made.init == "runs/base"
    assert "runs/base" in made.skipped["base"] and "preference=" in made.skipped["preference"]
    assert "prompts=" in made.skipped["rlvr"]


def test_without_sources_all_learn_from_the_world() -> None:
    made = plan("seed=3")
    assert tuple(stage.name for stage in made.stages) == NAMES
    for stage in made.stages:
        config, _ = stage.config(Path("r"), None)
        assert config.data.sources[0].path == "world" and config.seed == 3


def test_settings_reach_the_stage_they_name() -> None:
    made = plan(
        "data=a", "sft=b", "model.depth=2", "threads=1", "sft.optim.lr=1e-4", "base.steps=7", "sft.epochs=2",
        "val=c", "sft.val=d", "sft.data.val_fraction=0.1",
    )  # fmt: skip
    base, sft = (stage.config(Path("r"), None)[0] for stage in made.stages)
    assert (base.model.depth, base.steps, base.threads) == (2, 7, 1)
    assert base.val is not None and base.val.sources[0].path == "c"
    assert (sft.optim.lr, sft.epochs, sft.threads, sft.data.val_fraction) == (1e-4, 2, 1, 0.1)
    assert sft.val is not None and sft.val.sources[0].path == "d"


def test_minutes_are_shared_among_those_without_a_budget() -> None:
    made = plan("data=a", "sft=b", "prompts=c", "minutes=20", "sft.steps=5")
    minutes = {s.name: s.config(Path("r"), None)[0].minutes for s in made.stages}
    whole = SHARES["base"] + SHARES["rlvr"]
    assert minutes["sft"] is None
    assert minutes["base"] == pytest.approx(20 * SHARES["base"] / whole, abs=1e-3)
    assert (minutes["base"] or 0) + (minutes["rlvr"] or 0) == pytest.approx(20, abs=1e-3)


def test_pythons_values_are_taken() -> None:
    made = plan(data=["a", "b"], sft=Path("c.jsonl"), sft__optim__lr=0.5)
    assert [s.path for s in made.stages[0].config(Path("r"), None)[0].data.sources] == ["a", "b"]
    sft = made.stages[1].config(Path("r"), None)[0]
    assert sft.optim.lr == 0.5 and sft.data.sources[0].path == "c.jsonl"


def test_an_overlay_lies_below_the_command_line(tmp_path: Path) -> None:
    over = tmp_path / "o.toml"
    over.write_text('recipe = "chat"\ndata = "a"\n[sft]\ndata = "b"\nsteps = 3\n[model]\ndepth = 2\n')
    made = read(given(["model.depth=5"], {}, over))
    base, sft = (stage.config(Path("r"), None)[0] for stage in made.stages)
    assert base.model.depth == 5 and sft.steps == 3


@pytest.mark.parametrize(
    ("texts", "error", "match"),
    [
        (["sft=c"], UsageError, "nothing to start from"),
        (["init=r"], UsageError, "nothing to learn from"),
        (["data=x", "grader=number"], UsageError, "stage rlvr"),
        (["data=x", "sft.steps=2"], UsageError, "stage sft"),
        (["init=r", "sft=x", "model.depth=3"], UsageError, "stage base"),
        (["data=x", "steps=3"], ConfigError, "which stage"),
        (["data=x", "optim.lr=3"], ConfigError, "which stage"),
        (["dta=x"], ConfigError, "unknown key"),
        (["data=x", "data=y"], ConfigError, "twice"),
        (["data=x", "minutes=-1"], ConfigError, "minutes=-1"),
        (["data=x", "rlvr=y"], ConfigError, "unknown key 'rlvr'"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(texts: list[str], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        plan(*texts)


def test_an_unknown_key_of_a_stage_is_refused_by_its_recipe() -> None:
    made = plan("data=x", "base.modl.depth=2")
    with pytest.raises(ConfigError, match="modl"):
        made.stages[0].config(Path("r"), None)
