"""AST, the Audio Spectrogram Transformer (Gong et al. 2021, arXiv 2104.01778): a pre-norm encoder with
learned positions over overlapping patches of a spectrogram, behind [CLS] and [DIST], whose mean a normed
classifier reads. Tensor names: transformers' `ASTForAudioClassification`. Objectives feed it with
``options.frames=ast``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from exnihilo.config import ModelConfig
from exnihilo.errors import ModelError
from exnihilo.model.families._patches import KEYS, both, dropouts, renames, sizes
from exnihilo.model.family import Architecture, Family, Fed

_P = "audio_spectrogram_transformer."
_E = f"{_P}embeddings."
_PATCH, _STRIDE, _MELS, _FRAMES = 16, 10, 128, 1024
_CLS, _DIST, _VOCABULARY = 2, 5, 6  # ids of codec/marks.py


def _pack(config: ModelConfig, state: dict[str, Any]) -> dict[str, Any]:
    """[CLS], [DIST] and positions as parameters of their own, patches as a convolution."""
    out: dict[str, Any] = {}
    for name, value in state.items():
        stem, _, last = name.rpartition("embeddings.")
        if last == "tokens.weight":
            out[f"{stem}embeddings.cls_token"] = value[_CLS].reshape(1, 1, -1)
            out[f"{stem}embeddings.distillation_token"] = value[_DIST].reshape(1, 1, -1)
        elif last == "positions.weight":
            out[f"{stem}embeddings.position_embeddings"] = value.unsqueeze(0)
        elif name.endswith("patch_embeddings.projection.weight"):
            out[name] = value.reshape(-1, 1, _PATCH, _PATCH)
        else:
            out[name] = value
    return out


def _unpack(config: ModelConfig, state: dict[str, Any]) -> dict[str, Any]:
    """The same back; marks that transformers has none of are zeros."""
    out = dict(state)
    marks = {_CLS: out.pop(f"{_E}cls_token", None), _DIST: out.pop(f"{_E}distillation_token", None)}
    places = out.pop(f"{_E}position_embeddings", None)
    kernel = out.get(f"{_E}patch_embeddings.projection.weight")
    found = {"cls_token": marks[_CLS], "distillation_token": marks[_DIST]}
    found |= {"position_embeddings": places, "projection": kernel}
    lacking = [name for name, value in found.items() if value is None]
    if lacking:
        raise ModelError(
            f"no {' and '.join(lacking)} among the tensors", expected="a whole AST", next="fetch it again"
        )
    tokens = places.new_zeros(_VOCABULARY, places.shape[-1])  # type: ignore[union-attr]
    for id, mark in marks.items():
        tokens[id] = mark.reshape(-1)  # type: ignore[union-attr]
    out[f"{_E}tokens.weight"] = tokens
    out[f"{_E}positions.weight"] = places.reshape(-1, places.shape[-1])  # type: ignore[union-attr]
    out[f"{_E}patch_embeddings.projection.weight"] = kernel.reshape(len(kernel), -1)  # type: ignore
    return out


def _patches(theirs: Mapping[str, Any]) -> int:
    mels, frames = theirs.get("num_mel_bins", _MELS), theirs.get("max_length", _FRAMES)
    return ((mels - _PATCH) // _STRIDE + 1) * ((frames - _PATCH) // _STRIDE + 1)


def _read(theirs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **sizes(theirs),
        "vocab_size": _VOCABULARY,
        "context": _patches(theirs) + 2,
        "inputs": {"sound": (_PATCH * _PATCH,)},
    }


def _told(config: ModelConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """The spectrogram's size: as the objective has it, else one that has as many patches, of 128 bands where
    that can be."""
    if options.get("frames") == "ast":
        return {
            "num_mel_bins": options.get("mels") or _MELS,
            "max_length": options.get("spectrogram") or _FRAMES,
        }
    patches = config.context - 2
    bands = next(n for n in (12, *range(11, 0, -1)) if patches % n == 0)
    mels = _MELS if bands == 12 else (bands - 1) * _STRIDE + _PATCH
    return {"num_mel_bins": mels, "max_length": (patches // bands - 1) * _STRIDE + _PATCH}


def _task(theirs: Mapping[str, Any]) -> dict[str, Any]:
    size = {"mels": theirs.get("num_mel_bins", _MELS), "spectrogram": theirs.get("max_length", _FRAMES)}
    return {
        "objective": "sound_classification",
        "options": {"frames": "ast", **size},
        "length": _patches(theirs) + 2,
    }


def _feed(config: ModelConfig, theirs: Mapping[str, Any], generator: Any) -> Fed:
    """Two spectrograms of noise, as patches and as their `input_values`."""
    frames, mels = theirs.get("max_length", _FRAMES), theirs.get("num_mel_bins", _MELS)
    values = torch.randn(2, frames, mels, generator=generator)
    cut = values.mT.unfold(1, _PATCH, _STRIDE).unfold(2, _PATCH, _STRIDE).reshape(2, -1, _PATCH * _PATCH)
    T = cut.shape[1] + 2
    tokens, kind = torch.zeros(2, T, dtype=torch.long), torch.ones(2, T, dtype=torch.long)
    tokens[:, :2], kind[:, :2] = torch.tensor([_CLS, _DIST]), 0
    raw = {"tokens": tokens, "kind": kind, "sound": F.pad(cut, (0, 0, 2, 0))}

    def read(out: Any, outputs: tuple[str, ...]) -> dict[str, Any]:
        return {"classes": out.logits} if "classes" in outputs else {"embedding": out.last_hidden_state}

    return Fed(raw, {"input_values": values}, 2, read)


FAMILY = Family(
    name="ast",
    norm="layer",
    positions="learned",
    qk_norm=False,
    mlp="gelu",
    bias=True,
    mlp_ratio=4,
    mlp_multiple=1,
    grouped=False,
    free_head_dim=False,
    encoder=True,
    pooler="norm",
    norm_eps=1e-12,
    model_type="audio-spectrogram-transformer",
    architecture="ASTForAudioClassification",
    architectures=(
        Architecture(
            "ASTForAudioClassification",
            ("classes",),
            (
                *both("classifier.layernorm", "pooler.norm"),
                *both("classifier.dense", "heads.classes.dense"),
            ),
        ),
        Architecture("ASTModel", ("embedding",), bare=True),
    ),
    renames=renames(_P, "sound"),
    head="",
    keys=KEYS,
    defaults={"layer_norm_eps": 1e-12},
    fixed={
        "hidden_act": "gelu",
        "qkv_bias": True,
        "patch_size": _PATCH,
        "frequency_stride": _STRIDE,
        "time_stride": _STRIDE,
    },
    prefix=_P,
    more=dropouts,
    read=_read,
    pack=_pack,
    unpack=_unpack,
    kept=("front.tokens.weight",),
    feed=_feed,
    told=_told,
    task=_task,
    marks=True,
    holds={"sound": (_PATCH * _PATCH,)},
)
