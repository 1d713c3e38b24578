"""A forecaster from the file to the file: trained, evaluated on its test part, asked for what comes next."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exnihilo as xn
from exnihilo.errors import UsageError

WINDOW: dict[str, Any] = {"history": 16, "horizon": 8, "patch": 4}
BUSY: dict[str, Any] = {
    "steps": 2,
    "threads": 1,
    "compile": "off",
    "model.depth": 1,
    "model.width": 16,
    "model.heads": 2,
}
SIZES: dict[str, Any] = {"batch.tokens": 256, "batch.micro_tokens": 256, "eval.samples": 0}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("series")
    times = np.datetime64("2024-03-01", "s") + np.arange(200) * np.timedelta64(1, "h")
    values = 10 + np.sin(np.arange(200) * 2 * np.pi / 24)
    path = folder / "load.csv"
    rows = (f"{t},{v}" for t, v in zip(times, values, strict=True))
    path.write_text("date,load\n" + "\n".join(rows) + "\n")
    return folder, str(path)


def test_a_run_forecasts_and_its_test_part_is_scored(places: tuple[Path, str]) -> None:
    folder, path = places
    run = folder / "run"
    xn.train("forecasting", data=path, run=str(run), progress=False, options=WINDOW, **BUSY, **SIZES)
    figures = xn.eval(run, data=f"{path}:test", progress=False)
    assert figures["windows"] == 40 - 8 + 1 and figures["majority_mse"] == figures["seasonal_naive_mse"]
    out = folder / "next.csv"
    assert xn.predict(run, path, out=out)["rows"] == 8
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert list(rows[0])[:4] == ["series", "channel", "time", "0.1"] and rows[0]["channel"] == "load"
    assert rows[0]["time"] == "2024-03-09 08:00:00" and rows[-1]["time"] == "2024-03-09 15:00:00"
    assert float(rows[0]["0.1"]) <= float(rows[0]["0.5"]) <= float(rows[0]["0.9"])
    [said] = xn.predict(run, path)["forecasts"]
    assert said["0.5"] == pytest.approx([float(row["0.5"]) for row in rows])
    with pytest.raises(UsageError, match="exists"):
        xn.predict(run, path, out=out)
    lines = folder / "next.jsonl"
    xn.predict(run, file=path, out=lines)
    assert json.loads(lines.read_text())["time"] == said["time"]


def test_paths_of_tokens_are_a_forecast(places: tuple[Path, str]) -> None:
    folder, path = places
    run = folder / "paths"
    options = {"history": 16, "horizon": 8}
    sizes: dict[str, Any] = {"model.context": 25, "codec.ids": 64}
    xn.train(
        "series_tokens", data=path, run=str(run), progress=False, options=options, **BUSY, **SIZES, **sizes
    )
    [said] = xn.predict(run, path)["forecasts"]
    drawn = np.array(said["paths"])
    assert drawn.shape == (100, 8) and np.isfinite(drawn).all()
    assert np.allclose(said["0.5"], np.quantile(drawn, 0.5, axis=0))
    again = xn.predict(run, path)["forecasts"][0]
    assert again["paths"] == said["paths"]
