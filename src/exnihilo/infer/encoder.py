"""The trunk of an encoder in C (encoder.c), for predictions on a CPU in float32 or int8.

::

    fast = encoder.swift(model)                 # the model itself, where that is faster or nothing else fits
    hidden_BTD = fast(raw, Attention.FULL)      # as model(raw, Attention.FULL)

At 1 to 100 million parameters and sentences of natural length PyTorch spends much of a forward between
products: in GELU, masks, copies, padding. Here documents stand without padding, a thread goes through all
layers with a few of them, and what surrounds a product is done while its result is in the cache. Embedding
and heads are the model's own. A document's states do not depend on what is beside it, to the last bit, with
int8 too.

What does not fit (other devices and types, adapters, hooks, causal or branched rows) is computed by the model
itself.

Reference: Zeng et al. 2022 (ByteTransformer, arXiv:2210.03052), documents without padding.

Key: B rows, T positions, D model width, N tokens of all documents
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from exnihilo.errors import UsageError
from exnihilo.infer import int8 as small
from exnihilo.infer import native, tune
from exnihilo.model.family import find
from exnihilo.model.model import Model
from exnihilo.nn.block import Block, PostBlock, SelfAttention
from exnihilo.nn.cache import KVCache
from exnihilo.nn.layout import Attention, Seq
from exnihilo.nn.mlp import GeGLU, GeluMLP
from exnihilo.nn.norms import LayerNorm

SOURCE = Path(__file__).with_name("encoder.c")
_MOST_NEEDED = 0.7  # of all states: if more are read, all are computed
_pointer, _int = ctypes.c_void_p, ctypes.c_int


class _Sizes(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_int32) for n in ("width", "heads", "dim", "mlp", "depth", "window", "context")),
        *((n, ctypes.c_int32) for n in ("gated", "exact", "post", "quantised")),
        ("eps", ctypes.c_float),
    ]


def _declared(lib: ctypes.CDLL) -> ctypes.CDLL:
    kinds: dict[str, tuple[Any, list[Any]]] = {
        "small": (_int, []),
        "new": (_pointer, [ctypes.POINTER(_Sizes), _int]),
        "free": (None, [_pointer]),
        "pack": (_int, [_pointer, _int, _int, _pointer, _pointer, _int, _int, _int, _int]),
        "norm": (_int, [_pointer, _int, _int, _pointer, _pointer]),
        "turns": (_int, [_pointer, _int, _pointer, _pointer]),
        "local": (None, [_pointer, _int]),
        "forward": (_int, [_pointer, _pointer, _int, *[_pointer] * 5, _int]),
    }
    for name, (result, arguments) in kinds.items():
        function = getattr(lib, f"encoder_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


@functools.cache
def library() -> ctypes.CDLL | str:
    """The library, built if need be; or why there is none."""
    return native.built(SOURCE, "encoder", _declared)


def small_products() -> bool:
    """Whether int8 products are those of encoder.c here: on CPUs with AVX2 and without VNNI."""
    lib = library()
    return not isinstance(lib, str) and bool(lib.encoder_small())


def unfit(model: nn.Module) -> str | None:
    """Why the trunk of this model cannot be computed here; None: it can."""
    if type(model) is not Model:
        return f"{type(model).__name__} is no Model"
    if not find(model.config.family).encoder:
        return "a decoder"
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return "it has hooks"
    if any(
        p.device.type != "cpu" or p.dtype != torch.float32 or type(p.data) is not Tensor
        for p in model.parameters()
    ):
        return "weights that are not float32 on a CPU"
    trunk: Any = model.trunk
    kinds = {type(block) for block in trunk.blocks}
    if kinds not in ({Block}, {PostBlock}):
        return "blocks of another kind"
    for block in trunk.blocks:
        attention: Any = block.attention
        if type(attention) is not SelfAttention or type(block.mlp) not in (GeluMLP, GeGLU):
            return "blocks of another kind"
        if attention.q_norm is not None or getattr(attention, "sinks", None) is not None:
            return "attention with norms or sinks"
        if attention.k.weight.shape != attention.q.weight.shape:
            return "grouped keys"
        if any(type(m) is not nn.Linear for inner in (attention, block.mlp) for m in inner.children()):
            return "matrices that are not plain (adapters?)"
        norms = [
            block.mlp_norm,
            *([] if type(block.attention_norm) is nn.Identity else [block.attention_norm]),
        ]
        if any(type(norm) is not LayerNorm for norm in norms):
            return "norms of another kind"
    if type(trunk.norm) is not (nn.Identity if kinds == {PostBlock} else LayerNorm):
        return "a last norm of another kind"
    if not all(p.is_contiguous() for p in trunk.parameters()):
        return "weights that are not contiguous"
    if type(trunk.blocks[0].attention_norm) is nn.Identity and kinds == {PostBlock}:
        return "a first block without a norm"
    return None


class NativeTrunk:
    """A model's trunk, packed. Holds no reference to the model; one forward at a time.

    Args:
        model: one that is not `unfit`.
        int8: matrices and what they are multiplied with in 7 bits.
    """

    def __init__(self, model: Model, int8: bool = False) -> None:
        lib = library()
        if isinstance(lib, str) or unfit(model) is not None:
            raise UsageError(f"encoder.c cannot be used: {lib if isinstance(lib, str) else unfit(model)}")
        trunk: Any = model.trunk
        block, c = trunk.blocks[0], model.config
        self._lib, self._lock, self._width = lib, threading.Lock(), block.attention.q.in_features
        self._post = type(block) is PostBlock
        self._turns, self._context = trunk.rotary is not None, c.context
        gated = type(block.mlp) is GeGLU
        assert c.heads
        sizes = _Sizes(
            self._width, c.heads, block.attention.head_dim, block.mlp.up.out_features, len(trunk.blocks),
            trunk.window or 0, c.context, gated, gated or block.mlp.approximate == "none", self._post, int8,
            block.mlp_norm.eps,
        )  # fmt: skip
        self._engine: Any = _pointer(lib.encoder_new(ctypes.byref(sizes), torch.get_num_threads()))
        if not self._engine:
            raise native.out_of_memory()
        ending = weakref.finalize(self, lib.encoder_free, self._engine)
        ending.atexit = False  # a thread may be in the middle of a forward; the system takes it all
        self.about = bytes(sizes) + lib._name.encode()
        self._pack(trunk, gated)

    def _pack(self, trunk: Any, gated: bool) -> None:
        lib, engine = self._lib, self._engine

        def pack(layer: int, which: int, linear: Any, first: int = 0, step: int = 1, offset: int = 0) -> None:
            rows = len(linear.weight)
            native.good(
                lib.encoder_pack(
                    engine,
                    layer,
                    which,
                    native.address(linear.weight),
                    native.address(linear.bias),
                    first,
                    rows,
                    step,
                    offset,
                )
            )

        def norm(layer: int, which: int, module: Any) -> None:
            if type(module) is not nn.Identity:
                native.good(
                    lib.encoder_norm(
                        engine, layer, which, native.address(module.weight), native.address(module.bias)
                    )
                )

        for i, block in enumerate(trunk.blocks):
            attention, mlp = block.attention, block.mlp
            inner = attention.q.out_features
            for place, linear in enumerate((attention.q, attention.k, attention.v)):
                pack(i, 0, linear, place * inner)
            pack(i, 1, attention.o)
            if gated:
                pack(i, 2, mlp.gate, 0, 2, 0)
            pack(i, 2, mlp.up, 0, 2 if gated else 1, 1 if gated else 0)
            pack(i, 3, mlp.down)
            norm(i, 0, block.attention_norm)
            norm(i, 1, block.mlp_norm)
            if block.local:
                lib.encoder_local(engine, i)
        norm(0, 2, trunk.norm)
        places = torch.arange(self._context)[:, None]
        for local, rotary in ((0, trunk.rotary), (1, trunk.local_rotary or trunk.rotary)):
            if rotary is not None:
                turn = rotary.at(places)
                half = turn.cos.shape[-1] // 2
                cos, sin = turn.cos[:, :half].contiguous(), turn.sin[:, half:].contiguous()
                native.good(lib.encoder_turns(engine, local, cos.data_ptr(), sin.data_ptr()))

    def __call__(self, seq: Seq) -> Tensor | None:
        """Final states (B, T, D) of embedded documents; zeros at padding, and where `needed_BT` says that
        nobody reads them. None: rows of a kind that this does not compute."""
        x_BTD = seq.x_BTD
        whole = isinstance(seq.group_BT, int) and seq.group_BT > 0 and seq.branch_BT is None
        B, T, D = x_BTD.shape
        if not whole or x_BTD.dtype != torch.float32 or not B * T:
            return None
        found = _documents(seq.doc_BT, B, T)
        pos_N = self._places(seq, B, T) if self._turns else None
        if found is None or (self._turns and pos_N is None):
            return None
        start, held = found
        x_ND = x_BTD.reshape(B * T, D)
        x_ND = (x_ND.contiguous() if held is None else x_ND[torch.from_numpy(held)]).detach()
        if not len(x_ND):
            return torch.zeros_like(x_BTD)
        if pos_N is not None and held is not None:
            pos_N = pos_N[held]
        need, first = _needed(seq.needed_BT, held, start)
        out_ND = x_ND if need is None else x_ND.new_empty(len(need), D)
        with self._lock:
            code = self._lib.encoder_forward(
                self._engine, x_ND.data_ptr(), len(start) - 1, _at(start), _at(pos_N), _at(need), _at(first),
                out_ND.data_ptr(), torch.get_num_threads(),
            )  # fmt: skip
        native.good(code)
        if need is None and held is None:
            return out_ND.view(B, T, D)
        rows = held if need is None else need if held is None else held[need]
        whole_ND = x_ND.new_zeros(B * T, D)
        whole_ND[torch.from_numpy(np.asarray(rows, np.int64))] = out_ND
        return whole_ND.view(B, T, D)

    def _places(self, seq: Seq, B: int, T: int) -> np.ndarray | None:
        """The place of each position, for turns; None: not one number each, or beyond the tables."""
        pos_BTK = seq.pos_BTK
        if pos_BTK is None:
            return None if T > self._context else np.tile(np.arange(T, dtype=np.int32), B)
        if pos_BTK.shape[-1] != 1 or int(pos_BTK.max()) >= self._context:
            return None
        return np.ascontiguousarray(pos_BTK.expand(B, T, 1).reshape(-1).numpy().astype(np.int32))


class Swift:
    """A model whose trunk is computed by `NativeTrunk` where that can be; else what it is in all.

    Args:
        model: whose front end it is, and whose attributes. Weights that change are packed anew.
        int8: see `NativeTrunk`.
    """

    def __init__(self, model: Model, int8: bool = False) -> None:
        self._model, self._int8 = model, int8
        self._other: Model | None = None if int8 else model

    def __call__(
        self,
        raw: Mapping[str, Tensor],
        attention: Attention | None = None,
        cache: KVCache | None = None,
        *,
        through: str | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D), as the model's own call gives them."""
        if cache is None and through is None:
            seq = self._model.front(raw, attention or self._model.attention)
            found = packed(self._model, self._int8)(seq)
            if found is not None:
                return found
        if self._other is None:
            self._other = small.int8(self._model)
        return self._other(raw, attention, cache, through=through)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


