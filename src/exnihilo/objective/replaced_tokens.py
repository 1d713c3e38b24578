"""Replaced-token detection: a small generator fills masks, the model finds out which tokens were replaced.

Every position teaches something, not only the masked ones (GLUE as published: ELECTRA-small 79.9, a BERT of
its size 75.1).

1. Positions are masked, and the generator (`model/generator.py`) predicts them: the loss ``mlm``.
2. At each a token is sampled from what it predicts. The random number comes from `draw`, so it is a function
   of (seed, step, row); no gradient goes through the sample. A sample that equals the original *is* the
   original.
3. The model reads the result and gives a logit for each token: the loss ``replaced``, binary cross-entropy
   over all tokens, 50 times as heavy, as in the paper.

A trained model also reads a text for words that do not belong: ``predict RUN "The mat sat on the cat."``.

Source: Clark et al. 2020, *ELECTRA* (arXiv 2003.10555).

Key: B rows, T positions, N masked positions, D model width, W width of the generator, V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from exnihilo.nn.layout import Attention
from exnihilo.objective._masking import Masking, mask
from exnihilo.objective._offsets import offsets
from exnihilo.objective._text import dtype_of, mask_of, texts_of, vocabulary
from exnihilo.objective.base import Batch, Columns, Example, Item, Look, Objective
from exnihilo.objective.masked_lm import MaskedLM, kept, masked_count, masked_nll

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

CHUNK = 1 << 22  # logits held at once while sampling


class ReplacedTokens(Objective):
    """Encoder pretraining with a generator; the result is the model that finds replacements."""

    attention: ClassVar[Attention] = Attention.FULL
    heads: ClassVar[tuple[str, ...]] = ("generator", "replaced")
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "source", "targets", "chance"})
    frame: ClassVar[tuple[int, int] | None] = (1, 1)

    class Config(Masking):
        mask: float = Field(default=1.0, ge=0, le=1)  # share of the chosen that become [MASK]
        random: float = Field(default=0.0, ge=0, le=1)
        weight: float = Field(default=50.0, gt=0)  # of the loss over all tokens

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        self._chunks = MaskedLM(length=length)

    @property
    def weights(self) -> Mapping[str, float]:  # type: ignore[override]
        return {"replaced": self.config.weight, "replaced_accuracy": 0.0}

    # data ---------------------------------------------------------------------------------------

    def encode(self, example: Example, codec: Codec) -> list[Item]:
        return self._chunks.encode(example, codec)

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        return self._chunks.encode_many(examples, codec)

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        masking = self.config if look.training else self.config.of_evaluation()
        tokens, targets = mask(
            columns["tokens"], columns["doc"], keys, masking, vocabulary(look.codec), mask_of(look.codec)
        )
        chance = np.empty(tokens.shape, np.float32)
        for key, row_T in zip(keys, chance, strict=True):
            key.random(out=row_T, dtype=np.float32)
        return {**columns, "tokens": tokens, "targets": targets, "chance": chance}

    # training -----------------------------------------------------------------------------------

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        total = _real(batch).to(torch.float64).sum()
        return {**masked_count(batch), "replaced": total, "replaced_accuracy": total}

    def sums(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        generator: Any = model.heads["generator"]
        inputs = self.inputs(batch)
        hidden_BTW = model(inputs, self.attention, through="generator")
        out = masked_nll(generator.mlm, hidden_BTW, batch)
        tokens_BT, replaced_BT = self.corrupt(generator, hidden_BTW, batch)
        hidden_BTD = model({**inputs, "tokens": tokens_BT}, self.attention)
        logits_BT = model.heads["replaced"].logits(hidden_BTD)
        logits_BT = logits_BT.to(torch.promote_types(logits_BT.dtype, torch.float32))
        real_BT = _real(batch)
        label_BT = replaced_BT.to(logits_BT.dtype)
        nll_BT = F.binary_cross_entropy_with_logits(logits_BT, label_BT, reduction="none")
        right_BT = (logits_BT.detach() > 0) == replaced_BT
        return {
            **out,
            "replaced": nll_BT.masked_fill(~real_BT, 0.0).sum(),
            "replaced_accuracy": (right_BT & real_BT).to(logits_BT.dtype).sum(),
        }

    # prediction ---------------------------------------------------------------------------------

    def query(self, example: Example, codec: Codec) -> list[Item]:
        """The text in chunks, with the columns char_start and char_end: characters of each token, -1 at
        [CLS] and [SEP]."""
        ids, starts, ends = offsets(codec, texts_of([example])[0])
        items = self._chunks.chunks(ids.astype(dtype_of(codec)), codec)
        at = 0
        for item in items:
            n = len(np.asarray(item["tokens"]))
            for name, values in (("char_start", starts), ("char_end", ends)):
                column = np.full(n, -1, np.int64)
                column[1:-1] = values[at : at + n - 2]
                item[name] = column
            at += n - 2
        return items

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """replaced (B, T): the probability that a token is not the one that was written."""
        head: Any = model.heads["replaced"]
        return {"replaced": head.logits(hidden_BTD).float().sigmoid()}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """{"replaced": the likeliest probability of the text, "tokens": a list of {"token", "start", "end",
        "replaced"}}, characters of the text as it was given."""
        text, tokens = str(example["text"]), []
        for item, output in zip(items, outputs, strict=True):
            starts, ends = np.asarray(item["char_start"]), np.asarray(item["char_end"])
            for at in np.flatnonzero(starts >= 0).tolist():
                a, b = int(starts[at]), int(ends[at])
                p = round(float(output["replaced"][at]), 6)
                tokens.append({"token": text[a:b], "start": a, "end": b, "replaced": p})
        return {"replaced": max((t["replaced"] for t in tokens), default=0.0), "tokens": tokens}

    # the generator ------------------------------------------------------------------------------

    def corrupt(self, generator: Any, hidden_BTW: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Tokens with the generator's samples in place of the masks, and which of them differ from the
        original; (B, T) each, without gradient."""
        at_N = kept(batch)
        flat = batch["tokens"].flatten().clone()
        original_N = batch["targets"].flatten().index_select(0, at_N)
        with torch.no_grad():
            hidden_NW = hidden_BTW.detach().flatten(0, 1).index_select(0, at_N)
            chance_N = batch["chance"].flatten().index_select(0, at_N)
            step = max(1, CHUNK // generator.mlm.weight.shape[0])
            for start in range(0, len(at_N), step):
                part = slice(start, start + step)
                logits_NV = generator.logits(hidden_NW[part])
                flat[at_N[part]] = sample(logits_NV, chance_N[part])
        replaced = torch.zeros(flat.shape, dtype=torch.bool, device=flat.device)
        replaced[at_N] = flat.index_select(0, at_N) != original_N
        return flat.view_as(batch["tokens"]), replaced.view_as(batch["tokens"])


def sample(logits_NV: Tensor, chance_N: Tensor) -> Tensor:
    """Ids (N,) from softmax(logits): the smallest id at which the cumulated probability passes chance, a
    number in [0, 1).

    >>> sample(torch.tensor([[0.0, 0.0, 0.0, 0.0]] * 2), torch.tensor([0.3, 0.8])).tolist()
    [1, 3]
    """
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    below_NV = logits_NV.to(wide).softmax(-1).cumsum(-1)
    # times the sum: rounding may leave it a little under 1
    at_N1 = (chance_N.to(wide).clamp(max=1 - 1e-6) * below_NV[:, -1]).unsqueeze(1)
    return torch.searchsorted(below_NV, at_N1, right=True).squeeze(1).clamp(max=logits_NV.shape[-1] - 1)


def _real(batch: Batch) -> Tensor:
    """Bool (B, T): not padding."""
    if "doc" in batch:
        return batch["doc"] >= 0
    return torch.ones_like(batch["tokens"], dtype=torch.bool)
