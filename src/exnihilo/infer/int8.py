"""Encoders with int8 weights on CPUs.

::

    small = int8(model)                     # the blocks' matrices: 8 bits a weight, a scale a row
    Predictor(small, codec, objective).predict(texts)

Activations are quantised on the way, to 7 bits so that processors without VNNI do not overflow, by the
range of the whole forward: a prediction then depends, in its last digits, on its neighbours. Heads, norms and
embeddings stay as they are. The kernels are FBGEMM's, as PyTorch has them (x86 only).

Reference: Jacob et al. 2018, *Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference*, arXiv 1712.05877.

Key: ... any leading dimensions, D width in, E width out
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from exnihilo.errors import UsageError
from exnihilo.model.family import find

if TYPE_CHECKING:
    from exnihilo.model.model import Model

ENGINE = "fbgemm"


class Int8Linear(nn.Module):
    """x · Wᵀ + b with W in int8. For inference: it has no parameters."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_ED = linear.weight.detach().float()
        scale_E = (weight_ED.abs().amax(1) / 127).clamp_min(1e-12).double()
        zero_E = torch.zeros(len(scale_E), dtype=torch.int64)
        bias = None if linear.bias is None else linear.bias.detach().float()
        engine = torch.backends.quantized.engine
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of quantised tensors, which newer tools replace on other devices
            try:
                torch.backends.quantized.engine = ENGINE
                small = torch.quantize_per_channel(weight_ED, scale_E, zero_E, 0, torch.qint8)
                self._packed: Any = torch.ops.quantized.linear_prepack(small, bias)
            finally:
                torch.backends.quantized.engine = engine

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., E), float32."""
        return torch.ops.quantized.linear_dynamic(x.float(), self._packed, True)


def why_not(model: Model) -> str | None:
    """Why a model cannot have int8 weights here; None: it can."""
    if not find(model.config.family).encoder:
        return "it is a decoder: Engine(model, weights='int8') is for these"
    if next(model.parameters()).device.type != "cpu":
        return "it is not on a CPU"
    if ENGINE not in torch.backends.quantized.supported_engines:
        return "this PyTorch has no FBGEMM (it comes with x86 builds)"
    return None


def int8(model: Model) -> Model:
    """A model that computes its blocks' products in int8; shares all other weights with `model`.

    Raises:
        UsageError: a decoder, another device than a CPU, or a PyTorch without the kernels.
    """
    if reason := why_not(model):
        raise UsageError(
            f"int8 weights: {reason}", expected="an encoder on an x86 CPU", next="leave int8 out"
        )
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    out = copy.deepcopy(model, shared).eval()
    for block in out.trunk.blocks:
        for parent in list(block.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, Int8Linear(child))
    return out