_packed: weakref.WeakKeyDictionary[Model, dict[bool, tuple[list[nn.Module], tuple[Any, ...], NativeTrunk]]]
_packed = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def packed(model: Model, int8: bool = False) -> NativeTrunk:
    """The packed trunk of a model, made once for its weights as they are."""
    with _lock:
        kept = _packed.setdefault(model, {})
        parts = (
            kept[int8][0] if int8 in kept else list(model.trunk.modules())
        )  # walking costs more than all below
        marks = tuple(
            (p.data_ptr(), p._version) for part in parts for p in part._parameters.values() if p is not None
        )
        if int8 not in kept or kept[int8][1] != marks:
            kept[int8] = (parts, marks, NativeTrunk(model, int8))
        return kept[int8][2]


def swift(model: Model, weights: str = "float32") -> Model:
    """What computes a model's hidden states fastest, to be used in its place; the model itself where nothing
    is faster, by measurement.

    Args:
        weights: "float32", or "int8": rounded (see int8.py).

    Raises:
        UsageError: int8 for a model that cannot have it.
    """
    fits = not isinstance(library(), str) and unfit(model) is None
    if weights == "int8":
        if reason := small.why_not(model):
            raise small.refusal(reason)
        return cast(Model, Swift(model, True)) if fits and small_products() else small.int8(model)
    if not fits:
        return model
    trunk = packed(model)
    return cast(Model, Swift(model)) if tune.better(lambda: trial(model, trunk), trunk.about) else model


