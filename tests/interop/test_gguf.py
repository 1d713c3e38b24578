"""GGUF files hold the model: against Transformers, a literal q8_0, and llama.cpp where it is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.errors import ConfigError, MissingExtra, ModelError, UsageError
from exnihilo.interop import hf
from exnihilo.interop.load import Loaded, load
from exnihilo.interop.readout import ours
from exnihilo.model import build
from exnihilo.proof import HARD, export_run

gguf_package = pytest.importorskip("gguf", reason="needs the extra 'gguf'")

from exnihilo.infer import llamacpp  # noqa: E402
from exnihilo.interop import gguf, gguf_tokens  # noqa: E402
from exnihilo.interop.gguf_proof import prove_gguf  # noqa: E402

FAMILIES = ("qwen3", "llama", "gpt2")
BYTES = codecs.train(CodecConfig(kind="bytes"), ["text"])


def made(folder: Path, family: str = "qwen3", codec: Codec = BYTES, **more: Any) -> Loaded:
    """A small decoder with weights that are far from equal."""
    config = ModelConfig(
        **{
            **{"family": family, "depth": 2, "width": 64, "heads": 4, "mlp_width": 96, "context": 64},
            **{"kv_heads": 4 if family == "gpt2" else 2, "vocab_size": codec.vocab_size},
            **more,
        }
    )
    model, generator = build(config, seed=1), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            drawn = torch.randn(p.shape, generator=generator)
            p.copy_(drawn * 0.2) if p.ndim > 1 else p.add_(drawn * 0.1)
    return Loaded(model.eval(), codec, folder)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_back_is_the_model(family: str, tied: bool, tmp_path: Path) -> None:
    loaded = made(tmp_path, family, tied=tied)
    path = gguf.export_gguf(loaded, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model-f32.gguf"] == [path.name]
    state, words = gguf.read_gguf(path, loaded.model.config)
    source = loaded.model.state_dict()
    assert set(source) - set(state) == ({"heads.tokens.weight"} if tied else set())
    assert all(torch.equal(value, source[name]) for name, value in state.items())
    assert words["general.architecture"] == family and words["tokenizer.ggml.pre"] == "gpt-2"
    assert words[f"{family}.context_length"] == 64 and words["tokenizer.ggml.add_bos_token"] is True


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_reads_the_same_model(family: str, tmp_path: Path) -> None:
    """An independent reader: Transformers' own of GGUF files."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    loaded = made(tmp_path, family)
    path = gguf.export_gguf(loaded, tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path, gguf_file=path.name)
    # sizes that it does not read from the file
    lacking = {"n_positions": 64, "n_inner": 96, "vocab_size": BYTES.vocab_size}
    config.update({"qwen3": {"head_dim": 16}, "gpt2": lacking}.get(family, {}))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, config=config, dtype=torch.float32
    ).eval()
    ids = [1, *range(5, 45)]
    with torch.no_grad():
        logits = theirs(torch.tensor([ids])).logits[0]
    assert (logits - ours(loaded.model, ids)["tokens"]).abs().max() < 1e-4


def test_q8_0_is_the_format(tmp_path: Path) -> None:
    """A literal transcription: blocks of 32, scale = largest / 127 in float16, rounded to nearest."""
    loaded = made(tmp_path)
    state, words = gguf.read_gguf(gguf.export_gguf(loaded, tmp_path, "q8_0"), loaded.model.config)
    assert words["general.file_type"] == 7
    name = "trunk.blocks.1.mlp.up.weight"
    source = loaded.model.state_dict()[name].double().numpy()
    blocks = source.reshape(-1, 32)
    scale = np.abs(blocks).max(1, keepdims=True) / 127
    whole = np.round(blocks / scale)
    wanted = (whole * scale.astype(np.float16).astype(np.float64)).reshape(source.shape)
    assert np.abs(state[name].numpy() - wanted).max() < 1e-6
    assert np.abs(wanted - source).max() <= (scale * 0.5).max() * 1.1
    norm = "trunk.blocks.1.mlp_norm.weight"
    assert torch.equal(state[norm], loaded.model.state_dict()[norm])


