"""What a model says of a row of tokens through all its heads, here and in transformers: for proofs.

    ours(model, ids)                # {"embedding": (T, D), "mlm": (T, V), "next": (2,)}
    read = theirs(folder)           # the class that config.json names
    read(ids)                       # the same names, of the heads that this class has

Key: T positions, D model width, V vocabulary
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exnihilo.errors import MissingExtra, ModelError
from exnihilo.interop.files import read_json
from exnihilo.interop.tensors import read_as
from exnihilo.model import Model
from exnihilo.model.family import SINKS, find, names
from exnihilo.model.heads import POOLED

ENCODED = frozenset({"generator"})  # a model of its own, that reads tokens and not the trunk's states


def segments(ids: Sequence[int], number: int) -> Tensor:
    """Segments (1, T) of a row to compare on: its second half is another one, where there are two."""
    T = len(ids)
    return ((torch.arange(T) >= T // 2) & (number > 1)).long()[None]


@torch.no_grad()
def ours(model: Model, ids: Sequence[int]) -> dict[str, Tensor]:
    """Logits of every head on one row, fp32: (T, ...) a token, or (...) an item; of encoders also the hidden
    states, under "embedding"."""
    device = model.front.tokens.weight.device
    raw = {
        "tokens": torch.tensor([list(ids)], device=device),
        "segment": segments(ids, model.config.segments or 0).to(device),
    }
    hidden_BTD = model(raw)
    out: dict[str, Tensor] = {}
    if find(model.config.family).encoder:
        out["embedding"] = hidden_BTD[0].float().cpu()
    for name in model.config.outputs:
        if name in ENCODED:
            continue
        states = hidden_BTD[:, 0] if name in POOLED else hidden_BTD
        if name == "value" and not find(model.config.family).encoder:
            states = hidden_BTD[:, -1]
        out[name] = model.heads[name].logits(states)[0].float().cpu()
    return out


def theirs(folder: str | Path) -> Callable[[Sequence[int]], dict[str, Tensor]]:
    """The same of the class of transformers that a folder names, in fp32.

    Raises:
        MissingExtra: transformers is not installed.
        ModelError: it reads the folder with tensors missing, unexpected or of other shapes.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a folder needs no network
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra.of("transformers", "hf") from error
    words = read_json(Path(folder) / "config.json")
    name = words["architectures"][0]
    if words["model_type"].endswith(SINKS):
        raise ModelError(
            f"{folder} is a decoder with attention sinks",
            expected="a model that transformers has a class for",
            next="model.sinks=false where it is trained",
        )
    family = next(f for f in map(find, names()) if f.model_type == words["model_type"])
    found = read_as(words, family, ())
    outputs = found.outputs if found else ("tokens",)
    kind: Any = getattr(transformers, name)
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {what: sorted(map(str, keys)) for what, keys in info.items() if keys}
    if wrong and wrong.get("missing_keys") != ["pooler.dense.bias", "pooler.dense.weight"]:
        raise ModelError(f"transformers reads {folder} with {wrong}", expected="every tensor in its place")
    model.eval()
    if outputs == ("value",):
        model.config.pad_token_id = None  # a row has no padding: its last token is the last, whatever it is

    @torch.no_grad()
    def read(ids: Sequence[int]) -> dict[str, Tensor]:
        number = words.get("type_vocab_size") or 0
        more = {"token_type_ids": segments(ids, number)} if number else {}
        out = model(input_ids=torch.tensor([list(ids)]), **more)
        return {name: value[0].float() for name, value in _named(out, outputs).items()}

    return read


def _named(out: Any, outputs: tuple[str, ...]) -> dict[str, Tensor]:
    if outputs == ("mlm", "next"):
        return {"mlm": out.prediction_logits, "next": out.seq_relationship_logits}
    if outputs == ("span",):
        return {"span": torch.stack((out.start_logits, out.end_logits), -1)}
    if outputs == ("value",):
        return {"value": out.logits[:, 0]}
    return {outputs[0]: out.last_hidden_state if outputs == ("embedding",) else out.logits}
