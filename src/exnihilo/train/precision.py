"""Which number format the matrix products take: measured on the device, not looked up.

fp32 master weights always; bf16 and fp16 through autocast; fp16 with a scaled loss. CPUs without bf16 units
run bf16 products many times slower than fp32, so the choice is made by a probe of a fraction of a second.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from exnihilo import log
from exnihilo.parallel.peak import matmul_flops

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WORTH = 1.3  # times faster than fp32: casts cost too, and fp32 is safer


def choose(setting: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> str:
    """The number format of a run; ``auto`` measures and says what it found."""
    if setting != "auto":
        return setting
    candidates = ["fp32", "bf16"] + (["fp16"] if device.type != "cpu" else [])
    speeds: dict[str, float] = {}
    for name in candidates:
        with contextlib.suppress(RuntimeError, TypeError):  # a type the device lacks
            # small on CPU: an emulated type must not take seconds to be found slow
            size = 384 if device.type == "cpu" else 4096
            speeds[name] = matmul_flops(device, DTYPES[name], seconds=0.05, size=size)
    best = "fp32"
    if speeds.get("bf16", 0) >= WORTH * speeds["fp32"]:
        best = "bf16"
    if speeds.get("fp16", 0) >= WORTH * max(speeds["fp32"], speeds.get("bf16", 0)):
        best = "fp16"
    shown = ", ".join(f"{name} {speed / 1e9:,.0f}" for name, speed in speeds.items())
    log.say(f"dtype: {best} (matrix products, GFLOP/s: {shown})")
    return best


def autocast(dtype: str, device: torch.device) -> AbstractContextManager[object]:
    """The context that forwards run in."""
    if dtype == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[dtype])


@dataclass
class LossScale:
    """Keeps fp16 gradients in range: the loss is multiplied, gradients divided again before they are used.

    A gradient that overflows halves the scale and skips the update; `interval` good steps double it. Own
    code, since `torch.amp.GradScaler` does not know of sharded gradients, and the loop knows the global
    norm anyway.
    (Micikevicius et al. 2018, arXiv:1710.03740.)
    """

    scale: float = 2.0**14
    good: int = 0
    interval: int = 500

    def unscale(self, grads: Iterable[Tensor]) -> None:
        """Divide the gradients by the scale, in place."""
        found = list(grads)
        if found:
            torch._foreach_mul_(found, 1.0 / self.scale)  # pyright: ignore[reportPrivateImportUsage]

    def update(self, finite: bool) -> None:
        """After a step: grow or shrink."""
        if not finite:
            self.scale, self.good = max(1.0, self.scale / 2), 0
            return
        self.good += 1
        if self.good >= self.interval:
            self.scale, self.good = min(2.0**24, self.scale * 2), 0

    def overflowed(self, norm: float, loss: float) -> bool:
        """Whether a step that is not finite may be the scale's fault rather than the data's."""
        return math.isfinite(loss) and not math.isfinite(norm) and self.scale > 1.0

    def to_json(self) -> dict[str, float]:
        return {"scale": self.scale, "good": float(self.good)}

    @classmethod
    def from_json(cls, data: dict[str, float]) -> LossScale:
        return cls(data["scale"], int(data["good"]))
