"""Decoding on a CPU, tokens a second, beside Transformers' generate: greedy, 16 tokens given, 128 new ones.

    python bench/decode.py [--sizes 3M 10M 30M 100M] [--batch 1 32] [--rounds 3] [--compile] [--threads N]

Qwen3's shapes with a vocabulary of 4096. Contenders are processes of their own and take turns, one whole
generation each; each times itself, prompts included. `transformers` has the dynamic cache, `+static` the
static one, `+compile` (with --compile, a minute or more a shape) the static one and a compiled forward.
`llama.cpp` and `llama.cpp+q8_0` decode the exported GGUF files with llama.cpp's own defaults, one call of
llama_decode a step for all texts (left out, and said, where llama-cpp-python is not installed).

Beside each row the roofline: bytes that a step must read (matrices once, keys and values of each text) over
the bandwidth measured in this run on a buffer of that size, and products over the measured peak, whichever is
slower; two threads read a small model faster from their caches than PyTorch's sum of that buffer. The RL row
is a rollout as a GRPO step needs it: 8 prompts × 8 completions × 32 tokens, 0.8M parameters, sampled at
temperature 1, weights read anew.

    python bench/decode.py --run RUN [--draft RUN] [--text FILE] [--threads N]

measures guessing on a trained run instead: prompts of 32 tokens from a text (or held-out stories of the
embedded world), 64 new ones each, greedy and at temperature 0.8, with n-gram lookup and with a draft model of
the same tokenizer, beside none. `always` guesses at every step; `trial` is what `Engine(speculate=...)` does:
it takes the faster way.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.pop("OMP_WAIT_POLICY", None)  # PASSIVE costs llama.cpp four fifths of its speed

import torch

from common import Contender, matmul_peak, median, note, row, serve

SIZES = {"3M": (192, 6, 3), "10M": (320, 8, 5), "30M": (512, 10, 8), "100M": (768, 14, 12)}  # D, L, H
V, PROMPT, NEW, CONTEXT = 4096, 16, 128, 512
_BYTES = {"int8": 1.125, "q8_0": 1.0625}  # of a weight


def prompts(batch: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(5, V, (batch, PROMPT), generator=generator).tolist()


def exnihilo(size: str, batch: int, threads: int, int8: bool) -> tuple[Callable[[], Any], int]:
    from exnihilo.config import ModelConfig
    from exnihilo.infer import Sampling
    from exnihilo.infer.engine import Engine
    from exnihilo.infer.request import Request
    from exnihilo.model import build

    D, L, H = SIZES[size]
    config = ModelConfig(
        depth=L, width=D, heads=H, mlp_width=4 * D * 2 // 3 // 64 * 64, vocab_size=V, context=CONTEXT
    )
    model = build(config)
    engine = Engine(model, slots=batch, threads=threads, weights="int8" if int8 else "float32")
    asked = [Request(ids, NEW, Sampling(temperature=0)) for ids in prompts(batch)]

    def work() -> None:
        engine.refresh()  # forgets the prompts, too
        begun = time.perf_counter()
        found = engine.run(asked)
        took.append(time.perf_counter() - begun)
        assert all(len(c.ids) == NEW for (c,) in found)

    took: list[float] = []
    work.took = took  # type: ignore[attr-defined]
    return work, sum(p.numel() for p in model.parameters())


def transformers(size: str, batch: int, kind: str) -> tuple[Callable[[], Any], int]:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    D, L, H = SIZES[size]
    model: Any = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=V,
            hidden_size=D,
            intermediate_size=4 * D * 2 // 3 // 64 * 64,
            num_hidden_layers=L,
            num_attention_heads=H,
            num_key_value_heads=H,
            head_dim=D // H,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
        )
    ).eval()
    ids = torch.tensor(prompts(batch))
    options: dict[str, Any] = {
        "max_new_tokens": NEW,
        "min_new_tokens": NEW,
        "do_sample": False,
        "pad_token_id": 0,
    }
    options["attention_mask"] = torch.ones_like(ids)
    if kind != "dynamic":
        options["cache_implementation"] = "static"
    if kind == "compile":
        model.forward = torch.compile(model.forward, dynamic=False)  # type: ignore[method-assign]

    def work() -> None:
        with torch.inference_mode():
            out = model.generate(ids, **options)
        assert out.shape[1] == PROMPT + NEW

    return work, sum(p.numel() for p in model.parameters())


def llamacpp(size: str, batch: int, threads: int, kind: str) -> tuple[Callable[[], Any], int]:
    import tempfile
    from pathlib import Path

    import llama_cpp as lib
    import numpy as np

    from exnihilo import codec as codecs
    from exnihilo.config import CodecConfig, ModelConfig
    from exnihilo.infer.llamacpp import LlamaFile
    from exnihilo.interop.gguf import export_gguf
    from exnihilo.interop.load import Loaded
    from exnihilo.model import build

    D, L, H = SIZES[size]
    model = build(
        ModelConfig(
            depth=L, width=D, heads=H, mlp_width=4 * D * 2 // 3 // 64 * 64, vocab_size=V, context=CONTEXT
        )
    )
    codec = codecs.train(CodecConfig(kind="bytes"), ["text"])
    with tempfile.TemporaryDirectory() as folder:
        file = LlamaFile(export_gguf(Loaded(model, codec, Path(folder)), Path(folder), kind))
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.n_batch = batch * CONTEXT, batch, max(512, batch * PROMPT)
    params.n_threads = params.n_threads_batch = threads
    context: Any = lib.llama_init_from_model(file._model, params)
    room: Any = lib.llama_batch_init(params.n_batch, 0, 1)
    memory: Any = lib.llama_get_memory(context)
    given = prompts(batch)

    def read(tokens: list[tuple[int, int, int, bool]]) -> list[int]:
        for i, (token, place, text, wanted) in enumerate(tokens):
            room.token[i], room.pos[i], room.logits[i] = token, place, wanted
            room.n_seq_id[i], room.seq_id[i][0] = 1, text
        room.n_tokens = len(tokens)
        assert lib.llama_decode(context, room) == 0
        rows = [i for i, token in enumerate(tokens) if token[3]]
        found = [np.ctypeslib.as_array(lib.llama_get_logits_ith(context, i), (V,)) for i in rows]
        return [int(row.argmax()) for row in found]

    def work() -> None:
        lib.llama_memory_clear(memory, True)
        last = read([(t, i, b, i == PROMPT - 1) for b, ids in enumerate(given) for i, t in enumerate(ids)])
        for n in range(NEW - 1):
            last = read([(token, PROMPT + n, b, True) for b, token in enumerate(last)])
        assert len(last) == batch

    work.file = file  # type: ignore[attr-defined]  # or the model would go
    return work, sum(p.numel() for p in model.parameters())


def rollout(threads: int) -> Callable[[], Any]:
    from exnihilo.config import ModelConfig
    from exnihilo.infer import Sampling
    from exnihilo.infer.engine import Engine
    from exnihilo.infer.request import Request
    from exnihilo.model import build

    model = build(ModelConfig(depth=4, width=128, heads=4, mlp_width=352, vocab_size=128, context=256))
    engine = Engine(model, slots=64, threads=threads)
    asked = [Request([1, 5, 9, i, 7, 8, 3, 2], 32, Sampling(), n=8, number=8 * i) for i in range(8)]

    def work() -> None:
        engine.refresh()
        engine.run(asked)

    return work


def contender(name: str, size: str, batch: int, threads: int) -> None:
    """The process of one contender."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    begun, count = time.perf_counter(), 0
    if name == "rollout":
        work = rollout(threads)
    elif name.startswith("exnihilo"):
        work, count = exnihilo(size, batch, threads, name.endswith("int8"))
    elif name.startswith("llama.cpp"):
        work, count = llamacpp(size, batch, threads, name.partition("+")[2] or "f32")
    else:
        work, count = transformers(size, batch, name.partition("+")[2] or "dynamic")

    def step() -> float:
        start = time.perf_counter()
        work()
        own = getattr(work, "took", None)
        return own[-1] if own else time.perf_counter() - start

    step()
    serve(step, {"setup": time.perf_counter() - begun, "params": count})


