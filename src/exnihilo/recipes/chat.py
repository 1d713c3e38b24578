"""Recipe ``chat``: the whole chain, from random weights to a model that answers: pretraining, instructions,
preferences, rewards.

``exnihilo train chat data=books/ sft=chats.jsonl preference=pairs.jsonl prompts=tasks.jsonl grader=number``.
What is missing is skipped, and said; with ``init=RUN`` it starts there instead of from random weights. Each
stage is a run of its own recipe in ``RUN/STAGE``, with ``STAGE.KEY=VALUE`` for settings of its own.
"""

from __future__ import annotations

from exnihilo.config import RunConfig
from exnihilo.recipes import gpt

RECIPES = {"base": "gpt", "sft": "sft", "preference": "preference", "rlvr": "rlvr"}
"""The stages in order, each with the recipe it is a run of."""

SHARES = {"base": 0.6, "sft": 0.15, "preference": 0.05, "rlvr": 0.2}
"""Of ``minutes=``, where a stage has no budget of its own."""


def recipe() -> RunConfig:
    """The first stage: what `plan` and `doctor` look at."""
    return gpt.recipe().model_copy(update={"recipe": "chat"})
