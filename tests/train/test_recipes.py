"""Every encoder recipe trains on the embedded world's own view, and what it leaves can be loaded."""

from __future__ import annotations

import json
import math
import shlex
import wave
from pathlib import Path

import numpy as np
import pytest

from exnihilo.cli import actions
from exnihilo.cli.main import main
from exnihilo.codec.picture.read import save
from exnihilo.config_layers import load, recipe_names
from exnihilo.interop.load import load as load_run
from exnihilo.nn.layout import Attention
from exnihilo.objective import registry
from exnihilo.plan import make as make_plan
from exnihilo.train import run

SMALL = [
    "data=world:80", "model.preset=bert-tiny", "model.width=32", "model.heads=2", "codec.vocab_size=400",
    "steps=2", "batch.tokens=512", "batch.micro_tokens=512", "threads=1", "dtype=fp32", "compile=off",
    "eval.every=9", "eval.tokens=512",
]  # fmt: skip


def encoders() -> list[str]:
    """The recipes whose model sees both ways. Decoders after pretraining: test_sft and others."""
    return [n for n in recipe_names() if registry.find(load(n, [])[0].objective).attention is Attention.FULL]


def _clip(path: Path) -> None:
    """A second of a tone: what a recipe of sounds suggests to be asked about."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes((8_000 * np.sin(np.arange(16_000) / 6)).astype("<i2").tobytes())


@pytest.mark.parametrize("name", encoders())
def test_a_recipe_trains(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXNIHILO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    config, origins = load(name, [*SMALL, f"run={tmp_path / 'r'}"])
    result = run(config, origins=origins, progress=False)
    assert result.step == 2 and result.loss is not None and math.isfinite(result.loss)
    kept = json.loads((tmp_path / "r/objective.json").read_text())
    objective = registry.create(
        kept["objective"], kept["options"], length=kept["length"], facts=kept["facts"]
    )
    loaded = load_run(tmp_path / "r")
    assert set(objective.heads) <= set(loaded.model.config.outputs)
    monkeypatch.chdir(tmp_path)
    _clip(tmp_path / "clip.wav")
    save(tmp_path / "picture.png", np.full((20, 20, 3), 99, np.uint8))
    hours = (f"2024-01-{1 + h // 24:02d} {h % 24:02d}:00,{math.sin(h / 4):.3f}" for h in range(600))
    (tmp_path / "FILE.csv").write_text("\n".join(["time,load", *hours]) + "\n")
    suggested = shlex.split(actions._next(str(tmp_path / "r")))
    if name.startswith("masked_"):  # it answers nothing by itself
        assert suggested[:2] == ["exnihilo", "train"]
    else:
        assert suggested[:2] == ["exnihilo", "predict"] and main([*suggested[1:], "device=cpu"]) == 0
    if objective.supervised:
        assert objective.main_metric in result.metrics
        assert f"majority_{objective.main_metric}" in result.metrics


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_planned(name: str) -> None:
    """What `plan` and `--dry-run` tell, unmeasured: no data is read."""
    config, _ = load(name, [])
    plan = make_plan(config, measure=False)
    assert plan.recipe == name and plan.parameters > plan.embedding_parameters > 0
    objective = registry.create(config.objective, config.options, length=config.model.context)
    context = objective.model_settings.get("context", config.model.context)  # pictures have one size
    assert plan.context == context and plan.tokens_per_second is None


@pytest.mark.parametrize("name", ["electra", "token_tagging"])
def test_a_recipe_is_measured(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", name, "--dry-run", *[word for word in SMALL if not word.startswith("eval")]]) == 0
    told = capsys.readouterr().out
    assert "tokens/s on" in told and f'recipe = "{name}"' in told
