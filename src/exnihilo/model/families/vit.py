"""ViT, the Vision Transformer (Dosovitskiy et al. 2020, arXiv 2010.11929): a pre-norm encoder with learned
positions over the patches of a picture, behind [CLS], whose state a classifier reads. Tensor names:
transformers' `ViTForImageClassification`, `ViTForMaskedImageModeling`, `ViTModel`. Objectives feed it with
``options.size``, ``patch`` and ``channels``.

Their pixels stand channel by channel in a patch, ours pixel by pixel; the convolution they map patches with
is our matrix in another order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from exnihilo.config import ModelConfig
from exnihilo.errors import ModelError
from exnihilo.model.families._patches import KEYS, both, dropouts, renames, sizes
from exnihilo.model.family import Architecture, Family, Fed

_P = "vit."
_E = f"{_P}embeddings."
_CLS, _MASK, _VOCABULARY = 2, 4, 6  # ids of codec/marks.py
_SIZE, _PATCH, _CHANNELS = 224, 16, 3  # what an absent key means
INPUT = "picture"


def _patch(numbers: int) -> tuple[int, int]:
    """(side of a patch, channels) of so many numbers: three channels where that can be."""
    for channels in (3, 1):
        side = math.isqrt(numbers // channels)
        if side * side * channels == numbers:
            return side, channels
    raise ModelError(f"a patch of {numbers} numbers", expected="side · side · 3 or · 1")


def _pack(config: ModelConfig, state: dict[str, Any]) -> dict[str, Any]:
    """[CLS], [MASK] and positions as parameters of their own, patches as a convolution."""
    side, channels = _patch(config.inputs[INPUT][0])
    out: dict[str, Any] = {}
    for name, value in state.items():
        stem, _, last = name.rpartition("embeddings.")
        if last == "tokens.weight":
            out[f"{stem}embeddings.cls_token"] = value[_CLS].reshape(1, 1, -1)
            if "vectors" in config.outputs:
                out[f"{stem}embeddings.mask_token"] = value[_MASK].reshape(1, 1, -1)
        elif last == "positions.weight":
            out[f"{stem}embeddings.position_embeddings"] = value.unsqueeze(0)
        elif name.endswith("patch_embeddings.projection.weight"):
            out[name] = value.reshape(-1, side, side, channels).permute(0, 3, 1, 2).contiguous()
        elif name == "decoder.0.weight":
            turned = value.reshape(side, side, channels, -1).permute(2, 0, 1, 3)
            out[name] = turned.reshape(len(value), -1, 1, 1).contiguous()
        elif name == "decoder.0.bias":
            out[name] = value.reshape(side, side, channels).permute(2, 0, 1).reshape(-1).contiguous()
        else:
            out[name] = value
    return out


def _unpack(config: ModelConfig, state: dict[str, Any]) -> dict[str, Any]:
    """The same back; marks that transformers has none of are zeros."""
    side, channels = _patch(config.inputs[INPUT][0])
    out = dict(state)
    mark, places = out.pop(f"{_E}cls_token", None), out.pop(f"{_E}position_embeddings", None)
    mask, kernel = out.pop(f"{_E}mask_token", None), out.get(f"{_E}patch_embeddings.projection.weight")
    found = {"cls_token": mark, "position_embeddings": places, "projection": kernel}
    lacking = [name for name, value in found.items() if value is None]
    if lacking:
        raise ModelError(
            f"no {' and '.join(lacking)} among the tensors", expected="a whole ViT", next="fetch it again"
        )
    tokens = places.new_zeros(_VOCABULARY, places.shape[-1])  # type: ignore[union-attr]
    tokens[_CLS] = mark.reshape(-1)  # type: ignore[union-attr]
    if mask is not None:
        tokens[_MASK] = mask.reshape(-1)
    out[f"{_E}tokens.weight"] = tokens
    out[f"{_E}positions.weight"] = places.reshape(-1, places.shape[-1])  # type: ignore[union-attr]
    flat = kernel.permute(0, 2, 3, 1)  # type: ignore[union-attr]
    out[f"{_E}patch_embeddings.projection.weight"] = flat.reshape(len(flat), -1).contiguous()
    if "decoder.0.weight" in out:
        weight, bias = out["decoder.0.weight"], out["decoder.0.bias"]
        turned = weight.reshape(channels, side, side, -1).permute(1, 2, 0, 3)
        out["decoder.0.weight"] = turned.reshape(len(weight), -1).contiguous()
        out["decoder.0.bias"] = bias.reshape(channels, side, side).permute(1, 2, 0).reshape(-1).contiguous()
    return out


def _sides(value: Any, name: str) -> tuple[int, int]:
    """A size of config.json: one number, or height and width."""
    found = (value, value) if isinstance(value, int) else tuple(value or ())
    if len(found) != 2 or not all(isinstance(n, int) and n > 0 for n in found):
        raise ModelError(f"config.json: {name} is {value!r}", expected="a number, or two")
    return found[0], found[1]


def _shape(theirs: Mapping[str, Any]) -> tuple[tuple[int, int], int, int]:
    """(height and width, patch, channels)."""
    size = _sides(theirs.get("image_size", _SIZE), "image_size")
    high, wide = _sides(theirs.get("patch_size", _PATCH), "patch_size")
    channels = theirs.get("num_channels", _CHANNELS)
    if high != wide or channels not in (1, 3) or size[0] % high or size[1] % wide:
        raise ModelError(
            f"config.json: image_size {size}, patch_size {(high, wide)}, num_channels {channels!r}",
            expected="square patches that divide the picture, 1 or 3 channels",
        )
    return size, high, channels


def _read(theirs: Mapping[str, Any]) -> dict[str, Any]:
    width = theirs["hidden_size"]
    if theirs.get("pooler_output_size", width) != width:
        raise ModelError(
            f"config.json: pooler_output_size is {theirs['pooler_output_size']}", expected=f"{width}"
        )
    size, patch, channels = _shape(theirs)
    stride = theirs.get("encoder_stride", patch)
    if (theirs.get("architectures") or [""])[0] == "ViTForMaskedImageModeling" and stride != patch:
        raise ModelError(f"config.json: encoder_stride is {stride}", expected=f"patch_size, {patch}")
    return {
        **sizes(theirs),
        "vocab_size": _VOCABULARY,
        "context": (size[0] // patch) * (size[1] // patch) + 1,
        "inputs": {INPUT: (patch * patch * channels,)},
    }


def _told(config: ModelConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """The picture's size: as the objective has it, else one that has as many patches, square where that can
    be."""
    side, channels = _patch(config.inputs[INPUT][0])
    size = options.get("size")
    if size is None:
        patches = config.context - 1
        rows = next(n for n in range(math.isqrt(patches), 0, -1) if patches % n == 0)
        size = [rows * side, patches // rows * side]
    if isinstance(size, (list, tuple)) and size[0] == size[1]:
        size = size[0]
    shown = size if isinstance(size, int) else list(size)
    return {"image_size": shown, "patch_size": side, "num_channels": channels, "encoder_stride": side}


_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box")  # Pillow's numbers


def _beside(config: ModelConfig, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What transformers' image processor needs to know."""
    told = _told(config, options)
    size, channels = told["image_size"], told["num_channels"]
    high, wide = (size, size) if isinstance(size, int) else size

    def each(name: str) -> list[float]:
        value = options.get(name, 0.5)
        return list(value) if isinstance(value, (list, tuple)) else [value] * channels

    return {
        "preprocessor_config.json": {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": high, "width": wide},
            "resample": _RESAMPLE.index(options.get("resample", "bilinear")),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": each("mean"),
            "image_std": each("std"),
        }
    }


