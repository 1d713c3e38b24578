"""GGUF files, for llama.cpp and what is built on it: written from a decoder, and read back.

::

    path = export_gguf(load("runs/books"), Path("out"), kind="q8_0")     # out/model-q8_0.gguf
    state, words = read_gguf(path, loaded.model.config)                  # tensors under our names

`gguf_proof.prove_gguf` holds a file against the model it was written from.

Kinds: ``f32``; ``f16``: matrices in half precision; ``q8_0``: matrices in blocks of 32 whole numbers with a
scale each (8.5 bits a weight). Norms, biases and learned positions stay f32, and so (as f16) does a matrix
whose rows are no multiple of 32 long. An output matrix that is the embedding is written once.

Llama's queries and keys are turned in pairs of neighbours there, here and in Transformers in halves: their
rows are put in that order. Qwen3's are turned in halves in llama.cpp too.

Decoders with the head ``tokens`` go: families qwen3, llama and gpt2. Needs the extra ``gguf``.

References: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, llama.cpp's src/llama-arch.cpp

Key: O outputs of a matrix, I its inputs
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from exnihilo import log
from exnihilo.config import ModelConfig
from exnihilo.errors import ConfigError, MissingExtra, ModelError
from exnihilo.interop import hf
from exnihilo.interop.files import write
from exnihilo.interop.gguf_tokens import Words, vocabulary
from exnihilo.interop.load import Loaded
from exnihilo.model.family import find

KINDS = ("f32", "f16", "q8_0")
_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}
_BLOCK = 32  # weights of a row that share a scale in q8_0


class Layer(NamedTuple):
    """A tensor of a file: its name there, ours (put together along the outputs), and its heads if its rows
    are put in pairs."""

    theirs: str
    ours: tuple[str, ...]
    heads: int = 0


def export_gguf(loaded: Loaded, out: Path, kind: str = "f32") -> Path:
    """Write ``out/model-KIND.gguf``, whole or not at all; returns its path. Nothing is proved yet.

    Args:
        loaded: a decoder with its tokenizer.
        out: a folder; made if absent.
        kind: f32, f16 or q8_0.

    Raises:
        ModelError: a model or tokenizer that llama.cpp has no name for, or a folder that cannot be written.
        MissingExtra: the package gguf is not installed.

    >>> export_gguf(load("runs/books"), Path("out")).name       # doctest: +SKIP
    'model-f32.gguf'
    """
    if kind not in KINDS:
        raise ConfigError(f"a GGUF file of kind {kind!r}", expected="one of " + ", ".join(KINDS))
    gguf = package()
    config = loaded.model.config
    check(config)
    assert config.vocab_size is not None
    words = vocabulary(loaded.codec, config.vocab_size)
    if words.loses:
        log.say(f"llama.cpp reads some texts differently: {words.loses}")
    path = out / f"model-{kind}.gguf"
    state = {name: value.detach().float().cpu() for name, value in loaded.model.state_dict().items()}
    dropped = sorted({n.split(".")[1] for n in state if n.startswith("heads.")} - {"tokens"})
    if dropped:
        log.say(f"a GGUF file has no place for the head {', '.join(dropped)}: left out")

    def make(aside: Path) -> None:
        writer = gguf.GGUFWriter(str(aside), config.family)
        try:
            _about(writer, loaded, kind, words)
            for name, value in _tensors(config, state):
                _add(gguf, writer, name, value, kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()

    write(out, {path.name: make})
    return path


def package() -> Any:
    """The package gguf.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return import_module("gguf")
    except ImportError as error:
        raise MissingExtra.of("gguf", "gguf") from error


