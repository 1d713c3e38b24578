"""How many parameters a model has and how many floating-point operations a token costs, from its structure
alone.

Counted is what the mathematics needs: matrix products (two operations a weight and token) and attention's two
products over the context, all T×T of it also where it is causal (the usual convention, Chowdhery et al. 2022,
arXiv 2204.02311, appendix B). Backward is twice forward. What is computed twice to save memory is not
counted.
"""

from __future__ import annotations

from exnihilo.config import ModelConfig
from exnihilo.model.family import find
from exnihilo.model.model import shape_of
from exnihilo.model.sizes import resolve


def _matrices(config: ModelConfig) -> int:
    """Weights of one block's matrices."""
    shape = shape_of(config)
    inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = shape.width * (2 * inner + 2 * kv)
    return attention + shape.width * shape.mlp_width * (3 if shape.mlp == "swiglu" else 2)


def parameters(config: ModelConfig) -> int:
    """Trainable numbers of a model with the head "tokens"; tied ones count once.

    >>> from exnihilo.model import build
    >>> config = ModelConfig(depth=1, vocab_size=100)
    >>> parameters(config) == sum(p.numel() for p in build(config).parameters())
    True
    """
    config = resolve(config)
    family, shape = find(config.family), shape_of(config)
    assert config.vocab_size is not None
    a_norm = 2 if shape.norm == "layer" else 1
    block = _matrices(config) + 2 * a_norm * shape.width
    if shape.qk_norm:
        block += 2 * a_norm * shape.head_dim
    if shape.bias:
        block += (shape.heads + 2 * shape.kv_heads) * shape.head_dim + shape.width  # q, k, v, o
        block += shape.mlp_width * (2 if shape.mlp == "swiglu" else 1) + shape.width
    embeddings = config.vocab_size * shape.width * (1 if config.tied else 2)
    if family.positions == "learned":
        embeddings += config.context * shape.width
    return config.depth * block + embeddings + a_norm * shape.width


def flops_per_token(config: ModelConfig, context: int, *, training: bool = True) -> float:
    """Floating-point operations a token costs in rows of `context` tokens, with the head "tokens".

    Args:
        training: forward and backward (three times forward), else forward alone.
    """
    config = resolve(config)
    shape = shape_of(config)
    assert config.vocab_size is not None
    weights = config.depth * _matrices(config) + config.vocab_size * shape.width
    attention = config.depth * 2 * context * shape.heads * shape.head_dim
    return float(2 * (weights + attention) * (3 if training else 1))
