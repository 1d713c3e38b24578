"""Preparation of raw text: tokens/s and memory from files to shards, against the bare `tokenizers` batch
encoder.

    python bench/prepare.py [--megabytes 60] [--rounds 3]

The text is the classic books (each a file), repeated with a mark of its own to the size asked for.
`tokenizers` gets all texts in memory and does nothing but encode them (encode_batch_fast, same vocabulary,
same threads); exnihilo reads the files, splits, encodes, and writes shards, packing plan and checksums into
an empty cache. Peak memory is that of the preparing process, for the size and for a quarter of it: flat if
they are alike.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import data_folder, median, note, row

PREPARE = """
import json, resource, sys, time
from functools import partial
from exnihilo import codec, data
from exnihilo.config import DataConfig
from exnihilo.objective.registry import create
texts, tokenizer = sys.argv[1:]
tok = codec.load(tokenizer)
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
objective = create("causal_lm")
config = DataConfig(sources=[{"path": texts}], val_fraction=0.01)
start = time.perf_counter()
encode = partial(objective.encode_many, codec=tok)
splits = data.prepare(config, None, encode=encode, key="bench", context=512, seed=0)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tokens = splits.train.tokens + (splits.val.tokens if splits.val else 0)
print(json.dumps({"seconds": seconds, "tokens": tokens, "grown_mb": (peak - base) / 1024}))
"""

BARE = """
import json, pathlib, sys, time
from tokenizers import Tokenizer
tok = Tokenizer.from_file(sys.argv[2] + "/tokenizer.json")
texts = [p.read_text() for p in sorted(pathlib.Path(sys.argv[1]).iterdir())]
start = time.perf_counter()
tokens = sum(len(e.ids) for e in tok.encode_batch_fast(texts, add_special_tokens=False))
print(json.dumps({"seconds": time.perf_counter() - start, "tokens": tokens}))
"""


def corpus(folder: Path, megabytes: float) -> int:
    """Files of about that size in all; returns the bytes written."""
    books = [p.read_text() for p in sorted((data_folder() / "classic-books" / "train").glob("*.txt"))]
    folder.mkdir()
    total, number = 0, 0
    while total < megabytes * 1e6:
        text = f"Copy {number // len(books)}.\n\n{books[number % len(books)]}"
        (folder / f"{number:05}.txt").write_text(text)
        total += len(text.encode())
        number += 1
    return total


def call(code: str, texts: Path, tokenizer: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "EXNIHILO_CACHE": cache}
        done = subprocess.run(
            [sys.executable, "-c", code, str(texts), str(tokenizer)], capture_output=True, text=True, env=env
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    if not (data_folder() / "classic-books").exists():
        note("skipped: classic-books is not there; set EXNIHILO_DATA")
        return
    from exnihilo.codec import train
    from exnihilo.config import CodecConfig

    with tempfile.TemporaryDirectory() as tmp:
        size = corpus(Path(tmp) / "all", a.megabytes)
        corpus(Path(tmp) / "quarter", a.megabytes / 4)
        books = (data_folder() / "classic-books" / "train").glob("*.txt")
        tokenizer = Path(tmp) / "tokenizer"
        train(CodecConfig(vocab_size=4096, sample_mb=10), (p.read_text() for p in sorted(books))).save(
            tokenizer
        )
        ours: list[float] = []
        bare: list[float] = []
        grown: list[float] = []
        for i in range(a.rounds):
            begin = time.perf_counter()
            one = call(PREPARE, Path(tmp) / "all", tokenizer)
            two = call(BARE, Path(tmp) / "all", tokenizer)
            ours.append(one["tokens"] / one["seconds"])
            bare.append(two["tokens"] / two["seconds"])
            grown.append(one["grown_mb"])
            note(f"round {i + 1}/{a.rounds}: {time.perf_counter() - begin:.0f} s")
        small = call(PREPARE, Path(tmp) / "quarter", tokenizer)["grown_mb"]
    row(
        "prepare",
        megabytes=round(size / 1e6),
        exnihilo_tokens_per_s=round(median(ours)),
        tokenizers_tokens_per_s=round(median(bare)),
        ratio=round(median(ours) / median(bare), 2),
        memory_mb=round(median(grown)),
        memory_mb_at_a_quarter=round(small),
    )


if __name__ == "__main__":
    main()
