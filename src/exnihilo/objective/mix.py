"""Several pretraining types at once: one encoding, one forward, each type's losses with its own denominator.

    exnihilo train bert objective=mix options.objectives='["masked_lm", "next_sentence"]'

The members read the same rows and the same hidden states. The one that makes pairs (`next_sentence`,
`sentence_order`) encodes and draws first; masks are drawn on what it made. Members' own options stand under
their names: ``options.masked_lm.rate=0.2``; ``options.weights.next_sentence=0.5`` weighs a member's losses.

A corpus of which no pairs can be made trains the other members only, and it is said.

Key: B rows, T positions, D model width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import ConfigDict, model_validator
from torch import Tensor

from exnihilo.errors import ConfigError, nearest
from exnihilo.nn.layout import Attention
from exnihilo.objective import registry
from exnihilo.objective.base import Batch, Columns, Example, Item, Look, Objective
from exnihilo.objective.pieces import IGNORE

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

_OWN = ("objectives", "weights")


class Mix(Objective):
    """The sum of its members."""

    attention: ClassVar[Attention] = Attention.FULL

    class Config(Objective.Config):
        """`objectives` and `weights`; any other option is a member's name with the member's options."""

        model_config = ConfigDict(frozen=True, extra="allow")
        objectives: tuple[str, ...] = ("masked_lm", "next_sentence")
        weights: dict[str, float] = {}  # member -> factor of its losses; 1.0 where absent

        @model_validator(mode="after")
        def _known(self) -> Self:
            known = list(dict.fromkeys(self.objectives))
            if not known or len(known) != len(self.objectives):
                raise ConfigError(
                    f"options.objectives={list(self.objectives)}", expected="one or more, each once"
                )
            own = self.model_extra or {}
            for key in (*self.weights, *own):
                if key not in known:
                    raise ConfigError(
                        f"objective mix: option {key!r}", expected=nearest(key, [*known, *_OWN])
                    )
            for key, value in self.weights.items():
                if not value > 0:
                    raise ConfigError(f"options.weights.{key}={value}", expected="a number above 0")
            for key, value in own.items():
                if not isinstance(value, Mapping):
                    raise ConfigError(
                        f"options.{key}={value!r}", expected=f"options of {key}, e.g. options.{key}.rate=0.2"
                    )
            return self

    def __init__(
        self, config: Any = None, *, length: int | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(config, length=length, facts=facts)
        extra = self.config.model_extra or {}
        self.members: dict[str, Objective] = {
            name: registry.create(name, extra.get(name), length=length) for name in self.config.objectives
        }
        for name, member in self.members.items():
            self._check(name, member)
        pairs = [name for name, m in self.members.items() if getattr(m, "makes_pairs", False)]
        if len(pairs) > 1:
            raise ConfigError(
                f"mix of {' and '.join(pairs)}: each makes pairs of its own from a row",
                expected="one of them",
                next=f'options.objectives=\'["masked_lm", "{pairs[0]}"]\'',
            )
        for name in pairs:
            self.members[name].alone = False  # type: ignore[attr-defined]
        first = pairs or list(self.members)[:1]
        self._encoder = self.members[first[0]]
        self._order = [*pairs, *(name for name in self.members if name not in pairs)]

    def _check(self, name: str, member: Objective) -> None:
        own = type(member)
        if own.sums is not Objective.sums or own.inputs is not Objective.inputs or member.supervised:
            raise ConfigError(
                f"mix cannot have {name}: it does not train on hidden states that others share",
                expected="masked_lm, next_sentence, sentence_order",
                next=f"objective={name} alone",
            )
        if member.attention is not self.attention or member.lookahead or member.roles != ("text",):
            raise ConfigError(
                f"mix cannot have {name}: attention {member.attention.value}, roles {member.roles}",
                expected=f"attention {self.attention.value}, the role text",
            )
        if name in self.config.weights and not hasattr(member, "terms"):
            raise ConfigError(
                f"mix cannot weigh {name}, which does not name its losses",
                expected=f"{own.__name__}.terms = (keys of its losses)",
                next=f"leave options.weights.{name} out",
            )

    # what the members need together --------------------------------------------------------------

    @property
    def heads(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(dict.fromkeys(head for m in self.members.values() for head in m.heads))

    @property
    def columns(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset().union(*(m.columns for m in self.members.values()))

    @property
    def frame(self) -> tuple[int, int] | None:  # type: ignore[override]
        return self._encoder.frame

    @property
    def per_item(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset().union(*(m.per_item for m in self.members.values()))

    @property
    def weights(self) -> Mapping[str, float]:  # type: ignore[override]
        out: dict[str, float] = {}
        for name, member in self.members.items():
            factor = self.config.weights.get(name, 1.0)
            out |= {term: factor * member.weights.get(term, 1.0) for term in getattr(member, "terms", ())}
            out |= {term: factor * weight for term, weight in member.weights.items()}
        return out

    # data -----------------------------------------------------------------------------------------

    def encode(self, example: Example, codec: Codec) -> Item | list[Item]:
        return self._encoder.encode(example, codec)

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        return self._encoder.encode_many(examples, codec)

    def draw(self, columns: Columns, keys: Sequence[np.random.Generator], look: Look) -> Columns:
        for name in self._order:
            columns = self.members[name].draw(columns, keys, look)
        return columns

    # training -------------------------------------------------------------------------------------

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return _union({name: m.counts(batch) for name, m in self.members.items()})

    def reads(self, batch: Batch) -> Tensor | None:
        found = [m.reads(batch) for m in self.members.values()]
        some = [needed_BT for needed_BT in found if needed_BT is not None]
        return torch.stack(some).any(0) if len(some) == len(found) else None

    def losses(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        return _union({name: m.losses(model, hidden_BTD, batch) for name, m in self.members.items()})

    def metrics(self, totals: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
        out: dict[str, float] = {}
        for member in self.members.values():
            out |= member.metrics(totals, counts)
        return out

    # prediction -----------------------------------------------------------------------------------

    def asks(self, example: Example | None = None) -> tuple[str, ...]:
        """A text with gaps, or a pair a, b: what the members predict."""
        found = [m.asks(example) for m in self._predictors()]  # type: ignore[attr-defined]
        return next(
            (roles for roles in found if example is not None and set(roles) <= set(example)), found[-1]
        )

    def query(self, example: Example, codec: Codec) -> list[Item]:
        """The items of the member that this example is for, with the columns of all."""
        made = self._member(example).query(example, codec)
        items = made if isinstance(made, list) else [made]
        for item in items:
            n = len(np.asarray(item["tokens"]))
            for name, fill in (("segment", 0), ("label", IGNORE), ("targets", IGNORE)):
                item.setdefault(name, np.full(n, fill, np.int64))
        return items

    def outputs(self, model: Model, hidden_BTD: Tensor, batch: Batch) -> dict[str, Tensor]:
        out: dict[str, Tensor] = {}
        for member in self._predictors():
            out |= member.outputs(model, hidden_BTD, batch)
        return out

    def decode(
        self, example: Example, items: Sequence[Item], outputs: Sequence[Mapping[str, np.ndarray]]
    ) -> dict[str, Any]:
        """As the member that this example is for."""
        return self._member(example).decode(example, items, outputs)

    def _predictors(self) -> list[Objective]:
        found = [self.members[name] for name in self._order if hasattr(self.members[name], "asks")]
        if not found:
            raise ConfigError(f"mix of {list(self.members)} makes no predictions", expected="masked_lm in it")
        return found

    def _member(self, example: Example) -> Objective:
        found = self._predictors()
        fits = (m for m in found if set(m.asks(example)) <= set(example))  # type: ignore[attr-defined]
        return next(fits, found[-1])


def _union(parts: Mapping[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """All terms; two members may not share a name."""
    out: dict[str, Tensor] = {}
    for name, part in parts.items():
        both = out.keys() & part.keys()
        if both:
            raise ConfigError(
                f"mix: {name} names a loss like another member: {sorted(both)}", expected="own names"
            )
        out |= part
    return out
