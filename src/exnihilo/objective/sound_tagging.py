"""Tagging over time: which events are heard in a sound, and from when to when. Several may sound at once.

The head ``tags`` gives each position (20 ms, unless `stack` says else) a logit for each label; the loss is
binary cross-entropy. Events are what is read off the probabilities above a threshold, runs of positions
joined over short gaps. The data has a role ``events``: a list of {"start", "end", "label"} in seconds, in a
table, or as Audacity's label file beside the sound. A sound longer than a row is heard in windows.

Metrics: F1 over time (of positions, all labels together and by label), and of events whose beginning is right
within 200 ms (Mesaros et al. 2016, *Metrics for Polyphonic Sound Event Detection*).

Key: B rows, T positions, D model width, L labels, W words of bits
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from exnihilo.errors import DataError
from exnihilo.objective._classes import WORD
from exnihilo.objective._hearing import Hearing
from exnihilo.objective.base import Batch, Example, Item
from exnihilo.objective.pieces import IGNORE

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

TICK = 0.02
"""Seconds that times are compared in."""
ONSET = 0.2
"""Seconds that the beginning of an event may be off."""


class SoundTagging(Hearing):
    """Events of a sound."""

    heads: ClassVar[tuple[str, ...]] = ("tags",)
    roles: ClassVar[tuple[str, ...]] = ("sound", "events")
    view: ClassVar[str] = "soundscapes"
    supervised: ClassVar[bool] = True
    main_metric: ClassVar[str] = "micro_f1"

    class Config(Hearing.Config):
        """Options of what is heard, and

        Attributes:
            threshold: probability from which a label holds; default: tuned on the validation split, else 0.5.
            gap: seconds; shorter pauses inside an event are part of it.
            least: seconds; shorter events are none.
        """

        threshold: float | None = Field(default=None, gt=0, lt=1)
        gap: float = Field(default=0.1, ge=0)
        least: float = Field(default=0.06, ge=0)

    config: SoundTagging.Config

    @property
    def labels(self) -> int | None:
        found = self.facts.get("labels")
        return len(found) if found else None

    @property
    def columns(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"tokens", "doc", "pos", "kind", "sound", *self._columns()})

    def _columns(self) -> list[str]:
        words = -(-(self.labels or 1) // WORD)
        return ["label", *(f"label{w}" for w in range(1, words))]

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        counts: Counter[str] = Counter()
        number, notes = 0, list[str]()
        for example in self.audible(examples, lambda e: {event["label"] for event in events_of(e)}, notes):
            number += 1
            counts.update({event["label"] for event in events_of(example)})
        if not counts:
            raise DataError(
                f"none of {number:,} sounds has an event",
                expected='a role \'events\': a list of {"start", "end", "label"}',
                next="name the column with data.fields={events = COLUMN}",
            )
        found = {"labels": sorted(counts), "counts": dict(sorted(counts.items())), "examples": number}
        return {**found, "notes": notes} if notes else found

    # data ---------------------------------------------------------------------------------------

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        heard = self.hear_many(examples, codec)
        for example, items in zip(examples, heard, strict=True):
            events = events_of(example) if "events" in example else None
            offset = 0.0
            for item in items:
                item.update(self._bits(events, np.asarray(item["kind"]), offset))
                offset += int(item["samples"]) / self.config.rate
        return heard

    def _bits(
        self, events: Sequence[Mapping[str, Any]] | None, kind: np.ndarray, offset: float
    ) -> dict[str, np.ndarray]:
        """Which labels hold at each position, as bits; `IGNORE` at marks, and everywhere without events."""
        held_T = np.flatnonzero(kind == 1)
        out = {name: np.full(len(kind), IGNORE, np.int32) for name in self._columns()}
        if events is None:
            return out
        ids = {name: i for i, name in enumerate(self.facts.get("labels") or ())}
        step = self.layout.samples / self.layout.second
        middle_T = offset + (np.arange(len(held_T)) + 0.5) * step
        bits = np.zeros((len(held_T), len(out)), np.int32)
        for event in events:
            if (label := ids.get(event["label"])) is not None:
                inside = (middle_T >= event["start"]) & (middle_T < event["end"])
                bits[inside, label // WORD] |= 1 << label % WORD
        for w, name in enumerate(out):
            out[name][held_T] = bits[:, w]
        return out

    # training -----------------------------------------------------------------------------------

    @staticmethod
    def _held(batch: Batch) -> Tensor:
        held_BT = (batch["kind"] == 1) & (batch["label"] != IGNORE)
        return held_BT & (batch["doc"] >= 0) if "doc" in batch else held_BT

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"bce": self._held(batch).to(torch.float64).sum() * (self.labels or 1)}

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        head: Any = model.heads["tags"]
        held_BT = self._held(batch)
        logits_NL = head.logits(hidden_BTD[held_BT])
        logits_NL = logits_NL.to(torch.promote_types(logits_NL.dtype, torch.float32))
        words_NW = torch.stack([batch[name][held_BT].long() for name in self._columns()], 1)
        at_L = torch.arange(self.labels or 1, device=words_NW.device)
        bits_NL = ((words_NW[:, at_L // WORD] >> at_L % WORD) & 1).to(logits_NL.dtype)
        return {"bce": F.binary_cross_entropy_with_logits(logits_NL, bits_NL, reduction="sum")}

    # predictions --------------------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        head: Any = model.heads["tags"]
        logits_BTL = head.logits(hidden_BTD)
        return {"p": logits_BTL.to(torch.promote_types(logits_BTL.dtype, torch.float32)).sigmoid()}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """{"events": [{"start", "end", "label", "probability"}], "probabilities": {label: its highest}}."""
        p_TL = self._whole(example, items, outputs)
        peak = {name: float(p) for name, p in zip(self.facts["labels"], p_TL.max(0), strict=True)}
        return {"events": self.events(p_TL), "probabilities": peak}

    @staticmethod
    def _whole(
        example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> np.ndarray:
        if not outputs:
            raise DataError(f"{example.get('sound')}: nothing to hear", expected="a sound that can be read")
        heard = (out["p"][np.asarray(item["kind"]) == 1] for item, out in zip(items, outputs, strict=True))
        return np.concatenate(list(heard))

    def events(self, p_TL: np.ndarray, threshold: float | None = None) -> list[dict[str, Any]]:
        """Runs of positions above the threshold, by label, in the order of their beginnings."""
        cut = threshold or self.config.threshold or float(self.facts.get("threshold", 0.5))
        step = self.layout.samples / self.layout.second
        out: list[dict[str, Any]] = []
        for name, p_T in zip(self.facts["labels"], p_TL.T, strict=True):
            for start, end in _runs(p_T >= cut, self.config.gap / step, self.config.least / step):
                times = {"start": round(start * step, 3), "end": round(end * step, 3)}
                out.append({**times, "label": name, "probability": float(p_T[start:end].mean())})
        return sorted(out, key=lambda event: (event["start"], event["label"]))

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """``micro_f1``, ``macro_f1`` over time, ``precision``, ``recall``, and ``event_f1``."""
        right: Counter[str] = Counter()
        said: Counter[str] = Counter()
        true: Counter[str] = Counter()
        hits = found = wanted = 0
        for prediction, example in zip(predictions, examples, strict=True):
            gold, own = events_of(example), prediction["events"]
            a, b = _ticks(gold), _ticks(own)
            right.update(label for label, _ in a & b)
            true.update(label for label, _ in a)
            said.update(label for label, _ in b)
            hits += _matched(gold, own)
            found, wanted = found + len(own), wanted + len(gold)
        names = sorted(set(true) | set(said))
        by_label = [_f1(right[n], said[n], true[n]) for n in names]
        return {
            "micro_f1": _f1(right.total(), said.total(), true.total()),
            "macro_f1": sum(by_label) / len(by_label) if by_label else 0.0,
            "precision": right.total() / max(1, said.total()),
            "recall": right.total() / max(1, true.total()),
            "event_f1": _f1(hits, found, wanted),
        }

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same of the most frequent label, heard all the time."""
        counts = self.facts["counts"]
        name = max(counts, key=lambda label: counts[label])
        ends = (max((e["end"] for e in events_of(example)), default=1.0) for example in examples)
        return self.score([{"events": [{"start": 0.0, "end": end, "label": name}]} for end in ends], examples)

    def calibrate(
        self,
        examples: Sequence[Example],
        items: Sequence[Sequence[Item]],
        outputs: Sequence[Sequence[Mapping[str, np.ndarray]]],
    ) -> dict[str, Any]:
        """The threshold with the best F1 over time."""
        if self.config.threshold is not None or not examples:
            return {}
        heard = [self._whole(e, i, o) for e, i, o in zip(examples, items, outputs, strict=True)]
        best, chosen = -1.0, 0.5
        for cut in np.linspace(0.1, 0.9, 17).tolist():
            f1 = self.score([{"events": self.events(p, cut)} for p in heard], examples)["micro_f1"]
            if f1 > best:
                best, chosen = f1, float(cut)
        return {"threshold": chosen}


