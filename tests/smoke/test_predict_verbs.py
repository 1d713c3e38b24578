"""A task from the command line: train, predict, evaluate; and what one cannot do with such a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import exnihilo as xn
from exnihilo.cli import main
from exnihilo.errors import DataError, UsageError

Capture = pytest.CaptureFixture[str]
SHAPE = [
    "model.preset=none",
    "model.family=bert",
    "model.depth=1",
    "model.width=32",
    "model.heads=2",
    "model.context=64",
]
TINY = [*SHAPE, "codec.vocab_size=600", "batch.tokens=256", "threads=1", "device=cpu", "compile=off"]


def last(capsys: Capture) -> dict:
    """The one line of standard output, as JSON."""
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty labelled texts: 'good' or 'bad' says it all."""
    path = tmp_path_factory.mktemp("reviews") / "train.jsonl"
    rows = [
        {"text": f"a {'good' if i % 2 else 'bad'} film number {i}", "label": ["neg", "pos"][i % 2]}
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "task"
    words = ["train", "sentence_classification", f"data={reviews}", "data.val_fraction=0.3", "steps=40"]
    assert main([*words, "optim.lr=0.01", "optim.schedule.warmup=0", f"run={folder}", *TINY]) == 0
    return folder


def test_one_text_and_lists(run: Path, capsys: Capture) -> None:
    assert main(["predict", str(run), "a good film number 7", "--json", "top_k=1"]) == 0
    found = last(capsys)["prediction"]
    assert found["label"] == "pos" and list(found["probabilities"]) == ["pos"]
    assert main(["predict", str(run), "a good film number 7", "device=cpu"]) == 0
    assert capsys.readouterr().out.startswith("label ")
    loaded = xn.load(run, device="cpu")
    assert loaded.predict("a bad film number 8")["label"] == "neg"
    both = loaded.predict([{"text": "a good film number 1"}, "a bad film number 2"])
    assert [p["label"] for p in both] == ["pos", "neg"]
    [again] = xn.predict(run, ["a good film number 1"], device="cpu")
    assert again["probabilities"] == pytest.approx(both[0]["probabilities"], abs=1e-5)


def test_eval_says_what_training_said(run: Path, reviews: Path, capsys: Capture) -> None:
    assert main(["eval", str(run), "--json", "device=cpu"]) == 0
    own = last(capsys)
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    final = [row["val_accuracy"] for row in logged if "val_accuracy" in row][-1]
    assert own["split"] == "validation" and own["accuracy"] == pytest.approx(final)
    assert 0.3 < own["majority_accuracy"] < 0.8 and own["ece"] >= 0
    assert own["accuracy"] > own["majority_accuracy"]
    assert main(["eval", str(run), f"data={reviews}", "max_examples=10", "--json", "device=cpu"]) == 0
    other = last(capsys)
    assert other["split"] == "given" and other["examples"] == 10 and other["accuracy"] >= 0.9


def test_eval_of_other_columns_and_formats(run: Path, tmp_path: Path, capsys: Capture) -> None:
    table = tmp_path / "test.tsv"
    table.write_text("pos\ta good film\nneg\ta bad film\nnew\twhat is it\n", encoding="utf-8")
    words = ["eval", str(run), f"data={table}", "data.columns=label,text", "--json", "device=cpu"]
    assert main(words) == 0
    found = last(capsys)
    assert found["examples"] == 3 and found["unseen"] == 1
    assert main(["eval", str(run), f"data={table}", "max_tokens=5"]) == 2
    assert main(["eval", str(run), "model.depth=3"]) == 2
    assert "data.KEY" in capsys.readouterr().err


def test_a_file_in_and_out(run: Path, reviews: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out.jsonl"
    words = ["predict", str(run), "--file", str(reviews), "--out", str(out), "device=cpu"]
    assert main([*words, "--json"]) == 0
    assert last(capsys)["rows"] == 60
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    right = [row["label"] == ["neg", "pos"][i % 2] for i, row in enumerate(rows)]
    assert sum(right) >= 57 and [row["row"] for row in rows] == list(range(1, 61))
    assert main(words) == 2 and "--resume" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    capsys.readouterr()
    csv = tmp_path / "in.csv"
    csv.write_text('a,b\n1,"a good, good film"\n', encoding="utf-8")
    assert main(["predict", str(run), f"file={csv}", 'data.fields={text = "b"}', "device=cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "pos"
    with pytest.raises(DataError, match="does not exist"):
        xn.predict(run, file=tmp_path / "absent.csv", device="cpu")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_killed_and_resumed(run: Path, tmp_path: Path) -> None:
    source, out, whole = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "whole.jsonl"))
    text = " ".join(["good film"] * 15)
    source.write_text(
        "".join(json.dumps({"text": f"{text} {i}"}) + "\n" for i in range(1400)), encoding="utf-8"
    )
    words = [
        sys.executable,
        "-m",
        "exnihilo",
        "predict",
        str(run),
        "--file",
        str(source),
        "device=cpu",
        "--out",
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*words, str(out)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 200
    while (not out.exists() or out.stat().st_size < 10_000) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    begun = out.read_bytes().count(b"\n")
    assert 0 < begun < 1400 and out.with_name("out.jsonl.state").exists()
    figures = xn.predict(run, file=source, out=out, resume=True, device="cpu", progress=False)
    assert figures["resumed"] == begun and figures["rows"] == 1400
    xn.predict(run, file=source, out=whole, device="cpu", progress=False)
    for a, b in zip(out.read_text().splitlines(), whole.read_text().splitlines(), strict=True):
        left, right = json.loads(a), json.loads(b)
        assert left["row"] == right["row"] and left["label"] == right["label"]
        assert left["probabilities"] == pytest.approx(right["probabilities"], abs=1e-5)


def test_wrong_use_is_told(run: Path, trained: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["predict", str(trained), "text"]) == 2
    assert "makes no predictions" in capsys.readouterr().err
    assert main(["predict", str(run), ""]) == 1
    assert "empty text" in capsys.readouterr().err
    assert main(["predict", str(run), "one", "two"]) == 1
    assert "2 texts where an example has text" in capsys.readouterr().err
    assert main(["predict", str(run)]) == 2
    assert main(["predict", str(run), "text", "--file", "x"]) == 2
    assert main(["predict", str(run), "text", "--resume"]) == 2
    assert main(["predict", str(run), "--file", "x.jsonl", "--json"]) == 2
    assert main(["predict", str(run), "text", "data.format=conll"]) == 2
    assert main(["predict", str(run), "text", "top_k=0"]) == 2
    with pytest.raises(UsageError, match="embeddings"):
        xn.load(run, device="cpu").embed(["a text"])
    assert main(["sample", str(run), "text"]) == 2
    assert "is an encoder (classes)" in capsys.readouterr().err
    assert xn.load(trained, device="cpu").generate("The", max_new_tokens=3)[0].ids
