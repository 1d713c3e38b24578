"""Where examples come from: every kind of source, its order, its fields and what is left out."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from exnihilo.config import DataConfig
from exnihilo.data import Splits, open_sources, settle
from exnihilo.data.fields import detect
from exnihilo.data.sources import default_name
from exnihilo.errors import ConfigError, DataError, MissingExtra

Prep = Callable[..., Splits]


def sources(*paths: object, **options: object) -> list:
    entries = [p if isinstance(p, dict) else {"path": str(p)} for p in paths]
    cache = options.pop("cache", None)
    roles = options.pop("roles", ("text",))
    return open_sources(DataConfig.model_validate({"sources": entries, **options}), roles=roles, cache=cache)  # type: ignore[arg-type]


def bodies(source: object) -> list[str]:
    return [e["text"] for e in source.examples()]  # type: ignore[attr-defined]


ROWS = [{"id": i, "story": f"story number {i}"} for i in range(5)]


def write_rows(folder: Path) -> None:
    body = "".join(json.dumps(r) + "\n" for r in ROWS)
    (folder / "a.jsonl").write_text(body)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(body.encode()))
    (folder / "a.json").write_text(json.dumps(ROWS))
    (folder / "a.csv").write_text("id,story\n" + "".join(f"{r['id']},{r['story']}\n" for r in ROWS))
    (folder / "a.tsv").write_text("id\tstory\n" + "".join(f"{r['id']}\t{r['story']}\n" for r in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet")
    (folder / "a.txt").write_text("\n<|endoftext|>\n".join(r["story"] for r in ROWS))
    (folder / "a.md.gz").write_bytes(gzip.compress((folder / "a.txt").read_bytes()))


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.tsv", "a.parquet", "a.txt", "a.md.gz"]
)
def test_every_format_gives_the_same_documents(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path)
    (source,) = sources(tmp_path / name)
    got = list(source.examples())
    assert [e["text"] for e in got] == [r["story"] for r in ROWS]
    assert [(e["_file"], e["_index"]) for e in got] == [(0, i) for i in range(5)]
    assert (
        source.fields == ({} if ".txt" in name or ".md" in name else {"text": "story"}) and source.name == "a"
    )


def test_folders_and_globs_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in (
        "b/2.txt",
        "a.txt",
        "b/10.txt",
        "c.md",
        ".hidden/x.txt",
        "b/.secret.txt",
        "__pycache__/z.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (folder,) = sources(tmp_path)
    assert folder.names == ("a.txt", "b/10.txt", "b/2.txt", "c.md") and bodies(folder) == list(folder.names)
    (globbed,) = sources(f"{tmp_path}/**/1*.txt")
    assert globbed.names == ("10.txt",)
    (globbed,) = sources(f"{tmp_path}/[ab]*")
    assert globbed.names == ("a.txt", "b/10.txt", "b/2.txt")
    (one,) = sources(f"{tmp_path}/b/*.txt")
    assert one.names == ("10.txt", "2.txt")


def test_a_folder_of_source_code(tmp_path: Path) -> None:
    files = {
        "m/a.py": "x = 1\n",
        "m/b.js": "let y\n",
        "README.md": "# read\n",
        "package.json": '{"name": "p"}\n',
    }
    for name, body in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(body)
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\r")
    (tmp_path / "old.c").write_bytes("// na\u00efve\n".encode("latin-1"))
    (tmp_path / "empty.py").touch()
    (source,) = sources(tmp_path)
    assert source.kind == "code" and dict(zip(source.names, bodies(source), strict=True)) == files
    assert source.skipped == {"binary": 1, "empty": 1, "not utf-8": 1}


def test_notes_beside_records_are_no_documents(tmp_path: Path) -> None:
    write_rows(tmp_path)
    for name in ("README.md", "LICENSE"):
        (tmp_path / name).write_text("about this data\n")
    (tmp_path / "load.py").write_text("import json\n")
    (source,) = sources(tmp_path)
    assert source.skipped == {"notes beside the data": 2} and source.kind == "files"
    assert "a.parquet" in source.names and "README.md" not in source.names


def test_a_folder_of_plain_texts_leaves_out_its_list_of_contents(tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    for name in ("emma", "heidi"):
        (tmp_path / "books" / f"{name}.txt").write_text(f"This is {name}. " * 20)
    (tmp_path / "INDEX.tsv").write_text("file\ttitle\nemma.txt\tEmma\n")
    (tmp_path / "SOURCE.txt").write_text("from somewhere\n")
    (tmp_path / "LICENSE").write_text("free\n")
    (source,) = sources(tmp_path)
    assert source.names == ("books/emma.txt", "books/heidi.txt") and not source.fields
    assert source.skipped == {
        "notes beside the data": 2, "tables beside the texts (read where they are named)": 1,
    }  # fmt: skip
    (globbed,) = sources(f"{tmp_path}/**/*")
    assert globbed.names == source.names
    (named,) = sources(tmp_path / "INDEX.tsv")
    assert named.fields == {"text": "file"} and len(bodies(named)) == 1
    both = [{"path": str(tmp_path)}, {"path": str(tmp_path / "INDEX.tsv")}]
    opened = open_sources(DataConfig.model_validate({"sources": both}))
    assert [len(s.names) for s in opened] == [2, 1]
    # where the tables are more, or larger, they are the data, and the notes beside them are not
    (tmp_path / "INDEX.tsv").write_text("text\n" + "a much longer table than the texts\n" * 100)
    (source,) = sources(tmp_path)
    assert source.names == ("INDEX.tsv", "books/emma.txt", "books/heidi.txt")
    assert source.skipped == {"notes beside the data": 2}


def test_field_mapping_can_be_set_and_is_reported(tmp_path: Path, prep: Prep, said: list[str]) -> None:
    rows = [{"title": f"t{i}", "body": f"the body number {i} is longer", "text": f"x{i}"} for i in range(40)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert sources(path)[0].fields == {"text": "text"}
    splits = prep([{"path": str(path), "fields": {"text": "body"}}])
    assert splits.report.sources[0].fields == {"text": "body"}
    assert any("text = column 'body'" in line for line in said)
    assert "the body number" in splits.train.refs(0)[0].preview


def test_detection() -> None:
    def found(*rows: dict, roles: tuple[str, ...] = ("text",), **given: str) -> dict:
        return detect(list(rows), roles=roles, given=given, where="f")

    assert found({"Content": "a", "id": "abcdef"}) == {"text": "Content"}
    assert found({"body": "a", "text": "b"}) == {"text": "text"}
    assert found({"a": "x", "b": "longest", "n": 123456789012}) == {"text": "b"}
    assert found({"a": "x", "b": None}, {"a": "y", "b": "longest"}) == {"text": "b"}
    assert found({"question": "q", "label": 1}, roles=("question", "label")) == {
        "question": "question",
        "label": "label",
    }
    assert found({"text": "a", "y": 1}, label="y") == {"text": "text", "label": "y"}
    for row, given in (({"n": 1}, {}), ({"body": "a"}, {"text": "bodi"}), ({}, {})):
        with pytest.raises(DataError) as caught:
            detect([row], roles=("text",), given=given, where="f")
        assert all(c in caught.value.given for c in row) and caught.value.next
    with pytest.raises(DataError, match="did you mean 'body'"):
        found({"body": "a"}, text="bodi")


def test_a_column_that_a_later_record_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n' * 200 + '{"body": "b"}\n')
    with pytest.raises(DataError, match=r"record 201: no column 'text'.*found: body"):
        bodies(sources(path)[0])
    path.write_text('{"text": "a"}\n{"text": 5}\n')
    with pytest.raises(DataError, match="record 2: column 'text' holds int"):
        bodies(sources(path, {"path": str(path), "fields": {"text": "text"}})[1])


def test_empty_texts_and_broken_unicode(tmp_path: Path, prep: Prep) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        '{"text": "fine \\ud83d\\ude00"}',
        '{"text": ""}',
        '{"text": null}',
        '{"text": " \\n"}',
        '{"text": "half \\ud83d"}',
    ]
    path.write_text("\n".join(lines * 10) + "\n")
    assert len(bodies(sources(path)[0])) == 20
    splits = prep(path)
    assert splits.report.sources[0].repaired == 10 and splits.val is not None
    fine = [r.preview for d in (splits.train, splits.val) for row in range(d.rows) for r in d.refs(row)]
    assert {p.split()[0] for p in fine} == {"fine", "half"} and any("\ufffd" in p for p in fine)
    assert any("repaired" in line for line in splits.report.lines())


def test_standard_input_is_kept_for_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    def pipe(body: bytes) -> DataConfig:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(body))))  # type: ignore[arg-type]
        return DataConfig(sources="-")  # type: ignore[arg-type]

    cache = tmp_path / "c"
    config = pipe(b"piped words\n" * 3)
    (source,) = open_sources(config, cache=cache)
    assert source.name == "stdin" and bodies(source) == ["piped words\n" * 3]
    assert bodies(open_sources(config, cache=cache)[0]) == ["piped words\n" * 3]  # read once, kept
    settled = settle(config, cache)
    assert (
        Path(settled.sources[0].path).read_text() == "piped words\n" * 3
        and settled.sources[0].name == "stdin"
    )
    assert settle(settled, cache) is settled and any("standard input is kept as" in line for line in said)
    other = settle(pipe(b"other\n"), cache)
    assert other.sources[0].path != settled.sources[0].path
    records = settle(pipe(b'{"text": "a"}\n{"text": "b"}\n'), cache)
    assert bodies(open_sources(records)[0]) == ["a", "b"]
    with pytest.raises(DataError, match="standard input is empty"):
        settle(pipe(b""), cache)


def test_the_embedded_world(prep: Prep) -> None:
    (source,) = sources("world:7")
    first = bodies(source)
    assert len(first) == 7 and first == bodies(sources("world:7")[0]) and all(len(t) > 50 for t in first)
    assert bodies(sources("world:3")[0]) == first[:3]
    splits = prep("world:40", val_fraction=0.2)
    assert splits.train.documents + (splits.val.documents if splits.val else 0) == 40
    for bad in ("world:x", "world:0"):
        with pytest.raises(ConfigError, match="number of documents"):
            sources(bad)
    with pytest.raises(ConfigError, match="no columns"):
        sources({"path": "world", "fields": {"text": "body"}})


def test_names_are_unique(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.txt").write_text("words")
    two = sources(
        tmp_path / "a/train.txt", tmp_path / "b/train.txt", {"path": str(tmp_path / "a"), "name": "train-2"}
    )
    assert [s.name for s in two] == ["train", "train-3", "train-2"]
    with pytest.raises(ConfigError, match="one name"):
        sources({"path": str(tmp_path / "a"), "name": "x"}, {"path": str(tmp_path / "b"), "name": "x"})
    named = {
        "books/": "books",
        "data/*.txt.gz": "*",
        "x/a.jsonl.zst": "a",
        "hub:o/n:train": "n:train",
        "-": "stdin",
    }
    assert {k: default_name(k) for k in named} == named | {"data/*.txt.gz": "data"}


def test_plain_text_has_no_columns(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(DataError, match="plain text, which has no columns"):
        sources({"path": str(tmp_path / "a.txt"), "fields": {"text": "body"}})
    with pytest.raises(DataError, match="question"):
        sources(tmp_path / "a.txt", roles=("question",))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets.disable_progress_bars()


@pytest.mark.filterwarnings("ignore")
def test_hub_names_on_local_files(tmp_path: Path, prep: Prep, offline: None) -> None:
    folder = tmp_path / "local"
    folder.mkdir()
    rows = [{"body": f"the document number {i}", "n": i} for i in range(60)]
    (folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "test.jsonl").write_text(json.dumps({"body": "a test", "n": 1}) + "\n")
    (source,) = sources(f"hub:{folder}")
    assert source.kind == "hub" and source.fields == {"text": "body"}
    assert bodies(source) == [r["body"] for r in rows]
    assert bodies(sources(f"hub:{folder}:test")[0]) == ["a test"]
    with pytest.raises(DataError, match="no split 'dev'") as caught:
        sources(f"hub:{folder}:dev")
    assert "train" in caught.value.expected
    splits = prep(f"hub:{folder}")
    assert splits.train.documents + splits.val.documents == 60  # type: ignore[union-attr]
    assert prep(f"hub:{folder}").report.sources[0].cached


@pytest.mark.filterwarnings("ignore")
def test_hub_names_that_cannot_be_had(offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="could not be loaded"):
        sources("hub:nobody/nothing-of-this-name")
    with pytest.raises(ConfigError, match="hub:owner/name"):
        sources("hub:a/b/c/d")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"exnihilo\[hub\]"):
        sources("hub:a/b")


@pytest.mark.parametrize("name", ["tinystories-sample/train.txt", "gsm8k/train.jsonl", "classic-books/valid"])
def test_real_data(prep: Prep, name: str, tmp_path: Path) -> None:
    root = Path(os.environ.get("EXNIHILO_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    if not (root / name).exists():
        pytest.skip(f"no real data at {root} (EXNIHILO_DATA)")
    splits = prep(root / name, context=256)
    assert splits.val is not None and splits.train.report.padded < 0.06
    assert splits.train.report.cropped < 1e-3 and splits.report.leak is not None
    batch = splits.train.batch(np.arange(min(64, splits.train.rows)))
    assert (batch["tokens"][batch["doc"] >= 0] > 0).all()
