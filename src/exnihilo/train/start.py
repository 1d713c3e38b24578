"""What a model starts from: its shape, and pure randomness or the weights of ``init=``.

Another head may be put on a pretrained trunk: what both have is carried over, the rest is drawn, and both are
said::

    init: front, trunk and pooler of runs/bert are carried over; new, random: classes; left behind: mlm, next
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from exnihilo import log
from exnihilo.config import ModelConfig, RunConfig
from exnihilo.errors import CodecError, ConfigError, ModelError
from exnihilo.interop.load import load as load_trained
from exnihilo.model import build, resolve
from exnihilo.model.family import find, names
from exnihilo.objective import registry
from exnihilo.objective.base import Objective
from exnihilo.train.changes import given
from exnihilo.train.checkpoint import sha256

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model
    from exnihilo.parallel.mesh import World

POSITIONS = "front.positions.weight"
TRUNK = ("front.", "trunk.")  # what must be carried over whole
USES = ("rope_theta", "yarn", "window", "global_every")  # of the same weights
INPUTS = "front.inputs."  # but what reads sounds or pictures may be new to a model of texts


def check_family(family: str, config: RunConfig) -> None:
    """Refuses a decoder with an encoder's heads: no format there is has a place for them.

    Raises:
        ConfigError: the objective reads heads that a model of this family cannot be saved with.
    """
    heads = registry.create(config.objective, config.options).heads
    if find(family).encoder or set(heads) <= {"tokens", "value"}:
        return
    text = config.codec.kind not in ("marks", "waves")  # families of sounds have no tokenizer
    encoders = [name for name in names() if find(name).encoder and not (text and find(name).marks)]
    raise ConfigError(
        f"objective {config.objective} reads {_listed(sorted(heads))}, model.family={family} is a decoder",
        expected=f"a family that has such heads: {', '.join(encoders)}",
        next="init=RUN of such a model" if config.init is not None else f"model.family={encoders[0]}",
    )


def read_init(config: RunConfig) -> tuple[Any, dict[str, str]]:
    """What ``init=`` names: (model, codec and objective, where they come from)."""
    assert config.init is not None
    loaded = load_trained(config.init)
    check_family(loaded.model.config.family, config)
    source = loaded.path / "model.safetensors"
    parent = {"path": str(config.init), "weights": str(source)}
    if source.is_file():
        parent["sha256"] = sha256(source)
    return loaded, parent


def model_config(
    config: RunConfig, codec: Codec, init: ModelConfig | None, origins: Mapping[str, str] | None
) -> ModelConfig:
    """The model's shape with nothing open: from the dial, or that of `init`, whose shape settings cannot
    contradict.

    ``dropout`` may be changed always, by a recipe too. ``context`` may be changed for rotary models, and made
    smaller for learned positions. ``rope_theta``, ``yarn``, ``window`` and ``global_every`` say how the same
    weights are used, and may be changed as well.
    """
    if init is None:
        return resolve(config.model, codec.vocab_size)
    if codec.vocab_size > (init.vocab_size or 0):
        raise CodecError(
            f"the tokenizer has {codec.vocab_size} ids, "
            f"the model of init={config.init} has {init.vocab_size}",
            expected="the tokenizer that the weights were trained with",
            next="leave codec.path out",
        )
    wanted = {k.split(".")[1] for k in given(config, origins) if k.startswith("model.")}
    if (origins or {}).get("model.dropout", "default") != "default":
        wanted.add("dropout")
    changed: dict[str, Any] = {}
    for name in sorted(wanted - {"outputs", "labels", "crf", "compares", "inputs"}):
        new, old = getattr(config.model, name), getattr(init, name)
        if new is None or new == old:
            continue
        learned = find(init.family).positions == "learned"
        if name == "yarn" and new.original is None:
            new = new.model_copy(update={"original": init.yarn.original if init.yarn else init.context})
        if name in USES or name == "dropout" or (name == "context" and (not learned or int(new) < int(old))):
            changed[name] = new
        elif origins is not None:  # without origins a recipe's own values cannot be told from the user's
            raise ModelError(
                f"model.{name}={new}, but the model of init={config.init} has {old}",
                expected="the shape of the weights that are taken",
                next=f"leave model.{name} out",
            )
    return resolve(init.model_copy(update=changed), codec.vocab_size)


def make_model(
    config: RunConfig,
    objective: Objective,
    world: World,
    init: Model | None,
    known: Mapping[str, Any] | None = None,
) -> Model:
    """The model on its device: random, or with what `init` has of it.

    Args:
        known: the objective of `init`, as its ``objective.json`` says; tells what its labels mean.
    """
    holds = find(config.model.family).holds
    if holds is not None and dict(config.model.inputs) != dict(holds):
        raise ConfigError(
            f"model.family={config.model.family} with inputs {dict(config.model.inputs) or 'none'}",
            expected=f"inputs {dict(holds)}: nothing else has a place in its folders",
            next="options.frames=ast for family ast, or another family",
        )
    reads = find(config.model.family).reads
    if reads and set(config.model.inputs) != {reads}:
        raise ConfigError(
            f"model.family={config.model.family} with inputs {dict(config.model.inputs) or 'none'}",
            expected=f"an objective whose positions hold a {reads}: nothing else has a place in its folders",
            next="another family",
        )
    model = build(config.model, heads=objective.heads, seed=config.seed, device=world.device)
    if init is not None:
        carry_over(model, init, str(config.init), fresh=relabelled(objective, known))
    return model


def relabelled(objective: Objective, known: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Heads whose outputs mean something else than they did: those of labels, unless these are the same."""
    if objective.labels is None:
        return ()
    facts = (known or {}).get("facts") or {}
    before = facts.get("labels", facts.get("outputs"))
    same = before is not None and before == objective.facts.get("labels", objective.facts.get("outputs"))
    return () if same else ("classes", "tags")


