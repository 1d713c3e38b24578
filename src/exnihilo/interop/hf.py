"""Hugging Face folders: config.json, generation_config.json, model.safetensors and the tokenizer, both ways::

    save(model, codec, "out")                  # transformers' AutoModelForCausalLM.from_pretrained("out")
    reads it model, codec = load("out")                 # so does this, and folders that transformers wrote

What a family's configuration and tensors are called there is in model/families/; this file knows the
format only. What cannot be obeyed is refused by name: a model type, an option, a tensor too many or
too few. Weights are read from safetensors alone, never from pickles. A decoder with attention sinks has a
model type of its own, which transformers does not know.

An encoder is written as the class of transformers that has its heads, with the names of its labels. What that
class has no room for is kept in ``exnihilo.safetensors`` beside it (config.json says what), so that this
project reads back the whole model; transformers reads the rest. With the head ``embedding`` the folder is
also one of sentence-transformers.

A decoder that was trained on conversations, or came with a ChatML template, is written as a chat model: the
template beside the tokenizer (chat_template.jinja, tokenizer_config.json), and a generation_config.json whose
eos ids are ``<|im_end|>`` and eos, so that Transformers' generate, vLLM and others stop where a reply ends.

Format: transformers 4.57 .. 5 (config.json has the words of both).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file

from exnihilo import codec as codecs
from exnihilo import log
from exnihilo.codec.base import Codec
from exnihilo.codec.chat import END, START, Chat, is_chatml
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.data.layouts import is_talk
from exnihilo.errors import ConfigError, ModelError
from exnihilo.interop import labels, sentence
from exnihilo.interop.files import read_json, write, write_json
from exnihilo.interop.tensors import (
    INDEX,
    WEIGHTS,
    from_hf_tensors,
    leftover,
    read_as,
    read_file,
    read_tensors,
    to_hf,
    written_as,
)
from exnihilo.model import Model, build, resolve
from exnihilo.model.family import SINKS, Family, find, names
from exnihilo.model.model import fill_ties
from exnihilo.objective import registry

__all__ = [
    "INDEX",
    "WEIGHTS",
    "chat_of",
    "config_from_hf",
    "config_to_hf",
    "from_hf",
    "load",
    "read_tensors",
    "save",
    "to_hf",
]

MORE = "exnihilo.safetensors"
OBJECTIVE = "objective.json"
_WORDS = {"exnihilo": dict, "architectures": list, "layer_types": list, "rope_parameters": dict}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def save(
    model: Model,
    codec: Codec | None,
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    extra: Mapping[str, Any] | None = None,
    objective: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder that transformers reads; files appear whole or not at all.

    Args:
        model: all of it is written; tied weights once.
        codec: its tokenizer files and special ids are written too; None: weights and configuration alone.
        folder: made if absent; files of the same names are replaced.
        dtype: fp32, bf16, fp16 or a torch dtype; default: what the weights have.
        extra: JSON values that only this project reads, under the key "exnihilo" of config.json.
        objective: what the model was trained for, as in objective.json (``objective``, ``options``,
            ``facts``): names its labels in config.json, and is written beside it.

    Raises:
        ModelError: the folder cannot be written.
    """
    folder = Path(folder)
    kind = _dtype(dtype) if dtype is not None else next(model.parameters()).dtype
    state = model.state_dict(keep_vars=True)

    def ready(given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value.detach().to("cpu", kind).contiguous() for name, value in given.items()}

    tensors, more = ready(to_hf(model.config, state)), ready(leftover(model.config, state))
    ids = _ids(codec, find(model.config.family))
    chat = None if codec is None else chat_of(codec, model.config, objective)

    def weights(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
        try:
            save_file(dict(tensors), path, metadata={"format": "pt"})
        except SafetensorError as error:  # the library wraps what the disk says
            raise OSError(str(error)) from error

    config = {**config_to_hf(model.config, str(kind).removeprefix("torch.")), **ids}
    config |= labels.words(model.config, written_as(model.config), objective)
    config |= find(model.config.family).told(model.config, (objective or {}).get("options") or {})
    config["exnihilo"] = {"dropout": model.config.dropout, **_own(model.config, more), **(extra or {})}
    if codec is not None:
        template = chat.template if chat is not None and talks(objective) else None  # else the codec's own
        codec.save(folder, model_max_length=model.config.context, chat_template=template)
        if not model.config.segments:
            _without_segments(folder / "tokenizer_config.json")
    makers: dict[str, Callable[[Path], None]] = {WEIGHTS: lambda path: weights(tensors, path)}
    if more:
        makers[MORE] = lambda path: weights(more, path)
        log.say(f"transformers has no place for {labels.listed(more)}: kept in {folder / MORE}")
    if model.config.sinks:
        log.say(f"{folder}: attention sinks, which no class of transformers has: only this project reads it")
    if objective is not None:
        makers[OBJECTIVE] = write_json(dict(objective))
    options = (objective or {}).get("options") or {}
    for name, content in find(model.config.family).beside(model.config, options).items():
        makers[name] = write_json(content)
    if not find(model.config.family).encoder:
        stops = {} if chat is None else {"eos_token_id": chat.stops}
        makers["generation_config.json"] = write_json(ids | stops)
    if "embedding" in model.config.outputs:
        sentence.save(folder, model.config, objective)
    makers["config.json"] = write_json(config)  # last: a folder with a config.json is complete
    write(folder, makers)


def load(
    folder: str | Path, *, device: str | torch.device = "cpu", dtype: str | torch.dtype = torch.float32
) -> tuple[Model, Codec | None]:
    """A model in evaluation mode and, where tokenizer.json is there, its codec, from our folders or theirs.

    Args:
        folder: with config.json and model.safetensors, or shards and their index.
        device: where the model goes.
        dtype: what its weights become.

    Raises:
        ModelError: says which file, option or tensor is not as it should be.
    """
    folder = Path(folder)
    theirs = read_json(folder / "config.json")
    config, state = from_hf(theirs, read_tensors(folder))
    if (theirs.get("exnihilo") or {}).get("only_here"):
        state |= read_file(folder / MORE)
    model = build(config, device="meta")
    model.to_empty(device=device).to(_dtype(dtype))
    try:
        model.load_state_dict(fill_ties(model, state), strict=True)
    except RuntimeError as error:
        raise ModelError(
            f"{folder / MORE} does not fit config.json: {error}",
            expected="what was written with it",
            next="export the folder again",
        ) from error
    codec = None
    if (folder / "tokenizer.json").exists():
        codec = codecs.load(folder)
        if codec.vocab_size > (config.vocab_size or 0):
            raise ModelError(
                f"{folder}: the tokenizer has {codec.vocab_size} ids, the model {config.vocab_size}",
                expected="a tokenizer that belongs to the model",
                next="fetch or export the folder again",
            )
    elif find(config.family).marks:
        codec = codecs.train(CodecConfig(kind="marks"), ())
    return model.eval(), codec


def from_hf(
    theirs: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """Their configuration and tensors as `Model.load_state_dict` takes them, checked by name and shape. What
    ``exnihilo.safetensors`` holds is not among them."""
    return from_hf_tensors(theirs, state, config_from_hf(theirs))


def config_to_hf(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
    """config.json of a resolved configuration, special ids and labels left out."""
    config = resolve(config)
    family, architecture = find(config.family), written_as(config)
    # with sinks no class of transformers says the same: a name that it refuses is better than wrong numbers
    ending = SINKS if config.sinks else ""
    return {
        "architectures": [(architecture.name if architecture else family.architecture) + ending],
        "model_type": family.model_type + ending,
        **{theirs: getattr(config, ours) for theirs, ours in family.keys.items()},
        **family.fixed,
        **family.more(config),
        "initializer_range": 0.02,
        **({} if family.encoder else {"use_cache": True}),
        "torch_dtype": dtype,
        "dtype": dtype,
    }


def chat_of(codec: Codec, config: ModelConfig, objective: Mapping[str, Any] | None = None) -> Chat | None:
    """How a model's conversations are rendered; None: it was not taught any.

    Args:
        codec: its own template counts where it is ChatML.
        config: of the model.
        objective: what it was trained for, as in objective.json: one that reads conversations counts.

    Raises:
        CodecError: it was, and the codec cannot mark turns.
    """
    if find(config.family).encoder:
        return None
    lacking = codec.tokenizer.token_to_id(START) is None or codec.tokenizer.token_to_id(END) is None
    if lacking and (objective or {}).get("objective") == "rlvr":
        return None  # it continues plain documents
    return Chat(codec) if talks(objective) or is_chatml(codec.chat_template) else None


def talks(objective: Mapping[str, Any] | None) -> bool:
    """Whether what a model was trained for, as in objective.json, reads conversations."""
    name = (objective or {}).get("objective")
    return isinstance(name, str) and is_talk(registry.find(name).roles)


def _ids(codec: Codec | None, family: Family) -> dict[str, int | None]:
    """Special ids; an encoder's first and last tokens are [CLS] and [SEP]."""
    begin, end, pad = (None, None, None) if codec is None else (codec.bos_id, codec.eos_id, codec.pad_id)
    ids = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": pad}
    return ids | ({"cls_token_id": begin, "sep_token_id": end} if family.encoder else {})


def _without_segments(path: Path) -> None:
    """A model without segments refuses the column that a tokenizer for them would give it."""
    words = read_json(path)
    if "token_type_ids" in words.get("model_input_names", ()):
        words["model_input_names"] = [n for n in words["model_input_names"] if n != "token_type_ids"]
        write(path.parent, {path.name: write_json(words)})


def _own(config: ModelConfig, more: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration transformers has no words for; nothing of a decoder that predicts tokens."""
    if tuple(config.outputs) == ("tokens",) and not find(config.family).encoder and not config.inputs:
        return {}
    own: dict[str, Any] = {"outputs": list(config.outputs)}
    if config.inputs:
        own["inputs"] = {name: list(held) for name, held in config.inputs.items()}
    if config.labels is not None:
        own["labels"] = config.labels
    if config.crf:
        own["crf"] = True
    if config.compares:
        own["compares"] = True
    if config.straight is not None:
        own["straight"] = list(config.straight)
    if more:
        own["only_here"] = sorted(more)
    return own


def config_from_hf(theirs: Mapping[str, Any]) -> ModelConfig:
    """A resolved configuration from config.json; what cannot be obeyed is refused by name."""
    family = _family(theirs.get("model_type"))
    for key, kind in _WORDS.items():
        if theirs.get(key) is not None and not isinstance(theirs[key], kind):
            raise ModelError(
                f"config.json: {key} is {theirs[key]!r:.60}",
                expected="a list" if kind is list else "a JSON object",
                next="fetch or export the folder again",
            )
    if theirs.get("quantization_config"):
        raise ModelError("config.json: quantization_config is set", expected="weights that are not quantised")
    for key, value in family.fixed.items():
        if key in theirs and theirs[key] != value:
            raise ModelError(
                f"config.json: {key} is {theirs[key]!r}",
                expected=f"{value!r}: family {family.name} obeys no other",
                next="use a model without it",
            )
    own = theirs.get("exnihilo") or {}
    found = {**family.defaults, **{key: theirs[key] for key in family.keys if theirs.get(key) is not None}}
    _check_keys(found, family)
    fields = {family.keys[key]: value for key, value in found.items()}
    fields["sinks"] = str(theirs.get("model_type")).endswith(SINKS)
    read = dict(theirs)
    if "dropout" in own:  # written here: theirs then says less
        fields["dropout"] = own["dropout"]
        if own.get("inputs"):
            fields["inputs"] = own["inputs"]
        if not family.encoder:
            read["attention_dropout"] = 0.0
    fields |= labels.fields(theirs, read_as(theirs, family, ()))
    try:
        fields |= {k: v for k, v in family.read(read).items() if k not in fields}
        return resolve(ModelConfig(family=family.name, **fields))
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"config.json: {first['loc'][0]}: {first['msg']}") from error
    except ConfigError as error:
        raise ModelError(f"config.json contradicts itself: {error.given}", expected=error.expected) from error


def _check_keys(found: Mapping[str, Any], family: Family) -> None:
    """Sizes are there, and are numbers."""
    for key, field in family.keys.items():
        if key not in found and key not in family.optional:
            raise ModelError(f"config.json has no {key!r}", expected=f"what {family.model_type} needs")
        whole = field not in ("tied", "norm_eps")
        if key in found and whole and (isinstance(found[key], bool) or not isinstance(found[key], int)):
            raise ModelError(f"config.json: {key} is {found[key]!r}", expected="a whole number")


def _family(model_type: Any) -> Family:
    known = {find(name).model_type: find(name) for name in names()}
    known |= {f.model_type + SINKS: f for f in known.values() if f.sinks is not None}
    if model_type not in known:
        raise ModelError(
            f"config.json: model_type is {model_type!r}",
            expected=f"one of {', '.join(sorted(known))}",
            next="a family is one file in model/families/: see docs/models.md",
        )
    return known[model_type]


def _dtype(name: str | torch.dtype) -> torch.dtype:
    if isinstance(name, torch.dtype):
        return name
    if name not in _DTYPES:
        raise ConfigError(f"unknown dtype {name!r}", expected=f"one of {', '.join(_DTYPES)}")
    return _DTYPES[name]
