"""Which documents are held out for validation: by a hash of their content, so none moves when data is added.

    plan = make(source.examples(), fraction=0.05, plain=True)
    for example, side in plan.assign(source.examples()):
        ...     # side None: plan.side(group_hash(example))

A document is held out where its hash, as a number in [0, 1), is below the fraction. So it does not matter in
which file or order it comes, equal documents stand on one side, and adding documents moves none.

Examples that share what they are about are a *group*, and a group stands on one side: the questions about one
article or context, the candidates for one query, the hypotheses of one premise, all that is asked about one
story of the world. What an example's answer is (its label, tags, answers) does not matter.

Few documents (below `FEW`), or many that are all alike, cannot be divided so. Then the last part of the text
is held out: with ``val_fraction=0.1`` exactly the last tenth of its characters (of few groups: whole groups,
the last ones). And where no hash falls on
one side, the nearest one is moved there. The report says which of these was done: no side is left empty in
silence.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from exnihilo.data.base import MEDIA, Drops, Example, begins
from exnihilo.errors import DataError

FEW = 20
TRAIN, VAL = 0, 1
SIDES = ("train", "val")
SUBJECTS = ("context", "query", "a", "words", "text", "prompt", "messages")
"""What an example is about: the first of these roles that it has makes its group."""
ANSWERS = frozenset({"label", "score", "tags", "spans", "answers", "id", "answer", "record", "events"})
"""Roles that are no input."""


def document_hash(example: Example) -> int:
    """64 bits of a document's content: of its first part, where it comes in parts."""
    return _hash({k: v for k, v in example.items() if k[0] != "_"})


def inputs_hash(example: Example) -> int:
    """64 bits of what a model is given, without the answer: finds examples that occur twice. Of a sound or a
    picture: of its file's content, and of what else is given with it."""
    given = {k: v for k, v in example.items() if k[0] != "_" and k not in ANSWERS}
    if isinstance(content := example.get("_content"), str):
        given = {k: v for k, v in given.items() if k not in MEDIA} | {"content": content}
    return _hash(given)


def group_hash(example: Example) -> int:
    """64 bits of what an example is about (see above): decides its side. Of plain documents: of the text."""
    if isinstance(group := example.get("_group"), str):
        return text_hash(utf8(group))
    for role in SUBJECTS:
        value = example.get(role)
        if isinstance(value, (str, list)) and value:
            return text_hash(utf8(value if isinstance(value, str) else " ".join(map(str, value))))
    return inputs_hash(example)


def _hash(roles: Mapping[str, Any]) -> int:
    body = roles.get("text")
    if not isinstance(body, str) or len(roles) > 1:
        body = json.dumps(roles, sort_keys=True, ensure_ascii=False, default=str)
    return text_hash(utf8(body))


