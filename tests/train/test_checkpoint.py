"""Checkpoints are whole or not there, and any altered byte is found."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.errors import CheckpointError
from exnihilo.train import checkpoint


def write(folder: Path, step: int, value: float = 1.0) -> Path:
    tensors = {"model": {"w": torch.full((3, 2), value)}, "optim": {"w/m": torch.arange(6.0).view(3, 2)}}
    return checkpoint.save(folder, step, tensors, {"step": step, "guard": {"streak": []}})


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = write(tmp_path, 7)
    assert path.name == "step-00000007"
    assert checkpoint.problem(path) is None
    assert torch.equal(checkpoint.read(path, "model")["w"], torch.ones(3, 2))
    assert checkpoint.read(path, "ema") == {}
    assert checkpoint.read_state(path)["step"] == 7
    assert not list(tmp_path.glob(f"{checkpoint.ASIDE}*"))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write(tmp_path_factory.mktemp("c"), 1)
    files = sorted(p for p in path.iterdir() if p.name != checkpoint.MANIFEST)
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(bytes(content))
    found = checkpoint.problem(path)
    assert found is not None and file.name in found
    shutil.rmtree(path.parent)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_cut_manifest_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write(tmp_path_factory.mktemp("c"), 1)
    manifest = path / checkpoint.MANIFEST
    content = manifest.read_bytes()
    manifest.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert checkpoint.problem(path) is not None
    shutil.rmtree(path.parent)


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (0, 10, 20, 30, 40):
        write(tmp_path, step)
    (tmp_path / f"{checkpoint.ASIDE}step-00000050").mkdir()
    checkpoint.rotate(tmp_path, 2, {10})
    assert checkpoint.steps(tmp_path) == [10, 30, 40]
    assert sorted(os.listdir(tmp_path)) == ["step-00000010", "step-00000030", "step-00000040"]


def test_a_broken_newest_is_named_and_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = write(tmp_path, 10), write(tmp_path, 20)
    (bad / "optim.safetensors").write_bytes(b"short")
    assert checkpoint.newest(tmp_path) == good
    said = capsys.readouterr().err
    assert "step-00000020" in said and "optim.safetensors has 5 bytes of" in said


def test_none_left_is_an_error_that_names_all(tmp_path: Path) -> None:
    for step in (10, 20):
        (write(tmp_path, step) / checkpoint.MANIFEST).unlink()
    with pytest.raises(CheckpointError) as caught:
        checkpoint.newest(tmp_path)
    assert "step-00000010" in str(caught.value) and "step-00000020" in str(caught.value)
    assert checkpoint.steps(tmp_path) == [10, 20]  # nothing was thrown away


def test_none_at_all_is_no_error(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "none") is None


def test_acceptance_goes_further_back(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write(tmp_path, step)
    found = checkpoint.newest(tmp_path, accept=lambda s: s["step"] <= 25)
    assert found is not None and found.name == "step-00000020"


def test_saving_again_replaces_a_broken_one(tmp_path: Path) -> None:
    (write(tmp_path, 10) / "model.safetensors").unlink()
    again = write(tmp_path, 10, 2.0)
    assert checkpoint.problem(again) is None
    assert float(checkpoint.read(again, "model")["w"][0, 0]) == 2.0


def test_a_state_of_another_version_is_refused(tmp_path: Path) -> None:
    from exnihilo.train.state import State

    good = State(step=3).to_json()
    assert State.from_json(json.loads(json.dumps(good))) == State(step=3)
    for wrong in ({**good, "colour": 1}, {k: v for k, v in good.items() if k != "guard"}):
        with pytest.raises(CheckpointError, match="does not fit"):
            State.from_json(wrong)


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=50))
def test_small_files_are_written_whole(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("w") / "file"
    text = text.encode("utf-8", "replace").decode()
    checkpoint.write_text(path, text)
    assert path.read_bytes().decode() == text
    assert os.listdir(path.parent) == ["file"]
