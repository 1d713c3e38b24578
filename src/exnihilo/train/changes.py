"""Resuming with another configuration: what changed, what that means, and whether it is allowed.

Four kinds of keys:

- *free*: they change how the work is done or watched, never what is learnt (``eval.*``, ``checkpoint.*``,
  workers);
- *rounding*: the same sums in another order (``device``, ``threads``, ``compile`` ...): allowed, no longer
  bit for bit;
- *budget*: ``steps``, ``tokens``, ``epochs``, ``minutes``: allowed, with a word on the schedule;
- everything else would make it another run: refused unless forced; shapes and tokenizer even then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.errors import ConfigError

FREE = (
    "run", "recipe", "eval.", "checkpoint.", "val", "data.workers", "parallel.mode", "control.", "alarms.",
    "rollout.slots", "rollout.keep", "rollout.url", "rollout.folder",
)  # fmt: skip
ROUNDING = ("device", "threads", "compile", "batch.micro_tokens", "checkpointing")
BUDGET = ("steps", "tokens", "epochs", "minutes")
NEVER = ("model.", "codec.", "objective", "init", "tune.lora")  # another model, another meaning of ids
SOFT = ("model.dropout",)  # in a NEVER section, but no part of the shape


@dataclass(frozen=True)
class Change:
    """One key whose value differs from the stored one."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.old!r} -> {self.new!r}"


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Key paths and values of a configuration; lists (the sources) are single values."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, value


def given(config: RunConfig, origins: Mapping[str, str] | None) -> set[str]:
    """Keys that the user set, rather than defaults and recipes.

    Without `origins` (the Python API with a `RunConfig`) they are the fields that were set explicitly.
    """
    if origins is not None:
        return {k for k, origin in origins.items() if not origin.startswith(("default", "recipe"))}
    return set(_set_fields(config, ""))


def _set_fields(section: BaseModel, prefix: str) -> Iterator[str]:
    for name in section.model_fields_set:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _set_fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _among(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(name if name.endswith(".") else name + ".") for name in names)


def compare(stored: Mapping[str, Any], config: RunConfig, origins: Mapping[str, str] | None) -> list[Change]:
    """What the user gave that differs from what the run was started with."""
    old, new = dict(leaves(stored)), dict(leaves(config))
    wanted = given(config, origins)
    if origins is None and stored.get("init") is not None:
        wanted = {key for key in wanted if not key.startswith("model.")}  # the shape was that of `init`
    out = []
    for key in sorted(new):
        if not any(key == name or key.startswith(name + ".") for name in wanted):
            continue
        before = old.get(key)
        if new[key] != before and key != "run":
            if new[key] in ("auto", None) and before is not None and _derived(key):
                continue  # left open again: what was derived stays
            out.append(Change(key, before, new[key]))
    return out


def _derived(key: str) -> bool:
    """Whether a key left open means "derive it" rather than "switch it off"."""
    return key not in ("optim.clip", "ema", *BUDGET)


def check(changes: list[Change], *, force: bool) -> None:
    """Say what changed; refuse what would make it another run.

    Raises:
        ConfigError: such a change without `force`, or one that no force can make.
    """
    never = [c for c in changes if _among(c.key, NEVER) and c.key not in SOFT]
    if never:
        raise ConfigError(
            "resume with a changed configuration: " + "; ".join(map(str, never)),
            expected="the same model, tokenizer and objective: the checkpoint's tensors fit no other",
            next="leave these out to go on, or start a new run=DIR (init=OLD_RUN takes its weights)",
        )
    blocked = [c for c in changes if not _among(c.key, FREE + ROUNDING + BUDGET)]
    if blocked and not force:
        raise ConfigError(
            "resume with a changed configuration: " + "; ".join(map(str, blocked)),
            expected="the configuration that the run was started with (config.toml in its folder)",
            next="leave these out to go on as before, or add --force to go on with the change",
        )
    for change in changes:
        note = ""
        if _among(change.key, ROUNDING):
            note = " (from here on the same up to rounding, no longer bit for bit)"
        elif _among(change.key, BUDGET):
            note = ""  # the loop says what it means for the schedule
        elif change in blocked:
            note = " (forced: from here on this is another run)"
        log.say(f"resume: {change}{note}")


def apply(stored: Mapping[str, Any], changes: list[Change]) -> RunConfig:
    """The stored configuration with the allowed changes made."""
    tree: dict[str, Any] = _copy(stored)
    for change in changes:
        node = tree
        *above, last = change.key.split(".")
        for name in above:
            node[name] = dict(node.get(name) or {})
            node = node[name]
        node[last] = change.new
    return RunConfig.model_validate(tree)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value
