"""Masked-token prediction: BERT's pretraining. Some tokens are hidden, and predicted from both sides.

A document is cut into chunks ``[CLS] ids [SEP]``; where rows would stay too empty, a chunk is cut again, and
its pieces stand between [CLS] and [SEP], too (`frame`). Each time a row is seen, other positions are masked
(`_masking`), as a pure function of (seed, step, row). The loss is the negative log-likelihood of the original
tokens, in nats; transform, output matrix and softmax are computed at masked positions only: nothing else of
them is ever used, and with a large vocabulary they are most of a small model's work.

A trained model also fills gaps: ``predict "The [MASK] sat on the mat."``.

Source: Devlin et al. 2018, *BERT* (arXiv 1810.04805).

Key: B rows, T positions, N masked positions, D model width, V vocabulary, K candidates of a gap
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from exnihilo.errors import ConfigError, DataError, UsageError
from exnihilo.kernels.linear_ce import linear_cross_entropy
from exnihilo.nn.layout import Attention
from exnihilo.objective._masking import Masking, mask
from exnihilo.objective._text import by_source, dtype_of, ends_of, mask_of, texts_of, vocabulary
from exnihilo.objective.base import Batch, Columns, Example, Item, Look, Objective
from exnihilo.objective.pieces import IGNORE

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model


def kept(batch: Batch) -> Tensor:
    """Flat indices (N,) of the positions that are predicted."""
    kept_BT = batch["targets"] != IGNORE
    if "doc" in batch:
        kept_BT = kept_BT & (batch["doc"] >= 0)
    return kept_BT.flatten().nonzero().squeeze(1)


def masked_nll(head: Any, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
    """{"mlm": Σ −log p(original token)} over the masked positions, which are all that is computed."""
    at_N = kept(batch)
    hidden_ND = head.transform(hidden_BTD.flatten(0, 1).index_select(0, at_N))
    targets_N = batch["targets"].flatten().index_select(0, at_N)
    total, nll_N = linear_cross_entropy(hidden_ND, head.weight, targets_N, bias_V=head.bias)
    return {"mlm": total, **by_source("mlm", batch, nll_N, at_N // hidden_BTD.shape[1])}


def masked_count(batch: Batch) -> dict[str, Tensor]:
    """{"mlm": N}, and by source."""
    at_N = kept(batch)
    ones_N = torch.ones(len(at_N), dtype=torch.float64, device=at_N.device)
    return {"mlm": ones_N.sum(), **by_source("mlm", batch, ones_N, at_N // batch["targets"].shape[1])}


class MaskedLM(Objective):
    """Encoder pretraining; the result is a base model."""

    attention: ClassVar[Attention] = Attention.FULL
    heads: ClassVar[tuple[str, ...]] = ("mlm",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "source", "targets"})
    frame: ClassVar[tuple[int, int] | None] = (1, 1)
    terms: ClassVar[tuple[str, ...]] = ("mlm",)  # keys of its losses

    class Config(Masking):
        top_k: int = Field(default=5, ge=1)  # candidates of a gap, when predicting

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        if length is not None and length < 3:
            raise ConfigError(
                f"masked_lm with rows of {length} positions",
                expected="3 or more: [CLS], a token, [SEP]",
                next="model.context=128",
            )
        self._codec: Codec | None = None  # of the last query: names the tokens that `decode` tells

    # data ---------------------------------------------------------------------------------------

    def encode(self, example: Example, codec: Codec) -> list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        return [self.chunks(ids, codec) for ids in codec.encode_batch(texts_of(examples))]

    def chunks(self, ids: Sequence[int] | np.ndarray, codec: Codec) -> list[Item]:
        """[CLS] ids [SEP], several where they do not fit into a row."""
        size = max(1, len(ids)) if self.length is None else self.length - 2
        cls, sep = ends_of(codec)
        whole, out = np.asarray(ids, dtype_of(codec)), []
        for start in range(0, len(whole), size):
            part = whole[start : start + size]
            tokens = np.empty(len(part) + 2, whole.dtype)
            tokens[0], tokens[1:-1], tokens[-1] = cls, part, sep
            out.append({"tokens": tokens})
        return out

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        masking = self.config if look.training else self.config.of_evaluation()
        tokens, targets = mask(
            columns["tokens"], columns["doc"], keys, masking, vocabulary(look.codec), mask_of(look.codec)
        )
        return {**columns, "tokens": tokens, "targets": targets}

    # training -----------------------------------------------------------------------------------

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return masked_count(batch)

    def reads(self, batch: Batch) -> Tensor:
        return batch["targets"] != IGNORE

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        return masked_nll(model.heads["mlm"], hidden_BTD, batch)

    def metrics(self, totals: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        out = super().metrics(totals, counts)
        if "mlm" in out:
            out["mlm_perplexity"] = math.exp(min(out["mlm"], 700.0))
        return out

    # filling gaps -------------------------------------------------------------------------------

    def asks(self, example: Example | None = None) -> tuple[str, ...]:
        """Roles of an example that is predicted."""
        return ("text",)

    def query(self, example: Example, codec: Codec) -> list[Item]:
        """The text with its [MASK]s as mask tokens, in chunks; their targets are 0, all others IGNORE."""
        text, token, id = texts_of([example])[0], mask_name(codec), mask_of(codec)
        between = text.split(token)
        if len(between) < 2:
            raise DataError(
                f"a text without {token}: {text[:60]!r}",
                expected=f"at least one {token} where a word is to be filled in",
                next=f'"The {token} sat on the mat."',
            )
        # a tokenizer of whole texts writes a word with the space before it: the gap takes that space along
        pieces = codec.encode_batch([part.rstrip() for part in between[:-1]] + between[-1:])
        ids = [*pieces[0]]
        for piece in pieces[1:]:
            ids += [id, *piece]
        self._codec = codec
        items = self.chunks(ids, codec)
        for item in items:
            tokens = np.asarray(item["tokens"])
            item["targets"] = np.where(tokens == id, 0, IGNORE).astype(np.int64)
        return items

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Likeliest tokens of gaps, best first: ids and probabilities, (B, T, K) each; 0 elsewhere."""
        head: Any = model.heads["mlm"]
        at_N = kept(batch)
        hidden_ND = head.transform(hidden_BTD.flatten(0, 1).index_select(0, at_N))
        bias_V = head.bias
        p_NV = F.linear(hidden_ND, head.weight, bias_V).float().softmax(-1)
        K = min(self.config.top_k, p_NV.shape[1])
        top_NK, ids_NK = p_NV.topk(K, -1)
        shape = (*hidden_BTD.shape[:2], K)
        ids = torch.zeros(shape, dtype=torch.int64, device=at_N.device)
        probabilities = torch.zeros(shape, dtype=top_NK.dtype, device=at_N.device)
        ids.view(-1, K)[at_N], probabilities.view(-1, K)[at_N] = ids_NK, top_NK
        return {"ids": ids, "probabilities": probabilities}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """{"text": filled in, "gaps": a list a gap, best first, of {"token", "id", "probability"}}."""
        codec = self._codec
        if codec is None:
            raise UsageError(
                "decode() before query()", expected="items that query() made", next="use predict"
            )
        gaps = []
        for item, output in zip(items, outputs, strict=True):
            for at in np.flatnonzero(np.asarray(item["targets"]) == 0).tolist():
                pairs = zip(output["ids"][at].tolist(), output["probabilities"][at].tolist(), strict=True)
                gaps.append([{"token": written(codec, i), "id": i, "probability": p} for i, p in pairs])
        between = str(example["text"]).split(mask_name(codec))
        text = between[0] + "".join(
            gap[0]["token"] + part for gap, part in zip(gaps, between[1:], strict=True)
        )
        return {"text": text, "gaps": gaps}


def mask_name(codec: Codec) -> str:
    """How the mask token is written, e.g. "[MASK]"."""
    mask_of(codec)
    return codec.roles["mask"]


def written(codec: Codec, id: int) -> str:
    """An id as a reader writes it in a gap.

    A piece inside a word loses its ``##``, a piece with a space before it the space.
    """
    return codec.decode([id], skip_special=False).strip().removeprefix("##")