def texts_of(path: str | None, count: int) -> list[str]:
    """Passages of a text file, spread over it; without one held-out stories of the embedded world."""
    from pathlib import Path

    if path is not None:
        whole = Path(path).read_text(encoding="utf-8")
        return [whole[i * len(whole) // count :][:2000].partition(" ")[2] for i in range(count)]
    from exnihilo.world import World
    from exnihilo.world.document import HELD_OUT
    from exnihilo.world.views import VIEWS

    world = World(0)
    return [next(iter(VIEWS["stories"].make(world.document(HELD_OUT + i))))["text"] for i in range(count)]


def guessing(run: str, draft: str | None, path: str | None, threads: int, rounds: int) -> None:
    """Rows of guessing on a trained run, one text at a time."""
    from exnihilo.infer import Sampling
    from exnihilo.infer.engine import Engine
    from exnihilo.infer.request import Request
    from exnihilo.interop.load import load

    loaded = load(run)
    codec, new = loaded.codec, 64
    given = [[codec.bos_id, *codec.encode(text)[:31]] for text in texts_of(path, 8)]
    how: dict[str, Any] = {"none": "off", "lookup": "lookup"}
    if draft is not None:
        how["draft"] = load(draft).model
    for temperature in (0.0, 0.8):
        asked = [
            Request(ids, new, Sampling(temperature=temperature), number=i) for i, ids in enumerate(given)
        ]
        engines: dict[str, Engine] = {}
        for name, kind in how.items():
            for mode in ("always", "trial") if name != "none" else ("",):
                engine = Engine(loaded.model, slots=1, threads=threads, speculate=kind)
                if mode == "always" and engine._drafts is not None:
                    engine._drafts._trial.begin = lambda: True  # type: ignore[method-assign]
                engines[f"{name} {mode}".strip()] = engine
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        said: dict[str, Any] = {}
        for number in range(rounds + 1):
            for name, engine in engines.items():
                engine.refresh()
                begun = time.perf_counter()
                said[name] = [c.ids for (c,) in engine.run(asked)]
                if number:
                    seconds[name].append(time.perf_counter() - begun)
        made = sum(map(len, said["none"]))
        base = median(seconds["none"])
        for name, engine in engines.items():
            drafted, right = engine.drafts
            row(
                "decode", guesses=name, temperature=temperature, texts=len(given), tokens=made,
                tokens_per_s=round(made / median(seconds[name])),
                faster=round(base / median(seconds[name]), 2),
                drafted=drafted, right=round(right / drafted, 3) if drafted else None,
                same_texts=said[name] == said["none"],
            )  # fmt: skip


def bandwidth(size: int) -> float:
    """Bytes a second that are read from a buffer of so many bytes, best of 20."""
    buffer, best = torch.ones(max(size // 4, 1 << 16)), 0.0
    for i in range(23):
        start = time.perf_counter()
        buffer.sum()
        if i >= 3:
            best = max(best, buffer.nbytes / (time.perf_counter() - start))
    return best


def roofline(size: str, batch: int, bytes_each: float, peak: float) -> float:
    """Tokens a second that memory and arithmetic allow at most."""
    D, L, _ = SIZES[size]
    weights = L * (4 * D * D + 3 * D * (4 * D * 2 // 3 // 64 * 64)) + V * D
    kept = 2 * L * D * 4 * (PROMPT + NEW / 2)
    step = max(
        (weights * bytes_each + batch * kept) / bandwidth(int(weights * bytes_each)),
        2 * weights * batch / peak,
    )
    return batch / step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--no-rollout", action="store_true")
    parser.add_argument("--run", metavar="RUN", help="measure guessing on a trained run instead")
    parser.add_argument("--draft", metavar="RUN", help="that writes drafts")
    parser.add_argument("--text", metavar="FILE", help="where prompts come from")
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve:
        contender(a.serve, a.sizes[0], a.batch[0], a.threads)
        return
    torch.set_num_threads(a.threads)
    if a.run:
        return guessing(a.run, a.draft, a.text, a.threads, a.rounds)
    peak = matmul_peak()
    names = ["exnihilo", "exnihilo+int8", "transformers", "transformers+static"]
    names += ["transformers+compile"] if a.compile else []
    if find_spec("llama_cpp") and find_spec("gguf"):
        names += ["llama.cpp", "llama.cpp+q8_0"]
    else:
        note("llama.cpp is left out: llama-cpp-python or gguf is not installed")
    for size in a.sizes:
        for batch in a.batch:
            compare(size, batch, names, a.rounds, a.threads, peak)
    if not a.no_rollout:
        runner = Contender("rollout", ["--threads", str(a.threads)])
        seconds = [runner.step() for _ in range(7)]
        row("decode", rollout_64x32_s=round(median(seconds), 4), fastest_s=round(min(seconds), 4))
        runner.close()


def compare(size: str, batch: int, names: list[str], rounds: int, threads: int, peak: float) -> None:
    given = ["--sizes", size, "--batch", str(batch), "--threads", str(threads)]
    runners = [Contender(name, given) for name in names]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for runner in runners:
            seconds[runner.name].append(runner.step())
        note(f"{size}, batch {batch}: round {number + 1}/{rounds}")
    speed = {name: batch * NEW / median(values) for name, values in seconds.items()}
    theirs = max(v for name, v in speed.items() if name.startswith("transformers"))
    plain = {"exnihilo": "llama.cpp", "exnihilo+int8": "llama.cpp+q8_0"}  # of the same precision
    for runner in runners:
        row(
            "decode",
            size=size,
            params=runner.about["params"],
            batch=batch,
            contender=runner.name,
            tokens_per_s=round(speed[runner.name]),
            roofline=round(roofline(size, batch, _BYTES.get(runner.name.partition("+")[2], 4), peak)),
            ratio_to_fastest_transformers=round(speed[runner.name] / theirs, 2),
            **(
                {"ratio_to_llamacpp": round(speed[runner.name] / speed[plain[runner.name]], 2)}
                if plain.get(runner.name) in speed
                else {}
            ),
            setup_s=round(runner.about["setup"], 1),
        )
        runner.close()


if __name__ == "__main__":
    main()
