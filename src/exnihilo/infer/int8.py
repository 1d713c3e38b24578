"""Encoders with int8 weights on CPUs, by PyTorch's kernels.

::

    small = int8(model)                     # the blocks' matrices: 8 bits a weight, a scale a row
    Predictor(small, codec, objective).predict(texts)

For CPUs with VNNI and models that encoder.c does not know; elsewhere `encoder.swift` takes that, which is
faster there. Activations are rounded to 7 bits on the way (processors without VNNI overflow with 8), each row
within its own range, so that a prediction does not depend on its neighbours. Heads, norms and embeddings stay
as they are. The kernels are FBGEMM's, as PyTorch has them (x86 only).

Reference: Jacob et al. 2018, *Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference*, arXiv 1712.05877.

Key: ... any leading dimensions, N all of them, D width in, E width out
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
        self._bias_E = None if linear.bias is None else linear.bias.detach().float()
        engine = torch.backends.quantized.engine
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of quantised tensors, which newer tools replace on other devices
            try:
                torch.backends.quantized.engine = ENGINE
                small = torch.quantize_per_channel(weight_ED, scale_E, zero_E, 0, torch.qint8)
                self._packed: Any = torch.ops.quantized.linear_prepack(small, None)
            finally:
                torch.backends.quantized.engine = engine

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., E), float32."""
        x_ND = x.reshape(-1, self.in_features).float()
        scale_N1 = x_ND.abs().amax(1, keepdim=True).clamp_min(1e-30)
        # the kernel takes one range for all rows: each is brought to -1 .. 1, one row more holds both ends
        ends_ND = x_ND.new_zeros(len(x_ND) + 1, self.in_features)
        torch.div(x_ND, scale_N1, out=ends_ND[:-1])
        ends_ND[-1, 0], ends_ND[-1, -1] = 1.0, -1.0
        out_NE = torch.ops.quantized.linear_dynamic(ends_ND, self._packed, True)[:-1] * scale_N1
        out_NE = out_NE if self._bias_E is None else out_NE + self._bias_E
        return out_NE.view(*x.shape[:-1], self.out_features)


def why_not(model: Model) -> str | None:
    """Why a model cannot have int8 weights here; None: it can."""
    if not find(model.config.family).encoder:
        return "it is a decoder: Engine(model, weights='int8') is for these"
    if next(model.parameters()).device.type != "cpu":
        return "it is not on a CPU"
    if ENGINE not in torch.backends.quantized.supported_engines:
        return "this PyTorch has no FBGEMM (it comes with x86 builds)"
    return None


def refusal(reason: str) -> UsageError:
    """What to say where int8 was asked for and cannot be had."""
    return UsageError(f"int8 weights: {reason}", expected="an encoder on an x86 CPU", next="leave int8 out")


def int8(model: Model) -> Model:
    """A model that computes its blocks' products in int8; shares all other weights with `model`.

    Raises:
        UsageError: a decoder, another device than a CPU, or a PyTorch without the kernels.
    """
    if reason := why_not(model):
        raise refusal(reason)
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    out = copy.deepcopy(model, shared).eval()
    for block in out.trunk.blocks:
        for parent in list(block.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, Int8Linear(child))
    return out
