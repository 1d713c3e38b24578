"""Vectors of texts: pairs (a, b) that belong together come close, others do not.

    exnihilo train embeddings init=runs/bert data=pairs.jsonl
    exnihilo train embeddings init=runs/bert data=scored.jsonl options.loss=cosine

An item holds both texts, [CLS] a [SEP] [CLS] b [SEP], as two documents that do not see each other (`inputs`).
``contrastive``: each a shall find its b among those of its *row* of packed pairs (InfoNCE). The row is the
group, and not the batch, because the loss of a step must not depend on how its batch is cut into
micro-batches or over workers; so rows are long (`ROW`). Equal texts in a row are
never each other's negatives. ``cosine`` and ``cosent`` learn from a `score` instead. See docs/embeddings.md.

Key: B rows, T positions, D width, S pairs of the fullest row, P pairs

Sources: van den Oord et al., *Contrastive predictive coding*, 2018; Reimers & Gurevych, *Sentence-BERT*,
2019; Su, *CoSENT*, 2022
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from exnihilo import log
from exnihilo.errors import DataError
from exnihilo.metrics.ranking import retrieval
from exnihilo.metrics.regression import spearman
from exnihilo.nn.layout import Attention
from exnihilo.objective._labels import Unfit, number_of
from exnihilo.objective._layout import (
    begins,
    check_length,
    encode_texts,
    ends,
    ids_dtype,
    keep,
    missing,
    name_rows,
    texts_of,
    where,
)
from exnihilo.objective.base import Batch, Columns, Example, Item, Look, Objective
from exnihilo.objective.pieces import IGNORE, firsts

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

ROLES = ("a", "b")


ROW = 512  # positions of a row, at least


@final
class Embeddings(Objective):
    """{"a", "b"} (and "score") -> {"embedding"} of one text, or both vectors and their similarity."""

    attention: ClassVar[Attention] = Attention.FULL
    heads: ClassVar[tuple[str, ...]] = ("embedding",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "side", "place", "twin", "score"})
    roles: ClassVar[tuple[str, ...]] = ROLES
    extras: ClassVar[tuple[str, ...]] = ("score",)
    asks: ClassVar[tuple[str, ...]] = ("a",)  # a single text has an embedding, too
    view: ClassVar[str] = "pairs"
    supervised: ClassVar[bool] = True
    per_item: ClassVar[frozenset[str]] = frozenset({"a", "b"})

    class Config(Objective.Config):
        """Options.

        Attributes:
            loss: ``contrastive``, ``cosine`` (squared error of the cosine against the score, scaled to 0..1
                by the training split's range) or ``cosent`` (pairs with a higher score shall have a higher
                cosine).
            pooling: ``mean`` of all tokens of a text, or its first (``cls``).
            temperature: of the contrastive loss; cosines are divided by it.
            symmetric: b shall also find its a.
            positive: contrastive, where the data has scores: pairs from this score up belong together, the
                others are negatives only.
        """

        loss: Literal["contrastive", "cosine", "cosent"] = "contrastive"
        pooling: Literal["mean", "cls"] = "mean"
        temperature: float = Field(0.05, gt=0.0)
        symmetric: bool = True
        positive: float | None = None

        @model_validator(mode="after")
        def _check(self) -> Embeddings.Config:
            if self.loss != "contrastive":
                for name in ("temperature", "symmetric", "positive"):
                    if getattr(self, name) != type(self).model_fields[name].default:
                        raise ValueError(f"{name} has no meaning with loss={self.loss}")
            return self

    config: Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        check_length(length, 6)
        self._told = False

    @property
    def main_metric(self) -> str:  # type: ignore[override]
        return "mrr" if self.config.loss == "contrastive" else "spearman"

    # data ---------------------------------------------------------------------------------------

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        """Facts: examples, skipped, and of the scores low and high."""
        skipped: Counter[str] = Counter()
        wrong: list[str] = []
        scores: list[float] = []
        kept, needs = 0, self.config.loss != "contrastive"
        for number, example in enumerate(examples):
            found = texts_of(example, ROLES)
            if isinstance(found, str):
                skipped[found] += 1
                continue
            try:
                score = _score(example)
            except Unfit as error:
                wrong.append(f"{where(example, number)}: {error}")
                continue
            if score is None and needs:
                skipped["no score"] += 1
                continue
            kept += 1
            if score is not None:
                scores.append(score)
        if wrong:
            raise DataError(
                f"{len(wrong):,} scores are no numbers. {name_rows(wrong)}",
                expected="numbers",
                next="correct the rows",
            )
        if kept < 2:
            raise DataError(
                f"{kept} training pairs of use" + (f" (skipped: {dict(skipped)})" if skipped else ""),
                expected="at least two, with the roles a and b" + (" and score" if needs else ""),
                next='name the columns with data.fields={a = "COLUMN", b = "COLUMN"}',
            )
        if scores and not needs and self.config.positive is None:
            raise DataError(
                "the pairs have scores, and the contrastive loss would take every pair for one that belongs "
                "together",
                expected="options.positive=SCORE (pairs from there up belong together), or another loss",
                next="options.loss=cosine learns from the scores",
            )
        if needs and min(scores) == max(scores):
            raise DataError(f"every score is {scores[0]:g}: nothing to learn", expected="different scores")
        if not needs and scores and not any(s >= (self.config.positive or 0.0) for s in scores):
            raise DataError(
                f"no score reaches options.positive={self.config.positive:g}; the highest is {max(scores):g}",
                expected="pairs that belong together",
            )
        if skipped:
            log.warn(f"{skipped.total():,} training rows are skipped: {dict(skipped)}")
        facts: dict[str, Any] = {"examples": kept, "skipped": dict(skipped)}
        return facts | ({"low": min(scores), "high": max(scores)} if scores else {})

    def encode(self, example: Example, codec: Codec) -> Item | list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """One item an example, of one text where b is absent (for prediction); none where one is empty."""
        texts: list[tuple[str, ...] | str] = []
        for example in examples:
            found = texts_of(example, ROLES if "b" in example else ROLES[:1])
            texts.append(found if begins(example) else "a later part")
        parts = iter(encode_texts([t for t in texts if not isinstance(t, str)], codec))
        out: list[list[Item]] = []
        for number, (example, found) in enumerate(zip(examples, texts, strict=True)):
            if isinstance(found, str):
                out.append([])
                continue
            ids = next(parts)
            try:
                score = _score(example)
            except Unfit as error:
                raise DataError(f"{where(example, number)}: {error}", expected="a number") from error
            out.append([self._item(ids, score, codec)])
        return out

    def _item(self, ids: tuple[list[int], ...], score: float | None, codec: Codec) -> Item:
        first, last = ends(codec)
        lengths = [len(x) for x in ids]
        kept = keep(lengths, None if self.length is None else self.length - 2 * len(ids))
        sides = [
            np.array([first, *part[:n], last], ids_dtype(codec)) for part, n in zip(ids, kept, strict=True)
        ]
        sizes = [len(side) for side in sides]
        twin = np.full(sum(sizes), IGNORE, np.int64)
        twin[0], twin[-sizes[-1]] = _name(sides[0]), _name(sides[-1])
        scores = np.full(sum(sizes), IGNORE, np.float32)
        scores[0] = IGNORE if score is None else self._target(score)
        return {
            "tokens": np.concatenate(sides),
            "side": np.repeat(np.arange(len(sides), dtype=np.int32), sizes),
            "place": np.concatenate([np.arange(n, dtype=np.int32) for n in sizes]),
            "twin": twin,
            "score": scores,
            "cut": sum(lengths) - sum(kept),
        }

    def _target(self, score: float) -> float:
        """What the loss reads: 1 or 0 for contrastive, else the score's place in the training range."""
        if self.config.loss == "contrastive":
            return float(self.config.positive is None or score >= self.config.positive)
        low, high = self.facts["low"], self.facts["high"]
        return (score - low) / (high - low)

    @property
    def row(self) -> int | None:
        """Long enough for several pairs whatever the model's positions: they are each other's negatives."""
        return None if self.length is None else max(self.length, ROW)

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        """Nothing is drawn; rows of one pair, which teach nothing, are noticed and said once."""
        if self.config.loss == "contrastive" and not self._told:
            alone = float((columns["doc"].max(1) <= 0).mean()) if "doc" in columns else 1.0
            if alone > 0.2:
                log.warn(f"{alone:.0%} of the rows hold one pair and no negatives: raise model.context")
            self._told = True
        return columns

    # training -----------------------------------------------------------------------------------

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Both texts of a pair as documents of their own: they do not see each other, positions restart."""
        side_BT = batch["side"]
        doc_BT = batch["doc"] if "doc" in batch else torch.zeros_like(side_BT)
        return {
            "tokens": batch["tokens"],
            "doc": torch.where(doc_BT >= 0, doc_BT * 2 + side_BT, doc_BT),
            "pos": batch["place"],
        }

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        score_BS, present_BS = self._scores(batch)
        if self.config.loss == "contrastive":
            return {"contrastive": self._anchors(score_BS, present_BS).to(torch.float64).sum()}
        known_BS = present_BS & (score_BS != IGNORE)
        if self.config.loss == "cosine":
            return {"cosine": known_BS.to(torch.float64).sum()}
        return {"cosent": known_BS.any(1).to(torch.float64).sum()}

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        a_BSD, b_BSD = self._vectors(hidden_BTD, batch)
        score_BS, present_BS = self._scores(batch)
        if self.config.loss == "contrastive":
            anchors_BS = self._anchors(score_BS, present_BS)
            return {"contrastive": self._contrastive(a_BSD, b_BSD, anchors_BS, batch)}
        known_BS = present_BS & (score_BS != IGNORE)
        cosine_BS = (a_BSD * b_BSD).sum(-1)
        if self.config.loss == "cosine":
            error_BS = (cosine_BS - score_BS.to(cosine_BS.dtype)).where(known_BS, 0.0)
            return {"cosine": error_BS.square().sum()}
        # log(1 + Σ exp(20 (cos_j - cos_i))) over the row's pairs i that are scored above j
        above_BSS = (score_BS[:, :, None] > score_BS[:, None, :]) & known_BS[:, :, None] & known_BS[:, None]
        gap_BSS = 20.0 * (cosine_BS[:, None, :] - cosine_BS[:, :, None])
        gap_BN = gap_BSS.masked_fill(~above_BSS, -math.inf).flatten(1)
        return {"cosent": F.pad(gap_BN, (1, 0)).logsumexp(1).sum()}

    def _contrastive(self, a_BSD: Tensor, b_BSD: Tensor, anchors_BS: Tensor, batch: Batch) -> Tensor:
        a_BS, b_BS = (self._gather(batch["twin"], batch, side) for side in (0, 1))
        _, present_BS = self._scores(batch)
        # b_j is no wrong answer to a_i where a_j is a_i, or b_j is b_i, or b_j is a_i itself
        same_BSS = (a_BS[:, :, None] == a_BS[:, None]) | (b_BS[:, :, None] == b_BS[:, None])
        own_SS = torch.eye(same_BSS.shape[1], dtype=torch.bool, device=same_BSS.device)
        crossed_BSS = a_BS[:, :, None] == b_BS[:, None]
        logit_BSS = torch.bmm(a_BSD, b_BSD.mT) / self.config.temperature
        ways = [(logit_BSS, crossed_BSS), (logit_BSS.mT, crossed_BSS.mT)]
        ways = ways if self.config.symmetric else ways[:1]
        total = a_BSD.new_zeros(())
        for way_BSS, itself_BSS in ways:
            out_BSS = (same_BSS | itself_BSS | ~present_BS[:, None]) & ~own_SS
            way_BSS = way_BSS.masked_fill(out_BSS, -math.inf)
            nll_BS = way_BSS.logsumexp(-1) - way_BSS.diagonal(dim1=1, dim2=2)
            total = total + nll_BS.where(anchors_BS, 0.0).sum() / len(ways)
        return total

    @staticmethod
    def _anchors(score_BS: Tensor, present_BS: Tensor) -> Tensor:
        """Pairs that belong together: all without a score, else those whose target is 1."""
        return present_BS & ((score_BS == IGNORE) | (score_BS == 1.0))

    # pieces of rows as (B, S) -------------------------------------------------------------------

    def _members(self, batch: Batch, side: int) -> Tensor:
        """Which tokens are of that text of pair s of each row: (B, S, T)."""
        first_BT = firsts(batch)
        slot_BT = first_BT.cumsum(1) - 1
        slots = int(slot_BT.max()) + 1 if slot_BT.numel() else 0
        mine_BT = batch["side"] == side
        if "doc" in batch:
            mine_BT = mine_BT & (batch["doc"] >= 0)
        at_S = torch.arange(max(1, slots), device=slot_BT.device)
        return (slot_BT[:, None, :] == at_S[None, :, None]) & mine_BT[:, None, :]

    def _gather(self, column_BT: Tensor, batch: Batch, side: int) -> Tensor:
        """A column's value at the first token of that text of each pair; `IGNORE` where there is none."""
        start_BST = self._members(batch, side) & (batch["place"] == 0)[:, None, :]
        value_BST = column_BT[:, None, :].where(start_BST, 0)
        return value_BST.sum(-1).where(start_BST.any(-1), IGNORE)

    def _scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(scores, whether there is a pair with two texts), (B, S) each."""
        score_BS = self._gather(batch["score"], batch, 0)
        present_BS = self._members(batch, 0).any(-1) & self._members(batch, 1).any(-1)
        return score_BS, present_BS

    def _vectors(self, hidden_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Pooled vectors of length 1 of both texts, (B, S, D) each; zeros where there is no text."""
        hidden_BTD = hidden_BTD.to(torch.promote_types(hidden_BTD.dtype, torch.float32))
        found = []
        for side in (0, 1):
            member_BST = self._members(batch, side)
            if self.config.pooling == "cls":
                member_BST = member_BST & (batch["place"] == 0)[:, None, :]
            weight_BST = member_BST.to(hidden_BTD.dtype)
            # padding's states may be anything: 0 times them must be 0
            kept_BTD = hidden_BTD.where(member_BST.any(1)[..., None], 0.0)
            sum_BSD = torch.bmm(weight_BST, kept_BTD)
            found.append(F.normalize(sum_BSD, dim=-1, eps=1e-12))  # the mean's direction is the sum's
        return found[0], found[1]

    # predictions --------------------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        a_BSD, b_BSD = self._vectors(hidden_BTD, batch)
        there_BS = self._members(batch, 0).any(-1)
        return {"a": a_BSD[there_BS], "b": b_BSD[there_BS]}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """{"embedding": vector of length 1}; for two texts {"a": vector, "b": vector, "similarity": cosine}.
        And "cut", how many tokens were cut off, where there were any."""
        if not outputs:
            raise DataError("an example without a text to read", expected="a text")
        cut = int(items[0].get("cut", 0)) if items else 0
        more = {"cut": cut} if cut else {}
        a_D = np.asarray(outputs[0]["a"], np.float64)
        if "b" not in example:
            return {"embedding": a_D.tolist(), **more}
        b_D = np.asarray(outputs[0]["b"], np.float64)
        return {"a": a_D.tolist(), "b": b_D.tolist(), "similarity": float(a_D @ b_D), **more}

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """accuracy@1 and mrr: each a looks for its b among all b of the split (pairs below `positive` only
        stand in the way); spearman of the similarity with the score, where there are scores."""
        scores = [_score(example) for example in examples]
        a_ND = np.array([p["a"] for p in predictions], np.float64)
        b_ND = np.array([p["b"] for p in predictions], np.float64)
        ids: dict[str, int] = {}
        a_N, b_N = (np.array([ids.setdefault(str(e[r]), len(ids)) for e in examples]) for r in ROLES)
        least = self.config.positive
        asking_N = np.array([least is None or s is None or s >= least for s in scores])
        out = retrieval(a_ND, b_ND, b_N, asking_N, a_N)
        known = [i for i, s in enumerate(scores) if s is not None]
        if known:
            rho = spearman(
                np.array([scores[i] for i in known], np.float64),
                np.array([predictions[i]["similarity"] for i in known], np.float64),
            )
            out["spearman"] = 0.0 if math.isnan(rho) else rho
        return out

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same metrics of a guess: 1 / N, the mean of 1 / rank over N ranks, and no correlation."""
        N = max(1, len({str(e["b"]) for e in examples}))
        out = {"accuracy@1": 1.0 / N, "mrr": float((1.0 / np.arange(1, N + 1)).mean())}
        return out | ({"spearman": 0.0} if any(_score(e) is not None for e in examples) else {})


def _score(example: Example) -> float | None:
    value = example.get("score")
    return None if missing(value) else number_of(value)


def _name(side: np.ndarray) -> int:
    """62 bits of a text's ids, never `IGNORE`."""
    digest = hashlib.blake2b(side.astype(np.uint32).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 2
