"""What is probed: a model as a function from its inputs to what it says at its output sites.

::

    subject = Subject.of(model)                    # or Subject(model, "classes")
    subject = Subject.of(model, objective)         # what a run says, of any modality, in its own way
    said = subject.says({"tokens": tokens_BT})     # distributions (`speech.py`)
    logp_BQV = subject.logp({"tokens": tokens_BT})

A *site* is a place where the model says something: of a decoder each position (the next token's
distribution), of an encoder with the head ``mlm`` each position (the token that stands there), with
``classes`` the whole text (one site). Influence (`influence.py`) is measured from input positions to sites,
and knows nothing of heads.

Key: B rows, T positions, Q sites, V outcomes, D model width, P pieces (one a row), F numbers a position
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from exnihilo.errors import UsageError
from exnihilo.nn.layout import Attention, Seq
from exnihilo.objective.base import Objective
from exnihilo.probe.speech import Said

if TYPE_CHECKING:
    from exnihilo.model.model import Model

HEADS = ("tokens", "mlm", "classes", "tags", "vectors")
PREDICTS = ("logits", "tags", "logp", "p", "span", "probability", "replaced", "score", "forecast")
"""Outputs of objectives (`Objective.outputs`) that are read as distributions."""


class Subject:
    """A model and what speaks for it.

    Args:
        model: any model here; probed in evaluation mode, and left as it was.
        head: ``tokens``, ``mlm``, ``tags``, ``vectors`` (each position is a site) or ``classes`` (the text is
            one).
        objective: what the model was trained for: says which columns it reads and, where it predicts, how
            its outputs are read (pooling, several labels, intervals).

    Attributes:
        causal: whether a site sees what comes after it. Decoders do not, and influence from there must be
            exactly zero.
        single: whether there is one site only.
    """

    def __init__(self, model: Model, head: str, objective: Objective | None = None) -> None:
        if head not in model.heads:
            raise UsageError(
                f"the model has no head {head!r}", expected=", ".join(model.config.outputs), next="see HEADS"
            )
        self.model, self.head, self.objective = model, head, objective
        self.attention = model.attention if objective is None else objective.attention
        self.causal = self.attention is Attention.CAUSAL
        written = head in ("tokens", "mlm", "vectors")  # each position has a distribution, whatever is asked
        self.reads = objective is not None and _predicts(objective) and not written
        whole = {"logits", "probability", "score", "forecast"}
        self.single = head in ("classes", "span") or (self.reads and bool(whole & _per_item(objective)))

    @classmethod
    def of(cls, model: Model, objective: Objective | None = None) -> Subject:
        """The model with the first of its heads that can be probed, or as its objective speaks.

        Raises:
            UsageError: none can.
        """
        for head in HEADS:
            if head in model.heads and (objective is None or head in objective.heads):
                return cls(model, head, objective)
        own = objective.heads if objective is not None else ()
        if objective is not None and own and _predicts(objective):
            return cls(model, own[0], objective)
        raise UsageError(
            f"nothing to probe: the model's heads are {', '.join(model.config.outputs) or 'none'}",
            expected=f"one of {', '.join(HEADS)}",
            next="probe the model as it was before this training, or a fine-tuned one with classes or tags",
        )

    def like(self, model: Model) -> Subject:
        """Another model of the same shape that says the same things: an untrained one."""
        return Subject(model, self.head, self.objective)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.model.parameters()).device

    @property
    def window(self) -> int | None:
        """How many places away anything can come from: windows × layers; None: from everywhere."""
        trunk = self.model.trunk
        blocks: list[Any] = list(trunk.blocks)
        if trunk.window is None or not all(block.local for block in blocks):
            return None
        stems = any(len(held) > 1 for held in self.model.config.inputs.values())  # which read neighbours
        return trunk.window * len(blocks) + stems

    def inputs(self, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the front end reads of a batch."""
        if self.objective is None:
            return dict(raw)
        found = dict(self.objective.inputs(raw))
        found.pop("needed", None)  # a site is anywhere
        return found

    def embed(self, raw: Mapping[str, Tensor]) -> Seq:
        """The embedded positions, to which gradients can be taken."""
        return self.model.front(self.inputs(raw), self.attention)

    def after(
        self, seq: Seq, sites: Sequence[int] | None = None, raw: Mapping[str, Tensor] | None = None
    ) -> Said:
        """What is said after an embedded sequence at some sites; None: at all.

        Args:
            raw: the batch that it was embedded from; needed where an objective speaks.
        """
        return self._speak(self.model.trunk(seq), sites, raw or {})

    def says(self, raw: Mapping[str, Tensor], sites: Sequence[int] | None = None) -> Said:
        """What is said at some sites: from tokens and what else the front end reads."""
        hidden_BTD = self.model(self.inputs(raw), self.attention)
        return self._speak(hidden_BTD, sites, raw)

    def logp(self, raw: Mapping[str, Tensor], sites: Sequence[int] | None = None) -> Tensor:
        """Log-probabilities (B, Q, V) of models that say one thing a site."""
        return self.says(raw, sites).logp()

    def _speak(self, hidden_BTD: Tensor, sites: Sequence[int] | None, raw: Mapping[str, Tensor]) -> Said:
        if self.reads:
            assert self.objective is not None
            said = self._read(self.objective, self.objective.outputs(self.model, hidden_BTD, raw))
            return said if self.single else said.at(sites)
        head: Any = self.model.heads[self.head]
        if self.single:
            return Said.of_logits(head.logits(hidden_BTD[:, :1]))
        if sites is not None:
            hidden_BTD = hidden_BTD[:, list(sites)]
        logits_BQV = head.logits(hidden_BTD)
        return Said.normal(logits_BQV) if self.head == "vectors" else Said.of_logits(logits_BQV)

    def _read(self, objective: Objective, outputs: Mapping[str, Tensor]) -> Said:
        """The distributions in an objective's outputs, by their names (`PREDICTS`)."""
        name = next((name for name in PREDICTS if name in outputs), None)
        if name is None:
            raise UsageError(
                f"nothing to probe: {type(objective).__name__} gives {', '.join(outputs)}",
                expected=f"outputs that are distributions: {', '.join(PREDICTS)}",
                next="probe the model as it was before this training",
            )
        value = outputs[name]
        kind = str(getattr(objective.config, "kind", ""))
        if name in objective.per_item:
            value = value.unsqueeze(1)
        return _READERS[name](objective, value, kind)


