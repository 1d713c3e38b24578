"""Series classification: a class, several labels or a number for each series.

A series is [CLS] and its patches, all channels of a moment side by side; each channel is normalised by
itself, and what that takes away (its level and size, against those of the training part) stands in every
position beside it. Options are those of `sentence_classification` (kind, labels, class_weights ...) and of
`_series`. A series longer than a row is cut into windows, whose logits are averaged.

Sources: Nie et al. 2023 (PatchTST, arXiv 2211.14730); Dau et al. 2019 (the UCR archive, arXiv 1810.07758).

Key: B rows, T positions, D model width, P pieces (series), C channels, L moments, p values of a patch
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import Tensor

from exnihilo.codec.series import windows
from exnihilo.codec.series.read import Series
from exnihilo.codec.series.table import Unreadable
from exnihilo.data.base import Noted
from exnihilo.errors import ConfigError, DataError
from exnihilo.objective._classes import Classes
from exnihilo.objective._series import INPUT, Serial
from exnihilo.objective.base import Batch, Columns, Example, Item, Look
from exnihilo.objective.pieces import at_first

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

_LEAST = 1e-6  # of a deviation, against that of the training part


class SeriesClassification(Serial, Classes):
    """What a series is, as a whole."""

    roles: ClassVar[tuple[str, ...]] = ("series", "label")
    extras: ClassVar[tuple[str, ...]] = ()
    texts: ClassVar[tuple[str, ...]] = ()

    class Config(Serial.Config, Classes.Config):
        """Options of both."""

    config: SeriesClassification.Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        for name in ("known", "past", "static"):
            if getattr(self.config, name):
                raise ConfigError(
                    f"options.{name}: a series that is classified has channels alone",
                    next=f"options.targets names further channels; leave options.{name} out",
                )

    @property
    def columns(self) -> frozenset[str]:  # type: ignore[override]
        return super().columns | {"kind", "series"}

    @property
    def channels(self) -> int:
        """Channels of a series: C."""
        return len(self.facts.get("channels", self.config.targets)) or 1

    @property
    def numbers(self) -> int:
        """What a position holds: values and whether they are there, then level and size of each channel."""
        return self.channels * (2 * self.config.patch + 2)

    @property
    def model_settings(self) -> dict[str, Any]:
        return {**super().model_settings, "inputs": {INPUT: (self.numbers,)}}

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        """Names of the labels, and what `Serial` learns of the series; moments of all of them together."""
        kept = list(examples)
        labels = Classes.survey(self, kept)
        found = Serial.survey(self, kept)
        notes = [*labels.pop("notes", ()), *found.pop("notes", ())]
        return {**found, **labels, "notes": notes}

    # data ---------------------------------------------------------------------------------------

    def items_of(self, example: Example, codec: Codec, *, asked: bool) -> list[Item]:
        del asked
        found = self.series_of(example)
        if len(found) != 1:
            raise Unreadable(
                "of several series",
                f"{str(example[INPUT])[:60]} holds {len(found):,} series, and one is classified",
                expected="one series a file, or a row each",
                next="a table with a row a series, and a column of labels",
            )
        return self._windows(found[0], self.cls(codec))

    def _windows(self, series: Series, cls: int) -> list[Item]:
        p, C = self.config.patch, self.channels
        if series.values.shape[1] != C:
            raise Unreadable(
                f"without its {C} channels",
                f"series {series.name!r} has {series.values.shape[1]} channels",
                expected=f"{C}: {', '.join(map(str, self.facts.get('channels', ())))}",
            )
        held_L1C = series.values[None]
        z_1LC, level_1C2 = windows.normalise(
            held_L1C, np.ones(held_L1C.shape, bool), self.config.norm, floor=_LEAST * self._sizes()
        )
        level_C2 = self._level(level_1C2[0])
        P = -(-len(series) // p)
        padded = np.full((P * p, C), np.nan, np.float32)
        padded[: len(series)] = z_1LC[0]
        patches_PV = padded.reshape(P, p * C)
        there_PV = ~np.isnan(patches_PV)
        numbers_PF = np.concatenate(
            (np.where(there_PV, patches_PV, 0.0), there_PV, np.tile(level_C2.reshape(-1), (P, 1))), 1
        ).astype(np.float32)
        most = P if self.length is None else max(1, self.length - 1)
        return [self._item(numbers_PF[at : at + most], cls) for at in range(0, P, most)]

    def _sizes(self) -> float:
        """The training part's deviation, the smallest of all channels."""
        moments = (self.facts.get("spans") or {}).values()
        return min((std for _, std in moments), default=1.0)

    def _level(self, level_C2: np.ndarray) -> np.ndarray:
        """Level and size of each channel against those of the training part: (C, 2)."""
        spans = self.facts.get("spans") or {}
        names = self.facts.get("channels") or [""] * len(level_C2)
        mean_C, std_C = np.array([spans.get(name, (0.0, 1.0)) for name in names], np.float64).T
        shift_C, scale_C = level_C2[:, 0], np.maximum(level_C2[:, 1], 1e-30)
        return np.stack((np.tanh((shift_C - mean_C) / std_C / 3), np.tanh(np.log(scale_C / std_C) / 3)), 1)

    def _item(self, numbers_PF: np.ndarray, cls: int) -> Item:
        P, F = numbers_PF.shape
        tokens, kind = np.zeros(1 + P, np.int32), np.ones(1 + P, np.int8)
        tokens[0], kind[0] = cls, 0
        held = np.concatenate((np.zeros((1, F), np.float32), numbers_PF))
        return {"tokens": tokens, "kind": kind, INPUT: held}

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        out: list[list[Item]] = []
        for number, (example, items) in enumerate(
            zip(examples, super().encode_many(examples, codec), strict=True)
        ):
            gold = self._gold(example, number)
            if gold is None and "label" in example:
                out.append(Noted([], "without label"))
                continue
            for item in items:
                length = len(np.asarray(item["tokens"]))
                for name, target in zip(self._columns(), self._targets(gold), strict=True):
                    item[name] = at_first(target, length)
            out.append(items)
        return out

    def query(self, example: Example, codec: Codec) -> Item | list[Item]:
        items = self.items_of(example, codec, asked=True)
        for item in items:
            length = len(np.asarray(item["tokens"]))
            for name, target in zip(self._columns(), self._targets(None), strict=True):
                item[name] = at_first(target, length)
        return items

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        del keys, look
        return columns

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        return {**super().inputs(batch), "kind": batch["kind"], INPUT: batch[INPUT]}

    # predictions --------------------------------------------------------------------------------

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """As `Classes.decode`, of the mean over the windows; "windows", how many, where several."""
        if not outputs:
            raise DataError("an example without a series to read", expected="a file, or [1, 2, 3]")
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
