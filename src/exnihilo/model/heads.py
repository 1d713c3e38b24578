"""Heads: what is read from hidden states. An objective names the heads that it needs.

=========  ==================================================================================================
tokens     next token: one logit a vocabulary entry
mlm        masked token: transform, then one logit a vocabulary entry, of masked positions only
next       two logits of a pair, from its first token: 0 = B follows A, 1 = it does not
classes    `labels` logits of an item, from its first token; with `compares` from the means of its two texts
tags       `labels` logits of each token; with `crf` also scores of neighbouring tags
span       two logits of each token: an answer starts here, ends here; with `compares` the token's match
           with the question adds to them
replaced   one logit of each token: was it replaced?
value      one number (...) of each state it is given: a reward, or what a critic expects
embedding  nothing: the hidden states themselves
vectors    what a position held before it was masked: as many numbers as the model's inputs have
straight   of a series: the values ahead by a matrix from those before, past the trunk; begins as nothing
generator  a small encoder of its own that makes replacements (model/generator.py)
painter    a small trunk of its own that says what stood at positions which were left out (model/painter.py)
=========  ==================================================================================================

::

    model = build(ModelConfig(family="bert", preset="bert-mini", vocab_size=8192), heads=("mlm", "next"))
    hidden_BTD = model({"tokens": tokens_BT, "segment": segment_BT})
    head = model.heads["mlm"]
    logits_NV = F.linear(head.transform(hidden_BTD[masked_BT]), head.weight, head.bias)
    next_B2 = model.heads["next"].logits(hidden_BTD[:, 0])

What several heads read from (BERT's pooler, ModernBERT's transform) is the model's, not theirs: it is carried
from pretraining to fine-tuning.

Sources: Devlin et al. 2018 (BERT, arXiv 1810.04805); Clark et al. 2020 (ELECTRA, arXiv 2003.10555); Warner et
al. 2024 (ModernBERT, arXiv 2412.13663); Lample et al. 2016 (tags with a CRF, arXiv 1603.01360).

Key: B batch, T positions, N positions chosen, D model width, V vocabulary, C labels
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exnihilo.config import ModelConfig
from exnihilo.errors import ConfigError, nearest
from exnihilo.kernels.dropout import dropout
from exnihilo.model.family import find
from exnihilo.model.front import Tokens as Front
from exnihilo.nn.norms import norm

NORMED = frozenset({"classes"})  # heads that read it where it is a norm
POOLED = frozenset({"next", "classes", "value"})  # heads that read the pooler of every family that has one
SHARED = frozenset({"mlm", "tags", "span"})  # heads that read it where it is a transform


class Pooler(nn.Module):
    """tanh(dense(first token)): BERT's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(_width(config), _width(config))

    def forward(self, first_ND: Tensor) -> Tensor:
        return torch.tanh(self.dense(first_ND))


class Transform(nn.Module):
    """norm(gelu(dense(x))): of BERT's masked-token head alone, in ModernBERT of all heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        family, width = find(config.family), _width(config)
        assert config.norm_eps is not None
        self.dense = nn.Linear(width, width, bias=family.pooler != "transform")
        self.norm = norm(family.norm, width, config.norm_eps, family.norm_bias)

    def forward(self, hidden_ND: Tensor) -> Tensor:
        return self.norm(F.gelu(self.dense(hidden_ND)))


class Norm(nn.Module):
    """norm(x): AST's, before its classifier."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        family = find(config.family)
        assert config.norm_eps is not None
        self.norm = norm(family.norm, _width(config), config.norm_eps, family.norm_bias)

    def forward(self, pooled_ND: Tensor) -> Tensor:
        return self.norm(pooled_ND)


class _Head(nn.Module):
    """What heads know of the model around them. It is not theirs: registered as no part of them."""

    def __init__(self, config: ModelConfig, front: Front, pooler: nn.Module | None) -> None:
        super().__init__()
        self.dropout = config.dropout
        self._front = (front,)
        self._pooler = (pooler,)

    def _read(self, hidden: Tensor, pooler: bool) -> Tensor:
        """What the last matrix of a head is given: pooled if there is a pooler to read, then dropped."""
        found = self._pooler[0]
        if pooler and found is not None:
            hidden = found(hidden)
        return dropout(hidden, self.dropout) if self.dropout and self.training else hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of hidden states; see the table on top."""
        raise ConfigError(f"the head {type(self).__name__} gives no logits", expected="another head")

    def forward(self, hidden: Tensor) -> Tensor:
        return self.logits(hidden)


class Tokens(_Head):
    """One logit for each vocabulary entry. Losses read `weight` themselves, and never hold all logits.

    Attributes:
        weight: (V, D); with tied weights the very Parameter of the embedding.
        bias: None.
    """

    bias: nn.Parameter | None

    def __init__(self, config: ModelConfig, front: Front, pooler: nn.Module | None) -> None:
        super().__init__(config, front, pooler)
        assert config.vocab_size is not None
        self.tied = config.tied
        own = None if self.tied else nn.Parameter(torch.empty(config.vocab_size, _width(config)))
        self.weight: Tensor = front.tokens.weight if own is None else own
        self.bias = None

    def tie(self) -> None:
        """Make `weight` and the embedding one parameter again."""
        if self.tied:
            self.weight = self._front[0].tokens.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V)."""
        return F.linear(hidden, self.weight, self.bias)


