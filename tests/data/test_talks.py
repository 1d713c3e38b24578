"""Conversations from files and from the world: what is left out, how it is split, what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from exnihilo.config import DataConfig
from exnihilo.data import Drops, examples, open_sources, prepare
from exnihilo.data.base import Example
from exnihilo.errors import ConfigError, DataError

HELLO = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
SFT, PAIR, KTO = ("messages",), ("prompt", "chosen", "rejected"), ("prompt", "completion", "label")


def source(path: Path | str, roles: tuple[str, ...] = SFT, **more: Any) -> Any:
    return open_sources(DataConfig.model_validate({"sources": str(path)}), roles=roles, **more)[0]


def lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_bad_lines_are_left_out_with_their_numbers(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        [
            {"messages": HELLO},
            '{"messages": [{"role": "user", "cont',
            {"messages": [{"content": "x"}]},
            "7",
            {"messages": [HELLO[0], {"role": "assistant", "content": " "}]},
            HELLO,  # a line that is a conversation itself
            "",
            "[" * 10_000,
        ],
    )
    drops = Drops()
    found = list(source(path).examples(drops))
    assert [e["messages"] for e in found] == [HELLO, HELLO] and found[1]["_at"] == "line 6"
    assert drops.to_json() == {
        "lines of broken JSON": [2, f"{path}, line 2", f"{path}, line 8"],
        "lines that are no record": [1, f"{path}, line 4"],
        "with a message without a role": [1, f"{path}, line 3"],
        "with an empty turn": [1, f"{path}, line 5"],
    }
    assert f"skipped 2 lines of broken JSON (first: {path}, line 2; then line 8)" in drops.summary()


def test_a_file_without_a_good_line_is_an_error(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", ['{"messages": [', "{"])
    with pytest.raises(DataError, match=r"no records \(skipped 2 lines of broken JSON"):
        source(path)
    path = lines(tmp_path / "b.jsonl", [{"messages": [HELLO[0]]}] * 2)
    with pytest.raises(DataError, match="no documents"):
        list(
            examples(
                DataConfig.model_validate({"sources": str(path)}), None, "train", roles=SFT, cache=tmp_path
            )
        )
    (tmp_path / "c.txt").write_text("just text\n")
    with pytest.raises(DataError, match="plain text"):
        source(tmp_path / "c.txt")
    (tmp_path / "d.json").write_text('[{"prompt": "Hi", "completion": "Hello."}, {"prom')
    with pytest.raises(DataError, match="broken JSON"):
        list(source(tmp_path / "d.json").examples())


def test_files_of_a_folder_have_their_own_layouts(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"instruction": "Hi", "input": "", "output": "Hello."}]))
    lines(
        tmp_path / "b.jsonl",
        [{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "x"}]}],
    )
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"id": 1, "messages": HELLO}]), tmp_path / "c.parquet"
    )
    (tmp_path / "d.csv").write_text('prompt,completion\n"Hi, you",Hello.\n')
    lines(tmp_path / "e.jsonl", [{"other": 1}])
    found = source(tmp_path)
    assert found.format == (
        "Alpaca instructions, ShareGPT conversations, OpenAI messages, prompts with completions"
    )
    assert found.skipped == {"of no known format": 1}
    assert found.fields["messages"] == "conversations or messages"
    said = [[m["content"] for m in e["messages"]] for e in found.examples()]
    assert said == [["Hi", "Hello."], ["Hi", "x"], ["Hi", "Hello."], ["Hi, you", "Hello."]]


def test_what_was_detected_and_left_out_is_in_the_report(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad" if i % 5 else "good"} for i in range(40)]
    path = lines(tmp_path / "a.jsonl", [*rows, rows[1]])

    def encode(batch: Any) -> Any:
        import numpy as np

        return [[{"tokens": np.arange(4)}] for _ in batch]

    config = DataConfig.model_validate({"sources": str(path), "val_fraction": 0.2})
    given: Any = {"encode": encode, "key": "k", "context": 16, "seed": 0, "cache": tmp_path / "c"}
    splits = prepare(config, None, **given, roles=PAIR, lookahead=0, join=False)
    report = splits.report.sources[0]
    assert report.dropped["whose chosen reply is the rejected one"][0] == 8
    assert report.dropped["pairs that came before"] == [1, f"{path}, line 41"]
    assert report.documents + report.held_out == 32 and report.held_out
    assert any("read as preference pairs" in line and "line 41" in line for line in splits.report.lines())


def prompts(found: list[Example]) -> set[str]:
    return {str(e["prompt"] if "prompt" in e else e["messages"][0]) for e in found}


@pytest.mark.parametrize("roles", [SFT, PAIR, KTO], ids=["sft", "pair", "kto"])
def test_what_shares_a_prompt_stands_on_one_side(tmp_path: Path, roles: tuple[str, ...]) -> None:
    rows = [{"prompt": f"q{i % 50}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(200)]
    config = DataConfig.model_validate(
        {"sources": str(lines(tmp_path / "a.jsonl", rows)), "val_fraction": 0.3}
    )
    sides = [list(examples(config, None, s, roles=roles, cache=tmp_path / "c")) for s in ("train", "val")]
    assert all(sides) and not prompts(sides[0]) & prompts(sides[1])
    assert sum(map(len, sides)) == (400 if roles == KTO else 200)
    again = list(examples(config, None, "val", roles=roles, cache=tmp_path / "d"))
    assert again == sides[1]


@pytest.mark.parametrize(
    ("view", "roles"),
    [("dialogues", SFT), ("preferences", PAIR), ("preferences", KTO), ("tasks", ("prompt",))],
)
def test_the_world_talks(view: str, roles: tuple[str, ...], tmp_path: Path) -> None:
    config = DataConfig.model_validate({"sources": "world:80", "val_fraction": 0.2})
    read: Any = {"roles": roles, "extras": ("answer", "record"), "view": view, "cache": tmp_path}
    train, val = (list(examples(config, None, side, **read)) for side in ("train", "val"))
    assert train and val and not prompts(train) & prompts(val)
    assert all(set(roles) <= set(e) for e in (*train, *val))
    assert list(examples(config, None, "val", **read)) == val
    if view == "tasks":
        assert all(e["answer"] and e["record"]["kind"] for e in train)


def test_the_worlds_talks_have_kinds() -> None:
    found = list(source("world:60:tasks:add", ("prompt",), extras=("answer",)).examples())
    for example in found:
        a, b = example["prompt"][0]["content"].removeprefix("What is ").rstrip("?").split(" + ")
        assert int(a) + int(b) == int(example["answer"])
    kinds = {
        e["record"]["kind"] for e in source("world:8:dialogues:fact", SFT, extras=("record",)).examples()
    }
    assert kinds == {"fact"}
    with pytest.raises(ConfigError, match="kinds of tasks: add"):
        source("world:9:tasks:ad", ("prompt",))
    with pytest.raises(ConfigError, match="has no messages"):
        source("world:9:stories", SFT)
