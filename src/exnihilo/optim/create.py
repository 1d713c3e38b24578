"""Build the optimiser a configuration asks for. Each group carries its own ``peak_lr``; the loop multiplies
it by the schedule's `scale` and writes ``lr``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from exnihilo.config import ModelConfig, OptimConfig
from exnihilo.errors import ConfigError
from exnihilo.model.family import find
from exnihilo.optim.groups import by_level, split
from exnihilo.optim.muon import MuonAdamW

NS_STEPS = 5
Purpose = Literal["pretrain", "learn", "tune", "instruct", "align"]
ALIGN = 0.1  # rate of preferences and rewards, of that of instructions
ADAPTERS = 10.0  # rate where low-rank adapters learn alone, of that of whole weights; whatever their rank


def default_lr(name: str, width: int) -> float:
    """Peak rate where none is given. AdamW's falls with the square root of the width, Muon's does not depend
    on it."""
    return {"muon": 0.02, "adamw": 2e-3 * (width / 256) ** -0.5, "sgd": 0.1}[name]


def task_lr(name: str, width: int, *, pretrained: bool) -> float:
    """Peak rate of a downstream task. AdamW's for pretrained weights falls with the width, as the published
    ones do (BERT-Base 5e-5), and is higher in small models, which have seen little; for random ones it is
    higher, and falls more slowly. The other optimisers take a tenth and a third of their pretraining rate."""
    if name == "adamw":
        return 7e-4 * (width / 128) ** -1.3 if pretrained else 1e-3 * (width / 128) ** -0.5
    return (0.1 if pretrained else 0.3) * default_lr(name, width)


def instruct_lr(name: str, width: int) -> float:
    """Peak rate of instructions. AdamW's is the published 2e-5 at width 2048, and 2e-3 at width 128, where
    models made here from nothing have seen little (docs/sft.md); a power of the width between. The other
    optimisers take that of a task."""
    return 2e-3 * (width / 128) ** -1.66 if name == "adamw" else task_lr(name, width, pretrained=True)


def optim_default(name: str, width: int, purpose: Purpose) -> float:
    """Peak rate of an optimiser where none is given."""
    if purpose == "pretrain":
        return default_lr(name, width)
    if purpose in ("instruct", "align"):
        return instruct_lr(name, width) * (ALIGN if purpose == "align" else 1.0)
    return task_lr(name, width, pretrained=purpose == "tune")


def create(
    model: nn.Module,
    config: OptimConfig,
    model_config: ModelConfig,
    *,
    layer_decay: float = 1.0,
    purpose: Purpose = "pretrain",
) -> torch.optim.Optimizer:
    """The optimiser over `model`'s trainable parameters, every one in exactly one group.

    Groups have ``names`` (of their parameters, in order), ``base_lr`` (as asked for), ``peak_lr`` (theirs, by
    their layer), ``weight_decay`` and ``algorithm``.

    Args:
        layer_decay: rates fall by this factor from each layer to the one below it; 1: all alike.
        purpose: decides the default rates: pretrain; learn a task from random weights; tune pretrained ones
            to a task; to instructions; align tuned ones with preferences or rewards.
    """
    width = model_config.width or 256
    matrices, rest = split(model)
    if not matrices and not rest:
        raise ConfigError(
            "nothing is left to train: every parameter is frozen",
            expected="at least a head that learns",
            next="tune.freeze=none",
        )
    alone = all(".lora_" in name for name in (*matrices, *rest))
    lr = config.lr or optim_default(config.name, width, purpose) * (ADAPTERS if alone else 1.0)
    decay = config.weight_decay if config.weight_decay is not None else (0.0 if config.name == "sgd" else 0.1)
    adam = {"algorithm": "adamw", "betas": config.betas, "eps": config.eps}
    groups: list[dict[str, Any]] = []

    def add(params: dict[str, nn.Parameter], peak: float, weight_decay: float, **more: Any) -> None:
        for share, part in by_level(params, model_config.depth, layer_decay):
            groups.append(
                {
                    "params": list(part.values()),
                    "names": list(part),
                    "peak_lr": peak * share,
                    "base_lr": peak,
                    "lr": peak * share,
                    "weight_decay": weight_decay,
                    **more,
                }
            )

    if config.name == "muon":
        # embeddings must move further than matrices: 0.01 at width 256 beat 0.003 on stories, on the world
        # and on characters (dev/LOG.md)
        # not where a norm follows them at once (bert, modernbert): there 0.014 stayed on the plateau of the
        # unigrams that 0.003 left (dev/LOG.md)
        plain = not find(model_config.family).embedding_norm
        beside = 5.0 if purpose == "pretrain" and plain else 1.0
        rest_lr = config.adamw_lr or beside * optim_default("adamw", width, purpose)
        add(matrices, lr, decay, algorithm="muon", momentum=config.momentum, ns_steps=NS_STEPS)
        add(rest, rest_lr, 0.0, **adam)
        return MuonAdamW(groups)
    if config.name == "adamw":
        add(matrices, lr, decay, **adam)
        add(rest, lr, 0.0, **adam)
        return MuonAdamW(groups)
    add(matrices, lr, decay, algorithm="sgd", momentum=config.momentum)
    add(rest, lr, 0.0, algorithm="sgd", momentum=config.momentum)
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.momentum > 0)
