"""Sound classification: a class, several labels or a number for each sound.

A sound is [CLS] and its frames (`_hearing`); the head ``classes`` reads the marks, or the mean over the
sound. Options are those of `sentence_classification` (kind, labels, class_weights ...) and of `_hearing`
(rate, frames, augment ...). A sound longer than a row is cut into windows, whose logits are averaged.

Sources: Gong et al. 2021 (AST, arXiv 2104.01778); Zhang et al. 2018 (mixup, arXiv 1710.09412).

Key: B rows, T positions, D model width, P pieces (sounds), C classes
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from exnihilo.errors import DataError
from exnihilo.objective._classes import Classes
from exnihilo.objective._hearing import Hearing
from exnihilo.objective.base import Batch, Columns, Example, Item, Look
from exnihilo.objective.pieces import IGNORE, at_first, firsts

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model


class SoundClassification(Hearing, Classes):
    """What is heard, as a whole."""

    roles: ClassVar[tuple[str, ...]] = ("sound", "label")
    texts: ClassVar[tuple[str, ...]] = ()
    fresh: ClassVar[Literal["learn", "pretrain"]] = "pretrain"  # at a task's rates it learns half as fast
    stacked: ClassVar[int] = 4  # twice as many sounds in the same time as with Whisper's two

    class Config(Hearing.Config, Classes.Config):
        """Options of both.

        Attributes:
            pool: what the head reads: ``marks``, the mean of the states of the marks, or ``mean``, of those
                of the sound.
        """

        pool: Literal["marks", "mean"] = "marks"

        @model_validator(mode="after")
        def _check_mixup(self) -> SoundClassification.Config:
            if self.augment.mixup and self.kind not in ("multiclass", "binary"):
                raise ValueError(f"augment.mixup has no meaning with kind={self.kind}")
            return self

    config: SoundClassification.Config

    @property
    def columns(self) -> frozenset[str]:  # type: ignore[override]
        more = {"mix", "label_mixed"} if self.config.augment.mixup else set()
        return super().columns | {"kind", "sound", *more}

    # data ---------------------------------------------------------------------------------------

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        notes: list[str] = []
        found = super().survey(self.audible(examples, self._named, notes))
        return {**found, "notes": [*found.get("notes", ()), *notes]} if notes else found

    def _named(self, example: Example) -> tuple[str, ...]:
        """The labels of an example, by which a class is known."""
        try:
            gold = None if self.config.kind == "regression" else self._gold(example, 0)
        except DataError:
            return ()  # the survey says so, with the row
        return () if gold is None else gold if isinstance(gold, tuple) else (str(gold),)

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        out: list[list[Item]] = []
        for number, (example, items) in enumerate(
            zip(examples, self.hear_many(examples, codec), strict=True)
        ):
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

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        out = super().draw(columns, keys, look)
        if "other" in out:
            out["label_mixed"] = np.take_along_axis(out["label"], out.pop("other"), 1)
        return out

    # training -----------------------------------------------------------------------------------

    def reads(self, batch: Batch) -> Tensor | None:  # type: ignore[override]
        return firsts(batch) if self.config.pool == "marks" and self.marked == 1 else None

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
        if self.config.pool == "mean":
            states_PD = _means(hidden_BTD, batch["kind"] == 1, batch.get("doc"), first_BT)
        else:
            states_PD = hidden_BTD[first_BT]
            if self.marked == 2:
                second_BT = torch.zeros_like(first_BT)
                second_BT[:, 1:] = first_BT[:, :-1]
                states_PD = (states_PD + hidden_BTD[second_BT]) / 2
        logits_PC = head.logits(states_PD)
        return logits_PC.to(torch.promote_types(logits_PC.dtype, torch.float32))

    # predictions --------------------------------------------------------------------------------

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """As `Classes.decode`, of the mean over the windows; "windows", how many, where several."""
        if not outputs:
            raise DataError(f"{example.get('sound')}: nothing to hear", expected="a sound that can be read")
        more = {"windows": len(outputs)} if len(outputs) > 1 else {}
        return {**super().decode(example, items[:1], _averaged(outputs)), **more}

    def calibrate(
        self,
        examples: Sequence[Example],
        items: Sequence[Sequence[Item]],
        outputs: Sequence[Sequence[Mapping[str, np.ndarray]]],
    ) -> dict[str, Any]:
        return super().calibrate(examples, items, [_averaged(each) for each in outputs])


def _averaged(outputs: Sequence[Mapping[str, np.ndarray]]) -> list[Mapping[str, np.ndarray]]:
    """One output: the mean of the windows' logits."""
    if len(outputs) < 2:
        return list(outputs)
    return [{"logits": np.mean([np.asarray(out["logits"], np.float64) for out in outputs], 0)}]


def _means(hidden_BTD: Tensor, heard_BT: Tensor, doc_BT: Tensor | None, first_BT: Tensor) -> Tensor:
    """The mean state of each document's sound, (P, D): of no sound, zeros."""
    piece_BT = first_BT.flatten().cumsum(0).view_as(first_BT) - 1
    inside_BT = heard_BT if doc_BT is None else heard_BT & (doc_BT >= 0)
    P, at_N = int(first_BT.sum()), piece_BT[inside_BT]
    sums_PD = hidden_BTD.new_zeros(P, hidden_BTD.shape[-1]).index_add(0, at_N, hidden_BTD[inside_BT])
    count_P = torch.bincount(at_N, minlength=P).clamp(min=1)
    return sums_PD / count_P.unsqueeze(1).to(sums_PD.dtype)
