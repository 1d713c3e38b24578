"""Pairs of sentences in packed rows, and what every training type on pairs shares.

A row of blocks (`_blocks`) becomes a row of pairs ``[CLS] A [SEP] B [SEP]``: segment 0 up to the first [SEP],
1 from there on, and the label at [CLS] (`IGNORE` where there is none). The label is 0 where the pair is as it
was written, 1 where it is not; the head ``next`` has its two logits in this order, as BERT's has.

Key: B rows, T positions, P pieces (blocks of all rows), N labelled pairs, D model width
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from exnihilo import log
from exnihilo.errors import ConfigError, DataError
from exnihilo.nn.layout import Attention
from exnihilo.objective._blocks import BEGIN, END, MARKS, encode_blocks
from exnihilo.objective._layout import encode_texts, lay_out
from exnihilo.objective._text import by_source, ends_of
from exnihilo.objective.base import Batch, Columns, Example, Item, Look, Objective
from exnihilo.objective.pieces import IGNORE, at_first, firsts

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

SAMPLE = 256  # rows that a corpus is judged by, evenly spread over it
LEAST = 8  # positions of a row that has pairs
_CORPORA = 4  # judgements kept: training and validation, and what else one looks at


@dataclass(frozen=True)
class Pieces:
    """The blocks of some rows, from left to right, row by row; all arrays have P entries but `marks`.

    Attributes:
        row: of each block. start, size: its first place in the row and its places, all special ones included.
        document: its document. ends: it ends its document.
        marks: flat places (row · T + column) of all sentences' first tokens, sorted.
        low, high: ``marks[low:high]`` are the places where a block can be divided.
    """

    row: np.ndarray
    start: np.ndarray
    size: np.ndarray
    document: np.ndarray
    ends: np.ndarray
    marks: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, columns: Columns) -> Pieces:
        doc, T = columns["doc"], columns["doc"].shape[1]
        row, start = np.nonzero((columns["pos"] == 0) & (doc >= 0))
        free = np.flatnonzero((doc < 0).ravel())
        # a block ends where the next one of its row begins, or where its row's padding does
        following = np.append(row[1:] * T + start[1:], doc.size)
        end = np.minimum(following, (row + 1) * T)
        if len(free):
            next_free = np.append(free, doc.size)[np.searchsorted(free, row * T + start)]
            end = np.minimum(end, next_free)
        size = end - (row * T + start)
        marks = np.flatnonzero(columns["sentence"].ravel() & BEGIN)
        low = np.searchsorted(marks, row * T + start + 2)
        high = np.maximum(low, np.searchsorted(marks, end - 2))
        ends = (columns["sentence"].ravel()[end - MARKS] & END) > 0
        return cls(row, start, size, columns["document"][row, start], ends, marks, low, high)


@dataclass(frozen=True)
class Corpus:
    """What a sample of a data set says about making pairs of it.

    Attributes:
        ids, columns, pieces: the sample.
        documents: how many there are in it.
        single: share of blocks that cannot be divided.
    """

    ids: np.ndarray
    columns: Columns
    pieces: Pieces
    documents: int
    single: float
    made: dict[str, Any] = field(default_factory=dict)  # what a training type made of it, once


class Pairs(Objective):
    """A training type on pairs made of blocks. `arrange` says what a pair is.

    Attributes:
        alone: whether a corpus without pairs is an error; `mix` sets it to False.
    """

    attention: ClassVar[Attention] = Attention.FULL
    heads: ClassVar[tuple[str, ...]] = ("next",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "source", "segment", "label"})
    makes_pairs: ClassVar[bool] = True  # its encode must be the one of a mixture
    per_item: ClassVar[frozenset[str]] = frozenset({"probability"})
    term: ClassVar[str]  # key of its loss
    truth: ClassVar[str]  # what label 0 says, as a key of predictions
    whole: ClassVar[bool] = False  # blocks end where sentences end
    frame: ClassVar[tuple[int, int] | None] = (1, 2)

    class Config(Objective.Config):
        language: str = Field(default="en", min_length=2)  # of the sentence rules: en, de, fr, zh ...

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        if length is not None and length < LEAST:
            raise ConfigError(
                f"{self._name()} with rows of {length} positions",
                expected=f"{LEAST} or more: [CLS] A [SEP] B [SEP]",
                next="model.context=128",
            )
        self.alone = True
        self._corpora: dict[Callable[..., Any], Corpus] = {}

    @property
    def terms(self) -> tuple[str, ...]:
        """Keys of the losses."""
        return (self.term,)

    @property
    def weights(self) -> Mapping[str, float]:  # type: ignore[override]
        return {f"{self.term}_accuracy": 0.0}  # a figure, not a loss

    @classmethod
    def _name(cls) -> str:
        return cls.__module__.rsplit(".", 1)[-1]

    # data ---------------------------------------------------------------------------------------

    def encode(self, example: Example, codec: Codec) -> list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        language = self.config.language
        return encode_blocks(examples, codec, length=self.length, language=language, whole=self.whole)

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        corpus = self._judge(look)
        pieces = Pieces.of(columns)
        if corpus is None:
            return _written(columns, pieces, [None] * len(pieces.row), look.codec)
        return _written(columns, pieces, self.arrange(columns, pieces, keys, look, corpus), look.codec)

    @abstractmethod
    def arrange(
        self,
        columns: Columns,
        pieces: Pieces,
        keys: Sequence[np.random.Generator],
        look: Look,
        corpus: Corpus,
    ) -> list[tuple[np.ndarray, np.ndarray, int] | None]:
        """(A, B, label) of each block, in its places; None where none can be made."""

    def lacks(self, corpus: Corpus) -> str:
        """Why no pairs can be made of a corpus; "" where they can."""
        return "no block of it has two sentences" if corpus.single == 1 else ""

    def says(self, corpus: Corpus) -> list[str]:
        """What a user should know of a corpus."""
        if corpus.single < 0.5:
            return []
        return [f"{corpus.single:.0%} of the blocks hold one sentence: they make no pairs and have no label"]

    def _judge(self, look: Look) -> Corpus | None:
        """What the corpus is good for, found out once; None where it is good for no pairs."""
        corpus = self._corpora.get(look.batch)
        if corpus is None:
            # rows of a data set that is small enough are all read; the last too, which may be another source
            ids = np.unique(np.linspace(0, look.rows - 1, min(look.rows, SAMPLE)).astype(np.int64))
            columns = look.batch(ids)
            if "sentence" not in columns or "document" not in columns:
                raise DataError(
                    f"the data has no blocks of sentences; its columns: {sorted(columns)}",
                    expected=f"rows that {self._name()} encoded",
                    next="prepare the data with this objective",
                )
            pieces = Pieces.of(columns)
            single = float((pieces.high == pieces.low).mean()) if len(pieces.row) else 1.0
            corpus = Corpus(ids, columns, pieces, len(np.unique(pieces.document)), single)
            if len(self._corpora) >= _CORPORA:
                del self._corpora[next(iter(self._corpora))]
            self._corpora[look.batch] = corpus
            lack = self.lacks(corpus)
            for text in self.says(corpus) if not lack else []:
                log.warn(f"{self._name()}: {text}")
            if lack and (not self.alone or not look.training):
                log.warn(f"{self._name()}: no pairs can be made of this corpus: {lack}; it is left out")
        lack = self.lacks(corpus)
        if lack and self.alone and look.training:
            raise DataError(
                f"{self._name()}: no pairs can be made of this corpus: {lack}",
                expected="documents of several sentences",
                next="objective=masked_lm, or data.unit=file where lines were taken for documents",
            )
        return None if lack else corpus

    # training -----------------------------------------------------------------------------------

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        rows_N, label_N = labelled(batch)
        ones_N = torch.ones(len(label_N), dtype=torch.float64, device=label_N.device)
        total = ones_N.sum()
        return {
            self.term: total,
            f"{self.term}_accuracy": total,
            **by_source(self.term, batch, ones_N, rows_N // batch["tokens"].shape[1]),
        }

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        at_N, label_N = labelled(batch)
        first_ND = hidden_BTD.flatten(0, 1).index_select(0, at_N)
        logits_N2 = model.heads["next"].logits(first_ND)
        logits_N2 = logits_N2.to(torch.promote_types(logits_N2.dtype, torch.float32))
        nll_N = F.cross_entropy(logits_N2, label_N, reduction="none")
        right = (logits_N2.detach().argmax(-1) == label_N).to(nll_N.dtype).sum()
        return {
            self.term: nll_N.sum(),
            f"{self.term}_accuracy": right,
            **by_source(self.term, batch, nll_N.detach(), at_N // hidden_BTD.shape[1]),
        }

    # prediction ---------------------------------------------------------------------------------

    def asks(self, example: Example | None = None) -> tuple[str, ...]:
        """Roles of an example that is predicted: not those of training."""
        return ("a", "b")

    def query(self, example: Example, codec: Codec) -> Item:
        """``[CLS] a [SEP] b [SEP]``; of what is too long the longer text is cut at its end."""
        a, b = (example.get(role) for role in ("a", "b"))
        if not isinstance(a, str) or not isinstance(b, str):
            raise DataError(
                f"roles {sorted(example)}", expected="two texts, a and b", next='{"a": "...", "b": "..."}'
            )
        item = lay_out(encode_texts([(a, b)], codec)[0], codec, self.length)
        del item["cut"]
        return {**item, "label": at_first(IGNORE, len(np.asarray(item["tokens"])))}

    def reads(self, batch: Batch) -> Tensor:
        return firsts(batch)

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """probability (P, 2) of the labels 0 and 1, a row a pair."""
        logits_P2 = model.heads["next"].logits(hidden_BTD[firsts(batch)])
        return {"probability": logits_P2.float().softmax(-1)}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """{truth: True or False, "probability": that it is so}."""
        p = float(outputs[0]["probability"][0])
        return {self.truth: p >= 0.5, "probability": p}


def labelled(batch: Batch) -> tuple[Tensor, Tensor]:
    """Flat indices (N,) of the first tokens that have a label, and their labels (N,)."""
    label_BT = batch["label"]
    at_N = (firsts(batch) & (label_BT != IGNORE)).flatten().nonzero().squeeze(1)
    return at_N, label_BT.flatten().index_select(0, at_N).long()


def _written(
    columns: Columns,
    pieces: Pieces,
    pairs: Sequence[tuple[np.ndarray, np.ndarray, int] | None],
    codec: Codec,
) -> Columns:
    """The rows with each block as its pair; or as ``[CLS] block [SEP]``, where there is none."""
    old, (cls, sep) = columns["tokens"], ends_of(codec)
    B, T = old.shape
    tokens = np.full((B, T), codec.pad_id, np.int64)
    doc, pos = np.full((B, T), -1, np.int32), np.zeros((B, T), np.int64)
    segment, label = np.zeros((B, T), np.int64), np.full((B, T), IGNORE, np.int64)
    ramp = np.arange(T)
    row, at, number = -1, 0, 0
    blocks = zip(pieces.row.tolist(), pieces.start.tolist(), pieces.size.tolist(), pairs, strict=True)
    for b, start, size, pair in blocks:
        if b != row:
            row, at, number = b, 0, 0
        line = tokens[b]
        line[at] = cls
        if pair is None:
            # a block that fills its row keeps its last place, an empty B: a batch of full rows needs no mask
            n = size if size == T else size - 1
            line[at + 1 : at + n] = old[b, start + 1 : start + n]
            segment[b, at + size - 1 : at + n] = 1
        else:
            first, second, which = pair
            middle = at + 1 + len(first)
            n = len(first) + len(second) + 3
            line[at + 1 : middle] = first
            line[middle] = sep
            line[middle + 1 : at + n - 1] = second
            line[at + n - 1] = sep
            segment[b, middle + 1 : at + n] = 1
            label[b, at] = which
        doc[b, at : at + n] = number
        pos[b, at : at + n] = ramp[:n]
        at, number = at + n, number + 1
    rest = {name: value for name, value in columns.items() if name not in ("sentence", "document")}
    return {**rest, "tokens": tokens, "doc": doc, "pos": pos, "segment": segment, "label": label}
