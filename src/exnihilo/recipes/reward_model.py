"""Recipe ``reward_model``: a number for each reply, higher for the better of two, from pairs.

``exnihilo train reward_model init=runs/sft data=pairs.jsonl``. The trunk is a decoder's or an encoder's; the
result serves as a grader, ``grader=reward_model:RUN`` (Ouyang et al. 2022, arXiv:2203.02155).
"""

from __future__ import annotations

from exnihilo.config import RunConfig, ScheduleConfig
from exnihilo.recipes._post import post


def recipe() -> RunConfig:
    """Bradley-Terry; without ``data=`` it reads the embedded world, without a budget it takes 1 epoch."""
    return post("reward_model", schedule=ScheduleConfig(name="linear", warmup=0.1), epochs=1)
