"""Every size of a model from one dial.

``depth`` alone gives a balanced decoder: width = 64 × depth, heads of 64 (of 32 or less in narrow models), as
many key-value heads as heads, the family's MLP ratio. Each derived value can be set instead; values that
contradict each other are refused with both numbers. A preset gives the sizes of a known model, BERT's (Devlin
et al. 2018, arXiv 1810.04805) and its small ones (Turc et al. 2019, arXiv 1908.08962); what is set beside it
wins.
"""

from __future__ import annotations

import math
from typing import Any

from exnihilo.config import ModelConfig, YarnConfig
from exnihilo.errors import ConfigError, nearest
from exnihilo.model.family import Family, find, names

WIDTH_PER_LAYER = 64
HEAD_DIM = 64
_SIZES = ("depth", "width", "heads")
PRESETS: dict[str, dict[str, Any]] = {
    name: {"family": "bert", **dict(zip(_SIZES, sizes, strict=True))}
    for name, sizes in {
        "bert-tiny": (2, 128, 2),
        "bert-mini": (4, 256, 4),
        "bert-small": (4, 512, 8),
        "bert-medium": (8, 512, 8),
        "bert-base": (12, 768, 12),
        "bert-large": (24, 1024, 16),
    }.items()
}


def resolve(config: ModelConfig, vocab_size: int | None = None) -> ModelConfig:
    """The configuration with nothing left open, checked.

    Args:
        config: what was set.
        vocab_size: ids of the codec. A larger ``config.vocab_size`` is kept (padding to a round number); a
            smaller one is refused.

    >>> full = resolve(ModelConfig(depth=4), 4096)
    >>> full.width, full.heads, full.head_dim, full.mlp_width
    (256, 4, 64, 704)
    """
    config = _preset(config)
    family = find(config.family)
    vocab = _vocab(config.vocab_size, vocab_size)
    width, heads, head_dim = _heads(config, family)
    kv_heads = config.kv_heads or heads
    if heads % kv_heads:
        raise ConfigError(
            f"model.heads={heads} is not a multiple of model.kv_heads={kv_heads}",
            expected="kv_heads that divides heads",
            next=f"model.kv_heads={max(k for k in range(1, kv_heads + 1) if heads % k == 0)}",
        )
    if not family.grouped and kv_heads != heads:
        raise ConfigError(
            f"model.kv_heads={kv_heads} with model.heads={heads}",
            expected=f"equal numbers: {family.name} has no grouped heads",
            next=f"model.kv_heads={heads}, or model.family=qwen3",
        )
    if family.positions == "rotary" and head_dim % 2:
        raise ConfigError(
            f"model.head_dim={head_dim} is odd",
            expected="an even number: rotary positions turn pairs",
            next=f"model.head_dim={head_dim + 1}",
        )
    ratio = family.mlp_ratio * width / family.mlp_multiple
    mlp_width = config.mlp_width or math.ceil(round(ratio, 6)) * family.mlp_multiple
    found: dict[str, Any] = {
        "width": width,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "mlp_width": mlp_width,
        "vocab_size": vocab,
        "norm_eps": config.norm_eps or family.norm_eps,
        "rope_theta": config.rope_theta or family.rope_theta,
        "segments": family.segments if config.segments is None else config.segments,
        **_windows(config, family),
        "yarn": _yarn(config, family),
    }
    if config.sinks and "sinks" not in family.options:
        raise _no_option("sinks", True, family)
    return config.model_copy(update=found)


def local_layers(config: ModelConfig) -> tuple[bool, ...]:
    """Of a resolved configuration: which layers see no further than a window.

    >>> local_layers(resolve(ModelConfig(depth=4, window=8, global_every=2), 9))
    (True, False, True, False)
    """
    every, first = config.global_every, 0 if find(config.family).encoder else 1
    if config.window is None:
        return (False,) * config.depth
    return tuple(every is None or (layer + first) % every > 0 for layer in range(config.depth))


def reach(config: ModelConfig) -> int | None:
    """Of a resolved configuration: how many places away a local layer sees at most; None without such."""
    if config.window is None:
        return None
    return config.window // 2 if find(config.family).encoder else config.window - 1


def _preset(config: ModelConfig) -> ModelConfig:
    """What the preset says, where nothing else was said."""
    if config.preset is None:
        return config
    if config.preset not in PRESETS:
        raise ConfigError(
            f"unknown preset {config.preset!r}",
            expected=nearest(config.preset, PRESETS),
            next="model.preset=NAME",
        )
    sizes = PRESETS[config.preset]
    said = config.model_fields_set
    return config.model_copy(update={name: value for name, value in sizes.items() if name not in said})


