"""``bits_per_byte``: how many bits the model needs for each byte of held-out texts.

::

    exnihilo eval RUN --suite bits_per_byte=books/ stride=64

Each document is read from its beginning, in windows of the model's context; with stride=N each token but the
first ones has at least context - N tokens before it, which is nearer to the truth and slower. No token is
predicted twice, and end-of-text is not predicted: so the figure does not depend on the tokenizer. Equal to
``bits_per_byte`` of lm-evaluation-harness. (`exnihilo eval RUN data=PATH` without a suite gives the loss as
training sees it: packed rows, ends of documents included.)

The interval is a bootstrap over documents, and over windows where there are fewer than 20 documents, which
supposes that windows of one document are as good as independent. The control is zlib, level 9.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator

from exnihilo.errors import UsageError
from exnihilo.eval.likelihood import token_logprobs, windows
from exnihilo.eval.suites import _world
from exnihilo.eval.suites._records import documents, is_world, taken
from exnihilo.eval.suites.base import Asked, Result, Suite, counted, nothing, ratio

_FEW = 20  # documents: below, windows are resampled
_AT_ONCE = 1 << 17  # tokens that are held as numbers of Python at a time


class BitsPerByte(Suite):
    summary = "bits for each byte of held-out texts, beside zlib's"
    options = frozenset({"stride"})

    def run(self, asked: Asked) -> Result:
        items: list[dict[str, float | str]] = []
        parts: list[tuple[float, int]] = []  # of each window: nats, bytes
        squeezer, squeezed = zlib.compressobj(9), 0
        if asked.codec.unit != "byte":
            raise UsageError(
                f"bits_per_byte of a model of {asked.codec.kind}",
                expected="a tokenizer of text: what these tokens stand for has no bytes",
                next="exnihilo eval RUN data=PATH, which counts bits a token",
            )
        sizes = asked.codec.token_bytes()
        asked.progress.start("bits_per_byte", unit="tokens")
        for texts in _batches(asked):
            rows = [([asked.codec.bos_id], ids) for _, _, ids in texts]
            found = token_logprobs(
                asked.model, rows, stride=asked.stride, progress=asked.progress, by="tokens"
            )
            for (place, text, ids), (logp_N, _) in zip(texts, found, strict=True):
                body = text.encode("utf-8", "replace")
                squeezed += len(squeezer.compress(body + b"\n"))
                items.append(
                    {
                        "document": place, "nats": -float(logp_N.sum(dtype="float64")), "tokens": len(ids),
                        "bytes": len(body), "begins": text[:80],
                    }
                )  # fmt: skip
                at = 0
                for window in windows([0], ids, asked.model.config.context, asked.stride):
                    end = at + window.predicted
                    parts.append((-float(logp_N[at:end].sum(dtype="float64")), int(sizes[ids[at:end]].sum())))
                    at = end
        asked.progress.stop()
        if not items:
            raise nothing(asked, "document")
        squeezed += len(squeezer.flush())
        nats, sizes_of = [float(i["nats"]) for i in items], [float(i["bytes"]) for i in items]
        tokens = sum(float(i["tokens"]) for i in items)
        bits, low, high = ratio([n / math.log(2) for n in nats], sizes_of, seed=asked.seed)
        if few := len(items) < _FEW:
            _, low, high = ratio([n / math.log(2) for n, _ in parts], [b for _, b in parts], seed=asked.seed)
        figures = {
            "bits_per_byte": bits, "bits_per_byte_low": low, "bits_per_byte_high": high,
            "zlib_bits_per_byte": 8 * squeezed / sum(sizes_of), "loss": sum(nats) / tokens,
            "tokens": tokens, "bytes": sum(sizes_of), "resampled_windows": float(len(parts) if few else 0),
        }  # fmt: skip
        return Result(counted(asked, figures, len(items)), list(items))


def read(asked: Asked) -> Iterator[tuple[str, str]]:
    """(place, text) of the documents of the data."""
    if is_world(asked.data):
        yield from ((f"world, story {n}", text) for n, text in enumerate(_world.stories(asked.data), 1))
        return
    for place, text in documents(asked.data, asked.drops):
        if text.strip():
            yield place, text
        else:
            asked.drops.add("blank documents", place)


def _batches(asked: Asked) -> Iterator[list[tuple[str, str, list[int]]]]:
    """(place, text, ids) of documents, together about `_AT_ONCE` tokens."""
    held: list[tuple[str, str, list[int]]] = []
    size = 0
    for place, text in taken(read(asked), asked.max_examples):
        ids = asked.codec.encode(text)
        if not ids:
            asked.drops.add("documents without tokens", place)
            continue
        held.append((place, text, ids))
        size += len(ids)
        if size >= _AT_ONCE:
            yield held
            held, size = [], 0
    if held:
        yield held
