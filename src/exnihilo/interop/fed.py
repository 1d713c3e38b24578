"""Proofs of models that read no tokens: numbers for the front end, the same for the class of transformers.

    gap = read_back(model, folder)              # largest difference of any head, read into a fresh model
    gap, heads = against(model, folder)         # the same against the class that config.json names

What is fed is drawn at random by the family (`Family.feed`): pixels, a spectrogram.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exnihilo.errors import MissingExtra, ModelError
from exnihilo.interop import hf
from exnihilo.interop.files import read_json
from exnihilo.interop.tensors import written_as
from exnihilo.model import Model
from exnihilo.model.family import Fed, find
from exnihilo.model.heads import POOLED


def fed(model: Model, folder: Path) -> Fed:
    """What both sides are given: the same at every call."""
    feed = find(model.config.family).feed
    assert feed is not None
    return feed(model.config, read_json(folder / "config.json"), torch.Generator().manual_seed(0))


@torch.no_grad()
def said(model: Model, given: Fed) -> dict[str, Tensor]:
    """What each head says: of states of the marks, or of all that stand behind them."""
    hidden_BTD = model(given.raw).float()
    out = {"embedding": hidden_BTD}
    for name in model.config.outputs:
        if name in POOLED:
            out[name] = model.heads[name].logits(hidden_BTD[:, : given.marks].mean(1))
        elif name == "vectors":
            out[name] = model.heads[name].logits(hidden_BTD[:, given.marks :])
    return out


def read_back(model: Model, folder: Path) -> float:
    """The largest difference between a model and what was written of it."""
    given = fed(model, folder)
    fresh, _ = hf.load(folder)
    return _gap(said(model, given), said(fresh, given))


@torch.no_grad()
def against(model: Model, folder: Path) -> tuple[float, list[str]]:
    """The largest difference between a model and transformers' reading of a folder, and the heads compared.

    Raises:
        MissingExtra: transformers is not installed.
        ModelError: it reads the folder with tensors missing, unexpected or of other shapes.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a folder needs no network
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra.of("transformers", "hf") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    given = fed(model, folder)
    name = read_json(folder / "config.json")["architectures"][0]
    kind: Any = getattr(transformers, name)
    theirs, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    wrong = {what: sorted(map(str, keys)) for what, keys in info.items() if keys}
    if wrong and wrong.get("missing_keys") != ["pooler.dense.bias", "pooler.dense.weight"]:
        raise ModelError(f"transformers reads {folder} with {wrong}", expected="every tensor in its place")
    architecture = written_as(model.config)
    outputs = architecture.outputs if architecture is not None else ()
    got = given.read(theirs.eval()(**given.given), outputs)
    mine = said(model, given)
    return _gap({head: mine[head] for head in got}, got), sorted(got)


def _gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest absolute difference; infinite where a number is not finite."""
    worst = 0.0
    for name, value in a.items():
        difference = (value - b[name]).abs().max().item()
        worst = max(worst, difference) if difference == difference else float("inf")
    return worst
