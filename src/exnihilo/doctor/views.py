"""Samples as the model will see them: masks, segments, windows, tags, in words that need no colour.

Key: B rows, T positions
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo.codec.base import ByteCodec
from exnihilo.data.base import Example, Item
from exnihilo.doctor import pictures, replies, series, sounds
from exnihilo.doctor.checks import place
from exnihilo.doctor.encoded import Held
from exnihilo.doctor.report import Diagnosis, Sample, share
from exnihilo.objective import draws
from exnihilo.objective.base import Columns, Objective
from exnihilo.objective.causal_lm import CausalLM
from exnihilo.objective.pieces import IGNORE

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

_TOKENS = 72  # shown of a sample
_ROWS = 64  # drawn for figures
_ITEMS = 2000
Pieces = list[tuple[str, str]]


def add(
    objective: Objective,
    codec: Codec,
    examples: Sequence[Example],
    items: Sequence[Sequence[Item]],
    count: int,
    seed: int,
    made: Diagnosis,
) -> None:
    """Adds `count` samples and what they show in figures."""
    roles = objective.roles
    if pictures.seen(objective):
        pictures.add(objective, codec, examples, items, count, seed, made)
        return
    if sounds.heard(objective):
        sounds.add(objective, codec, examples, items, count, seed, made)
        return
    if series.numbers(objective):
        series.add(objective, codec, examples, items, count, seed, made)
        return
    if draws.draws(objective) and not objective.supervised:
        _masks(objective, codec, items, count, seed, made)
        return
    chosen = _spaced([i for i, own in enumerate(items) if own], count)
    if "answers" in roles:
        answered = [i for i, own in enumerate(items) if own and examples[i].get("answers")]
        for i in _spaced(answered, count):
            made.samples.append(_question(codec, examples[i], items[i]))
        made.legend = "«»: the answer's tokens in the window; what is dim is special"
    elif "words" in roles:
        tagged = _tagged(objective, items) or chosen
        for i in _spaced(tagged, count):
            made.samples.append(_tags(objective, codec, examples[i], items[i]))
        made.legend = "word/TAG at the token that carries the label; + joins the tokens of one word"
    elif replies.masked(items):
        for i in chosen:
            made.samples.append(replies.sample(codec, examples[i], items[i][0]))
        made.legend = replies.LEGEND
    else:
        for i in chosen:
            made.samples.append(_plain(objective, codec, examples[i], items[i][0]))
        made.legend = "what is dim is special; red is unknown to the tokenizer"


def _spaced(numbers: Sequence[int], count: int) -> list[int]:
    """`count` of some numbers at even distances."""
    n = min(count, len(numbers))
    return [numbers[k * len(numbers) // n] for k in range(n)]


def token(codec: Codec, id: int) -> str:
    """A token as it is written: ``##ing`` keeps its marks, bytes are decoded."""
    if isinstance(codec, ByteCodec):
        return codec.decode([id], skip_special=False)
    return codec.tokenizer.id_to_token(id) or f"<{id}>"


def written(codec: Codec, ids: Sequence[int], kinds: Sequence[str] | None = None) -> Pieces:
    """Tokens as pieces of a line; special and unknown ones have their own kind."""
    gap = "" if isinstance(codec, ByteCodec) else " "
    out: Pieces = []
    for at, id in enumerate(ids):
        kind = kinds[at] if kinds is not None else "plain"
        if id == codec.unk_id:
            kind = "unknown"
        elif id in codec.special_ids and kind in ("plain", "a", "b"):
            kind = "special"
        out.append((token(codec, id).replace("\n", "⏎") + gap, kind))
    return out


def _shortened(pieces: Pieces, most: int = _TOKENS) -> Pieces:
    """The beginning and the end of a long line."""
    if len(pieces) <= most:
        return pieces
    head, tail = most * 3 // 4, most // 4
    return [*pieces[:head], (f" ... {len(pieces) - head - tail} tokens ... ", "special"), *pieces[-tail:]]


# pretraining ------------------------------------------------------------------------------------------