def test_rows_that_blocks_do_not_fit_are_float16(tmp_path: Path) -> None:
    loaded = made(tmp_path, width=48, mlp_width=80)
    reader = gguf_package.GGUFReader(gguf.export_gguf(loaded, tmp_path, "q8_0"))
    kinds = {t.name: t.tensor_type.name for t in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == kinds["blk.0.ffn_down.weight"] == "F16"
    assert kinds["output_norm.weight"] == "F32"


def test_float16_that_would_overflow_is_refused(tmp_path: Path) -> None:
    loaded = made(tmp_path)
    with torch.no_grad():
        dict(loaded.model.named_parameters())["trunk.blocks.0.mlp.up.weight"][0, 0] = 1e6
    with pytest.raises(ModelError, match="1e\\+06"):
        gguf.export_gguf(loaded, tmp_path / "out", "f16")
    assert list((tmp_path / "out").iterdir()) == []


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_pairs_and_halves_are_inverse(heads: int, half: int, inputs: int) -> None:
    value = torch.arange(heads * half * 2 * inputs).reshape(-1, inputs)
    turned = gguf.pairs(value, heads)
    assert torch.equal(gguf.halves(turned, heads), value)
    for h in range(heads):  # what is turned together, i and i + half, stands together
        at = h * 2 * half
        for i in range(half):
            assert torch.equal(turned[at + 2 * i], value[at + i])
            assert torch.equal(turned[at + 2 * i + 1], value[at + half + i])


def test_what_llamacpp_has_no_name_for_is_refused(tmp_path: Path) -> None:
    pieces = codecs.train(CodecConfig(kind="wordpiece", vocab_size=60, lowercase=True), ["a b c"])
    encoder = build(ModelConfig(family="bert", depth=1, width=32, heads=2, context=16, vocab_size=60), seed=0)
    with pytest.raises(ModelError, match="encoder"):
        gguf.export_gguf(Loaded(encoder, pieces, tmp_path), tmp_path)
    decoder = made(tmp_path, vocab_size=60).model
    with pytest.raises(ModelError, match="wordpiece"):
        gguf.export_gguf(Loaded(decoder, pieces, tmp_path), tmp_path)
    with pytest.raises(ConfigError, match="q4"):
        gguf.export_gguf(made(tmp_path), tmp_path, "q4")
    value = made(tmp_path, outputs=("value",))
    with pytest.raises(ModelError, match="predicts no tokens"):
        gguf.export_gguf(value, tmp_path)
    assert list(tmp_path.glob("*.gguf")) == []


def test_a_file_that_is_cut_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    loaded = made(tmp_path)
    path = gguf.export_gguf(loaded, tmp_path)
    with pytest.raises(ModelError, match="does not fit"):
        gguf.read_gguf(path, made(tmp_path, depth=1).model.config)
    cut = tmp_path / "cut.gguf"
    for size in (0, 3, 100, path.stat().st_size // 2):
        cut.write_bytes(path.read_bytes()[:size])
        with pytest.raises(ModelError, match="cannot be read|does not fit"):
            gguf.read_gguf(cut, loaded.model.config)


def _foreign(pre: Any, normalizer: Any = None, **model: Any) -> Codec:
    """A byte-level tokenizer as it would come with an imported model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(list(HARD), trainer)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    from exnihilo.codec.pretrained import PretrainedBytes

    return PretrainedBytes(tokenizer, {"eos": "<|endoftext|>"})


def _split(pattern: str, regex: bool = False) -> Any:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex),
        ]
    )


def _cases() -> dict[str, Codec]:
    from tokenizers import normalizers, pre_tokenizers

    level = pre_tokenizers.ByteLevel
    patterns = list(gguf_tokens._PATTERNS)
    digits = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), level(add_prefix_space=False)]
    )
    return {
        "gpt-2": _foreign(level(add_prefix_space=False)),
        "qwen2": _foreign(_split(patterns[0]), normalizers.NFC()),
        "dbrx": _foreign(_split(patterns[2])),
        "llama-bpe": _foreign(_split(patterns[2]), ignore_merges=True),
        "smollm": _foreign(digits),
    }


def test_the_pre_tokenizer_is_found_by_what_it_is() -> None:
    for name, codec in _cases().items():
        words = gguf_tokens.vocabulary(codec, codec.vocab_size + 2)
        assert (words.model, words.pre) == ("gpt2", name)
        assert words.kinds[0] == gguf_tokens.CONTROL and words.kinds[-1] == gguf_tokens.UNUSED
        assert words.ids["eos"] == 0 and not words.begins and "bos" not in words.ids
        assert len(words.pieces) == len(words.kinds) == len(set(words.pieces)) == codec.vocab_size + 2
        assert bool(words.loses) == (name == "qwen2")


def test_other_pre_tokenizers_are_refused_by_name() -> None:
    from tokenizers import pre_tokenizers

    level = pre_tokenizers.ByteLevel
    for pre in (level(add_prefix_space=True), _split(r"\w+|\W+"), _split(r"\w+", regex=True)):
        with pytest.raises(ModelError, match="pre-tokenizer"):
            gguf_tokens.vocabulary(_foreign(pre), 400)


def test_the_command_writes_and_proves(tmp_path: Path) -> None:
    loaded = made(tmp_path)
    hf.save(loaded.model, loaded.codec, tmp_path / "run", objective={"objective": "causal_lm"})
    words = [
        "export",
        tmp_path / "run",
        "--to",
        "gguf",
        "--dtype",
        "q8_0",
        "--out",
        tmp_path / "out",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "exnihilo", *map(str, words)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout.splitlines()[-1])
    assert proof["proved"] and proof["dtype"] == "q8_0" and proof["format"] == "gguf"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md",
        "model-q8_0.gguf",
        "proof.json",
    ]
    with pytest.raises(ConfigError, match="bf16"):
        export_run(tmp_path / "run", to="gguf", out=tmp_path / "b", dtype="bf16")
    with pytest.raises(UsageError, match="onnx2"):
        export_run(tmp_path / "run", to="onnx2", out=tmp_path / "b", dtype=None)
    assert not (tmp_path / "b").exists()


def test_a_proof_notices_another_model(tmp_path: Path) -> None:
    loaded = made(tmp_path)
    path = gguf.export_gguf(loaded, tmp_path)
    assert prove_gguf(loaded, path, HARD[:3], HARD)["proved"]
    with torch.no_grad():
        dict(loaded.model.named_parameters())["trunk.blocks.1.mlp.up.weight"].mul_(1.5)
    proof = prove_gguf(loaded, path, HARD[:3], HARD)
    assert not proof["proved"] and not proof["checks"]["logits"]["held"]


def test_without_the_packages_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match="gguf"):
        gguf.export_gguf(made(tmp_path), tmp_path)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(MissingExtra, match="llamacpp"):
        llamacpp.LlamaFile(tmp_path / "x.gguf")


# --- with llama.cpp itself


def _file(codec: Codec, folder: Path, **more: Any) -> tuple[Loaded, llamacpp.LlamaFile]:
    pytest.importorskip("llama_cpp", reason="needs the extra 'llamacpp'")
    loaded = made(folder, codec=codec, **more)
    return loaded, llamacpp.LlamaFile(gguf.export_gguf(loaded, folder))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", gguf.KINDS)
def test_llamacpp_says_what_the_model_says(kind: str, family: str, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs the extra 'llamacpp'")
    loaded = made(tmp_path, family)
    proof = prove_gguf(loaded, gguf.export_gguf(loaded, tmp_path, kind), HARD[:6], HARD)
    assert proof["proved"], proof["lines"]
    assert set(proof["checks"]) == {
        "logits",
        "greedy",
        "llamacpp_tokenizer",
        "llamacpp_logits",
        "llamacpp_greedy",
    }
    if kind == "f32" and family != "gpt2":  # whose GELU is a table in float16 there
        assert proof["checks"]["llamacpp_greedy"]["equal"] == 6


@pytest.mark.parametrize("kind", ["bpe", "bytes", "chars"])
def test_llamacpp_gives_our_ids_for_any_text(kind: Any, tmp_path: Path) -> None:
    codec = codecs.train(CodecConfig(kind=kind, vocab_size=512), list(HARD) * 3)
    loaded, file = _file(codec, tmp_path)
    words = gguf_tokens.vocabulary(codec, codec.vocab_size)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.text(max_size=60) | st.lists(st.sampled_from(HARD), max_size=2).map("".join))
    def holds(text: str) -> None:
        if gguf_tokens.same_text(codec, words, text):
            ids = codec.encode(text)
            assert file.tokenize(text) == ids
            assert file.raw(ids).decode() == text

    holds()
    assert file.tokenize("a", begin=True)[0] == codec.bos_id
    assert file.tokenize("<|im_end|>", special=True) == [codec.token_id("<|im_end|>")]
    assert file.ends(codec.eos_id) and file.ends(codec.token_id("<|im_end|>"))


def test_llamacpp_gives_the_ids_of_imported_tokenizers(tmp_path: Path) -> None:
    for name, codec in _cases().items():
        _, file = _file(codec, tmp_path / name)
        words = gguf_tokens.vocabulary(codec, codec.vocab_size)
        for text in HARD:
            if gguf_tokens.same_text(codec, words, text):
                assert file.tokenize(text) == codec.encode(text), (name, text)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs the extra 'llamacpp'")
    path = gguf.export_gguf(made(tmp_path), tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelError, match="does not read"):
        llamacpp.LlamaFile(path)
    with pytest.raises(ModelError, match="is no file"):
        llamacpp.LlamaFile(tmp_path)


def test_an_imported_folder_goes_on_to_gguf(tmp_path: Path) -> None:
    """Import, then export: what the first writes is what the second reads."""
    from exnihilo.proof import import_folder

    loaded = made(tmp_path, "llama")
    hf.save(loaded.model, loaded.codec, tmp_path / "theirs")
    run = import_folder(tmp_path / "theirs", out=tmp_path / "run")
    state, _ = gguf.read_gguf(gguf.export_gguf(load(run), tmp_path / "out"), loaded.model.config)
    assert torch.equal(state["front.tokens.weight"], loaded.model.front.tokens.weight)
