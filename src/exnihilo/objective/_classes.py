"""Classification and regression of a text or a pair: what `sentence_classification` and
`pair_classification` share.

`kind` is declared: ``multiclass`` and ``binary`` (cross-entropy), ``multilabel`` (binary cross-entropy of
each label), ``regression`` (squared error of the standardised number). The head ``classes`` reads the first
token. Facts: names, counts and order of the labels (or mean and deviation) before training; temperature and
thresholds after it, from the validation split.

Key: B rows, T positions, D model width, P pieces (examples), C classes, L labels, W words of bits
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor

from exnihilo import log
from exnihilo.errors import ConfigError, DataError, UsageError, nearest
from exnihilo.metrics import calibration as cal
from exnihilo.metrics.classification import confusion
from exnihilo.nn.layout import Attention
from exnihilo.objective import _labels
from exnihilo.objective._calibrate import calibrate
from exnihilo.objective._labels import Kind, Unfit
from exnihilo.objective._layout import begins, check_length, encode_texts, lay_out, name_rows, texts_of, where
from exnihilo.objective._scores import classes, numbers, sets, table, unseen_in
from exnihilo.objective.base import Batch, Example, Item, Objective
from exnihilo.objective.pieces import IGNORE, at_first, firsts

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

Name = Annotated[str, BeforeValidator(_labels.name_of)]
WORD = 31  # labels whose bits stand in one column of int32, none of them negative


class Classes(Objective):
    """A label, several labels or a number for each example."""

    attention: ClassVar[Attention] = Attention.FULL
    heads: ClassVar[tuple[str, ...]] = ("classes",)
    supervised: ClassVar[bool] = True
    per_item: ClassVar[frozenset[str]] = frozenset({"logits"})
    texts: ClassVar[tuple[str, ...]] = ("text",)  # the roles that hold text

    class Config(Objective.Config):
        """Options.

        Attributes:
            kind: what a label is: declared, never guessed.
            labels: names of the classes in the order of the outputs; default: those of the training split,
                by value where all are numbers, else by code points.
            positive: of ``binary``: the class that precision, recall, F1 and the threshold are about;
                default: the second.
            separator: between the names of a ``multilabel`` text.
            class_weights: of the loss: ``balanced`` (as often as if all classes were as frequent), or weights
                by name, 1 where absent; for ``multilabel`` those of a label that holds.
            label_smoothing: share of the target spread over all classes.
            threshold: what the decision threshold is tuned by, on the validation split; ``auto``: F1 for
                multilabel, accuracy for binary; ``none``: 0.5.
        """

        kind: Kind = "multiclass"
        labels: tuple[Name, ...] = ()
        positive: Name | None = None
        separator: Literal["|", ","] = "|"
        class_weights: Literal["none", "balanced"] | dict[Name, float] = "none"
        label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
        threshold: Literal["auto", "f1", "accuracy", "none"] = "auto"

        @model_validator(mode="after")
        def _check(self) -> Classes.Config:
            regression = self.kind == "regression"
            refused = {
                "labels": bool(self.labels) and regression,
                "positive": self.positive is not None and self.kind != "binary",
                "separator": self.separator != "|" and self.kind != "multilabel",
                "class_weights": self.class_weights != "none" and regression,
                "label_smoothing": self.label_smoothing > 0 and regression,
                "threshold": self.threshold != "auto" and self.kind not in ("binary", "multilabel"),
            }
            for name, wrong in refused.items():
                if wrong:
                    raise ValueError(f"{name} has no meaning with kind={self.kind}")
            if len(set(self.labels)) != len(self.labels):
                raise ValueError("labels names a class twice")
            if self.kind == "binary" and self.labels and len(self.labels) != 2:
                raise ValueError("labels must name two classes with kind=binary")
            weights = self.class_weights if isinstance(self.class_weights, dict) else {}
            if any(not (math.isfinite(w) and w >= 0) for w in weights.values()):
                raise ValueError("class_weights are finite numbers from 0 up")
            return self

    config: Classes.Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        check_length(length, 1 + 2 * len(self.texts))
        self._told: set[str] = set()  # unseen labels that were named

    # what it is, by its options and facts --------------------------------------------------------

    @property
    def columns(self) -> frozenset[str]:  # type: ignore[override]
        segment = {"segment"} if len(self.texts) == 2 else set()
        return frozenset({"tokens", "doc", "pos", *segment, *self._columns()})

    @property
    def main_metric(self) -> str:  # type: ignore[override]
        return {"multilabel": "micro_f1", "regression": "pearson"}.get(self.config.kind, "accuracy")

    @property
    def labels(self) -> int | None:
        if self.config.kind == "regression":
            return 1
        return len(self.names) if self.config.labels or "labels" in self.facts else None

    @property
    def names(self) -> list[str]:
        """Names of the classes, in the order of the outputs; none for regression."""
        if self.config.kind == "regression":
            return []
        known = self.facts.get("labels") or self.config.labels
        if not known:
            raise self._unsurveyed("names of the labels")
        return list(known)

    @staticmethod
    def _unsurveyed(what: str) -> UsageError:
        return UsageError(
            f"the {what} are not known yet",
            expected="facts of a training split",
            next="survey the training examples first, or load RUN/objective.json",
        )

    def _columns(self) -> list[str]:
        """Columns that hold the label; bits of more than `WORD` labels take several."""
        words = 1
        if self.config.kind == "multilabel" and self.labels:
            words = -(-self.labels // WORD)
        return ["label", *(f"label{w}" for w in range(1, words))]

    @property
    def positive(self) -> int:
        """Of binary: the class whose probability is held against the threshold."""
        names = self.names
        name = self.config.positive
        if name is None:
            return 1
        if name not in names:
            raise ConfigError(f"options.positive={name!r} is no label", expected=nearest(name, names))
        return names.index(name)

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        config = self.config
        facts = _labels.survey(
            examples, config.kind, roles=self.texts, separator=config.separator, declared=config.labels
        )
        if isinstance(config.class_weights, dict):
            for name in config.class_weights:
                if name not in facts["labels"]:
                    raise ConfigError(
                        f"options.class_weights names {name!r}, which is no label",
                        expected=nearest(name, facts["labels"]),
                    )
        return facts

    # data ---------------------------------------------------------------------------------------

    def encode(self, example: Example, codec: Codec) -> Item | list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """One item an example; none where a text or the label is empty.

        Raises:
            DataError: a label that does not fit the declared kind, with its row.
        """
        out: list[list[Item]] = [[] for _ in examples]
        kept: list[tuple[int, tuple[str, ...], list[int | float]]] = []
        for number, example in enumerate(examples):
            texts = texts_of(example, self.texts)
            if isinstance(texts, str) or not begins(example):
                continue
            gold = self._gold(example, number)
            if gold is None and "label" in example:
                continue
            kept.append((number, texts, self._targets(gold)))
        encoded = encode_texts([texts for _, texts, _ in kept], codec)
        for (number, _, targets), parts in zip(kept, encoded, strict=True):
            out[number] = [self._item(parts, targets, codec)]
        return out

    def _item(self, parts: tuple[list[int], ...], targets: list[int | float], codec: Codec) -> Item:
        item = lay_out(parts, codec, self.length)
        length = len(np.asarray(item["tokens"]))
        for name, target in zip(self._columns(), targets, strict=True):
            item[name] = at_first(target, length)
        return item

    def _ids(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def _gold(self, example: Example, number: int) -> Any:
        """A name, names or a number, as the kind says; None where the cell is empty."""
        try:
            return _labels.parse(example.get("label"), self.config.kind, self.config.separator)
        except Unfit as error:
            raise DataError(
                f"{where(example, number)}: the label does not fit options.kind={self.config.kind}: {error}",
                next="correct the row, or declare another options.kind",
            ) from error

    def _targets(self, gold: Any) -> list[int | float]:
        """What stands at the first token in each of `_columns()`: -100 for no label and for an unseen one."""
        kind = self.config.kind
        if gold is None:
            return [float(IGNORE) if kind == "regression" else IGNORE] * len(self._columns())
        if kind == "regression":
            mean, std = self._moments()
            z = np.float32((gold - mean) / std)
            # a target that happens to be -100 must not mean "none"
            return [float(z if z != IGNORE else np.nextafter(z, np.float32(0)))]
        ids = self._ids()
        if kind != "multilabel":
            return [ids.get(gold, IGNORE)]
        words = [0] * len(self._columns())
        for name in gold:
            if name in ids:
                words[ids[name] // WORD] |= 1 << ids[name] % WORD
        return list(words)

    def _moments(self) -> tuple[float, float]:
        """Mean and deviation of the training split's numbers."""
        if "std" not in self.facts:
            raise self._unsurveyed("mean and deviation of the labels")
        return self.facts["mean"], self.facts["std"]

    # training -----------------------------------------------------------------------------------

    @property
    def _term(self) -> str:
        return {"multilabel": "bce", "regression": "mse"}.get(self.config.kind, "ce")

    def reads(self, batch: Batch) -> Tensor:
        return firsts(batch)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        first_BT = firsts(batch)
        label_P = batch["label"][first_BT]
        held_P = label_P != IGNORE
        if self.config.kind == "multilabel":
            total = held_P.to(torch.float64).sum() * len(self.names)
        elif self.config.kind == "regression" or self.config.class_weights == "none":
            total = held_P.to(torch.float64).sum()
        else:
            total = self._weights(label_P.device, torch.float64)[label_P[held_P]].sum()
        return {self._term: total}

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        logits_PC, config = self._logits(model, hidden_BTD, batch), self.config
        first_BT = firsts(batch)
        label_P = batch["label"][first_BT]
        held_P = label_P != IGNORE
        if config.kind == "regression":
            error_P = logits_PC[:, 0] - label_P.to(logits_PC.dtype)
            return {"mse": error_P[held_P].square().sum()}
        if config.kind == "multilabel":
            bits_PL = self._bits(batch, first_BT)[held_P].to(logits_PC.dtype)
            target_PL = bits_PL * (1 - config.label_smoothing) + config.label_smoothing / 2
            weight_L = self._weights(logits_PC.device, logits_PC.dtype)
            loss = F.binary_cross_entropy_with_logits(
                logits_PC[held_P], target_PL, pos_weight=weight_L, reduction="sum"
            )
            return {"bce": loss}
        weight_C = None
        if config.class_weights != "none":
            weight_C = self._weights(logits_PC.device, logits_PC.dtype)
        loss = F.cross_entropy(
            logits_PC, label_P.long(), weight_C, reduction="sum", label_smoothing=config.label_smoothing
        )
        return {"ce": loss}

    def _logits(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> Tensor:
        head: Any = model.heads["classes"]
        logits_PC = head.logits(hidden_BTD[firsts(batch)])
        return logits_PC.to(torch.promote_types(logits_PC.dtype, torch.float32))

    def _bits(self, batch: Batch, first_BT: Tensor) -> Tensor:
        """Which labels hold, (P, L), 0 or 1."""
        word_PW = torch.stack([batch[name][first_BT].long() for name in self._columns()], 1)
        at_L = torch.arange(len(self.names), device=word_PW.device)
        return (word_PW[:, at_L // WORD] >> at_L % WORD) & 1

    def _weights(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Weights by class. Balanced: n / (C n_c); of labels of which several may hold: absent / present."""
        names, given = self.names, self.config.class_weights
        if isinstance(given, dict):
            values = [given.get(name, 1.0) for name in names]
        elif given == "balanced":
            n, counts = self.facts["examples"], self.facts["counts"]
            present = [max(1, counts[name]) for name in names]
            if self.config.kind == "multilabel":
                values = [(n - c) / c for c in present]
            else:
                values = [n / (len(names) * c) for c in present]
        else:
            values = [1.0] * len(names)
        return torch.tensor(values, dtype=dtype, device=device)

    # predictions --------------------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"logits": self._logits(model, hidden_BTD, batch)}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """{"label", "probabilities": {name: p}}; multilabel: {"labels", "probabilities"}; regression:
        {"score"}. And "cut", how many tokens were cut off, where there were any."""
        if not outputs:
            raise DataError("an example without a text to read", expected="a text for each role")
        z_C = np.asarray(outputs[0]["logits"], np.float64).reshape(-1)
        facts, kind = self.facts, self.config.kind
        cut = int(items[0].get("cut", 0)) if items else 0
        more = {"cut": cut} if cut else {}
        if kind == "regression":
            mean, std = self._moments()
            return {"score": float(z_C[0] * std + mean), **more}
        names, T = self.names, float(facts.get("temperature", 1.0))
        p_C = cal.sigmoid(z_C / T) if kind == "multilabel" else cal.softmax(z_C / T)
        probabilities = {name: float(p) for name, p in zip(names, p_C, strict=True)}
        if kind == "multilabel":
            cuts = facts.get("thresholds", {})
            held = [name for name, p in probabilities.items() if p >= cuts.get(name, 0.5)]
            return {"labels": held, "probabilities": probabilities, **more}
        best = int(z_C.argmax())
        if kind == "binary" and "threshold" in facts:
            positive = self.positive
            best = positive if p_C[positive] >= facts["threshold"] else 1 - positive
        return {"label": names[best], "probabilities": probabilities, **more}

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Metrics of a split. Rows without a label are left out; labels that training never saw count as
        mistakes, are counted ("unseen") and named."""
        golds = [self._gold(example, i) for i, example in enumerate(examples)]
        pairs = [(p, g) for p, g in zip(predictions, golds, strict=True) if g is not None]
        if not pairs:
            raise DataError(
                f"none of {len(examples):,} examples has a label: there is nothing to score",
                expected="a role 'label'",
                next='name the column with data.fields={label = "COLUMN"}',
            )
        found, gold = [p for p, _ in pairs], [g for _, g in pairs]
        self._name_unseen(gold)
        if self.config.kind == "regression":
            out = numbers(found, gold)
        elif self.config.kind == "multilabel":
            out = sets(found, gold, self.names)
        else:
            positive = self.positive if self.config.kind == "binary" else None
            out = classes(found, gold, self.names, positive)
        if len(pairs) < len(golds):
            out["unlabelled"] = float(len(golds) - len(pairs))
        return out

    def _name_unseen(self, gold: Sequence[Any]) -> None:
        """Says once which labels training never saw."""
        unseen = {} if self.config.kind == "regression" else unseen_in(gold, self.names)
        if unseen.keys() - self._told:
            named = name_rows([f"{name!r} ({n:,})" for name, n in unseen.items()])
            log.warn(f"labels that training never saw count as mistakes: {named}")
            self._told |= unseen.keys()

    def confusion(self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]) -> np.ndarray:
        """Counts (C, C) of truth by prediction, of the examples whose label is one of `names`."""
        ids = self._ids()
        golds = [self._gold(example, i) for i, example in enumerate(examples)]
        pairs = [(ids[g], ids[p["label"]]) for g, p in zip(golds, predictions, strict=True) if str(g) in ids]
        both = np.array(pairs, np.int64).reshape(-1, 2)
        return confusion(both[:, 0], both[:, 1], len(ids))

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same metrics of what the training split says without looking at the text: its most frequent
        class, its labels that hold more often than not, its mean."""
        facts = self.facts
        if self.config.kind == "regression":
            constant: dict[str, Any] = {"score": self._moments()[0]}
        else:
            share = {name: facts["counts"][name] / facts["examples"] for name in self.names}
            constant = {"probabilities": share}
            if self.config.kind == "multilabel":
                constant["labels"] = [name for name, p in share.items() if p >= 0.5]
            else:
                constant["label"] = max(share, key=lambda name: share[name])
        return self.score([constant] * len(examples), examples)

    def calibrate(
        self,
        examples: Sequence[Example],
        items: Sequence[Sequence[Item]],
        outputs: Sequence[Sequence[Mapping[str, np.ndarray]]],
    ) -> dict[str, Any]:
        """Temperature and thresholds from a validation split, with the calibration error before and after."""
        if self.config.kind == "regression":
            return {}
        ids: dict[Any, int] = dict(self._ids())
        golds = [self._gold(example, i) for i, example in enumerate(examples)]
        kept = [
            (g, out[0]["logits"])
            for g, out in zip(golds, outputs, strict=True)
            if g is not None and out and (isinstance(g, tuple) or g in ids)
        ]
        if not kept:
            return {}
        z_NC = np.array([np.asarray(z, np.float64).reshape(-1) for _, z in kept])
        if self.config.kind == "multilabel":
            gold = table([g for g, _ in kept], self.names)
        else:
            gold = np.array([ids[g] for g, _ in kept])
        binary = self.config.kind == "binary"
        return calibrate(
            z_NC,
            gold,
            names=self.names,
            positive=self.positive if binary else None,
            by=self.config.threshold,
        )
