"""Captions by a decoder: the picture is a prefix, the text is continued behind it, token by token.

A row is the patches of the picture, which see each other both ways, then [bos] text [eos], which sees the
picture and what of itself came before; the loss is on the text alone. So a decoder of text (``init=`` of a
run of `gpt`) learns to see: its front end gets a new input, everything else is carried over.

Facts: the most frequent text. Metrics: word and character error rate against the one text that is given, the
share that is exactly it, and `token_f1`, the overlap of words in any order.

Sources: Vinyals et al. 2014 (Show and Tell, arXiv 1411.4555); Liu et al. 2023 (patches as a prefix of a
decoder, arXiv 2304.08485); Raffel et al. 2019 (prefix language models, arXiv 1910.10683).

Key: B rows, T positions, D model width, P pictures, U tokens of a text, V vocabulary
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from exnihilo.data.base import Noted
from exnihilo.errors import DataError
from exnihilo.kernels.linear_ce import linear_cross_entropy
from exnihilo.metrics.edit import errors
from exnihilo.nn.layout import Attention
from exnihilo.objective._layout import missing
from exnihilo.objective._prefix import apart, behind, continued, own
from exnihilo.objective._seeing import INPUT, Seeing
from exnihilo.objective.base import Batch, Example, Item
from exnihilo.objective.pieces import IGNORE

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model


class Caption(Seeing):
    """A picture to words."""

    attention: ClassVar[Attention] = Attention.CAUSAL
    heads: ClassVar[tuple[str, ...]] = ("tokens",)
    columns: ClassVar[frozenset[str]] = frozenset(
        {"tokens", "doc", "pos", "kind", "picture", "place", "group", "targets"}
    )
    roles: ClassVar[tuple[str, ...]] = ("picture", "text")
    supervised: ClassVar[bool] = True
    main_metric: ClassVar[str] = "word_accuracy"
    per_item: ClassVar[frozenset[str]] = frozenset({"ids"})

    class Config(Seeing.Config):
        """Options of what is seen, and

        Attributes:
            max_new_tokens: of a text that is written.
        """

        max_new_tokens: int = Field(default=48, ge=1)

        @model_validator(mode="after")
        def _check_change(self) -> Caption.Config:
            if self.augment.mixes:
                raise ValueError("augment.mixup and cutmix have no meaning for texts")
            return self

    config: Config

    @property
    def marked(self) -> int:
        return 0

    @property
    def row(self) -> int | None:
        return self.length  # texts differ in length

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        texts = Counter(" ".join(str(e.get("text") or "").split()) for e in examples)
        texts.pop("", None)
        if not texts:
            raise DataError("no example has a text", expected="what is seen, in a role 'text'")
        return {"constant": texts.most_common(1)[0][0]}

    # data ---------------------------------------------------------------------------------------

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        self._codec = codec
        out: list[list[Item]] = []
        for example, items in zip(examples, self.see_many(examples, codec), strict=True):
            text = example.get("text")
            if not items:
                out.append(items)
                continue
            if missing(text):
                out.append(Noted([], "without a text") if "text" in example else [behind(items[0], [])])
                continue
            ids = [codec.bos_id, *codec.encode(" ".join(str(text).split())), codec.eos_id]
            whole = behind(items[0], ids)
            if self.length is not None and len(np.asarray(whole["tokens"])) > self.length:
                out.append(Noted([], "longer than the model's positions, with their text"))
            else:
                out.append([whole])
        return out

    def query(self, example: Example, codec: Codec) -> Item | list[Item]:
        return super().query({role: value for role, value in example.items() if role != "text"}, codec)

    # training -----------------------------------------------------------------------------------

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"nll": (own(batch) != IGNORE).to(torch.float64).sum()}

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        targets_BT = own(batch)
        head: Any = model.heads["tokens"]
        held_BT = targets_BT != IGNORE
        total, _ = linear_cross_entropy(
            hidden_BTD[held_BT], head.weight, targets_BT[held_BT].long(), bias_V=head.bias
        )
        return {"nll": total}

    # predictions --------------------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Ids that follow each picture, (P, U), -1 behind the end."""
        del hidden_BTD  # of the prefixes alone: each is read again with its text
        columns = self.inputs(batch)
        columns["picture"] = self.seen(batch)
        rows = apart(batch, columns)
        found = continued(model, rows, self._codec, self.attention, most=self.config.max_new_tokens)
        out = torch.full((len(found), self.config.max_new_tokens), -1, dtype=torch.int64)
        for row, ids in zip(out, found, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return {"ids": out}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """{"text"}."""
        if not outputs:
            raise DataError(f"{example.get(INPUT)}: nothing to see", expected="a picture that can be read")
        ids = [int(i) for i in np.asarray(outputs[0]["ids"]).reshape(-1) if i >= 0]
        return {"text": " ".join(self._codec.decode(ids).split())}

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """``wer``, ``cer``, ``exact``, ``word_accuracy`` and ``token_f1``; examples without a text are left
        out."""
        pairs = [
            (str(e.get("text") or ""), str(p["text"])) for p, e in zip(predictions, examples, strict=True)
        ]
        kept = [(said, seen) for said, seen in pairs if said.strip()]
        if not kept:
            raise DataError("no example has a text: there is nothing to score", expected="a role 'text'")
        found = errors([said for said, _ in kept], [seen for _, seen in kept])
        f1 = sum(_overlap(said, seen) for said, seen in kept) / len(kept)
        return {**found, "word_accuracy": 1 - found["wer"], "token_f1": f1}

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same of the most frequent text of the training split, whatever is seen."""
        return self.score([{"text": self.facts.get("constant", "")}] * len(examples), examples)


def _overlap(said: str, seen: str) -> float:
    """Harmonic mean of precision and recall of the words."""
    a, b = Counter(said.split()), Counter(seen.split())
    common = (a & b).total()
    return 2 * common / (a.total() + b.total()) if common else 0.0
