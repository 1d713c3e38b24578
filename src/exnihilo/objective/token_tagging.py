"""Token tagging: a tag for every word (named entities, parts of speech), from an encoder's states.

::

    exnihilo train token_tagging init=runs/bert data=train.conll val=dev.conll

An example has ``words`` and ``tags``, or ``text`` and ``spans`` ({"start", "end", "label"} in characters).
Each word is encoded for itself, so no token holds parts of two words; its label stands at its first token
(``subwords="all"``: at every one), and its prediction is one for the whole word. Texts longer than a row go
through overlapping windows of whole words: a word is learnt and predicted in the window where it has most
context. With ``crf`` the head also learns which tag follows which; with or without it the decoded tags obey
the scheme. See docs/token_tagging.md.

Key: B rows, T positions, D model width, M labelled tokens, N words, C labels, P pieces, W words of a piece

Source: Devlin et al., *BERT*, 2019, section 5.3 (first subword); Lample et al., *Neural architectures for
named entity recognition*, 2016 (CRF)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from exnihilo.errors import ConfigError, DataError
from exnihilo.kernels import crf
from exnihilo.metrics import calibration
from exnihilo.metrics import spans as metrics
from exnihilo.nn.layout import Attention
from exnihilo.objective import _offsets, _tag_words, _tags
from exnihilo.objective._calibrate import FEW
from exnihilo.objective._tag_facts import NAMED, Survey, place_name
from exnihilo.objective._tag_path import best_path
from exnihilo.objective.base import Batch, Example, Item, Objective
from exnihilo.objective.pieces import IGNORE, firsts

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

LENGTH = 384  # positions where the model's context is not known
_BEGINS, _ENDS = 1, 2  # bits of the column `edge`
_FITTED = 200_000  # words a temperature is fitted on, at most


class TokenTagging(Objective):
    """Downstream type: tags of words, spans of characters."""

    attention: ClassVar[Attention] = Attention.FULL
    heads: ClassVar[tuple[str, ...]] = ("tags",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "tag", "edge"})
    roles: ClassVar[tuple[str, ...]] = ("words", "tags")
    view: ClassVar[str] = "entities"
    supervised: ClassVar[bool] = True
    per_item: ClassVar[frozenset[str]] = frozenset({"chain"})

    class Config(BaseModel):
        """Options.

        Attributes:
            scheme: of the tags; "auto" finds it from the tags of the training data and says it.
            subwords: which tokens of a word carry its label.
            stride: tokens that two neighbouring windows share at most; default a quarter of the row.
            crf: learn scores of neighbouring tags.
            constrain: decode to tags that the scheme allows.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")
        scheme: Literal["auto", "bio", "bioes", "none"] = "auto"
        subwords: Literal["first", "all"] = "first"
        stride: int | None = Field(default=None, ge=0)
        crf: bool = False
        constrain: bool = True

    config: Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        self.room = (length or LENGTH) - 2  # [CLS] and [SEP]
        if self.room < 1:
            raise ConfigError(f"rows of {length} positions", expected="at least 3", next="model.context=128")
        given = self.config.stride
        if given is not None and given >= self.room:
            raise ConfigError(
                f"options.stride={given} with {self.room} tokens of text in a window",
                expected="windows that advance: a stride (the tokens two windows share) below that",
                next="a smaller options.stride, or a larger model.context",
            )
        self.overlap = self.room // 4 if given is None else given
        if self.config.crf and self.config.subwords == "all":
            raise ConfigError(
                "options.crf=true with options.subwords=all",
                expected="one label a word: a CRF scores the tags of neighbouring words",
                next="options.subwords=first",
            )

    # facts --------------------------------------------------------------------------------------

    @property
    def main_metric(self) -> str:  # type: ignore[override]
        """F1 of spans, or the accuracy of plain classes."""
        return "accuracy" if "labels" in self.facts and self.scheme == "none" else "f1"

    @property
    def labels(self) -> int | None:
        return len(self.facts["labels"]) if "labels" in self.facts else None

    @property
    def names(self) -> list[str]:
        """The labels, in the order of the head's outputs.

        Raises:
            DataError: they are not known yet.
        """
        if "labels" not in self.facts:
            raise DataError(
                "token_tagging knows no labels",
                expected="facts from the training data",
                next="survey(examples) first, or load a trained run",
            )
        return list(self.facts["labels"])

    @property
    def scheme(self) -> str:
        """The scheme in force; of a model made elsewhere as its labels show it."""
        return str(self.facts.get("scheme") or _tags.detect(self.names))

    @property
    def model_settings(self) -> dict[str, Any]:
        """Also the scores of neighbouring tags, where they are asked for."""
        return {**super().model_settings, **({"crf": True} if self.config.crf else {})}

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        """Scheme, labels, counts, and the commonest tag of the commonest words (the majority baseline).

        Raises:
            DataError: no example has words with matching tags.
        """
        found = Survey(self.config.scheme)
        for example in examples:
            found.add(example)
        return found.facts()

    # encoding -----------------------------------------------------------------------------------

    def encode(self, example: Example, codec: Codec) -> list[Item]:
        return self.encode_many([example], codec)[0]

    def query(self, example: Example, codec: Codec) -> list[Item]:
        """As `encode`, with the column `word` (the word's number at its labelled tokens, else -1)."""
        given = {name: value for name, value in example.items() if name not in ("tags", "spans")}
        said = _tags.sentence(given, self.facts.get("scheme"))
        return self._items(said, _tag_words.read([said], codec, self.room), codec, numbered=True)

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """Items of each example: its windows. None for a row whose tags do not match its words: `survey`
        counts and names those."""
        scheme = self.facts.get("scheme")
        read: list[_tags.Sentence | None] = []
        for example in examples:
            try:
                read.append(_tags.sentence(example, scheme))
            except DataError:
                if "words" not in example and "text" not in example:
                    raise
                read.append(None)
        ids = _tag_words.read([said for said in read if said is not None], codec, self.room)
        return [[] if said is None else self._items(said, ids, codec) for said in read]

    def _items(
        self,
        said: _tags.Sentence,
        known: Mapping[str, _tag_words.Word],
        codec: Codec,
        *,
        numbered: bool = False,
    ) -> list[Item]:
        read = [known[word] for word in _tag_words.spelled(said, codec)]
        sizes = np.array([len(word.ids) for word in read], np.int64)
        lead = np.array([word.lead for word in read], np.int64)
        tag_N = self._tag_ids(said)
        spans = _offsets.windows(sizes, self.room, self.overlap)
        owner = _offsets.owners(spans, sizes)
        cls = codec.cls_id if codec.cls_id is not None else codec.bos_id
        sep = codec.sep_id if codec.sep_id is not None else codec.eos_id
        small = np.uint16 if codec.vocab_size <= 1 << 16 else np.uint32
        out: list[Item] = []
        for number, (first, last) in enumerate(spans):
            tokens = np.array([cls, *(i for word in read[first:last] for i in word.ids), sep], small)
            place = 1 + np.cumsum(sizes[first:last]) - sizes[first:last]
            mine = np.flatnonzero(owner[first:last] == number)
            which = first + mine
            at = place[mine] + lead[which]
            if self.config.subwords == "all":
                spread = sizes[which] - lead[which]
                at = np.repeat(at, spread) + _ramp(spread)
                which = np.repeat(which, spread)
            tag = np.full(len(tokens), IGNORE, np.int16)
            tag[at] = tag_N[which]
            edge = _BEGINS * (not len(mine) or int(which[0]) == 0)
            edge |= _ENDS * (not len(mine) or int(which[-1]) == len(read) - 1)
            item: Item = {
                "tokens": tokens,
                "tag": tag,
                "edge": np.full(len(tokens), edge, np.int8),
                "cut": sum(word.cut for word in read[first:last]),
            }
            if numbered:
                word = np.full(len(tokens), -1, np.int32)
                word[at] = which
                item["word"] = word
            out.append(item)
        return out

    def _tag_ids(self, said: _tags.Sentence) -> np.ndarray:
        """Label ids of the words, IGNORE where there is none or it was not seen in training."""
        if said.tags is None:
            return np.full(len(said.words), IGNORE, np.int16)
        known = {name: i for i, name in enumerate(self.names)}
        tags = _tags.repair(said.tags, self.scheme)
        return np.array([known.get(tag, IGNORE) for tag in tags], np.int16)

    # training -----------------------------------------------------------------------------------

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"nll": _labelled(batch).sum().to(torch.float64)}

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        head: Any = model.heads["tags"]
        self._agree(head)
        at_BT = _labelled(batch)
        scores_MC = _wide(head.logits(hidden_BTD[at_BT]))
        tag_M = batch["tag"][at_BT].long()
        if head.transitions is None:
            return {"nll": F.cross_entropy(scores_MC, tag_M, reduction="sum")}
        piece_M = _pieces(batch)[at_BT]
        if not len(piece_M):
            return {"nll": scores_MC.sum()}
        scores_PWC, place_PW, length_P = crf.batch(scores_MC, piece_M)
        edge_P = batch["edge"][at_BT][place_PW[:, 0]]
        ll_P = crf.log_likelihood(
            scores_PWC,
            tag_M[place_PW],
            length_P,
            _wide(head.transitions),
            _wide(head.start),
            _wide(head.stop),
            begins_P=(edge_P & _BEGINS) > 0,
            ends_P=(edge_P & _ENDS) > 0,
        )
        return {"nll": -ll_P.sum()}

    def _agree(self, head: Any) -> None:
        if (head.transitions is not None) != self.config.crf:
            raise ConfigError(
                f"options.crf={self.config.crf} with model.crf={head.transitions is not None}",
                expected="both the same",
                next=f"options.crf={str(not self.config.crf).lower()}",
            )

    # prediction ---------------------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """tags (B, T, C); with a CRF chain (P, C + 2, C): transitions, start and stop, the same for all."""
        head: Any = model.heads["tags"]
        self._agree(head)
        out = {"tags": head.logits(hidden_BTD).float()}
        if head.transitions is not None:
            chain = torch.cat([head.transitions, head.start[None], head.stop[None]]).float()
            out["chain"] = chain.expand(int(firsts(batch).sum()), *chain.shape)
        return out

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """words, starts, ends (characters), tags and probabilities, one a word; and for bio and bioes
        spans: {"start", "end", "label", "text", "probability", "first", "last"} (first, last: words)."""
        names, scheme = self.names, self.scheme
        given = {name: value for name, value in example.items() if name not in ("tags", "spans")}
        said = _tags.sentence(given, scheme)
        scores_NC = self._words(items, outputs, len(said.words), len(names))
        chain = outputs[0].get("chain") if outputs else None
        if chain is None:
            scores_NC = scores_NC / float(self.facts.get("temperature", 1.0))
        may = _tags.allowed(names, scheme if self.config.constrain else "none")
        best_N, probs_N = best_path(scores_NC, chain, may)
        tags = [names[i] for i in best_N.tolist()]
        out: dict[str, Any] = {"id": example["id"]} if isinstance(example.get("id"), (str, int)) else {}
        out |= {
            "text": said.text,
            "words": said.words,
            "starts": said.starts.tolist(),
            "ends": said.ends.tolist(),
            "tags": tags,
            "probabilities": [round(float(p), 6) for p in probs_N],
        }
        if scheme == "none":
            return out
        out["spans"] = []
        for kind, first, last in metrics.entities(tags):
            start, end = int(said.starts[first]), int(said.ends[last - 1])
            span = {"start": start, "end": end, "label": kind, "text": said.text[start:end]}
            sure = round(float(probs_N[first:last].min()), 6)  # of its least sure word
            out["spans"].append({**span, "probability": sure, "first": first, "last": last})
        return out

    @staticmethod
    def _words(
        items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]], n: int, C: int
    ) -> np.ndarray:
        """Scores of each word (N, C): the mean over its labelled tokens."""
        sums, counts = np.zeros((n, C), np.float64), np.zeros(n, np.int64)
        for item, output in zip(items, outputs, strict=True):
            word = np.asarray(item["word"])
            at = np.flatnonzero(word >= 0)
            np.add.at(sums, word[at], np.asarray(output["tags"])[at])
            np.add.at(counts, word[at], 1)
        return sums / np.maximum(counts, 1)[:, None]

    # figures ------------------------------------------------------------------------------------

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """bio, bioes: f1, precision, recall (lenient, conlleval), the same _strict, f1@TYPE and accuracy;
        plain classes: accuracy. And what was odd in the gold, where something was: repaired_tags,
        unseen_tags, moved_spans, skipped_rows."""
        golds, mine, odd = self._golds([p["tags"] for p in predictions], examples)
        return {**self._figures(golds, mine), **odd}

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """Each word's commonest tag in training (of the commonest words), else the commonest tag."""
        known = self.facts.get("majority", {"tag": self.names[0], "words": {}})
        tags = []
        for example in examples:
            given = {name: value for name, value in example.items() if name not in ("tags", "spans")}
            said = _tags.sentence(given, self.scheme)
            tags.append([known["words"].get(word, known["tag"]) for word in said.words])
        golds, mine, odd = self._golds(tags, examples)
        return {**self._figures(golds, mine), **odd}

    def _golds(
        self, tags: Sequence[Sequence[str]], examples: Sequence[Example]
    ) -> tuple[list[list[str]], list[list[str]], dict[str, float]]:
        """Gold and predicted tags of the rows that can be scored, and counts of what was odd."""
        scheme, seen = self.scheme, set(self.names)
        written = self.facts.get("written", scheme)
        golds: list[list[str]] = []
        mine: list[list[str]] = []
        odd = dict.fromkeys(("repaired_tags", "unseen_tags", "moved_spans", "skipped_rows"), 0.0)
        named: list[str] = []
        for row, (own, example) in enumerate(zip(tags, examples, strict=True)):
            try:
                said = _tags.sentence(example, scheme)
                if said.tags is None or len(said.tags) != len(own):
                    raise DataError("no tags", expected="one tag a word")
            except DataError as error:
                odd["skipped_rows"] += 1
                named.append(f"{place_name(example, row)} ({error.given})")
                continue
            fixed = _tags.repair(said.tags, scheme)
            odd["repaired_tags"] += sum(map(str.__ne__, said.tags, fixed)) if written == scheme else 0
            odd["unseen_tags"] += sum(tag not in seen for tag in fixed)
            odd["moved_spans"] += said.moved
            golds.append(said.tags)
            mine.append(list(own))
        if not golds:
            raise DataError(
                f"not one of {len(examples)} rows can be scored: {', '.join(named[:NAMED])}",
                expected="one tag a word",
                next="check data=PATH",
            )
        return golds, mine, {name: count for name, count in odd.items() if count}

    def _figures(self, golds: list[list[str]], mine: list[list[str]]) -> dict[str, float]:
        scheme = self.scheme
        if scheme not in ("bio", "bioes"):
            total = sum(map(len, golds))
            hits = sum(a == b for g, p in zip(golds, mine, strict=True) for a, b in zip(g, p, strict=True))
            return {"accuracy": hits / total if total else 0.0}
        letters = set(metrics.LETTERS[scheme])
        # gold written in another scheme (set by hand) is compared in the one in force
        strict = [g if {t[:1] for t in g} <= letters else _tags.repair(g, scheme) for g in golds]
        return metrics.score(golds, mine, scheme, gold_strict=strict)

    def calibrate(
        self,
        examples: Sequence[Example],
        items: Sequence[Sequence[Item]],
        outputs: Sequence[Sequence[Mapping[str, np.ndarray]]],
    ) -> dict[str, Any]:
        """Without a CRF: the temperature of the words' logits, and the calibration error before and after."""
        if self.config.crf:
            return {}
        known = {name: i for i, name in enumerate(self.names)}
        scores: list[np.ndarray] = []
        gold: list[np.ndarray] = []
        held = 0
        for example, mine, output in zip(examples, items, outputs, strict=True):
            try:
                said = _tags.sentence(example, self.scheme)
            except DataError:
                continue  # score() counts and names it
            if said.tags is None or held >= _FITTED:
                continue
            ids = np.array([known.get(t, -1) for t in _tags.repair(said.tags, self.scheme)], np.int64)
            scores.append(self._words(mine, output, len(ids), len(known))[ids >= 0])
            gold.append(ids[ids >= 0])
            held += len(gold[-1])
        if not held:
            return {}
        scores_NC, gold_N = np.concatenate(scores), np.concatenate(gold)
        warm = calibration.temperature(scores_NC, gold_N) if len(gold_N) >= FEW else 1.0
        return {
            "temperature": warm,
            "ece_before": calibration.ece(calibration.softmax(scores_NC), gold_N),
            "ece_after": calibration.ece(calibration.softmax(scores_NC / warm), gold_N),
            "calibrated_on": len(gold_N),
        }


def _wide(values: Tensor) -> Tensor:
    """At least float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _labelled(batch: Batch) -> Tensor:
    """Bool (B, T): tokens that carry a label."""
    at_BT = batch["tag"] != IGNORE
    return at_BT & (batch["doc"] >= 0) if "doc" in batch else at_BT


def _pieces(batch: Batch) -> Tensor:
    """The number of each token's piece (B, T), rising."""
    first_BT = firsts(batch)
    return first_BT.flatten().cumsum(0).view_as(first_BT)


def _ramp(sizes: np.ndarray) -> np.ndarray:
    """0, 1, 2 ... within each of the runs."""
    ends = np.cumsum(sizes)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - sizes, sizes)