def check(config: ModelConfig) -> None:
    """Refuse what llama.cpp has no name for.

    Raises:
        ModelError: an encoder, a family that is not written here, or a model that predicts no tokens.
    """
    if find(config.family).encoder:
        raise ModelError(
            f"{config.family} is an encoder",
            expected="a decoder (llama.cpp has no place for an encoder's heads)",
            next="exnihilo export RUN --to onnx, or --to hf",
        )
    if config.family not in _NAMES:
        raise ModelError(
            f"family {config.family!r} has no counterpart in llama.cpp here",
            expected="one of " + ", ".join(_NAMES),
            next="exnihilo export RUN --to hf",
        )
    if config.inputs:
        raise ModelError(
            f"this model reads {', '.join(config.inputs)}, for which a GGUF file has no place here",
            expected="a model of text",
            next="exnihilo export RUN --to hf",
        )
    yarn = config.yarn
    plain = yarn is None or (yarn.beta_fast, yarn.beta_slow) == (32.0, 1.0)
    usual = yarn is None or abs((yarn.attention or 0.0) - 0.1 * math.log(yarn.factor) - 1) < 1e-6
    for has, what in (
        (config.window is not None, "local layers"),
        (config.sinks, "attention sinks"),
        (not plain or not usual, "YaRN with values of its own"),
    ):
        if has:
            raise ModelError(
                f"this model has {what}, for which a GGUF file of its family has no place",
                expected="layers that all see everything, plain rotary positions or YaRN's usual values",
                next="exnihilo export RUN --to hf",
            )
    if "tokens" not in config.outputs:
        raise ModelError(
            f"this model predicts no tokens: its heads are {', '.join(config.outputs)}",
            expected="a language model",
            next="exnihilo export RUN --to hf",
        )


