"""What a chat model's replies are worth: draw them, grade them, and say how sure the figures are.

::

    metrics, replies = evaluate_replies(model, codec, examples, create("number"), max_new_tokens=64)
    metrics["pass@1"], metrics["pass@1_low"], metrics["pass@1_high"], metrics["stop_rate"], metrics["length"]

Prompts are rendered by the chat codec, and a reply ends at the assistant's terminator. Where the tokenizer
marks no turns (a base model), the prompt's text is continued as it stands.

pass@k is the probability that at least one of k replies is right, estimated without bias from n >= k of them:
1 - C(n - c, k) / C(n, k) with c right ones (Chen et al. 2021, arXiv:2107.03374). Intervals are percentile
bootstraps over prompts: the replies to one prompt are not independent of each other. Where k = n, pass@k is a
share of prompts and has Wilson's interval; so it has where all or none are right, of which the bootstrap
says [0, 0], as if that were certain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo import log
from exnihilo.codec.chat import END, START, Chat
from exnihilo.errors import DataError, UsageError
from exnihilo.eval.graders.base import SECONDS, Graded, Grader, grade_many
from exnihilo.infer import generate
from exnihilo.infer.interval import bootstrap, wilson
from exnihilo.metrics.pass_at_k import pass_at_k

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

Example = Mapping[str, Any]
_AT_ONCE = 1024  # replies drawn before they are graded: bounds memory


@dataclass(frozen=True)
class Reply:
    """One reply.

    Attributes:
        example: index of its prompt among those given.
        text: without the terminator.
        ids: the terminator included.
        stopped: the model ended it itself (not the limit, not the end of the context).
        graded: its score, or why there is none.
    """

    example: int
    text: str
    ids: list[int]
    stopped: bool
    graded: Graded


class Prompts:
    """Renders the prompts of examples for one codec, as chat where it marks turns."""

    def __init__(self, codec: Codec) -> None:
        marked = all(codec.tokenizer.token_to_id(token) is not None for token in (START, END))
        self.codec, self.chat = codec, Chat(codec) if marked else None
        self.stop_ids = self.chat.stop_ids if self.chat else frozenset({codec.eos_id})

    def ids(self, prompt: str | Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids that a reply comes behind."""
        if self.chat is not None:
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            return self.chat.prompt(messages)
        text = prompt if isinstance(prompt, str) else "\n".join(str(m["content"]) for m in prompt)
        return [self.codec.bos_id, *self.codec.encode(text)]

    def text(self, ids: Sequence[int]) -> str:
        """The text of a reply, without what ended it."""
        if self.chat is not None:
            return self.chat.reply(ids)
        end = next((n for n, id in enumerate(ids) if id in self.stop_ids), len(ids))
        return self.codec.decode(list(ids[:end]))


