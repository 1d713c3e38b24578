"""llama.cpp as the engine's arithmetic: a GGUF file behind the scheduler, sampling and stops of any model.

::

    from exnihilo.infer.llamacpp import LlamaFile, LlamaStep
    file = LlamaFile("out/model-q8_0.gguf")
    engine = Engine(model, slots=8, step=LlamaStep(file, slots=8, context=model.config.context))
    file.tokenize("Once upon"), file.text([31, 7])        # llama.cpp's own tokenizer

Only logits come from llama.cpp; tokens are drawn here (`sampling`), so seeds, penalties and log-probabilities
mean what they mean everywhere. Keys and values are kept in float32 unless told otherwise, since its default,
float16, moves logits by about 1e-3. Each slot is a sequence of its own with its own part of the cache.

Needs llama-cpp-python (the extra ``llamacpp``), which is compiled when it is installed.

Reference: llama.cpp's include/llama.h (https://github.com/ggml-org/llama.cpp).

Key: R tokens of a forward, W rows of logits, V vocabulary
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from exnihilo.errors import MissingExtra, ModelError, UsageError
from exnihilo.infer.step import OneByOne

PACKAGE, EXTRA = "llama_cpp", "llamacpp"
_BATCH = 512  # tokens of one call, at most
_MOST_SLOTS = 256  # sequences that llama.cpp can hold
_kept: list[Any] = []  # callbacks that C holds


def available() -> bool:
    """Whether llama-cpp-python is installed."""
    return find_spec(PACKAGE) is not None


def _library() -> Any:
    """The package, silenced: it logs every tensor."""
    try:
        lib = import_module(PACKAGE)
    except ImportError as error:
        raise MissingExtra.of("llama-cpp-python", EXTRA) from error
    if not _kept:
        silent = lib.llama_log_callback(lambda level, text, data: None)
        _kept.append(silent)
        lib.llama_log_set(silent, ctypes.c_void_p(0))
        lib.llama_backend_init()
    return lib


class LlamaFile:
    """A GGUF file, open.

    Args:
        path: the file.

    Attributes:
        path: as given.
        vocabulary: number of ids.

    Raises:
        MissingExtra: llama-cpp-python is not installed.
        ModelError: llama.cpp does not read the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lib = lib = _library()
        if not self.path.is_file():
            raise ModelError(f"{path} is no file", expected="a GGUF file", next="check the path")
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model: Any = lib.llama_model_load_from_file(os.fsencode(self.path), params)
        if not self._model:
            raise ModelError(
                f"llama.cpp does not read {path}",
                expected="a whole GGUF file of a kind that it knows",
                next="export it again: exnihilo export RUN --to gguf --out DIR",
            )
        ending = weakref.finalize(self, lib.llama_model_free, self._model)
        ending.atexit = False  # a thread may be in the middle of a step; the system takes it all
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.vocabulary: int = lib.llama_vocab_n_tokens(self._vocab)

    def tokenize(self, text: str, *, special: bool = False, begin: bool = False) -> list[int]:
        """Ids by llama.cpp's own tokenizer.

        Args:
            special: the text's spellings of special tokens become these.
            begin: with the id that begins a text, where the file says there is one.
        """
        raw = text.encode()
        room = len(raw) + 8
        for _ in range(2):
            ids = (ctypes.c_int32 * room)()
            count = self._lib.llama_tokenize(self._vocab, raw, len(raw), ids, room, begin, special)
            if count >= 0:
                return list(ids[:count])
            room = -count
        raise ModelError(f"llama.cpp cannot tokenize {text!r:.60}", expected="ids")

    def raw(self, ids: Sequence[int], *, special: bool = False) -> bytes:
        """Bytes that ids stand for, each alone: nothing is cut or put before them.

        Args:
            special: spell special tokens out; else they are nothing.
        """
        out: list[bytes] = []
        for id in ids:
            room = 64
            while True:
                buffer = ctypes.create_string_buffer(room)
                count = self._lib.llama_token_to_piece(self._vocab, int(id), buffer, room, 0, special)
                if count >= 0:
                    break
                room = -count
            out.append(buffer.raw[:count])
        return b"".join(out)

    def ends(self, id: int) -> bool:
        """Whether llama.cpp ends a text at this id."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, int(id)))


class _Batch:
    """llama.cpp's `llama_batch` over arrays of NumPy: filled without a Python step a token."""

    def __init__(self, lib: Any, size: int) -> None:
        self.token, self.pos, self.slot, one = (np.zeros(size, np.int32) for _ in range(4))
        self.logits = np.zeros(size, np.int8)
        one[:] = 1
        addresses = self.slot.ctypes.data + 4 * np.arange(size, dtype=np.uintp)
        self._kept = (one, addresses)  # C holds their addresses

        def at(array: np.ndarray, kind: Any) -> Any:
            return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))

        self.batch: Any = lib.llama_batch(
            n_tokens=0,
            token=at(self.token, ctypes.c_int32),
            pos=at(self.pos, ctypes.c_int32),
            n_seq_id=at(one, ctypes.c_int32),
            seq_id=at(addresses, ctypes.POINTER(ctypes.c_int32)),
            logits=at(self.logits, ctypes.c_int8),
        )


