"""What a model of the user's own files has learned: bits per byte against baselines that learn less.

- random weights: the same network before training;
- unigram: each token by how often it occurs in the training split;
- zlib, xz: general compressors on the same held-out text, alone and, so that they too have seen the training
  text, as what the held-out text adds to a sample of it.
"""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from exnihilo.quickstart.chain import Chain

SAMPLE = 4_000_000  # bytes of training text that xz sees first
HELD_OUT = 2_000_000  # bytes of held-out text at most


def score(chain: Chain) -> list[dict[str, Any]]:
    """Fills the chain's figures; returns the tables to show."""
    from exnihilo.quickstart.world_scores import losses

    assert chain.random is not None and chain.base is not None
    found = losses(chain, {"random": chain.random, "base": chain.base})
    unigram = unigram_bits(chain)
    text = held_out_text(chain, HELD_OUT).encode("utf-8", "replace")
    before = training_text(chain, SAMPLE).encode("utf-8", "replace")
    packed = {
        "zlib -9": compressed_bits(text, b"", lambda data: zlib.compress(data, 9)),
        "xz -9": compressed_bits(text, b"", lambda data: lzma.compress(data, preset=9)),
        "xz -9, training text first": compressed_bits(
            text, before, lambda data: lzma.compress(data, preset=9)
        ),
    }
    chain.figures.update(losses=found, unigram_bits_per_byte=unigram, compressors_bits_per_byte=packed)
    rows = [
        ["random weights", f"{found['random']['bpb']:.3f}", f"{found['random']['loss']:.3f}"],
        ["unigram", f"{unigram:.3f}", ""],
        *([name, f"{bits:.3f}", ""] for name, bits in packed.items()),
        ["base model", f"{found['base']['bpb']:.3f}", f"{found['base']['loss']:.3f}"],
    ]
    size = f"{len(text):,} bytes of held-out text"
    return [
        {
            "title": "Held-out text: what it costs to write it down",
            "head": ["", "bits a byte", "nats a token"],
            "rows": rows,
            "note": f"less is better; {size} for the compressors, "
            f"{found['base']['tokens']:,.0f} tokens for the models",
        }
    ]


def compressed_bits(text: bytes, before: bytes, compress: Callable[[bytes], bytes]) -> float:
    """Bits per byte that `text` adds to the compressed `before`.

    >>> compressed_bits(b"a" * 10_000, b"", lambda data: zlib.compress(data, 9)) < 0.1
    True
    """
    if not text:
        return math.nan
    base = len(compress(before)) if before else 0
    return 8 * (len(compress(before + text)) - base) / len(text)


def unigram_bits(chain: Chain) -> float:
    """Bits per byte of the held-out tokens under the training split's token counts, add-one smoothed."""
    assert chain.codec is not None and chain.splits is not None and chain.splits.val is not None
    counts = np.ones(chain.codec.vocab_size)
    for tokens in _tokens(chain.splits.train, 4000):
        counts += np.bincount(tokens, minlength=len(counts))
    cost = -np.log2(counts / counts.sum())
    sizes = chain.codec.token_bytes()
    bits = total = 0.0
    for tokens in _tokens(chain.splits.val, 4000):
        bits += float(cost[tokens].sum())
        total += float(sizes[tokens].sum())
    return bits / total if total else math.nan


def _tokens(dataset: Any, rows: int) -> Any:
    """Predicted tokens of up to `rows` rows, spread evenly, batch by batch: what the model's loss is over."""
    from exnihilo.eval.loss import spread

    chosen = spread(dataset.rows, rows)
    for begin in range(0, len(chosen), 64):
        batch = dataset.batch(chosen[begin : begin + 64])
        doc = batch["doc"]
        predicted = (doc[:, 1:] == doc[:, :-1]) & (doc[:, 1:] >= 0)
        yield batch["tokens"][:, 1:][predicted]


def held_out_text(chain: Chain, limit: int) -> str:
    """Text of the held-out split, from its rows."""
    assert chain.splits is not None and chain.splits.val is not None
    return _text(chain, chain.splits.val, limit)


def training_text(chain: Chain, limit: int) -> str:
    """Text of the training split, from rows spread over it."""
    assert chain.splits is not None
    return _text(chain, chain.splits.train, limit)


def _text(chain: Chain, dataset: Any, limit: int) -> str:
    assert chain.codec is not None
    parts: list[str] = []
    size = 0
    rows = max(1, limit // (2 * dataset.context))
    for tokens in _tokens(dataset, rows):
        parts.append(chain.codec.decode(tokens.tolist()))
        size += len(parts[-1])
        if size >= limit:
            break
    return "".join(parts)[:limit]