def events_of(example: Example) -> list[dict[str, Any]]:
    """The events of an example, checked.

    Raises:
        DataError: an event without start, end and label, or that ends before it begins.
    """
    out: list[dict[str, Any]] = []
    for event in example.get("events") or ():
        try:
            start, end, label = float(event["start"]), float(event["end"]), str(event["label"])
        except (TypeError, KeyError, ValueError) as error:
            raise DataError(
                f"{example.get('sound')}: {event!r:.60} is no event",
                expected='{"start": seconds, "end": seconds, "label": name}',
                next="correct the row",
            ) from error
        if not 0 <= start <= end:
            raise DataError(
                f"{example.get('sound')}: an event from {start} s to {end} s",
                expected="0 <= start <= end",
                next="correct the row",
            )
        out.append({"start": start, "end": end, "label": label})
    return out


def _runs(held_T: np.ndarray, gap: float, least: float) -> list[tuple[int, int]]:
    """Stretches where something holds, joined over gaps, without the too short.

    >>> _runs(np.array([1, 1, 0, 1, 0, 0, 0, 1], bool), 1, 2)
    [(0, 4)]
    """
    edges = np.flatnonzero(np.diff(np.concatenate(([False], held_T, [False])).astype(np.int8)))
    out: list[tuple[int, int]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if out and start - out[-1][1] <= gap:
            out[-1] = (out[-1][0], end)
        else:
            out.append((start, end))
    return [(start, end) for start, end in out if end - start >= least]


def _ticks(events: Sequence[Mapping[str, Any]]) -> set[tuple[str, int]]:
    out: set[tuple[str, int]] = set()
    for event in events:
        first, last = round(event["start"] / TICK), round(event["end"] / TICK)
        out.update((event["label"], t) for t in range(first, last))
    return out


def _matched(gold: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]]) -> int:
    """Events that begin where one of the same label does; each is matched once."""
    left = list(gold)
    hits = 0
    for event in own:
        near = [g for g in left if g["label"] == event["label"] and abs(g["start"] - event["start"]) <= ONSET]
        if near:
            left.remove(min(near, key=lambda g: abs(g["start"] - event["start"])))
            hits += 1
    return hits


def _f1(right: int, said: int, true: int) -> float:
    return 2 * right / (said + true) if said + true else 0.0