class MaskedTokens(Tokens):
    """The same behind a transform and with a bias: BERT's and ModernBERT's.

    Attributes:
        weight: (V, D); with tied weights the very Parameter of the embedding.
        bias: (V,).
    """

    def __init__(self, config: ModelConfig, front: Front, pooler: nn.Module | None) -> None:
        super().__init__(config, front, pooler)
        assert config.vocab_size is not None
        self.bias = nn.Parameter(torch.empty(config.vocab_size))
        self.own = None if isinstance(pooler, Transform) else Transform(config)

    def transform(self, hidden_ND: Tensor) -> Tensor:
        """What `weight` and `bias` are applied to: give it masked positions only."""
        shared = self._pooler[0] if self.own is None else self.own
        assert shared is not None
        return shared(hidden_ND)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(self.transform(hidden), self.weight, self.bias)


class NextSentence(_Head):
    """Does B follow A? Logits (N, 2) of the first tokens of pairs: 0 = it does, 1 = it does not."""

    def __init__(self, config: ModelConfig, front: Front, pooler: nn.Module | None) -> None:
        super().__init__(config, front, pooler)
        self.dropout = 0.0
        self.dense = nn.Linear(_width(config), 2)

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, 2)."""
        return self.dense(self._read(hidden, pooler=True))


class Classes(_Head):
    """Logits (N, C) of the first tokens of items; or, where it `compares`, of two vectors a and b of each:
    of a, b, |a - b| and a * b, through a layer of its own (Conneau et al. 2017, arXiv 1705.02364)."""

    hidden: nn.Linear | None

    def __init__(self, config: ModelConfig, front: Front, pooler: nn.Module | None) -> None:
        super().__init__(config, front, pooler)
        D = _width(config)
        self.hidden = nn.Linear(4 * D, D) if config.compares else None
        self.dense = nn.Linear(D, _labels(config, "classes"))

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, C); where it compares (N, 2, D) -> (N, C)."""
        if self.hidden is None:
            return self.dense(self._read(hidden, pooler=True))
        a_ND, b_ND = hidden.unbind(1)
        both = torch.cat([a_ND, b_ND, (a_ND - b_ND).abs(), a_ND * b_ND], -1)
        return self.dense(self._read(torch.tanh(self.hidden(self._read(both, pooler=False))), pooler=False))


class Tags(_Head):
    """Logits of each token; with a CRF also scores of tag i before tag j, of tags that begin and that end.

    Attributes:
        transitions: (C, C) or None; row i, column j: tag j follows tag i.
        start, stop: (C,) or None.
    """

    transitions: nn.Parameter | None
    start: nn.Parameter | None
    stop: nn.Parameter | None

    def __init__(self, config: ModelConfig, front: Front, pooler: nn.Module | None) -> None:
        super().__init__(config, front, pooler)
        C = _labels(config, "tags")
        self._pooled = isinstance(pooler, Transform)
        self.dense = nn.Linear(_width(config), C)
        self.transitions = nn.Parameter(torch.empty(C, C)) if config.crf else None
        self.start = nn.Parameter(torch.empty(C)) if config.crf else None
        self.stop = nn.Parameter(torch.empty(C)) if config.crf else None

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., C)."""
        return self.dense(self._read(hidden, self._pooled))


class Span(_Head):
    """Logits (..., 2) of each token: an answer starts here, ends here. Where it `compares`, a layer of its
    own adds what the token's neighbourhood has to do with the question (objective/_match.py)."""

    hidden: nn.Linear | None
    match: nn.Linear | None

    def __init__(self, config: ModelConfig, front: Front, pooler: nn.Module | None) -> None:
        super().__init__(config, front, pooler)
        self._pooled = isinstance(pooler, Transform)
        self.dropout = config.dropout if self._pooled else 0.0  # BERT's has none
        D = _width(config)
        self.dense = nn.Linear(D, 2)
        self.hidden = nn.Linear(3 * D, D) if config.compares else None
        self.match = nn.Linear(D, 2) if config.compares else None

    def logits(self, hidden: Tensor, question: Tensor | None = None, near: Tensor | None = None) -> Tensor:
        """(..., D) -> (..., 2). Where it compares also the mean states of the question and of each token's
        neighbourhood, (..., D) each."""
        found = self.dense(self._read(hidden, self._pooled))
        if self.hidden is None or self.match is None:
            return found
        assert question is not None and near is not None
        both = torch.cat([hidden, near * question, (near - question).abs()], -1)
        return found + self.match(torch.tanh(self.hidden(both)))


