"""Folders go both ways: the same logits in transformers and here, and refusals by name.

Key: B batch, T positions, V vocabulary
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import ModelError
from exnihilo.interop import hf
from exnihilo.model import Model, build, resolve
from exnihilo.model.family import find, names

transformers = pytest.importorskip("transformers", reason="parity needs the extra 'hf'")
transformers.utils.logging.disable_progress_bar()

VOCAB, TOLERANCE = 83, 1e-4
DECODERS = [name for name in names() if not find(name).encoder]
CASES = [(family, tied) for family in DECODERS for tied in (True, False)]


def config_of(family: str, tied: bool = True, **kw: Any) -> ModelConfig:
    own: dict[str, Any] = {"heads": 4}
    if find(family).grouped:
        own |= {"kv_heads": 2, "head_dim": 16, "rope_theta": 5000.0}
    given = {"family": family, "depth": 3, "width": 48, "context": 200, "tied": tied, **own, **kw}
    return resolve(ModelConfig(**given), VOCAB)


def stirred(config: ModelConfig) -> Model:
    model, g = build(config, seed=1), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return model.eval()


def theirs_of(family: str, tied: bool) -> Any:
    """A random model made by transformers, with every parameter stirred."""
    if family == "gpt2":
        given: dict[str, Any] = {"n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 200}
        given |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
        given |= {"bos_token_id": None, "eos_token_id": None}
    else:
        given = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16}
        given |= {"num_key_value_heads": 2, "intermediate_size": 100, "max_position_embeddings": 200}
        given |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        given |= {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}
    kind = {"gpt2": "GPT2", "llama": "Llama", "ministral": "Ministral", "qwen3": "Qwen3"}[family]
    config = getattr(transformers, f"{kind}Config")(vocab_size=VOCAB, tie_word_embeddings=tied, **given)
    torch.manual_seed(2)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


def logits(model: Model, **raw: Tensor) -> Tensor:
    with torch.no_grad():
        return model.heads["tokens"].logits(model(raw))


def compare(ours: Model, theirs: Any) -> None:
    """Plain, padded on either side, packed: |Δ| of logits at every position that counts."""
    g = torch.Generator().manual_seed(3)
    B, T = 3, 150
    tokens = torch.randint(VOCAB, (B, T), generator=g)
    with torch.no_grad():
        assert (logits(ours, tokens=tokens) - theirs(input_ids=tokens).logits).abs().max() <= TOLERANCE
        mask, doc = torch.ones_like(tokens), torch.zeros_like(tokens)
        pos = torch.arange(T).expand(B, T).clone()
        mask[0, :37], doc[0, :37] = 0, -1  # left
        pos[0] = (torch.arange(T) - 37).clamp(min=0)
        mask[1, 90:], doc[1, 90:] = 0, -1  # right
        out = theirs(input_ids=tokens, attention_mask=mask, position_ids=pos).logits
        padded = logits(ours, tokens=tokens, doc=doc, pos=pos)
        assert torch.isfinite(padded).all()
        assert ((padded - out).abs() * mask[..., None]).max() <= TOLERANCE
        lengths = [1, 70, 9, 64]  # packed: each document alone there, together here
        doc = torch.repeat_interleave(torch.arange(5), torch.tensor([*lengths, T - sum(lengths)]))
        doc[doc == 4] = -1
        pos = torch.cat([torch.arange(n) for n in (*lengths, T - sum(lengths))])
        packed = logits(ours, tokens=tokens[:1], doc=doc[None], pos=pos[None])[0]
        for i in range(4):
            alone = theirs(input_ids=tokens[:1, doc == i]).logits[0]
            assert (packed[doc == i] - alone).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_ours_in_transformers(family: str, tied: bool, tmp_path: Path) -> None:
    model = stirred(config_of(family, tied))
    hf.save(model, None, tmp_path)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info  # nothing missing, unexpected or of another shape
    assert type(theirs).__name__ == find(family).architecture and theirs.dtype == torch.float32
    compare(model, theirs.eval())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert (find(family).head in file.keys()) != tied
    again, codec = hf.load(tmp_path)
    assert codec is None and again.config == model.config and not again.training
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_theirs_here(family: str, tied: bool, tmp_path: Path) -> None:
    theirs = theirs_of(family, tied)
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")  # shards and an index
    assert (tmp_path / "model.safetensors.index.json").exists()
    model, _ = hf.load(tmp_path)
    assert model.config.tied is tied and model.config.norm_eps == (1e-5 if family == "gpt2" else 1e-6)
    compare(model, theirs)
    assert (model.heads["tokens"].weight is model.front.tokens.weight) is tied
    hf.save(model, None, tmp_path / "back")
    written = load_file(tmp_path / "back" / "model.safetensors")
    for name, value in theirs.state_dict().items():
        if name in written:
            assert torch.equal(written[name], value), name
    assert set(written) == set(theirs.state_dict()) - ({"lm_head.weight"} if tied else set())


def test_config_words_of_both_versions(tmp_path: Path) -> None:
    hf.save(stirred(config_of("qwen3")), None, tmp_path, extra={"objective": "causal_lm"})
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["torch_dtype"] == written["dtype"] == "float32"
    assert written["rope_theta"] == written["rope_parameters"]["rope_theta"] == 5000.0
    assert written["head_dim"] == 16 and written["model_type"] == "qwen3"
    assert written["architectures"] == ["Qwen3ForCausalLM"]
    assert written["exnihilo"]["objective"] == "causal_lm"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]  # nothing left aside
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert theirs.max_position_embeddings == 200 and theirs.tie_word_embeddings is True


def test_tokenizer_and_special_ids(tmp_path: Path) -> None:
    from exnihilo import codec as codecs

    codec = codecs.train(CodecConfig(kind="chars"), ["the cat sat on the mat"])
    model = build(config_of("qwen3", vocab_size=300))
    hf.save(model, codec, tmp_path)
    for file in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / file).read_text())
        assert written["eos_token_id"] == codec.eos_id and written["pad_token_id"] == codec.pad_id
    _, again = hf.load(tmp_path)
    assert again is not None and again.hash == codec.hash
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "the mat"
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == codec.encode(text)
    small = stirred(config_of("qwen3").model_copy(update={"vocab_size": 5}))
    hf.save(small, None, tmp_path)
    with pytest.raises(ModelError, match=rf"{codec.vocab_size} ids, the model 5"):
        hf.load(tmp_path)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_low_precision_export(dtype: str, tmp_path: Path) -> None:
    model = stirred(config_of("llama"))
    hf.save(model, None, tmp_path, dtype=dtype)
    name = {"bf16": "bfloat16", "fp16": "float16"}[dtype]
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == name
    tensors = load_file(tmp_path / "model.safetensors")
    assert all(t.dtype == getattr(torch, name) for t in tensors.values())
    again, _ = hf.load(tmp_path)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert b.dtype == torch.float32 and torch.equal(a.to(getattr(torch, name)).float(), b)


def test_dropout_survives_and_theirs_is_refused(tmp_path: Path) -> None:
    for family in DECODERS:
        hf.save(build(config_of(family, dropout=0.2)), None, tmp_path)
        assert hf.load(tmp_path)[0].config.dropout == 0.2
    written = {**hf.config_to_hf(config_of("qwen3")), "attention_dropout": 0.1}
    with pytest.raises(ModelError, match="attention_dropout is 0.1"):
        hf.config_from_hf(written)


def test_names_without_prefix_and_with_masks() -> None:
    """As the first GPT-2 checkpoints on the hub are."""
    model = stirred(config_of("gpt2"))
    state = {k.removeprefix("transformer."): v for k, v in hf.to_hf(model.config, model.state_dict()).items()}
    state["h.0.attn.bias"] = torch.ones(1, 1, 200, 200)
    config, ours = hf.from_hf(hf.config_to_hf(model.config), state)
    assert config == model.config
    assert all(torch.equal(ours[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("qwen3", {"model_type": "mamba"}, "model_type is 'mamba'"),
        ("qwen3", {"model_type": None}, "model_type is None"),
        ("qwen3", {"attention_bias": True}, "attention_bias is True"),
        ("qwen3", {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": None, "max_window_layers": 1},
            "layer_types",
        ),
        ("qwen3", {"layer_types": ["sliding_attention"]}, "sliding_attention"),
        ("qwen3", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 4.0}}, "rope_type is 'llama3'"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("gpt2", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"attn_pdrop": 0.5}, "dropout rates that differ"),
        ("gpt2", {"n_embd": "wide"}, "n_embd is 'wide'"),
        ("qwen3", {"num_key_value_heads": 3}, "kv_heads=3"),
        ("qwen3", {"num_hidden_layers": 0}, "depth"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(family: str, change: dict, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        hf.config_from_hf({**hf.config_to_hf(config_of(family)), **change})


def test_missing_keys_of_a_config_are_named() -> None:
    for family, key in (("qwen3", "hidden_size"), ("llama", "num_attention_heads"), ("gpt2", "n_layer")):
        given = hf.config_to_hf(config_of(family))
        del given[key]
        with pytest.raises(ModelError, match=key):
            hf.config_from_hf(given)


@pytest.mark.parametrize("family", DECODERS)
def test_wrong_tensors_are_named(family: str, tmp_path: Path) -> None:
    hf.save(stirred(config_of(family)), None, tmp_path)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    last = sorted(name for name in whole if "1" in name and name.endswith("weight"))[-1]
    broken = {
        "missing": {k: v for k, v in whole.items() if k != last},
        "unexpected": {**whole, "extra.weight": torch.zeros(2)},
        "shape": {**whole, last: torch.zeros(3, 5)},
    }
    for what, tensors in broken.items():
        save_file(tensors, path)
        name = "extra.weight" if what == "unexpected" else last
        with pytest.raises(ModelError, match=rf"{name}(.|\n)*" if what == "shape" else rf"{what} {name}"):
            hf.load(tmp_path)
    save_file({**whole, "lm_head.weight": whole[find(family).renames[0].theirs] + 1}, path)
    with pytest.raises(ModelError, match="tie_word_embeddings is true"):
        hf.load(tmp_path)
    save_file({**whole, "lm_head.weight": whole[find(family).renames[0].theirs].clone()}, path)
    assert hf.load(tmp_path)[0].config.tied  # stored twice, the same twice


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    hf.save(build(config_of("qwen3")), None, folder)
    return (folder / "model.safetensors").read_bytes()


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncated_weights(share: float, whole_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole_file[: int(share * len(whole_file))])
    with pytest.raises(ModelError, match="cut short or altered"):
        hf.read_tensors(tmp_path)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="config.json does not exist"):
        hf.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        hf.load(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match="is not JSON"):
        hf.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="holds a list"):
        hf.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(hf.config_to_hf(config_of("gpt2"))))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match=r"pytorch_model.bin(.|\n)*never loaded"):
        hf.load(tmp_path)
    index = {"weight_map": {"a": "../a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="a.safetensors does not exist"):
        hf.load(tmp_path)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = stirred(config_of("qwen3"))
    hf.save(old, None, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf, "save_file", full)
    with pytest.raises(ModelError, match=r"No space left(.|\n)*unchanged"):
        hf.save(build(config_of("gpt2")), None, tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot write"):
        hf.save(build(config_of("qwen3")), None, tmp_path / "file")
    if os.geteuid() != 0:
        (tmp_path / "shut").mkdir(mode=0o500)
        with pytest.raises(ModelError, match="Permission denied"):
            hf.save(build(config_of("qwen3")), None, tmp_path / "shut")
