"""Which stages a chain has, and what each is told.

::

    plan = read(given(["data=books/", "sft=chats.jsonl", "prompts=tasks.jsonl", "grader=number"]))
    [stage.name for stage in plan.stages]        # ['base', 'sft', 'rlvr']
    plan.skipped                                  # {'preference': 'no preference=FILE was given'}

====================  =====================================================================================
setting               goes to
====================  =====================================================================================
data= val=            base (`gpt`); without data= it is skipped, and init= says what to start from
sft=                  sft: dialogues
preference=           preference: pairs
prompts= grader=      rlvr: prompts, and what scores replies; rollout.KEY=, environment=, alarms.KEY= too
model.KEY= codec.KEY= base
minutes=              all: shared out (`SHARES`) among the stages without a budget of their own
seed= device= ...     every stage (`COMMON`)
STAGE.KEY=            that stage: sft.epochs=2, rlvr.optim.lr=1e-5
====================  =====================================================================================

With none of the sources all stages learn from the embedded world.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exnihilo import config_layers
from exnihilo.config import RunConfig
from exnihilo.errors import ConfigError, UsageError, nearest
from exnihilo.recipes.chat import RECIPES, SHARES

NAMES = tuple(RECIPES)
SOURCES = {"data": "base", "sft": "sft", "preference": "preference", "prompts": "rlvr"}
COMMON = (
    "seed",
    "device",
    "dtype",
    "compile",
    "threads",
    "parallel",
    "checkpoint",
    "checkpointing",
    "eval",
    "guard",
)
BASE = ("data", "val", "model", "codec")
RLVR = ("prompts", "grader", "rollout", "environment", "alarms")
EACH = (
    "steps",
    "tokens",
    "epochs",
    "options",
    "optim",
    "batch",
    "tune",
    "control",
    "reference",
    "ema",
    "objective",
)
WORLD = "world"


@dataclass(frozen=True)
class Stage:
    """One training of a chain.

    Attributes:
        name: of the stage, and of its folder in the run.
        recipe: what it trains by.
        settings: key path -> value, as `config_layers.load` takes them: text is read as on the command line.
    """

    name: str
    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self, run: Path, init: str | None) -> tuple[RunConfig, dict[str, str]]:
        """Its configuration with the origin of each value.

        Args:
            run: the chain's folder.
            init: what it starts from; None: random weights.
        """
        texts = [f"{key}={value}" for key, value in self.settings.items() if isinstance(value, str)]
        values = {key: value for key, value in self.settings.items() if not isinstance(value, str)}
        if init is not None:
            values["init"] = init
        config, origins = config_layers.load(
            self.recipe, texts, settings={**values, "run": str(run / self.name)}
        )
        return config, {key: "command line" if value == "python" else value for key, value in origins.items()}


@dataclass(frozen=True)
class Plan:
    """A chain, read.

    Attributes:
        run: the folder; None: the default name.
        init: what the first stage starts from; None: random weights.
        stages: in order. skipped: the others, with the reason.
        given: all settings as they were given, to go on with.
    """

    run: str | None
    init: str | None
    stages: tuple[Stage, ...]
    skipped: Mapping[str, str]
    given: Mapping[str, Any]


def given(
    overrides: Sequence[str] = (), settings: Mapping[str, Any] | None = None, overlay: Path | None = None
) -> dict[str, Any]:
    """Settings by key path: of an overlay, then of ``KEY=VALUE`` texts, then those of the Python API.

    Raises:
        ConfigError: a key given twice, or an overlay that is not TOML.
    """
    out = {} if overlay is None else dict(_flat(_toml(overlay), ""))
    out.pop("recipe", None)
    seen: dict[str, str] = {}
    for text in overrides:
        key, value = config_layers.split_override(text)
        if seen.setdefault(key, value) != value:
            raise ConfigError(
                f"{key} was given twice: {seen[key]!r} and {value!r}",
                expected="one value",
                next=f"keep one {key}=",
            )
    for key, value in (settings or {}).items():
        out[key.replace("__", ".")] = str(value) if isinstance(value, Path) else value
    return {**out, **seen}


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}", expected="a TOML file of options", next="check it") from error


def _flat(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read(given: Mapping[str, Any]) -> Plan:
    """A chain from its settings by key path (`given`).

    Raises:
        UsageError: nothing to start from, or settings for a stage that has nothing to learn from.
        ConfigError: an unknown key (with the nearest), or one that does not say its stage.
    """
    told: dict[str, dict[str, Any]] = {name: {} for name in NAMES}
    common: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in given.items():
        _place(key, value, told, common, own)
    if not any(_has(told[stage], "data") for stage in NAMES):
        if own.get("init") is None:
            for stage in NAMES:
                told[stage]["data"] = WORLD
        else:
            raise UsageError(
                "train chat with init= and nothing to learn from",
                expected="one or more of data=, sft=, preference=, prompts=",
                next="e.g. sft=chats.jsonl",
            )
    present = [name for name in NAMES if _has(told[name], "data")]
    skipped = {name: _why(name) for name in NAMES if name not in present}
    if "base" in skipped:
        if own.get("init") is None:
            listed = ", ".join(f"{key}=" for key, stage in SOURCES.items() if stage in present)
            raise UsageError(
                f"train chat with {listed} and nothing to start from",
                expected="data=PATH to pretrain on, or init=RUN",
                next="add data=books/ or init=runs/books",
            )
        skipped["base"] = f"no data= was given: it starts from {own['init']}"
    for name in skipped:
        if told[name]:
            key = next(iter(told[name]))
            raise UsageError(
                f"{key} is for the stage {name}, which has nothing to learn from",
                expected=f"{next(k for k, s in SOURCES.items() if s == name)}=PATH beside it",
                next=f"add it, or leave {key} out",
            )
    _share(own.get("minutes"), told, present)
    stages = tuple(Stage(name, RECIPES[name], {**common, **told[name]}) for name in present)
    init = own.get("init")
    return Plan(own.get("run"), init, stages, skipped, dict(given))


def _has(told: Mapping[str, Any], key: str) -> bool:
    return any(name == key or name.startswith(f"{key}.sources") for name in told)


def _why(name: str) -> str:
    return f"no {next(key for key, stage in SOURCES.items() if stage == name)}= was given"


def _place(
    key: str, value: Any, told: dict[str, dict[str, Any]], common: dict[str, Any], own: dict[str, Any]
) -> None:
    """Put one setting where it belongs."""
    head, _, rest = key.partition(".")
    if key in ("run", "init"):
        own[key] = str(value)
    elif key == "minutes":
        own[key] = _minutes(value)
    elif head in NAMES and (rest or head in SOURCES):
        told[head][rest or "data"] = value
    elif head == "prompts":
        told["rlvr"]["data" + (f".{rest}" if rest else "")] = value
    elif head in RLVR:
        told["rlvr"][key] = value
    elif head in BASE:
        told["base"][key] = value
    elif head in COMMON:
        common[key] = value
    elif head in EACH:
        raise ConfigError(
            f"{key} does not say which stage it is for",
            expected=" or ".join(f"{name}.{key}=" for name in NAMES),
            next=f"e.g. sft.{key}={value}",
        )
    else:
        known = ("run", "init", "minutes", *SOURCES, *BASE, *RLVR, *COMMON, *(f"{n}.KEY" for n in NAMES))
        raise ConfigError(
            f"unknown key {key!r}",
            expected=nearest(head, dict.fromkeys(known)),
            next="docs/chat.md has them all",
        )


def _minutes(value: Any) -> float:
    try:
        minutes = float(value)
    except (TypeError, ValueError):
        minutes = 0.0
    if not minutes > 0:
        raise ConfigError(f"minutes={value}", expected="a number above 0", next="minutes=30")
    return minutes


def _share(minutes: float | None, told: dict[str, dict[str, Any]], present: Sequence[str]) -> None:
    """Deal the minutes to the stages that have no budget of their own."""
    if minutes is None:
        return
    free = [name for name in present if not set(told[name]) & set(config_layers.BUDGET)]
    whole = sum(SHARES[name] for name in free)
    for name in free:
        told[name]["minutes"] = round(minutes * SHARES[name] / whole, 4)
