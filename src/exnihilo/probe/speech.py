"""What a model says at its output sites, as distributions: how far two of them are apart, in nats.

::

    said = Said.of_logits(logits_BQV)             # one distribution over V outcomes a site
    said = Said.of_bits(logits_BQC)               # C independent ones over yes and no
    said = Said.normal(mean_BQC, scale_BQC)       # C independent normal ones: forecasts, scores, spectra
    said.moved(other)                             # KL(said ‖ each row of other), (S, Q)

A number that is predicted without a spread counts as the mean of a normal distribution of variance 1, in the
units that it was trained in; quantiles as a normal distribution with their median, whose spread is that of
the outer two.

Key: B rows (1 of the text as it is), S rows with a swap, Q sites, G distributions a site, V outcomes,
C numbers, K coordinates
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

LEAST = 1e-6  # of a standard deviation


@dataclass(frozen=True)
class Said:
    """Independent distributions at each site: discrete ones, or normal ones.

    Attributes:
        logp_BQGV: log-probabilities; None where numbers are said.
        mean_BQC, scale_BQC: of normal distributions.
    """

    logp_BQGV: Tensor | None = None
    mean_BQC: Tensor | None = None
    scale_BQC: Tensor | None = None

    @classmethod
    def of_logits(cls, logits_BQV: Tensor) -> Said:
        """One distribution over V outcomes a site."""
        return cls(_wide(logits_BQV).log_softmax(-1).unsqueeze(-2))

    @classmethod
    def of_bits(cls, logits_BQC: Tensor) -> Said:
        """C distributions over yes and no a site."""
        z = _wide(logits_BQC)
        return cls(torch.stack((torch.nn.functional.logsigmoid(z), torch.nn.functional.logsigmoid(-z)), -1))

    @classmethod
    def normal(cls, mean_BQC: Tensor, scale_BQC: Tensor | None = None) -> Said:
        """C normal distributions a site, of variance 1 where none is given."""
        mean_BQC = _wide(mean_BQC)
        scale = torch.ones_like(mean_BQC) if scale_BQC is None else _wide(scale_BQC).clamp(min=LEAST)
        return cls(None, mean_BQC, scale)

    @classmethod
    def of_quantiles(cls, values_BQCK: Tensor, levels: Sequence[float]) -> Said:
        """C normal distributions of quantiles (..., K) at K levels.

        >>> z = NormalDist(3.0, 2.0)
        >>> levels = (0.1, 0.5, 0.9)
        >>> said = Said.of_quantiles(torch.tensor([[[[z.inv_cdf(q) for q in levels]]]]), levels)
        >>> said.mean_BQC.item(), round(said.scale_BQC.item(), 4)
        (3.0, 2.0)
        """
        order = sorted(range(len(levels)), key=lambda k: levels[k])
        low, high = order[0], order[-1]
        middle = min(order, key=lambda k: abs(levels[k] - 0.5))
        if low == high:
            return cls.normal(values_BQCK[..., middle])
        width = NormalDist().inv_cdf(levels[high]) - NormalDist().inv_cdf(levels[low])
        return cls.normal(values_BQCK[..., middle], (values_BQCK[..., high] - values_BQCK[..., low]) / width)

    def at(self, sites: Sequence[int] | None) -> Said:
        """The same at some sites; None: at all."""
        if sites is None:
            return self
        chosen = list(sites)
        parts = (self.logp_BQGV, self.mean_BQC, self.scale_BQC)
        return Said(*(None if part is None else part[:, chosen] for part in parts))

    @property
    def numel(self) -> int:
        """Numbers that a row holds."""
        held = self.logp_BQGV if self.logp_BQGV is not None else self.mean_BQC
        assert held is not None
        return held[0].numel()

    def moved(self, other: Said) -> Tensor:
        """KL(the first row ‖ each row of another), nats (S, Q); never negative."""
        if self.logp_BQGV is not None and other.logp_BQGV is not None:
            base = self.logp_BQGV[:1]
            each = (base.exp() * (base - other.logp_BQGV)).nan_to_num(0.0, posinf=0.0, neginf=0.0)
            return each.sum((-1, -2)).clamp(min=0)
        assert self.mean_BQC is not None and self.scale_BQC is not None
        assert other.mean_BQC is not None and other.scale_BQC is not None
        mean, scale = self.mean_BQC[:1], self.scale_BQC[:1]
        ratio = scale / other.scale_BQC
        each = (ratio.square() + ((mean - other.mean_BQC) / other.scale_BQC).square() - 1) / 2 - ratio.log()
        return each.nan_to_num(0.0).sum(-1).clamp(min=0)

    def coordinates(self) -> Tensor:
        """(B, Q, K): numbers whose squared change is twice the KL, for small changes (Fisher's metric)."""
        if self.logp_BQGV is not None:
            return (self.logp_BQGV * self.logp_BQGV.detach().mul(0.5).exp()).flatten(2)
        assert self.mean_BQC is not None and self.scale_BQC is not None
        held = self.scale_BQC.detach()
        return torch.cat((self.mean_BQC / held, math.sqrt(2) * self.scale_BQC / held), -1)

    def logp(self) -> Tensor:
        """(B, Q, V), of one discrete distribution a site.

        Raises:
            ValueError: there are several, or numbers are said.
        """
        if self.logp_BQGV is None or self.logp_BQGV.shape[2] != 1:
            raise ValueError("outcomes are asked for, and the model says numbers or several things at a site")
        return self.logp_BQGV[:, :, 0]


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
