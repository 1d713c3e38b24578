"""``retrieval``: is what stands far back found again? Accuracy by depth and length, as a picture.

::

    exnihilo eval RUN --suite retrieval                     # a passage among held-out stories
    exnihilo eval RUN --suite retrieval=books/              # among documents of your own
    exnihilo eval RUN --suite retrieval=recall:needle       # a task of recall, of models that were taught it

A passage of `PASSAGE` tokens from another document is put into a text at some depth, and the text ends with
the passage's beginning: how many of its last `ASKED` tokens does the model foresee, each as the likeliest?
A base model of any tokenizer can be asked so, for all it needs is to find what it read before and to go on as
it went on there. The control is the same text with the passage left out: what could be guessed. Of a task of
recall the answer is asked for, and depth is where the truth stands; the control is chance.

References: Kamradt 2023, *Needle in a haystack*; Hsieh et al. 2024 (RULER, arXiv:2404.06654).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from exnihilo.errors import DataError
from exnihilo.eval.likelihood import token_logprobs
from exnihilo.eval.suites import _pictures
from exnihilo.eval.suites.base import Asked, Result, Suite, counted, ratio
from exnihilo.eval.suites.bits_per_byte import read
from exnihilo.world import recalls

LEAST = 64  # tokens of the shortest texts
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
EACH = 8  # texts of each depth and length
PASSAGE, ASKED = 24, 8  # tokens of a passage; those of them that are predicted
_TRIES = 40  # texts of a task drawn for each one wanted at a depth


class _Item(NamedTuple):
    """One text: ids that are given and predicted, and the same without what is to be found."""

    length: int
    depth: int
    given: list[int]
    wanted: list[int]
    blind: list[int] | None


class Retrieval(Suite):
    summary = "what stands far back is found again: accuracy by depth and length, as a picture"
    options = frozenset({"seed"})

    def run(self, asked: Asked) -> Result:
        sizes = lengths(asked.model.config.context)
        task = recalls.parse(asked.data.sources[0].path)
        each = asked.max_examples or EACH
        items = list(_tasks(asked, task[0].name, sizes, each) if task else _passages(asked, sizes, each))
        asked.progress.start("retrieval", total=len(items) * (1 if task else 2), unit="texts")
        found = token_logprobs(asked.model, [(i.given, i.wanted) for i in items], progress=asked.progress)
        rights = [float(right_N.mean()) for _, right_N in found]
        if task:
            guessed = task[0].chance
        else:
            blind = [(i.blind or [], i.wanted) for i in items]
            others = token_logprobs(asked.model, blind, progress=asked.progress)
            guessed = float(np.mean([right_N.mean() for _, right_N in others]))
        asked.progress.stop()
        accuracy, low, high = ratio(rights, [1.0] * len(rights), seed=asked.seed)
        share_DL = np.full((len(DEPTHS), len(sizes)), np.nan)
        for d in range(len(DEPTHS)):
            for n, size in enumerate(sizes):
                cell = [r for r, i in zip(rights, items, strict=True) if (i.depth, i.length) == (d, size)]
                share_DL[d, n] = np.mean(cell) if cell else np.nan
        figures = {
            "accuracy": accuracy, "accuracy_low": low, "accuracy_high": high, "guessed_accuracy": guessed,
            **{f"accuracy_{size}": float(np.nanmean(share_DL[:, n])) for n, size in enumerate(sizes)},
            "worst_cell": float(np.nanmin(share_DL)),
        }  # fmt: skip
        lines = [
            {"length": i.length, "depth": DEPTHS[i.depth], "right": right, "logprob": float(logp_N.sum())}
            for i, right, (logp_N, _) in zip(items, rights, found, strict=True)
        ]
        draw = partial(_draw, share_DL, sizes, f"{accuracy:.1%} found again; guessed: {guessed:.1%}")
        return Result(counted(asked, figures, len(items)), lines, picture=draw)


def lengths(context: int) -> list[int]:
    """Powers of two up to the context, and the context; of more than six every other.

    >>> lengths(256), lengths(100)
    ([64, 128, 256], [64, 100])
    """
    found = [1 << n for n in range(LEAST.bit_length() - 1, context.bit_length()) if 1 << n <= context]
    if len(found) > 6:
        found = found[len(found) % 2 == 0 :: 2]
    return sorted({*found, context})


def _draw(share_DL: np.ndarray, sizes: Sequence[int], title: str, path: Path) -> None:
    _pictures.grid(share_DL, lengths=sizes, depths=[f"{d:.0%}" for d in DEPTHS], path=path, title=title)


def _passages(asked: Asked, sizes: Sequence[int], each: int) -> Iterator[_Item]:
    """Passages among documents."""
    documents = [ids for _, text in read(asked) if (ids := asked.codec.encode(text))]
    sources = [n for n, ids in enumerate(documents) if len(ids) >= PASSAGE]
    if len(sources) < 2 or sizes[-1] < LEAST:
        raise DataError(
            f"{len(sources)} documents of {PASSAGE} tokens or more, a context of {sizes[-1]}",
            expected=f"two such documents, and a context of {LEAST} tokens or more",
            next="give more data: --suite retrieval=PATH",
        )
    for size in sizes:
        for d, depth in enumerate(DEPTHS):
            for n in range(each):
                chance = np.random.default_rng([asked.seed, size, d, n])
                own = int(chance.choice(sources))
                start = int(chance.integers(len(documents[own]) - PASSAGE + 1))
                passage = documents[own][start : start + PASSAGE]
                key, wanted = passage[:-ASKED], passage[-ASKED:]
                filler = _filler(documents, own, size - PASSAGE - len(key) - ASKED, chance)
                at = round(depth * len(filler))
                bos = asked.codec.bos_id
                given = [bos, *filler[:at], *passage, *filler[at:], *key]
                yield _Item(size, d, given, wanted, [bos, *filler, *key])


def _filler(documents: Sequence[list[int]], but: int, size: int, chance: np.random.Generator) -> list[int]:
    """So many tokens of other documents, one behind the other, again from the first where they end."""
    out: list[int] = []
    at = int(chance.integers(len(documents)))
    while len(out) < size:
        if at % len(documents) != but:
            out += documents[at % len(documents)]
        at += 1
    return out[:size]


def _tasks(asked: Asked, name: str, sizes: Sequence[int], each: int) -> Iterator[_Item]:
    """Texts of a task of recall; a depth at which its truth never stands stays empty."""
    for size in sizes:
        task = recalls.make(name, length=size)
        held = [0] * len(DEPTHS)
        for n in range(each * _TRIES):
            lesson = task.draw(np.random.default_rng([asked.seed, size, n, 7]))
            depth = round(lesson.truth[0] / max(1, size - 3) * (len(DEPTHS) - 1))
            if held[depth] == each:
                continue
            ids = asked.codec.encode(task.text(lesson.tokens_T))
            if len(ids) != size or asked.codec.decode(ids) != task.text(lesson.tokens_T):
                raise DataError(
                    f"the model's tokenizer does not read {name} a character a token",
                    expected="a model that was trained on it: exnihilo train recall data=recall:TASK",
                    next="--suite retrieval without =recall:..., for models of texts",
                )
            held[depth] += 1
            yield _Item(size, depth, [asked.codec.bos_id, *ids[:-1]], ids[-1:], None)
            if sum(held) == each * len(DEPTHS):
                break
