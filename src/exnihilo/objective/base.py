"""The one protocol of every training type.

An objective turns examples into items, says which columns of a batch it reads, and returns *sums* and
*counts*; the loop alone divides, once, by the count over the whole global batch (all workers, all
micro-batches). It owns no weights. What it learns from the training data before the first step (the names
of the labels) and after the last one (a temperature, a threshold) are its *facts*: JSON, saved beside the
weights in ``RUN/objective.json``. A downstream type also says what its outputs mean: `decode` is the one path
of evaluation and of inference. See docs/objectives.md.

Key: B batch, T positions, D model width, V vocabulary, P pieces (documents of packed rows)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from exnihilo.errors import UsageError
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

Columns = dict[str, np.ndarray]
"""Columns of some rows as arrays: (B, T) per token, (B,) per row."""

FORWARD = ("tokens", "doc", "pos", "segment")
"""The columns that an encoder's forward reads, where they are there."""

__all__ = ["Attention", "Batch", "Columns", "Example", "Item", "Look", "Objective"]


@dataclass(frozen=True)
class Look:
    """What `draw` may look at beside its own rows.

    Attributes:
        rows: rows of the whole data set.
        ids: int64 (B,), which of them are being drawn.
        batch: row ids -> their columns, before any drawing.
        codec: the tokenizer: its special ids and its vocabulary's size.
        training: False while a split is evaluated, where what is drawn must compare across runs.
    """

    rows: int
    ids: np.ndarray
    batch: Callable[[np.ndarray], Columns]
    codec: Codec
    training: bool = True