def _masks(
    objective: Objective,
    codec: Codec,
    items: Sequence[Sequence[Item]],
    count: int,
    seed: int,
    made: Diagnosis,
) -> None:
    """Rows as they would be drawn at the first step."""
    flat = _spread_out([own for own in items if own])
    context = objective.length or max(len(np.asarray(item["tokens"])) for item in flat)
    held = Held(flat, objective, context, codec.pad_id)
    ids = np.asarray(_spaced(range(held.rows), _ROWS))
    after = draws.draw(objective, held, ids, codec=codec, seed=seed, step=0)
    truth = _truth(objective)
    _figures(after, codec, truth, made)
    pieces = [(b, int(d)) for b in range(len(ids)) for d in np.unique(after["doc"][b][after["doc"][b] >= 0])]
    labelled = [p for p in pieces if truth and _label(after, p) != IGNORE] or pieces
    for b, d in _spaced(labelled, count):  # type: ignore[arg-type]
        made.samples.append(_drawn(after, codec, (b, d), truth))
    made.legend = (
        "[MASK]{original}; wrong{original}: a random token; same{=}: kept, and predicted all the same"
    )
    if truth:
        made.legend += "; A and B are the segments"


def _spread_out(items: Sequence[Sequence[Item]]) -> list[Item]:
    """Items of examples from all over the split, at most `_ITEMS`; of a long one its beginning."""
    each = max(8, _ITEMS // max(1, len(items)))
    return [item for i in _spaced(range(len(items)), _ITEMS) for item in items[i][:each]][: 2 * _ITEMS]


def _truth(objective: Objective) -> str:
    """What the label of a pair says: ``follows`` or ``ordered``; nothing without pairs."""
    members = getattr(objective, "members", None)
    found = [objective, *(members.values() if isinstance(members, dict) else ())]
    return next((str(m.truth) for m in found if getattr(m, "makes_pairs", False)), "")


def _label(columns: Columns, piece: tuple[int, int]) -> int:
    b, d = piece
    at = int(np.flatnonzero(columns["doc"][b] == d)[0])
    return int(columns["label"][b, at]) if "label" in columns else IGNORE


def _figures(after: Columns, codec: Codec, truth: str, made: Diagnosis) -> None:
    real = after["doc"] >= 0
    if "targets" in after:
        chosen = (after["targets"] != IGNORE) & real
        special = np.isin(after["tokens"], sorted(codec.special_ids))
        masked = chosen & (after["tokens"] == codec.mask_id)
        kept = chosen & (after["tokens"] == after["targets"])
        n, total = int(chosen.sum()), int((real & ~(special & ~masked)).sum())
        made.facts["masked positions"] = (
            f"{share(n, total)} of the words' tokens: {share(int(masked.sum()), n)} [MASK], "
            f"{share(n - int(masked.sum()) - int(kept.sum()), n)} random, {share(int(kept.sum()), n)} kept"
        )
        made.facts["places that bear the loss"] = share(n, after["tokens"].size)
        wrong = np.isin(np.where(chosen, after["targets"], -1), sorted(codec.special_ids))
        if codec.unk_id is not None:
            wrong &= after["targets"] != codec.unk_id
        if wrong.any():
            made.found("broken", f"{int(wrong.sum())} special tokens are chosen to be predicted", "report it")
    if truth and "label" in after:
        first = real & (after["pos"] == 0)
        labels = after["label"][first]
        has = labels != IGNORE
        made.facts["pairs"] = (
            f"{int(has.sum()):,} of {len(labels):,} blocks are pairs, "
            f"{share(int((labels[has] == 0).sum()), int(has.sum()))} with {truth}: yes"
        )
        if has.sum() < 0.5 * len(labels):
            made.found(
                "warning",
                f"{share(int((~has).sum()), len(labels))} of the blocks have one sentence: no pair, no label",
                "documents of several sentences each (data.unit=file or paragraph)",
            )


def _drawn(after: Columns, codec: Codec, piece: tuple[int, int], truth: str) -> Sample:
    b, d = piece
    at = np.flatnonzero(after["doc"][b] == d)
    ids = after["tokens"][b][at].tolist()
    targets = after["targets"][b][at].tolist() if "targets" in after else [IGNORE] * len(ids)
    segment = after["segment"][b][at].tolist() if "segment" in after and truth else [0] * len(ids)
    title = f"drawn row {b + 1}, document {d + 1}"
    label = _label(after, piece)
    if truth and label != IGNORE:
        title += f": {truth}: {'yes' if label == 0 else 'no'}"
    sample = Sample(title)
    for side, name in ((0, "A"), (1, "B")):
        mine = [i for i, s in enumerate(segment) if s == side]
        if mine:
            line = [_masked(codec, ids[i], targets[i]) for i in mine]
            sample.add(*([(f"{name}: ", "label")] if 1 in segment else []), *_shortened(line))
    return sample


def _masked(codec: Codec, id: int, target: int) -> tuple[str, str]:
    text = token(codec, id).replace("\n", "⏎")
    gap = "" if isinstance(codec, ByteCodec) else " "
    if target == IGNORE:
        return text + gap, "special" if id in codec.special_ids else "plain"
    if id == target:
        return text + "{=}" + gap, "kept"
    kind = "masked" if id == codec.mask_id else "random"
    return f"{text}{{{token(codec, target)}}}{gap}", kind


# downstream -------------------------------------------------------------------------------------------


def _plain(objective: Objective, codec: Codec, example: Example, item: Item) -> Sample:
    """A text or a pair, with its label."""
    label = example.get("label", example.get("score"))
    title = place(example) if label is None else f"{place(example)}: label {label!r}"
    cut = int(np.max(item.get("cut", 0)))
    sample = Sample(title + (f", {cut} tokens cut off" if cut else ""))
    ids = np.asarray(item["tokens"]).tolist()
    side: Any = item.get("segment", item.get("side"))
    if side is None or isinstance(objective, CausalLM):
        sample.add(*_shortened(written(codec, ids)))
        return sample
    for number, name in ((0, "a"), (1, "b")):
        mine = [id for id, s in zip(ids, np.asarray(side).tolist(), strict=True) if s == number]
        if mine:
            line = written(codec, mine, [name] * len(mine))
            sample.add((f"{name.upper()}: ", "label"), *_shortened(line))
    return sample


def _question(codec: Codec, example: Example, windows: Sequence[Item]) -> Sample:
    """The windows of a question, the answer marked where a window holds it."""
    answers: Any = example.get("answers") or ()
    gold = answers[0].get("text") if answers and isinstance(answers[0], dict) else answers
    sample = Sample(f"{place(example)}: {str(example.get('question'))[:100]} -> {gold!r:.60}")
    shown = 0
    for number, item in enumerate(windows):
        ids = np.asarray(item["tokens"]).tolist()
        starts, ends = (np.flatnonzero(np.asarray(item[name]) == 1).tolist() for name in ("start", "end"))
        inside = bool(starts and ends and starts[0] > 0)
        if len(windows) > 3 and not inside and shown > 1:
            continue
        shown += 1
        name = f"window {number + 1} of {len(windows)}: " if len(windows) > 1 else ""
        kinds = ["plain"] * len(ids)
        line: Pieces
        if inside:
            first, last = starts[0], ends[0]
            kinds[first : last + 1] = ["answer"] * (last + 1 - first)
            line = written(codec, ids, kinds)
            line[first] = ("«" + line[first][0], "answer")
            text = line[last][0]
            line[last] = (text.rstrip() + "»" + text[len(text.rstrip()) :], "answer")
            head, tail = max(0, first - _TOKENS // 2), min(len(line), last + _TOKENS // 2)
            if len(line) > _TOKENS:
                before: Pieces = [("... ", "special")] if head else []
                line = [*before, *line[head:tail], *([(" ...", "special")] if tail < len(ids) else [])]
        else:
            line = _shortened(written(codec, ids, kinds))
            name += "(no answer in it) "
        sample.add((name, "label"), *line)
    return sample


def _tagged(objective: Objective, items: Sequence[Sequence[Item]]) -> list[int]:
    """Examples with a tag that is not O."""
    labels = objective.facts.get("labels") or []
    outside = labels.index("O") if "O" in labels else -1
    return [
        i
        for i, own in enumerate(items)
        if own and any((np.asarray(x["tag"]) != outside)[np.asarray(x["tag"]) != IGNORE].any() for x in own)
    ]


def _tags(objective: Objective, codec: Codec, example: Example, windows: Sequence[Item]) -> Sample:
    """Tokens with the tags that they carry."""
    labels = objective.facts.get("labels") or []
    sample = Sample(place(example) + (f", {len(windows)} windows" if len(windows) > 1 else ""))
    for item in windows[:2]:
        line: Pieces = []
        for id, tag in zip(
            np.asarray(item["tokens"]).tolist(), np.asarray(item["tag"]).tolist(), strict=True
        ):
            text = token(codec, id).strip() or "␣"
            if id in codec.special_ids and id != codec.unk_id:
                line.append((f"{text} ", "special"))
            elif tag == IGNORE:
                if line:
                    line[-1] = (line[-1][0].rstrip(), line[-1][1])
                line.append((f"+{text} ", "inside"))
            else:
                name = labels[tag] if 0 <= tag < len(labels) else str(tag)
                kind = "unknown" if id == codec.unk_id else "plain" if name == "O" else "tag"
                line.append((f"{text}/{name} ", kind))
        sample.add(*_shortened(line))
    return sample
