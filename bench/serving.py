"""Serving under load: many streams of mixed lengths, some of which are left, against the offline engine.

    python bench/serving.py [--size 10M] [--clients 64] [--requests 192] [--rounds 3]

The server is `exnihilo serve` in a process of its own, on loopback; the clients, plain sockets, are this
process; the offline side is `Engine.run` over the same requests with as many slots, in a third. Server and
offline engine take turns. A tenth of the clients' requests are left in the middle. Then a burst above the
queue's bound.

Rows: tokens a second of both and their ratio (median of rounds), time to first token (p50, p99), requests
that failed, the server's memory after the first and the last round, slots and cache in use at the end, and
what the burst got. Sizes: decoders of random weights; tokens are drawn at temperature 1 with a seed a
request, so both sides write the same texts.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import Contender, median, note, row, serve

SIZES = {"3M": (192, 6, 3), "10M": (320, 8, 5), "30M": (512, 10, 8)}  # width, depth, heads
VOCABULARY, CONTEXT = 4096, 512


def build(size: str, folder: Path) -> int:
    """A run folder of random weights; returns its vocabulary."""
    from exnihilo import codec as codecs
    from exnihilo.config import CodecConfig, ModelConfig
    from exnihilo.interop import hf
    from exnihilo.model import build as make
    from exnihilo.model import resolve
    from exnihilo.world import World

    width, depth, heads = SIZES[size]
    codec = codecs.train(
        CodecConfig(kind="bpe", vocab_size=VOCABULARY), [story.text for story in World(0).stories(2000)]
    )
    config = ModelConfig(
        family="qwen3", width=width, depth=depth, heads=heads, mlp_width=4 * width * 2 // 3 // 64 * 64,
        context=CONTEXT,
    )  # fmt: skip
    model = make(resolve(config, codec.vocab_size), seed=0)
    hf.save(model, codec, folder, objective={"objective": "causal_lm", "facts": {}})
    return codec.vocab_size


def requests(count: int, vocabulary: int) -> list[dict[str, Any]]:
    """Mixed lengths: prompts of 8 to 128 ids, texts of 16 to 128 tokens."""
    draw = random.Random(0)
    return [
        {
            "prompt": [draw.randrange(8, vocabulary) for _ in range(draw.choice((8, 16, 32, 64, 128)))],
            "max_tokens": draw.choice((16, 32, 64, 128)),
            "seed": number,
            "temperature": 1.0,
        }
        for number in range(count)
    ]


def offline(folder: Path, count: int, slots: int) -> None:
    """The other side: `Engine.run`, one round a line."""
    from exnihilo import environment

    environment.prepare()
    from exnihilo.infer.engine import Engine
    from exnihilo.infer.request import Request
    from exnihilo.infer.sampling import Sampling
    from exnihilo.interop.load import load

    loaded = load(folder)
    vocabulary = loaded.codec.vocab_size
    engine = Engine(loaded.model, slots=slots, eos={loaded.codec.eos_id})
    asked = [
        Request(r["prompt"], r["max_tokens"], Sampling(temperature=1.0), seed=r["seed"])
        for r in requests(count, vocabulary)
    ]
    tokens = 0

    def step() -> float:
        nonlocal tokens
        start = time.perf_counter()
        done = engine.run(asked)
        seconds = time.perf_counter() - start
        tokens = sum(len(c.ids) for row in done for c in row)
        return seconds / tokens

    step()
    serve(step, {"tokens": tokens, "path": engine.path})


@dataclass
class Wave:
    """What a wave of requests got."""

    first: list[float] = field(default_factory=list)  # seconds to the first event
    done: int = 0
    left: int = 0
    failed: list[str] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)


async def ask(host: str, port: int, body: dict[str, Any], wave: Wave, leave_after: int | None) -> None:
    """One request over a connection of its own; read as it comes."""
    data = json.dumps({"model": "run", "stream": True, **body}).encode()
    began = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
    except OSError as error:
        wave.failed.append(repr(error))
        return
    try:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}connection: close\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        status = int((await reader.readline()).split()[1])
        wave.statuses[status] = wave.statuses.get(status, 0) + 1
        tail, events = b"", 0
        while part := await reader.read(1 << 16):
            found = part.count(b"data: {")
            if found and not events and status == 200:
                wave.first.append(time.perf_counter() - began)
            events += found
            tail = (tail + part)[-64:]
            if leave_after is not None and events >= leave_after:
                wave.left += 1
                return
        if status != 429 and b"data: [DONE]" not in tail:
            wave.failed.append(f"{status}: {tail!r}")
        else:
            wave.done += 1
    except OSError as error:
        wave.failed.append(repr(error))
    finally:
        writer.close()


async def load(host: str, port: int, clients: int, asked: list[dict[str, Any]]) -> Wave:
    """So many clients, each with a request at a time; a tenth of the requests is left after two events."""
    wave, todo = Wave(), iter(enumerate(asked))

    async def client() -> None:
        for number, body in todo:
            await ask(host, port, body, wave, 2 if number % 10 == 9 else None)

    await asyncio.gather(*(client() for _ in range(clients)))
    return wave


async def burst(host: str, port: int, count: int, body: dict[str, Any]) -> Wave:
    """All at once."""
    wave = Wave()
    await asyncio.gather(*(ask(host, port, body, wave, None) for _ in range(count)))
    return wave


def measure(host: str, port: int) -> dict[str, float]:
    """The server's counters."""
    import urllib.request

    with urllib.request.urlopen(f"http://{host}:{port}/metrics") as answer:
        text = answer.read().decode()
    return {
        name: float(value)
        for name, value in re.findall(r'^exnihilo_(\w+)\{model="run"\} (\S+)$', text, re.MULTILINE)
    }


