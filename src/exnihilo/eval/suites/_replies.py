"""Replies to problems, drawn and graded: what the suites that let a model write have in common.

figures, items = answer(asked, problems, prompts, grader, stop=["Question:"])

pass@k is the probability that at least one of k replies is right, without bias from n >= k of them (Chen et
al. 2021, arXiv:2107.03374); intervals are those of `eval.replies`, over problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from exnihilo import log
from exnihilo.errors import DataError, UsageError
from exnihilo.eval.graders import create, grade_many
from exnihilo.eval.replies import Reply, errors, figures
from exnihilo.eval.suites._shapes import Problem
from exnihilo.eval.suites.base import Asked
from exnihilo.infer import generate

_AT_ONCE = 1024  # replies drawn before they are graded: bounds memory
_SHOWN = 3  # reasons of replies without a score that are said


def answer(
    asked: Asked,
    problems: Sequence[Problem],
    prompts: Sequence[list[int]],
    *,
    grader: str,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    text: Callable[[Problem, str], str] = lambda problem, reply: reply,
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Figures of `samples` replies to each problem, and the replies.

    Args:
        prompts: ids, one list a problem. Those that leave no room to answer count as wrong, and as "no_room".
        grader: where `asked` names none.
        max_new_tokens: where `asked` says nothing.
        stop: texts that end a reply, where the model is not one that ends it itself.
        text: what is graded of a reply.

    Raises:
        UsageError: several samples at temperature 0.
        DataError: no prompt leaves room.
    """
    temperature = asked.temperature
    if temperature is None:
        temperature = 1.0 if asked.samples > 1 else 0.0
    if asked.samples > 1 and temperature == 0:
        raise UsageError(
            f"samples={asked.samples} at temperature 0: all would be the same",
            expected="temperature above 0", next="temperature=1, or samples=1",
        )  # fmt: skip
    grade = create(asked.grader or grader)
    context = asked.model.config.context
    kept = [i for i, ids in enumerate(prompts) if len(ids) < context]
    if not kept:
        raise DataError(
            f"none of {len(prompts)} prompts leaves room to answer: the shortest has "
            f"{min(map(len, prompts))} tokens, the model's context is {context}",
            expected=f"at most {context - 1} tokens",
            next="fewer shots, or a model with a larger model.context",
        )
    if len(kept) < len(prompts):
        out = [n + 1 for n, ids in enumerate(prompts) if len(ids) >= context]
        log.warn(
            f"{len(out):,} prompts leave no room to answer in a context of {context} and count as wrong: "
            f"items {', '.join(map(str, out[:5]))}{' ...' if len(out) > 5 else ''}"
        )
    limit = asked.max_new_tokens or max_new_tokens
    stops = asked.chat.stop_ids if asked.chat is not None else frozenset({asked.codec.eos_id})
    requests = [i for i in kept for _ in range(asked.samples)]
    asked.progress.start("replies", total=len(requests), unit="replies")
    replies: list[Reply] = []
    for start in range(0, len(requests), _AT_ONCE):
        part = requests[start : start + _AT_ONCE]
        found = generate(
            asked.model, asked.codec, [prompts[i] for i in part], max_new_tokens=limit,
            temperature=temperature, seed=asked.seed, eos=stops,
            stop=list(stop) if asked.chat is None else (), first=start,
        )  # fmt: skip
        texts = [text(problems[i], one.text) for i, one in zip(part, found, strict=True)]
        grades = grade_many(grade, [_example(problems[i]) for i in part], texts, seconds=asked.seconds)
        replies += [
            Reply(i, one.text, one.ids, one.finish_reason != "length", graded)
            for i, one, graded in zip(part, found, grades, strict=True)
        ]
        asked.progress.advance(len(part))
    asked.progress.stop()
    for reason, count in errors(replies).most_common(_SHOWN):
        log.warn(f"{count:,} replies without a score: {reason}")
    told = figures(replies, asked.samples, seed=asked.seed)
    whole = figures(_with_silent(replies, len(problems), kept, asked.samples), asked.samples, seed=asked.seed)
    told |= {name: value for name, value in whole.items() if name.startswith(("pass@", "score"))}
    told["no_room"] = float(len(problems) - len(kept))
    return told, [_item(problems[one.example], one) for one in replies]


def _with_silent(replies: Sequence[Reply], problems: int, kept: Sequence[int], samples: int) -> list[Reply]:
    """Replies of all problems, in order; of those that could not be asked, wrong ones."""
    from exnihilo.eval.graders.base import Graded

    asked = {n: list(replies[at * samples : (at + 1) * samples]) for at, n in enumerate(kept)}
    silent = Graded(0.0)
    return [
        one
        for n in range(problems)
        for one in asked.get(n, [Reply(n, "", [], False, silent) for _ in range(samples)])
    ]


def _example(problem: Problem) -> dict[str, Any]:
    return {"prompt": problem.question, "answer": problem.answer, "record": problem.record}


def _item(problem: Problem, reply: Reply) -> dict[str, Any]:
    g = reply.graded
    return {
        "prompt": problem.question, "answer": problem.answer, "reply": reply.text, "score": g.score,
        "right": g.right, "error": g.error, "stopped": reply.stopped, "tokens": len(reply.ids),
    }  # fmt: skip
