"""A run is read in whatever state it is; what is broken is named, never used."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from exnihilo import codec as codecs
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import CheckpointError, CodecError, ExNihiloError, ModelError
from exnihilo.infer import generate
from exnihilo.interop import hf
from exnihilo.interop.load import load
from exnihilo.model import Model, build

CODEC = codecs.train(CodecConfig(kind="bytes"), ["text"])


def made(seed: int, vocab: int = CODEC.vocab_size) -> Model:
    return build(
        ModelConfig(depth=1, width=16, heads=2, mlp_width=16, vocab_size=vocab, context=32), seed=seed
    )


def checkpoint(run: Path, step: int, tied_name: str = "front.tokens.weight", **seeds: int) -> Path:
    """checkpoints/step-N of models by file stem, as training writes it: a tied matrix once."""
    path = run / "checkpoints" / f"step-{step:08d}"
    path.mkdir(parents=True)
    files = {}
    for stem, seed in seeds.items():
        state = dict(made(seed).named_parameters())
        state[tied_name] = state.pop("front.tokens.weight")
        file = path / f"{stem}.safetensors"
        save_file({k: v.detach().clone() for k, v in state.items()}, file)
        data = file.read_bytes()
        files[file.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps({"step": step, "files": files}))
    (run / "model.json").write_text(json.dumps(made(0).config.model_dump(mode="json")))
    CODEC.save(run)
    return path


def same(model: Model, seed: int) -> bool:
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), made(seed).parameters(), strict=True))


def test_a_finished_run_is_its_root(tmp_path):
    checkpoint(tmp_path, 10, model=1)
    hf.save(made(2), CODEC, tmp_path, extra={"step": 10})
    found = load(tmp_path)
    assert same(found.model, 2) and found.path == tmp_path and not found.model.training
    assert found.codec.hash == CODEC.hash
    assert generate(found.model, found.codec, ["a"], max_new_tokens=2)[0].ids


def test_an_unfinished_run_is_its_newest_checkpoint(tmp_path):
    checkpoint(tmp_path, 9, model=1)
    newest = checkpoint(tmp_path, 10, model=2)
    found = load(str(tmp_path))
    assert same(found.model, 2) and found.path == newest
    assert same(load(tmp_path / "checkpoints" / "step-00000009").model, 1)
    assert found.model.heads["tokens"].weight is found.model.front.tokens.weight


@pytest.mark.parametrize("name", ["front.tokens.weight", "heads.tokens.weight"])
def test_a_tied_matrix_is_found_under_either_name(tmp_path, name):
    checkpoint(tmp_path, 1, tied_name=name, model=4)
    assert same(load(tmp_path).model, 4)


def test_averaged_weights_are_taken_where_there_are_some(tmp_path):
    checkpoint(tmp_path, 1, model=1, ema=5)
    assert same(load(tmp_path).model, 5)


def test_a_finished_run_that_goes_on_is_its_newest_checkpoint(tmp_path, capsys):
    hf.save(made(2), CODEC, tmp_path, extra={"step": 10})
    checkpoint(tmp_path, 12, model=3)
    assert same(load(tmp_path).model, 3)
    assert "resumed after step 10" in capsys.readouterr().err


def test_a_broken_checkpoint_is_named_and_passed_over(tmp_path, capsys):
    checkpoint(tmp_path, 1, model=1)
    broken = checkpoint(tmp_path, 2, model=2)
    weights = broken / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert same(load(tmp_path).model, 1)
    assert "step-00000002 is broken" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="SHA-256"):
        load(broken)
    weights.write_bytes(data[:-7])
    with pytest.raises(CheckpointError, match=f"{len(data) - 7} bytes of {len(data)}"):
        load(broken)
    (tmp_path / "checkpoints" / "step-00000001" / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match="no checkpoint of .* is whole"):
        load(tmp_path)


def test_what_is_no_run_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_text("x")
    empty = tmp_path / "empty"
    empty.mkdir()
    young = tmp_path / "young"
    (young / "checkpoints").mkdir(parents=True)
    for path, said in (
        (tmp_path / "absent", "does not exist"),
        (file, "is a file"),
        (empty, "holds no model"),
        (young, "no checkpoint yet"),
    ):
        with pytest.raises(ModelError, match=said) as caught:
            load(path)
        assert caught.value.expected and caught.value.next


def test_parts_that_are_missing_or_do_not_fit(tmp_path):
    checkpoint(tmp_path, 1, model=1)
    shape = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(json.dumps({**json.loads(shape), "width": 32, "head_dim": 16}))
    with pytest.raises(CheckpointError, match="does not fit"):
        load(tmp_path)
    (tmp_path / "model.json").write_text('{"depth": "many"}')
    with pytest.raises(ExNihiloError, match="model.json cannot be read"):
        load(tmp_path)
    (tmp_path / "model.json").unlink()
    with pytest.raises(ModelError, match="model.json"):
        load(tmp_path)
    (tmp_path / "model.json").write_text(shape)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CodecError, match="tokenizer.json"):
        load(tmp_path)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path):
    hf.save(made(1, vocab=100), None, tmp_path)
    CODEC.save(tmp_path)
    with pytest.raises(ExNihiloError, match="261 ids, the model 100"):
        load(tmp_path)