def _logits(objective: Objective, z_BQC: Tensor, kind: str) -> Said:
    del objective
    if z_BQC.ndim == 2:
        z_BQC = z_BQC.unsqueeze(-1)
    if kind == "regression":
        return Said.normal(z_BQC)
    if kind == "multilabel" or z_BQC.shape[-1] == 1:
        return Said.of_bits(z_BQC)
    return Said.of_logits(z_BQC)


def _span(objective: Objective, z_BT2: Tensor, kind: str) -> Said:
    del objective, kind
    logp_BT2 = z_BT2.float().log_softmax(1)  # where it starts, and where it ends
    return Said(logp_BT2.transpose(1, 2).unsqueeze(1))


def _forecast(objective: Objective, values_B1HK: Tensor, kind: str) -> Said:
    """All moments of a forecast together, by their quantiles; one value alone has variance 1, in deviations
    of the training part."""
    del kind
    levels = tuple(getattr(objective.config, "quantiles", ())) if values_B1HK.shape[-1] > 1 else (0.5,)
    return Said.of_quantiles(values_B1HK, levels)


_READERS: dict[str, Callable[[Objective, Tensor, str], Said]] = {
    "logits": _logits,
    "tags": lambda objective, z, kind: Said.of_logits(z),
    "logp": lambda objective, z, kind: Said.of_logits(z),
    "p": lambda objective, p, kind: Said.of_bits(p.clamp(1e-7, 1 - 1e-7).logit()),
    "span": _span,
    "probability": lambda objective, p, kind: Said.of_logits(p.clamp(min=1e-12).log()),
    "replaced": lambda objective, p, kind: Said.of_bits(p.clamp(1e-7, 1 - 1e-7).logit().unsqueeze(-1)),
    "score": lambda objective, x, kind: Said.normal(x.unsqueeze(-1) if x.ndim < 3 else x),
    "forecast": _forecast,
}


def _predicts(objective: Objective) -> bool:
    """Whether an objective reads its outputs in a way of its own."""
    return type(objective).outputs is not Objective.outputs


def _per_item(objective: Objective | None) -> frozenset[str]:
    return frozenset() if objective is None else objective.per_item


def detached(seq: Seq, x_BTD: Tensor) -> Seq:
    """The same layout with other embedded positions."""
    return replace(seq, x_BTD=x_BTD)
