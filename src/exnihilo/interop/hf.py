"""Hugging Face folders: config.json, generation_config.json, model.safetensors and the tokenizer, both ways::

    save(model, codec, "out")                  # transformers' AutoModelForCausalLM.from_pretrained("out")
    reads it model, codec = load("out")                 # so does this, and folders that transformers wrote

What a family's configuration and tensors are called there is in model/families/; this file knows the
format only. What cannot be obeyed is refused by name: a model type, an option, a tensor too many or too
few. Weights are read from safetensors alone, never from pickles.

Format: transformers 4.57 .. 5 (config.json has the words of both).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec
from exnihilo.config import ModelConfig
from exnihilo.errors import ConfigError, ModelError
from exnihilo.interop.files import read_json, write, write_json
from exnihilo.model import Model, build, resolve
from exnihilo.model.family import Family, find, names

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def save(
    model: Model,
    codec: Codec | None,
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a folder that transformers reads; files appear whole or not at all.

    Args:
        model: its head "tokens" is written; tied weights once.
        codec: its tokenizer files and special ids are written too; None: weights and configuration alone.
        folder: made if absent; files of the same names are replaced.
        dtype: fp32, bf16, fp16 or a torch dtype; default: what the weights have.
        extra: JSON values that only this project reads, under the key "exnihilo" of config.json.

    Raises:
        ModelError: the folder cannot be written.
    """
    folder = Path(folder)
    kind = _dtype(dtype) if dtype is not None else next(model.parameters()).dtype
    state = to_hf(model.config, model.state_dict())
    tensors = {name: value.detach().to("cpu", kind).contiguous() for name, value in state.items()}
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if codec is not None:
        ids = {"bos_token_id": codec.bos_id, "eos_token_id": codec.eos_id, "pad_token_id": codec.pad_id}

    def weights(path: Path) -> None:
        try:
            save_file(tensors, path, metadata={"format": "pt"})
        except SafetensorError as error:  # the library wraps what the disk says
            raise OSError(str(error)) from error

    config = {**config_to_hf(model.config, str(kind).removeprefix("torch.")), **ids}
    config["exnihilo"] = {"dropout": model.config.dropout, **(extra or {})}
    if codec is not None:
        codec.save(folder, model_max_length=model.config.context)
    makers = {
        WEIGHTS: weights,
        "generation_config.json": write_json(ids),
        "config.json": write_json(config),  # last: a folder with a config.json is complete
    }
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
    model = build(config, device="meta")
    model.to_empty(device=device).to(_dtype(dtype))
    model.load_state_dict(state, strict=True)
    codec = None
    if (folder / "tokenizer.json").exists():
        codec = codecs.load(folder)
        if codec.vocab_size > (config.vocab_size or 0):
            raise ModelError(
                f"{folder}: the tokenizer has {codec.vocab_size} ids, the model {config.vocab_size}",
                expected="a tokenizer that belongs to the model",
                next="fetch or export the folder again",
            )
    return model.eval(), codec


