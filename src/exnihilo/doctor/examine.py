"""The examination: read the data as training would, encode it, look for what would silently go wrong.

::

    diagnosis = diagnose(config)

Nothing is trained and nothing is written but the data room's cache of splits. What is said comes from the
same functions that training calls: `data.examples`, `Objective.survey`, `encode_many`, `draw`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from exnihilo import codec as codecs
from exnihilo import data as datas
from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.data.base import Drops, Example, Item
from exnihilo.data.example import readable, size_of
from exnihilo.doctor import checks, encoded, views
from exnihilo.doctor.report import Diagnosis, share
from exnihilo.errors import CodecError, ConfigError, DataError, ModelError
from exnihilo.objective.base import Objective
from exnihilo.train import facts

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

LIMITS = {True: (20_000, 5_000), False: (5_000, 500)}  # examples read of train and val: supervised, others
CHARACTERS = {"train": 10_000_000, "val": 2_000_000}
_CODEC_MB = 2.0  # of text that a tokenizer is trained on here
_AT_ONCE = 256


@dataclass
class Side:
    """One split, as far as it was read."""

    name: Literal["train", "val"]
    examples: list[Example] = field(default_factory=list)
    whole: bool = True  # it was read to its end
    items: list[list[Item]] = field(default_factory=list)  # of each example
    refused: Counter[str] = field(default_factory=Counter)  # why the objective could not encode some
    first_refused: dict[str, str] = field(default_factory=dict)


def diagnose(config: RunConfig, *, max_examples: int | None = None, samples: int = 3) -> Diagnosis:
    """Examine what a configuration would train on.

    Args:
        config: as for training; neither a budget nor a device matters.
        max_examples: of each split; default 20,000 and 5,000 of a task, 5,000 and 500 documents.
        samples: how many examples are shown.

    Raises:
        ConfigError: settings that cannot be. What is wrong with the data is a finding, not an error.
    """
    made = Diagnosis(config.recipe, config.objective)
    if not config.data.sources:
        raise ConfigError(
            "no data is given",
            expected="data=PATH: a file, folder, glob, -, world or hub:owner/name",
            next=f"exnihilo doctor {config.recipe} data=PATH",
        )
    config = config.model_copy(update={"data": datas.settle(config.data)})
    init = _init(config, made)
    context = config.model.context
    if init is not None:
        context = min(context, init.model.config.context)
        if context != config.model.context:
            made.found("note", f"rows of {context} positions: what init={config.init} has")
    objective = facts.create(config, length=context)
    if objective.needs == "rollout":  # its examples are prompts: what it learns from is drawn from the model
        from exnihilo.doctor import rl

        _sources(config, objective, made)
        return rl.examine(config, objective, made, max_examples=max_examples, samples=samples)
    most, few = (max_examples,) * 2 if max_examples else LIMITS[objective.supervised]
    try:
        _sources(config, objective, made)
        train = _read(config, objective, "train", most, made)
        val = _read(config, objective, "val", few, made)
        if not train.examples:
            raise DataError("the training split has no examples", next="check data=PATH")
    except DataError as error:
        made.found("broken", error.given, "; ".join(filter(None, (error.expected, error.next))))
        return made
    if not _survey(objective, train, made):
        checks.examples(objective, train, val, made)
        return made
    codec = init.codec if init is not None else _codec(config, train, made)
    checks.examples(objective, train, val, made)
    if codec is None:
        return made
    for side in (train, val):
        _encode(objective, codec, side, made)
    if any(train.items):
        encoded.look(objective, codec, train, context, made)
        _samples(objective, codec, train, config, samples, made)
    else:
        made.found("broken", "not one training example could be encoded", "see the reasons above")
    return made


def _init(config: RunConfig, made: Diagnosis) -> Any:
    if config.init is None:
        return None
    from exnihilo.interop.load import load

    loaded = load(config.init)
    made.facts["init"] = f"{config.init} ({loaded.model.config.family}, {loaded.codec.vocab_size:,} ids)"
    return loaded


def _sources(config: RunConfig, objective: Objective, made: Diagnosis) -> None:
    """What each source was taken for."""
    reading = facts.reading(objective)
    for name, part in (("data", config.data), ("val", config.val)):
        if part is None:
            continue
        opened = datas.open_sources(datas.inherit(part, config.data) if name == "val" else part, **reading)
        for source in opened:
            says = [source.path]
            if source.kind != "files":
                says.append(source.kind)
            if kind := getattr(source, "format", ""):
                says.append(f"read as {kind}")
            if len(source.names) > 1:
                says.append(f"{len(source.names)} files")
            says += [f"{role} = column {column!r}" for role, column in source.fields.items()]
            says += [f"left out {n} {reason}" for reason, n in source.skipped.items()]
            key = name if len(opened) == 1 else f"{name} {source.name}"
            made.facts[key] = "; ".join(says)


def _read(
    config: RunConfig, objective: Objective, name: Literal["train", "val"], limit: int, made: Diagnosis
) -> Side:
    side, drops, size = Side(name), Drops(), 0
    for example in datas.examples(config.data, config.val, name, drops=drops, **facts.reading(objective)):
        if len(side.examples) >= limit or size >= CHARACTERS[name]:
            side.whole = False
            break
        side.examples.append(example)
        size += size_of(example)
    more = "" if side.whole else " (the first; the rest was not read)"
    made.facts[f"{name} examples"] = f"{len(side.examples):,}{more}"
    if drops.counts:
        made.facts[f"{name} skipped"] = drops.summary().removeprefix("skipped ")
        if name == "train" or config.val is not None:
            made.found(
                "warning",
                f"{drops.counts.total():,} records are left out: {drops.summary()}",
                "correct them, or leave it so: nothing else is lost",
            )
    if name == "val" and not side.examples:
        made.found(
            "warning",
            "there is no validation split: no evaluation, no calibration, no best checkpoint",
            "val=PATH, or data.val_fraction above 0",
        )
    return side


def _survey(objective: Objective, train: Side, made: Diagnosis) -> bool:
    """The objective's facts; False where it refuses the data."""
    if not facts.surveys(objective):
        return True
    try:
        with log.listen(lambda text: _warned(text, made)):
            objective.facts = dict(objective.survey(train.examples))
    except DataError as error:
        made.found("broken", error.given, error.next or error.expected)
        return False
    return True


