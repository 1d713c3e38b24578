"""The quickstart end to end, cut to seconds: every stage runs, on the world and on one's own files."""

from __future__ import annotations

import io
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest

from exnihilo.cli import main
from exnihilo.errors import ExNihiloError, UsageError
from exnihilo.interop.load import load
from exnihilo.quickstart import chain, gains, measures, own_scores, post, pretraining, tokens, world_scores
from exnihilo.train import lineage


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer documents, probes and texts."""
    monkeypatch.setattr(tokens, "DOCUMENTS", 150)
    monkeypatch.setattr(tokens, "HELD_OUT", 20)
    monkeypatch.setattr(world_scores, "TEXTS", 4)
    monkeypatch.setattr(world_scores, "LENGTH", 40)
    monkeypatch.setattr(world_scores, "PROBES", 12)
    monkeypatch.setattr(tokens, "TALKS", 60)
    monkeypatch.setattr(post, "COUNTS", {"lessons": 60, "pairs": 40})
    monkeypatch.setattr(post, "HELD_OUT", {"lessons": 8, "pairs": 8})
    monkeypatch.setattr(post, "SECONDS", dict.fromkeys(post.SECONDS, 0.4))
    monkeypatch.setattr(measures, "DRAWS", 1)
    monkeypatch.setattr(measures, "LONGEST", 6)
    usual = tokens.settings

    def small(made: chain.Chain, vocabulary: int) -> dict:
        more = {"model.depth": 1, "model.width": 32, "model.heads": 2, "batch.tokens": 512, "threads": 1}
        return {**usual(made, vocabulary), **more, "eval.samples": 1}

    monkeypatch.setattr(tokens, "settings", small)
    monkeypatch.setattr(pretraining, "settings", small)


def test_on_the_world(brief: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "q"
    assert main(["quickstart", f"run={run}", "minutes=0.05", "device=cpu", "--json"]) == 0
    seen = capsys.readouterr()
    figures = json.loads(seen.out)
    assert figures == json.loads((run / "quickstart.json").read_text())
    assert (
        0 < figures["floor_nats"] < figures["chance_nats"] == pytest.approx(math.log(figures["vocabulary"]))
    )
    assert figures["losses"]["random"]["loss"] == pytest.approx(figures["chance_nats"], rel=0.02)
    assert figures["losses"]["base"]["loss"] < figures["losses"]["random"]["loss"]
    for kind in ("consistency", "recall", "syntax"):
        for who in ("random", "base"):
            found = figures[kind][who]
            assert 0 <= found["low"] <= found["share"] <= found["high"] <= 1
    for name in ("loss.png", "chain.png", "report.html", "model.safetensors", "tokenizer.json"):
        assert (run / name).stat().st_size > 0
    for word in (
        "tokenizer",
        "entropy floor",
        "random weights",
        "syntax",
        "exnihilo sample",
        "exnihilo chat",
    ):
        assert word in seen.err
    assert [row["stage"] for row in figures["gains"]] == ["base", "sft", "preference", "rlvr"]
    for row in figures["gains"]:
        for side in ("before", "after", "control"):
            assert 0 <= row[side]["low"] <= row[side]["share"] <= row[side]["high"] <= 1
        assert 0 < row["chance"] <= 0.5
    stages = ("base", "sft", "preference", "rlvr")
    assert set(figures["measured"]) == {"random", *stages, *(f"{name} control" for name in stages[1:])}
    for name, known in figures["stages"].items():  # equal compute: the control took as many steps
        rows = (run / "control" / name / "metrics.jsonl").read_text().splitlines()
        assert max(json.loads(row)["step"] for row in rows) == known["steps"] > 0
    assert figures["claim"]["holds"] == all(v for k, v in figures["claim"].items() if k != "holds")
    assert [each["objective"] for each in lineage.read(run)] == ["causal_lm", "sft", "preference", "rlvr"]
    assert load(run).model.config == load(run / "rlvr").model.config
    page = (run / "report.html").read_text()
    assert all(f"<h2>{name}" in page for name in stages)
    assert main(["quickstart", f"run={run}", "minutes=0.05"]) == 2  # never over a run


def test_the_claim_follows_from_the_intervals() -> None:
    def found(knows: float, polite: float) -> dict:
        sides = {"knows": knows, "polite": polite}
        return {name: {"share": x, "low": x - 0.05, "high": x + 0.05} for name, x in sides.items()}

    base, final = found(0.6, 0.48), found(0.7, 0.95)
    assert gains.claim({"base": base, "rlvr": final})["holds"]
    for broken in (
        {"base": found(0.01, 0.48), "rlvr": final},  # no more than guessing
        {"base": found(0.6, 0.62), "rlvr": final},  # it has a preference
        {"base": found(0.6, 0.3), "rlvr": final},  # against it
        {"base": base, "rlvr": found(0.7, 0.52)},
        {"base": base, "rlvr": found(0.01, 0.95)},
    ):
        assert not gains.claim(broken)["holds"]


def test_controls_are_what_they_say(tmp_path: Path) -> None:
    post.write_examples(tmp_path, 0)
    rows = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in tmp_path.glob("*.jsonl")
    }
    turned = [
        a["chosen"] == b["rejected"] for a, b in zip(rows["pairs"], rows["pairs.shuffled"], strict=True)
    ]
    assert all({a["chosen"], a["rejected"]} == {b["chosen"], b["rejected"]}
               for a, b in zip(rows["pairs"], rows["pairs.shuffled"], strict=True))  # fmt: skip
    assert abs(sum(turned) / len(turned) - 0.5) < 4 * (0.25 / len(turned)) ** 0.5
    right = []
    for a, b in zip(rows["puzzles"], rows["puzzles.shuffled"], strict=True):
        assert a["prompt"] == b["prompt"] and sorted(a["answer"]) == sorted(b["answer"])
        right.append(a["answer"] == b["answer"])
    assert abs(sum(right) / len(right) - 1 / 6) < 4 * (5 / 36 / len(right)) ** 0.5


def test_on_ones_own_files(
    brief: None, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "q"
    assert main(["quickstart", "--data", str(corpus), f"--run={run}", "--minutes", "0.05", "device=cpu"]) == 0
    seen = capsys.readouterr()
    assert "bits a byte" in seen.out and "unigram" in seen.out and "xz -9" in seen.out
    figures = json.loads((run / "quickstart.json").read_text())
    assert figures["losses"]["base"]["bpb"] < figures["losses"]["random"]["bpb"]
    packed = figures["compressors_bits_per_byte"]
    assert packed["xz -9, training text first"] < packed["xz -9"] < 8
    assert "floor_nats" not in figures


def test_without_a_terminal_nothing_is_coloured(brief: None, corpus: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    chain.start(data=str(corpus), minutes=0.03, run=tmp_path / "q", device="cpu", stream=stream)
    assert "\x1b" not in stream.getvalue()


def test_the_curve_is_ascii_where_the_terminal_is(brief: None, corpus: Path, tmp_path: Path) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="replace")
    chain.start(data=str(corpus), minutes=0.03, run=tmp_path / "q", device="cpu", stream=stream)
    stream.flush()
    assert b"tokens seen" in raw.getvalue() and b"* training" in raw.getvalue()


def test_bad_data_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ExNihiloError, match="absent"):
        chain.start(data=str(tmp_path / "absent"), minutes=0.03, run=tmp_path / "q", stream=io.StringIO())
    assert list(tmp_path.iterdir()) == []


def test_bad_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="minutes=-1"):
        chain.start(minutes=-1, run=tmp_path / "q")


def test_free_folder_is_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert chain.free() == Path("runs/quickstart")
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    assert chain.free() == Path("runs/quickstart")
    (tmp_path / "runs" / "quickstart" / "x").write_text("")
    assert chain.free() == Path("runs/quickstart-2")


def test_compressed_bits_count_what_a_text_adds() -> None:
    def deflate(data: bytes) -> bytes:
        return zlib.compress(data, 9)

    text = np.random.default_rng(0).bytes(4000)
    assert own_scores.compressed_bits(text, b"", deflate) == pytest.approx(8, rel=0.02)
    assert own_scores.compressed_bits(text, text, deflate) < 0.2  # it has seen it
    assert math.isnan(own_scores.compressed_bits(b"", b"", deflate))
