"""A reward model: one number for a reply to a prompt, higher for the better of two.

::

    exnihilo train reward_model init=runs/sft data=pairs.jsonl        # a decoder's trunk
    exnihilo train reward_model init=runs/bert data=pairs.jsonl       # an encoder's
    exnihilo predict RUN '{"prompt": "Hi", "completion": "Hello."}'    # {"score": 1.3}
    exnihilo train rlvr ... grader=reward_model:runs/rm

Learnt from pairs as Bradley & Terry (1952) have it: p(chosen is better) = σ(s_w − s_l), loss −log of it.
Differences alone leave the level of scores open; ``options.center=0.01`` adds 0.01 (s_w + s_l)², which holds
it near 0 (Eisenstein et al. 2023).

A decoder reads both replies as branches of their prompt (`_branches`), and scores each at its last token, the
terminator of the turn. An encoder reads [CLS] prompt [SEP] reply [SEP] of each, and scores it at [CLS]; which
of the two a model is, its tokenizer tells ([CLS]). Both are exported as transformers' classes for sequences
with one label; what such a class is given must end where a reply ends here.

Sources: Ouyang et al. 2022 (arXiv:2203.02155), equation 1; Eisenstein et al. 2023 (arXiv:2312.09244). See
docs/preference.md.

Key: B rows, R tokens of a row, D model width, M replies of all rows, P pairs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exnihilo.codec.chat import chat
from exnihilo.data.base import Noted
from exnihilo.errors import DataError
from exnihilo.model.family import find
from exnihilo.nn.layout import Attention
from exnihilo.objective import _branches, _replies
from exnihilo.objective._layout import encode_texts, lay_out
from exnihilo.objective._preference_losses import bradley_terry
from exnihilo.objective._text import dtype_of
from exnihilo.objective.base import Batch, Example, Item, Objective

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

PAIR = ("chosen", "rejected")
_CUT = "texts longer than the context (they stay, cut at their ends)"


@final
class RewardModel(Objective):
    """{"prompt", "chosen", "rejected"} to learn from; {"prompt", "completion"} -> {"score": a number}."""

    attention: ClassVar[Attention] = Attention.CAUSAL  # of a decoder; an encoder does as it is
    heads: ClassVar[tuple[str, ...]] = ("value",)
    columns: ClassVar[frozenset[str]] = _branches.COLUMNS
    roles: ClassVar[tuple[str, ...]] = ("prompt", *PAIR)
    view: ClassVar[str] = "preferences"
    supervised: ClassVar[bool] = True
    per_item: ClassVar[frozenset[str]] = frozenset({"score"})
    main_metric: ClassVar[str] = "accuracy"

    class Config(BaseModel):
        """Options.

        Attributes:
            center: weight of (s_w + s_l)²; 0.01 is usual.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")
        center: float = Field(default=0.0, ge=0)

    config: Config

    @property
    def weights(self) -> Mapping[str, float]:  # type: ignore[override]
        return {"center": self.config.center, "accuracy": 0.0, "margin": 0.0}

    @property
    def row(self) -> int | None:
        """Both replies fit wherever each of them alone would."""
        return None if self.length is None else 2 * self.length

    def asks(self, example: Example | None) -> tuple[str, ...]:  # type: ignore[override]
        """A prediction needs one reply, or two to compare."""
        return ("prompt", *PAIR) if example and "chosen" in example else ("prompt", "completion")

    # data ---------------------------------------------------------------------------------------

    def encode(self, example: Example, codec: Codec) -> list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """One item an example: branch 1 the chosen reply, branch 2 the rejected one.

        Raises:
            DataError: an example without its roles.
        """
        groups = [
            (_replies.messages(e, "prompt"), [_replies.messages(e, role) for role in PAIR]) for e in examples
        ]
        return list(self._encoded(groups, codec))

    def query(self, example: Example, codec: Codec) -> list[Item]:
        """An item for each reply of the example: one, or the chosen and the rejected.

        Raises:
            DataError: the roles are missing, or the prompt leaves no room for the reply.
        """
        prompt = _replies.messages(example, "prompt")
        roles = [role for role in self.asks(example) if role != "prompt"]
        out: list[Item] = []
        for role in roles:
            made = self._encoded([(prompt, [_replies.messages(example, role)])], codec)[0]
            if not made:
                raise DataError(
                    f"the {role} reply cannot be read: {made.note}",
                    expected=f"prompt and reply within {self.length} tokens",
                )
            out += made
        return out

    def _encoded(
        self, groups: Sequence[tuple[_replies.Messages, Sequence[_replies.Messages]]], codec: Codec
    ) -> list[Noted]:
        if codec.cls_id is None:
            return _replies.encode(chat(codec), groups, length=self.length, dtype=dtype_of(codec))
        texts = [(_text(prompt, "user"), _text(r, "assistant")) for prompt, rs in groups for r in rs]
        ids = iter(encode_texts(texts, codec))
        return [_side_by_side([lay_out(next(ids), codec, self.length) for _ in rs]) for _, rs in groups]

    # training -----------------------------------------------------------------------------------

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        out = _branches.inputs(batch, ahead=0)
        out["segment"] = (batch["mask"] > 0).long()  # read by families that have segments
        found, needed_BR = _branches.runs(batch), torch.zeros_like(batch["mask"], dtype=torch.bool)
        needed_BR.view(-1)[found.first_M] = True  # an encoder is read here,
        needed_BR.view(-1)[found.last_M] = True  # a decoder there
        out["needed"] = needed_BR
        return out

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        pairs = self._pairs(_branches.runs(batch), batch)[0].to(torch.float64).sum()
        return dict.fromkeys(("bt", "center", "accuracy", "margin"), pairs)

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        """Read as the model's family does: an encoder sees both ways."""
        return model(self.inputs(batch))

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        found = _branches.runs(batch)
        score_M = self._scores(model, hidden_BTD, found)
        chosen_M, rejected_M = self._pairs(found, batch)
        chosen_P, rejected_P = score_M[chosen_M], score_M[rejected_M]
        margin_P = (chosen_P - rejected_P).detach()
        return {
            "bt": bradley_terry(chosen_P, rejected_P).sum(),
            "center": (chosen_P + rejected_P).square().sum(),
            "accuracy": ((margin_P > 0) + 0.5 * (margin_P == 0)).to(score_M.dtype).sum(),
            "margin": margin_P.sum(),
        }

    @staticmethod
    def _pairs(found: _branches.Runs, batch: Batch) -> tuple[Tensor, Tensor]:
        """(which branches are chosen replies, which are the rejected ones beside them), bool (M,) each."""
        number_M = found.number_M
        told = (batch["mask"].flatten() > 0).to(torch.float32)  # a branch without a reply has nothing to say
        size_M = told.new_zeros(len(number_M) + 1).index_add(0, found.index_BR.flatten(), told)[:-1]
        two_M = torch.zeros_like(number_M, dtype=torch.bool)
        two_M[:-1] = (number_M[:-1] == 1) & (found.piece_M[1:] == found.piece_M[:-1])
        two_M[:-1] &= (size_M[:-1] > 0) & (size_M[1:] > 0)
        return two_M, torch.cat((torch.zeros_like(two_M[:1]), two_M[:-1])) if len(two_M) else two_M

    @staticmethod
    def _scores(model: Model, hidden_BTD: Tensor, found: _branches.Runs) -> Tensor:
        at_M = found.first_M if find(model.config.family).encoder else found.last_M
        score_M = model.heads["value"].logits(hidden_BTD.flatten(0, 1).index_select(0, at_M))
        return score_M.to(torch.promote_types(score_M.dtype, torch.float32))

    # predictions --------------------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """{"score": (M,)}: items of `query` have one branch each."""
        return {"score": self._scores(model, hidden_BTD, _branches.runs(batch))}

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """{"score"} of the reply; of two {"chosen", "rejected"}, a score each."""
        roles = [role for role in self.asks(example) if role != "prompt"]
        if len(outputs) != len(roles):
            raise DataError("an example without a reply to read", expected="a prompt and a reply")
        scores = [float(np.asarray(out["score"]).reshape(-1)[0]) for out in outputs]
        return {"score": scores[0]} if roles == ["completion"] else dict(zip(PAIR, scores, strict=True))

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """accuracy (a tie is half right), mean margin, and mean and deviation of all scores."""
        pairs_P2 = np.array([[p[role] for role in PAIR] for p in predictions if "chosen" in p], np.float64)
        if not len(pairs_P2):
            raise DataError("no pair to compare", expected="chosen and rejected replies")
        margin_P = pairs_P2[:, 0] - pairs_P2[:, 1]
        return {
            "accuracy": float(np.mean((margin_P > 0) + 0.5 * (margin_P == 0))),
            "margin": float(margin_P.mean()),
            "score_mean": float(pairs_P2.mean()),
            "score_std": float(pairs_P2.std()),
        }

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same score for every reply."""
        return {"accuracy": 0.5, "margin": 0.0}


def _text(found: _replies.Messages, only: str) -> str:
    """Messages as one text for an encoder: a single one of the expected role as it is."""
    if len(found) == 1 and found[0].get("role") == only:
        return str(found[0]["content"]).strip()
    return "\n".join(f"{m['role']}: {str(m['content']).strip()}" for m in found)


def _side_by_side(texts: Sequence[Item]) -> Noted:
    """One item of several [CLS] prompt [SEP] reply [SEP]: branches 1, 2, ... without a stem."""
    tokens = [np.asarray(t["tokens"]) for t in texts]
    sizes = [len(t) for t in tokens]
    before = np.cumsum([0, *sizes[:-1]])
    item: Item = {
        "tokens": np.concatenate(tokens),
        "branch": np.repeat(np.arange(1, len(texts) + 1, dtype=np.int32), sizes),
        "back": np.repeat(before.astype(np.int32), sizes),
        "mask": np.concatenate([np.asarray(t["segment"]) for t in texts]).astype(np.int8),
    }
    return Noted([item], _CUT if any(t["cut"] for t in texts) else "")
