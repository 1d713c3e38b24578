"""Predictions of an encoder: many examples of any length through the model, each decoded by its objective.

::

    predictor = Predictor(model, codec, objective)
    predictor.predict(["a fine film", "two hours lost"])      # [{"label": "positive", ...}, ...]
    for prediction in predictor.stream(lines): ...            # memory does not grow with the input

Items (a long example has several, its windows) are sorted by length and packed into rows without padding
beyond 5%; a row's documents do not see each other, so an example's prediction is the same alone, among others
and in any order. The gold of an example (`GOLD`) is taken away before it is encoded: evaluation sees what a
user's text would show. One decode serves evaluation and prediction (`Objective.decode`).

Packing without cross-contamination: Krell et al., *Efficient Sequence Packing*, 2021, arXiv:2107.02027.

Key: B rows, T positions, D model width, P pieces (one item's place in a row)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from exnihilo.data import collate, packing
from exnihilo.errors import DataError, ExNihiloError, ModelError, UsageError
from exnihilo.infer import encoder
from exnihilo.infer.decoder import Frozen
from exnihilo.log import Progress, Quiet
from exnihilo.objective.base import Example, Item, Objective

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

Given = str | Sequence[str] | Mapping[str, Any]
"""What a caller may give for one example: a text, the texts of its roles in their order, or roles by name."""

GOLD = frozenset({"label", "labels", "answers", "tags", "spans", "score"})
"""Roles that say what is to be found out; a prediction never sees them."""

TALKS = frozenset({"prompt", "completion", "chosen", "rejected"})
"""Roles that hold a text or messages."""

TOKENS = 4096  # of one forward; changes speed and memory, never the result
Piece = tuple[int, int, int]  # item, start, length
PADDING = 0.05  # share of a forward's places that may be padding
_EXAMPLES, _CHARACTERS = 1024, 1 << 20  # held at once while streaming: enough to sort by length


@dataclass
class Answer:
    """One example on its way: its items, the model's outputs for each, or why there are none."""

    example: Example
    items: list[Item] = field(default_factory=list)
    outputs: list[dict[str, np.ndarray]] = field(default_factory=list)
    error: ExNihiloError | None = None


