"""What the downstream recipes share: BERT's way of fine-tuning (Devlin et al. 2018, arXiv:1810.04805).

AdamW, a short warm-up, then linear decay to nothing. The learning rate is open: low where weights are given
(``init=``), higher from random ones (`optim.create.peak_lr`).
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


def tuning(name: str, *, epochs: float, tokens: int = 2048, context: int = 128, **values: Any) -> RunConfig:
    """The recipe of a downstream objective.

    Args:
        name: of the recipe, and of its objective.
        epochs: the budget where none is given.
        tokens: of a step.
        context: positions of a row, without ``init=``.
    """
    return RunConfig(
        recipe=name,
        objective=name,
        data=DataConfig(sources=(SourceConfig(path="world"),)),
        codec=CodecConfig(kind="wordpiece", vocab_size=8192, lowercase=True),
        model=ModelConfig(preset="bert-mini", context=context, dropout=0.1),
        optim=OptimConfig(
            name="adamw",
            betas=(0.9, 0.999),
            weight_decay=0.01,
            schedule=ScheduleConfig(name="linear", warmup=0.1),
        ),
        batch=BatchConfig(tokens=tokens),
        epochs=epochs,
        **values,
    )