class Replaced(_Head):
    """One logit (...) of each token: was it replaced? dense, GELU, dense, as ELECTRA's."""

    def __init__(self, config: ModelConfig, front: Front, pooler: nn.Module | None) -> None:
        super().__init__(config, front, pooler)
        self.hidden = nn.Linear(_width(config), _width(config))
        self.dense = nn.Linear(_width(config), 1)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (...)."""
        return self.dense(F.gelu(self.hidden(hidden))).squeeze(-1)


class Value(_Head):
    """One number (...) of each state: of encoders that of an item's first token, read through the pooler.

    A decoder's has no bias and no dropout, as in transformers' classes for sequences: a reward is read at the
    last token of a text, what a critic expects at every token.
    """

    def __init__(self, config: ModelConfig, front: Front, pooler: nn.Module | None) -> None:
        super().__init__(config, front, pooler)
        encoder = find(config.family).encoder
        self.dropout = config.dropout if encoder else 0.0
        self.dense = nn.Linear(_width(config), 1, bias=encoder)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (...)."""
        return self.dense(self._read(hidden, pooler=True)).squeeze(-1)


class Embedding(_Head):
    """No weights: vectors are pooled from the hidden states themselves."""

    def logits(self, hidden: Tensor) -> Tensor:
        """The hidden states as they are."""
        return hidden


class Vectors(_Head):
    """Numbers of masked positions: a matrix for each of the model's inputs, by its name."""

    def __init__(self, config: ModelConfig, front: Front, pooler: nn.Module | None) -> None:
        super().__init__(config, front, pooler)
        if not config.inputs:
            raise ConfigError(
                "the head 'vectors' of a model that reads tokens alone", expected="model.inputs"
            )
        self.dense = nn.ModuleDict(
            {name: nn.Linear(_width(config), math.prod(held)) for name, held in config.inputs.items()}
        )

    def logits(self, hidden: Tensor, name: str = "") -> Tensor:
        """(..., D) -> (..., numbers) of one input, by default the only one."""
        return self.dense[name or next(iter(self.dense))](hidden)


class Straight(_Head):
    """Values ahead (..., H) as a linear function of the values before (..., L), not of states.

    Attributes:
        straight: (H, L), zeros at first.
    """

    def __init__(self, config: ModelConfig, front: Front, pooler: nn.Module | None) -> None:
        super().__init__(config, front, pooler)
        if config.straight is None:
            raise ConfigError("the head 'straight' of no sizes", expected="model.straight=[before, ahead]")
        before, ahead = config.straight
        self.straight = nn.Parameter(torch.empty(ahead, before))

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., L) -> (..., H)."""
        return F.linear(hidden, self.straight)


class Heads(nn.ModuleDict):
    """Heads by name. Typed loosely: what a head offers depends on its name."""

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)


def _generator(config: ModelConfig, front: Front, pooler: nn.Module | None) -> nn.Module:
    from exnihilo.model.generator import Generator

    return Generator(config, front)


def _painter(config: ModelConfig, front: Front, pooler: nn.Module | None) -> nn.Module:
    from exnihilo.model.painter import Painter

    return Painter(config)


HEADS: dict[str, Callable[[ModelConfig, Front, nn.Module | None], nn.Module]] = {
    "tokens": Tokens,
    "mlm": MaskedTokens,
    "next": NextSentence,
    "classes": Classes,
    "tags": Tags,
    "span": Span,
    "replaced": Replaced,
    "value": Value,
    "embedding": Embedding,
    "vectors": Vectors,
    "straight": Straight,
    "generator": _generator,
    "painter": _painter,
}


def create(name: str, config: ModelConfig, front: Front, pooler: nn.Module | None) -> nn.Module:
    """A head by name."""
    if name not in HEADS:
        raise ConfigError(f"unknown head {name!r}", expected=nearest(name, HEADS))
    return HEADS[name](config, front, pooler)


def has_pooler(config: ModelConfig) -> bool:
    """Whether a resolved configuration has a pooler: where a head reads it, and where BERT's trunk is handed
    on as it is (embedding)."""
    kind, outputs = find(config.family).pooler, set(config.outputs)
    if config.compares:
        outputs -= {"classes"}
    if kind == "norm":
        return bool(outputs & NORMED)
    if kind == "tanh":
        return bool(outputs & (POOLED | {"embedding"}))
    return kind == "transform" and bool(outputs & (POOLED | SHARED))


def pooler(config: ModelConfig) -> nn.Module | None:
    """What several heads read from; None where none does."""
    if not has_pooler(config):
        return None
    made = {"tanh": Pooler, "transform": Transform, "norm": Norm}
    return made[find(config.family).pooler](config)


def _width(config: ModelConfig) -> int:
    assert config.width is not None
    return config.width


def _labels(config: ModelConfig, head: str) -> int:
    if config.labels is None:
        raise ConfigError(
            f"the head {head!r} without a number of labels",
            expected="model.labels=N: one output a label",
            next="let a training type learn it from the data",
        )
    return config.labels
