"""Replies of a loaded run to the prompts of some data, graded: what ``exnihilo eval RUN grader=...`` does.

::

    graded(run, config, "val", None, True, grader="number", samples=4)      # {"pass@1": ..., "pass@4": ...}
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.data import examples
from exnihilo.data.base import Drops
from exnihilo.errors import UsageError
from exnihilo.eval.graders import create
from exnihilo.eval.graders.base import SECONDS
from exnihilo.eval.replies import Reply, errors, evaluate_replies
from exnihilo.predictions.run import Run
from exnihilo.train.progress import shown
from exnihilo.train.source.tasks import prompt_text, tasks_of

SHOWN = 3  # reasons of replies without a score that are said


def graded(
    run: Run,
    config: RunConfig,
    side: Literal["train", "val"],
    max_examples: int | None,
    progress: bool,
    *,
    grader: str | Sequence[str] = "",
    samples: int = 1,
    temperature: float | None = None,
    max_new_tokens: int = 128,
    seed: int = 0,
    seconds: float = SECONDS,
    out: str | Path | None = None,
    **unknown: Any,
) -> dict[str, Any]:
    """Metrics of a run's replies; see `eval.replies`.

    Args:
        config: names the data.
        side: which split of it.
        grader: as for `graders.create`; "" : what the run was trained with.
        temperature: default 0, and 1 with several samples.
        out: a .jsonl that takes the replies, one a line, with their scores.

    Raises:
        UsageError: no grader, an option that there is not, a model that writes no text.
        DataError: no prompts.
    """
    if unknown:
        known = [n for n, p in inspect.signature(graded).parameters.items() if p.kind is p.KEYWORD_ONLY]
        raise UsageError(f"unknown option {next(iter(unknown))!r}", expected=", ".join(known))
    run.check_writes()
    named = grader or config.grader
    if not named:
        raise UsageError(
            "options of graded replies without a grader", expected="grader=NAME, e.g. grader=number",
            next="see docs/graders.md",
        )  # fmt: skip
    grade = create(named)
    drops = Drops()
    reading = {"roles": ("prompt",), "extras": ("answer", "record"), "view": "tasks"}
    found = tasks_of(examples(config.data, config.val, side, drops=drops, **reading))
    if drops.counts:
        log.warn(drops.summary("data: "))
    with shown(progress) as display:
        display.start("replies", unit="replies")
        metrics, replies = evaluate_replies(
            run.model,
            run.codec,
            found,
            grade,
            samples=samples,
            max_new_tokens=max_new_tokens,
            temperature=(1.0 if samples > 1 else 0.0) if temperature is None else temperature,
            seed=seed,
            max_examples=max_examples,
            seconds=seconds,
            progress=display,
        )
        display.stop()
    for reason, count in errors(replies).most_common(SHOWN):
        log.warn(f"{count:,} replies without a score: {reason}")
    if out is not None:
        lines = (json.dumps(_line(found[r.example], r), ensure_ascii=False) for r in replies)
        Path(out).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    spec = named if isinstance(named, str) else ",".join(named)
    return {"grader": spec, **metrics, "dropped": float(drops.counts.total())}


def _line(example: Any, reply: Reply) -> dict[str, Any]:
    g = reply.graded
    return {
        "prompt": prompt_text(example["prompt"]), "answer": example.get("answer"), "reply": reply.text,
        "score": g.score, "right": g.right, "parts": dict(g.parts), "error": g.error,
        "stopped": reply.stopped, "tokens": len(reply.ids),
    }  # fmt: skip
