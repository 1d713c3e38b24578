"""Folders of encoders: labels, what transformers has no place for, old folders, refusals by name.

Key: V vocabulary, C labels
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file, save_file

from exnihilo import codec as codecs
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import ModelError
from exnihilo.interop import hf, labels
from exnihilo.interop.load import load
from exnihilo.model import Model, build, resolve
from exnihilo.model.family import find, names

V = 70
ENCODERS = [name for name in names() if find(name).encoder and not find(name).marks]  # of text
TEXTS = ["the cat sat on the mat", "a dog ran in the park", "hello, big world"] * 20


def config_of(family: str, *outputs: str, **kw: Any) -> ModelConfig:
    given: dict[str, Any] = {"family": family, "depth": 2, "width": 32, "heads": 2, "context": 40}
    labels = 3 if {"classes", "tags"} & set(outputs) else None
    return resolve(ModelConfig(**{**given, "outputs": outputs, "labels": labels, **kw}), V)


def made(config: ModelConfig) -> Model:
    model, g = build(config, seed=1), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return model.eval()


def same(a: Model, b: Model) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(v, right[k]) for k, v in left.items())


def written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda: "".join(capsys.readouterr())


# labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("multiclass", "single_label_classification"),
        ("binary", "single_label_classification"),
        ("multilabel", "multi_label_classification"),
    ],
)
def test_label_names_and_the_problem_are_written(kind: str, problem: str, tmp_path: Path) -> None:
    objective = {"objective": "sentence_classification", "options": {}, "length": 40}
    objective["facts"] = {"kind": kind, "labels": ["bad", "so so", "good"]}
    hf.save(made(config_of("bert", "classes")), None, tmp_path, objective=objective)
    config = written(tmp_path)
    assert config["id2label"] == {"0": "bad", "1": "so so", "2": "good"}
    assert config["label2id"] == {"bad": 0, "so so": 1, "good": 2} and config["problem_type"] == problem
    assert json.loads((tmp_path / "objective.json").read_text()) == objective
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert theirs.num_labels == 3 and theirs.id2label[2] == "good" and theirs.problem_type == problem


def test_regression_and_unnamed_labels(tmp_path: Path) -> None:
    facts = {"kind": "regression", "mean": 2.0, "std": 1.5}
    model = made(config_of("modernbert", "classes", labels=1))
    hf.save(model, None, tmp_path, objective={"objective": "pair_classification", "facts": facts})
    assert written(tmp_path)["problem_type"] == "regression" and len(written(tmp_path)["id2label"]) == 1
    hf.save(made(config_of("bert", "tags")), None, tmp_path)
    assert written(tmp_path)["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    assert "problem_type" not in written(tmp_path)
    hf.save(made(config_of("bert", "mlm")), None, tmp_path)
    assert not {"id2label", "label2id", "problem_type"} & set(written(tmp_path))


@pytest.mark.parametrize("family", ENCODERS)
def test_what_a_folder_of_transformers_is_for(family: str, tmp_path: Path) -> None:
    codec = codecs.train(CodecConfig(kind="wordpiece", vocab_size=60), TEXTS)
    for outputs, name in (
        (("classes",), "sentence_classification"),
        (("tags",), "token_tagging"),
        (("span",), "span_qa"),
        (("mlm",), "masked_lm"),
        (("embedding",), None),
    ):
        hf.save(made(config_of(family, *outputs)), codec, tmp_path)
        found = load(tmp_path).objective
        assert (found or {}).get("objective") == name
        if found and name in ("sentence_classification", "token_tagging"):
            assert found["facts"]["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert labels.objective({"architectures": ["LlamaForCausalLM"]}) is None
    assert labels.objective({}) is None


def test_the_objective_of_a_run_is_read(tmp_path: Path) -> None:
    codec = codecs.train(CodecConfig(kind="wordpiece", vocab_size=60), TEXTS)
    objective = {"objective": "token_tagging", "options": {"crf": True}, "length": 40}
    objective["facts"] = {"labels": ["O", "B-X", "I-X"]}
    model = made(config_of("bert", "tags", crf=True))
    step = tmp_path / "checkpoints" / "step-00000005"
    step.mkdir(parents=True)
    tensors = {n: p.detach().clone() for n, p in model.named_parameters()}
    save_file(tensors, step / "model.safetensors")
    import hashlib

    content = (step / "model.safetensors").read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (step / "manifest.json").write_text(json.dumps({"files": {"model.safetensors": entry}}))
    (tmp_path / "model.json").write_text(model.config.model_dump_json())
    codec.save(tmp_path)
    (tmp_path / "objective.json").write_text(json.dumps(objective))
    for path in (tmp_path, step):  # a native checkpoint: its heads are in model.json
        loaded = load(path)
        assert loaded.objective == objective and same(loaded.model, model)
        assert loaded.model.config.outputs == ("tags",) and loaded.model.config.crf
    hf.save(model, codec, tmp_path / "out", objective=objective)
    assert load(tmp_path / "out").objective == objective
    assert same(load(tmp_path / "out").model, model)


# what transformers has no place for ----------------------------------------------------------------------


@pytest.mark.parametrize("family", ENCODERS)
def test_a_crf_is_kept_beside_and_said(family: str, tmp_path: Path, said: Any) -> None:
    model = made(config_of(family, "tags", crf=True))
    hf.save(model, None, tmp_path)
    assert "transformers has no place for heads.tags.start, heads.tags.stop, heads.tags.transitions" in said()
    assert written(tmp_path)["exnihilo"]["only_here"] == [
        f"heads.tags.{x}" for x in ("start", "stop", "transitions")
    ]
    assert set(load_file(tmp_path / "exnihilo.safetensors")) == set(
        written(tmp_path)["exnihilo"]["only_here"]
    )
    assert same(hf.load(tmp_path)[0], model)
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    kind = getattr(transformers, written(tmp_path)["architectures"][0])
    theirs, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())  # the linear part is whole there
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        here = model.heads["tags"].logits(model({"tokens": tokens}))
        assert (theirs.eval()(input_ids=tokens).logits - here).abs().max() < 1e-4
    (tmp_path / "exnihilo.safetensors").unlink()
    with pytest.raises(ModelError, match=r"exnihilo.safetensors does not exist"):
        hf.load(tmp_path)


@pytest.mark.parametrize(
    ("family", "outputs", "name"),
    [
        ("bert", ("mlm", "next", "replaced"), "BertForPreTraining"),
        ("bert", ("replaced", "generator"), "BertModel"),
        ("bert", ("tokens",), "BertModel"),
        ("bert", ("mlm", "classes"), "BertForMaskedLM"),
        ("modernbert", ("mlm", "next"), "ModernBertForMaskedLM"),
        ("modernbert", ("replaced", "generator"), "ModernBertModel"),
    ],
)
@pytest.mark.parametrize("tied", [True, False])
def test_any_set_of_heads_comes_back(
    family: str, outputs: tuple[str, ...], name: str, tied: bool, tmp_path: Path
) -> None:
    model = made(config_of(family, *outputs, tied=tied))
    hf.save(model, None, tmp_path)
    assert written(tmp_path)["architectures"] == [name]
    again, _ = hf.load(tmp_path)
    assert again.config == model.config and same(again, model)
    assert (
        (again.front.tokens.weight is again.heads[outputs[0]].weight)
        if tied and "tokens" in outputs
        else True
    )


def test_a_folder_that_is_cut_or_altered(tmp_path: Path) -> None:
    hf.save(made(config_of("bert", "tags", crf=True)), None, tmp_path)
    more = tmp_path / "exnihilo.safetensors"
    whole = more.read_bytes()
    more.write_bytes(whole[:-40])
    with pytest.raises(ModelError, match="cut short or altered"):
        hf.load(tmp_path)
    save_file({"heads.tags.start": torch.zeros(3)}, more)
    with pytest.raises(ModelError, match=r"exnihilo.safetensors does not fit(.|\n)*transitions"):
        hf.load(tmp_path)


# old and foreign folders -----------------------------------------------------------------------------------


def _altered(folder: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any) -> None:
    if tensors is not None:
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")
    words = {k: v for k, v in {**written(folder), **config}.items() if v != "absent"}
    (folder / "config.json").write_text(json.dumps(words))


def test_the_first_folders_of_bert(tmp_path: Path) -> None:
    """gamma and beta, position ids, the tied matrix twice, and heads that config.json does not name."""
    model = made(config_of("bert", "mlm", "next"))
    hf.save(model, None, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
           for k, v in tensors.items()}  # fmt: skip
    old["bert.embeddings.position_ids"] = torch.arange(40)[None]
    old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    old["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
    _altered(tmp_path, old, architectures=["BertForMaskedLM"], exnihilo="absent", hidden_dropout_prob=0.1,
             attention_probs_dropout_prob=0.1)  # fmt: skip
    again, _ = hf.load(tmp_path)
    assert same(again, model) and again.config.outputs == ("mlm", "next") and again.config.dropout == 0.1
    old["cls.predictions.decoder.bias"] += 1
    _altered(tmp_path, old)
    with pytest.raises(ModelError, match=r"cls.predictions.decoder.bias differs from its twin"):
        hf.load(tmp_path)


def test_poolers_that_nobody_reads_or_that_are_not_there(tmp_path: Path, said: Any) -> None:
    tags, trunk = made(config_of("bert", "tags")), made(config_of("bert", "embedding"))
    hf.save(tags, None, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    more = {
        f"bert.pooler.dense.{x}": torch.zeros(32, 32)[: 32 if x == "weight" else 1].squeeze(0)
        for x in ("weight", "bias")
    }
    _altered(tmp_path, {**tensors, **more}, exnihilo="absent")
    assert same(hf.load(tmp_path)[0], tags)
    assert "left out: bert.pooler.dense.bias, bert.pooler.dense.weight" in said()
    hf.save(trunk, None, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "embeddings.word_embeddings.weight" in tensors  # as transformers saves a trunk: without prefix
    _altered(tmp_path, {k: v for k, v in tensors.items() if "pooler" not in k}, exnihilo="absent")
    again, _ = hf.load(tmp_path)
    assert "no pooler beside the trunk" in said() and again.pooler is not None
    assert torch.equal(again.front.tokens.weight, trunk.front.tokens.weight)


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("bert", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("bert", {"is_decoder": True}, "is_decoder is True"),
        (
            "bert",
            {"architectures": ["BertForMultipleChoice"]},
            r"BertForMultipleChoice(.|\n)*BertForQuestionAnswering",
        ),
        ("bert", {"hidden_dropout_prob": 0.3, "exnihilo": {}}, "dropout rates that differ"),
        ("bert", {"hidden_size": None}, "no 'hidden_size'"),
        ("bert", {"type_vocab_size": "two"}, "type_vocab_size is 'two'"),
        ("modernbert", {"norm_bias": True}, "norm_bias is True"),
        ("modernbert", {"classifier_pooling": "mean"}, "classifier_pooling is 'mean'"),
        ("modernbert", {"layer_types": ["sliding_attention"] * 2}, "a global one first"),
        ("modernbert", {"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ("modernbert", {"rope_scaling": {"factor": 2.0}}, "rope_scaling"),
        ("modernbert", {"local_attention": 1}, "window"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "'yarn'"),
        ("modernbert", {"mlp_dropout": 0.5, "exnihilo": {}}, "dropout rates that differ"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(family: str, change: dict, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        hf.config_from_hf({**hf.config_to_hf(config_of(family, "mlm")), **change})


@pytest.mark.parametrize("change", [{"num_labels": 4}, {"id2label": "absent", "num_labels": "many"}])
def test_label_counts_that_contradict(change: dict, tmp_path: Path) -> None:
    hf.save(made(config_of("bert", "classes")), None, tmp_path)
    _altered(tmp_path, exnihilo="absent", **change)
    with pytest.raises(ModelError, match="num_labels is"):
        hf.load(tmp_path)
    _altered(tmp_path, id2label={str(i): str(i) for i in range(9)}, num_labels="absent")
    with pytest.raises(ModelError, match=r"classifier.weight has shape \(3, 32\)"):
        hf.load(tmp_path)


@given(
    words=st.dictionaries(
        st.sampled_from(
            ["id2label", "num_labels", "architectures", "exnihilo", "layer_types", "rope_parameters"]
        ),
        st.none()
        | st.integers(-2, 5)
        | st.text(max_size=3)
        | st.lists(st.text(max_size=3) | st.integers(), max_size=3)
        | st.dictionaries(
            st.sampled_from(["0", "1", "outputs", "labels", "full_attention"]),
            st.integers() | st.text(max_size=3),
        ),
    )
)
@settings(max_examples=100, deadline=None)
def test_any_words_give_a_configuration_or_an_error_of_ours(words: dict) -> None:
    for family in ENCODERS:
        try:
            config = hf.config_from_hf({**hf.config_to_hf(config_of(family, "classes")), **words})
        except ModelError as error:
            assert error.given
        else:
            assert config.family == family and config.outputs


# tokenizer and sentence-transformers -----------------------------------------------------------------------


def test_the_tokenizer_gives_what_the_model_reads(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    codec = codecs.train(CodecConfig(kind="wordpiece", vocab_size=60), TEXTS)
    for family, columns in (("bert", 3), ("modernbert", 2)):
        hf.save(made(config_of(family, "classes")), codec, tmp_path)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
        batch = transformers.AutoTokenizer.from_pretrained(tmp_path)(
            ["the cat", "a dog"], ["sat on the mat", "ran"], padding=True, return_tensors="pt"
        )
        assert len(batch) == columns and model(**batch).logits.shape == (2, 3)
        config = written(tmp_path)
        assert config["pad_token_id"] == codec.pad_id and config["cls_token_id"] == codec.cls_id


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_folder_of_sentence_transformers(family: str, pooling: str, tmp_path: Path) -> None:
    codec = codecs.train(CodecConfig(kind="wordpiece", vocab_size=60), TEXTS)
    model = made(config_of(family, "embedding"))
    hf.save(model, codec, tmp_path, objective={"objective": "embeddings", "options": {"pooling": pooling}})
    modules = json.loads((tmp_path / "modules.json").read_text())
    assert [m["path"] for m in modules] == ["", "1_Pooling", "2_Normalize"]
    pooled = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert pooled["word_embedding_dimension"] == 32
    assert pooled["pooling_mode_mean_tokens"] is (pooling == "mean")
    assert pooled["pooling_mode_cls_token"] is (pooling == "cls")
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text())["max_seq_length"] == 40
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="not installed")
    texts = ["the cat sat", "a dog ran in the park"]
    vectors = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu").encode(texts)
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            hidden = model({"tokens": torch.tensor([[codec.bos_id, *codec.encode(text), codec.eos_id]])})[0]
        ours = torch.nn.functional.normalize(hidden.mean(0) if pooling == "mean" else hidden[0], dim=0)
        assert (ours - torch.tensor(vector)).abs().max() < 1e-5


def test_a_pooling_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"pooling is 'last'(.|\n)*mean, cls, max"):
        hf.save(
            made(config_of("bert", "embedding")), None, tmp_path, objective={"options": {"pooling": "last"}}
        )
