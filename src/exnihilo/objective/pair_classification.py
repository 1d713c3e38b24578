"""Classification of a pair of texts: entailment, paraphrase, similarity (regression).

    exnihilo train pair_classification init=runs/bert data=train.tsv val=dev.tsv
    exnihilo train pair_classification data=scored.jsonl options.kind=regression options.pooling=compare

The encoding is [CLS] a [SEP] b [SEP], segment 0 for a and 1 for b; the longer text is cut first. What it
shares with `sentence_classification` (options, losses, metrics, calibration) is in `_classes`. See
docs/pair_classification.md.

Sources: Devlin et al. 2018 (arXiv 1810.04805); `compare`: Conneau et al. 2017 (arXiv 1705.02364), here on
states that have seen both texts.

Key: B rows, T positions, D model width, P pieces (pairs), C classes
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import torch
from torch import Tensor

from exnihilo.errors import ModelError
from exnihilo.objective._classes import Classes
from exnihilo.objective.base import Batch
from exnihilo.objective.pieces import firsts

if TYPE_CHECKING:
    from exnihilo.model.model import Model


@final
class PairClassification(Classes):
    """{"a", "b", "label"} -> {"label", "probabilities"}, {"labels", "probabilities"} or {"score"}."""

    roles: ClassVar[tuple[str, ...]] = ("a", "b", "label")
    texts: ClassVar[tuple[str, ...]] = ("a", "b")
    view: ClassVar[str] = "entailment"

    class Config(Classes.Config):
        """Options.

        Attributes:
            pooling: what the label is read from: the ``first`` token, as in BERT, or the means of both texts,
                their distance and their product (``compare``): what a small model learns from few pairs.
        """

        pooling: Literal["first", "compare"] = "first"

    config: PairClassification.Config

    @property
    def model_settings(self) -> dict[str, Any]:
        return {**super().model_settings, **({"compares": True} if self._compares else {})}

    @property
    def _compares(self) -> bool:
        return self.config.pooling == "compare"

    def reads(self, batch: Batch) -> Tensor | None:
        return None if self._compares else super().reads(batch)

    def _logits(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> Tensor:
        head: Any = model.heads["classes"]
        if (head.hidden is not None) != self._compares:
            raise ModelError(
                f"options.pooling={self.config.pooling}, but the model was built for the other",
                expected="the pooling that it was trained with",
            )
        if not self._compares:
            return super()._logits(model, hidden_BTD, batch)
        logits_PC = head.logits(means(hidden_BTD, batch))
        return logits_PC.to(torch.promote_types(logits_PC.dtype, torch.float32))


def means(hidden_BTD: Tensor, batch: Batch) -> Tensor:
    """The mean state of each text of each pair, its [SEP] included and [CLS] not: (P, 2, D), row by row and
    left to right.

    >>> batch = {"tokens": torch.zeros(1, 5), "segment": torch.tensor([[0, 0, 0, 1, 1]])}
    >>> means(torch.arange(5.0).view(1, 5, 1), batch).tolist()
    [[[1.5], [3.5]]]
    """
    first_BT = firsts(batch)
    pairs, D = int(first_BT.sum()), hidden_BTD.shape[-1]
    held_BT = ~first_BT
    if "doc" in batch:
        held_BT = held_BT & (batch["doc"] >= 0)
    text_BT = 2 * (first_BT.flatten().cumsum(0) - 1).view_as(first_BT) + batch["segment"]
    text_N, hidden_ND = text_BT[held_BT], hidden_BTD[held_BT]
    hidden_ND = hidden_ND.to(torch.promote_types(hidden_ND.dtype, torch.float32))
    sum_SD = hidden_ND.new_zeros(2 * pairs, D).index_add(0, text_N, hidden_ND)
    count_S = torch.bincount(text_N, minlength=2 * pairs).clamp(min=1)
    return (sum_SD / count_S[:, None]).view(pairs, 2, D)
