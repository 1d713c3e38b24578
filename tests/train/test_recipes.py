"""Every encoder recipe trains on the embedded world's own view, and what it leaves can be loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from exnihilo.config_layers import load, recipe_names
from exnihilo.interop.load import load as load_run
from exnihilo.objective import registry
from exnihilo.train import run

SMALL = [
    "data=world:80", "model.preset=bert-tiny", "model.width=32", "model.heads=2", "codec.vocab_size=400",
    "steps=2", "batch.tokens=512", "batch.micro_tokens=512", "threads=1", "dtype=fp32", "compile=off",
    "eval.every=9", "eval.tokens=512",
]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "gpt"])
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
    if objective.supervised:
        assert objective.main_metric in result.metrics
        assert f"majority_{objective.main_metric}" in result.metrics
