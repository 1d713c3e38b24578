"""How many parameters a model has and how many floating-point operations a token costs, from its structure
alone.

Counted is what the mathematics needs: matrix products (two operations a weight and token) and attention's two
products over the context, all T×T of it also where it is causal (the usual convention, Chowdhery et al. 2022,
arXiv 2204.02311, appendix B); local layers count what their window shows. Backward is twice forward. What is
computed twice to save memory is not counted.

Heads count where they are computed: a masked-token head on masked positions, a classifier on one position a
row, as `SHARES` says unless told otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from exnihilo.config import ModelConfig
from exnihilo.model.family import find
from exnihilo.model.model import build, shape_of
from exnihilo.model.sizes import local_layers, reach, resolve

SHARES: dict[str, float | None] = {
    "mlm": 0.15,
    "next": None,
    "classes": None,
    "value": None,
}  # None: one position a row


def _matrices(config: ModelConfig) -> int:
    """Weights of one block's matrices."""
    shape = shape_of(config)
    inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.width * (2 * inner + 2 * kv)
    return attention + shape.width * shape.mlp_width * (3 if shape.mlp in ("swiglu", "geglu") else 2)


def parameters(config: ModelConfig) -> int:
    """Trainable numbers of a model with the heads that its configuration names; tied ones count once.

    >>> config = ModelConfig(depth=1, vocab_size=100)
    >>> parameters(config) == sum(p.numel() for p in build(config).parameters())
    True
    """
    config = resolve(config)
    family, shape = find(config.family), shape_of(config)
    if {"generator", "painter"} & {*config.outputs}:  # models of their own: ask them
        return sum(p.numel() for p in build(config, device="meta").parameters())
    assert config.vocab_size is not None
    a_norm = 2 if shape.norm == "layer" and shape.norm_bias else 1
    block = _matrices(config) + 2 * a_norm * shape.width
    if shape.qk_norm:
        block += 2 * a_norm * shape.head_dim
    if shape.bias:
        block += (shape.heads + 2 * shape.kv_heads) * shape.head_dim + shape.width  # q, k, v, o
        block += shape.mlp_width * (2 if shape.mlp in ("swiglu", "geglu") else 1) + shape.width
    norms = int(not family.post_norm) + int(family.embedding_norm) - int(not shape.first_norm)
    embeddings = (config.vocab_size + (config.segments or 0)) * shape.width
    if family.positions == "learned":
        embeddings += config.context * shape.width
    embeddings += sum(_input(held, shape.width) for held in config.inputs.values())
    heads = sum(_head(name, config, a_norm) for name in config.outputs) + _pooler(config, a_norm)
    return config.depth * block + norms * a_norm * shape.width + embeddings + heads


def _input(held: tuple[int, ...], D: int) -> int:
    """Numbers of what maps an input: one matrix, or two convolutions (`front.Frames`); with biases."""
    return held[0] * D + D if len(held) == 1 else 3 * held[1] * D + D + (held[0] + 1) * D * D + D


def _pooler(config: ModelConfig, a_norm: int) -> int:
    from exnihilo.model.heads import has_pooler

    if not has_pooler(config):
        return 0
    D = config.width or 0
    if find(config.family).pooler == "norm":
        return a_norm * D
    return D * D + (D if find(config.family).pooler == "tanh" else a_norm * D)


def _head(name: str, config: ModelConfig, a_norm: int) -> int:
    """Numbers of a head; a tied output matrix is the embedding's."""
    D, V, C = config.width or 0, config.vocab_size or 0, config.labels or 0
    matrix = 0 if config.tied else V * D
    own = find(config.family).pooler != "transform"
    return {
        "tokens": matrix,
        "mlm": matrix + V + (D * D + D + a_norm * D if own else 0),
        "next": 2 * D + 2,
        "classes": C * D + C + (4 * D * D + D if config.compares else 0),
        "tags": C * D + C + (C * C + 2 * C if config.crf else 0),
        "span": 2 * D + 2 + (3 * D * D + 3 * D + 2 if config.compares else 0),
        "replaced": D * D + D + D + 1,
        "value": D + int(find(config.family).encoder),
        "vectors": sum(math.prod(held) * (D + 1) for held in config.inputs.values()),
        "straight": math.prod(config.straight or (0,)),
    }.get(name, 0)