def utf8(text: str) -> bytes:
    """UTF-8 of a text; half a surrogate pair (from an escape in JSON), which has none, becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def text_hash(body: bytes) -> int:
    """64 bits of a text, without the white space at its ends."""
    return int.from_bytes(hashlib.blake2b(body.strip(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class SplitPlan:
    """How one source is divided.

    Attributes:
        mode: ``none`` (all is training data), ``hash``, ``groups`` (those in `held` are held out), ``tail``
            (the last part is held out), or ``told`` (each example says its side: series are divided by time).
        fraction: share that is to be held out.
        moved: a hash that was moved to the side that would have been empty.
        cut: tail only: how many characters (documents, where they have several fields) are training data.
        unit: of `cut`.
        note: one sentence for the report.
        held: groups only: the hashes of the groups that are held out.
    """

    mode: Literal["none", "hash", "groups", "tail", "told"]
    fraction: float
    moved: int | None = None
    cut: int = 0
    unit: Literal["characters", "documents"] = "characters"
    note: str = ""
    held: tuple[int, ...] = ()

    def side(self, hash_: int) -> int:
        """Side of a document by the hash of its group (every mode but `tail`)."""
        if self.mode == "groups":
            return VAL if hash_ in self.held else TRAIN
        held_out = hash_ < self.fraction * 2.0**64
        return VAL if held_out != (hash_ == self.moved) else TRAIN

    def assign(self, examples: Iterable[Example]) -> Iterator[tuple[Example, int | None]]:
        """Examples with their side; None where their hash decides. A `tail` may begin inside a document."""
        if self.mode == "told":
            for example in examples:
                if example.get("_split", self.fraction > 0) == (self.fraction > 0):
                    yield example, int(example.get("_side", TRAIN))
            return
        if self.mode != "tail":
            for example in examples:
                yield example, None
            return
        left = self.cut
        for example in examples:
            if self.unit == "documents":
                yield example, TRAIN if left > 0 else VAL
                left -= 1
                continue
            body = example["text"]
            if left <= 0:
                # the first part behind the cut begins the document that is held out
                fresh = left == 0 and not begins(example)
                yield {**example, "_begin": True} if fresh else example, VAL
                left = -1
            elif len(body) <= left:
                left -= len(body)
                yield {**example, "_end": True} if left == 0 else example, TRAIN
            else:
                yield {**example, "text": body[:left], "_end": True}, TRAIN
                yield {**example, "text": body[left:], "_begin": True}, VAL
                left = -1

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def make(
    examples: Iterable[Example],
    *,
    fraction: float,
    plain: bool,
    where: str = "the data",
    drops: Drops | None = None,
) -> SplitPlan:
    """Looks at as many documents as it takes to see both sides, and says how to divide them.

    Args:
        fraction: share to hold out, in [0, 1).
        plain: examples have the role `text` alone, so that a document can be cut.
        where: the source, for messages. drops: what was left out of it so far, likewise.

    Raises:
        DataError: there are no documents, or one that cannot be cut.
    """
    if fraction <= 0:
        return SplitPlan("none", 0.0, note="nothing is held out")
    trial = SplitPlan("hash", fraction)
    documents, size = 0, 0
    extremes: dict[int, int] = {}  # side -> the hash on it that is nearest to the other side
    groups: Counter[int] = Counter()  # documents of each group, as long as groups are few
    first, alike = None, True
    for example in examples:
        size += len(example["text"]) if plain else 1
        if not begins(example):
            continue
        documents += 1
        hash_ = group_hash(example)
        first = hash_ if first is None else first
        alike = alike and hash_ == first
        side = trial.side(hash_)
        nearest = min if side == TRAIN else max
        extremes[side] = nearest(extremes.get(side, hash_), hash_)
        if len(groups) < FEW or hash_ in groups:
            groups[hash_] += 1
        if (documents if plain else len(groups)) >= FEW and len(extremes) == 2:
            what = "documents" if plain else "examples"
            return SplitPlan("hash", fraction, note=f"{fraction:.3g} of the {what}, by hash")
    if documents == 0:
        raise DataError(
            f"{where} has no documents" + ("" if drops is None else drops.summary("; ")),
            expected="at least one with text in it"
            if plain
            else "at least one example that can be learnt from",
            next="check data=PATH" + ("" if plain else ", and the columns: data.fields.ROLE=COLUMN"),
        )
    if not plain and documents > len(groups) > 1 and len(groups) < FEW:
        return _by_groups(groups, fraction)
    if documents < FEW:
        why = f"{documents} document{'s' * (documents > 1)}: fewer than {FEW}"
    elif alike:
        why = f"{documents} documents, all of them equal"
        if not plain:
            why = f"{documents} examples, all of one group: what they are about is on both sides"
    else:
        present, hash_ = next(iter(extremes.items()))
        note = f"by hash; one document was moved to {SIDES[1 - present]}, which would have been empty"
        return SplitPlan("hash", fraction, moved=hash_, note=note)
    if size < 2:
        raise DataError(
            f"{where} has {size} {'character' if plain else 'record'}: nothing can be held out",
            expected="more text",
            next="give more data, or val=PATH",
        )
    cut = min(size - 1, max(1, int(size * (1 - fraction))))
    unit = "characters" if plain else "documents"
    note = f"the last {size - cut:,} of {size:,} {unit} ({why})"
    return SplitPlan("tail", fraction, cut=cut, unit=unit, note=note)


def _by_groups(groups: Counter[int], fraction: float) -> SplitPlan:
    """The last groups, of as many examples as comes nearest to the fraction; one at least, not all."""
    order, whole = list(groups), groups.total()
    held: list[int] = []
    count = 0
    for hash_ in reversed(order[1:]):
        over = count + groups[hash_] - fraction * whole
        if held and over > fraction * whole - count:
            break
        held.append(hash_)
        count += groups[hash_]
    note = (
        f"the last {len(held)} of {len(order)} groups, {count:,} of {whole:,} examples "
        f"({len(order)} groups: fewer than {FEW})"
    )
    return SplitPlan("groups", fraction, held=tuple(held), note=note)
