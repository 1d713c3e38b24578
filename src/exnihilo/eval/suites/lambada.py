"""``lambada``: does the model foresee the last word of a passage?

::

    exnihilo eval RUN --suite lambada=passages.jsonl

accuracy: the share of passages whose last word is what greedy decoding writes; perplexity: e to the mean
negative log-probability of the last word. The control is the most frequent last word of the passages
themselves. Equal to the task ``lambada_openai`` of lm-evaluation-harness on the same passages.

Reference: Paperno et al. 2016, *The LAMBADA dataset*, arXiv:1606.06031.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from exnihilo.config import DataConfig
from exnihilo.data.base import Drops
from exnihilo.eval.likelihood import encode_pair, likelihoods
from exnihilo.eval.suites import _shapes, _world
from exnihilo.eval.suites._records import documents, is_world, only_text, records, taken, usable
from exnihilo.eval.suites.base import Asked, Result, Suite, counted, nothing, ratio, share


class Lambada(Suite):
    summary = "the last word of passages: accuracy and perplexity"

    def run(self, asked: Asked) -> Result:
        passages = list(taken(read(asked), asked.max_examples))
        if not passages:
            raise nothing(asked, "passage of two words or more")
        asked.progress.start("lambada", total=len(passages), unit="passages")
        rows = [encode_pair(asked.codec, p.context, p.target) for p in passages]
        found = likelihoods(asked.model, rows, progress=asked.progress)
        asked.progress.stop()
        words = Counter(p.target.strip() for p in passages)
        loss, low, high = ratio([-one.logprob for one in found], [1.0] * len(found), seed=asked.seed)
        figures = {
            **share("accuracy", [one.greedy for one in found]),
            "majority_accuracy": words.most_common(1)[0][1] / len(passages),
            "perplexity": _exp(loss), "perplexity_low": _exp(low), "perplexity_high": _exp(high),
            "cut": float(sum(one.cut for one in found)),
        }  # fmt: skip
        items = [
            {"context": p.context, "target": p.target.strip(), "logprob": one.logprob, "right": one.greedy}
            for p, one in zip(passages, found, strict=True)
        ]
        return Result(counted(asked, figures, len(items)), items)


def read(asked: Asked) -> Iterator[_shapes.Passage]:
    """The passages of the data, one a record, or one a document of plain text."""
    if is_world(asked.data):
        yield from _world.passages(asked.data)
        return
    yield from read_from(asked.data, asked.drops)


def read_from(data: DataConfig, drops: Drops) -> Iterator[_shapes.Passage]:
    """The same of files; what cannot be used is counted."""
    if only_text(data):
        words = ((place, _shapes.last_word(text)) for place, text in documents(data, drops))
        return usable(words, drops, "documents")
    return usable(((place, _shapes.passage(record)) for place, record in records(data, drops)), drops)


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # beyond, no float holds it
