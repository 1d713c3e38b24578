"""ONNX files: onnxruntime gives the model's own numbers, alone and padded; odd models are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import ConfigError, ModelError
from exnihilo.infer.int8 import Int8Linear, int8
from exnihilo.infer.predict import Predictor
from exnihilo.interop import onnx
from exnihilo.interop.load import Loaded
from exnihilo.interop.readout import ours
from exnihilo.model import Model, build, resolve
from exnihilo.objective.embeddings import Embeddings
from exnihilo.proof import HARD, export_run

TEXTS = ["the cat sat on the mat", "a dog ran in the park", "hello, big world"] * 20
LABELLED = {"classes": 3, "tags": 3}


@pytest.fixture(scope="module")
def codec() -> Codec:
    return codecs.train(CodecConfig(kind="wordpiece", vocab_size=80), TEXTS)


def model_of(codec: Codec, family: str, *outputs: str, **more: Any) -> Model:
    labels = next((LABELLED[o] for o in outputs if o in LABELLED), None)
    if family == "modernbert":
        more = {"window": 8, **more}
    config = ModelConfig(
        family=family, depth=4, width=32, heads=2, context=90, outputs=outputs, labels=labels, **more
    )
    model = build(resolve(config, codec.vocab_size), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.2 if parameter.ndim > 1 else parameter + noise * 0.1)
    return model.eval()


CASES = [
    *(
        ("bert", (head,))
        for head in ("classes", "tags", "span", "mlm", "next", "value", "replaced", "embedding")
    ),
    ("bert", ("mlm", "next")),
    *(("modernbert", (head,)) for head in ("classes", "tags", "span", "mlm", "embedding")),
]


@pytest.mark.parametrize(("family", "outputs"), CASES, ids=lambda x: x if isinstance(x, str) else "+".join(x))
def test_onnxruntime_gives_the_models_numbers(
    codec: Codec, tmp_path: Path, family: str, outputs: tuple[str, ...]
) -> None:
    model = model_of(codec, family, *outputs)
    loaded = Loaded(model, codec, tmp_path, None)
    assert onnx.export_onnx(loaded, tmp_path) == tmp_path / onnx.FILE
    proof = onnx.prove_onnx(loaded, tmp_path, HARD[:6], HARD)
    assert proof["proved"], proof["lines"]
    assert proof["checks"]["padded"]["max_difference"] < 1e-4
    words = json.loads((tmp_path / "config.json").read_text())
    assert words["model_type"] == family and (tmp_path / "tokenizer.json").exists()


def test_rows_of_any_length_and_padding(codec: Codec, tmp_path: Path) -> None:
    """Against the model's own forward, whose masks are made in another way."""
    model = model_of(codec, "modernbert", "tags")
    onnx.export_onnx(Loaded(model, codec, tmp_path, None), tmp_path)
    call = onnx.session(tmp_path / onnx.FILE, threads=1)
    rng = np.random.default_rng(0)
    for lengths in ([1], [90], [5, 33, 90, 1]):
        tokens = rng.integers(0, codec.vocab_size, (len(lengths), max(lengths)))
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
        got = call(input_ids=tokens, attention_mask=mask)["logits"]
        assert np.isfinite(got).all()
        for b, n in enumerate(lengths):
            np.testing.assert_allclose(got[b, :n], ours(model, tokens[b, :n].tolist())["tags"], atol=1e-4)


def test_sentence_vectors_are_those_of_predict(codec: Codec, tmp_path: Path) -> None:
    for pooling in ("mean", "cls"):
        model = model_of(codec, "bert", "embedding")
        options = {"objective": "embeddings", "options": {"pooling": pooling}, "facts": {}}
        onnx.export_onnx(Loaded(model, codec, tmp_path, options), tmp_path)
        texts = ["the cat", "a dog ran in the park, hello"]
        objective = Embeddings(Embeddings.Config.model_validate({"pooling": pooling}), length=90)
        expected = [p["embedding"] for p in Predictor(model, codec, objective).predict(texts)]
        rows = [[codec.bos_id, *codec.encode(text), codec.eos_id] for text in texts]
        shape = (2, max(map(len, rows)))
        tokens, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for b, row in enumerate(rows):
            tokens[b, : len(row)], mask[b, : len(row)] = row, 1
        call = onnx.session(tmp_path / onnx.FILE)
        got = call(input_ids=tokens, attention_mask=mask, token_type_ids=np.zeros(shape, np.int64))
        np.testing.assert_allclose(got["sentence_embedding"], expected, atol=1e-5)


