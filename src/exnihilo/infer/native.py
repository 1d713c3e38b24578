"""The decode step in C (native.c), built at first use by the system's compiler and kept in the cache.

For decoders of this project in float32 on a CPU. At 1 to 100 million parameters PyTorch spends most of a
decode step between operations; here a step is one call. The library's file name holds a hash of source,
compiler, flags and processor, so that a change of any of them builds a new one. Without a compiler, or for a
model that it does not know, `unfit` says why, and the engine calls the model itself.

Roads not taken: `torch.compile` and AOTInductor (20 to 60 s a shape, against one or two here); a wheel with
machine code (one a platform, built for the oldest processor).

Key: R tokens of a forward, W rows of logits, V vocabulary
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exnihilo.errors import UsageError
from exnihilo.infer import tune
from exnihilo.infer.board import Board, draw
from exnihilo.model.heads import Tokens
from exnihilo.model.model import Model
from exnihilo.nn.block import Block, SelfAttention
from exnihilo.nn.mlp import GeluMLP, SwiGLU
from exnihilo.nn.norms import LayerNorm, RMSNorm
from exnihilo.nn.rotary import Rotary
from exnihilo.parallel.notes import cache_folder

SOURCE, SHARED = (Path(__file__).with_name(name) for name in ("native.c", "vector.h"))
_FLAGS = ("-O3", "-std=gnu11", "-fvisibility=hidden", "-shared", "-fPIC", "-pthread")
_BLOCK = 16  # places of a block of keys
_pointer = ctypes.c_void_p
_int = ctypes.c_int


class _Sizes(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_int32)
            for name in ("width", "heads", "kv", "dim", "mlp", "vocab", "depth", "context")
        ),
        *((n, ctypes.c_int32) for n in ("layer_norm", "gated", "rotary", "qk_norm", "quantised", "threads")),
        ("eps", ctypes.c_float),
    ]


class _Board(ctypes.Structure):
    _fields_ = [
        *(
            (name, _pointer)
            for name in ("last", "place", "made", "limit", "temperature", "stops", "uniforms")
        ),
        *((name, _pointer) for name in ("ids", "raw", "warm", "processed")),
        ("length", ctypes.c_int64),
    ]


def _compiler() -> str | None:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found:
            return found
    return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({x for x in lines if x.startswith(("model name", "flags", "Features"))}))


@functools.cache
def library() -> ctypes.CDLL | str:
    """The library, built if need be; or why there is none."""
    return built(SOURCE, "decode", _declared)


def built(source: Path, kind: str, declare: Callable[[ctypes.CDLL], ctypes.CDLL]) -> ctypes.CDLL | str:
    """A C file of this folder as a library, built where that was not done before; or why there is none.

    Args:
        source: the file; it may include vector.h.
        kind: begins the library's file name.
        declare: says what its functions take.
    """
    if os.name != "posix":
        return f"not built on {platform.system()}"
    compiler = _compiler()
    if compiler is None:
        return "no C compiler was found"
    try:
        version = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{compiler} does not run: {error}"
    tune = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    flags = (*_FLAGS, tune)
    text = source.read_bytes() + SHARED.read_bytes()
    about = "\0".join((version.stdout, *flags, platform.machine(), _processor())).encode()
    name = f"{kind}-{hashlib.sha256(text + about).hexdigest()[:24]}.so"
    try:
        folder = cache_folder() / "native"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / name
        if not path.exists():
            _build(compiler, flags, source, path)
        if path.stat().st_uid != os.getuid() or path.stat().st_mode & 0o022:
            return f"{path} could have been written by someone else"
        return declare(ctypes.CDLL(str(path)))
    except subprocess.CalledProcessError as error:
        return f"{compiler} failed: {error.stderr.strip()[:300]}"
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)


def _build(compiler: str, flags: Sequence[str], source: Path, path: Path) -> None:
    """Beside its place, then moved there: several processes may build at once."""
    handle, made = tempfile.mkstemp(suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        command = [compiler, *flags, "-o", made, str(source), "-lm"]
        subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        os.chmod(made, 0o700)
        os.replace(made, path)
    finally:
        Path(made).unlink(missing_ok=True)


def _declared(lib: ctypes.CDLL) -> ctypes.CDLL:
    kinds: dict[str, tuple[Any, list[Any]]] = {
        "panel": (_int, []),
        "new": (_pointer, [ctypes.POINTER(_Sizes)]),
        "free": (None, [_pointer]),
        "threads": (_int, [_pointer]),
        "use": (None, [_pointer, _int]),
        "mark": (ctypes.c_uint64, [_pointer, ctypes.c_int64]),
        "pack": (_int, [_pointer, _int, _int, _pointer, _pointer, _int, _int, _int, _int]),
        "norm": (_int, [_pointer, _int, _int, _pointer, _pointer, _int]),
        "tables": (_int, [_pointer, _pointer, _pointer, _pointer, _pointer]),
        "cache": (_int, [_pointer, _int, _int]),
        "copy": (None, [_pointer, _int, _pointer, _int, _int]),
        "forward": (_pointer, [_pointer, _int, _pointer, _pointer, _pointer, _int, _pointer]),
        "draw": (None, [_pointer, ctypes.POINTER(_Board), _int, _pointer, _pointer]),
        "decode": (_int, [_pointer, ctypes.POINTER(_Board), _int, _pointer, _int, _pointer]),
    }
    for name, (result, arguments) in kinds.items():
        function = getattr(lib, f"nihil_{name}")
        function.restype, function.argtypes = result, arguments
    return lib


def mark(tensors: Iterable[Tensor]) -> int:
    """A number that changes when what tensors on a CPU hold does; read at about the speed of memory."""
    lib = library()
    assert not isinstance(lib, str), lib
    found = 0
    for t in tensors:
        value = int(lib.nihil_mark(address(t.detach()), t.numel() * t.element_size()))
        found = (found * 0x9E3779B97F4A7C15 + value) & (2**64 - 1)
    return found


def unfit(model: nn.Module) -> str | None:
    """Why this model cannot be run by the native step; None: it can."""
    if type(model) is not Model:
        return f"{type(model).__name__} is no Model"
    for name, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks)
        if any(hooks):
            return f"{name or 'the model'} has hooks"
    wrong = [p for p in model.parameters() if p.device.type != "cpu" or p.dtype != torch.float32]
    if wrong or any(type(p.data) is not Tensor for p in model.parameters()):
        return "weights that are not float32 on a CPU"
    front, trunk, head = model.front, model.trunk, model.heads["tokens"] if "tokens" in model.heads else None
    if type(head) is not Tokens or front.segments is not None or front.norm is not None:
        return "no plain decoder"
    if trunk.window is not None:
        return "local layers"
    if any(getattr(m, "sinks", None) is not None for m in trunk.modules()):
        return "attention sinks"
    if type(trunk.norm) not in (RMSNorm, LayerNorm):
        return "no plain decoder"
    kinds: dict[str, tuple[type, ...]] = {"attention": (SelfAttention,), "mlp": (SwiGLU, GeluMLP)}
    for block in trunk.blocks:
        parts = dict(block.named_children())
        if type(block) is not Block or any(type(parts[n]) not in kind for n, kind in kinds.items()):
            return "blocks of another kind"
        if type(block.mlp) is GeluMLP and block.mlp.approximate != "tanh":
            return "blocks of another kind"
        for inner in (block.attention, block.mlp):
            if any(type(m) not in (nn.Linear, RMSNorm) for m in inner.children()):
                return "matrices that are not plain (adapters?)"
    return None


class NativeStep:
    """See `step.Step`.

    Args:
        model: one that is not `unfit`.
        slots: of the cache.
        threads: that share a forward; None: of as many as torch may use, those that are measured to be
            fastest, for few rows and for many (tune.py).
        quantised: int8 weights in blocks of 32 with a scale each; inputs are rounded alike.
    """

    exact = True
    note: Path | None = None  # where measurements of this shape are kept

    def __init__(self, model: Model, slots: int, threads: int | None, quantised: bool = False) -> None:
        lib = library()
        if isinstance(lib, str):
            raise UsageError(
                f"the native step cannot be used: {lib}", next="install a C compiler, or use torch"
            )
        self._lib, self._model, self._slots, self._pid = lib, weakref.ref(model), slots, os.getpid()
        self._engine: Any = None
        c = model.config
        block: Any = model.trunk.blocks[0]
        rotary = model.trunk.rotary
        assert (
            c.width and c.heads and c.kv_heads and c.head_dim and c.mlp_width and c.vocab_size and c.norm_eps
        )
        self._sizes = _Sizes(
            c.width, c.heads, c.kv_heads, c.head_dim, c.mlp_width, c.vocab_size, c.depth, c.context,
            type(model.trunk.norm) is LayerNorm, type(block.mlp) is SwiGLU, rotary is not None,
            block.attention.q_norm is not None, quantised, threads or torch.get_num_threads(), c.norm_eps,
        )  # fmt: skip
        self._engine = _pointer(lib.nihil_new(ctypes.byref(self._sizes)))
        if not self._engine:
            raise out_of_memory()
        ending = weakref.finalize(self, _end, lib.nihil_free, self._engine, self._pid)
        ending.atexit = False  # a thread may be in the middle of a step; the system takes it all
        self.threads: int = lib.nihil_threads(self._engine)
        self._capacity = 0
        self._board: tuple[Any, ...] = ()
        self._tables(model)
        self.refresh()
        self._use: list[tuple[int, int]] = [(1 << 30, self.threads)]  # (rows up to, threads)
        if threads is None:
            self._use = tune.threads(self, slots, bytes(self._sizes) + lib._name.encode())
        counts = sorted({n for _, n in self._use})
        said = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
        kind = "int8" if quantised else "float32"
        self.name = f"native, {kind}, {said} thread{'s' * (counts[-1] > 1)}"

    def use(self, threads: int) -> None:
        """So many threads take part from now on."""
        self._use = [(1 << 30, threads)]

    def _share(self, rows: int) -> None:
        """The threads that such a forward is to have."""
        self._lib.nihil_use(self._engine, next(n for most, n in self._use if rows <= most))

    def _tables(self, model: Model) -> None:
        rotary: Rotary | None = model.trunk.rotary
        if rotary is not None:
            z = self._sizes
            turn = rotary.at(torch.arange(z.context)[:, None])
            half = z.dim // 2
            cos, sin = turn.cos[:, :half].contiguous(), turn.sin[:, half:].contiguous()
            good(self._lib.nihil_tables(self._engine, None, None, cos.data_ptr(), sin.data_ptr()))

    def refresh(self) -> None:
        """See `Step`: copies all weights."""
        lib, engine, model, z = self._lib, self._engine, self._model(), self._sizes
        if model is None:
            raise UsageError("the model is gone", next="keep a reference to it, or make a new engine")
        if unfit(model) is not None:
            raise UsageError(f"the model has changed: {unfit(model)}", next="make a new engine")
        positions = model.front.positions
        good(
            lib.nihil_tables(
                engine,
                address(model.front.tokens.weight),
                None if positions is None else address(positions.weight),
                None,
                None,
            )
        )

        def pack(layer: int, which: int, linear: Any, first: int = 0, step: int = 1, offset: int = 0) -> None:
            weight = linear.weight
            good(
                lib.nihil_pack(
                    engine,
                    layer,
                    which,
                    address(weight),
                    address(linear.bias),
                    first,
                    len(weight),
                    step,
                    offset,
                )
            )

        def norm(layer: int, which: int, module: Any) -> None:
            bias = getattr(module, "bias", None)
            good(
                lib.nihil_norm(
                    engine, layer, which, address(module.weight), address(bias), len(module.weight)
                )
            )

        for i, block in enumerate(model.trunk.blocks):
            attention: Any = block.attention
            mlp: Any = block.mlp
            inner, kv = z.heads * z.dim, z.kv * z.dim
            pack(i, 0, attention.q)
            pack(i, 0, attention.k, inner)
            pack(i, 0, attention.v, inner + kv)
            pack(i, 1, attention.o)
            if z.gated:
                pack(i, 2, mlp.gate, 0, 2, 0)
                pack(i, 2, mlp.up, 0, 2, 1)
            else:
                pack(i, 2, mlp.up)
            pack(i, 3, mlp.down)
            norm(i, 0, block.attention_norm)
            norm(i, 1, block.mlp_norm)
            if z.qk_norm:
                norm(i, 2, attention.q_norm)
                norm(i, 3, attention.k_norm)
        norm(-1, 0, model.trunk.norm)
        pack(-1, 0, model.heads["tokens"])

    def _reserve(self, places: int) -> None:
        """Slots of the cache for places 0 .. places - 1."""
        if places <= self._capacity:
            return
        whole = -(-self._sizes.context // _BLOCK) * _BLOCK
        capacity = min(whole, max(64, 1 << (places - 1).bit_length()))
        if self._lib.nihil_cache(self._engine, self._slots, capacity):
            raise out_of_memory()
        self._capacity = capacity

    def forward(
        self, tokens: Sequence[int], slots: Sequence[int], places: Sequence[int], wanted: Sequence[int]
    ) -> Tensor:
        """See `Step`."""
        self._reserve(max(places) + 1)
        work = np.concatenate([np.asarray(x, np.int32) for x in (tokens, slots, places, wanted)])
        R, at = len(tokens), work.ctypes.data
        self._share(R)
        address = self._lib.nihil_forward(
            self._engine, R, at, at + 4 * R, at + 8 * R, len(wanted), at + 12 * R
        )
        if not address:
            raise out_of_memory()
        return self._view(address, len(wanted))

    def _view(self, address: int, rows: int) -> Tensor:
        V = self._sizes.vocab
        if not rows:
            return torch.empty(0, V)
        buffer = (ctypes.c_float * (rows * V)).from_address(address)
        buffer.owner = self  # type: ignore[attr-defined]  # or the memory could go before the view
        return torch.from_numpy(np.frombuffer(buffer, np.float32).reshape(rows, V))

    def _struct(self, board: Board) -> Any:
        """The board's addresses; made again when its arrays have grown."""
        if not self._board or self._board[0] is not board or self._board[1] != board.length:
            arrays = (
                board.last_S, board.place_S, board.made_S, board.limit_S, board.temperature_S, board.stops_S,
                board.uniforms_SN, board.ids_SN, board.raw_SN, board.warm_SN, board.processed_SN,
            )  # fmt: skip
            struct = _Board(*(a.ctypes.data for a in arrays), board.length)
            self._board = (board, board.length, ctypes.byref(struct), struct)
        return self._board[2]

    def draw(self, board: Board, slots: Sequence[int], logits_WV: Tensor, rows: Sequence[int]) -> None:
        """See `Step`; `logits_WV` is what the last forward gave."""
        plain = board.plain_S[slots]
        if plain.any():
            keep = np.flatnonzero(plain)
            pair = np.concatenate([np.asarray(x, np.int32)[keep] for x in (slots, rows)])
            who, at = pair[: len(keep)], pair.ctypes.data
            board.place_S[who] = board.length_S[who] + board.made_S[who]
            self._lib.nihil_draw(self._engine, self._struct(board), len(keep), at, at + 4 * len(keep))
            board.follow(who.tolist(), logits_WV, pair[len(keep) :].tolist())
        if not plain.all():
            others = np.flatnonzero(~plain).tolist()
            with torch.no_grad():
                draw(board, [slots[i] for i in others], logits_WV, [rows[i] for i in others])

    def decode(self, board: Board, live: Sequence[int], most: int) -> int:
        """See `Step`."""
        at = np.asarray(live, np.int32)
        if not board.plain_S[at].all() or board.watched_S[at].any():
            logits_BV = self.forward(
                board.last_S[at].tolist(), live, board.place_S[at].tolist(), range(len(live))
            )
            self.draw(board, live, logits_BV, range(len(live)))
            return 1
        steps = min(most, int((board.limit_S[at] - board.made_S[at]).min()))
        self._reserve(int(board.place_S[at].max()) + steps)
        self._share(len(live))
        work = np.empty(3 * len(live), np.int32)
        done = self._lib.nihil_decode(
            self._engine, self._struct(board), len(live), at.ctypes.data, steps, work.ctypes.data
        )
        if done < 0:
            raise out_of_memory()
        return done

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """See `Step`."""
        at = np.asarray(targets, np.int32)
        self._lib.nihil_copy(self._engine, source, at.ctypes.data, len(at), length)


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers stand."""
    if tensor is None:
        return None
    if not tensor.is_contiguous():
        raise UsageError(
            "a weight that is not contiguous", next="model.heads and trunk as build() makes them"
        )
    return tensor.data_ptr()


def _end(free: Any, engine: Any, pid: int) -> None:
    """Nobody needs the engine any more. In a process that was forked its threads are not there: they are the
    parent's to end."""
    if pid == os.getpid():
        free(engine)


def good(code: int) -> None:
    """Raises UsageError where C says that it got no memory."""
    if code:
        raise out_of_memory()


def out_of_memory() -> UsageError:
    """What to say then."""
    return UsageError(
        "no memory is left for the engine", expected="room for weights and cache", next="fewer slots"
    )