def _warned(text: str, made: Diagnosis) -> None:
    """What a survey warns of; what else it says stands in the tables."""
    if text.startswith("warning: "):
        made.found("warning", text.removeprefix("warning: "))


def _codec(config: RunConfig, train: Side, made: Diagnosis) -> Codec | None:
    """The tokenizer that is named, else one that is trained quickly on what was read."""
    try:
        if config.codec.path is not None:
            made.facts["tokenizer"] = f"of {config.codec.path}"
            return codecs.load(config.codec.path)
        quick = config.codec.model_copy(update={"sample_mb": min(_CODEC_MB, config.codec.sample_mb)})
        codec = codecs.train(quick, (readable(example) for example in train.examples))
    except (CodecError, ConfigError, DataError) as error:
        made.found("broken", f"no tokenizer: {error.given}", error.next or error.expected)
        return None
    made.facts["tokenizer"] = (
        f"{config.codec.kind}, {codec.vocab_size:,} ids, trained here on at most {quick.sample_mb:g} MB of "
        f"this data (training would read up to {config.codec.sample_mb:g} MB)"
    )
    return codec


def _encode(objective: Objective, codec: Codec, side: Side, made: Diagnosis) -> None:
    """Items of every example; those that the objective refuses are counted by reason."""
    for at in range(0, len(side.examples), _AT_ONCE):
        part = side.examples[at : at + _AT_ONCE]
        try:
            side.items += objective.encode_many(part, codec)
        except DataError:
            for example in part:
                try:
                    side.items += objective.encode_many([example], codec)
                except DataError as error:
                    side.items.append([])
                    side.refused[error.given] += 1
                    side.first_refused.setdefault(error.given, checks.place(example))
    if side.refused:
        total = side.refused.total()
        reason, _ = side.refused.most_common(1)[0]
        made.found(
            "broken",
            f"{side.name}: {total:,} examples cannot be encoded, and training would stop at the first: "
            f"{reason} ({side.first_refused[reason]})",
            "correct these rows",
        )
    empty = sum(not items for items in side.items) - side.refused.total()
    if empty:
        rows = [checks.place(e) for e, i in zip(side.examples, side.items, strict=True) if not i][:5]
        made.found(
            "warning",
            f"{side.name}: {empty:,} examples ({share(empty, len(side.items))}) give nothing to train on: "
            + "; ".join(rows),
            "correct them; they are skipped",
        )


def _samples(
    objective: Objective, codec: Codec, train: Side, config: RunConfig, count: int, made: Diagnosis
) -> None:
    try:
        views.add(objective, codec, train.examples, train.items, count, config.seed, made)
    except (DataError, ModelError) as error:
        made.found("warning", f"no samples can be shown: {error.given}", error.next)
