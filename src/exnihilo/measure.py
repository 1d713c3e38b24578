"""Evaluation of a finished or unfinished run on data of choice: the same path as evaluation in the loop."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo.config import DataConfig, RunConfig
from exnihilo.errors import UsageError

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.data import Splits
    from exnihilo.log import Progress
    from exnihilo.objective.base import Objective

MICRO_TOKENS = 16_384  # of one forward; changes speed and memory, never the figures


def prepare_for(config: RunConfig, progress: Progress, codec: Codec | None = None) -> tuple[Codec, Splits]:
    """The tokenizer (trained or read) and the data sets of a configuration, through the same cache as
    training."""
    from exnihilo import codec as codecs
    from exnihilo.data import texts
    from exnihilo.objective import registry

    if codec is None:
        limit = int(config.codec.sample_mb * 1e6)
        codec = codecs.train(config.codec, texts(config.data, limit_bytes=limit), progress)
    return codec, _splits(config, registry.create(config.objective, config.options), codec, progress)


def _splits(config: RunConfig, objective: Objective, codec: Codec, progress: Progress) -> Splits:
    from exnihilo.data import prepare
    from exnihilo.train.setup import digest

    return prepare(
        config.data,
        config.val,
        encode=partial(objective.encode_many, codec=codec),
        key=digest({"objective": config.objective, "options": config.options, "codec": codec.hash}),
        context=config.model.context,
        seed=config.seed,
        progress=progress,
    )


def evaluate_run(
    run: Path, *, data: Any, max_tokens: int | None, device: str, dtype: str, progress: bool
) -> dict[str, Any]:
    """Loss, bits per byte, tokens and the loss of each source of a run.

    Raises:
        UsageError: no data is given and the folder names none, or it holds no validation split.
    """
    from exnihilo.config_layers import load as merge
    from exnihilo.config_layers import load_toml
    from exnihilo.eval import evaluate
    from exnihilo.interop.load import load
    from exnihilo.objective import registry
    from exnihilo.train.progress import shown

    loaded = load(run, device=device)
    root = next((folder for folder in (run, run.parent.parent) if (folder / "config.toml").is_file()), None)
    config = load_toml(root / "config.toml") if root is not None else RunConfig()
    split = "validation"
    if data is not None:
        split = "given"
        given = merge("gpt", settings={"data": data})[0].data
        kept = config.data.model_copy(update={"sources": given.sources, "val_fraction": 0.0})
        # a whole table says more than a path: then nothing of the run's own reading is kept
        chosen = (
            given.model_copy(update={"val_fraction": 0.0}) if isinstance(data, (dict, DataConfig)) else kept
        )
        config = config.model_copy(update={"data": chosen, "val": None})
    elif root is None:
        raise UsageError(
            f"{run} has no config.toml that names its data",
            expected="data=PATH",
            next=f"exnihilo eval {run} data=PATH",
        )
    config = config.model_copy(update={"model": loaded.model.config})
    objective = registry.create(config.objective, config.options)
    with shown(progress) as display:
        splits = _splits(config, objective, loaded.codec, display)
        dataset = splits.train if data is not None else splits.val
        if dataset is None:
            raise UsageError(
                f"{run} was trained without a validation split",
                expected="data=PATH",
                next="give held-out data",
            )
        display.start("evaluate", unit="tokens")
        figures = evaluate(
            loaded.model,
            objective,
            dataset,
            device=device,
            dtype=dtype,
            micro_rows=max(1, MICRO_TOKENS // dataset.context),
            max_tokens=max_tokens,
            token_bytes=loaded.codec.token_bytes(),
        )
        display.advance(figures["tokens"])
        display.stop()
    return {"run": str(run), "weights": str(loaded.path), "split": split, **figures}
