"""The doctor on series: heights instead of tokens, what is missing and what is hidden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import exnihilo as xn
from exnihilo.doctor.series import HIDDEN, MISSING, RAMP, line


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("told") / "hours.csv"
    times = np.datetime64("2024-03-01", "s") + np.arange(600) * np.timedelta64(1, "h")
    values = [f"{np.sin(n / 4):.3f}" if n % 50 > 4 else "" for n in range(600)]
    rows = (f"{t},{v},{n % 7}" for n, (t, v) in enumerate(zip(times, values, strict=True)))
    path.write_text("\n".join(["date,tide,day", *rows]) + "\n")
    return path


@pytest.mark.parametrize("recipe", ["forecasting", "masked_series", "series_tokens"])
def test_series_are_shown_by_heights(table: Path, recipe: str) -> None:
    found = xn.doctor(recipe, data=str(table))
    assert not found.broken, found.text()
    text, shown = found.text(), "".join(sample.text() for sample in found.samples)
    assert "[PAD]" not in text and "120 values" in text and "lowest to its highest" in text
    assert RAMP[0] in shown and RAMP[-1] in shown and MISSING in shown
    assert (HIDDEN in shown) == (recipe != "series_tokens")
    if recipe == "forecasting":  # a fifth of the window is what is forecast
        drawn = found.samples[0].text().split("|")[1]
        assert drawn.endswith(HIDDEN * (len(drawn) // 5)) and drawn.count(HIDDEN) == len(drawn) // 5


def test_labelled_series_are_shown_with_their_labels(tmp_path: Path) -> None:
    rows = [[n % 2, *np.round(np.sin(np.arange(40) / (2 + n % 2)) + n / 9, 3)] for n in range(40)]
    path = tmp_path / "beats.tsv"
    path.write_text("\n".join("\t".join(map(str, row)) for row in rows) + "\n")
    text = xn.doctor("series_classification", data=str(path)).text()
    assert "label '1'" in text and RAMP[-1] in text and "[PAD]" not in text


def test_heights_rise_with_the_values() -> None:
    steps = [RAMP.index(c) for c in line(np.arange(1000.0), 32)]
    assert len(steps) == 32 and steps == sorted(steps) and (steps[0], steps[-1]) == (0, len(RAMP) - 1)
    assert line(np.zeros(0)) == "" and set(line(np.full(9, 2.0))) == {RAMP[0]}