class LlamaStep(OneByOne):
    """See `step.Step`.

    Args:
        file: an open GGUF file.
        slots: texts at a time, at most 256.
        context: positions a text may have.
        threads: of the CPU; None: as many as torch uses.
        cache: what keys and values are kept as.

    Raises:
        UsageError: too many slots.
        ModelError: llama.cpp has no memory for so large a cache.
    """

    exact = False

    def __init__(
        self,
        file: LlamaFile,
        slots: int,
        context: int,
        threads: int | None = None,
        cache: Literal["float32", "float16"] = "float32",
    ) -> None:
        if not 1 <= slots <= _MOST_SLOTS:
            raise UsageError(
                f"slots={slots}", expected=f"1 to {_MOST_SLOTS} with llama.cpp", next=f"slots={_MOST_SLOTS}"
            )
        self._file, self._lib = file, file._lib
        threads = threads or torch.get_num_threads()
        params = self._lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max = slots * -(-context // 256) * 256, slots
        params.n_batch = params.n_ubatch = _BATCH
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = False  # each text attends over its own part only
        params.flash_attn_type = 0  # off: on a CPU it rounds queries to float16
        kind = self._lib.GGML_TYPE_F32 if cache == "float32" else self._lib.GGML_TYPE_F16
        params.type_k = params.type_v = kind
        self._context: Any = self._lib.llama_init_from_model(file._model, params)
        if not self._context:
            raise ModelError(
                f"llama.cpp cannot hold {slots} texts of {context} tokens",
                expected="memory for their keys and values",
                next="fewer slots",
            )
        ending = weakref.finalize(self, self._lib.llama_free, self._context)  # before the file's: it is older
        ending.atexit = False
        self.name = f"llama.cpp, {file.path.stem}, {threads} thread{'s' * (threads > 1)}"
        self._memory = self._lib.llama_get_memory(self._context)
        self._given = _Batch(self._lib, _BATCH)
        self._filled = [0] * slots  # places of each sequence that are in the cache

    def forward(
        self, tokens: Sequence[int], slots: Sequence[int], places: Sequence[int], wanted: Sequence[int]
    ) -> Tensor:
        """See `Step`."""
        first: dict[int, int] = {}
        for slot, place in zip(slots, places, strict=True):
            first.setdefault(slot, place)
        for slot, place in first.items():  # what stood there of an earlier text goes
            if place < self._filled[slot]:
                self._lib.llama_memory_seq_rm(self._memory, slot, place, -1)
        order = sorted(set(wanted))  # as llama.cpp gives them
        parts = [self._read(tokens, slots, places, order, start) for start in range(0, len(tokens), _BATCH)]
        found_WV = parts[0] if len(parts) == 1 else np.concatenate(parts)
        for slot, place in zip(slots, places, strict=True):
            self._filled[slot] = place + 1
        if list(wanted) != order:
            found_WV = found_WV[[order.index(r) for r in wanted]]
        return torch.from_numpy(found_WV)

    def _read(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        places: Sequence[int],
        order: Sequence[int],
        start: int,
    ) -> np.ndarray:
        """One call for at most `_BATCH` tokens from `start` on; the logits of those that are wanted."""
        end = min(start + _BATCH, len(tokens))
        asked = [r - start for r in order if start <= r < end]
        given, n = self._given, end - start
        given.token[:n], given.pos[:n], given.slot[:n] = (
            tokens[start:end],
            places[start:end],
            slots[start:end],
        )
        given.logits[:n] = 0
        given.logits[asked] = 1
        given.batch.n_tokens = n
        code = self._lib.llama_decode(self._context, given.batch)
        if code != 0:
            self._forget()
            raise ModelError(f"llama.cpp's llama_decode failed with {code}", expected="0")
        if not asked:
            return np.empty((0, self._file.vocabulary), np.float32)
        out = self._lib.llama_get_logits(self._context)
        # a copy: the next call, which may be this one's next part, writes over it
        return np.ctypeslib.as_array(out, (len(asked), self._file.vocabulary)).copy()

    def copy(self, source: int, targets: Sequence[int], length: int) -> None:
        """See `Step`. Sequences have caches of their own, so the whole of one is copied, then cut."""
        for slot in targets:
            if slot == source:
                continue
            self._lib.llama_memory_seq_rm(self._memory, slot, -1, -1)
            self._lib.llama_memory_seq_cp(self._memory, source, slot, -1, -1)
            self._lib.llama_memory_seq_rm(self._memory, slot, length, -1)
            self._filled[slot] = length

    def refresh(self) -> None:
        """See `Step`: a file does not change, but what was kept of texts is forgotten."""
        self._forget()

    def _forget(self) -> None:
        self._lib.llama_memory_clear(self._memory, True)
        self._filled = [0] * len(self._filled)
