"""The one protocol of every training type.

An objective turns examples into items, says which columns of a batch it reads, and returns *sums* and
*counts*; the loop alone divides, once, by the count over the whole global batch (all workers, all
micro-batches). It owns no weights. See docs/objectives.md.

Key: B batch, T positions, D model width, V vocabulary
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from exnihilo.nn.layout import Attention

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

Example = Mapping[str, Any]
"""Raw roles to values, as a source yields them, e.g. ``{"text": "Once upon a time ..."}``."""

Item = dict[str, np.ndarray | int | float]
"""Encoded example. 1-D arrays are per-token columns, all as long as ``tokens``; numbers are per-item
columns."""

Batch = Mapping[str, Tensor]

__all__ = ["Attention", "Batch", "Example", "Item", "Objective"]


class Objective(ABC):
    """A training type. Subclasses are final and live in one file named like their registry entry.

    Keys of `sums` and `counts` are loss terms; a key ``term@slice`` is a slice of a term: measured, never
    trained on.
    """

    attention: ClassVar[Attention]
    heads: ClassVar[tuple[str, ...]]  # names in model/heads.py
    columns: ClassVar[frozenset[str]]  # the batch columns that sums() reads
    collate: ClassVar[str] = "packed"  # how items become rows: packed (fixed-length rows of whole documents)
    weights: ClassVar[Mapping[str, float]] = {}  # of the loss terms; 1.0 where absent

    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, config: Any = None) -> None:
        self.config = config if config is not None else self.Config()

    @abstractmethod
    def encode(self, example: Example, codec: Codec) -> Item | list[Item]:
        """Host only and pure: the same example gives the same item(s)."""

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """`encode` over many; override where the codec is faster in bulk. One list of items an example."""
        out = (self.encode(example, codec) for example in examples)
        return [items if isinstance(items, list) else [items] for items in out]

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Denominators, from the batch alone, before any forward; float64 scalars."""

    @abstractmethod
    def sums(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """Numerators under the same keys: never a mean. Differentiable with respect to the model's
        parameters."""

    def metrics(self, totals: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        """Named figures from totals over a whole evaluation. Default: the mean of each term."""
        return {key: totals[key] / counts[key] for key in totals if counts.get(key)}
