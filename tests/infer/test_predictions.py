"""Files of predictions: every row in its order, bad ones named, and the same bytes after a kill anywhere."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exnihilo.codec.base import Codec
from exnihilo.config import DataConfig
from exnihilo.errors import DataError, UsageError
from exnihilo.infer.predict import Predictor
from exnihilo.model import Model
from exnihilo.objective.base import Objective
from exnihilo.predictions import predict_file, read_rows, top

Maker = Callable[..., Model]
TEXTS = ["one", "two words", "", "a third text", "x" * 100, "last"]


@pytest.fixture(scope="module")
def predictor(make_model: Maker, bytes_codec: Codec, windows: type[Objective]) -> Predictor:
    return Predictor(make_model("qwen3", vocab=bytes_codec.vocab_size), bytes_codec, windows(length=48))


def put(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# reading ----------------------------------------------------------------------------------------------


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    rows = [{"text": "one, two", "n": "1"}, {"text": 'a "b"', "n": "2"}, {"text": "ü 😀", "n": "3"}]
    files = {
        "a.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "a.json": json.dumps(rows),
        "a.csv": 'text,n\n"one, two",1\n"a ""b""",2\nü 😀,3\n',
        "a.tsv": 'text\tn\r\none, two\t1\r\na "b"\t2\r\nü 😀\t3\r\n',
    }
    for name, text in files.items():
        found = list(read_rows(put(tmp_path / name, text), ("text",)))
        assert [row["text"] for row in found] == [row["text"] for row in rows], name
    plain = put(tmp_path / "a.txt", "one, two\r\n\nü 😀")
    assert list(read_rows(plain, ("text",))) == ["one, two", "", "ü 😀"]


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "sentence1,sentence2,more\nx y z,u v w,1\n")
    [row] = read_rows(path, ("a", "b"))
    assert (row["a"], row["b"], row["more"]) == ("x y z", "u v w", "1")
    [row] = read_rows(path, ("text",), columns={"text": "sentence2"})
    assert row["text"] == "u v w"
    [row] = read_rows(path, ("text",), columns={"text": "sentence1+sentence2"})
    assert row["text"] == "x y z u v w"
    with pytest.raises(DataError, match="no column 'absent'"):
        list(read_rows(path, ("text",), columns={"text": "absent"}))
    with pytest.raises(DataError, match="plain text"):
        list(read_rows(put(tmp_path / "a.txt", "x\n"), ("a", "b")))
    with pytest.raises(DataError, match="does not exist"):
        list(read_rows(tmp_path / "absent.csv", ("text",)))


def test_words_may_come_as_words_or_as_text(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"words": ["a", "b"]}\n{"tokens": ["c"]}\n')
    assert next(read_rows(path, ("words",)))["words"] == ["a", "b"]
    path = put(tmp_path / "b.jsonl", '{"text": "a b"}\n')
    assert next(read_rows(path, ("words",)))["text"] == "a b"
    path = put(tmp_path / "c.conll", "Mia B-PER\nran O\n\nTom B-PER\n\n")
    found = list(read_rows(path, ("words",), reading=DataConfig(format="conll")))
    assert [row["words"] for row in found] == [["Mia", "ran"], ["Tom"]]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("one\ntwo\n", '{"text": "one"}\n{"text": "two"}\n'):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        found = [row if isinstance(row, str) else row["text"] for row in read_rows(None, ("text",))]
        assert found == ["one", "two"]


# writing ----------------------------------------------------------------------------------------------


def test_rows_in_order_with_ids_and_errors(tmp_path: Path, predictor: Predictor) -> None:
    body = "".join(json.dumps({"id": f"q{i}", "text": text}) + "\n" for i, text in enumerate(TEXTS))
    source = put(tmp_path / "in.jsonl", body + "broken {\n\n[1]\n")
    figures = predict_file(predictor, source, tmp_path / "deep" / "out.jsonl")
    found = lines(tmp_path / "deep" / "out.jsonl")
    assert [row["row"] for row in found] == list(range(1, 9)) and found[1]["id"] == "q1"
    assert figures["rows"] == 8 and figures["errors"] == 3
    assert [row["row"] for row in found if "error" in row] == [3, 7, 8]
    assert "broken JSON" in found[6]["error"] and "not a record" in found[7]["error"]
    alone = predictor.predict(["a third text"])[0]
    assert found[3]["vector"] == pytest.approx(alone["vector"], abs=1e-5)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out.jsonl"]


def test_nothing_is_written_over_and_nothing_is_mixed(tmp_path: Path, predictor: Predictor) -> None:
    source, out = put(tmp_path / "in.txt", "one\ntwo\nthree\n"), tmp_path / "out.jsonl"
    predict_file(predictor, source, out, weights="w1")
    whole = out.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        predict_file(predictor, source, out)
    assert predict_file(predictor, source, out, resume=True)["resumed"] == 3 and out.read_bytes() == whole
    out.write_bytes(whole[:-5])
    state = {"weights": "w1", "input": "", "format": 1}
    (tmp_path / "out.jsonl.state").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(UsageError, match="other weights"):
        predict_file(predictor, source, out, weights="w2", resume=True)
    (tmp_path / "out.jsonl.state").write_text(json.dumps({**state, "input": "5-x"}), encoding="utf-8")
    with pytest.raises(UsageError, match="another input"):
        predict_file(predictor, source, out, weights="w1", resume=True)
    predict_file(predictor, source, out, weights="w2", force=True)
    assert out.read_bytes() == whole
    with pytest.raises(UsageError, match="fewer rows"):
        predict_file(predictor, put(tmp_path / "short.txt", "one\n"), out, resume=True)
    put(out, '{"label": 1}\n')
    with pytest.raises(UsageError, match="no prediction"):
        predict_file(predictor, source, out, resume=True)
    put(out, '{"row": 2}\n')
    with pytest.raises(UsageError, match="is of row 2"):
        predict_file(predictor, source, out, resume=True)


def test_no_row_of_use_is_an_error(tmp_path: Path, predictor: Predictor) -> None:
    with pytest.raises(DataError, match="none of 2 rows"):
        predict_file(predictor, put(tmp_path / "a.txt", "\n \n"), tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="no rows"):
        predict_file(predictor, put(tmp_path / "b.txt", ""), tmp_path / "b.jsonl")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_kill_at_any_byte_loses_nothing(tmp_path: Path, predictor: Predictor, data: st.DataObject) -> None:
    source, out = put(tmp_path / "in.txt", "\n".join(TEXTS)), tmp_path / "out.jsonl"
    predict_file(predictor, source, out, force=True)
    whole = out.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    out.write_bytes(whole[:cut])
    figures = predict_file(predictor, source, out, resume=True)
    assert figures["rows"] == len(TEXTS) and figures["resumed"] == whole[:cut].count(b"\n")
    again = lines(out)
    for now, then in zip(again, map(json.loads, whole.splitlines()), strict=True):
        assert now.keys() == then.keys() and now["row"] == then["row"]
        if "vector" in now:
            assert now["vector"] == pytest.approx(then["vector"], abs=1e-5)


def test_alternatives_are_trimmed() -> None:
    found = top({"probabilities": {"a": 0.1, "b": 0.9}, "nbest": [1, 2, 3], "gaps": [[1, 2], [3, 4]]}, 1)
    assert found == {"probabilities": {"b": 0.9}, "nbest": [1], "gaps": [[1], [3]]}
    assert top({"probabilities": [0.5, 0.5], "label": "a"}, 1) == {"probabilities": [0.5, 0.5], "label": "a"}
