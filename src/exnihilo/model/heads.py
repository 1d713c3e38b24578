"""Heads: what is read from hidden states. An objective names the heads that it needs.

Key: B batch, T positions, D model width, V vocabulary
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exnihilo.config import ModelConfig
from exnihilo.errors import ConfigError, nearest


class Tokens(nn.Module):
    """One logit for each vocabulary entry. Losses read `weight` themselves, and never hold all logits.

    Attributes:
        weight: (V, D); with tied weights the very Parameter of the embedding.
        bias: None.
    """

    def __init__(self, config: ModelConfig, embedding: nn.Embedding) -> None:
        super().__init__()
        assert config.vocab_size is not None and config.width is not None
        self.tied = config.tied
        own = None if self.tied else nn.Parameter(torch.empty(config.vocab_size, config.width))
        self.weight: Tensor = embedding.weight if own is None else own
        self.bias: nn.Parameter | None = None

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V)."""
        return F.linear(hidden_BTD, self.weight)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.logits(hidden_BTD)


class Heads(nn.ModuleDict):
    """Heads by name, typed."""

    def __getitem__(self, key: str) -> Tokens:
        return cast(Tokens, super().__getitem__(key))


HEADS: dict[str, type[Tokens]] = {"tokens": Tokens}


def create(name: str, config: ModelConfig, embedding: nn.Embedding) -> Tokens:
    """A head by name."""
    if name not in HEADS:
        raise ConfigError(f"unknown head {name!r}", expected=nearest(name, HEADS))
    return HEADS[name](config, embedding)
