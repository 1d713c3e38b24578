"""Preferences: replies that people chose become likelier than those they rejected.

::

    exnihilo train preference init=runs/sft data=pairs.jsonl
    exnihilo train preference init=runs/sft data=pairs.jsonl options.loss=robust options.smoothing=0.3

An example has ``prompt``, ``chosen`` and ``rejected`` (with ``loss=kto``: ``prompt``, ``completion`` and
``label``, so that a reply needs no partner). Both replies stand in one item as branches of their prompt,
which is read once (`_branches`). The reference's log-probabilities come as the column ``ref_logp``, computed
once before training with dropout off; `simpo` and `orpo` need none. Losses: `_preference_losses`, chosen by
``options.loss``; one value a pair, divided by all pairs of the global batch.

KTO measures from z, the mean log-ratio of replies that answer something else. They are fixed for each
example: a reply of the training split drawn by a hash of the prompt, its second branch. z is one number for
the global batch, whatever its micro-batches and workers (`Objective.prelude`), so a batch may hold any number
of desirable and undesirable replies, one or none of either.

Measured beside, with weight 0: ``accuracy``, how often the implicit reward β·log π/π₀ of the chosen reply is
the higher one (of kto: on the right side of z); ``chosen_reward``, ``rejected_reward`` and, in evaluations,
their difference ``margin``; ``chosen_logp``, ``rejected_logp``, nats a reply.

Sources: see `_preference_losses`. See docs/preference.md.

Key: B rows, R tokens of a row, M replies of all rows, P pairs
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from exnihilo.codec.chat import chat
from exnihilo.errors import DataError
from exnihilo.nn.layout import Attention
from exnihilo.objective import _branches, _preference_losses, _replies
from exnihilo.objective._text import dtype_of
from exnihilo.objective.base import Batch, Example, Item, Objective

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

Loss = Literal["dpo", "rpo", "cdpo", "robust", "ipo", "kto", "simpo", "orpo", "apo_zero", "dpo_norm"]

ALONE = frozenset({"simpo", "orpo"})  # losses without a reference
AVERAGED = frozenset({"ipo", "simpo", "orpo", "dpo_norm"})  # of log-probabilities a token
BETA: Mapping[str, float] = {"simpo": 2.5, "dpo_norm": 5.0}  # else 0.1
OWN: Mapping[str, frozenset[str]] = {  # options of single losses
    "smoothing": frozenset({"cdpo", "robust"}),
    "gamma": frozenset({"simpo"}),
    "odds": frozenset({"orpo"}),
    "desirable": frozenset({"kto"}),
    "undesirable": frozenset({"kto"}),
}
ANCHORED = frozenset(
    {"orpo", "rpo"}
)  # with the chosen replies' likelihood, unless options.sft says otherwise
POOL = 256  # replies that KTO's strangers are drawn from
MEASURES = ("accuracy", "chosen_reward", "rejected_reward", "chosen_logp", "rejected_logp")


class Read(NamedTuple):
    """What a forward says of the replies of a batch.

    Attributes:
        logp_M: Σ log p of each reply; ratio_M: less the reference's; count_M: its tokens.
        number_M: 1 the chosen (or only) reply, 2 the rejected (or a stranger's).
        good_M: kto: whether the reply is desirable.
    """

    logp_M: Tensor
    ratio_M: Tensor
    count_M: Tensor
    number_M: Tensor
    good_M: Tensor


class Preference(Objective):
    """Decoder post-training on pairs of replies, or on replies that are called good or bad."""

    attention: ClassVar[Attention] = Attention.CAUSAL
    heads: ClassVar[tuple[str, ...]] = ("tokens",)
    roles: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected")
    view: ClassVar[str] = "preferences"
    lookahead: ClassVar[int] = 1
    stage: ClassVar[Literal["pretrain", "tune", "align"]] = "align"
    main_metric: ClassVar[str] = "accuracy"
    watched: ClassVar[frozenset[str]] = frozenset({"chosen_logp"})
    replies: ClassVar[bool] = True

    class Config(BaseModel):
        """Options.

        Attributes:
            loss: one of `Loss`.
            beta: how dearly a distance from the reference is paid (ipo: τ; simpo: the reward's scale);
                default 0.1, simpo 2.5, dpo_norm 5.
            smoothing: cdpo, robust: the share of labels that are taken to be wrong; default 0.1.
            gamma: simpo: the margin asked for; default 0.5.
            odds: orpo: the weight of the odds ratio beside the chosen reply's likelihood; default 0.1.
            desirable, undesirable: kto: weights of the two kinds of replies; default 1.
            sft: weight of the chosen replies' negative log-likelihood a token, added to the loss; default 0,
                orpo and rpo 1.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")
        loss: Loss = "dpo"
        beta: float | None = Field(default=None, gt=0)
        smoothing: float = Field(default=0.1, ge=0, lt=0.5)
        gamma: float = Field(default=0.5, ge=0)
        odds: float = Field(default=0.1, gt=0)
        desirable: float = Field(default=1.0, ge=0)
        undesirable: float = Field(default=1.0, ge=0)
        sft: float | None = Field(default=None, ge=0)

        @model_validator(mode="after")
        def _belongs(self) -> Preference.Config:
            for name, losses in OWN.items():
                if name in self.model_fields_set and self.loss not in losses:
                    raise ValueError(
                        f"loss={self.loss} has no {name}; it is an option of {' and '.join(sorted(losses))}"
                    )
            if self.loss == "orpo" and self.beta is not None:
                raise ValueError("loss=orpo has no beta; its weight is options.odds")
            return self

    config: Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        if self.kto:
            self.roles = ("prompt", "completion", "label")  # pyright: ignore[reportAttributeAccessIssue]

    # which data it needs ------------------------------------------------------------------------

    @property
    def kto(self) -> bool:
        return self.config.loss == "kto"

    @property
    def needs(self) -> str:  # type: ignore[override]
        return "dataset" if self.config.loss in ALONE else "reference"

    @property
    def columns(self) -> frozenset[str]:  # type: ignore[override]
        more = set() if self.config.loss in ALONE else {"ref_logp"}
        return _branches.COLUMNS | more | ({"label"} if self.kto else set())

    @property
    def preludes(self) -> bool:  # type: ignore[override]
        return self.kto

    @property
    def weights(self) -> Mapping[str, float]:  # type: ignore[override]
        own = {"preference": self.config.odds if self.config.loss == "orpo" else 1.0, "nll": self.sft}
        return {**own, **dict.fromkeys((*MEASURES, "kl"), 0.0)}

    @property
    def sft(self) -> float:
        """Weight of the chosen replies' negative log-likelihood."""
        given = self.config.sft
        return float(self.config.loss in ANCHORED) if given is None else given

    @property
    def beta(self) -> float:
        """The option, or its default for the loss."""
        return BETA.get(self.config.loss, 0.1) if self.config.beta is None else self.config.beta

    @property
    def row(self) -> int | None:
        """Both replies and their prompt fit wherever each of them alone would."""
        return None if self.length is None else 2 * self.length

    # data ---------------------------------------------------------------------------------------

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        """Facts: with kto the pool of replies that strangers are drawn from, and how many are desirable."""
        if not self.kto:
            return {}
        best: dict[str, tuple[str, Any]] = {}  # the replies with the smallest hashes, in whatever order
        good = total = 0
        for example in examples:
            reply = list(_replies.messages(example, "completion"))
            good, total = good + bool(example.get("label")), total + 1
            key = json.dumps(reply, sort_keys=True, ensure_ascii=False)
            digest = _hash(key)
            if len(best) < POOL or digest < max(best):
                best[digest] = (key, reply)
                if len(best) > POOL:
                    del best[max(best)]
        if len(best) < 2:
            raise DataError(
                f"{total:,} examples with {len(best)} different replies",
                expected="two or more: KTO compares with replies to other prompts",
                next="take a loss without (options.loss=dpo with pairs)",
            )
        return {"strangers": [best[k][1] for k in sorted(best)], "desirable": good, "examples": total}

    def encode(self, example: Example, codec: Codec) -> list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """One item an example: the prompt, and branches 1 and 2; see `_replies`.

        Raises:
            CodecError: the codec has no chat tokens.
            DataError: an example without its roles.
        """
        groups = [self._group(example) for example in examples]
        made = _replies.encode(chat(codec), groups, length=self.length, dtype=dtype_of(codec))
        if self.kto:
            for example, items in zip(examples, made, strict=True):
                for item in items:
                    item["label"] = int(bool(example.get("label")))
        return list(made)

    def _group(self, example: Example) -> tuple[_replies.Messages, list[_replies.Messages]]:
        prompt = _replies.messages(example, "prompt")
        if not self.kto:
            return prompt, [_replies.messages(example, role) for role in ("chosen", "rejected")]
        reply, pool = _replies.messages(example, "completion"), self.facts.get("strangers") or ()
        others = [other for other in pool if list(other) != list(reply)]
        if not others:
            raise DataError(
                "no reply to another prompt to compare with",
                expected="the facts of the training split",
                next="call survey first",
            )
        place = int(_hash(json.dumps([list(prompt), list(reply)], sort_keys=True)), 16)
        return prompt, [reply, others[place % len(others)]]

    # training -----------------------------------------------------------------------------------

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        return _branches.inputs(batch)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        found = _branches.branch_sums(torch.zeros_like(batch["tokens"], dtype=torch.float32), batch)
        first_M, second_M = self._sides(found.number_M, found.counts_M)
        one, good_M = first_M.to(torch.float64), self._good(batch, found)
        chosen, rejected = (one * good_M).sum(), (one * ~good_M).sum() if self.kto else one.sum()
        out = {"preference": one.sum(), "accuracy": one.sum()}
        out |= {"chosen_reward": chosen, "chosen_logp": chosen}
        out |= {"rejected_reward": rejected, "rejected_logp": rejected}
        if self.kto:
            out["kl"] = second_M.to(torch.float64).sum()
        if self.sft:
            out["nll"] = (found.counts_M * one * good_M).sum()
        return out

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        read = self._read(model, hidden_BTD, batch)
        return self._unpaired(read, batch) if self.kto else self._paired(read)

    def prelude(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """{"kl": Σ log-ratio of the strangers' replies}, dropout off."""
        training = model.training
        model.eval()
        try:
            read = self._read(model, model(self.inputs(batch), self.attention), batch)
        finally:
            model.train(training)
        return {"kl": read.ratio_M[self._sides(read.number_M, read.count_M)[1]].sum()}

    def prelude_counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"kl": self.counts(batch)["kl"]}

    def metrics(self, totals: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        out = super().metrics(totals, counts)
        if "chosen_reward" in out and "rejected_reward" in out:
            out["margin"] = out["chosen_reward"] - out["rejected_reward"]
        return out

    def _sides(self, number_M: Tensor, count_M: Tensor) -> tuple[Tensor, Tensor]:
        """(which branches are first replies, which are second ones), bool (M,) each, of those that count: of
        a pair both have something to predict, of kto each stands for itself."""
        first_M, second_M, told_M = number_M == 1, number_M == 2, count_M > 0
        if not self.kto:
            both = told_M[first_M] & told_M[second_M]
            told_M = told_M.clone()
            told_M[first_M] = told_M[second_M] = both
        return first_M & told_M, second_M & told_M

    def _good(self, batch: Batch, found: _branches.Branches) -> Tensor:
        """kto: whether the reply of each branch is desirable; pairs: the first is chosen."""
        return batch["label"].flatten()[found.last_M] > 0 if self.kto else found.number_M == 1

    def _read(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> Read:
        logp_BR: Any = _branches.logps_of(model, hidden_BTD, batch)
        found = _branches.branch_sums(logp_BR, batch)
        ratio_M = found.sums_M
        if "ref_logp" in self.columns:
            ref_BR = batch["ref_logp"].to(logp_BR.dtype)
            ratio_M = _branches.branch_sums(logp_BR - ref_BR, batch).sums_M
        return Read(found.sums_M, ratio_M, found.counts_M, found.number_M, self._good(batch, found))

    def _paired(self, read: Read) -> dict[str, Tensor]:
        w, l = self._sides(read.number_M, read.count_M)  # noqa: E741 - y_w and y_l of the papers
        logp_w, logp_l, ratio_w, ratio_l = read.logp_M[w], read.logp_M[l], read.ratio_M[w], read.ratio_M[l]
        many = read.count_M.to(ratio_w.dtype)
        if self.config.loss in AVERAGED:
            ratio_w, ratio_l = ratio_w / many[w], ratio_l / many[l]
        loss_P = self._pair_loss(ratio_w, ratio_l)
        gain_w, gain_l = (self.beta * r.detach() for r in (ratio_w, ratio_l))
        out = {
            "preference": loss_P.sum(),
            "accuracy": (gain_w > gain_l).to(loss_P.dtype).sum(),
            "chosen_reward": gain_w.sum(),
            "chosen_logp": logp_w.detach().sum(),
            "rejected_reward": gain_l.sum(),
            "rejected_logp": logp_l.detach().sum(),
        }
        if self.sft:
            out["nll"] = -logp_w.sum()
        return out

    def _pair_loss(self, w: Tensor, l: Tensor) -> Tensor:  # noqa: E741
        loss, beta, config = self.config.loss, self.beta, self.config
        lost = _preference_losses
        if loss == "cdpo":
            return lost.cdpo(w - l, beta=beta, smoothing=config.smoothing)
        if loss == "robust":
            return lost.robust(w - l, beta=beta, smoothing=config.smoothing)
        if loss == "ipo":
            return lost.ipo(w - l, beta=beta)
        if loss == "simpo":
            return lost.simpo(w - l, beta=beta, gamma=config.gamma)
        if loss == "orpo":
            return lost.orpo(w, l)
        if loss == "apo_zero":
            return lost.apo_zero(w, l, beta=beta)
        return lost.dpo(w - l, beta=beta)  # dpo, rpo's part of it, and dpo_norm of averaged ratios

    def _unpaired(self, read: Read, batch: Batch) -> dict[str, Tensor]:
        own, other = self._sides(read.number_M, read.count_M)
        ratio, logp, good = read.ratio_M[own], read.logp_M[own], read.good_M[own]
        stranger = read.ratio_M[other].detach()
        mean = batch.get("mean:kl")
        if mean is None:
            raise DataError(
                "a batch without the column mean:kl",
                expected="the prelude of the global batch (objective.preludes)",
                next="preludes.alone(model, objective, batch)",
            )
        z = mean.to(ratio.dtype).clamp(min=0)
        loss_P = _preference_losses.kto(
            ratio,
            good,
            z,
            beta=self.beta,
            desirable=self.config.desirable,
            undesirable=self.config.undesirable,
        )
        gain, seen = self.beta * ratio.detach(), logp.detach()
        right = (ratio.detach() > z) == good
        out = {
            "preference": loss_P.sum(),
            "accuracy": right.to(loss_P.dtype).sum(),
            "chosen_reward": gain[good].sum(),
            "chosen_logp": seen[good].sum(),
            "rejected_reward": gain[~good].sum(),
            "rejected_logp": seen[~good].sum(),
            "kl": stranger.sum(),
        }
        if self.sft:
            out["nll"] = -logp[good].sum()
        return out


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
