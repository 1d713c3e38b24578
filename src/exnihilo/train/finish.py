"""The end of a run: the trained model at the root of its folder, a Hugging Face folder, with its lineage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.interop import hf
from exnihilo.model import build
from exnihilo.objective.base import Objective
from exnihilo.parallel import fsdp
from exnihilo.train import facts, lineage, saving
from exnihilo.train.adapt import Adapters
from exnihilo.train.ema import Ema
from exnihilo.train.state import State

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model
    from exnihilo.parallel.mesh import World


def write(
    run: Path,
    config: RunConfig,
    model: Model,
    objective: Objective,
    codec: Codec,
    *,
    state: State,
    world: World,
    ema: Ema | None,
    adapters: Adapters | None,
) -> None:
    """Write the model: averaged where `ema` is on, adapters merged. All workers must call."""
    if ema is not None:
        fsdp.reshard(model)
        tensors = {name: fsdp.full(t) for name, t in ema.average.items()}
    else:
        tensors = saving.weights(model)
    if adapters is not None:
        tensors = adapters.merged(tensors)

    def save() -> None:
        whole = build(config.model, heads=objective.heads, seed=config.seed)
        saving.put_weights(whole, {**saving.weights(whole), **tensors}, "this run")
        stage = lineage.entry(config, run, lineage.weights_hash(whole), state.step)
        extra = {
            "objective": config.objective,
            "step": state.step,
            "tokens": state.tokens,
            "seed": config.seed,
            lineage.KEY: [*state.lineage, stage],
        }
        trained = facts.to_json(config.objective, objective)
        hf.save(whole, codec, run, extra=extra, objective=trained)
        facts.write(run, config.objective, objective)

    world.first(save)
    saving.say_best(state, run / "checkpoints", used=config.checkpoint.use == "best")
    log.say(f"done: {state.step} steps, {state.tokens:,} tokens; the model is in {run}")
