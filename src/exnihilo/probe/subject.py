"""What is probed: a model as a function from tokens to log-probabilities at its output sites.

::

    subject = Subject.of(model)                    # or Subject(model, "classes")
    logp_BQV = subject.logp({"tokens": tokens_BT}) # a decoder: what comes next, at each position

A *site* is a place where the model says something: of a decoder each position (the next token's
distribution), of an encoder with the head ``mlm`` each position (the token that stands there), with
``classes`` the whole text (one site). Influence (`influence.py`) is measured from input positions to sites,
and knows nothing of heads.

Key: B rows, T positions, Q sites, V outcomes, D model width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from exnihilo.errors import UsageError
from exnihilo.nn.layout import Attention, Seq

if TYPE_CHECKING:
    from exnihilo.model.model import Model

HEADS = ("tokens", "mlm", "classes", "tags")


class Subject:
    """A model and the head that speaks for it.

    Args:
        model: any model here; probed in evaluation mode, and left as it was.
        head: ``tokens``, ``mlm``, ``tags`` (each position is a site) or ``classes`` (the text is one).

    Attributes:
        causal: whether a site sees what comes after it. Decoders do not, and influence from there must be
            exactly zero.
        single: whether there is one site only.
    """

    def __init__(self, model: Model, head: str) -> None:
        if head not in model.heads:
            raise UsageError(
                f"the model has no head {head!r}", expected=", ".join(model.config.outputs), next="see HEADS"
            )
        self.model, self.head = model, head
        self.causal = model.attention is Attention.CAUSAL
        self.single = head == "classes"

    @classmethod
    def of(cls, model: Model) -> Subject:
        """The model with the first of its heads that can be probed.

        Raises:
            UsageError: none can.
        """
        for head in HEADS:
            if head in model.heads:
                return cls(model, head)
        raise UsageError(
            f"nothing to probe: the model's heads are {', '.join(model.config.outputs) or 'none'}",
            expected=f"one of {', '.join(HEADS)}",
            next="probe the model as it was before this training, or a fine-tuned one with classes or tags",
        )

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.model.parameters()).device

    def embed(self, raw: Mapping[str, Tensor]) -> Seq:
        """The embedded positions, to which gradients can be taken."""
        return self.model.front(raw, self.model.attention)

    def after(self, seq: Seq, sites: Sequence[int] | None = None) -> Tensor:
        """Log-probabilities (B, Q, V) of an embedded sequence at some sites; None: at all."""
        return self._speak(self.model.trunk(seq), sites)

    def logp(self, raw: Mapping[str, Tensor], sites: Sequence[int] | None = None) -> Tensor:
        """Log-probabilities (B, Q, V), float32: from tokens and what else the front end reads."""
        return self.after(self.embed(raw), sites)

    def _speak(self, hidden_BTD: Tensor, sites: Sequence[int] | None) -> Tensor:
        head: Any = self.model.heads[self.head]
        if self.single:
            return head.logits(hidden_BTD[:, 0]).float().log_softmax(-1).unsqueeze(1)
        if sites is not None:
            hidden_BTD = hidden_BTD[:, list(sites)]
        if self.head == "mlm":
            B, Q, D = hidden_BTD.shape
            read_ND = head.transform(hidden_BTD.reshape(B * Q, D))
            return (read_ND @ head.weight.T + head.bias).view(B, Q, -1).float().log_softmax(-1)
        return head.logits(hidden_BTD).float().log_softmax(-1)


def detached(seq: Seq, x_BTD: Tensor) -> Seq:
    """The same layout with other embedded positions."""
    return replace(seq, x_BTD=x_BTD)
