"""Memory-mapped arrays: what is written is read, in the narrowest type, and damage is seen."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exnihilo.data.shards import MANIFEST, ArrayWriter, Shard, narrowest
from exnihilo.errors import DataError

FAST = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BLOCKS = st.lists(st.lists(st.integers(-(2**40), 2**40) | st.integers(0, 300), max_size=5), max_size=6)


@FAST
@given(BLOCKS)
def test_integers_come_back_in_the_narrowest_type(tmp_path: Path, blocks: list[list[int]]) -> None:
    folder = tmp_path / os.urandom(8).hex()
    writer = ArrayWriter(folder)
    for block in blocks:
        writer.append("ids", np.array(block, np.int64))
    writer.finish({"note": "é"})
    shard = Shard(folder)
    whole = [x for b in blocks for x in b]
    if not blocks:
        assert shard.names == []
        return
    assert shard["ids"].tolist() == whole and shard.meta == {"note": "é"}
    if whole:
        assert shard["ids"].dtype == narrowest(min(0, *whole), max(0, *whole))
    shard.verify()


def test_other_types_and_fixed_types(tmp_path: Path) -> None:
    writer = ArrayWriter(tmp_path / "a", {"end": np.int64, "name": "S4"})
    writer.append("x", np.array([0.5, -1.5], np.float32))
    writer.append("b", np.array([True, False]))
    writer.append("end", np.array([1, 2], np.uint8))
    writer.append("name", np.array([b"ab", b"abcd"], "S4"))
    writer.finish({})
    shard = Shard(tmp_path / "a")
    assert shard["x"].tolist() == [0.5, -1.5] and shard["x"].dtype == np.float32
    assert shard["b"].tolist() == [True, False] and shard["end"].dtype == np.int64
    assert shard["name"].tolist() == [b"ab", b"abcd"] and not shard["x"].flags.writeable


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    for name, values in (("a", [1, 2]), ("b", [1, 2]), ("c", [1, 3])):
        writer = ArrayWriter(tmp_path / name)
        writer.append("x", np.array(values))
        writer.finish({"when": name})
    a, b, c = (Shard(tmp_path / n).hash for n in "abc")
    assert a == b != c


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer = ArrayWriter(tmp_path / "s")
    writer.append("x", np.arange(1000))
    writer.finish({"rows": 3})
    return tmp_path / "s"


def damage_cut(folder: Path) -> None:
    os.truncate(folder / "x.bin", 1001)


def damage_missing(folder: Path) -> None:
    (folder / "x.bin").unlink()


def damage_altered(folder: Path) -> None:
    data = bytearray((folder / "x.bin").read_bytes())
    data[77] ^= 1
    (folder / "x.bin").write_bytes(bytes(data))


def damage_manifest(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["meta"]["rows"] = 4
    (folder / MANIFEST).write_text(json.dumps(manifest))


def damage_half_manifest(folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(path.read_text()[:50])


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (damage_cut, "x.bin"),
        (damage_missing, "x.bin"),
        (damage_altered, "x.bin"),
        (damage_manifest, MANIFEST),
        (damage_half_manifest, MANIFEST),
    ],
)
def test_damage_is_seen_on_opening(folder: Path, damage: object, file: str) -> None:
    damage(folder)  # type: ignore[operator]
    with pytest.raises(DataError) as caught:
        Shard(folder)
    assert file in caught.value.given and f"delete the folder {folder}" in caught.value.next


def test_an_alteration_that_keeps_the_time_stamp_is_found_by_verify(folder: Path) -> None:
    stat = (folder / "x.bin").stat()
    damage_altered(folder)
    os.utime(folder / "x.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    shard = Shard(folder)
    with pytest.raises(DataError, match=r"x\.bin is altered"):
        shard.verify()


def test_a_copy_with_other_time_stamps_is_taken_after_a_look(folder: Path) -> None:
    os.utime(folder / "x.bin", ns=(1, 1))
    assert Shard(folder)["x"][999] == 999
