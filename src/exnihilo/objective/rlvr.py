"""Reinforcement learning with verifiable rewards: completions that scored better become more likely.

::

    exnihilo train rlvr init=runs/sft data=tasks.jsonl grader=number
    exnihilo train rlvr init=runs/sft data=tasks.jsonl grader=math options.preset=dapo rollout.group=16

A training batch is a batch of rollouts: `train.source.rollout` draws them, scores them and turns scores into
advantages; here is what is minimised, assembled from the pure pieces in `_rl` by a preset's name (see
`_rl.presets`). The loss of a token is, with ρ = π/π_old and the preset's clip,

    −min(ρ A, clip(ρ, 1 − low, 1 + high) A)·w + β·KL

Columns of a batch, aligned with the predicted tokens: ``mask`` 1 where a token was drawn by the model,
``old_logp`` its log-probability then (NaN: as it is now), ``advantage``; where asked for ``is_weight`` (w,
for rollouts of other weights), ``ref_logp``, and for a critic ``value`` (as it was) and ``target``.

Measured beside, never trained on: ``policy@clip`` share of tokens that a bound holds, ``policy@drift`` mean
|log π − log π_old| where ``fresh`` says that no update lies between, ``policy@kl`` estimate of KL(π_old‖π)
(k3), ``policy@entropy``, ``policy@ref`` of KL(π‖π_ref).

Sources: see `_rl`. See docs/rlvr.md.

Key: B rows, R tokens of a row, T = R − 1 positions fed, D model width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exnihilo.codec.chat import END, START, chat
from exnihilo.errors import DataError
from exnihilo.nn.layout import Attention
from exnihilo.objective import _branches
from exnihilo.objective._rl import losses
from exnihilo.objective._rl.advantages import Kind, of_groups
from exnihilo.objective._rl.losses import Aggregation, Clip, Divergence, Ratio
from exnihilo.objective._rl.presets import Pieces, Preset, pieces
from exnihilo.objective._rl.sequences import Sequences, sequences
from exnihilo.objective.base import Batch, Example, Item, Objective

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model


class RLVR(Objective):
    """Decoder post-training on its own completions."""

    attention: ClassVar[Attention] = Attention.CAUSAL
    roles: ClassVar[tuple[str, ...]] = ("prompt",)
    extras: ClassVar[tuple[str, ...]] = ("answer", "record")
    view: ClassVar[str] = "tasks"
    lookahead: ClassVar[int] = 1
    needs: ClassVar[str] = "rollout"
    stage: ClassVar[Literal["pretrain", "tune", "align"]] = "align"
    replies: ClassVar[bool] = True

    class Config(BaseModel):
        """Options; what is left out is the preset's (`_rl.presets`)."""

        model_config = ConfigDict(frozen=True, extra="forbid")
        preset: Preset = "field"
        advantage: Kind | None = None
        ratio: Ratio | None = None
        clip: Clip | None = None
        low: float | None = Field(default=None, ge=0)
        high: float | None = Field(default=None, ge=0)
        dual: float | None = Field(default=None, gt=1)
        kl: Divergence | None = None
        beta: float | None = Field(default=None, ge=0)
        kl_in_reward: bool | None = None
        aggregate: Aggregation | None = None
        length: float | None = Field(default=None, ge=0)
        dynamic: bool | None = None
        overlong: float | None = Field(default=None, ge=0, le=1)
        gamma: float | None = Field(default=None, gt=0, le=1)
        lam: float | None = Field(default=None, ge=0, le=1)
        value_weight: float | None = Field(default=None, ge=0)
        value_clip: float | None = Field(default=None, gt=0)
        # beside the preset
        brevity: float = Field(default=0.0, ge=0)  # weight of the length reward among a group's right answers
        skip_cut: bool = False  # completions that were cut at the most new tokens are not learnt from
        entropy: bool = True  # measure it
        shuffle: bool = (
            False  # a control: each batch's rewards are dealt anew at random among its completions
        )

    config: Config

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        own = self.config.model_dump(exclude={"preset", "brevity", "skip_cut", "entropy", "shuffle"})
        self.pieces: Pieces = pieces(self.config.preset, **own)

    @property
    def heads(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("tokens", "value") if self.pieces.critic else ("tokens",)

    @property
    def columns(self) -> frozenset[str]:  # type: ignore[override]
        more = {"value", "target"} if self.pieces.critic else set()
        if self.pieces.referenced:
            more.add("ref_logp")
        return _branches.COLUMNS | {"old_logp", "advantage"} | more

    @property
    def weights(self) -> Mapping[str, float]:  # type: ignore[override]
        return {"value": self.pieces.value_weight}

    @property
    def referenced(self) -> bool:  # type: ignore[override]
        return self.pieces.referenced

    @property
    def temperature(self) -> float:
        """Of the sampler, and so of what is trained: the source of rollouts writes it into the facts."""
        return float(self.facts.get("temperature", 1.0))

    # data ---------------------------------------------------------------------------------------

    def encode(self, example: Example, codec: Codec) -> Item:
        """A group that was drawn and scored elsewhere: ``prompt``, ``completions`` (texts) and ``rewards``.

        Raises:
            DataError: an example without completions: it is a task, and completions are yet to be drawn.
        """
        texts, rewards = example.get("completions"), example.get("rewards")
        if not texts or rewards is None or len(texts) != len(rewards):
            roles = sorted(k for k in example if k[0] != "_")
            raise DataError(
                f"an example without scored completions; its roles: {roles}",
                expected="completions and as many rewards",
                next="train with the source of rollouts (objective rlvr does), which draws and scores them",
            )
        advantage_N = of_groups(self.pieces.advantage, np.array(rewards, np.float64), np.zeros(len(rewards)))
        ids = [reply_ids(codec, text) for text in texts]
        columns = {
            "advantage": [np.full(len(c), a) for c, a in zip(ids, advantage_N, strict=True)],
            "old_logp": [np.full(len(c), np.nan) for c in ids],
        }
        for name in self.columns & {"value", "target", "ref_logp"}:
            columns[name] = [np.zeros(len(c)) for c in ids]
        return item(prompt_ids(codec, example["prompt"]), ids, columns)

    # training -----------------------------------------------------------------------------------

    def _shape(self, batch: Batch) -> tuple[Tensor, Sequences]:
        """(counted tokens as booleans (B, R), the completions)."""
        kept_BR = _branches.predicted(batch)
        kind = batch["advantage"].dtype
        return kept_BR, sequences(kept_BR.to(kind), batch.get("doc"), batch.get("branch"))

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        kept_BR, completions = self._shape(batch)
        tokens = kept_BR.sum().double()
        one = torch.zeros_like(kept_BR, dtype=torch.float64)
        _, count = losses.aggregate(one, completions, self.pieces.aggregate)
        out = {"policy": count.double()}
        if self.pieces.critic:
            out["value"] = tokens
        return out | dict.fromkeys(self._measured(batch), tokens)

    def _measured(self, batch: Batch) -> list[str]:
        names = ["policy@clip", "policy@kl"]
        names += ["policy@entropy"] if self.config.entropy else []
        names += ["policy@drift"] if "fresh" in batch else []
        return names + (["policy@ref"] if "ref_logp" in batch else [])

    def sums(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        hidden_BTD = model(_branches.inputs(batch), self.attention)
        found = _branches.logps_of(
            model, hidden_BTD, batch, temperature=self.temperature, entropy=self.config.entropy
        )
        logp_BR, entropy_BR = found if isinstance(found, tuple) else (found, None)
        out = self.policy(logp_BR, batch)
        if entropy_BR is not None:
            out["policy@entropy"] = entropy_BR.sum()
        if self.pieces.critic:
            head = cast(Any, model.heads["value"])
            value_BR = torch.nn.functional.pad(head.logits(hidden_BTD), (1, 0))  # V of what stands before
            out["value"] = self.critic(value_BR, batch)
        return out

    def policy(self, logp_BR: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The loss from log-probabilities alone: pure, and what the tests hold against the papers.

        Args:
            logp_BR: at the predicted tokens' own places, anything finite elsewhere; differentiable.
            batch: the columns but for ids.

        Returns:
            "policy", the numerator, and what is measured; `counts` has their denominators.
        """
        kept_BR, completions = self._shape(batch)
        had_BR, advantage_BR = batch["old_logp"], batch["advantage"]
        now_BR = logp_BR.detach()
        old_BR = torch.where(torch.isnan(had_BR) | ~kept_BR, now_BR, had_BR)
        p = self.pieces
        log_ratio_BR = losses.log_ratio(logp_BR, old_BR, p.ratio, completions)
        bounds: dict[str, Any] = {"clip": p.clip, "low": p.low, "high": p.high, "dual": p.dual}
        loss_BR = losses.surrogate(log_ratio_BR, logp_BR, advantage_BR, **bounds)
        if "is_weight" in batch:
            loss_BR = loss_BR * batch["is_weight"]
        mask_BR = completions.mask_BT
        gap_BR = (now_BR - old_BR) * mask_BR
        out = {
            "policy@clip": (losses.clipped(log_ratio_BR, advantage_BR, **bounds) * mask_BR).sum(),
            "policy@kl": (gap_BR.clamp(-losses.MOST, losses.MOST).exp() - 1 - gap_BR).sum(),
        }
        if "fresh" in batch:
            out["policy@drift"] = gap_BR.abs().sum()
        if "ref_logp" in batch:
            ref_BR = torch.where(kept_BR, batch["ref_logp"], now_BR)
            out["policy@ref"] = (losses.divergence("k3", now_BR, ref_BR, log_ratio_BR) * mask_BR).sum()
            if p.referenced and not p.kl_in_reward:
                single_BR = losses.log_ratio(logp_BR, old_BR, "token", completions)
                loss_BR = loss_BR + p.beta * losses.divergence(p.kl, logp_BR, ref_BR, single_BR)
        out["policy"], _ = losses.aggregate(loss_BR, completions, p.aggregate, self.constant)
        return out

    @property
    def constant(self) -> float:
        """The length that ``aggregate=constant`` divides by: the option, else the most new tokens."""
        return self.pieces.length or float(self.facts.get("max_new_tokens", self.length or 1))

    def critic(self, value_BR: Tensor, batch: Batch) -> Tensor:
        """Σ (V − target)² over the drawn tokens; with `value_clip` the worse of it and of V held near what it
        was."""
        kept_BR = _branches.predicted(batch)
        target_BR, bound = batch["target"], self.pieces.value_clip
        error_BR = (value_BR - target_BR).square()
        if bound is not None:
            near_BR = batch["value"] + (value_BR - batch["value"]).clamp(-bound, bound)
            error_BR = torch.maximum(error_BR, (near_BR - target_BR).square())
        return torch.where(kept_BR, error_BR, 0.0).sum()


def item(
    prompt: Sequence[int],
    completions: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Sequence[float] | np.ndarray]],
    masks: Sequence[Sequence[int]] | None = None,
) -> Item:
    """One item of a prompt and its completions with per-token float columns.

    >>> made = item([1, 5], [[7, 2], [8]], {"advantage": [[.5, .5], [-1.]]})
    >>> made["tokens"].tolist(), made["advantage"].tolist()
    ([1, 5, 7, 2, 5, 8], [0.0, 0.0, 0.5, 0.5, 0.0, -1.0])
    """
    out = _branches.lay(prompt, completions, masks)
    for name, values in columns.items():
        out[name] = _branches.spread(cast(Any, values), len(prompt))
    return out


def talks(codec: Codec) -> bool:
    """Whether a codec can mark the turns of a conversation."""
    return all(codec.tokenizer.token_to_id(t) is not None for t in (START, END))


def prompt_ids(codec: Codec, prompt: Any) -> list[int]:
    """Ids of a prompt (messages, or a string: one user's message) that waits for its reply.

    A codec without chat tokens reads one message as the beginning of a document.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if talks(codec):
        return chat(codec).prompt(messages)
    if len(messages) != 1:
        raise DataError(
            f"a prompt of {len(messages)} messages, and a tokenizer that cannot mark turns",
            expected="one message",
            next="use a tokenizer with <|im_start|> and <|im_end|>",
        )
    begin = [codec.bos_id] if "bos" in codec.roles else []
    return [*begin, *codec.encode(messages[0]["content"])]


def reply_ids(codec: Codec, text: str) -> list[int]:
    """Ids of a reply with the token that ends it."""
    if talks(codec):
        return [int(i) for i in chat(codec).completion(text)]
    return [*codec.encode(text), codec.eos_id]
