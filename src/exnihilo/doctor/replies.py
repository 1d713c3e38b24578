"""Conversations as training will see them: what is learnt, whether replies learn to stop, what is cut.

::

    look(codec, train, made)                            # figures and findings
    made.samples.append(sample(codec, example, item))   # «what is learnt» stands between guillemets

For items with a column ``mask`` (1: learnt), as `sft`, `preference` and `reward_model` make them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from exnihilo.codec.chat import END
from exnihilo.data.base import Example, Item, Noted
from exnihilo.doctor.checks import place
from exnihilo.doctor.report import Diagnosis, Sample, share

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.doctor.examine import Side

LEGEND = "«»: what is learnt; what is dim is special"
_TOKENS = 120  # shown of a sample
_LITTLE = 0.05  # share of learnt tokens that is worth a note


def masked(items: Sequence[Sequence[Item]]) -> bool:
    """Whether items say which of their tokens are learnt."""
    first = next((own[0] for own in items if own), None)
    return first is not None and "mask" in first


def look(codec: Codec, train: Side, made: Diagnosis) -> None:
    """How much is learnt, whether replies learn their end, and what the encoding noted."""
    flat = [item for items in train.items for item in items]
    masks = [np.asarray(item["mask"]) > 0 for item in flat]
    learnt, total = sum(int(m.sum()) for m in masks), sum(m.size for m in masks)
    made.facts["tokens learnt"] = f"{share(learnt, total)} of {total:,}: the others are read"
    if learnt < _LITTLE * total:
        made.found(
            "note",
            f"only {share(learnt, total)} of the tokens are learnt: most of the work goes into reading",
        )
    end = codec.tokenizer.token_to_id(END)
    ends = [int(((np.asarray(i["tokens"]) == end) & m).sum()) for i, m in zip(flat, masks, strict=True)]
    if end is not None and not all(ends):
        made.found(
            "warning",
            f"{share(sum(not n for n in ends), len(flat))} of the items learn no {END}: from them a model "
            "does not learn to stop",
            "check the messages' weights",
        )
    notes = Counter(items.note for items in train.items if isinstance(items, Noted) and items.note)
    for note, count in notes.most_common():
        rows = [
            place(example)
            for example, items in zip(train.examples, train.items, strict=True)
            if isinstance(items, Noted) and items.note == note
        ]
        made.found(
            "warning", f"{count:,} {note}: {'; '.join(rows[:5])}", "a larger model.context, or correct them"
        )


def sample(codec: Codec, example: Example, item: Item) -> Sample:
    """The tokens of a conversation, a line a turn; what is learnt stands between « and ».

    Replies that share a prompt (column ``branch``) stand below it, each on a line with its name.
    """
    ids, kept = np.asarray(item["tokens"]).tolist(), (np.asarray(item["mask"]) > 0).tolist()
    shown = Sample(place(example))
    if "branch" in item:
        _branches(codec, example, item, ids, kept, shown)
        return shown
    line: list[tuple[str, str]] = []
    break_ = set(codec.encode("\n"))
    for at, piece in enumerate(_pieces(codec, ids, kept)[:_TOKENS]):
        line.append(piece)
        if ids[at] in break_ and at and ids[at - 1] in codec.special_ids:
            shown.add(*line)
            line = []
    if len(ids) > _TOKENS:
        line.append((f" ... {len(ids) - _TOKENS} tokens more", "special"))
    if line:
        shown.add(*line)
    return shown


def _pieces(codec: Codec, ids: Sequence[int], kept: Sequence[bool]) -> list[tuple[str, str]]:
    """Each token as it is written, and its kind."""
    out = []
    for at, (id, on) in enumerate(zip(ids, kept, strict=True)):
        kind = "kept" if on else "special" if id in codec.special_ids else "plain"
        text = codec.decode([id], skip_special=False).replace("\n", "⏎")
        before = "«" if on and (not at or not kept[at - 1]) else ""
        after = "»" if on and (at + 1 == len(ids) or not kept[at + 1]) else ""
        out.append((before + text + after, kind))
    return out


def _branches(
    codec: Codec, example: Example, item: Item, ids: Sequence[int], kept: Sequence[bool], shown: Sample
) -> None:
    """The prompt, its end where it is long, and each reply. A branch begins with the prompt's last token."""
    branch = np.asarray(item["branch"]).tolist()
    stem = [at for at, b in enumerate(branch) if b == 0]
    numbers = sorted(set(branch) - {0})
    first = [next(at for at, b in enumerate(branch) if b == number) for number in numbers]
    prompt = [*stem, *first[:1]]
    cut = max(0, len(prompt) - _TOKENS // 2)
    line = _pieces(codec, [ids[at] for at in prompt], [kept[at] for at in prompt])[cut:]
    shown.add(*([(f"{cut} tokens ... ", "special")] if cut else []), *line)
    for number, begin in zip(numbers, first, strict=True):
        places = [at for at, b in enumerate(branch) if b == number and at > begin]
        line = _pieces(codec, [ids[at] for at in places], [kept[at] for at in places])
        more = [(f" ... {len(line) - _TOKENS} tokens more", "special")] if len(line) > _TOKENS else []
        shown.add((_name(example, number, len(numbers)), "label"), *line[:_TOKENS], *more)


def _name(example: Example, number: int, of: int) -> str:
    """What a branch is, by the example's roles."""
    if "label" in example:  # the other one is a reply to another prompt, to measure by
        good = "desirable" if example["label"] else "undesirable"
        return f"{good}: " if number == 1 else "of another prompt: "
    return ("chosen: ", "rejected: ")[number - 1] if "chosen" in example and of == 2 else f"reply {number}: "
