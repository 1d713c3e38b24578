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
from exnihilo.quickstart import chain, own_scores, pretraining, tokens, world_scores


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer documents, probes and texts."""
    monkeypatch.setattr(tokens, "DOCUMENTS", 150)
    monkeypatch.setattr(tokens, "HELD_OUT", 20)
    monkeypatch.setattr(world_scores, "TEXTS", 4)
    monkeypatch.setattr(world_scores, "LENGTH", 40)
    monkeypatch.setattr(world_scores, "PROBES", 12)
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
    for name in ("loss.png", "report.html", "model.safetensors", "tokenizer.json"):
        assert (run / name).stat().st_size > 0
    for word in ("tokenizer", "entropy floor", "random weights", "syntax", "exnihilo sample"):
        assert word in seen.err
    assert main(["quickstart", f"run={run}", "minutes=0.05"]) == 2  # never over a run


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