def _windows(config: ModelConfig, family: Family) -> dict[str, Any]:
    """Local attention: always in a family that is made of it, an option in others."""
    names = ("window", "global_every", "local_theta")
    allowed = names[:2] if family.window is not None or "window" in family.options else ()
    allowed += names[2:] if family.local_theta is not None else ()
    for name in names:
        if getattr(config, name) is not None and name not in allowed:
            raise _no_option(name, getattr(config, name), family)
    if family.window is not None:
        return {name: getattr(config, name) or getattr(family, name) for name in names}
    if config.global_every is not None and config.window is None:
        raise ConfigError(
            f"model.global_every={config.global_every} without model.window: all layers see everything",
            expected="a window for the other layers",
            next="model.window=512, or leave model.global_every out",
        )
    return {}


def _no_option(name: str, value: Any, family: Family) -> ConfigError:
    """A family that has no such thing."""
    kind = "window" if name == "global_every" else name
    having = [one for one in map(find, names()) if kind in one.options or getattr(one, kind, None)]
    return ConfigError(
        f"model.{name}={value} in family {family.name}",
        expected=f"a family that has it: {', '.join(one.name for one in having)}",
        next=f"model.family={having[0].name}, or leave model.{name} out",
    )


def _yarn(config: ModelConfig, family: Family) -> YarnConfig | None:
    """YaRN with nothing left open."""
    yarn = config.yarn
    if yarn is None:
        return None
    if "yarn" not in family.options:
        raise _no_option("yarn", f"{{factor = {yarn.factor}}}", family)
    original = yarn.original or max(2, round(config.context / yarn.factor))
    return yarn.model_copy(
        update={"original": original, "attention": yarn.attention or 0.1 * math.log(yarn.factor) + 1}
    )


def _vocab(given: int | None, needed: int | None) -> int:
    if given is None and needed is None:
        raise ConfigError("model.vocab_size is not known", expected="a codec, or model.vocab_size=N")
    if given is not None and needed is not None and given < needed:
        raise ConfigError(
            f"model.vocab_size={given} is smaller than the codec's {needed} ids",
            expected=f"at least {needed}",
            next=f"leave model.vocab_size out, or set it to {needed} or more",
        )
    return given if given is not None else needed or 0


def _heads(config: ModelConfig, family: Family) -> tuple[int, int, int]:
    """(width, heads, head_dim)."""
    width, heads, head_dim = config.width, config.heads, config.head_dim
    if width is None:
        width = WIDTH_PER_LAYER * config.depth
        if heads and head_dim:
            width = heads * head_dim
        elif heads or head_dim:
            unit = heads or head_dim or 1
            width = max(1, round(width / unit)) * unit
            if heads and (width // heads) % 2:
                width += heads  # heads of an even width
    if heads is None and head_dim is None:
        heads = _fitting_heads(width)
    elif heads is None and head_dim is not None:
        if width % head_dim:
            raise ConfigError(
                f"model.width={width} is not a multiple of model.head_dim={head_dim}",
                expected="heads × head_dim = width",
                next="set model.heads too, or change one of the two",
            )
        heads = width // head_dim
    assert heads is not None
    if head_dim is None:
        if width % heads:
            raise ConfigError(
                f"model.width={width} is not a multiple of model.heads={heads}",
                expected="a width that all heads share equally",
                next=f"model.width={math.ceil(width / heads) * heads}, or set model.head_dim",
            )
        head_dim = width // heads
    if not family.free_head_dim and heads * head_dim != width:
        raise ConfigError(
            f"model.heads={heads} × model.head_dim={head_dim} = {heads * head_dim}, model.width={width}",
            expected=f"equal numbers in family {family.name}",
            next="leave model.head_dim out",
        )
    return width, heads, head_dim


def _fitting_heads(width: int) -> int:
    """At least two heads of an even width, as near to 64 as divides the model's width."""
    if width % 2:
        raise ConfigError(
            f"model.width={width} is odd",
            expected="a width that two heads or more can share",
            next=f"model.width={math.ceil(width / HEAD_DIM) * HEAD_DIM}",
        )
    fits = [h for h in range(2, width // 2 + 1) if width % h == 0 and (width // h) % 2 == 0]
    return min(fits or [1], key=lambda h: (abs(math.log(width / h / HEAD_DIM)), h))
