"""Pictures from the command line: files to a run, a run asked, what is wrong said; drawings as files."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import exnihilo as xn
from exnihilo.cli import main
from exnihilo.codec.picture.read import pixels, save
from exnihilo.errors import DataError

Image: Any = pytest.importorskip("PIL.Image")
Capture = pytest.CaptureFixture[str]
TINY = ["model.depth=1", "model.width=32", "model.heads=2", "threads=1", "device=cpu", "compile=off"]
SMALL = ["options.size=16", "batch.tokens=256"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small pictures of two kinds in two folders, and five files that are none."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for kind, light in (("dark", 60), ("light", 190)):
        (root / kind).mkdir()
        for i in range(20):
            image = (light + rng.normal(0, 15, (20, 24, 3))).clip(0, 255).astype(np.uint8)
            save(root / kind / f"{i}.png", image)
    Image.new("CMYK", (9, 9), (0, 0, 0, 0)).save(root / "light" / "inks.jpg")
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(root / "light" / "clear.png")
    Image.new("L", (1, 1), 20).save(root / "dark" / "one.png")
    body = (root / "dark" / "0.png").read_bytes()
    (root / "dark" / "cut.png").write_bytes(body[:500])
    (root / "dark" / "empty.png").write_bytes(b"")
    (root / "light" / "words.png").write_text("these are words")
    Image.new("1", (9000, 9000)).save(root / "light" / "vast.png")
    return root


@pytest.fixture(scope="module")
def seen(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "seen"
    words = ["train", "picture_classification", f"data={folder}", "data.val_fraction=0.2", f"run={run}"]
    assert main([*words, *TINY, *SMALL, "steps=20", "checkpoint.every=10", "checkpoint.keep=9"]) == 0
    return run


def test_files_become_a_run_and_what_cannot_be_seen_is_counted(seen: Path):
    [source] = json.loads((seen / "data.json").read_text())["sources"]
    reasons = {reason: told[0] for reason, told in source["dropped"].items()}
    assert reasons == {"cut short": 1, "empty": 1, "that are no pictures": 1, "too large": 1}
    assert "words.png" in str(source["dropped"]["that are no pictures"])
    figures = [json.loads(line) for line in (seen / "metrics.jsonl").read_text().splitlines()]
    assert [f["val_accuracy"] for f in figures if "val_accuracy" in f][-1] > 0.9


def test_a_run_is_asked_with_a_file(seen: Path, folder: Path, tmp_path: Path, capsys: Capture):
    assert main(["predict", str(seen), str(folder / "dark" / "3.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"]["label"] == "dark"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(folder / "light" / "1.png", "x/1.png")
    found = xn.predict(str(seen), [str(folder / "light" / "1.png"), f"{tmp_path}/a.tar::x/1.png"])
    assert [p["label"] for p in found] == ["light", "light"]
    with pytest.raises(DataError, match=r"words\.png is no picture"):
        xn.predict(str(seen), str(folder / "light" / "words.png"))
    table = tmp_path / "new.csv"
    table.write_text(f"path\n{folder}/dark/2.png\n{folder}/dark/empty.png\n")
    assert main(["predict", str(seen), "--file", str(table), "--out", str(tmp_path / "out.jsonl")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines[0]["label"] == "dark" and "empty.png" in lines[1]["error"]


def test_a_run_goes_on_bit_for_bit(seen: Path, folder: Path, tmp_path: Path):
    run = tmp_path / "again"
    words = [
        "train",
        "picture_classification",
        f"data={folder}",
        "data.val_fraction=0.2",
        f"run={run}",
        *TINY,
    ]
    assert main([*words, *SMALL, "steps=20", "checkpoint.every=10", "checkpoint.keep=9"]) == 0
    for path in sorted((run / "checkpoints").iterdir()):
        if path.name.endswith("20") or path.name == "best":
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    (run / "config.json").unlink()
    assert main(["train", "--resume", f"run={run}"]) == 0
    a, b = (load_file(r / "exnihilo.safetensors") for r in (seen, run))
    assert a.keys() == b.keys() and all(bool((a[k] == b[k]).all()) for k in a)


def test_pretraining_is_carried_over_and_a_vit_is_read_by_transformers(folder: Path, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    vit = [*TINY, *SMALL, "model.family=vit"]
    words = [f"data={folder}", "data.val_fraction=0.2", *vit]
    assert main(["train", "masked_picture", *words, "steps=3", f"run={tmp_path / 'm'}"]) == 0
    more = ["control.seeds=0", f"init={tmp_path / 'm'}", f"run={tmp_path / 'c'}"]
    assert main(["train", "picture_classification", *words, *more, "steps=12"]) == 0
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "c").eval()
    processor = transformers.models.vit.image_processing_pil_vit.ViTImageProcessorPil.from_pretrained(
        tmp_path / "c"
    )
    path = folder / "light" / "4.png"
    said = model(**processor(Image.open(path), return_tensors="pt")).logits[0].detach().softmax(-1)
    ours = xn.predict(str(tmp_path / "c"), str(path))["probabilities"]
    temperature = json.loads((tmp_path / "c" / "objective.json").read_text())["facts"].get("temperature", 1.0)
    logits = np.log(said.numpy()) / temperature
    want = np.exp(logits) / np.exp(logits).sum()
    names = [model.config.id2label[i] for i in range(2)]
    np.testing.assert_allclose([ours[name] for name in names], want, atol=1e-4)


def test_pixels_are_drawn_as_files(folder: Path, tmp_path: Path, capsys: Capture):
    run = tmp_path / "pixels"
    words = [
        "train",
        "picture_tokens",
        f"data={folder}",
        "options.size=6",
        "options.colours=16",
        f"run={run}",
    ]
    assert main([*words, *TINY, "steps=2", "batch.tokens=256"]) == 0
    out = tmp_path / "a.png"
    assert main(["sample", str(run), "n=2", f"out={out}"]) == 0
    for name in ("a-1.png", "a-2.png"):
        assert pixels(tmp_path / name).shape == (6, 6, 3)
    half = str(folder / "light" / "2.png")
    assert main(["sample", str(run), half, f"out={out}", "seed=1"]) == 0
    known = json.loads((run / "objective.json").read_text())["facts"]["palette"]
    drawn = pixels(out)
    assert {tuple(p) for p in drawn.reshape(-1, 3).tolist()} <= {tuple(p) for p in known}
    assert np.abs(drawn[:3].astype(int) - pixels(half, 6)[:3]).mean() < 30
    capsys.readouterr()
    assert main(["sample", str(run)]) == 2
    assert "out=" in capsys.readouterr().err
    assert main(["sample", str(run), f"out={tmp_path / 'a.txt'}"]) == 2
    assert ".png" in capsys.readouterr().err


def test_the_doctor_shows_pictures(folder: Path, capsys: Capture):
    assert main(["doctor", "picture_classification", f"data={folder}", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "[PAD]" not in shown and "label 'dark'" in shown and "20 × 24 at the median" in shown
    assert "too large" in shown or "give nothing to train on" in shown
    assert main(["doctor", "masked_picture", f"data={folder}", *SMALL]) == 0
    assert "\u2591" in capsys.readouterr().out


def test_a_vit_of_something_else_is_refused(tmp_path: Path, capsys: Capture):
    words = ["train", "sound_classification", "data=world:30", "model.family=vit", f"run={tmp_path / 'r'}"]
    assert main([*words, *TINY, "steps=1"]) == 2
    assert "picture" in capsys.readouterr().err
