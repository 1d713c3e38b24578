"""What the recipes of sounds share: marks instead of a tokenizer, a small encoder with rotary positions."""

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

AUGMENT = {
    "shift": 0.05,
    "noise": 0.3,
    "time_masks": 1,
    "time_mask": 5,
    "freq_masks": 1,
    "freq_mask": 10,
}
"""What a small set of short sounds needs so that it is not learnt by heart; little, because half a second
bears little."""


def hearing(
    name: str, *, augment: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **values: Any
) -> RunConfig:
    """The recipe of an objective that hears: an encoder of 4 layers × 128 on the embedded world's sounds.

    Args:
        name: of the recipe, and of its objective.
        augment: of the options.
        options: further ones.
    """
    given: dict[str, Any] = {
        "codec": CodecConfig(kind="marks"),
        "model": ModelConfig(family="modernbert", depth=4, width=128, heads=4, context=256),
        "optim": OptimConfig(name="muon", schedule=ScheduleConfig(name="linear", warmup=0.05)),
        "batch": BatchConfig(tokens=512),  # many small steps: sets of sounds are small
        **values,
    }
    return RunConfig(
        recipe=name,
        objective=name,
        options={**(options or {}), **({"augment": augment} if augment else {})},
        data=DataConfig(sources=(SourceConfig(path="world"),)),
        **given,
    )