class Objective(ABC):
    """A training type. Subclasses are final and live in one file named like their registry entry.

    Keys of `sums` and `counts` are loss terms; a key ``term@slice`` is a slice of a term: measured, never
    trained on.

    Args:
        config: a `Config` of the class, its options.
        length: positions of a row (``model.context``); no item of an encoder is longer.
        facts: what was learnt from the training data, or calibrated; JSON.
    """

    attention: ClassVar[Attention]
    heads: ClassVar[tuple[str, ...]]  # names in model/heads.py; a property where options decide
    columns: ClassVar[frozenset[str]]  # the batch columns that sums() reads
    collate: ClassVar[str] = "packed"  # how items become rows: packed (fixed-length rows of whole documents)
    weights: ClassVar[Mapping[str, float]] = {}  # of the loss terms; 1.0 where absent
    roles: ClassVar[tuple[str, ...]] = ("text",)  # what each training example must have
    extras: ClassVar[tuple[str, ...]] = ()  # roles that are read where the data has them
    writes: ClassVar[tuple[str, ...]] = ()  # roles of texts that it learns to write: the tokenizer reads them
    view: ClassVar[str] = "stories"  # which view of the embedded world gives these roles (data=world)
    lookahead: ClassVar[int] = 0  # tokens a row holds beyond its positions
    joins: ClassVar[bool] = False  # the parts of a giant document become one item again
    # tokens of an item's beginning and end that stand around each piece of it, if it may be cut to fill rows
    frame: ClassVar[tuple[int, int] | None] = None  # e.g. (1, 1) of [CLS] ids [SEP]; None: items stay whole
    supervised: ClassVar[bool] = False  # a downstream type: decodes, scores, learns facts
    per_item: ClassVar[frozenset[str]] = frozenset()  # outputs with one row a piece; the others: one a token
    # where it stands in the chain, which decides default learning rates: from random weights, on a task or
    # instructions, or on what a tuned model itself says (preferences, rewards)
    stage: ClassVar[Literal["pretrain", "tune", "align"]] = "pretrain"
    # which default rates a task takes from random weights: those of a task, or those of pretraining, where
    # every position of an item teaches something
    fresh: ClassVar[Literal["learn", "pretrain"]] = "learn"
    main_metric: ClassVar[str] = ""  # e.g. "accuracy": what controls compare; higher is better
    asks: ClassVar[tuple[str, ...]] = ()  # roles a prediction needs; empty: those of training but the gold
    blank: ClassVar[frozenset[str]] = frozenset()  # of these, texts that may be empty
    needs: ClassVar[str] = "dataset"  # which source feeds it: dataset, reference, rollout; may be a property
    referenced: ClassVar[bool] = (
        False  # a source of rollouts reads a frozen reference, too; may be a property
    )
    preludes: ClassVar[bool] = False  # `prelude` is summed over the global batch before any backward
    watched: ClassVar[frozenset[str]] = frozenset()  # of its figures, those that alarms are read from
    replies: ClassVar[bool] = False  # evaluation also generates replies to validation prompts and grades them

    class Config(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        self.config: Any = config if config is not None else self.Config()
        self.length = length
        self.facts: dict[str, Any] = dict(facts or {})

    # facts --------------------------------------------------------------------------------------

    def survey(self, examples: Iterable[Example]) -> dict[str, Any]:
        """Facts of the training split, before any training: names of the labels, their counts. JSON.

        Raises:
            DataError: nothing can be learnt from these examples.
        """
        return {}

    @property
    def labels(self) -> int | None:
        """Outputs of the head ``classes`` or ``tags``, by the facts; None where neither is used."""
        return None

    @property
    def row(self) -> int | None:
        """Positions of a training row: those of the model, or more where several items must meet in one row
        (positions restart with each item)."""
        return self.length

    @property
    def model_settings(self) -> dict[str, Any]:
        """Keys of `ModelConfig` that this objective decides, not the user: its heads and their labels."""
        return {"outputs": tuple(self.heads), "labels": self.labels}

    # data ---------------------------------------------------------------------------------------

    @abstractmethod
    def encode(self, example: Example, codec: Codec) -> Item | list[Item]:
        """Host only and pure: the same example gives the same item(s).

        Without a label in the example (prediction) the columns of labels hold -100.
        """

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """`encode` over many; override where the codec is faster in bulk. One list of items an example."""
        out = (self.encode(example, codec) for example in examples)
        return [items if isinstance(items, list) else [items] for items in out]

    def query(self, example: Example, codec: Codec) -> Item | list[Item]:
        """The encoding for prediction, where it differs from training's."""
        return self.encode(example, codec)

    def of_texts(self, texts: Sequence[str]) -> dict[str, Any] | None:
        """The example that a caller's texts are, by roles; None: they are the roles' texts in their order."""
        del texts
        return None

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        """What is random each time a row is seen: masks, negatives. Host only.

        Args:
            columns: of some rows, as the data set gives them. Not to be changed in place.
            keys: one generator a row, a pure function of (seed, step, row id): whatever the micro-batches
                and the workers, a row draws the same at a step. Evaluation draws with step 0 and a fixed
                seed.
            look: other rows, the codec.

        Returns:
            The columns, changed or more. Default: as they were.
        """
        return columns

    # training -----------------------------------------------------------------------------------

    @abstractmethod
    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Denominators, from the batch alone, before any forward; float64 scalars."""

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What the model's forward reads: tokens, and doc, pos, segment where they are there."""
        found = {name: batch[name] for name in FORWARD if name in batch}
        needed_BT = self.reads(batch)
        return found if needed_BT is None else {**found, "needed": needed_BT}

    def reads(self, batch: Batch) -> Tensor | None:
        """Which states `losses` and `outputs` read, bool (B, T): the others may come as zeros. None: all."""
        del batch
        return None

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Numerators from the trunk's states: differentiable sums under the keys of `counts`."""
        raise self._lacks("losses() or sums()")

    def sums(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """Numerators under the same keys: never a mean. Differentiable with respect to the model's
        parameters."""
        return self.losses(model, self.hidden(model, batch), batch)

    def hidden(self, model: Model, batch: Batch) -> Tensor:
        """The forward: hidden states that `losses` and `outputs` read."""
        return model(self.inputs(batch), self.attention)

    def prelude(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """What must be known of the whole global batch before the first backward: sums, no gradient.

        Where `preludes` is true, the loop adds them up over all micro-batches and workers, and divides by
        `prelude_counts`; the means come as 0-d tensors ``batch["mean:KEY"]`` (KTO's reference point z). An
        evaluation does the same over all that it reads.
        """
        raise self._lacks("prelude()")

    def prelude_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Denominators of `prelude` under the same keys, from the batch alone."""
        raise self._lacks("prelude_counts()")

    def metrics(self, totals: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        """Named figures from totals over a whole evaluation. Default: the mean of each term."""
        return {key: totals[key] / counts[key] for key in totals if counts.get(key)}

    # downstream types only ----------------------------------------------------------------------

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What `decode` reads: (B, T, ...) a token, or for the names in `per_item` (P, ...): one row a piece,
        in the order of the pieces' first tokens (`pieces.firsts`), row by row, left to right."""
        raise self._lacks("outputs()")

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """The prediction of one example, JSON: from all its items (windows) and the model's outputs on them.

        The one path for evaluation and inference.
        """
        raise self._lacks("decode()")

    def score(
        self, predictions: Sequence[Mapping[str, Any]], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Metrics of a whole split, from raw counts: not means of batches."""
        raise self._lacks("score()")

    def majority(self, examples: Sequence[Example]) -> dict[str, float]:
        """The same metrics of the best constant prediction, by the training split's distribution (facts)."""
        raise self._lacks("majority()")

    def calibrate(
        self,
        examples: Sequence[Example],
        items: Sequence[Sequence[Item]],
        outputs: Sequence[Sequence[Mapping[str, np.ndarray]]],
    ) -> dict[str, Any]:
        """New facts from a validation split: temperature, thresholds, calibration error. Default: none."""
        return {}

    def _lacks(self, what: str) -> UsageError:
        return UsageError(
            f"the objective {type(self).__name__} has no {what}",
            expected="a downstream type (supervised = True) with decode, score and majority",
            next="see docs/objectives.md",
        )
