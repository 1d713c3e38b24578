"""``reward_model:RUN``: the score that a trained reward model gives a reply to its prompt.

::

    grade = create("reward_model:runs/rm")
    grade({"prompt": [{"role": "user", "content": "Hi"}]}, "Hello.")        # 1.3: a level that means nothing

Scores compare replies to one prompt; they have no zero and no full marks, so pass@k says nothing of them. A
policy that is trained on them finds what the reward model overrates: watch an independent grader
(``alarms.grader``) beside it.

The model is loaded at the first use, on the device that training would take, and reads prompts in batches.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo.errors import UsageError
from exnihilo.eval.graders.base import SECONDS, Checker, Graded, graded, raised

if TYPE_CHECKING:
    from exnihilo.infer.predict import Predictor


class RewardModel(Checker):
    """The score of a run of the objective ``reward_model``."""

    name = "reward_model"

    def __init__(self, run: str) -> None:
        self.run = run
        self._predictor: Predictor | None = None
        self._lock = threading.Lock()  # rollouts may be drawn in a thread of their own

    def grade(self, example: Mapping[str, Any], completion: str) -> float | None:
        return self.many([example], [completion], seconds=SECONDS)[0].score

    def many(
        self, examples: Sequence[Mapping[str, Any]], completions: Sequence[str], *, seconds: float
    ) -> list[Graded]:
        del seconds  # a forward is bounded by the context
        asked = [
            {"prompt": example.get("prompt"), "completion": [{"role": "assistant", "content": text}]}
            for example, text in zip(examples, completions, strict=True)
        ]
        try:
            with self._lock:
                found = self.predictor().predict(asked)
        except Exception as error:  # out of memory, say: these replies have no score
            told = raised(error)
            return [told] * len(asked)
        return [_one(prediction) for prediction in found]

    def predictor(self) -> Predictor:
        """The model, ready to score."""
        if self._predictor is None:
            self._predictor = _load(self.run)
        return self._predictor

    def close(self) -> None:
        self._predictor = None


def _one(prediction: Mapping[str, Any]) -> Graded:
    if "score" not in prediction:
        return Graded(None, f"the reward model cannot read it: {prediction.get('error')}", failed=True)
    return graded(prediction["score"])


def _load(run: str) -> Predictor:
    from exnihilo.infer.predict import Predictor
    from exnihilo.interop.load import load
    from exnihilo.objective import registry
    from exnihilo.parallel import resolve_device

    loaded = load(run, device=resolve_device("auto"))
    saved = loaded.objective or {}
    if saved.get("objective") != "reward_model":
        raise UsageError(
            f"{run} was trained for {saved.get('objective') or 'nothing that is known'}",
            expected="a run of the recipe reward_model",
            next="exnihilo train reward_model init=RUN data=pairs.jsonl",
        )
    objective = registry.create(
        "reward_model",
        saved.get("options") or {},
        length=saved.get("length") or loaded.model.config.context,
        facts=saved.get("facts") or {},
    )
    return Predictor(loaded.model, loaded.codec, objective)


def make(name: str, argument: str) -> Checker:
    """``reward_model:RUN``; the run is looked into now, so that a wrong path is known before training."""
    if not argument or not Path(argument).is_dir():
        raise UsageError(
            f"grader {name}:{argument}: there is no such folder"
            if argument
            else f"grader {name} without a run",
            expected="reward_model:RUN, the folder of a reward model",
            next="exnihilo train reward_model init=RUN data=pairs.jsonl",
        )
    made = RewardModel(argument)
    made.predictor()
    return made
