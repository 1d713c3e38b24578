"""Recipe ``rlvr``: reinforcement learning with verifiable rewards, from prompts and a grader.

``exnihilo train rlvr init=runs/sft data=tasks.jsonl grader=number``. The field's defaults: no KL, advantage r
− mean of the group, clip 0.2 / 0.28, Σ over tokens / tokens of the whole batch, temperature 1, a constant low
rate (Shao et al. 2024, arXiv:2402.03300; Yu et al. 2025, arXiv:2503.14476; Liu et al. 2025,
arXiv:2503.20783).
"""

from __future__ import annotations

from exnihilo.config import RolloutConfig, RunConfig, ScheduleConfig
from exnihilo.recipes._post import post


def recipe() -> RunConfig:
    """Policy gradients on graded completions; without ``data=`` it reads the embedded world's tasks, without
    a budget it takes 200 steps."""
    return post(
        "rlvr",
        schedule=ScheduleConfig(name="constant", warmup=0.02),
        rollout=RolloutConfig(prompts=16, group=16),
        grader="exact",
        steps=200,
    )
