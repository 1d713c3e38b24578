"""Files that are each one example: layouts of folders and tables, and what is said of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exnihilo.codec.sound.read import save
from exnihilo.config import DataConfig
from exnihilo.data import base, media, open_sources, prepare
from exnihilo.data.base import Drops
from exnihilo.errors import ConfigError, DataError

NAMES = ("a", "b", "c")


def sounds(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, np.full(800, number / 100, np.float32), 16_000)
    return folder


def read(path: str | Path, roles: tuple[str, ...] = ("sound", "label"), **data) -> list[dict]:
    [source] = open_sources(DataConfig(sources=str(path), **data), roles=roles)  # type: ignore[arg-type]
    return [dict(e) for e in source.examples()]


def test_folders_are_labels(tmp_path: Path):
    sounds(tmp_path, ["dog/1.wav", "dog/2.wav", "cat/1.wav"])
    (tmp_path / "README.md").write_text("about")
    [source] = open_sources(DataConfig(sources=str(tmp_path)), roles=("sound", "label"))  # type: ignore[arg-type]
    found = list(source.examples())
    assert [e["label"] for e in found] == ["cat", "dog", "dog"]
    assert source.fields == {"sound": "file", "label": "folder"} and source.skipped == {
        "that are no sounds": 1
    }
    assert all(Path(e["sound"]).is_absolute() for e in found)


def test_names_tell_labels_and_groups(tmp_path: Path):
    sounds(tmp_path, ["7_theo_0.wav", "7_lucas_1.wav", "3_theo_1.wav", "odd.wav"])
    found = read(tmp_path, pattern="{label}_{speaker}_{take}", group="speaker")
    assert [(e["label"], e["_group"]) for e in found] == [("3", "theo"), ("7", "lucas"), ("7", "theo")]
    found = read(tmp_path / "*_theo_*.wav", pattern="{digit}_{speaker}_{take}", fields={"label": "digit"})
    assert [e["label"] for e in found] == ["3", "7"]
    with pytest.raises(ConfigError, match="group"):
        read(tmp_path, pattern="{label}_{speaker}_{take}", group="room")
    with pytest.raises(DataError, match="none of 4 files"):
        read(tmp_path, pattern="{label}-{take}-{x}")
    with pytest.raises(DataError, match="nothing tells the label"):
        read(tmp_path)


def test_texts_and_events_stand_beside(tmp_path: Path):
    sounds(tmp_path, ["a.wav", "b.wav"])
    (tmp_path / "a.txt").write_text("0.0\t0.5\tdog\nbroken\n0.7\t0.9\tcat\n")
    drops = Drops()
    [source] = open_sources(DataConfig(sources=str(tmp_path)), roles=("sound", "events"))  # type: ignore[arg-type]
    [example] = source.examples(drops)
    assert [e["label"] for e in example["events"]] == ["dog", "cat"]
    assert drops.counts["without a .txt beside it"] == 1 and "b.wav" in drops.summary()
    assert read(tmp_path, ("sound", "text"))[0]["text"].startswith("0.0")


def test_tables_name_files_relative_to_themselves(tmp_path: Path):
    sounds(tmp_path, ["clips/a.wav", "clips/b.wav"])
    (tmp_path / "list.csv").write_text(
        "path,label,room\nclips/a.wav,x,1\nclips/b.wav,y,2\nclips/no.wav,y,2\n"
    )
    drops = Drops()
    config = DataConfig(sources=str(tmp_path / "list.csv"), group="room")  # type: ignore[arg-type]
    [source] = open_sources(config, roles=("sound", "label"))
    found = list(source.examples(drops))
    assert [(e["label"], e["_group"]) for e in found] == [("x", "1"), ("y", "2")]
    assert Path(found[0]["sound"]) == tmp_path / "clips/a.wav"
    assert drops.counts["whose file is not there"] == 1
    before = source.fingerprint(tmp_path / "cache")
    save(tmp_path / "clips/a.wav", np.full(900, 0.2, np.float32), 16_000)
    [again] = open_sources(config, roles=("sound", "label"))
    assert again.fingerprint(tmp_path / "cache") != before  # what files hold counts, not their names
    rows = [{"audio": "clips/a.wav", "events": [{"start": 0, "end": 1, "label": "x"}]}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path, ("sound", "events"))[0]["events"] == rows[0]["events"]


def test_nothing_to_hear_is_said(tmp_path: Path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="no file of a sound"):
        read(tmp_path)
    with pytest.raises(DataError, match="nothing matches"):
        read(tmp_path / "*.wav")
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "absent")


@given(st.text("ab{}_", max_size=12))
def test_any_pattern_compiles_or_is_refused(pattern: str):
    try:
        made = media.compiled(pattern)
    except ConfigError:
        return
    assert made.groupindex


def columns(examples) -> list[list[base.Item]]:
    """Items with several numbers a position, as many positions as the label says."""
    out = []
    for e in examples:
        n = int(e["label"])
        wave = (np.arange(3 * n).reshape(n, 3) * (-1) ** n).astype(np.int16)
        out.append([{"tokens": np.full(n, n, np.int32), "wave": wave, "samples": n}])
    return out


def test_columns_of_several_numbers_a_position_come_back_whole(tmp_path: Path):
    sounds(tmp_path / "d", [f"{n}/{n}{i}.wav" for n in (2, 3, 5) for i in range(3)])
    config = DataConfig(sources=str(tmp_path / "d"), val_fraction=0)  # type: ignore[arg-type]
    splits = prepare(
        config, None, encode=columns, key="k", context=8, seed=0, cache=tmp_path / "cache",
        roles=("sound", "label"), lookahead=0, join=False,
    )  # fmt: skip
    train = splits.train
    batch = train.batch(np.arange(train.rows))
    assert batch["wave"].shape == (train.rows, 8, 3) and batch["wave"].dtype.itemsize <= 2
    seen = []
    for b in range(train.rows):
        for doc in range(int(batch["doc"][b].max()) + 1):
            at = batch["doc"][b] == doc
            n = int(batch["tokens"][b][at][0])
            want = np.arange(3 * n).reshape(n, 3) * (-1) ** n
            np.testing.assert_array_equal(batch["wave"][b][at], want)
            assert (batch["samples"][b][at] == n).all()
            seen.append(n)
        assert not batch["wave"][b][batch["doc"][b] < 0].any()
    assert sorted(seen) == [2] * 3 + [3] * 3 + [5] * 3


def test_copies_on_both_sides_are_found_by_their_content(tmp_path: Path):
    sounds(tmp_path / "a", ["x/1.wav", "y/2.wav"])
    (tmp_path / "b" / "x").mkdir(parents=True)
    (tmp_path / "b" / "y").mkdir()
    (tmp_path / "b" / "x" / "other.wav").write_bytes((tmp_path / "a/x/1.wav").read_bytes())
    save(tmp_path / "b" / "y" / "new.wav", np.full(800, 0.5, np.float32), 16_000)

    def encode(examples) -> list[list[base.Item]]:
        return [[{"tokens": np.zeros(4, np.int32)}] for _ in examples]

    splits = prepare(
        DataConfig(sources=str(tmp_path / "a")),  # type: ignore[arg-type]
        DataConfig(sources=str(tmp_path / "b")),  # type: ignore[arg-type]
        encode=encode, key="k", context=4, seed=0, cache=tmp_path / "cache",
        roles=("sound", "label"), lookahead=0, join=False,
    )  # fmt: skip
    assert splits.report.leak is not None and splits.report.leak.exact == 1


def test_a_bare_name_is_looked_for_below_the_table(tmp_path: Path):
    sounds(tmp_path, ["audio/1.wav", "audio/2.wav", "x/3.wav", "y/3.wav"])
    rows = "".join(f"{name},dog\n" for name in ("1.wav", "2.wav", "3.wav", "audio/1.wav"))
    (tmp_path / "list.csv").write_text("path,label\n" + rows)
    [source] = open_sources(DataConfig(sources=str(tmp_path / "list.csv")), roles=("sound", "label"))  # type: ignore[arg-type]
    drops = Drops()
    found = [Path(e["sound"]).relative_to(tmp_path).as_posix() for e in source.examples(drops)]
    assert found == ["audio/1.wav", "audio/2.wav", "audio/1.wav"]
    assert drops.counts == {"whose file is not there": 1}  # two files have that name
