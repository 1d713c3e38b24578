"""What a run's model replies to validation prompts, and what the run has added to what it started from.

::

    replies = Replies(config, objective, tasks, codec)
    found = replies.measure(model, whole=True)         # figures, and the score of each prompt
    gain = compare(before, found, parent="runs/sft")   # the control of post-training: its parent's own score

Before the first step the model *is* its parent: what it scores then, on the same prompts, with the same
draws, is the control. After the last step both are written to ``RUN/control.json``::

    what did rlvr add to runs/sft? pass@1 on 256 validation prompts; mean and 95% interval (bootstrap)
      before     0.2695  [0.2188, 0.3242]
      after      0.6875  [0.6289, 0.7422]
      gain       0.4180  [0.3516, 0.4844]
      yes: the gain's interval lies above 0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.eval.graders import Grader, create, grade_many
from exnihilo.eval.loss import spread
from exnihilo.eval.replies import Reply, evaluate_replies
from exnihilo.infer.interval import bootstrap
from exnihilo.objective.base import Objective
from exnihilo.train.checkpoint import name_of, write_text
from exnihilo.train.source.tasks import Tasks, prompt_text

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

LATER = 4  # an evaluation on the way answers one prompt of so many
MOST = 128  # new tokens, where neither eval nor rollout says
KEPT = ("score", "stop_rate", "length", "prompts", "skipped", "ungraded", "failed", "independent")
SHOWN = 8  # replies written to RUN/samples


@dataclass
class Found:
    """Replies measured.

    Attributes:
        figures: "pass@1", "stop_rate" ... as in `evaluate_replies`; "independent": the other grader's mean.
        scores: of the main figure, one a prompt.
    """

    figures: dict[str, float]
    scores: list[float]

    def to_json(self) -> dict[str, Any]:
        return {"figures": self.figures, "scores": self.scores}


class Replies:
    """Answers the validation prompts of a run.

    Args:
        config: names the graders and how many prompts, tries and tokens.
        tasks: of the validation split.

    Attributes:
        metric: what the control compares: pass@1 where replies are graded, else stop_rate.
    """

    def __init__(self, config: RunConfig, objective: Objective, tasks: Tasks, codec: Codec) -> None:
        self.config, self.codec = config, codec
        count = min(len(tasks), config.eval.replies)
        self.examples = [tasks.examples[i] for i in spread(len(tasks), count)]
        answers = any(example.get("answer") for example in self.examples)
        named = config.grader or ("exact" if answers and objective.stage == "tune" else "")
        self.graded = bool(named)
        self.grader: Grader = create(named) if named else _ungraded
        self.other: Grader | None = create(config.alarms.grader) if config.alarms.grader else None
        self.metric = "pass@1" if self.graded else "stop_rate"
        rolls = objective.needs == "rollout"
        self.tokens = config.eval.max_new_tokens or (config.rollout.max_new_tokens if rolls else MOST)
        tries, wanted = config.eval.tries, config.eval.temperature
        self.temperature = wanted if wanted is not None else (1.0 if tries > 1 else 0.0)

    def measure(self, model: Model, *, whole: bool) -> Found:
        """Answer the prompts, or a part of them, the same at every call."""
        examples = self.examples
        if not whole:
            count = max(1, len(examples) // LATER)
            examples = [examples[i] for i in spread(len(examples), count)]
        tries = self.config.eval.tries
        figures, replies = evaluate_replies(
            model,
            self.codec,
            examples,
            self.grader,
            samples=tries,
            max_new_tokens=self.tokens,
            temperature=self.temperature,
            seed=self.config.seed,
        )
        if self.other is not None:
            others = grade_many(self.other, [examples[r.example] for r in replies], [r.text for r in replies])
            figures["independent"] = float(np.mean([g.score or 0.0 for g in others]))
        self.last = [(examples[r.example], r) for r in replies[: SHOWN * tries : tries]]
        values = [float(r.graded.right if self.graded else r.stopped) for r in replies]
        scores = np.asarray(values).reshape(-1, tries).mean(1).tolist()
        return Found({k: v for k, v in figures.items() if self._tells(k, whole)}, scores)

    def _tells(self, name: str, whole: bool) -> bool:
        """Whether a figure is kept: grades where there is a grader, intervals of whole measurements."""
        plain = name.removesuffix("_low").removesuffix("_high")
        if plain.startswith(("pass@", "score")) or plain in ("ungraded", "failed", "independent"):
            kept = self.graded or plain == "independent"
        else:
            kept = plain in KEPT
        return kept and (whole or plain == name)

    def write(self, run: Path, step: int) -> str:
        """The first replies to ``RUN/samples/replies-step-N.txt``; returns how one of them begins."""
        path = run / "samples" / f"replies-{name_of(step)}.txt"
        path.parent.mkdir(exist_ok=True)
        write_text(path, "\n\n---\n\n".join(_shown(*pair) for pair in self.last) + "\n")
        first = " ".join(self.last[0][1].text.split()) if self.last else ""
        return log.safe(first[:80]) + ("…" if len(first) > 80 else "")


def _ungraded(example: Mapping[str, Any], completion: str) -> float | None:
    """Stands for no grader."""
    del example, completion
    return None


def _shown(example: Mapping[str, Any], reply: Reply) -> str:
    score = "" if reply.graded.score is None else f" ({reply.graded.score:g})"
    answer = f"\n[right: {example['answer']}]" if example.get("answer") else ""
    end = "" if reply.stopped else " [not ended]"
    return f"> {prompt_text(example['prompt'])}\n{reply.text}{end}{score}{answer}"


# the control ----------------------------------------------------------------------------------------


def compare(
    before: Mapping[str, Any], after: Found, *, metric: str, parent: str, stage: str, seed: int = 0
) -> dict[str, Any]:
    """What ``control.json`` holds of a run after pretraining: the parent's score, its own, and the gain.

    The prompts are the same, so the gain's interval is that of the differences, prompt by prompt.

    Args:
        before: `Found.to_json` of before the first step.
        after: the same prompts after the last.
    """
    first, last = np.asarray(before["scores"], float), np.asarray(after.scores, float)

    def side(values: Sequence[float] | np.ndarray) -> dict[str, float]:
        low, high = bootstrap(values, seed=seed)
        return {"mean": float(np.mean(values)), "low": low, "high": high}

    gain = side(last - first)
    return {
        "kind": "parent",
        "stage": stage,
        "parent": parent,
        "metric": metric,
        "examples": len(last),
        "before": side(first),
        "after": side(last),
        "gain": gain,
        "helps": gain["low"] > 0,
        "figures": {"before": dict(before["figures"]), "after": after.figures},
    }


def table(found: Mapping[str, Any]) -> str:
    """The figures as lines for people."""
    lines = [
        f"what did {found['stage']} add to {found['parent']}? {found['metric']} on {found['examples']:,} "
        "validation prompts; mean and 95% interval (bootstrap)"
    ]
    for name in ("before", "after", "gain"):
        side = found[name]
        lines.append(f"  {name:<9}{side['mean']:8.4f}  [{side['low']:.4f}, {side['high']:.4f}]")
    gain, verdict = found["gain"], "not shown: the gain's interval holds 0"
    if gain["low"] > 0:
        verdict = "yes: the gain's interval lies above 0"
    elif gain["high"] < 0:
        verdict = "no: it has become worse"
    lines.append(f"  {verdict}")
    first, last = found["figures"]["before"], found["figures"]["after"]
    others = [k for k in ("pass@1", "stop_rate", "length", "score") if k in last and k != found["metric"]]
    if others:
        lines.append("  also: " + ", ".join(f"{k} {first.get(k, 0):.3g} -> {last[k]:.3g}" for k in others))
    return "\n".join(lines)
