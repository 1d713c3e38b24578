"""Sound from the command line: files to a run, a run asked, what is wrong said; samples as wav files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file

import exnihilo as xn
from exnihilo.cli import main
from exnihilo.codec.sound.read import save
from exnihilo.errors import DataError
from exnihilo.world.sounds import render

Capture = pytest.CaptureFixture[str]
TINY = ["model.depth=1", "model.width=32", "model.heads=2", "threads=1", "device=cpu", "compile=off"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short sounds of two kinds in two folders, and three files that are none."""
    root = tmp_path_factory.mktemp("sounds")
    for kind in ("bell", "drum"):
        (root / kind).mkdir()
        for i in range(20):
            save(root / kind / f"{i}.wav", render(f"world:{kind}:{i}:0.4", 16_000), 16_000)
    body = (root / "bell" / "0.wav").read_bytes()
    (root / "bell" / "cut.wav").write_bytes(body[:2000])
    (root / "drum" / "empty.wav").write_bytes(b"")
    (root / "drum" / "words.wav").write_text("these are words")
    return root


@pytest.fixture(scope="module")
def heard(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "heard"
    words = ["train", "sound_classification", f"data={folder}", "data.val_fraction=0.2", f"run={run}"]
    assert main([*words, *TINY, "steps=30", "checkpoint.every=15", "checkpoint.keep=9"]) == 0
    return run


def test_files_become_a_run_and_what_cannot_be_heard_is_counted(heard: Path):
    [source] = json.loads((heard / "data.json").read_text())["sources"]
    reasons = {reason: told[0] for reason, told in source["dropped"].items()}
    assert reasons == {"cut short": 1, "empty": 1, "that are no sounds": 1}
    assert "words.wav" in str(source["dropped"]["that are no sounds"])
    assert source["documents"] + source["held_out"] == 43
    figures = [json.loads(line) for line in (heard / "metrics.jsonl").read_text().splitlines()]
    assert [f["val_accuracy"] for f in figures if "val_accuracy" in f][-1] > 0.8


def test_a_class_that_nobody_can_hear_is_not_in_the_model(folder: Path, tmp_path: Path, capsys: Capture):
    for kind in ("bell", "drum"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for i in range(6):
            (tmp_path / "data" / kind / f"{i}.wav").write_bytes((folder / kind / f"{i}.wav").read_bytes())
    (tmp_path / "data" / "ghost").mkdir()
    for i in range(3):
        (tmp_path / "data" / "ghost" / f"{i}.wav").write_text(f"boo {i}")
    run = tmp_path / "run"
    words = ["train", "sound_classification", f"data={tmp_path / 'data'}", f"val={folder}", *TINY, "steps=2"]
    assert main([*words, f"run={run}"]) == 0
    assert json.loads((run / "objective.json").read_text())["facts"]["labels"] == ["bell", "drum"]
    said = capsys.readouterr()
    assert "none of their sounds can be heard: 'ghost' (3)" in said.out + said.err
    assert json.loads((run / "data.json").read_text())["sources"][0]["dropped"]["that are no sounds"][0] == 3
    for kind in ("bell", "drum"):
        for file in (tmp_path / "data" / kind).iterdir():
            file.write_text(f"{kind} {file.name}")
    assert main([*words, f"run={tmp_path / 'other'}"]) != 0
    assert "can be heard" in capsys.readouterr().err


def test_a_run_is_asked_with_a_file(heard: Path, folder: Path, capsys: Capture):
    assert main(["predict", str(heard), str(folder / "bell" / "3.wav"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"]["label"] == "bell"
    found = xn.predict(str(heard), [str(folder / "drum" / "1.wav"), "world:bell:77:0.4"])
    assert [p["label"] for p in found] == ["drum", "bell"]
    with pytest.raises(DataError, match=r"words\.wav is no sound"):
        xn.predict(str(heard), str(folder / "drum" / "words.wav"))


def test_a_run_goes_on_bit_for_bit(heard: Path, folder: Path, tmp_path: Path):
    run = tmp_path / "again"
    words = ["train", "sound_classification", f"data={folder}", "data.val_fraction=0.2", f"run={run}", *TINY]
    assert main([*words, "steps=30", "checkpoint.every=15", "checkpoint.keep=9"]) == 0
    for path in sorted((run / "checkpoints").iterdir()):
        if path.name.endswith("30") or path.name == "best":
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    (run / "config.json").unlink()
    assert main(["train", "--resume", f"run={run}"]) == 0
    a, b = (load_file(r / "exnihilo.safetensors") for r in (heard, run))
    assert a.keys() == b.keys() and all(bool((a[k] == b[k]).all()) for k in a)


def test_raw_sound_is_written_as_a_wav_file(tmp_path: Path, capsys: Capture):
    run = tmp_path / "waves"
    words = ["train", "sound_tokens", "data=world:30", "options.rate=2000", "model.context=64", f"run={run}"]
    assert main([*words, *TINY, "steps=2"]) == 0
    out = tmp_path / "a.wav"
    assert main(["sample", str(run), "max_new_tokens=50", f"out={out}"]) == 0
    wave, rate = soundfile.read(out)
    assert rate == 2000 and 0 < len(wave) <= 50 and np.abs(wave).max() <= 1
    assert main(["sample", str(run), str(out), "max_new_tokens=20", f"out={tmp_path / 'b.wav'}"]) == 0
    longer, _ = soundfile.read(tmp_path / "b.wav")
    assert len(longer) >= len(wave)
    capsys.readouterr()
    assert main(["sample", str(run), f"out={tmp_path / 'b.txt'}"]) == 2
    assert "ends in .wav" in capsys.readouterr().err


def test_a_run_that_writes_no_sound_refuses_out(heard: Path, capsys: Capture):
    assert main(["sample", str(heard), "out=a.wav"]) == 2
    assert "raw sound" in capsys.readouterr().err


def test_a_family_that_holds_one_input_is_refused_with_another(tmp_path: Path, capsys: Capture):
    words = ["train", "sound_classification", "data=world:30", "model.family=ast", f"run={tmp_path / 'r'}"]
    assert main([*words, *TINY, "steps=1"]) == 2
    assert "options.frames=ast" in capsys.readouterr().err
