"""Tables that name pictures and sounds; files as bytes; arrays of ids."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.codec import train as train_codec
from exnihilo.config import CodecConfig, DataConfig
from exnihilo.data import Splits, base, open_sources, prepare, raw
from exnihilo.data.base import Drops
from exnihilo.data.sources import Source
from exnihilo.errors import CodecError, ConfigError, DataError
from exnihilo.objective.causal_lm import CausalLM
from exnihilo.objective.masked_lm import MaskedLM
from exnihilo.world import media

ROLES: dict[str, Any] = {"roles": ("question", "answer"), "extras": ("picture", "sound")}
BYTES = train_codec(CodecConfig(kind="bytes"), ["a"])


def source(path: Path, **data: Any) -> Source:
    [found] = open_sources(DataConfig(sources=str(path), **data), **ROLES)  # type: ignore[arg-type]
    return found


def table(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


# tables with pictures and sounds ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    media.write("scenes", tmp_path / "scenes", count=40, size=16, rate=4000)
    return tmp_path / "scenes"


def test_files_are_found_beside_their_table_and_any_may_be_absent(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir("/")
    rows = [json.loads(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]
    found = list(source(folder / "scenes.jsonl", group="group").examples())
    assert len(found) == len(rows) == 40
    for row, example in zip(rows, found, strict=True):
        assert (example["question"], example["answer"]) == (row["question"], row["answer"])
        assert example["_group"] == row["group"]
        for role in ("picture", "sound"):
            assert (role in example) == (role in row)
            if role in row:
                assert example[role] == str(folder / row[role])
    assert len(list(source(folder).examples())) == 40  # the folder's table; the media are no texts
    assert source(folder).skipped == {}


def test_rows_that_are_of_no_use_are_counted(folder: Path):
    rows = map(json.loads, (folder / "scenes.jsonl").read_text().splitlines())
    picture = next(row["picture"] for row in rows if "picture" in row)
    good = {"question": "What?", "answer": "red"}
    path = table(folder / "own.jsonl", [
        {**good, "picture": picture}, {**good, "picture": None, "sound": ""}, good,
        {**good, "sound": "no.wav"}, {"question": "What?"}, {"answer": "red"}, {**good, "question": " "},
        {**good, "picture": 7}, "{broken", {**good, "answer": 3}, "[1]",
    ])  # fmt: skip
    drops = Drops()
    found = list(source(path).examples(drops))
    assert [("picture" in e, e["answer"]) for e in found] == [
        (True, "red"), (False, "red"), (False, "red"), (False, 3),
    ]  # fmt: skip
    counts = dict(drops.counts)
    assert counts.pop("whose sound is not there") == 1 and "no.wav" in drops.summary()
    assert counts.pop("without answer") == 1 and counts.pop("without question") == 3
    assert counts.pop("with a value of another kind than text") == 1
    assert sum(counts.values()) == 1  # the broken line, by the reader's own reason


def test_one_column_of_paths_tells_by_suffix(folder: Path):
    rows = [json.loads(line) for line in (folder / "scenes.jsonl").read_text().splitlines()]
    plain = [{"path": r.get("picture") or r["sound"], "question": "What?", "answer": "red"} for r in rows]
    found = list(source(table(folder / "own.jsonl", plain)).examples())
    for row, example in zip(plain, found, strict=True):
        role = "picture" if row["path"].endswith(".png") else "sound"
        assert example[role].endswith(row["path"]) and not {"picture", "sound"} - {role} & set(example)


def test_questions_about_one_picture_stand_on_one_side(folder: Path, tmp_path: Path):
    names = sorted((folder / "pictures").iterdir())
    rows = [
        {"picture": f"pictures/{name.name}", "question": q, "answer": "x"} for name in names for q in "abc"
    ]

    def encode(examples: Any) -> Any:
        return [[{"tokens": np.arange(3), "picture": len(e["picture"])}] for e in examples]

    data = DataConfig(sources=str(table(folder / "own.jsonl", rows)), val_fraction=0.3)  # type: ignore[arg-type]
    splits = prepare(
        data, None, encode=encode, key="x", context=8, seed=0, cache=tmp_path / "cache", join=False,
        lookahead=0, **ROLES,
    )  # fmt: skip
    report = splits.report.sources[0]
    assert report.held_out % 3 == 0 and 0 < report.held_out < len(rows)
    [again] = open_sources(data, **ROLES)
    before = again.fingerprint(tmp_path / "cache")
    names[0].write_bytes(names[1].read_bytes())
    os.utime(names[0], (1, 1))
    [after] = open_sources(data, **ROLES)
    assert after.fingerprint(tmp_path / "cache") != before


# bytes ------------------------------------------------------------------------------------------------------


def texts(path: Path, **data: Any) -> list[str]:
    [found] = open_sources(DataConfig(sources=str(path), **data))  # type: ignore[arg-type]
    out: list[str] = []
    for example in found.examples():
        if base.begins(example):
            out.append("")
        out[-1] += example["text"]
    return out


def ids_of(path: Path) -> list[int]:
    """The ids that training reads of a file."""
    [found] = open_sources(DataConfig(sources=str(path), format="bytes"))  # type: ignore[arg-type]
    objective = CausalLM()
    items = objective.encode_many(list(found.examples()), BYTES)
    return [int(i) for [item] in items for i in np.asarray(item["tokens"])]


@settings(max_examples=60, deadline=None)
@given(body=st.binary(min_size=1, max_size=400), block=st.integers(1, 40))
def test_any_file_is_its_bytes(tmp_path_factory: pytest.TempPathFactory, body: bytes, block: int):
    path = tmp_path_factory.mktemp("raw") / "a.exe"
    path.write_bytes(body)
    before, raw.BLOCK = raw.BLOCK, block  # seams inside of characters
    try:
        found = ids_of(path)
    finally:
        raw.BLOCK = before
    assert found == [BYTES.bos_id, *(5 + b for b in body), BYTES.eos_id]


def test_bytes_reach_the_rows_unchanged(tmp_path: Path):
    rng = np.random.default_rng(0)
    bodies = [rng.integers(0, 256, n, np.uint8).tobytes() for n in (3000, 500, 4000)]
    (tmp_path / "data").mkdir()
    for n, body in enumerate(bodies):
        (tmp_path / "data" / f"{n}.bin").write_bytes(body)
    splits = prepared(tmp_path / "data", tmp_path, BYTES, format="bytes", val_fraction=0)
    assert splits.report.sources[0].documents == 3 and splits.report.sources[0].repaired == 0
    assert splits.train.tokens == sum(len(b) + 2 for b in bodies)
    assert splits.report.sources[0].bytes == sum(map(len, bodies))
    rows = splits.train.batch(np.arange(splits.train.rows))["tokens"].reshape(-1)
    held = bytes((rows[rows >= 5] - 5).astype(np.uint8))
    assert any(bodies[0][i : i + 12] in held for i in range(0, 2000, 12))


def test_a_binary_file_without_the_setting_says_what_to_do(tmp_path: Path):
    (tmp_path / "a.wav").write_bytes(b"RIFF\0\0\1\2" * 40)
    with pytest.raises(DataError, match="data.format=bytes"):
        texts(tmp_path / "a.wav")
    with pytest.raises(DataError, match="no columns for text, label"):
        open_sources(
            DataConfig.model_validate({"sources": str(tmp_path / "a.wav"), "format": "bytes"}),
            roles=("text", "label"),
        )


# ids --------------------------------------------------------------------------------------------------------


def save(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def prepared(path: Path, tmp: Path, codec: Any, objective: Any = None, **data: Any) -> Splits:
    made = objective or CausalLM()
    config = DataConfig(sources=str(path), **data)  # type: ignore[arg-type]
    return prepare(
        config, None, encode=lambda e: made.encode_many(e, codec), key=codec.hash, context=16, seed=0,
        cache=tmp / "cache", pad_id=codec.pad_id,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64", "uint32"])
def test_a_stream_is_one_document(tmp_path: Path, dtype: str):
    ids = np.random.default_rng(0).integers(0, 200, 500).astype(dtype)
    [text] = texts(save(tmp_path / "ids.npy", ids))
    assert [int(w) for w in text.split()] == ids.tolist()


def test_rows_and_marks_are_documents(tmp_path: Path):
    rows = np.array([[1, 2, 3, -1], [4, -1, 5, 6], [-1, -1, -1, -1]])
    assert texts(save(tmp_path / "rows.npy", rows), separator="-1") == ["1 2 3", "4", "5 6"]
    assert texts(save(tmp_path / "flat.npy", rows.reshape(-1)), separator="-1") == ["1 2 3", "4", "5 6"]
    assert texts(save(tmp_path / "a.npy", rows[:1, :3])) == ["1 2 3"]
    assert texts(save(tmp_path / "b.npy", np.arange(5)), separator="0") == ["1 2 3 4"]
    with pytest.raises(ConfigError, match="separator"):
        texts(tmp_path / "b.npy", separator="<|end|>")


def test_a_long_document_comes_in_parts_and_is_one_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(raw, "_IDS", 70)
    ids = np.random.default_rng(0).integers(0, 30, 1000).astype(np.uint16)
    codec = train_codec(CodecConfig(kind="ids", ids=30), ())
    splits = prepared(save(tmp_path / "ids.npy", ids), tmp_path, codec, val_fraction=0)
    assert splits.train.tokens == 1002 and splits.report.sources[0].documents == 1
    rows = splits.train.batch(np.arange(splits.train.rows))
    starts = rows["tokens"][(rows["pos"] == 0) & (rows["doc"] >= 0)]
    assert (starts == codec.bos_id).sum() == 1 and (rows["tokens"] == codec.eos_id).sum() == 1


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), "holds float64 of shape 5"), (np.array([1, 2, -5, 3]), "place 2: id -5"),
        (np.array([[1, 2], [3, 1 << 40]]), "row 1, place 1: id 1,099,511,627,776"),
        (np.zeros((2, 2, 2), int), "2×2×2"), (np.zeros(0, int), "not empty"), (np.array(3), "not empty"),
        (np.array(["a", "b"]), "numpy.unique"), (np.array([True, False]), "bool"),
    ],
)  # fmt: skip
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, message: str):
    with pytest.raises(DataError, match=r"ids\.npy") as caught:
        texts(save(tmp_path / "ids.npy", array))
    assert message in str(caught.value)


@pytest.mark.parametrize("body", [b"hello", b"", b"\x93NUMPY\x01\x00", None])
def test_files_that_are_no_arrays_are_refused(tmp_path: Path, body: bytes | None):
    path = tmp_path / "ids.npy"
    if body is None:  # objects are pickled, and nothing pickled is read
        np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    else:
        path.write_bytes(body)
    with pytest.raises(DataError):
        texts(path)


def test_ids_beyond_the_vocabulary_are_refused(tmp_path: Path):
    path = save(tmp_path / "ids.npy", np.arange(60))
    with pytest.raises(CodecError, match="id 59 of a vocabulary of 50"):
        prepared(path, tmp_path, train_codec(CodecConfig(kind="ids", ids=50), ()), val_fraction=0)


def test_masked_tokens_of_ids_are_ids(tmp_path: Path):
    codec = train_codec(CodecConfig(kind="ids", ids=20), ())
    made = MaskedLM(MaskedLM.Config(), length=16)
    [[item]] = made.encode_many([{"text": "3 4 19"}], codec)
    tokens = np.asarray(item["tokens"]).tolist()
    assert [t for t in tokens if t < 20] == [3, 4, 19] and codec.mask_id == 27
