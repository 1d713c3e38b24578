"""What the recipes of pictures share: marks instead of a tokenizer, a small encoder with 2-D positions."""

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

AUGMENT: dict[str, Any] = {"pad": 1, "brightness": 0.1, "contrast": 0.1}
"""What hurts no kind of picture, in few epochs either: a pixel's shift, other light. A mirrored digit is no
digit: `flip` is off."""


def seeing(
    name: str, *, augment: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **values: Any
) -> RunConfig:
    """The recipe of an objective that sees: an encoder of 4 layers × 128 on the embedded world's pictures.

    Args:
        name: of the recipe, and of its objective.
        augment: of the options.
        options: further ones.
    """
    given: dict[str, Any] = {
        "codec": CodecConfig(kind="marks"),
        # as many positions as the largest picture may take: a model is declared for its own
        "model": ModelConfig(family="modernbert", depth=4, width=128, heads=4, context=1025),
        "optim": OptimConfig(name="muon", schedule=ScheduleConfig(name="linear", warmup=0.05)),
        "batch": BatchConfig(tokens=2048),  # some thirty pictures a step
        **values,
    }
    return RunConfig(
        recipe=name,
        objective=name,
        options={**(options or {}), **({"augment": augment} if augment else {})},
        data=DataConfig(sources=(SourceConfig(path="world"),)),
        **given,
    )