def memory(process: int) -> float:
    """Resident MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=SIZES, default="10M")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve:
        offline(Path(a.folder), a.requests, a.clients)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        vocabulary = build(a.size, folder)
        words = ["--folder", str(folder), "--requests", str(a.requests), "--clients", str(a.clients)]
        other = Contender("offline", words)
        command = [sys.executable, "-m", "exnihilo", "serve", str(folder), "port=0", f"slots={a.clients}"]
        server = subprocess.Popen([*command, "queue=64"], stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split("/v1")[0].removeprefix("http://")
            host, port = address.rsplit(":", 1)
            run(a, requests(a.requests, vocabulary), other, server.pid, host, int(port))
        finally:
            server.terminate()
            server.wait(60)
            other.close()


def run(
    a: argparse.Namespace,
    asked: list[dict[str, Any]],
    other: Contender,
    process: int,
    host: str,
    port: int,
) -> None:
    """Rounds in turn, then a burst."""
    asyncio.run(load(host, port, a.clients, asked[: a.clients]))  # warm
    waves, rates, theirs, sizes = [], [], [], []
    for number in range(a.rounds):
        theirs.append(1 / other.step())
        before, start = measure(host, port)["generated_tokens_total"], time.perf_counter()
        waves.append(asyncio.run(load(host, port, a.clients, asked)))
        seconds = time.perf_counter() - start
        rates.append((measure(host, port)["generated_tokens_total"] - before) / seconds)
        sizes.append(memory(process))
        note(f"round {number + 1}/{a.rounds}: offline {theirs[-1]:,.0f}, served {rates[-1]:,.0f} tokens/s")
    first = sorted(t for wave in waves for t in wave.first)
    failed = [text for wave in waves for text in wave.failed]
    room = a.clients + 64
    above = asyncio.run(burst(host, port, room + 100, {**asked[0], "max_tokens": 32}))
    time.sleep(0.5)
    end = measure(host, port)
    row(
        "serving", size=a.size, clients=a.clients, requests=a.rounds * a.requests,
        offline_tokens_per_s=round(median(theirs)), served_tokens_per_s=round(median(rates)),
        ratio=round(median([x / y for x, y in zip(rates, theirs, strict=True)]), 3), path=other.about["path"],
        ttft_p50_ms=round(1000 * first[len(first) // 2], 1),
        ttft_p99_ms=round(1000 * first[int(0.99 * len(first))], 1),
        left=sum(wave.left for wave in waves), failed=len(failed), failures=failed[:3],
        memory_mb=[round(s, 1) for s in sizes], active_at_end=end["active"], kv_use_at_end=end["kv_use"],
        burst=room + 100, burst_bound=room, burst_statuses=above.statuses, burst_failed=len(above.failed),
    )  # fmt: skip


if __name__ == "__main__":
    main()
