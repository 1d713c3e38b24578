"""Extractive question answering: the answer is a span of a context, or there is none.

::

    exnihilo train span_qa init=runs/bert data=train-v2.0.json val=dev-v2.0.json

An example has ``question``, ``context`` and ``answers`` ([{"text", "start"}], [] for no answer). An item
is [CLS] question [SEP] context [SEP]; a context longer than a row goes through overlapping windows, one item
each. Two numbers a token score that the answer starts, ends there; in a window without it both labels
are at [CLS]. The loss is the cross-entropy of start and of end over [CLS] and the context's tokens of one
item. An answer is ``context[start:end]`` of the string as it was given. See docs/span_qa.md.

Key: B rows, T positions, D model width, N positions of all rows, W tokens of a window, K lengths of an answer

Source: Devlin et al., *BERT*, 2019, sections 4.2 and 4.3; windows, max context and the null score as in
https://github.com/google-research/bert/blob/master/run_squad.py
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exnihilo import log
from exnihilo.errors import ConfigError, DataError, ModelError
from exnihilo.metrics import calibration, squad
from exnihilo.nn.layout import Attention
from exnihilo.objective import _answers, _offsets
from exnihilo.objective._match import question_and_near
from exnihilo.objective._qa_facts import Draft, Survey, tune
from exnihilo.objective.base import Batch, Example, Item, Objective
from exnihilo.objective.pieces import IGNORE, firsts

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

LENGTH = 384  # positions where the model's context is not known
ROW = 512  # positions of a training row, at least: a window nearly fills the model's, and would leave a gap
QUESTION, OVERLAP = 64, 128  # defaults, as BERT's, where rows are long enough


class Candidate(NamedTuple):
    """A possible answer: its score (logit of start + logit of end) and its characters."""

    score: float
    start: int
    end: int


class SpanQA(Objective):
    """Downstream type: answers cut out of a context."""

    attention: ClassVar[Attention] = Attention.FULL
    heads: ClassVar[tuple[str, ...]] = ("span",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "segment", "start", "end"})
    weights: ClassVar[Mapping[str, float]] = {"start": 0.5, "end": 0.5}
    roles: ClassVar[tuple[str, ...]] = ("question", "context", "answers")
    extras: ClassVar[tuple[str, ...]] = ("id",)
    view: ClassVar[str] = "qa"
    blank: ClassVar[frozenset[str]] = frozenset({"context"})  # which answers nothing
    supervised: ClassVar[bool] = True
    main_metric: ClassVar[str] = "f1"

    class Config(BaseModel):
        """Options.

        Attributes:
            max_question: tokens of the question that are read; default 64, at most a quarter of the row.
            stride: tokens that two neighbouring windows SHARE (as in Transformers; in BERT's own script the
                word means the step). Default 128, at most a third of the window.
            max_answer: tokens of an answer.
            n_best: answers that a prediction lists.
            match: the head also reads what a token's neighbourhood has to do with the question: what a small
                model learns from few questions.
            null_threshold: "no answer" where its score exceeds the best answer's by more than this; default:
                tuned on the validation split where training has unanswerable questions, else never.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")
        max_question: int | None = Field(default=None, ge=0)
        stride: int | None = Field(default=None, ge=0)
        max_answer: int = Field(default=30, ge=1)
        n_best: int = Field(default=20, ge=1)
        match: bool = False
        null_threshold: float | None = None

    config: Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        row = length or LENGTH
        asked = self.config.max_question
        self.max_question = min(QUESTION, row // 4) if asked is None else asked
        room = row - 3 - self.max_question  # of the context, beside the longest question
        if room < 1:
            raise ConfigError(
                f"rows of {row} positions with options.max_question={self.max_question}",
                expected="at least one position for the context, beside [CLS], the question and two [SEP]",
                next="a smaller options.max_question, or a larger model.context",
            )
        given = self.config.stride
        if given is not None and given >= room:
            raise ConfigError(
                f"options.stride={given} with {room} tokens of context in a window",
                expected="windows that advance: a stride (the tokens two windows share) below that",
                next="a smaller options.stride or options.max_question, or a larger model.context",
            )
        self.overlap = min(OVERLAP, room // 3) if given is None else given
        self.limit = row

    @property
    def row(self) -> int | None:
        """Room for several windows, whatever the model's positions: they fill it almost whole."""
        return None if self.length is None else max(ROW, 2 * self.length)

    # facts --------------------------------------------------------------------------------------

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        """Questions, unanswerable ones, answers that were not at their offset or are nowhere, and the
        commonest answer (the majority baseline).

        Raises:
            DataError: not one question can be learnt from.
        """
        found = Survey()
        for example in examples:
            found.add(example)
        return found.facts()

    @property
    def threshold(self) -> float | None:
        """The score difference above which a prediction is "no answer"; None: never."""
        if self.config.null_threshold is not None:
            return self.config.null_threshold
        if "null_threshold" in self.facts:
            return self.facts["null_threshold"]
        return 0.0 if self.facts.get("unanswerable") else None

    # encoding -----------------------------------------------------------------------------------

    def encode(self, example: Example, codec: Codec) -> list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """Windows of each example; none where its answer is nowhere in its context (`survey` counts and
        names those), or in no window whole."""
        out: list[list[Item]] = []
        wide: list[str] = []
        for example in examples:
            question, context = _texts(example)
            tokens = _offsets.offsets(codec, context)
            answers = _answers.golds(example)
            placed = None if answers is None else _answers.place(context, answers)
            label: tuple[int, int] | None = None
            if placed is not None:
                label = _tokens(placed, tokens)
                if placed.how == "lost" or (placed.how != "none" and label is None):
                    out.append([])
                    continue
            items = self._windows(question, tokens, codec)
            for item in items:
                _label(item, label, known=placed is not None)
            if label is not None and not any((np.asarray(item["start"])[1:] == 1).any() for item in items):
                wide.append(f"{label[1] - label[0] + 1} tokens: {question[:40]!r}")
                out.append([])  # else every window would say that there is no answer
                continue
            for item in items:
                for name in ("char_start", "char_end", "offset"):
                    del item[name]
            out.append(items)
        if wide:
            log.warn(
                f"{len(wide)} questions skipped: no window of {self.limit} positions holds the answer whole "
                f"({'; '.join(wide[:3])}); a larger model.context or options.stride keeps them"
            )
        return out

    def query(self, example: Example, codec: Codec) -> list[Item]:
        """Windows with the columns char_start and char_end (characters of the context that a token stands
        for, -1 outside it) and the number `offset` (which of the context's tokens comes first)."""
        question, context = _texts(example)
        items = self._windows(question, _offsets.offsets(codec, context), codec)
        for item in items:
            _label(item, None, known=False)
        return items

    def _windows(self, question: str, context: _offsets.Offsets, codec: Codec) -> list[Item]:
        """The items of an example, without labels."""
        ids, starts, ends = context
        asked = codec.encode(question)
        cut = max(0, len(asked) - self.max_question)
        cls = codec.cls_id if codec.cls_id is not None else codec.bos_id
        sep = codec.sep_id if codec.sep_id is not None else codec.eos_id
        head = [cls, *asked[: self.max_question], sep]
        room = self.limit - len(head) - 1
        small = np.uint16 if codec.vocab_size <= 1 << 16 else np.uint32
        out: list[Item] = []
        for first, last in _offsets.windows(np.ones(len(ids), np.int64), room, self.overlap):
            n = len(head) + last - first + 1
            tokens = np.full(n, sep, small)
            tokens[: len(head)] = head
            tokens[len(head) : n - 1] = ids[first:last]
            segment = np.zeros(n, np.uint8)
            segment[len(head) :] = 1
            item: Item = {"tokens": tokens, "segment": segment, "cut": cut, "offset": first}
            for name, values in (("char_start", starts), ("char_end", ends)):
                column = np.full(n, -1, np.int32)
                column[len(head) : n - 1] = values[first:last]
                item[name] = column
            out.append(item)
        return out

    # training -----------------------------------------------------------------------------------

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        real_BT = batch["doc"] >= 0 if "doc" in batch else torch.ones_like(batch["start"], dtype=torch.bool)
        return {name: ((batch[name] == 1) & real_BT).sum().to(torch.float64) for name in ("start", "end")}

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        logits_BT2 = self._logits(model, hidden_BTD, batch)
        logits_BT2 = logits_BT2.to(torch.promote_types(logits_BT2.dtype, torch.float32))
        piece_N = (firsts(batch).flatten().cumsum(0) - 1).clamp(min=0)
        out = {}
        for i, name in enumerate(("start", "end")):
            label_BT = batch[name]
            inside_BT = label_BT != IGNORE
            if "doc" in batch:
                inside_BT = inside_BT & (batch["doc"] >= 0)
            right_N = ((label_BT == 1) & inside_BT).flatten()
            out[name] = segment_nll(logits_BT2[..., i].flatten(), piece_N, inside_BT.flatten(), right_N)
        return out

    # prediction ---------------------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """span (B, T, 2): logits of start and end."""
        return {"span": self._logits(model, hidden_BTD, batch).float()}

    @property
    def model_settings(self) -> dict[str, Any]:
        return {**super().model_settings, **({"compares": True} if self.config.match else {})}

    def _logits(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> Tensor:
        head: Any = model.heads["span"]
        if (head.match is not None) != self.config.match:
            raise ModelError(
                f"options.match={str(self.config.match).lower()}, but the model was built for the other",
                expected="the option that it was trained with",
            )
        if not self.config.match:
            return head.logits(hidden_BTD)
        return head.logits(hidden_BTD, *question_and_near(hidden_BTD, batch))

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """answer ("" for none), start and end (characters of the context; None for none), probability,
        no_answer_probability, null_difference (score of none minus the best answer's) and nbest."""
        context = str(example["context"])
        found, null = self._search(context, items, outputs)
        shown = found[: self.config.n_best]
        threshold = self.threshold
        difference = null - found[0].score if found else None
        silent = difference is None or (threshold is not None and difference > threshold)
        scores = [c.score for c in shown] + ([null] if threshold is not None or not shown else [])
        warm = float(self.facts.get("temperature", 1.0))
        probs = calibration.softmax(np.array(scores) / warm).tolist()
        none = probs[-1] if len(probs) > len(shown) else 0.0
        best = None if silent else shown[0]
        out: dict[str, Any] = {} if "id" not in example else {"id": example["id"]}
        return out | {
            "answer": "" if best is None else context[best.start : best.end],
            "start": None if best is None else best.start,
            "end": None if best is None else best.end,
            "probability": round(none if best is None else probs[0], 6),
            "no_answer_probability": round(none, 6),
            "null_difference": None if difference is None else float(difference),
            "nbest": [
                {"text": context[c.start : c.end], "start": c.start, "end": c.end, "probability": round(p, 6)}
                for c, p in zip(shown, probs, strict=False)
            ],
        }

    def _search(
        self, context: str, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> tuple[list[Candidate], float]:
        """The best answers over all windows, best first, texts different; and the score of none: the least
        of the windows' at [CLS]."""
        inside = [np.flatnonzero(np.asarray(item["char_start"]) >= 0) for item in items]
        spans = [
            (int(item["offset"]), int(item["offset"]) + len(at))
            for item, at in zip(items, inside, strict=True)
        ]
        owner = _offsets.owners(spans, np.ones(max((last for _, last in spans), default=0), np.int64))
        found: list[Candidate] = []
        null = np.inf
        for number, (item, output, at) in enumerate(zip(items, outputs, inside, strict=True)):
            logits_T2 = np.asarray(output["span"], np.float64)
            null = min(null, float(logits_T2[0].sum()))
            if len(at):
                mine = owner[slice(*spans[number])] == number
                columns = (np.asarray(item["char_start"])[at], np.asarray(item["char_end"])[at])
                found += self._window(logits_T2[at], mine, *columns)
        found.sort(key=lambda c: (-c.score, c.start, c.end))
        kept: dict[str, Candidate] = {}
        for one in found:
            text = context[one.start : one.end]
            start = one.start + len(text) - len(text.lstrip())
            if text.strip():
                kept.setdefault(text.strip(), Candidate(one.score, start, start + len(text.strip())))
            if len(kept) == self.config.n_best:
                break
        return list(kept.values()), float(null)

    def _window(
        self, logits_W2: np.ndarray, mine_W: np.ndarray, starts_W: np.ndarray, ends_W: np.ndarray
    ) -> list[Candidate]:
        """The best spans of a window that start at a token it owns, at most max_answer tokens long."""
        W = len(logits_W2)
        K = min(self.config.max_answer, W)
        ends = np.concatenate([logits_W2[:, 1], np.full(K - 1, -np.inf)])
        score_WK = logits_W2[:, :1] + np.lib.stride_tricks.sliding_window_view(ends, K)
        score_WK = np.where(mine_W[:, None], score_WK, -np.inf).ravel()
        many = min(4 * self.config.n_best, len(score_WK))  # several may be the same text
        top = np.argpartition(-score_WK, many - 1)[:many]
        out = []
        for flat in top[np.isfinite(score_WK[top])].tolist():
            first, length = divmod(flat, K)
            out.append(Candidate(float(score_WK[flat]), int(starts_W[first]), int(ends_W[first + length])))
        return out

    # figures ------------------------------------------------------------------------------------

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """exact_match and f1, per cent, as the official scripts; with unanswerable questions also the parts
        HasAns_ and NoAns_, and the best values over all thresholds. Examples without the role `answers` are
        left out, and counted as unlabelled."""
        pairs = [
            (p, g) for p, e in zip(predictions, examples, strict=True) if (g := _answers.golds(e)) is not None
        ]
        if not pairs:
            raise DataError(f"{len(examples)} examples, none with answers", expected="the role 'answers'")
        out = squad.evaluate([p["answer"] for p, _ in pairs], [[t for t, _ in g] for _, g in pairs])
        if "NoAns_total" in out:
            out |= _best([p for p, _ in pairs], [[t for t, _ in g] for _, g in pairs])
        if len(pairs) < len(examples):
            out["unlabelled"] = float(len(examples) - len(pairs))
        return out

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same figures for the commonest answer of training ("" where most questions have none)."""
        answer = str(self.facts.get("majority_answer", ""))
        pairs = [g for e in examples if (g := _answers.golds(e)) is not None]
        return squad.evaluate([answer] * len(pairs), [[t for t, _ in g] for g in pairs])

    def calibrate(
        self,
        examples: Sequence[Example],
        items: Sequence[Sequence[Item]],
        outputs: Sequence[Sequence[Mapping[str, np.ndarray]]],
    ) -> dict[str, Any]:
        """null_threshold of the best F1, where there are questions with and without an answer; and the
        temperature at which the probability of the given answer is the chance that it is right."""
        drafts: list[Draft] = []
        golds: list[list[str]] = []
        for example, mine, output in zip(examples, items, outputs, strict=True):
            answers = _answers.golds(example)
            if answers is None:
                continue
            context = str(example["context"])
            found, null = self._search(context, mine, output)
            drafts.append(Draft([context[c.start : c.end] for c in found], [c.score for c in found], null))
            golds.append([text for text, _ in answers])
        return tune(drafts, golds, threshold=self.threshold, tuned=self.config.null_threshold is None)


def segment_nll(score_N: Tensor, piece_N: Tensor, inside_N: Tensor, right_N: Tensor) -> Tensor:
    """Σ −log softmax over each piece's own positions, at the right ones; no padding is made.

    Args:
        score_N: logits of all positions, any order of pieces.
        piece_N: which piece a position belongs to, 0 to N - 1.
        inside_N: positions that take part.
        right_N: the right ones among them.

    >>> one = torch.zeros(5)
    >>> piece, inside = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([True, True, True, False, True])
    >>> round(segment_nll(one, piece, inside, torch.tensor([True, False, False, False, True])).item() / 2, 4)
    0.6931
    """
    low = torch.finfo(score_N.dtype).min
    kept_N = score_N.where(inside_N, low)
    top_N = torch.full_like(score_N, low).scatter_reduce(0, piece_N, kept_N.detach(), "amax")[piece_N]
    shifted_N = (score_N - top_N).where(inside_N, -torch.inf)  # exp: 0
    total_N = torch.zeros_like(score_N).index_add(0, piece_N, shifted_N.exp())
    nll_N = total_N.where(total_N > 0, 1.0).log()[piece_N] - shifted_N
    return nll_N.where(right_N, 0.0).sum()


def _best(predictions: Sequence[Mapping[str, Any]], golds: Sequence[Sequence[str]]) -> dict[str, float]:
    """The script's best_exact and best_f1: the best answers, with the threshold that suits this split."""
    texts = [p["nbest"][0]["text"] if p["nbest"] else "" for p in predictions]
    none = [np.inf if p["null_difference"] is None else p["null_difference"] for p in predictions]
    lowest = float(min(none)) - 1.0
    found = squad.evaluate(texts, golds, version="2.0", no_answer=none, lowest=lowest)
    return {name: value for name, value in found.items() if name.startswith("best_") and np.isfinite(value)}


def _texts(example: Example) -> tuple[str, str]:
    out = []
    for role in ("question", "context"):
        value = example.get(role)
        if not isinstance(value, str):
            there = ", ".join(repr(k) for k in example if k[:1] != "_") or "nothing"
            raise DataError(
                f"no {role!r}; found: {there}",
                expected="question and context, both text",
                next=f'name the column with data.fields={{{role} = "COLUMN"}}',
            )
        out.append(value)
    return out[0], out[1]


def _tokens(placed: _answers.Placed, context: _offsets.Offsets) -> tuple[int, int] | None:
    """First and last token (of the context) of an answer; None where no token stands for it."""
    _, starts, ends = context
    if placed.how not in ("exact", "moved"):
        return None
    first = int(np.searchsorted(ends, placed.start, side="right"))
    last = int(np.searchsorted(starts, placed.end, side="left")) - 1
    return (first, last) if first <= last else None


def _label(item: Item, label: tuple[int, int] | None, *, known: bool) -> None:
    """Columns start and end: 1 at the label, 0 where it might be, IGNORE elsewhere; all IGNORE if unknown."""
    inside = np.asarray(item["char_start"]) >= 0
    at = int(inside.argmax()) if inside.any() else 0
    first = int(item["offset"])
    column = np.where(inside & known, 0, IGNORE).astype(np.int8)
    for i, name in enumerate(("start", "end")):
        mine = column.copy()
        if known:
            mine[0] = 0
            whole = label is not None and first <= label[0] and label[1] < first + int(inside.sum())
            mine[at + label[i] - first if whole and label is not None else 0] = 1
        item[name] = mine
