"""Folders that Transformers wrote become runs, proved on the folder itself; the rest is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig
from exnihilo.errors import ModelError, UsageError
from exnihilo.interop.load import load
from exnihilo.proof import HARD, import_folder

transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 32}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": (
        "Qwen3ForCausalLM",
        {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 64},
    ),
    "llama": (
        "LlamaForCausalLM",
        {**SMALL, "num_key_value_heads": 2, "intermediate_size": 64, "rope_theta": 500000.0},
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "resid_pdrop": 0.1},
    ),
    "bert": ("BertForMaskedLM", {**SMALL, "intermediate_size": 64}),
    "modernbert": ("ModernBertForMaskedLM", {**SMALL, "intermediate_size": 64, "pad_token_id": 0}),
}


def written(folder: Path, family: str, codec: Codec, **save: Any) -> Path:
    """A folder of Transformers' own making, weights at random."""
    name, options = FAMILIES[family]
    kind: Any = getattr(transformers, name)
    config = kind.config_class(vocab_size=codec.vocab_size, **options)
    kind(config).save_pretrained(folder, **save)
    codec.save(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizers() -> dict[bool, Codec]:
    return {
        False: codecs.train(CodecConfig(kind="bpe", vocab_size=300), list(HARD)),
        True: codecs.train(CodecConfig(kind="wordpiece", vocab_size=400, lowercase=True), list(HARD)),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_taken_and_proved(family: str, tokenizers: dict[bool, Codec], tmp_path: Path) -> None:
    source = written(tmp_path / "theirs", family, tokenizers["bert" in family], max_shard_size="20KB")
    assert len(list(source.glob("model-*.safetensors"))) > 1  # in shards
    run = import_folder(source, out=tmp_path / "run")
    proof = json.loads((run / "proof.json").read_text())
    assert proof["proved"] and proof["checks"]["source_logits"]["max_difference"] <= 1e-4
    assert load(run).model.config.family == family
    with pytest.raises(UsageError, match="not empty"):
        import_folder(source, out=run)


def test_the_rest_is_refused_by_name(tokenizers: dict[bool, Codec], tmp_path: Path) -> None:
    source = written(tmp_path / "theirs", "llama", tokenizers[False])
    config = source / "config.json"
    plain = json.loads(config.read_text())
    for change, words in (
        ({"model_type": "mistral"}, "mistral"),
        ({"model_type": None}, "None"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"num_hidden_layers": 3}, "missing"),
        ({"vocab_size": 77}, "shape"),
    ):
        config.write_text(json.dumps({**plain, **change}))
        with pytest.raises(ModelError, match=words):
            import_folder(source, out=tmp_path / "run")
    config.write_text(json.dumps(plain))
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickled weights"):
        import_folder(source, out=tmp_path / "run")
    with pytest.raises(UsageError, match="is no folder"):
        import_folder(config, out=tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="config.json does not exist"):
        import_folder(tmp_path / "empty", out=tmp_path / "run")
    assert not (tmp_path / "run").exists() and sorted(p.name for p in tmp_path.iterdir()) == [
        "empty",
        "theirs",
    ]


def test_a_folder_without_a_tokenizer_is_refused(tokenizers: dict[bool, Codec], tmp_path: Path) -> None:
    source = written(tmp_path / "theirs", "llama", tokenizers[False])
    (source / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer.json"):
        import_folder(source, out=tmp_path / "run")
