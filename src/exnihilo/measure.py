"""Evaluation of a finished or unfinished run on data of choice: the same path as evaluation in the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo.config import DataConfig, RunConfig
from exnihilo.errors import UsageError

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.data import Splits
    from exnihilo.interop.load import Loaded
    from exnihilo.log import Progress
    from exnihilo.objective.base import Objective

MICRO_TOKENS = 16_384  # of one forward; changes speed and memory, never the figures


def prepare_for(config: RunConfig, progress: Progress, codec: Codec | None = None) -> tuple[Codec, Splits]:
    """The tokenizer (trained or read) and the data sets of a configuration, through the same cache as
    training."""
    from exnihilo import codec as codecs
    from exnihilo.objective import registry
    from exnihilo.train import facts

    if codec is None:
        read = facts.texts(config, registry.create(config.objective, config.options))
        codec = codecs.train(config.codec, read, progress)
    return codec, _splits(config, surveyed(config), codec, progress)


def surveyed(config: RunConfig) -> Objective:
    """The configuration's objective, with what it learns from the training split."""
    from exnihilo.data import examples
    from exnihilo.train import facts

    objective = facts.create(config, length=config.model.context)
    if facts.surveys(objective):
        found = examples(config.data, config.val, "train", **facts.reading(objective))
        objective.facts = dict(objective.survey(found))
    return objective


def _splits(config: RunConfig, objective: Objective, codec: Codec, progress: Progress) -> Splits:
    from exnihilo.data import prepare
    from exnihilo.train import facts
    from exnihilo.train.setup import digest

    identity: dict[str, Any] = {"objective": config.objective, "options": config.options}
    if objective.supervised or objective.facts:
        identity.update(facts=objective.facts)
    if not objective.joins:
        identity.update(length=objective.length)
    return prepare(
        config.data,
        config.val,
        encode=partial(objective.encode_many, codec=codec),
        key=digest({**identity, "codec": codec.hash}),
        context=objective.row or config.model.context,
        seed=config.seed,
        progress=progress,
        pad_id=codec.pad_id,
        **facts.laying(objective),
    )