def read_gguf(path: Path, config: ModelConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file that was written from a model of this shape, in float32 under our names, and
    what the file says beside them.

    Raises:
        ModelError: it is no GGUF file, cut short, or of another shape.
    """
    gguf = package()
    try:
        reader = gguf.GGUFReader(str(path))
        found = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
        words = {name: entry.contents() for name, entry in reader.fields.items()}
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}", expected="a whole GGUF file", next="export it again"
        ) from error
    listed = layers(config)
    names = {layer.theirs for layer in listed}
    if set(found) != names:
        odd = sorted(set(found) ^ names)
        raise ModelError(f"{path} does not fit: {', '.join(odd[:4])}", expected=f"{len(names)} tensors")
    state: dict[str, Tensor] = {}
    for layer in listed:
        value = torch.from_numpy(np.array(found[layer.theirs], np.float32))
        if layer.heads:
            value = halves(value, layer.heads)
        state.update(zip(layer.ours, value.chunk(len(layer.ours)), strict=True))
    return state, words


def layers(config: ModelConfig) -> list[Layer]:
    """Every tensor of a file for a model of this shape."""
    pairs = _NAMES[config.family]
    out = [Layer("token_embd.weight", ("front.tokens.weight",))]
    if find(config.family).positions == "learned":
        out.append(Layer("position_embd.weight", ("front.positions.weight",)))
    ends = ("weight", "bias") if find(config.family).bias else ("weight",)
    out += [Layer(f"output_norm.{end}", (f"trunk.norm.{end}",)) for end in ends]
    if not config.tied:
        out.append(Layer("output.weight", ("heads.tokens.weight",)))
    turned = {"attn_q": config.heads, "attn_k": config.kv_heads} if config.family == "llama" else {}
    for i in range(config.depth):
        for theirs, ours in pairs.items():
            for end in ends:
                names = tuple(f"trunk.blocks.{i}.{name}.{end}" for name in ours)
                out.append(Layer(f"blk.{i}.{theirs}.{end}", names, turned.get(theirs) or 0))
    return out


_ROTARY = {
    "attn_norm": ("attention_norm",),
    "attn_q": ("attention.q",),
    "attn_k": ("attention.k",),
    "attn_v": ("attention.v",),
    "attn_output": ("attention.o",),
    "ffn_norm": ("mlp_norm",),
    "ffn_gate": ("mlp.gate",),
    "ffn_up": ("mlp.up",),
    "ffn_down": ("mlp.down",),
}
_NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "llama": _ROTARY,
    "qwen3": {**_ROTARY, "attn_q_norm": ("attention.q_norm",), "attn_k_norm": ("attention.k_norm",)},
    "gpt2": {
        "attn_norm": ("attention_norm",),
        "attn_qkv": ("attention.q", "attention.k", "attention.v"),
        "attn_output": ("attention.o",),
        "ffn_norm": ("mlp_norm",),
        "ffn_up": ("mlp.up",),
        "ffn_down": ("mlp.down",),
    },
}


def pairs(value_OI: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys in llama.cpp's order for Llama: what is turned together stands together.

    >>> pairs(torch.tensor([[0.0], [1.0], [2.0], [3.0]]), 1)[:, 0].tolist()     # halves (0, 1), (2, 3)
    [0.0, 2.0, 1.0, 3.0]
    """
    O, I = value_OI.shape  # noqa: E741
    return value_OI.reshape(heads, 2, O // heads // 2, I).transpose(1, 2).reshape(O, I)


def halves(value_OI: Tensor, heads: int) -> Tensor:
    """The inverse of `pairs`.

    >>> halves(torch.tensor([[0.0], [2.0], [1.0], [3.0]]), 1)[:, 0].tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    O, I = value_OI.shape  # noqa: E741
    return value_OI.reshape(heads, O // heads // 2, 2, I).transpose(1, 2).reshape(O, I)


def _tensors(config: ModelConfig, state: Mapping[str, Tensor]) -> Iterator[tuple[str, np.ndarray]]:
    for layer in layers(config):
        value = torch.cat([state[name] for name in layer.ours])
        if layer.heads:
            value = pairs(value, layer.heads)
        yield layer.theirs, np.ascontiguousarray(value.numpy())


def _add(gguf: Any, writer: Any, name: str, value: np.ndarray, kind: str) -> None:
    """One tensor in the precision that its kind has there."""
    types = gguf.GGMLQuantizationType
    if kind == "f32" or value.ndim < 2 or name == "position_embd.weight":
        writer.add_tensor(name, value.astype(np.float32))
    elif kind == "f16" or value.shape[-1] % _BLOCK:
        worst = float(np.abs(value).max(initial=0.0))
        if worst > float(np.finfo(np.float16).max):
            raise ModelError(
                f"{name} holds {worst:.3g}, which float16 cannot",
                expected="at most 65504",
                next="--dtype f32",
            )
        writer.add_tensor(name, value.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(value, types.Q8_0), raw_dtype=types.Q8_0)


def _about(writer: Any, loaded: Loaded, kind: str, words: Words) -> None:
    """Sizes and tokenizer."""
    c = loaded.model.config
    assert c.width and c.heads and c.kv_heads and c.head_dim and c.mlp_width and c.vocab_size and c.norm_eps
    writer.add_name(loaded.path.name)
    writer.add_file_type(_FILE_TYPES[kind])
    if kind == "q8_0":
        writer.add_quantization_version(2)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.width)
    writer.add_block_count(c.depth)
    writer.add_feed_forward_length(c.mlp_width)
    writer.add_head_count(c.heads)
    writer.add_vocab_size(c.vocab_size)
    if find(c.family).positions == "learned":
        writer.add_layer_norm_eps(c.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(c.norm_eps)
        writer.add_head_count_kv(c.kv_heads)
        writer.add_key_length(c.head_dim)
        writer.add_value_length(c.head_dim)
        writer.add_rope_dimension_count(c.head_dim)
        assert c.rope_theta is not None
        writer.add_rope_freq_base(c.rope_theta)
        if c.yarn is not None and c.yarn.original is not None:
            writer.add_rope_scaling_type(package().RopeScalingType.YARN)
            writer.add_rope_scaling_factor(c.yarn.factor)
            writer.add_rope_scaling_orig_ctx_len(c.yarn.original)
    _tokenizer(writer, loaded, words)


def _tokenizer(writer: Any, loaded: Loaded, words: Words) -> None:
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.pre)
    writer.add_token_list(words.pieces)
    writer.add_token_types(words.kinds)
    if words.scores:
        writer.add_token_scores(words.scores)
        writer.add_add_space_prefix(False)
    else:
        writer.add_token_merges(words.merges)
    for name, id in words.ids.items():
        getattr(writer, f"add_{name.replace('padding', 'pad')}_token_id")(id)
    writer.add_add_bos_token(words.begins)
    writer.add_add_eos_token(False)
    chat = hf.chat_of(loaded.codec, loaded.model.config, loaded.objective)
    template = (
        chat.template if chat is not None and hf.talks(loaded.objective) else loaded.codec.chat_template
    )
    if template:
        writer.add_chat_template(template)
