"""Relevance of a document to a query, both read together: orders what a fast search has found.

    exnihilo train rerank init=runs/bert data=judged.jsonl

[CLS] query [SEP] document [SEP] -> one number, learnt pointwise: binary cross-entropy against the label,
0 or 1, or a grade scaled to 0..1 by the training split's highest. See docs/rerank.md.

Key: B rows, T positions, P pieces (pairs)

Source: Nogueira & Cho, *Passage re-ranking with BERT*, 2019
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exnihilo import log
from exnihilo.errors import DataError
from exnihilo.metrics import calibration as cal
from exnihilo.metrics.ranking import (
    average_precision,
    chance_average_precision,
    ndcg,
    reciprocal_rank,
)
from exnihilo.nn.layout import Attention
from exnihilo.objective._calibrate import FEW
from exnihilo.objective._labels import Unfit, number_of
from exnihilo.objective._layout import (
    begins,
    check_length,
    encode_texts,
    lay_out,
    missing,
    name_rows,
    texts_of,
    where,
)
from exnihilo.objective.base import Batch, Example, Item, Objective
from exnihilo.objective.pieces import IGNORE, at_first, firsts

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

TEXTS = ("query", "document")


@final
class Rerank(Objective):
    """{"query", "document", "label"} -> {"score": probability that the document is relevant}."""

    attention: ClassVar[Attention] = Attention.FULL
    heads: ClassVar[tuple[str, ...]] = ("classes",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "segment", "label"})
    roles: ClassVar[tuple[str, ...]] = (*TEXTS, "label")
    view: ClassVar[str] = "rerank"
    supervised: ClassVar[bool] = True
    per_item: ClassVar[frozenset[str]] = frozenset({"logits"})
    main_metric: ClassVar[str] = "mrr"

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        check_length(length, 5)

    @property
    def labels(self) -> int | None:
        return 1

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        """Facts: the highest grade, how many of each grade, queries, skipped."""
        skipped: Counter[str] = Counter()
        grades: Counter[float] = Counter()
        queries: set[str] = set()
        wrong: list[str] = []
        for number, example in enumerate(examples):
            if not begins(example):
                continue
            found = texts_of(example, TEXTS)
            if isinstance(found, str):
                skipped[found] += 1
                continue
            try:
                grade = _grade(example)
            except Unfit as error:
                wrong.append(f"{where(example, number)}: {error}")
                continue
            if grade is None:
                skipped["no label"] += 1
                continue
            grades[grade] += 1
            queries.add(found[0])
        if wrong:
            raise DataError(
                f"{len(wrong):,} labels are no relevance. {name_rows(wrong)}",
                expected="0 or 1, or grades from 0 up",
                next="correct the rows",
            )
        if len(grades) < 2:
            what = f"every label is {next(iter(grades)):g}" if grades else "no training row is of use"
            raise DataError(
                what + (f" (skipped: {dict(skipped)})" if skipped else ""),
                expected="relevant and irrelevant documents",
                next='name the columns with data.fields={query = "COLUMN", document = "COLUMN"}',
            )
        if skipped:
            log.warn(f"{skipped.total():,} training rows are skipped: {dict(skipped)}")
        return {
            "highest": max(grades),
            "counts": {f"{grade:g}": n for grade, n in sorted(grades.items())},
            "examples": grades.total(),
            "queries": len(queries),
            "skipped": dict(skipped),
        }

    # data ---------------------------------------------------------------------------------------

    def encode(self, example: Example, codec: Codec) -> Item | list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """One item an example; none where a text or the label is empty.

        Raises:
            DataError: a label that is no relevance, with its row.
        """
        out: list[list[Item]] = [[] for _ in examples]
        kept: list[tuple[int, tuple[str, ...], float]] = []
        for number, example in enumerate(examples):
            texts = texts_of(example, TEXTS)
            if isinstance(texts, str) or not begins(example):
                continue
            grade = self._gold(example, number)
            if grade is None and "label" in example:
                continue
            share = float(IGNORE) if grade is None else min(1.0, grade / self.facts["highest"])
            kept.append((number, texts, share))
        encoded = encode_texts([texts for _, texts, _ in kept], codec)
        for (number, _, share), parts in zip(kept, encoded, strict=True):
            item = lay_out(parts, codec, self.length)
            item["label"] = at_first(share, len(np.asarray(item["tokens"])))
            out[number] = [item]
        return out

    def _gold(self, example: Example, number: int) -> float | None:
        try:
            return _grade(example)
        except Unfit as error:
            raise DataError(
                f"{where(example, number)}: {error}", expected="0 or 1, or grades from 0 up"
            ) from error

    # training -----------------------------------------------------------------------------------

    def reads(self, batch: Batch) -> Tensor:
        return firsts(batch)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        label_P = batch["label"][firsts(batch)]
        return {"bce": (label_P != IGNORE).to(torch.float64).sum()}

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        logit_P = self._logits(model, hidden_BTD, batch)
        label_P = batch["label"][firsts(batch)]
        held_P = label_P != IGNORE
        target_P = label_P[held_P].to(logit_P.dtype)
        return {"bce": F.binary_cross_entropy_with_logits(logit_P[held_P], target_P, reduction="sum")}

    def _logits(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> Tensor:
        head: Any = model.heads["classes"]
        logit_P = head.logits(hidden_BTD[firsts(batch)])[:, 0]
        return logit_P.to(torch.promote_types(logit_P.dtype, torch.float32))

    # predictions --------------------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"logits": self._logits(model, hidden_BTD, batch)}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """{"score": 0..1}; and "cut", how many tokens were cut off, where there were any."""
        if not outputs:
            raise DataError("an example without a text to read", expected="a query and a document")
        z = float(np.asarray(outputs[0]["logits"], np.float64).reshape(-1)[0])
        cut = int(items[0].get("cut", 0)) if items else 0
        score = float(cal.sigmoid(np.array(z / self.facts.get("temperature", 1.0))))
        return {"score": score, **({"cut": cut} if cut else {})}

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """mrr, ndcg@10 and map: means over the queries that have a relevant document (grade above 0);
        "queries" of them, "unanswered" without one."""
        lists = self._lists([p["score"] for p in predictions], examples)
        good = [pairs for pairs in lists if (pairs[:, 1] > 0).any()]
        if not good:
            raise DataError(
                f"none of {len(lists):,} queries has a relevant document: there is nothing to score",
                expected="labels above 0",
            )
        rows = [
            (reciprocal_rank(s, g > 0), ndcg(s, g), average_precision(s, g > 0))
            for s, g in (pairs.T for pairs in good)
        ]
        mrr, gain, precision = np.mean(rows, 0).tolist()
        out: dict[str, float] = {"mrr": mrr, "ndcg@10": gain, "map": precision}
        out["queries"] = float(len(good))
        if len(good) < len(lists):
            out["unanswered"] = float(len(lists) - len(good))
        return out

    def _lists(self, scores: Sequence[float], examples: Sequence[Example]) -> list[np.ndarray]:
        """(documents, 2) a query: score and grade of those that have a grade."""
        by_query: dict[str, list[tuple[float, float]]] = {}
        for number, (score, example) in enumerate(zip(scores, examples, strict=True)):
            grade = self._gold(example, number)
            if grade is not None:
                by_query.setdefault(str(example["query"]), []).append((score, grade))
        return [np.array(pairs, np.float64) for pairs in by_query.values()]

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same metrics of documents in random order: their mean over all orders."""
        out = self.score([{"score": 0.5}] * len(examples), examples)
        lists = [pairs[:, 1] > 0 for pairs in self._lists([0.5] * len(examples), examples)]
        chance = [chance_average_precision(len(g), int(g.sum())) for g in lists if g.any()]
        return {**out, "map": float(np.mean(chance))}

    def calibrate(
        self,
        examples: Sequence[Example],
        items: Sequence[Sequence[Item]],
        outputs: Sequence[Sequence[Mapping[str, np.ndarray]]],
    ) -> dict[str, Any]:
        """Temperature by the likelihood of the labels (grades: their share of the highest); where these are
        0 or 1 also the calibration error before and after."""
        pairs = [
            (float(np.asarray(out[0]["logits"]).reshape(-1)[0]), grade / self.facts["highest"])
            for i, (example, out) in enumerate(zip(examples, outputs, strict=True))
            if out and (grade := self._gold(example, i)) is not None
        ]
        if len(pairs) < FEW:
            return {"temperature": 1.0, "calibrated_on": len(pairs)}
        z_N, share_N = np.array(pairs, np.float64).T
        share_N = np.minimum(share_N, 1.0)
        T = cal.temperature_binary(z_N, share_N)
        facts: dict[str, Any] = {"temperature": T, "calibrated_on": len(pairs)}
        if set(share_N.tolist()) <= {0.0, 1.0}:
            facts["ece_before"] = cal.ece_binary(cal.sigmoid(z_N), share_N)
            facts["ece_after"] = cal.ece_binary(cal.sigmoid(z_N / T), share_N)
        return facts


def _grade(example: Example) -> float | None:
    value = example.get("label")
    if missing(value):
        return None
    if isinstance(value, (bool, np.bool_)):
        return float(value)
    grade = number_of(value)
    if grade < 0 or not math.isfinite(grade):
        raise Unfit(f"{value!r:.60} is no relevance (0 or 1, or a grade from 0 up)")
    return grade