def evaluate_run(
    run: Path,
    *,
    data: Any,
    max_tokens: int | None,
    device: str,
    dtype: str,
    progress: bool,
    overrides: Sequence[str] = (),
    max_examples: int | None = None,
    replies: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A run on its own validation split or on other data: the metrics of its task beside the majority
    baseline's; or loss, bits per byte, tokens and the loss of each source; or what its replies are worth.

    Args:
        overrides: ``KEY=VALUE`` texts under ``data``.
        replies: where replies are graded: the grader, and how they are drawn (`predictions.replies`).

    Raises:
        UsageError: no data is given and the folder names none, or it holds no validation split; a limit that
            has no meaning for this run.
    """
    from exnihilo.config_layers import load_toml
    from exnihilo.predictions import load_run, objective_of
    from exnihilo.train import facts

    loaded = load_run(run, device=device)
    root = next((folder for folder in (run, run.parent.parent) if (folder / "config.toml").is_file()), None)
    config = load_toml(root / "config.toml") if root is not None else RunConfig()
    given = data is not None or any(text.split("=")[0] in ("data", "data.sources") for text in overrides)
    if not given and root is None:
        raise UsageError(
            f"{run} has no config.toml that names its data",
            expected="data=PATH",
            next=f"exnihilo eval {run} data=PATH",
        )
    config = _chosen(config, data, overrides, given)
    config = config.model_copy(update={"model": loaded.model.config})
    head = {"run": str(run), "weights": str(loaded.path), "split": "given" if given else "validation"}
    if replies is not None:
        from exnihilo.predictions.replies import graded

        if max_tokens is not None:
            raise UsageError(
                "max_tokens with a grader",
                expected="max_new_tokens=N, max_examples=N",
                next="leave max_tokens out",
            )
        side = "train" if given else "val"
        return {**head, **graded(loaded, config, side, max_examples, progress, **replies)}
    objective = (
        objective_of(loaded)
        if loaded.objective is not None
        else facts.create(config, length=loaded.model.config.context)
    )
    if objective.supervised:
        if max_tokens is not None:
            raise UsageError("max_tokens on a task", expected="max_examples=N", next="leave max_tokens out")
        return {**head, **_task(loaded, objective, config, given, max_examples, dtype, progress)}
    if max_examples is not None:
        raise UsageError("max_examples on a loss", expected="max_tokens=N", next="leave max_examples out")
    return {**head, **_loss(loaded, objective, config, given, max_tokens, dtype, progress)}


def _chosen(config: RunConfig, data: Any, overrides: Sequence[str], given: bool) -> RunConfig:
    """The run's configuration with the data that is to be read."""
    from exnihilo.config_layers import load as merge

    if data is None and not overrides:
        return config
    settings = {} if data is None else {"data": data}
    found, origins = merge("gpt", overrides, settings=settings)
    if isinstance(data, (dict, DataConfig)):  # a whole table: nothing of the run's own reading is kept
        chosen = found.data
    else:
        keys = {path.split(".")[1] for path, origin in origins.items()
                if path.startswith("data.") and origin in ("command line", "python")}  # fmt: skip
        chosen = config.data.model_copy(update={key: getattr(found.data, key) for key in sorted(keys)})
        if given and "fields" not in keys:
            chosen = chosen.model_copy(update={"fields": config.data.fields})
    if given:
        chosen = chosen.model_copy(update={"val_fraction": 0.0})
    return config.model_copy(update={"data": chosen, "val": None if given else config.val})


def _task(
    loaded: Loaded,
    objective: Objective,
    config: RunConfig,
    given: bool,
    max_examples: int | None,
    dtype: str,
    progress: bool,
) -> dict[str, Any]:
    """Metrics of a supervised run."""
    from exnihilo import log
    from exnihilo.data import examples
    from exnihilo.data.base import Drops
    from exnihilo.eval.examples import evaluate_examples
    from exnihilo.train import facts
    from exnihilo.train.progress import shown

    drops = Drops()
    side = "train" if given else "val"
    found = examples(config.data, config.val, side, drops=drops, **facts.reading(objective))
    with shown(progress) as display:
        display.start("evaluate", unit="examples")
        figures, _ = evaluate_examples(
            loaded.model,
            objective,
            loaded.codec,
            found,
            device=next(loaded.model.parameters()).device,
            dtype=dtype,
            max_examples=max_examples,
            progress=display,
        )
        display.stop()
        if drops.counts:
            log.warn(drops.summary("data: "))
    return {**figures, "dropped": float(drops.counts.total())}


def _loss(
    loaded: Loaded,
    objective: Objective,
    config: RunConfig,
    given: bool,
    max_tokens: int | None,
    dtype: str,
    progress: bool,
) -> dict[str, Any]:
    """Loss, bits per byte, tokens and the loss of each source."""
    from exnihilo.eval import evaluate
    from exnihilo.train.progress import shown

    with shown(progress) as display:
        splits = _splits(config, objective, loaded.codec, display)
        dataset = splits.train if given else splits.val
        if dataset is None:
            raise UsageError(
                f"{config.recipe}: the run was trained without a validation split",
                expected="data=PATH",
                next="give held-out data",
            )
        display.start("evaluate", unit="tokens")
        figures = evaluate(
            loaded.model,
            objective,
            dataset,
            device=next(loaded.model.parameters()).device,
            dtype=dtype,
            micro_rows=max(1, MICRO_TOKENS // dataset.context),
            max_tokens=max_tokens,
            token_bytes=loaded.codec.token_bytes(),
            codec=loaded.codec,
        )
        display.advance(figures["tokens"])
        display.stop()
    return figures
