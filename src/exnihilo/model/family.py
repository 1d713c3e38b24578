"""What a family of models is, and how to find one by its file's name. No central list is edited to add one.

A file in families/ defines ``FAMILY = Family(...)``: what its trunk is made of, and how its weights and its
configuration are named in Hugging Face folders. `interop.hf` reads the latter; nothing else knows of it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import exnihilo.model.families as room
from exnihilo.config import ModelConfig
from exnihilo.errors import ConfigError, nearest
from exnihilo.nn.mlp import MlpKind
from exnihilo.nn.norms import NormKind


@dataclass(frozen=True)
class Rename:
    """One tensor of a Hugging Face folder.

    Attributes:
        theirs: its name; ``{i}`` stands for the layer.
        ours: the parameters here that it holds, put together along the output dimension.
        transposed: it is [in, out] where ours is [out, in].
        first: the first layer that has it.
        twin: it holds what another tensor of the folder holds (tied): read if it is there, never written.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    first: int = 0
    twin: bool = False


@dataclass(frozen=True)
class Architecture:
    """One class of transformers for a family with heads.

    Attributes:
        name: as config.json says it.
        outputs: the heads here that it has.
        renames: the tensors of its heads, pooler included.
        bare: it is the trunk itself: the family's prefix is not written.
    """

    name: str
    outputs: tuple[str, ...]
    renames: tuple[Rename, ...] = ()
    bare: bool = False


class Fed(NamedTuple):
    """What a model that reads no tokens is compared on with transformers' class.

    Attributes:
        raw: columns of a forward here. given: arguments of a call of theirs, made of the same numbers.
        marks: positions before what is read, whose mean a classifier reads.
        read: (what their call returned, heads of the class) -> head -> tensor as ours gives it.
    """

    raw: dict[str, Any]
    given: dict[str, Any]
    marks: int
    read: Callable[[Any, tuple[str, ...]], dict[str, Any]]


@dataclass(frozen=True)
class Family:
    """A family: trunk options, then its Hugging Face counterpart.

    Attributes:
        norm, positions, qk_norm, mlp, bias: what the trunk is made of.
        encoder: positions see both ways unless a forward says otherwise.
        post_norm, norm_bias, first_norm, embedding_norm: which norms there are and where (nn/block.py).
        pooler: what the heads `next` and `classes` read from: nothing, tanh(dense(first)), a transform
            norm(gelu(dense(x))) that all heads share, or a norm that `classes` reads.
        segments: token types unless the configuration says otherwise.
        norm_eps, rope_theta, window, global_every, local_theta: defaults of the fields of `ModelConfig`.
        options: of `ModelConfig`'s window (with global_every), yarn and sinks those it may have.
        sinks: where a model with sinks has them.
        mlp_ratio, mlp_multiple: default MLP width = ratio × width, rounded up to the multiple.
        grouped: key-value heads may be fewer than heads.
        free_head_dim: heads × head_dim may differ from width.
        model_type, architecture: of config.json.
        renames: all tensors but the untied output matrix, which is `head`.
        ignored: endings of tensor names that hold no weights (masks, frequency tables), skipped on reading.
        prefix: readers also meet names without it.
        keys: config.json key -> field of ModelConfig, in both directions.
        defaults: what an absent key means there.
        optional: keys that `read` makes up for; any other must be there.
        fixed: config.json key -> the only value that is obeyed here; any other is refused.
        more: further keys to write.
        read: further fields from a config.json, and refusals.
        old: endings of tensor names in old folders, and what they are now.
        architectures: the classes of an encoder, the one without heads last; empty: `architecture` alone.
        scorer: the class that gives one number a text, from the head `value`.
        pack, unpack: their tensors of another shape than ours (a convolution, a token with a parameter of its
            own), made of ours under the names of `renames`, and back; what `pack` cannot keep is named by
            `kept`, and stays beside the folder.
        beside: further JSON files of a folder, by an objective's options: what prepares its inputs.
        feed: of a family that reads no tokens, what exports of it are proved on: (configuration, config.json,
            generator) -> `Fed`.
        told: keys of config.json that an objective's options decide. task: the objective of a folder that has
            no objective.json, from its config.json; None: as the class says.
        marks: its ids are special tokens alone, and its folders have no tokenizer.
        holds: the only `ModelConfig.inputs` it has; None: any. reads: the only name that they have.
    """

    name: str
    norm: NormKind
    positions: Literal["rotary", "learned"]
    qk_norm: bool
    mlp: MlpKind
    bias: bool
    mlp_ratio: float
    mlp_multiple: int
    grouped: bool
    free_head_dim: bool
    model_type: str
    architecture: str
    renames: tuple[Rename, ...]
    head: str
    keys: Mapping[str, str]
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    encoder: bool = False
    post_norm: bool = False
    norm_bias: bool = True
    first_norm: bool = True
    embedding_norm: bool = False
    pooler: Literal["", "tanh", "transform", "norm"] = ""
    segments: int = 0
    norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    window: int | None = None
    global_every: int | None = None
    local_theta: float | None = None
    options: frozenset[str] = frozenset()
    sinks: Rename | None = None
    old: Mapping[str, str] = field(default_factory=dict)
    architectures: tuple[Architecture, ...] = ()
    scorer: Architecture | None = None
    pack: Callable[[ModelConfig, dict[str, Any]], dict[str, Any]] = lambda config, state: state
    unpack: Callable[[ModelConfig, dict[str, Any]], dict[str, Any]] = lambda config, state: state
    kept: tuple[str, ...] = ()
    told: Callable[[ModelConfig, Mapping[str, Any]], dict[str, Any]] = lambda config, options: {}
    feed: Callable[[ModelConfig, Mapping[str, Any], Any], Fed] | None = None
    beside: Callable[[ModelConfig, Mapping[str, Any]], dict[str, dict[str, Any]]] = lambda config, options: {}
    task: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
    marks: bool = False
    holds: Mapping[str, tuple[int, ...]] | None = None
    reads: str = ""
    more: Callable[[ModelConfig], dict[str, Any]] = lambda config: {}
    read: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda theirs: {}


SINKS = "_sinks"
"""Ends the model_type of a model with attention sinks: transformers has no plain decoder with them."""


def names() -> list[str]:
    """The families that there are: the files of families/; a first ``_`` marks what some share."""
    return sorted(m.name for m in pkgutil.iter_modules(room.__path__) if not m.name.startswith("_"))


def find(name: str) -> Family:
    """A family by name.

    >>> find("qwen3").qk_norm
    True
    """
    if name not in names():
        raise ConfigError(
            f"unknown model family {name!r}", expected=nearest(name, names()), next="model.family=NAME"
        )
    return importlib.import_module(f"{room.__name__}.{name}").FAMILY
