"""What a family of models is, and how to find one by its file's name. No central list is edited to add one.

A file in families/ defines ``FAMILY = Family(...)``: what its trunk is made of, and how its weights and its
configuration are named in Hugging Face folders. `interop.hf` reads the latter; nothing else knows of it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False


@dataclass(frozen=True)
class Family:
    """A family: trunk options, then its Hugging Face counterpart.

    Attributes:
        norm, positions, qk_norm, mlp, bias: what the trunk is made of.
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
    more: Callable[[ModelConfig], dict[str, Any]] = lambda config: {}
    read: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda theirs: {}


def names() -> list[str]:
    """The families that there are: the files of families/."""
    return sorted(m.name for m in pkgutil.iter_modules(room.__path__))


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
