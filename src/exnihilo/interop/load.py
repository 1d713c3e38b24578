"""A model and its codec from a path, whatever state the training is in::

    loaded = load("runs/gpt")                                  # finished: the Hugging Face folder at its root
    loaded = load("runs/gpt")                                  # not finished: its newest whole checkpoint
    loaded = load("runs/gpt/checkpoints/step-00000100")        # that checkpoint
    loaded = load("some/hugging-face/folder")
    loaded.model, loaded.codec, loaded.path, loaded.objective

A finished run that was resumed reads as unfinished. A checkpoint holds weights under this project's own
names; the shape of the model is ``RUN/model.json`` (a resolved `ModelConfig`), the tokenizer
``RUN/tokenizer.json``. What a checkpoint's manifest says of a file is verified first.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from exnihilo import codec as codecs
from exnihilo import log
from exnihilo.codec.base import Codec
from exnihilo.config import ModelConfig
from exnihilo.errors import CheckpointError, CodecError, ModelError
from exnihilo.interop import adapters, hf, labels
from exnihilo.interop.files import read_json
from exnihilo.model import Model, build
from exnihilo.model.model import fill_ties

WEIGHTS = "model.safetensors"
AVERAGE = "ema.safetensors"
SHAPE = "model.json"
PREPROCESSOR = "preprocessor_config.json"
_EXPECTED = "a run folder, one of its checkpoints, or a Hugging Face folder"


@dataclass(frozen=True)
class Loaded:
    """What `load` found.

    Attributes:
        model: in evaluation mode.
        codec: its tokenizer.
        path: the folder the weights came from.
        objective: what it was trained for, as in objective.json: ``objective``, ``options``, ``length`` and
            ``facts``; for a folder of transformers what its class says; None where nothing says it.
    """

    model: Model
    codec: Codec
    path: Path
    objective: dict[str, Any] | None = None


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Loaded:
    """The model and codec of a run, a checkpoint or a Hugging Face folder, ready to use.

    Args:
        path: the folder.
        device: where the model goes.

    Raises:
        ModelError: the path is none of these, or there is nothing to load yet.
        CheckpointError: a checkpoint is cut short or altered.
        CodecError: no tokenizer, or one that does not fit the model.
    """
    path = Path(path)
    if not path.is_dir():
        what = f"{path} is a file" if path.exists() else f"{path} does not exist"
        raise ModelError(
            what, expected=_EXPECTED, next="check the path; runs are in runs/ unless run=DIR was given"
        )
    if (path / "config.json").exists() and not _goes_on(path):
        model, codec = hf.load(path, device=device)
        source = root = path
    elif (path.parent.parent / SHAPE).exists() and path.parent.name == "checkpoints":
        if wrong := _problem(path):
            raise CheckpointError(
                f"{path}: {wrong}", expected="what its manifest says", next="take an earlier one"
            )
        root = path.parent.parent
        model, codec, source = _native(path, root, device)
    elif (path / "checkpoints").is_dir():
        root = path
        model, codec, source = _native(_newest(path), path, device)
    else:
        found = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
        raise ModelError(f"{path} holds no model (found: {found})", expected=_EXPECTED, next="check the path")
    if codec is None:
        raise CodecError(
            f"{path} has no tokenizer.json", expected="the model's tokenizer", next="copy it there"
        )
    if codec.vocab_size > (model.config.vocab_size or 0):
        raise CodecError(
            f"the tokenizer of {path} has {codec.vocab_size} ids, the model {model.config.vocab_size}",
            expected="the tokenizer that the model was trained with",
            next="restore tokenizer.json",
        )
    return Loaded(model.eval(), codec, source, objective_of(root))


def objective_of(root: Path) -> dict[str, Any] | None:
    """What a run or folder was trained for, as in objective.json; None where nothing says it."""
    if (root / hf.OBJECTIVE).exists():
        return read_json(root / hf.OBJECTIVE)
    if not (root / "config.json").exists():
        return None
    theirs = read_json(root / "config.json")
    if (root / PREPROCESSOR).exists():  # of pictures: how they are made what the model reads
        theirs["preprocessor"] = read_json(root / PREPROCESSOR)
    return labels.objective(theirs)


def _goes_on(run: Path) -> bool:
    """Whether a finished run was resumed and has a later checkpoint than the model at its root."""
    later = [p for p in (run / "checkpoints").glob("step-*") if p.name.removeprefix("step-").isdigit()]
    if not later:
        return False
    step = (read_json(run / "config.json").get("exnihilo") or {}).get("step")
    newest = max(int(p.name.removeprefix("step-")) for p in later)
    if not isinstance(step, int) or newest <= step:
        return False
    log.say(
        f"{run} was resumed after step {step} and is not finished: a checkpoint up to step {newest} is read"
    )
    return True


def _newest(run: Path) -> Path:
    """The newest checkpoint that is whole; broken ones are named and passed over."""
    found = sorted((p for p in (run / "checkpoints").glob("step-*") if p.is_dir()), reverse=True)
    if not found:
        raise ModelError(
            f"{run} has no checkpoint yet",
            expected="at least one, or a finished run",
            next="wait for the first one, or train on: exnihilo train --resume run=DIR",
        )
    broken = []
    for path in found:
        wrong = _problem(path)
        if wrong is None:
            return path
        broken.append(f"{path.name}: {wrong}")
        log.warn(f"checkpoint {path} is broken ({wrong}); an earlier one is taken if there is one")
    raise CheckpointError(
        f"no checkpoint of {run} is whole: {'; '.join(broken)}",
        expected="one whose files are what its manifest says",
        next="restore one from a backup",
    )


def _problem(path: Path) -> str | None:
    """What is wrong with the weights of a checkpoint, by its manifest; None if nothing is."""
    try:
        entries = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["files"]
        for name in (WEIGHTS, *({AVERAGE} & set(entries))):
            size = (path / name).stat().st_size
            if size != entries[name]["bytes"]:
                return f"{name} has {size} bytes of {entries[name]['bytes']}"
            with (path / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != entries[name]["sha256"]:
                return f"{name} was altered: its SHA-256 differs"
        return None
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"manifest.json cannot be read: {error!r}"


def _native(checkpoint: Path, run: Path, device: str | torch.device) -> tuple[Model, Codec | None, Path]:
    """Weights under our own names, with the run's shape and tokenizer."""
    try:
        config = ModelConfig.model_validate_json((run / SHAPE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{run / SHAPE} does not exist", expected="the shape of the run's model", next="restore the file"
        ) from error
    except (OSError, ValueError, ValidationError) as error:
        raise ModelError(
            f"{run / SHAPE} cannot be read: {error}", expected="a resolved model configuration"
        ) from error
    try:
        state = load_file(checkpoint / WEIGHTS)
        if (checkpoint / AVERAGE).exists():  # what the run will export in the end
            state |= load_file(checkpoint / AVERAGE)
        if adapters.adapted(state):
            config_then = read_json(checkpoint / "state.json")["config"]
            state = adapters.merge(state, adapters.scale_of(config_then["tune"]["lora"]))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{checkpoint / WEIGHTS} cannot be read: {error}",
            expected="safetensors",
            next="take an earlier one",
        ) from error
    model = build(config, device="meta").to_empty(device=device)
    try:
        model.load_state_dict(fill_ties(model, state), strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint / WEIGHTS} does not fit {run / SHAPE}: {error}", expected="weights of that shape"
        ) from error
    has_codec = (run / "tokenizer.json").exists()
    return model, codecs.load(run) if has_codec else None, checkpoint
