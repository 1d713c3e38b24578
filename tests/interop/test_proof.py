"""Exports of encoders prove themselves, head by head, against a fresh model and against transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from exnihilo import codec as codecs
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import ModelError
from exnihilo.interop import hf
from exnihilo.interop.load import load
from exnihilo.interop.readout import ours, theirs
from exnihilo.model import build
from exnihilo.proof import HARD, export_run, import_folder

pytest.importorskip("transformers", reason="proofs against transformers need the extra 'hf'")


def _run(folder: Path, family: str, outputs: tuple[str, ...], crf: bool = False) -> None:
    codec = codecs.train(CodecConfig(kind="wordpiece", vocab_size=400, lowercase=True), list(HARD))
    labels = 3 if {"classes", "tags"} & set(outputs) else None
    config = ModelConfig(family=family, depth=2, width=32, heads=2, context=48, labels=labels, crf=crf)
    config = config.model_copy(update={"vocab_size": codec.vocab_size, "outputs": outputs})
    model = build(config, seed=1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    hf.save(model, codec, folder, objective={"objective": "mine", "facts": {"labels": ["a", "b", "c"]}})


@pytest.mark.parametrize(
    ("family", "outputs", "heads"),
    [
        ("bert", ("mlm", "next"), ["mlm", "next"]),
        ("bert", ("tags",), ["tags"]),
        ("bert", ("replaced", "generator"), ["embedding"]),
        ("modernbert", ("classes",), ["classes"]),
        ("modernbert", ("mlm", "next"), ["mlm"]),
    ],
)
def test_an_export_proves_every_head(
    family: str, outputs: tuple[str, ...], heads: list[str], tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    _run(run, family, outputs, crf="tags" in outputs)
    proof = export_run(run, to="hf", out=out, dtype=None)
    assert proof["proved"] and "greedy" not in proof["checks"]
    assert proof["checks"]["transformers_logits"]["heads"] == heads
    assert proof["checks"]["transformers_logits"]["max_difference"] <= 1e-4
    assert load(out).objective == {"objective": "mine", "facts": {"labels": ["a", "b", "c"]}}
    if "tags" in outputs:
        assert json.loads((out / "config.json").read_text())["id2label"] == {"0": "a", "1": "b", "2": "c"}
        assert load(out).model.heads["tags"].transitions.abs().max() > 0
    copied = import_folder(out, out=tmp_path / "copy")
    before, after = (ours(load(path).model, [2, 9, 8, 7, 3]) for path in (run, copied))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_tensor_that_transformers_does_not_find_is_said(tmp_path: Path) -> None:
    _run(tmp_path, "bert", ("span",))
    assert theirs(tmp_path)([2, 9, 3])["span"].shape == (3, 2)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["qa_outputs.bias"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="qa_outputs.bias"):
        theirs(tmp_path)
