"""Recipe ``preference``: a tuned model learns which of two replies is better, from pairs.

``exnihilo train preference init=runs/sft data=pairs.jsonl``. The reference is the model that is started from
(``reference=init``); rates are low, and one epoch is enough (Rafailov et al. 2023, arXiv:2305.18290). The
loss is ``rpo``, DPO's with the chosen replies' likelihood: differences alone can make both replies unlikely
(docs/preference.md has the measurement). ``options.loss=dpo`` is without.
"""

from __future__ import annotations

from exnihilo.config import RunConfig, ScheduleConfig
from exnihilo.recipes._post import post


def recipe() -> RunConfig:
    """Preference tuning; without ``data=`` it reads the embedded world, without a budget it takes 1 epoch."""
    return post(
        "preference", options={"loss": "rpo"}, schedule=ScheduleConfig(name="linear", warmup=0.1), epochs=1
    )