def to_hf(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under their names and shapes. A tied output matrix is left out, as transformers does."""
    family = find(config.family)
    out: dict[str, Tensor] = {}
    for theirs, ours, transposed in _tensors(family, config):
        parts = [state[name] for name in ours]
        value = torch.cat(parts) if len(parts) > 1 else parts[0]
        out[theirs] = value.t() if transposed else value
    return out


def from_hf(theirs: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Their configuration and tensors as `Model.load_state_dict` takes them, checked by name and shape."""
    config = config_from_hf(theirs)
    family = find(config.family)
    state = {name: value for name, value in state.items() if not name.endswith(family.ignored)}
    first = family.renames[0].theirs
    if family.prefix and first not in state and first.removeprefix(family.prefix) in state:
        state = {k if k == family.head else family.prefix + k: v for k, v in state.items()}
    if config.tied:
        _check_tied(state.pop(family.head, None), state.get(first), family)
    expected = _tensors(family, config)
    known = {name for name, _, _ in expected}
    missing, unexpected = sorted(known - set(state)), sorted(set(state) - known)
    if missing or unexpected:
        said = {"missing": missing, "unexpected": unexpected}
        listed = "; ".join(f"{what} {_few(tensors)}" for what, tensors in said.items() if tensors)
        raise ModelError(
            f"tensors do not fit a {family.model_type} of {config.depth} layers: {listed}",
            expected=f"{len(known)} tensors, got {len(state)}",
            next="check config.json against the weights",
        )
    shapes = {name: p.shape for name, p in build(config, device="meta").state_dict().items()}
    out: dict[str, Tensor] = {}
    for name, ours, transposed in expected:
        value = state[name].t() if transposed else state[name]
        rows = [shapes[o][0] for o in ours]
        wanted = (sum(rows), *shapes[ours[0]][1:])
        if tuple(value.shape) != wanted:
            shown = tuple(reversed(wanted)) if transposed else wanted
            raise ModelError(
                f"{name} has shape {tuple(state[name].shape)}",
                expected=f"{shown}, from config.json",
                next="check config.json against the weights",
            )
        out.update(zip(ours, value.split(rows), strict=True))
    if config.tied:
        out["heads.tokens.weight"] = out["front.tokens.weight"]
    return config, out


def config_to_hf(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
    """config.json of a resolved configuration, special ids left out."""
    config = resolve(config)
    family = find(config.family)
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **{theirs: getattr(config, ours) for theirs, ours in family.keys.items()},
        **family.fixed,
        **family.more(config),
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": dtype,
        "dtype": dtype,
    }


def config_from_hf(theirs: Mapping[str, Any]) -> ModelConfig:
    """A resolved configuration from config.json; what cannot be obeyed is refused by name."""
    family = _family(theirs.get("model_type"))
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
    read = dict(theirs)
    if "dropout" in own:  # written here: theirs then says less
        fields["dropout"] = own["dropout"]
        read["attention_dropout"] = 0.0
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


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, on the CPU, from model.safetensors or from the shards of its index."""
    files = [folder / WEIGHTS]
    if not files[0].exists() and (folder / INDEX).exists():
        listed = read_json(folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise ModelError(f"{folder / INDEX} has no weight_map", expected="tensor names and their files")
        files = [folder / Path(str(name)).name for name in sorted(set(listed.values()))]
    out: dict[str, Tensor] = {}
    for file in files:
        if not file.exists():
            found = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
            raise ModelError(
                f"{file} does not exist; found: {', '.join(found) or 'nothing'}",
                expected=f"{WEIGHTS}, or shards with {INDEX}",
                next="save the weights as safetensors; pickled weights (.bin, .pt) are never loaded",
            )
        try:
            with safe_open(file, "pt") as reader:
                out |= {name: reader.get_tensor(name) for name in reader.keys()}
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} ({file.stat().st_size} bytes) is cut short or altered: {error}",
                expected="a whole safetensors file",
                next="fetch or export it again",
            ) from error
    return out


def _tensors(family: Family, config: ModelConfig) -> list[tuple[str, tuple[str, ...], bool]]:
    """(their name, our names, transposed) of every tensor in the file."""
    out: list[tuple[str, tuple[str, ...], bool]] = []
    for rule in family.renames:
        for i in range(config.depth) if "{i}" in rule.theirs else (0,):
            ours = tuple(name.format(i=i) for name in rule.ours)
            out.append((rule.theirs.format(i=i), ours, rule.transposed))
    if not config.tied:
        out.append((family.head, ("heads.tokens.weight",), False))
    return out


def _check_tied(head: Tensor | None, embedding: Tensor | None, family: Family) -> None:
    """Some writers store a tied matrix twice; that is fine as long as both are the same."""
    if head is not None and embedding is not None and not torch.equal(head, embedding):
        raise ModelError(
            f"tie_word_embeddings is true, but {family.head} differs from {family.renames[0].theirs}",
            expected="one matrix, or tie_word_embeddings false",
        )


def _family(model_type: Any) -> Family:
    known = {find(name).model_type: find(name) for name in names()}
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


def _few(items: list[str], n: int = 5) -> str:
    return ", ".join(items[:n]) + (f" and {len(items) - n} more" if len(items) > n else "")
