"""Picture classification: a class, several labels or a number for each picture.

A picture is [CLS] and its patches (`_seeing`); the head ``classes`` reads the mark, or the mean over the
patches. Options are those of `sentence_classification` (kind, labels, class_weights ...) and of `_seeing`
(size, patch, channels, augment ...). With mixup or CutMix the loss is shared out between the two labels.

Sources: Dosovitskiy et al. 2020 (ViT, arXiv 2010.11929); Zhang et al. 2017 (mixup, arXiv 1710.09412); Yun et
al. 2019 (CutMix, arXiv 1905.04899).

Key: B rows, T positions, D model width, P pieces (pictures), C classes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from exnihilo.errors import DataError
from exnihilo.objective._classes import Classes
from exnihilo.objective._seeing import Seeing
from exnihilo.objective.base import Batch, Example, Item
from exnihilo.objective.pieces import IGNORE, at_first, firsts

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model


MARKED = ("vit",)
"""Families whose classifiers read [CLS] wherever they are loaded."""


class PictureClassification(Seeing, Classes):
    """What is seen, as a whole."""

    roles: ClassVar[tuple[str, ...]] = ("picture", "label")
    fresh: ClassVar[Literal["learn", "pretrain"]] = "pretrain"  # from nothing; a task's rates are too low
    texts: ClassVar[tuple[str, ...]] = ()

    class Config(Seeing.Config, Classes.Config):
        """Options of both.

        Attributes:
            pool: what the head reads: ``mark``, the state of [CLS], or ``mean``, the mean of those of the
                patches; ``auto``: the mean, which is learnt sooner, but of family vit the mark, as its
                published heads do.
        """

        pool: Literal["auto", "mark", "mean"] = "auto"

        @model_validator(mode="after")
        def _check_mixing(self) -> PictureClassification.Config:
            if self.augment.mixes and self.kind not in ("multiclass", "binary"):
                raise ValueError(f"augment.mixup and cutmix have no meaning with kind={self.kind}")
            return self

    config: Config

    @property
    def columns(self) -> frozenset[str]:  # type: ignore[override]
        more = {"mix", "label_mixed"} if self.config.augment.mixes else set()
        return super().columns | {"kind", "picture", "place", *more}

    # data ---------------------------------------------------------------------------------------

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        out: list[list[Item]] = []
        for number, (example, items) in enumerate(zip(examples, self.see_many(examples, codec), strict=True)):
            gold = self._gold(example, number)
            if gold is None and "label" in example:
                out.append([])
                continue
            for item in items:
                length = len(np.asarray(item["tokens"]))
                for name, target in zip(self._columns(), self._targets(gold), strict=True):
                    item[name] = at_first(target, length)
            out.append(items)
        return out

    # training -----------------------------------------------------------------------------------

    def reads(self, batch: Batch) -> Tensor | None:  # type: ignore[override]
        return firsts(batch) if self.config.pool == "mark" else None

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        if "label_mixed" not in batch:
            return super().losses(model, hidden_BTD, batch)
        logits_PC, first_BT = self._logits(model, hidden_BTD, batch), firsts(batch)
        own_P, other_P = batch["label"][first_BT].long(), batch["label_mixed"][first_BT].long()
        share_P = batch["mix"][first_BT].to(logits_PC.dtype)
        weight_C = None
        if self.config.class_weights != "none":
            weight_C = self._weights(logits_PC.device, logits_PC.dtype)
        rule: dict[str, Any] = {"weight": weight_C, "label_smoothing": self.config.label_smoothing}
        loss_P = F.cross_entropy(logits_PC, own_P, reduction="none", **rule)
        mixed_P = F.cross_entropy(logits_PC, other_P, reduction="none", **rule)
        mixed_P = torch.where(other_P == IGNORE, loss_P, mixed_P)
        return {"ce": torch.where(own_P == IGNORE, 0.0, share_P * loss_P + (1 - share_P) * mixed_P).sum()}

    def _logits(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> Tensor:
        head: Any = model.heads["classes"]
        first_BT = firsts(batch)
        pool = self.config.pool
        if pool == "mark" or (pool == "auto" and model.config.family in MARKED):
            states_PD = hidden_BTD[first_BT]
        else:  # every picture has as many patches, right behind its mark
            rows_P, marks_P = first_BT.nonzero(as_tuple=True)
            steps_T = torch.arange(1, 1 + self.layout.positions, device=marks_P.device)
            states_PD = hidden_BTD[rows_P[:, None], marks_P[:, None] + steps_T].mean(1)
        logits_PC = head.logits(states_PD)
        return logits_PC.to(torch.promote_types(logits_PC.dtype, torch.float32))

    # predictions --------------------------------------------------------------------------------

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """As `Classes.decode`."""
        if not outputs:
            raise DataError(
                f"{example.get('picture')}: nothing to see", expected="a picture that can be read"
            )
        return super().decode(example, items, outputs)