def evaluate_replies(
    model: Model,
    codec: Codec,
    examples: Iterable[Example],
    grader: Grader,
    *,
    samples: int = 1,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    max_examples: int | None = None,
    seconds: float = SECONDS,
    progress: log.Progress | None = None,
) -> tuple[dict[str, float], list[Reply]]:
    """Replies to held-out prompts, and their grades.

    Args:
        model: a decoder, any mode; used without gradients.
        codec: its tokenizer.
        examples: with the role ``prompt`` (messages, or one text), and what the grader reads.
        grader: from `graders.create`, or any function of an example and a completion.
        samples: replies to each prompt; more than one needs a temperature.
        max_new_tokens: of a reply, its terminator included.
        temperature: 0 is greedy.
        seed: of the draws.
        max_examples: read at most so many, from the beginning.
        seconds: that one completion may take to be graded.

    Returns:
        "pass@1" (share of replies with full marks), "pass@k" for each power of two up to `samples` and for
        `samples`, "score" (mean reward), "stop_rate", "length" (mean tokens, the terminator included), each
        with "..._low" and "..._high"; "prompts" (answered), "replies", "skipped" (prompts that leave no room
        to answer), "ungraded" (replies without a score: they count as wrong), "failed" (of these, the grader
        failed). And the replies, prompt by prompt.

    Raises:
        UsageError: values that cannot be obeyed.
        DataError: no prompt can be answered.
    """
    if samples < 1 or max_new_tokens < 1:
        raise UsageError(f"samples={samples}, max_new_tokens={max_new_tokens}", expected="1 or above")
    if samples > 1 and temperature == 0:
        raise UsageError(
            f"samples={samples} at temperature 0: all would be the same", expected="temperature above 0",
            next="temperature=1, or samples=1",
        )  # fmt: skip
    given = list(islice(examples, max_examples))
    prompts = Prompts(codec)
    ids = [prompts.ids(example["prompt"]) for example in given]
    room = (model.config.context or 0) - 1
    kept = [i for i, row in enumerate(ids) if len(row) <= room]
    if len(kept) < len(given):
        out = [i for i in range(len(given)) if len(ids[i]) > room]
        log.warn(
            f"{len(out)} prompts leave no room to answer in a context of {room + 1}: "
            + ", ".join(str(given[i].get("_at") or f"example {i + 1}") for i in out[:5])
            + (" ..." if len(out) > 5 else "")
        )
    if not kept:
        raise DataError(
            f"none of {len(given)} prompts can be answered",
            expected=f"prompts of at most {room} tokens, at least one",
            next="check data=PATH and its fields, or take a model with a larger context",
        )
    requests = [i for i in kept for _ in range(samples)]
    replies: list[Reply] = []
    for start in range(0, len(requests), _AT_ONCE):
        part = requests[start : start + _AT_ONCE]
        found = generate(
            model, codec, [ids[i] for i in part], max_new_tokens=max_new_tokens, temperature=temperature,
            seed=seed, eos=prompts.stop_ids, first=start,
        )  # fmt: skip
        texts = [prompts.text(g.ids) for g in found]
        grades = grade_many(grader, [given[i] for i in part], texts, seconds=seconds)
        replies += [
            Reply(i, text, g.ids, g.finish_reason == "eos", grade)
            for i, g, text, grade in zip(part, found, texts, grades, strict=True)
        ]
        if progress is not None:
            progress.advance(len(part))
    metrics = figures(replies, samples, seed=seed)
    return {**metrics, "skipped": float(len(given) - len(kept))}, replies


def figures(replies: Sequence[Reply], samples: int, *, seed: int = 0) -> dict[str, float]:
    """Metrics of replies, `samples` of each prompt, prompt by prompt; see `evaluate_replies`."""
    right = _rows([float(r.graded.right) for r in replies], samples)
    columns = {
        f"pass@{k}": pass_at_k(right.sum(1), samples, k)
        for k in sorted({1, samples, *(2**n for n in range(1, 20) if 2**n <= samples)})
    }
    columns["score"] = _rows([r.graded.score or 0.0 for r in replies], samples).mean(1)
    columns["stop_rate"] = _rows([float(r.stopped) for r in replies], samples).mean(1)
    columns["length"] = _rows([float(len(r.ids)) for r in replies], samples).mean(1)
    out: dict[str, float] = {}
    for name, values in columns.items():
        if name == f"pass@{samples}" or (name[:5] == "pass@" and values.min() == values.max() in (0.0, 1.0)):
            low, high = wilson(float(values.sum()), len(values))
        else:
            low, high = bootstrap(values, seed=seed)
        out |= {name: float(values.mean()), f"{name}_low": low, f"{name}_high": high}
    parts = Counter(name for r in replies for name in r.graded.parts)
    for name in parts:
        scores = [r.graded.parts[name] for r in replies if name in r.graded.parts]
        out[f"score:{name}"] = float(np.mean(scores))
    out["prompts"], out["replies"] = float(len(right)), float(len(replies))
    out["ungraded"] = float(sum(r.graded.score is None for r in replies))
    out["failed"] = float(sum(r.graded.failed for r in replies))
    return out


def errors(replies: Iterable[Reply]) -> Counter[str]:
    """Why replies have no score, the most frequent reason first in ``most_common()``."""
    return Counter(r.graded.error for r in replies if r.graded.error is not None)


def _rows(values: Sequence[float], samples: int) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(-1, samples)