class Predictor:
    """A model, its codec and its objective, ready to answer.

    Args:
        model: on its device; its training mode is as it was after each call.
        objective: with the facts of its training (label names, thresholds); must have `outputs` and `decode`.
        batch_tokens: tokens of one forward. Changes speed and memory, never the result.
        dtype: of the matrix products; autocast where it is not float32.
        weights: "float32", or "int8": rounded, faster on CPUs (see `infer.int8`).
        path: "model" calls the model itself; "auto" takes what is fastest (see `infer.encoder`), for a model
            that is trained no further.

    Raises:
        UsageError: an objective that predicts nothing, such as causal_lm.
        ModelError: a model without the heads that the objective reads.

    Example:
        >>> predictor.predict([{"a": "It rains.", "b": "It is wet."}])     # doctest: +SKIP
        [{'label': 'entailment', 'probability': 0.93, ...}]
    """

    def __init__(
        self,
        model: Model,
        codec: Codec,
        objective: Objective,
        *,
        batch_tokens: int = TOKENS,
        dtype: torch.dtype = torch.float32,
        weights: str = "float32",
        path: Literal["model", "auto"] = "model",
    ) -> None:
        if not predicts(objective):
            raise UsageError(
                f"the objective {type(objective).__name__} makes no predictions",
                expected="a model trained for a task, or a masked language model",
                next="exnihilo sample RUN for a decoder; exnihilo train sentence_classification init=RUN ...",
            )
        if lacking := sorted(set(objective.heads) - set(model.heads.keys())):
            raise ModelError(
                f"{type(objective).__name__} reads the heads {', '.join(objective.heads)}; the model has no "
                f"{', '.join(lacking)}",
                expected="weights that were trained with this objective",
                next="check the run folder: its weights and its objective.json belong together",
            )
        if batch_tokens < 1:
            raise UsageError(f"batch_tokens={batch_tokens}", expected="at least 1")
        self.model, self.codec, self.objective = model, codec, objective
        self.batch_tokens, self.dtype = batch_tokens, dtype
        if weights not in ("float32", "int8"):
            raise UsageError(f"weights={weights!r}", expected="float32 or int8")
        self._reader = model  # what computes hidden states
        if weights == "int8" or (path == "auto" and dtype == torch.float32):
            self._reader = encoder.swift(model, weights)
        self.inputs = inputs_of(objective)
        how = "native" if isinstance(self._reader, encoder.Swift) else "torch"
        self.path = f"{how}, {weights}"  # how hidden states are computed, in words

    def predict(
        self,
        examples: Sequence[Given],
        *,
        batch_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> list[dict[str, Any]]:
        """One prediction an example, in order. One that cannot be read gets ``{"error": ..., "row": N}``.

        Args:
            examples: texts, or mappings with the objective's roles; what else they hold is left alone.
            batch_tokens: tokens of one forward.
            progress: is told of each example that is done.
        """
        if isinstance(examples, (str, Mapping)):
            raise UsageError(
                f"one {type(examples).__name__} where a list is expected", expected="predict([example])"
            )
        return list(self.stream(examples, batch_tokens=batch_tokens, progress=progress))

    def stream(
        self,
        examples: Iterable[Given],
        *,
        batch_tokens: int | None = None,
        progress: Progress | None = None,
        first: int = 1,
    ) -> Iterator[dict[str, Any]]:
        """`predict` over any number of examples, in chunks; `first` is the number of the first one."""
        told = progress or Quiet()
        number = first
        for chunk in _chunks(examples):
            for answer in self.answers(chunk, batch_tokens=batch_tokens):
                yield self.decode(answer, number)
                told.advance()
                number += 1

    def raw(
        self, examples: Sequence[Given], *, batch_tokens: int | None = None
    ) -> list[tuple[list[Item], list[dict[str, np.ndarray]]]]:
        """(items, outputs of each item) of each example, before decoding: what `calibrate` reads.

        Outputs are (T, ...) for each token of the item, or without T for names in `Objective.per_item`.

        Raises:
            DataError: an example that cannot be encoded, with its number from 1.
        """
        out = []
        for chunk in _chunks(examples):
            for answer in self.answers(chunk, batch_tokens=batch_tokens):
                if answer.error is not None:
                    raise DataError(
                        f"example {len(out) + 1}: {answer.error.given}",
                        expected=answer.error.expected,
                        next=answer.error.next,
                    ) from answer.error
                out.append((answer.items, answer.outputs))
        return out

    def answers(self, examples: Sequence[Given], *, batch_tokens: int | None = None) -> list[Answer]:
        """All examples encoded and through the model at once; `stream` bounds how many."""
        found = [self._read(given) for given in examples]
        self._encode([answer for answer in found if answer.error is None])
        whole = [item for answer in found for item in answer.items]
        results = iter(self._forward(whole, batch_tokens or self.batch_tokens))
        for answer in found:
            answer.outputs = list(islice(results, len(answer.items)))
        return found

    def decode(self, answer: Answer, number: int) -> dict[str, Any]:
        """The prediction of an answer, or its error with the example's number."""
        error = answer.error
        if error is None:
            try:
                return self.objective.decode(answer.example, answer.items, answer.outputs)
            except DataError as caught:
                error = caught
        return {"error": str(error).replace("\n ", ";"), "row": number}

    # reading ------------------------------------------------------------------------------------------

    def _read(self, given: Given | DataError) -> Answer:
        try:
            if isinstance(given, DataError):  # a row that its reader could not read
                raise given
            example = as_example(given, self.objective)
            return Answer(blind(example, inputs_of(self.objective, example), self.objective.blank))
        except DataError as error:
            return Answer({}, error=error)

    def _encode(self, answers: Sequence[Answer]) -> None:
        """Items of each answer; all at once where nothing is wrong, else one by one to find what is."""
        own = type(self.objective).query is not Objective.query
        if not own:
            try:
                many = self.objective.encode_many([a.example for a in answers], self.codec)
            except DataError:
                pass  # one of them is bad: the loop below names it
            else:
                for answer, items in zip(answers, many, strict=True):
                    answer.items = self._fit(items)
                return
        for answer in answers:
            try:
                items = self.objective.query(answer.example, self.codec)
                answer.items = self._fit(items if isinstance(items, list) else [items])
            except DataError as error:
                answer.error = error

    def _fit(self, items: list[Item]) -> list[Item]:
        context = self.model.config.context
        for item in items:
            size = len(item["tokens"])  # type: ignore[arg-type]
            if size > context:
                raise UsageError(
                    f"{type(self.objective).__name__} made an item of {size} tokens for a model of {context}",
                    expected="the length that the model was trained with",
                    next="restore objective.json beside the weights",
                )
        return [item for item in items if len(item["tokens"])]  # type: ignore[arg-type]

    # the model ----------------------------------------------------------------------------------------

    def _forward(self, items: Sequence[Item], batch_tokens: int) -> list[dict[str, np.ndarray]]:
        """The outputs of each item, in order."""
        out: list[dict[str, np.ndarray]] = [{} for _ in items]
        lengths = np.asarray([len(item["tokens"]) for item in items], np.int64)  # type: ignore[arg-type]
        device = next(self.model.parameters()).device
        frozen = Frozen(self.model)
        with frozen(), torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            padding = 1.0 if isinstance(self._reader, encoder.Swift) else PADDING  # none is computed there
            for index, row, pieces in rows_of(lengths, self.objective.length, batch_tokens, padding):
                mine = [items[int(i)] for i in index]
                columns = collate.of_items(pieces, mine, row=row, pad_id=self.codec.pad_id)
                batch = {k: torch.as_tensor(v, device=device) for k, v in collate.simplify(columns).items()}
                hidden_BTD = self.objective.hidden(self._reader, batch)
                outputs = self.objective.outputs(self.model, hidden_BTD, batch)
                host = {name: _host(value) for name, value in outputs.items()}
                self._deal(host, index, pieces, out)
        return out

    def _deal(
        self,
        outputs: Mapping[str, np.ndarray],
        index: np.ndarray,
        pieces: Sequence[Sequence[Piece]],
        out: list[dict[str, np.ndarray]],
    ) -> None:
        """Gives each item its part of a forward's outputs."""
        piece = 0
        for b, row_pieces in enumerate(pieces):
            at = 0
            for document, _, length in row_pieces:
                mine = out[int(index[document])]
                for name, value in outputs.items():
                    per_item = name in self.objective.per_item
                    mine[name] = (value[piece] if per_item else value[b, at : at + length]).copy()
                at += length
                piece += 1


def rows_of(
    lengths: np.ndarray, longest: int | None, batch_tokens: int, padding: float = PADDING
) -> Iterator[tuple[np.ndarray, int, list[list[Piece]]]]:
    """Forwards for items of these lengths: (which items, tokens of a row, the pieces of each row).

    Items of about the same length stand together; a forward with a larger share of padding is divided.
    Nothing is cut.

    >>> [(index.tolist(), row) for index, row, _ in rows_of(np.array([3, 9, 6]), 9, 100)]
    [([1, 2, 0], 9)]
    """
    order = np.argsort(-lengths, kind="stable")
    at = 0
    while at < len(order):
        ends = np.cumsum(lengths[order[at:]])
        count = max(1, int(np.searchsorted(ends, max(batch_tokens, int(ends[0])), side="right")))
        yield from _divided(lengths, order[at : at + count], longest, padding)
        at += count


def _divided(
    lengths: np.ndarray, index: np.ndarray, longest: int | None, padding: float
) -> Iterator[tuple[np.ndarray, int, list[list[Piece]]]]:
    """One forward's items, as one forward or, until the padding is small, as several."""
    left = [index]
    while left:
        part = left.pop()
        mine = lengths[part]
        plan = _plan(mine, longest)
        if plan.padded <= padding or len(part) == 1:
            yield part, plan.row, [plan.pieces(r) for r in range(plan.rows)]
            continue
        margin = len(part) // 8  # so that halving ends soon
        drop = -np.diff(mine)[margin : len(part) - 1 - margin]  # sorted from long to short
        at = margin + int(np.argmax(drop)) + 1 if drop.any() else (len(part) + 1) // 2
        left += [part[at:], part[:at]]


def _plan(lengths: np.ndarray, longest: int | None) -> packing.Plan:
    """The packing with the least padding; of equals the one with the shortest rows."""
    total, least = int(lengths.sum()), max(2, int(lengths[0]))
    most = max(least, longest or least)
    few = -(-total // most)  # rows, if nothing were lost
    rows = (least, 2 * least, -(-total // few), -(-total // (few + 1)), most)
    tried = dict.fromkeys(min(most, max(least, row)) for row in rows)
    plans = [packing.plan(lengths, row, overlap=0, max_padding=1.0) for row in sorted(tried)]
    return min(plans, key=lambda plan: round(plan.padded, 2))


def _host(value: Tensor) -> np.ndarray:
    return (value.float() if value.is_floating_point() else value).cpu().numpy()


def _chunks(examples: Iterable[Given]) -> Iterator[list[Given]]:
    held: list[Given] = []
    size = 0
    for example in examples:
        held.append(example)
        values = example.values() if isinstance(example, Mapping) else [example]
        size += sum(len(v) for v in values if isinstance(v, (str, list, tuple)))
        if len(held) >= _EXAMPLES or size >= _CHARACTERS:
            yield held
            held, size = [], 0
    if held:
        yield held


# examples ---------------------------------------------------------------------------------------------


def predicts(objective: Objective) -> bool:
    """Whether an objective has what prediction needs."""
    own = type(objective)
    return all(getattr(own, n, None) is not getattr(Objective, n, None) for n in ("outputs", "decode"))


def inputs_of(objective: Objective, example: Example | None = None) -> tuple[str, ...]:
    """The roles an example must have to be predicted: what the objective asks for, else those of training
    without the gold."""
    asks: Any = getattr(objective, "asks", None)
    if callable(asks):
        asks = asks(example)
    return tuple(asks) if asks else tuple(role for role in objective.roles if role not in GOLD)


def as_example(given: Given, objective: Objective) -> dict[str, Any]:
    """What a caller gave, by roles: a text, the texts of the roles in their order, or a mapping.

    Raises:
        DataError: not as many texts as the objective asks for.
    """
    if isinstance(given, Mapping):
        out = dict(given)
        if inputs_of(objective, out) == ("a",) and "a" not in out and "text" in out:
            out["a"] = out.pop("text")
        return out
    texts = [given] if isinstance(given, str) else list(given)
    roles = inputs_of(objective)
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"a {type(given).__name__} of other things than texts", expected=", ".join(roles))
    if (own := objective.of_texts(texts)) is not None:
        return own
    if roles == ("words",):
        return {"text": texts[0]} if len(texts) == 1 else {"words": texts}
    paired = inputs_of(objective, {"a": "", "b": ""})
    trained = tuple(role for role in objective.roles if role not in GOLD)
    for fits in (roles, paired, trained):
        if len(fits) == len(texts):
            return dict(zip(fits, texts, strict=True))
    raise DataError(
        f"{len(texts)} text{'s' * (len(texts) != 1)} where an example has {' and '.join(roles)}",
        expected=", ".join(roles),
        next="give them in this order, or as {" + ", ".join(f'"{role}": ...' for role in roles) + "}",
    )


def blind(example: Example, roles: Sequence[str], blank: Collection[str] = frozenset()) -> dict[str, Any]:
    """The example without its gold.

    Args:
        blank: roles whose texts may be empty.

    Raises:
        DataError: a role is missing, empty, or no text.
    """
    out = {name: value for name, value in example.items() if name not in GOLD}
    for role in roles:
        value = out.get(role)
        if role == "words" and value is None and "text" in out:
            role, value = "text", out["text"]
        if value is None:
            found = ", ".join(repr(k) for k in out if k[:1] != "_") or "nothing"
            raise DataError(f"no {role!r}; found: {found}", expected=f"the roles {', '.join(roles)}")
        kind = str if role == "words" else Mapping if role in TALKS else None
        listed = (
            kind is not None
            and isinstance(value, (list, tuple))
            and all(isinstance(part, kind) for part in value)
        )
        if not isinstance(value, str) and not listed:
            raise DataError(f"{role!r} holds {type(value).__name__} {value!r:.40}", expected="text")
        empty = not value or (isinstance(value, str) and not value.strip())
        if empty and role not in blank:
            raise DataError(f"empty {role}", expected="at least one word")
    return out
