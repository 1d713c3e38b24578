"""What the recipes after pretraining share: AdamW at a low rate, derived from the width of the model
(`optim.create.instruct_lr`), a short warm-up, no weight decay.

Rates: for wide models they are the field's (2e-5 at width 2048 for instructions, a tenth of it or less for
preferences and rewards), for the small models that are made here from nothing they are higher; docs/sft.md
has the measurements.
"""

from __future__ import annotations

from typing import Any

from exnihilo.config import (
    BatchConfig,
    CodecConfig,
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    SourceConfig,
)


def post(name: str, *, schedule: ScheduleConfig, tokens: int = 4096, **values: Any) -> RunConfig:
    """The recipe of an objective that goes on from a base model.

    Args:
        name: of the recipe, and of its objective.
        schedule: of the learning rate.
        tokens: of a step.
    """
    return RunConfig(
        recipe=name,
        objective=name,
        data=DataConfig(sources=(SourceConfig(path="world"),)),
        codec=CodecConfig(kind="bpe", vocab_size=4096),
        model=ModelConfig(family="qwen3", depth=6),
        optim=OptimConfig(name="adamw", betas=(0.9, 0.95), weight_decay=0.0, schedule=schedule),
        batch=BatchConfig(tokens=tokens),
        **values,
    )
