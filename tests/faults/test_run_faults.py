"""What can go wrong with a run folder or a checkpoint: one clear error each, and nothing good is lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from exnihilo.config import CheckpointConfig, CodecConfig, ModelConfig, OptimConfig
from exnihilo.errors import CheckpointError, CodecError, ConfigError, ExNihiloError, TrainError, UsageError
from exnihilo.train import checkpoint, run
from exnihilo.train.runfolder import Lock

EVERY = CheckpointConfig(every=2)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != ".lock"
    }


def helpful(error: pytest.ExceptionInfo[ExNihiloError]) -> str:
    """Every error says what was given, what was expected, and what to do."""
    assert error.value.given and error.value.expected and error.value.next and error.value.exit_code in (1, 2)
    return str(error.value)


def test_a_folder_that_holds_a_run_is_not_overwritten(make: Any, tmp_path: Path) -> None:
    run(make(tmp_path / "r"), progress=False)
    before = content(tmp_path / "r")
    with pytest.raises(UsageError) as caught:
        run(make(tmp_path / "r"), progress=False)
    assert "holds a run already" in helpful(caught) and "--resume" in helpful(caught)
    assert content(tmp_path / "r") == before
    run(make(tmp_path / "r", seed=1), force=True, progress=False)  # told to: the old one moves aside, whole
    assert content(tmp_path / "r/old-1") == before


def test_a_folder_with_a_model_is_not_overwritten(make: Any, tmp_path: Path) -> None:
    run(make(tmp_path / "a"), progress=False)
    before = content(tmp_path / "a")
    with pytest.raises(UsageError, match="model.safetensors"):
        run(make(tmp_path / "a", init=str(tmp_path / "a")), progress=False)
    assert content(tmp_path / "a") == before


def test_a_start_that_fails_leaves_the_folder_free(make: Any, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="grader is given"):  # found out when the tokenizer is made
        run(make(tmp_path / "r", grader="exact"), progress=False)
    assert list(content(tmp_path / "r")) == ["notes.txt"]
    assert run(make(tmp_path / "r"), progress=False).step == 6


def test_two_processes_in_one_folder(make: Any, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    lock = Lock(tmp_path / "r")
    lock.take()
    with pytest.raises(TrainError) as caught:
        run(make(tmp_path / "r"), progress=False)
    assert f"in use by process {os.getpid()}" in helpful(caught)
    lock.release()
    assert run(make(tmp_path / "r"), progress=False).step == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    with pytest.raises(TrainError) as caught:
        run(make(folder / "r"), progress=False)
    assert "cannot be written" in helpful(caught)
    assert not any(folder.iterdir())


def test_a_folder_that_cannot_be_made(make: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for wrong in (tmp_path / "file", tmp_path / "file" / "r"):
        with pytest.raises(ExNihiloError) as caught:
            run(make(wrong), progress=False)
        assert str(wrong) in helpful(caught)
    assert (tmp_path / "file").read_text() == "mine"


def test_resume_where_there_is_nothing(make: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as caught:
        run(make(tmp_path / "none"), resume=True, progress=False)
    assert helpful(caught) and not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no run"):
        run(make(tmp_path / "empty"), resume=True, progress=False)


def test_a_run_cut_before_its_first_checkpoint_starts_over(make: Any, tmp_path: Path) -> None:
    run(make(tmp_path / "whole"), progress=False)
    run(make(tmp_path / "r"), progress=False)
    shutil.rmtree(tmp_path / "r/checkpoints")
    (tmp_path / "r/model.safetensors").unlink()
    assert run(make(tmp_path / "r"), resume=True, progress=False).step == 6
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "r")
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("how", ["truncated", "altered", "missing", "no manifest", "state"])
def test_a_broken_checkpoint_is_named_and_the_one_before_is_taken(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    folder = tmp_path / "r"
    run(make(folder, checkpoint=EVERY), progress=False)
    good = weights(folder)
    newest = folder / "checkpoints/step-00000006"
    file = newest / "model.safetensors"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif how == "altered":
        changed = bytearray(file.read_bytes())
        changed[-1] ^= 1
        file.write_bytes(bytes(changed))
    elif how == "missing":
        (newest / "optim.safetensors").unlink()
    elif how == "state":
        (newest / "state.json").write_text("{}")
    else:
        (newest / "manifest.json").unlink()
    capsys.readouterr()
    assert run(make(folder, checkpoint=EVERY), resume=True).step == 6
    said = capsys.readouterr().err
    assert "step-00000006 is broken" in said and "at step 4" in said
    assert checkpoint.problem(newest) is None  # written again, whole
    assert all(torch.equal(good[k], t) for k, t in weights(folder).items())  # and the same bits


def test_no_whole_checkpoint_is_an_error(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    run(make(folder, checkpoint=EVERY), progress=False)
    for path in (folder / "checkpoints").iterdir():
        (path / "optim.safetensors").write_bytes(b"")
    before = content(folder)
    with pytest.raises(CheckpointError) as caught:
        run(make(folder, checkpoint=EVERY), resume=True, progress=False)
    assert "step-00000006" in helpful(caught) and "step-00000004" in helpful(caught)
    assert content(folder) == before


def test_a_full_disk_while_saving(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "r"
    real = checkpoint.fsync
    writes: list[Path] = []

    def full(path: Path) -> None:
        writes.append(path)
        if "step-00000004" in str(path) and path.name == "optim.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "fsync", full)
        with pytest.raises(CheckpointError) as caught:
            run(make(folder, checkpoint=EVERY), progress=False)
    assert "the disk is full" in helpful(caught) and "checkpoint 2 is kept" in helpful(caught)
    left = sorted(os.listdir(folder / "checkpoints"))
    assert left == ["step-00000000", "step-00000002"]  # the half-written one is gone, earlier ones are not
    assert all(checkpoint.problem(folder / "checkpoints" / name) is None for name in left)
    assert run(make(folder, checkpoint=EVERY), resume=True, progress=False).step == 6


def test_a_file_limit_of_the_system_while_saving(tmp_path: Path, make: Any) -> None:
    """The operating system itself refuses to write: the safetensors library's own error is understood too."""
    config = make(tmp_path / "r", checkpoint=EVERY)
    script = (
        "import resource, signal, sys\n"
        "from exnihilo.config import RunConfig\n"
        "from exnihilo.errors import ExNihiloError\n"
        "from exnihilo.train import run\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "try:\n"
        "    run(RunConfig.model_validate_json(sys.argv[1]), progress=False)\n"
        "except ExNihiloError as error:\n"
        "    print(error)\n"
        "    sys.exit(error.exit_code)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 0 and hasattr(signal, "SIGXFSZ")
    done = subprocess.run(
        [sys.executable, "-c", script, config.model_dump_json()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1, done.stderr
    assert "checkpoint of step" in done.stdout and "next:" in done.stdout
    assert not list((tmp_path / "r/checkpoints").glob(".writing-*"))


def test_another_configuration_is_refused_and_says_what_changed(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "r"
    run(make(folder), progress=False)
    before = content(folder)
    other = make(folder, optim=OptimConfig(lr=0.5), seed=4, steps=8)
    with pytest.raises(ConfigError) as caught:
        run(other, resume=True, progress=False)
    said = helpful(caught)
    assert "optim.lr: 0.02 -> 0.5" in said and "seed: 0 -> 4" in said and "--force" in said
    assert content(folder) == before
    assert run(other, resume=True, force=True).step == 8
    assert "optim.lr: 0.02 -> 0.5 (forced" in capsys.readouterr().err


def test_another_model_is_refused_even_if_forced(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    run(make(folder), progress=False)
    for other in (
        make(folder, model=ModelConfig(depth=2, width=32, context=32)),
        make(folder, codec=CodecConfig(kind="chars")),
    ):
        with pytest.raises(ConfigError, match="fit no other") as caught:
            run(other, resume=True, force=True, progress=False)
        assert helpful(caught)


def test_other_data_is_refused(make: Any, tmp_path: Path, corpus: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text(corpus.read_text())
    run(make(tmp_path / "r", data=str(mine)), progress=False)
    mine.write_text(corpus.read_text() + "\n\none more document that was not there")
    with pytest.raises(ConfigError, match="data has changed") as caught:
        run(make(tmp_path / "r", data=str(mine), steps=8), resume=True, progress=False)
    assert helpful(caught)
    assert (
        run(make(tmp_path / "r", data=str(mine), steps=8), resume=True, force=True, progress=False).step == 8
    )


def test_another_tokenizer_in_the_folder_is_refused(make: Any, tmp_path: Path) -> None:
    run(make(tmp_path / "r"), progress=False)
    run(make(tmp_path / "chars", codec=CodecConfig(kind="chars")), progress=False)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tmp_path / "chars" / name, tmp_path / "r" / name)
    with pytest.raises(CodecError) as caught:
        run(make(tmp_path / "r", steps=8), resume=True, progress=False)
    assert "the checkpoint was trained with" in helpful(caught)


def test_a_torn_metrics_file_is_mended(make: Any, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    run(make(folder), progress=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 7, "lo')
    run(make(folder, steps=8), resume=True, progress=False)
    steps = [
        r["step"]
        for r in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if r["kind"] == "train"
    ]
    assert steps == list(range(1, 9))
