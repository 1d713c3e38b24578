"""Run folders read, and the page made of them: self-contained, escaped, and robust against what is
missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from exnihilo.config_layers import dump, load
from exnihilo.errors import CheckpointError, UsageError
from exnihilo.report import page
from exnihilo.report.compare import compare, table
from exnihilo.report.folder import open_run, read_rows


def make(path: Path, losses: tuple[float, ...] = (5.0, 4.0, 3.0), val: float = 3.5) -> Path:
    path.mkdir(parents=True)
    rows = [{"kind": "train", "step": i + 1, "tokens": 64 * (i + 1), "loss": x} for i, x in enumerate(losses)]
    rows.append(
        {"kind": "eval", "step": len(losses), "tokens": 64 * len(losses), "val_loss": val, "val_bpb": 1.25}
    )
    rows.append({"kind": "event", "step": 2, "event": "skip", "why": "a <spike>"})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "config.toml").write_text(dump(*load("gpt", ["model.vocab_size=100", f"run={path.name}"])))
    (path / "data.json").write_text(json.dumps({"train": {"tokens": 1234567}, "notes": ["x"]}))
    (path / "env.json").write_text(json.dumps({"python": "3.12"}))
    (path / "samples").mkdir()
    (path / "samples" / "step-00000003.txt").write_text("<script>alert(1)</script> {{ 7 * 7 }} & more")
    return path


def test_rows_of_a_run(tmp_path: Path) -> None:
    run = open_run(make(tmp_path / "a"))
    assert run.train["loss"] == [5.0, 4.0, 3.0] and run.val["val_loss"] == [3.5]
    assert run.last("val_bpb") == 1.25 and run.last("nothing") is None
    assert [event["event"] for event in run.events] == ["skip"]
    assert run.config is not None and run.config.model.vocab_size == 100


def test_a_step_written_twice_counts_once_and_a_cut_line_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"kind": "train", "step": 1, "loss": 9},
        {"kind": "train", "step": 1, "loss": 8},
        {"kind": "eval", "step": 1},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "tr')
    assert [row.get("loss") for row in read_rows(path)] == [8, None]
    path.write_text('{"broken\n{"kind": "train", "step": 1}\n')
    with pytest.raises(CheckpointError, match="line 1"):
        read_rows(path)


def test_values_that_are_no_numbers_leave_columns_aligned(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    rows = [
        {"kind": "train", "step": 1, "loss": "nan"},
        {"kind": "train", "step": 2, "loss": 2.0, "mfu": 0.5},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = open_run(run).train
    assert {len(column) for column in table.values()} == {2}
    assert table["loss"][1] == 2.0 and table["mfu"][1] == 0.5


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        open_run(tmp_path / "absent")
    with pytest.raises(UsageError, match="no run folder"):
        open_run(tmp_path)
    run = make(tmp_path / "a")
    (run / "data.json").write_text("{")
    with pytest.raises(CheckpointError, match="data.json"):
        open_run(run)


class Outside(HTMLParser):
    """Collects what a page would fetch, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]


def test_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    path = page.write(run)
    assert path == run / "report.html"
    text = path.read_text(encoding="utf-8")
    parser = Outside()
    parser.feed(text)
    assert len(parser.fetched) == 1 and parser.fetched[0].startswith("data:image/png;base64,")
    assert "script" not in parser.tags and "link" not in parser.tags
    assert not re.search(r"https?://", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7 * 7 }} &amp; more" in text
    assert "a &lt;spike&gt;" in text
    for shown in (
        "3.5000",
        "1.2500",
        "1,234,567",
        "model.vocab" if False else "vocab_size = 100",
        "step 00000003",
    ):
        assert shown in text


def test_page_of_a_folder_with_weights_alone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    text = page.html(open_run(tmp_path))
    assert "<h1>" in text and "<img" not in text


def test_page_elsewhere_and_where_nothing_can_be_written(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    assert page.write(run, tmp_path / "sub" / "page.html").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception, match="cannot be written"):
        page.write(run, tmp_path / "file" / "page.html")


def test_quickstart_tables_are_on_the_page(tmp_path: Path) -> None:
    run = make(tmp_path / "a")
    tables = [
        {"title": "Gains", "head": ["", "random", "base"], "rows": [["syntax", "0%", "97%"]], "note": "95%"}
    ]
    (run / "quickstart.json").write_text(json.dumps({"floor_nats": 1.0, "tables": tables}))
    text = page.html(open_run(run))
    assert "Gains" in text and '<td class="n">97%</td>' in text


def test_compare_orders_by_validation_loss(tmp_path: Path) -> None:
    good = make(tmp_path / "good", val=2.0)
    bad = make(tmp_path / "bad", val=4.0)
    rows = compare([bad, good], tmp_path / "cmp.png")
    assert [row["run"] for row in rows] == [str(good), str(bad)]
    assert (tmp_path / "cmp.png").read_bytes()[:4] == b"\x89PNG"
    lines = table(rows).splitlines()
    assert len({len(line) for line in lines}) == 1 and "2" in lines[1]
