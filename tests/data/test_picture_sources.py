"""Sources of pictures: folders, archives, idx files, tables of members; labels, texts, what is left out."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exnihilo.config import DataConfig
from exnihilo.data import archives
from exnihilo.data.base import Drops
from exnihilo.data.sources import Source, open_sources
from exnihilo.errors import DataError

Image: Any = pytest.importorskip("PIL.Image")
ROLES = ("picture", "label")


def png(value: int) -> bytes:
    body = io.BytesIO()
    Image.new("L", (4, 4), value).save(body, "png")
    return body.getvalue()


def opened(where: Path | str, roles: tuple[str, ...] = ROLES, **how: Any) -> Source:
    [source] = open_sources(DataConfig(sources=str(where), **how), roles=roles)  # type: ignore[arg-type]
    return source


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as made:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            made.addfile(info, io.BytesIO(body))
    return path


def idx(path: Path, array: np.ndarray) -> Path:
    head = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    body = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return path


FILES = {f"{split}/{kind}/{n}.png": png(10 * n + len(kind)) for split in ("train", "test")
         for kind in ("cat", "horse") for n in range(3)}  # fmt: skip


def test_an_archive_is_like_its_folder_and_is_not_unpacked(tmp_path: Path):
    path = archive(tmp_path / "a.tar", {**FILES, "README.md": b"x", ".hidden/1.png": png(1)})
    source = opened(path)
    found = list(source.examples())
    assert len(found) == 12 and {e["label"] for e in found} == {"cat", "horse"}
    assert source.skipped == {"that are no pictures": 1, "hidden": 1}
    assert source.fields == {"picture": "file", "label": "folder"}
    first = archives.parted(found[0]["picture"])
    assert first is not None and archives.member(*first) == FILES["test/cat/0.png"]
    assert len({e["_content"] for e in found}) == 6  # train and test hold the same pictures
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]
    assert len(list(opened(tmp_path).examples())) == 12  # the folder that holds it, and nothing else


def test_a_pattern_chooses_a_split_of_an_archive(tmp_path: Path):
    path = archive(tmp_path / "a.tar", FILES)
    source = opened(path, pattern="train/{label}/{n}")
    assert [e["label"] for e in source.examples()] == ["cat"] * 3 + ["horse"] * 3
    assert source.skipped == {"of another name than data.pattern": 6}
    one, other = opened(path), opened(path, pattern="train/{label}/{n}")
    assert one.fingerprint(tmp_path / "c") != other.fingerprint(tmp_path / "c")


def test_texts_stand_beside_in_an_archive_too(tmp_path: Path):
    path = archive(tmp_path / "a.tar", {"1.png": png(1), "1.txt": b" one thing\n", "2.png": png(2)})
    drops = Drops()
    found = list(opened(path, ("picture", "text")).examples(drops))
    assert [e["text"] for e in found] == ["one thing"] and drops.counts == {"without a .txt beside it": 1}


def test_broken_archives_say_so(tmp_path: Path):
    path = archive(tmp_path / "a.tar", FILES)
    whole = path.read_bytes()
    broken = {"cut.tar": whole[:700], "no.tar": b"nothing of the kind" * 40, "zip.tar": gzip.compress(whole)}
    for name, body in broken.items():
        (tmp_path / name).write_bytes(body)
        with pytest.raises(DataError, match=name):
            opened(tmp_path / name)
    empty = archive(tmp_path / "e.tar", {"a.txt": b"x"})
    with pytest.raises(DataError, match="no file of a picture"):
        opened(empty)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_with_their_labels(tmp_path: Path, suffix: str):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3))
    path = idx(tmp_path / f"train-images-idx3-ubyte{suffix}", images)
    with pytest.raises(DataError, match="train-labels-idx1-ubyte"):
        opened(path)
    idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", np.array([3, 1, 4, 1, 5]))
    for where in (path, tmp_path):
        found = list(opened(where).examples())
        assert [e["label"] for e in found] == ["3", "1", "4", "1", "5"]
        assert found[2]["picture"] == f"{path}::2"
    np.testing.assert_array_equal(archives.idx(path), images)
    idx(tmp_path / f"t10k-images-idx3-ubyte{suffix}", images)
    with pytest.raises(DataError, match="one of them"):
        opened(tmp_path)
    idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", np.array([3, 1]))
    with pytest.raises(DataError, match="2 labels"):
        opened(path)


def test_broken_idx_files_say_so(tmp_path: Path):
    path = idx(tmp_path / "train-images-idx3-ubyte", np.zeros((5, 4, 3)))
    body = path.read_bytes()
    for wrong in (b"", body[:3], body[:9], body[:-1], b"\1" + body[1:], body[:2] + b"\x0d" + body[3:]):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match="idx"):
            archives.idx(path)
    path.write_bytes(body[:4] + b"\xff" * 12 + body[16:])  # promises more than there can be
    with pytest.raises(DataError, match="promises"):
        archives.idx(path)


def test_a_table_may_name_members(tmp_path: Path):
    archive(tmp_path / "a.tar", FILES)
    table = tmp_path / "few.csv"
    table.write_text(
        "path,label\na.tar::train/cat/0.png,cat\na.tar::test/horse/1.png,horse\nno.tar::x.png,cat\n"
    )
    drops = Drops()
    found = list(opened(table).examples(drops))
    assert [e["label"] for e in found] == ["cat", "horse"] and drops.counts.total() == 1
    part = archives.parted(found[1]["picture"])
    assert part is not None and archives.member(*part) == FILES["test/horse/1.png"]
    before = opened(table).fingerprint(tmp_path / "c")
    archive(tmp_path / "a.tar", {**FILES, "more.png": png(9)})
    assert opened(table).fingerprint(tmp_path / "c") != before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["tar", "idx", "idx.gz"]),
    where=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 5000),
)
def test_spoilt_bundles_are_read_or_refused(tmp_path: Path, kind: str, where: list[Any], cut: int):
    if kind == "tar":
        path = archive(tmp_path / "a.tar", FILES)
    else:
        name = "train-images-idx3-ubyte" + (".gz" if kind.endswith("gz") else "")
        path = idx(tmp_path / name, np.arange(60).reshape(5, 4, 3))
    spoilt = bytearray(path.read_bytes())
    for at, value in where:
        spoilt[at % len(spoilt)] = value
    path.write_bytes(bytes(spoilt[: cut % (len(spoilt) + 1)] if cut % 2 else spoilt))
    try:
        if kind == "tar":
            for name, size in archives.members(path):
                assert len(archives.member(path, name)) == size
        else:
            assert archives.idx(path).dtype == np.uint8
    except DataError as error:
        assert str(path) in str(error)
