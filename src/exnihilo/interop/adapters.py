"""Weights with low-rank adapters -> plain weights: W + scale · B A, under the names that the model has.

::

    tensors = merge(load_file(checkpoint / "model.safetensors"), scale=alpha / rank)

The names are peft's: ``NAME.base_layer.weight`` beside ``NAME.lora_A.default.weight`` (rank, in) and
``NAME.lora_B.default.weight`` (out, rank). Hu et al. 2021, arXiv:2106.09685. W may be kept in four bits
(``NAME.base_layer.codes`` and ``.scales``): then it is what the codes stand for, which adapters have learnt
beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from exnihilo.kernels import nf4

BASE, A, B = ".base_layer", ".lora_A.default.weight", ".lora_B.default.weight"


def adapted(names: Mapping[str, Any]) -> bool:
    """Whether there are adapters among these tensors."""
    return any(name.endswith(A) for name in names)


def scale_of(lora: Mapping[str, Any]) -> float:
    """alpha / rank, as the configuration ``tune.lora`` says; alpha is twice the rank where it is left open.

    >>> scale_of({"rank": 8, "alpha": None}), scale_of({"rank": 8, "alpha": 4})
    (2.0, 0.5)
    """
    return float(lora.get("alpha") or 2.0 * lora["rank"]) / lora["rank"]


def merge(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The tensors of the model without adapters; what has none is as it was."""
    out = {name.replace(BASE, ""): t for name, t in tensors.items() if ".lora_" not in name}
    for name in tensors:
        if name.endswith(A):
            module = name.removesuffix(A)
            if f"{module}.codes" in out:
                codes, scales = out.pop(f"{module}.codes"), out.pop(f"{module}.scales")
                out[f"{module}.weight"] = nf4.dequantise(codes, scales)
            weight = out[f"{module}.weight"]
            out[f"{module}.weight"] = weight + scale * (tensors[module + B] @ tensors[name]).to(weight.dtype)
    return out
