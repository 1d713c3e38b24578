"""Records of every format, against the libraries that write them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exnihilo.data import tables, text
from exnihilo.errors import DataError

CELLS = st.text(alphabet="ab,;\"' \né漢\U0001f600", max_size=12)
ROWS = st.lists(st.fixed_dictionaries({"text": CELLS, "id": st.integers(-5, 5)}), min_size=1, max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | CELLS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(CELLS, inner, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(st.dictionaries(CELLS, JSON, min_size=1, max_size=3), min_size=1, max_size=6)
FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=[None, 5])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(text.blocks, "__defaults__", (request.param,))


@FAST
@given(RECORDS, st.booleans(), st.sampled_from([None, 2]))
def test_jsonl_and_json_lists(
    tmp_path: Path, block: None, rows: list, ascii_: bool, indent: int | None
) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(r, ensure_ascii=ascii_) + "\n" for r in rows), newline="")
    assert list(tables.records(lines)) == rows
    whole = tmp_path / "a.json"
    whole.write_text(json.dumps(rows, ensure_ascii=ascii_, indent=indent), newline="")
    assert list(tables.records(whole)) == rows


@FAST
@given(ROWS)
def test_csv(tmp_path: Path, block: None, rows: list) -> None:
    path = tmp_path / "a.csv"
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, ["text", "id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(out.getvalue(), newline="")
    assert list(tables.records(path)) == [{"text": r["text"], "id": str(r["id"])} for r in rows]


@FAST
@given(ROWS)
def test_parquet(tmp_path: Path, rows: list) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    assert list(tables.records(path)) == rows
    assert list(tables.records(path, columns=("text",))) == [{"text": r["text"]} for r in rows]


def test_compressed_records(tmp_path: Path) -> None:
    body = b'{"text": "a"}\n{"text": "b"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(body))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(body))
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        assert [r["text"] for r in tables.records(tmp_path / name)] == ["a", "b"]


def test_other_shapes_of_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"version": 1, "data": [{"text": "a"}, {"text": "b"}]}')
    assert [r["text"] for r in tables.records(path)] == ["a", "b"]
    path.write_text('{"text": "only"}')
    assert list(tables.records(path)) == [{"text": "only"}]
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    assert [r["text"] for r in tables.records(path)] == ["a", "b"]
    path.write_text('["a", "b"]')
    assert list(tables.records(path)) == [{"text": "a"}, {"text": "b"}]


def test_csv_without_a_header_and_other_delimiters(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('"3","Title","Body, with a comma"\n"1","T2","B2"\n')
    assert list(tables.records(path))[0] == {
        "column_1": "3",
        "column_2": "Title",
        "column_3": "Body, with a comma",
    }
    path.write_text("text;label\na;1\n")
    assert list(tables.records(path)) == [{"text": "a", "label": "1"}]
    path = tmp_path / "a.tsv"
    path.write_text('s1\ts2\n"quoted\tb\n')  # quotes are literal between tabs
    assert list(tables.records(path)) == [{"s1": '"quoted', "s2": "b"}]


def test_a_cell_of_a_megabyte(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    body = "x\n" * 500_000
    path.write_text(f'text,id\n"{body}",1\n')
    assert [len(r["text"]) for r in tables.records(path)] == [len(body)]


@pytest.mark.parametrize(
    ("name", "body", "place"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', "line 2"),
        ("a.jsonl", '{"text": "a"}\n\n[1]\n', "line 3"),
        ("a.json", '[{"text": "a"}, {"text": }]', "record 2"),
        ("a.json", '[{"text": "a"}, {"text": "b"', "record 2"),
        ("a.json", '[{"text": "a"}', "record 2"),
        ("a.csv", "text,id\na,1\nb\n", "row 3"),
        ("a.csv", 'text,id\na,1\n"b,2\n', "row 3"),
    ],
)
def test_broken_rows_are_named_by_file_and_number(tmp_path: Path, name: str, body: str, place: str) -> None:
    path = tmp_path / name
    path.write_text(body)
    with pytest.raises(DataError) as caught:
        list(tables.records(path))
    assert str(path) in caught.value.given and place in caught.value.given and caught.value.next


def test_parquet_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"text": "a" * 1000}] * 50), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="Parquet"):
        list(tables.records(path))
