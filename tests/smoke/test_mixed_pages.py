"""Modalities of the user's own, as docs/modalities.md prints them: the code and the commands."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from exnihilo.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "modalities.md").read_text(encoding="utf-8")
SMALL = ["steps=2", "model.depth=1", "model.width=32", "model.heads=2", "batch.tokens=128", "threads=1"]


def blocks() -> list[tuple[str, str]]:
    """(language, text) of each block of the page."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.S | re.M)


def code(first: str) -> str:
    """The block of Python that begins so."""
    [found] = [body for kind, body in blocks() if kind == "python" and body.startswith(first)]
    return found


def commands(word: str) -> list[list[str]]:
    """The lines of exnihilo in the block of commands that names a word."""
    [block] = [b for kind, b in blocks() if not kind and re.search(rf"\b{word}\b", b) and "train" in b]
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "exnihilo"]


def run(words: list[str], capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main([*words, *more]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, which Python does not look into by itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXNIHILO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    return tmp_path


def test_dna_trains_and_predicts_as_printed(home: Path, capsys: pytest.CaptureFixture[str]):
    (home / "bio").mkdir()
    (home / "bio" / "__init__.py").touch()
    (home / "bio" / "dna.py").write_text(code("# dna.py"))
    rng = np.random.default_rng(0)
    rows = [("".join(rng.choice(list("ACGT"), 30)), ("gene", "none")[i % 2]) for i in range(60)]
    (home / "genes.csv").write_text("text,label\n" + "".join(f"{a},{b}\n" for a, b in rows))
    train, predict = commands("genes.csv")
    run(train, capsys, *SMALL)
    shown = run(predict, capsys)
    assert "gene" in shown and "none" in shown
    sys.modules.pop("bio.dna", None)
    sys.modules.pop("bio", None)


def midi(notes: list[tuple[int, int, int]]) -> bytes:
    """A file of one track: (wait, note, velocity), as running status allows."""
    track = b"\x00\xff\x03\x03abc" + b"\x00\xc0\x05"  # a name, an instrument
    for i, (wait, note, loud) in enumerate(notes):
        high = bytes([0x80 | wait >> 7]) if wait > 127 else b""
        track += high + bytes([wait & 127]) + (b"\x90" if i == 0 else b"") + bytes([note, loud])
    track += b"\x00\xff\x2f\x00"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 480) + b"MTrk" + struct.pack(">I", len(track)) + track


def test_notes_become_ids_and_train_as_printed(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (home / "notes.py").write_text(code("# notes.py"))
    (home / "a.mid").write_bytes(midi([(0, 60, 64), (600, 60, 0), (0, 64, 64), (240, 64, 0)]))
    monkeypatch.setattr(sys, "argv", ["notes.py", *["a.mid"] * 30])
    runpy.run_path("notes.py")
    ids = np.load("notes.npy")
    # 600 ticks are 20 steps of time, 240 are 8
    assert ids.tolist() == [60, 275, 64, 188, 263, 192, 356] * 30
    train, sample, to_file = commands("notes.npy")
    plain = [word for word in train if not word.startswith("run=")]
    for kind, message in (("bytes", "data.separator"), ("chars", "holds ids")):
        assert main([*plain, *SMALL, f"codec.kind={kind}", f"run=runs/{kind}"]) in (1, 2)
        assert message in capsys.readouterr().err
    run(train, capsys, *SMALL, "model.context=32")
    folder = next(word for word in train if word.startswith("run=")).removeprefix("run=")
    rows = [json.loads(line) for line in (home / folder / "metrics.jsonl").read_text().splitlines()]
    val = [row for row in rows if "val_loss" in row]
    assert val and all("val_bits_per_token" in row and "val_bpb" not in row for row in val)
    assert main(["eval", folder, "--suite", "bits_per_byte=notes.npy"]) == 2
    assert "counts bits a token" in capsys.readouterr().err
    said = run(sample, capsys).split()
    assert said[:3] == ["60", "275", "188"] and all(0 <= int(word) <= 356 for word in said)
    run(to_file, capsys)
    assert np.load("more.npy")[:3].tolist() == [60, 275, 188] and np.load("more.npy").dtype == np.uint16
