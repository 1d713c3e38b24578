"""The generator of replaced-token detection: a narrow encoder that fills masks with likely words.

It reads the model's own embeddings through a projection, and predicts with the same token embeddings: what it
learns of words, the model knows too::

    generator = model.heads["generator"]
    hidden_BTW = model(raw, Attention.FULL, through="generator")
    logits_NV = F.linear(generator.mlm.transform(hidden_NW), generator.mlm.weight, generator.mlm.bias)

A quarter of the model's width and as many layers (Clark et al. 2020, *ELECTRA*, arXiv 2003.10555, section
3.2: a quarter to a half is best; a stronger generator leaves too little to be learnt). It is of use in
pretraining only, and is not exported.

Key: B batch, T positions, N positions chosen, D model width, W width of the generator, V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exnihilo.config import ModelConfig
from exnihilo.model.family import find
from exnihilo.model.front import Tokens as Front
from exnihilo.nn.layout import Attention, Seq
from exnihilo.nn.norms import norm

SHARE = 4  # the model's width is so many times the generator's


def narrow(config: ModelConfig) -> ModelConfig:
    """The generator's configuration: a quarter of the heads, at least one, with their width.

    >>> from exnihilo.model.sizes import resolve
    >>> small = narrow(resolve(ModelConfig(family="bert", preset="bert-mini", vocab_size=100)))
    >>> small.width, small.heads, small.depth
    (64, 1, 4)
    """
    assert config.heads is not None and config.head_dim is not None and config.width is not None
    assert config.mlp_width is not None
    heads = max(1, config.heads // SHARE)
    width = heads * config.head_dim
    sizes = {
        "width": width,
        "heads": heads,
        "kv_heads": heads,
        "mlp_width": max(8, config.mlp_width * width // config.width),
        "preset": None,
        "outputs": (),
    }
    return config.model_copy(update=sizes)


class Generator(nn.Module):
    """A narrow encoder over the embeddings of a model, with a head that predicts masked tokens.

    Attributes:
        weight: (V, D), the very Parameter of the model's token embedding.
        bias: (V,).
    """

    def __init__(self, config: ModelConfig, front: Front) -> None:
        super().__init__()
        from exnihilo.model.model import trunk_of  # which imports the room of heads

        small, family = narrow(config), find(config.family)
        assert small.width is not None and config.width is not None and config.vocab_size is not None
        assert small.norm_eps is not None
        self._front = (front,)  # the model's: registered as no part of this
        self.project = nn.Linear(config.width, small.width)
        self.trunk = trunk_of(small)
        self.dense = nn.Linear(small.width, config.width)
        self.norm = norm(family.norm, config.width, small.norm_eps, family.norm_bias)
        self.weight: Tensor = front.tokens.weight
        self.bias = nn.Parameter(torch.empty(config.vocab_size))

    def tie(self) -> None:
        """Make `weight` and the embedding one parameter again."""
        self.weight = self._front[0].tokens.weight

    @property
    def mlm(self) -> Generator:
        """Itself, as a head of masked tokens: `transform`, `weight`, `bias`."""
        return self

    def forward(self, raw: Mapping[str, Tensor], attention: Attention = Attention.FULL) -> Tensor:
        """Hidden states (B, T, W) of the columns that a model's forward reads."""
        seq: Seq = self._front[0](raw, attention)
        return self.trunk(Seq(self.project(seq.x_BTD), seq.pos_BTK, seq.group_BT, seq.doc_BT))

    def transform(self, hidden_NW: Tensor) -> Tensor:
        """(N, W) -> (N, D): what `weight` and `bias` are applied to."""
        return self.norm(F.gelu(self.dense(hidden_NW)))

    def logits(self, hidden_NW: Tensor) -> Tensor:
        """(N, W) -> (N, V)."""
        return F.linear(self.transform(hidden_NW), self.weight, self.bias)