def flops_per_token(
    config: ModelConfig,
    context: int,
    *,
    training: bool = True,
    shares: Mapping[str, float] | None = None,
) -> float:
    """Floating-point operations a token costs in rows of `context` tokens, heads included.

    Args:
        training: forward and backward (three times forward), else forward alone.
        shares: head -> the share of positions that it is computed at (of `generator`: its predictions);
            default: `SHARES`, else all.

    >>> config = ModelConfig(family="bert", preset="bert-mini", vocab_size=30522, outputs=("mlm",))
    >>> dense = flops_per_token(config, 128, shares={"mlm": 1.0})
    >>> round(dense / flops_per_token(config, 128), 1)
    2.5
    """
    config = resolve(config)
    shape = shape_of(config)
    weights = config.depth * _matrices(config) + sum(_input(h, shape.width) for h in config.inputs.values())
    pairs = sum(_seen(config, layer, context) for layer in range(config.depth))
    heads = 0.0
    for name in config.outputs:
        share = (shares or {}).get(name, SHARES.get(name, 1.0))
        heads += _products(name, config) * (1 / context if share is None else share)
    if "generator" in config.outputs:
        heads += _generator(config, context, (shares or {}).get("generator", 0.15))
    attention = 2 * pairs / context * shape.heads * shape.head_dim
    if "painter" in config.outputs:  # the trunk reads what is not hidden
        hidden = (shares or {}).get("painter", 0.75)
        weights, attention = weights * (1 - hidden), attention * (1 - hidden) ** 2
        heads += _painter(config, context, hidden)
    return float(2 * (weights + attention + heads) * (3 if training else 1))


def _generator(config: ModelConfig, context: int, share: float) -> float:
    """Products a token of the generator: its trunk at all positions, its predictions at masked ones."""
    from exnihilo.model.generator import narrow

    small, D = narrow(config), config.width or 0
    alone = flops_per_token(small, context, training=False) / 2
    W = small.width or 0
    return D * W + alone + share * (W * D + D * (config.vocab_size or 0))


def _painter(config: ModelConfig, context: int, share: float) -> float:
    """Products a token of the painter: what it is given of the visible, its trunk, numbers of the hidden."""
    from exnihilo.model.painter import narrow

    small, D = narrow(config), config.width or 0
    W = small.width or 0
    numbers = sum(math.prod(held) for held in config.inputs.values())
    trunk = small.model_copy(update={"inputs": {}})  # it maps none itself
    alone = flops_per_token(trunk, context, training=False) / 2
    return (1 - share) * D * W + alone + share * W * numbers


def _seen(config: ModelConfig, layer: int, T: int) -> int:
    """Pairs of positions that a layer multiplies in a row of T."""
    half = reach(config)
    if half is None or not local_layers(config)[layer] or T <= half + 1:
        return T * T
    return T * (2 * half + 1) - half * (half + 1) if T > 2 * half else _brute(T, half)


def _brute(T: int, half: int) -> int:
    return sum(min(t, half) + 1 + min(T - 1 - t, half) for t in range(T))


def _products(name: str, config: ModelConfig) -> int:
    """Weights of a head's matrices, pooler or transform before it included."""
    D, V, C = config.width or 0, config.vocab_size or 0, config.labels or 0
    kind = find(config.family).pooler
    before = D * D if kind == "transform" or (kind == "tanh" and name in ("next", "classes", "value")) else 0
    return {
        "tokens": V * D,
        "mlm": D * D + V * D,
        "next": before + 2 * D,
        "classes": (4 * D * D if config.compares else before) + C * D,
        "tags": (D * D if kind == "transform" else 0) + C * D,
        "span": (D * D if kind == "transform" else 0) + 2 * D + (3 * D * D + 2 * D if config.compares else 0),
        "replaced": D * D + D,
        "value": before + D,
        "vectors": D * sum(math.prod(held) for held in config.inputs.values()),
    }.get(name, 0)