@torch.no_grad()
def carry_over(model: Model, init: Model, where: str, *, fresh: Iterable[str] = ()) -> list[str]:
    """Copy into `model` what `init` has of it; returns the names of the parts that are new.

    Args:
        fresh: heads that stay random although `init` has them.

    Raises:
        ModelError: the front end or the trunk are not those of `init`.
    """
    own, have = dict(model.named_parameters()), dict(init.named_parameters())
    taken: set[str] = set()
    new: set[str] = set()
    left_random = {f"heads.{name}." for name in fresh}
    for name, p in own.items():
        source = None if any(name.startswith(head) for head in left_random) else have.get(name)
        if source is not None and name == POSITIONS and source.shape[0] > p.shape[0]:
            source = source[: p.shape[0]]
        if source is not None and source.shape == p.shape:
            p.copy_(source.to(p.device))
            taken.add(_part(name))
        elif name.startswith(TRUNK) and not (name.startswith(INPUTS) and source is None):
            was = "nothing" if source is None else f"shape {tuple(source.shape)}"
            raise ModelError(
                f"init={where} has {was} for {name} of shape {tuple(p.shape)}",
                expected="the same front end and trunk",
                next="the options that it was trained with (patch, channels, mels ...)"
                if name.startswith(INPUTS)
                else "leave the settings of the model's shape out",
            )
        else:
            new.add(_part(name))
    if new or {_part(name) for name in have} - taken:
        behind = sorted({_part(name) for name in have} - taken - new)
        text = f"init: {_listed(sorted(taken))} of {where} carried over"
        text += f"; new, random: {_listed(sorted(new))}" if new else ""
        log.say(text + (f"; left behind: {_listed(behind)}" if behind else ""))
    return sorted(new)


def _part(name: str) -> str:
    """``heads.mlm.bias`` -> ``mlm``; ``trunk.norm.weight`` -> ``trunk``."""
    first, _, rest = name.partition(".")
    if name.startswith(INPUTS):
        return f"input {name.removeprefix(INPUTS).split('.')[0]}"
    return rest.split(".")[0] if first == "heads" else first


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)