def _prepared(how: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """Options of a preprocessor_config.json; what is not obeyed is refused."""
    if how.get("do_rescale") is False or abs(how.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise ModelError(
            f"preprocessor_config.json: rescale_factor is {how.get('rescale_factor')}",
            expected="pixels from 0 to 1",
        )
    out: dict[str, Any] = {}
    for name, plain in (("mean", 0.0), ("std", 1.0)):
        value = how.get(f"image_{name}", 0.5) if how.get("do_normalize", True) else plain
        values = [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)] * channels
        if len(values) != channels:
            raise ModelError(
                f"preprocessor_config.json: image_{name} has {len(values)} numbers", expected=f"{channels}"
            )
        out[name] = values[0] if len(set(values)) == 1 else values
    number = how.get("resample", 2)
    if not isinstance(number, int) or not 0 <= number < len(_RESAMPLE):
        raise ModelError(f"preprocessor_config.json: resample is {number!r}", expected="0 to 4")
    if how.get("do_center_crop") or not {"height", "width"} <= set(how.get("size") or {"height", "width"}):
        out["fit"] = "crop"
    return out | {"resample": _RESAMPLE[number]}


def _task(theirs: Mapping[str, Any]) -> dict[str, Any]:
    size, patch, channels = _shape(theirs)
    shown = size[0] if size[0] == size[1] else list(size)
    options: dict[str, Any] = {"size": shown, "patch": patch, "channels": channels}
    options |= _prepared(theirs.get("preprocessor") or {}, channels)
    return {
        "objective": "picture_classification",
        "options": options,
        "length": (size[0] // patch) * (size[1] // patch) + 1,
    }


def _feed(config: ModelConfig, theirs: Mapping[str, Any], generator: Any) -> Fed:
    """Two pictures of noise, as patches and as their `pixel_values`."""
    (height, width), side, channels = _shape(theirs)
    pixels = torch.randn(2, height, width, channels, generator=generator)
    vectors = pixels.reshape(2, height // side, side, width // side, side, channels).permute(0, 1, 3, 2, 4, 5)
    vectors = vectors.reshape(2, -1, side * side * channels)
    T = vectors.shape[1] + 1
    tokens, kind = torch.zeros(2, T, dtype=torch.long), torch.ones(2, T, dtype=torch.long)
    tokens[:, 0], kind[:, 0] = _CLS, 0
    raw = {"tokens": tokens, "kind": kind, INPUT: F.pad(vectors, (0, 0, 1, 0))}

    def read(out: Any, outputs: tuple[str, ...]) -> dict[str, Any]:
        if "classes" in outputs:
            return {"classes": out.logits}
        if "vectors" not in outputs:
            return {"embedding": out.last_hidden_state}
        drawn = out.reconstruction.reshape(2, channels, height // side, side, width // side, side)
        return {"vectors": drawn.permute(0, 2, 4, 3, 5, 1).reshape(2, T - 1, -1)}

    return Fed(raw, {"pixel_values": pixels.permute(0, 3, 1, 2)}, 1, read)


_DECODER = both("decoder.0", f"heads.vectors.dense.{INPUT}")

FAMILY = Family(
    name="vit",
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
    norm_eps=1e-12,
    model_type="vit",
    architecture="ViTForImageClassification",
    architectures=(
        Architecture("ViTForImageClassification", ("classes",), both("classifier", "heads.classes.dense")),
        Architecture("ViTForMaskedImageModeling", ("vectors",), _DECODER),
        Architecture("ViTModel", ("embedding",), bare=True),
    ),
    renames=renames(_P, INPUT),
    head="",
    ignored=("pooler.dense.weight", "pooler.dense.bias"),
    keys=KEYS,
    defaults={"layer_norm_eps": 1e-12},
    fixed={"hidden_act": "gelu", "qkv_bias": True},
    prefix=_P,
    more=dropouts,
    read=_read,
    pack=_pack,
    unpack=_unpack,
    kept=("front.tokens.weight",),
    feed=_feed,
    told=_told,
    beside=_beside,
    task=_task,
    marks=True,
    reads=INPUT,
)