def trial(model: Model, trunk: NativeTrunk) -> dict[str, Callable[[], object]]:
    """Both ways through the trunk, on a batch of sentences."""
    most = max(1, min(24, model.config.context - 2))
    lengths = [max(1, most * (i % 8 + 1) // 8) for i in range(32)]
    row = sum(lengths)
    doc_BT = torch.repeat_interleave(torch.arange(32), torch.tensor(lengths))[None]
    pos_BTK = torch.cat([torch.arange(n) for n in lengths])[None, :, None]
    x_BTD = torch.randn(1, row, trunk._width, generator=torch.Generator().manual_seed(0))

    def seq() -> Seq:
        return Seq(x_BTD.clone(), pos_BTK, 1, doc_BT)

    def torchs() -> object:
        with torch.no_grad():
            return model.trunk(seq())

    return {"torch": torchs, "native": lambda: trunk(seq())}


def _documents(doc_BT: Tensor | None, B: int, T: int) -> tuple[np.ndarray, np.ndarray | None] | None:
    """(where each document begins, and one behind the last; flat positions that are none of padding, or None:
    all). None: a document that is not in one piece."""
    if doc_BT is None:
        return np.arange(0, B * T + 1, T, dtype=np.int32), None
    doc_N = (doc_BT.expand(B, T) + torch.arange(B)[:, None] * (T + 1)).reshape(-1).numpy()
    real_N = (doc_BT.expand(B, T) >= 0).reshape(-1).numpy()
    held = None if real_N.all() else np.flatnonzero(real_N)
    if held is not None:
        doc_N = doc_N[held]
    begins = np.flatnonzero(np.diff(doc_N, prepend=-1))
    if int(doc_BT.max()) > T or len(np.unique(doc_N[begins])) != len(begins):
        return None
    return np.append(begins, len(doc_N)).astype(np.int32), held


def _needed(
    needed_BT: Tensor | None, held: np.ndarray | None, start: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(rows that are read afterwards, where those of each document begin); None, None: all are."""
    if needed_BT is None:
        return None, None
    flags = needed_BT.reshape(-1).numpy()
    flags = flags if held is None else flags[held]
    need = np.flatnonzero(flags).astype(np.int32)
    if len(need) > _MOST_NEEDED * len(flags):
        return None, None
    return need, np.searchsorted(need, start).astype(np.int32)


def _at(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data
