"""Data sets of the hub with a column of sounds or pictures: bytes and paths, labels by name, groups, what is
missing counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from exnihilo.codec.sound.read import load, save
from exnihilo.config import DataConfig
from exnihilo.data import open_sources
from exnihilo.data.base import Drops
from exnihilo.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    out = [tmp_path / f"{i}.wav" for i in range(4)]
    for i, path in enumerate(out):
        save(path, np.full(800, (i + 1) / 10, np.float32), 16_000)
    return out


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def stored(folder: Path, clips: list[Path], *, embed: bool, column: str = "audio") -> Path:
    """A data set in parquet files, as the hub has them: bytes within, or paths alone."""
    cells: list[dict[str, Any]] = [
        {"bytes": clip.read_bytes() if embed else None, "path": clip.name if embed else str(clip)}
        for clip in clips
    ]
    cells[2] = {"bytes": None, "path": "nowhere.wav"}
    features = datasets.Features(
        {
            column: datasets.Audio(),
            "label": datasets.ClassLabel(names=["bell", "drum"]),
            "speaker": datasets.Value("string"),
        }
    )
    table = pa.table(
        {
            column: pa.array(cells, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
            "label": pa.array([0, 1, 0, 1], pa.int64()),
            "speaker": ["ann", "bob", "ann", "ann"],
        }
    )
    told = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    folder.mkdir()
    parquet.write_table(table.replace_schema_metadata(told), folder / "train.parquet")
    return folder


def opened(path: Path, cache: Path, **data: Any) -> Any:
    config = DataConfig.model_validate({"sources": f"hub:{path}", **data})
    [source] = open_sources(config, roles=("sound", "label"), cache=cache)
    return source


@pytest.mark.parametrize("embed", [True, False])
@pytest.mark.parametrize("column", ["audio", "recorded"])
def test_rows_are_files_with_their_labels(tmp_path: Path, clips: list[Path], embed: bool, column: str):
    folder = stored(tmp_path / "set", clips, embed=embed, column=column)
    source, drops = opened(folder, tmp_path / "cache"), Drops()
    found = list(source.examples(drops))
    assert source.fields == {"sound": column, "label": "label"}
    assert [e["label"] for e in found] == ["bell", "drum", "drum"]
    for example, clip in zip(found, (clips[0], clips[1], clips[3]), strict=True):
        np.testing.assert_array_equal(load(example["sound"], 16_000), load(clip, 16_000))
        assert clip.name in example["_at"]
    assert len({e["_group"] for e in found}) == 3
    assert drops.counts == {"without sound": 1} and "nowhere.wav" in drops.first["without sound"]
    again = list(opened(folder, tmp_path / "cache").examples())
    assert [e["sound"] for e in again] == [e["sound"] for e in found]


def test_a_column_keeps_its_rows_on_one_side(tmp_path: Path, clips: list[Path]):
    folder = stored(tmp_path / "set", clips, embed=True)
    source = opened(folder, tmp_path / "cache", group="speaker")
    assert [e["_group"] for e in source.examples()] == ["ann", "bob", "ann"]
    with pytest.raises(ConfigError, match="room"):
        opened(folder, tmp_path / "cache", group="room")


def test_a_file_that_changes_is_read_again(tmp_path: Path, clips: list[Path]):
    folder = stored(tmp_path / "set", clips, embed=False)
    cache = tmp_path / "cache"
    before = opened(folder, cache).fingerprint(cache)
    assert opened(folder, cache).fingerprint(cache) == before
    save(clips[1], np.zeros(1600, np.float32), 16_000)
    assert opened(folder, cache).fingerprint(cache) != before


def test_a_folder_of_files_needs_no_library(tmp_path: Path, clips: list[Path]):
    for i, clip in enumerate(clips):
        target = tmp_path / "set" / "train" / ("bell" if i % 2 else "drum") / clip.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(clip.read_bytes())
    found = list(opened(tmp_path / "set", tmp_path / "cache").examples())
    assert sorted(e["label"] for e in found) == ["bell", "bell", "drum", "drum"]
    assert all(len(load(e["sound"], 16_000)) == 800 for e in found)
    with pytest.raises(DataError, match="no split 'dev'"):
        opened(Path(f"{tmp_path / 'set'}:dev"), tmp_path / "cache")
