"""Engines kept between calls, so that weights are packed once and not for every prompt.

Used by `generate` and `stream`::

    with borrow(model, slots=8) as engine:
        engine.run(requests)

An engine is kept with its model for as long as the model lives, and used again while the model's weights hold
the same numbers: all of them are read and compared by a mark (`native.mark`), which takes a fraction of
packing. So a model that was trained in between, in whatever way, is never answered for with old weights. Only
native engines are kept; the others hold nothing that takes time to make.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from exnihilo.infer import native
from exnihilo.infer.engine import Engine

if TYPE_CHECKING:
    from exnihilo.model.model import Model

_MOST = 2  # models
_WIDE = 8  # an engine of more than so many times the slots wanted is made anew


@dataclass(frozen=True)
class _Kept:
    engine: Engine
    mark: tuple[int, int]  # of the weights; threads


_kept: WeakKeyDictionary[Model, _Kept] = WeakKeyDictionary()
_lock = threading.Lock()


def _mark(model: Model) -> tuple[int, int] | None:
    """What an engine depends on; None: it would not be native."""
    if isinstance(native.library(), str) or native.unfit(model) is not None:
        return None
    return native.mark(model.parameters()), torch.get_num_threads()


@contextmanager
def borrow(model: Model, slots: int) -> Iterator[Engine]:
    """An engine with at least so many slots and nothing in them; nobody else has it meanwhile."""
    with _lock:
        found = _kept.pop(model, None)
    mark = _mark(model)
    engine = None
    if found is not None and mark is not None and found.mark == mark:
        if slots <= found.engine.slots <= _WIDE * slots:
            engine = found.engine
    if engine is None:
        engine = Engine(model, slots=slots)
    try:
        yield engine
    finally:
        engine.clear()
        if mark is not None and engine.native:
            engine.let_go()
            with _lock:
                _kept[model] = _Kept(engine, mark)
                while len(_kept) > _MOST:
                    _kept.pop(next(iter(_kept)), None)
