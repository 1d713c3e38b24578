"""Training only part of a pretrained model: frozen layers, and low-rank adapters.

::

    freeze(model, 2)                          # the embeddings and the first two layers stay as they are
    adapters = Adapters.put(model, LoraConfig(rank=8), seed=0)
    ...                                       # train: only adapters and heads have gradients
    tensors = adapters.merged(tensors)        # W + alpha/rank · B A, under the model's own names

LoRA: Hu et al. 2021, arXiv:2106.09685; the modules are peft's. With four bits (QLoRA, Dettmers et al. 2023,
arXiv:2305.14314) the frozen matrices beside them are `nn.quantised`. Everything keeps its place in
checkpoints, so a cut run goes on; what is exported is an ordinary model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from exnihilo import log
from exnihilo.config import LoraConfig, TuneConfig
from exnihilo.errors import ConfigError, MissingExtra, nearest
from exnihilo.interop.adapters import merge, scale_of
from exnihilo.nn.quantised import Quantised
from exnihilo.optim.groups import level

NAME = "default"  # of the one adapter


def freeze(model: nn.Module, what: int | str, depth: int) -> int:
    """Stop parameters from learning; returns how many numbers that are.

    Args:
        what: none; embeddings; a number n: the embeddings and the first n layers; trunk: all but what reads
            the last layer (heads, pooler).
        depth: layers of the model.

    Raises:
        ConfigError: more layers than there are.
    """
    if what == "none":
        return 0
    if isinstance(what, int) and what > depth:
        raise ConfigError(
            f"tune.freeze={what} of a model with {depth} layers",
            expected=f"0 .. {depth}, embeddings or trunk",
            next="tune.freeze=trunk trains the heads alone",
        )
    top = {"embeddings": 0, "trunk": depth}.get(str(what), what)
    assert isinstance(top, int)
    count = 0
    for name, p in model.named_parameters():
        last = name.startswith("trunk.") and what == "trunk"  # the final norm too
        if level(name, depth) <= top or last:
            p.requires_grad_(False)
            count += p.numel()
    return count


class Adapters:
    """The low-rank adapters in a model.

    Attributes:
        config: rank, alpha, targets.
        names: the adapted modules, by their own names.
    """

    def __init__(self, config: LoraConfig, names: list[str]) -> None:
        self.config, self.names = config, names

    @classmethod
    def put(cls, model: nn.Module, config: LoraConfig, seed: int) -> Adapters:
        """Put adapters beside linear layers of the trunk, and freeze the embeddings and the trunk itself.

        The model computes what it did: B begins at zero. With ``bits=4`` nearly so: its matrices are rounded.

        Raises:
            MissingExtra: peft is not installed.
            ConfigError: a target that no linear layer of the trunk has.
        """
        try:
            from peft import LoraConfig as Settings
            from peft import inject_adapter_in_model
        except ImportError as error:
            raise MissingExtra.of("peft", "lora") from error
        linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n.startswith("trunk.")]
        ends = sorted({n.rsplit(".", 1)[-1] for n in linear})
        names = linear
        if config.targets:
            for target in config.targets:
                if not any(n == target or n.endswith(f".{target}") for n in linear):
                    raise ConfigError(
                        f"tune.lora.targets: no linear layer of the trunk is called {target!r}",
                        expected=nearest(target, ends),
                        next=f"one or more of {', '.join(ends)}",
                    )
            names = [n for n in linear if any(n == t or n.endswith(f".{t}") for t in config.targets)]
        kept = {name: p.requires_grad for name, p in model.named_parameters()}
        alpha: Any = config.rank * scale_of(config.model_dump())  # peft takes any number
        settings = Settings(
            r=config.rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=names
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(settings, model, adapter_name=NAME)
        if config.bits is not None:
            for name in names:
                layer: Any = model.get_submodule(name)
                layer.base_layer = Quantised.of(layer.base_layer)
        for name, p in model.named_parameters():
            if ".lora_" in name:
                p.requires_grad_(True)
            elif name.startswith(("front.", "trunk.", "heads.tokens.")):
                p.requires_grad_(False)  # the output matrix, too, tied or not: it is a decoder's vocabulary
            else:  # peft freezes all else; heads go on learning
                p.requires_grad_(kept.get(name, True))
        return cls(config, names)

    def merged(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full tensors of the model with adapters -> those of the model without: W + scale · B A."""
        return merge(tensors, scale_of(self.config.model_dump()))


def adapt(model: nn.Module, config: TuneConfig, depth: int, seed: int) -> Adapters | None:
    """Freeze and put adapters as the configuration says, and say what is left to learn."""
    if config.freeze == "none" and config.lora is None:
        return None
    freeze(model, config.freeze, depth)
    adapters = Adapters.put(model, config.lora, seed) if config.lora is not None else None
    coded = [m for m in model.modules() if isinstance(m, Quantised)]
    every = sum(p.numel() for p in model.parameters()) + sum(m.in_features * m.out_features for m in coded)
    learns = sum(p.numel() for p in model.parameters() if p.requires_grad)
    kind = f"adapters of rank {config.lora.rank}" if config.lora is not None else f"frozen: {config.freeze}"
    kind += f", beside {len(coded)} matrices in 4 bits" if coded else ""
    log.say(f"tune: {learns:,} of {every:,} parameters learn ({kind})")
    return adapters