def test_a_crf_is_written_beside_the_scores(codec: Codec, tmp_path: Path) -> None:
    model = model_of(codec, "bert", "tags", crf=True)
    onnx.export_onnx(Loaded(model, codec, tmp_path, None), tmp_path)
    row = np.array([[codec.bos_id, 30, codec.eos_id]])
    found = onnx.session(tmp_path / onnx.FILE)(
        input_ids=row, attention_mask=np.ones_like(row), token_type_ids=np.zeros_like(row)
    )
    head: Any = model.heads["tags"]
    np.testing.assert_array_equal(found["transitions"], head.transitions.detach().numpy())
    np.testing.assert_array_equal(found["start_transitions"], head.start.detach().numpy())


def test_the_verb_proves_and_publishes(codec: Codec, tmp_path: Path) -> None:
    from exnihilo.interop import hf

    model = model_of(codec, "bert", "classes")
    facts = {"kind": "multiclass", "labels": ["a", "b", "c"]}
    what = {"objective": "sentence_classification", "options": {}, "length": 90, "facts": facts}
    hf.save(model, codec, tmp_path / "run", objective=what)
    proof = export_run(tmp_path / "run", to="onnx", out=tmp_path / "out", dtype="int8")
    assert proof["proved"] and proof["checks"]["int8"]["agreement"] >= onnx.INT8_AGREE
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.onnx", "model_int8.onnx", "proof.json", "README.md", "objective.json"} <= files
    assert proof["weights"]["model_int8.onnx"] < proof["weights"]["model.onnx"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]["1"] == "b"
    with pytest.raises(ConfigError, match="bf16"):
        export_run(tmp_path / "run", to="onnx", out=tmp_path / "more", dtype="bf16")


def test_a_false_graph_is_not_published(
    codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exnihilo.interop import hf, onnx_graph

    hf.save(model_of(codec, "bert", "classes"), codec, tmp_path / "run")
    monkeypatch.setattr(onnx_graph._Writer, "_hidden", lambda self: self.const("hidden", 0.0, np.float32))
    with pytest.raises(ModelError, match="padded"):
        export_run(tmp_path / "run", to="onnx", out=tmp_path / "out", dtype=None)
    assert not (tmp_path / "out").exists()


def test_decoders_are_refused_by_name(codec: Codec, tmp_path: Path) -> None:
    config = resolve(ModelConfig(family="qwen3", depth=1, width=32, heads=2), codec.vocab_size)
    with pytest.raises(ModelError, match="qwen3 is a decoder"):
        onnx.export_onnx(Loaded(build(config), codec, tmp_path, None), tmp_path)


def test_int8_linear_is_near_the_product_of_rounded_weights() -> None:
    """Weights within half a step of their row's scale; inputs within a step of 7 bits of their range."""
    torch.manual_seed(0)
    linear, x = torch.nn.Linear(64, 48), torch.randn(10, 64)
    with torch.no_grad():
        got, exact = Int8Linear(linear)(x), linear(x)
        weight_step = linear.weight.abs().amax(1) / 127
        input_step = (x.max() - x.min()) / 127
        bound = 0.5 * weight_step * x.abs().sum(1, keepdim=True) * 1.01
        bound = bound + input_step * (linear.weight.abs() + weight_step[:, None]).sum(1)
    assert ((got - exact).abs() <= bound).all()


def test_int8_leaves_the_model_as_it_was(codec: Codec) -> None:
    model = model_of(codec, "bert", "classes")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    row = [codec.bos_id, *codec.encode("the cat sat on the mat"), codec.eos_id]
    small, large = ours(int8(model), row)["classes"], ours(model, row)["classes"]
    assert torch.cosine_similarity(small, large, dim=0) > 0.99 and not torch.equal(small, large)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
