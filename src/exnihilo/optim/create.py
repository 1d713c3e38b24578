"""Build the optimiser a configuration asks for. Each group carries its own ``peak_lr``; the loop multiplies
it by the schedule's `scale` and writes ``lr``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from exnihilo.config import ModelConfig, OptimConfig
from exnihilo.optim.groups import split
from exnihilo.optim.muon import MuonAdamW

NS_STEPS = 5


def default_lr(name: str, width: int) -> float:
    """Peak rate where none is given. AdamW's falls with the square root of the width, Muon's does not depend
    on it."""
    return {"muon": 0.02, "adamw": 2e-3 * (width / 256) ** -0.5, "sgd": 0.1}[name]


def create(model: nn.Module, config: OptimConfig, model_config: ModelConfig) -> torch.optim.Optimizer:
    """The optimiser over `model`'s trainable parameters, every one in exactly one group.

    Groups have ``names`` (of their parameters, in order), ``peak_lr``, ``weight_decay`` and ``algorithm``.
    """
    width = model_config.width or 256
    matrices, rest = split(model)
    lr = config.lr or default_lr(config.name, width)
    decay = config.weight_decay if config.weight_decay is not None else (0.0 if config.name == "sgd" else 0.1)
    adam = {"algorithm": "adamw", "betas": config.betas, "eps": config.eps}
    groups: list[dict[str, Any]] = []

    def add(params: dict[str, nn.Parameter], peak: float, weight_decay: float, **more: Any) -> None:
        if params:
            groups.append(
                {
                    "params": list(params.values()),
                    "names": list(params),
                    "peak_lr": peak,
                    "lr": peak,
                    "weight_decay": weight_decay,
                    **more,
                }
            )

    if config.name == "muon":
        add(matrices, lr, decay, algorithm="muon", momentum=config.momentum, ns_steps=NS_STEPS)
        add(rest, config.adamw_lr or 1.5 * default_lr("adamw", width), 0.0, **adam)
        return MuonAdamW(groups)
    if config.name == "adamw":
        add(matrices, lr, decay, **adam)
        add(rest, lr, 0.0, **adam)
        return MuonAdamW(groups)
    add(matrices, lr, decay, algorithm="sgd", momentum=config.momentum)
    add(rest, lr, 0.0, algorithm="sgd", momentum=config.momentum)
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.momentum > 0)
