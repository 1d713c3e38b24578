"""Weights of a mixture, and the sample that tokenizers are trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exnihilo.config import DataConfig
from exnihilo.data import resolve_weights, texts
from exnihilo.data.prepare import split_plan
from exnihilo.data.sources import open_sources
from exnihilo.data.split import VAL, document_hash
from exnihilo.errors import ConfigError, DataError

SIZES = st.lists(st.integers(1, 10**9), min_size=2, max_size=5)


def config(*weights: float | None, temperature: float = 1.0) -> DataConfig:
    sources = [{"path": str(i), "weight": w} for i, w in enumerate(weights)]
    return DataConfig.model_validate({"sources": sources, "temperature": temperature})


@given(SIZES, st.floats(0.2, 10))
def test_temperature(sizes: list[int], temperature: float) -> None:
    got = resolve_weights(config(*[None] * len(sizes), temperature=temperature), sizes)
    if temperature == 1:
        assert got is None
        return
    powers = np.array(sizes, float) ** (1 / temperature)
    np.testing.assert_allclose(got, powers / powers.sum())  # type: ignore[arg-type]


def test_given_weights() -> None:
    assert resolve_weights(config(None, None), [1, 2]) is None
    assert resolve_weights(config(None, temperature=3.0), [5]) is None
    assert resolve_weights(config(3, 1), [1, 1]) == [0.75, 0.25]
    assert resolve_weights(config(0.5, None, None), [9, 100, 300]) == [0.5, 0.125, 0.375]
    assert resolve_weights(config(0.4, None, None, temperature=2.0), [9, 100, 400]) == pytest.approx(
        [0.4, 0.2, 0.4]
    )
    with pytest.raises(ConfigError, match="leaves nothing"):
        resolve_weights(config(1.5, None), [1, 1])


def lines(path: Path, name: str, count: int) -> Path:
    path.write_text("".join(f"{name} {i} with a few words more\n" for i in range(count)))
    return path


def test_texts_are_of_the_training_split_alone(tmp_path: Path) -> None:
    lines(tmp_path / "a.txt", "a", 3000)
    given_ = DataConfig(sources=str(tmp_path / "a.txt"), unit="line", val_fraction=0.3)  # type: ignore[arg-type]
    plan = split_plan(open_sources(given_)[0], 0.3, tmp_path, 1)
    got = list(texts(given_, limit_bytes=10**9, cache=tmp_path / "c"))
    assert all(plan.side(document_hash({"text": t})) != VAL for t in got)
    every = list(texts(given_, limit_bytes=10**9, val=given_, cache=tmp_path / "c"))
    assert len(every) == 3000 and set(got) < set(every)


def test_a_single_document_gives_its_beginning(tmp_path: Path) -> None:
    body = "0123456789" * 1000
    (tmp_path / "a.txt").write_text(body)
    given_ = DataConfig(sources=str(tmp_path / "a.txt"), val_fraction=0.1)  # type: ignore[arg-type]
    assert "".join(texts(given_, limit_bytes=10**9, cache=tmp_path / "c")) == body[:9000]


@pytest.mark.parametrize("files", [5, 150])
def test_files_take_turns(tmp_path: Path, files: int) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for f in range(files):
        lines(folder / f"{f:03}.txt", f"f{f:03}", 8_000 // files * 10)
    given_ = DataConfig(sources=str(folder), unit="line")  # type: ignore[arg-type]
    limit = 1_500_000 if files > 64 else 100_000
    got = list(texts(given_, limit_bytes=limit, cache=tmp_path / "c"))
    size = sum(len(t.encode()) for t in got)
    assert size <= limit
    counts = {name: sum(t.startswith(name) for t in got) for name in ("f000", f"f{files - 1:03}")}
    assert min(counts.values()) > 0.5 * len(got) / files


def test_sources_take_turns_by_weight(tmp_path: Path) -> None:
    sources = [
        {"path": str(lines(tmp_path / "a.txt", "a", 9000)), "weight": 3},
        {"path": str(lines(tmp_path / "b.txt", "b", 3000)), "weight": 1},
    ]
    given_ = DataConfig.model_validate({"sources": sources, "unit": "line"})
    got = list(texts(given_, limit_bytes=80_000, cache=tmp_path / "c"))
    share = sum(len(t) for t in got if t[0] == "a") / sum(map(len, got))
    assert share == pytest.approx(0.75, abs=0.01)
    assert sum(len(t.encode()) for t in got) <= 80_000


def test_no_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no data"):
        list(texts(DataConfig(), limit_bytes=100, cache=tmp_path))
    with pytest.raises(DataError, match="no such file"):
        list(texts(DataConfig(sources=str(tmp_path / "none.txt")), limit_bytes=100, cache=tmp_path))  # type: ignore[arg-type]
