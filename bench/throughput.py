"""Training tokens/s at 6 layers × 256, 4 heads, vocabulary 4096, context 256, float32, batch 16, beside the
peers.

    python bench/throughput.py [--rounds N] [--no-compile] [CONTENDER ...]

Contenders take turns, one optimiser step each, every one in a process of its own (with the allocator and
threads that its users have). Peers: Transformers' Qwen3 (eager, compiled) and, where NANOGPT names the folder
that holds nanoGPT's model.py, nanoGPT (eager, compiled). All use AdamW (fused), clipping at 1 and random ids.
MFU is against the best float32 matrix product measured between the rounds. Compile time is counted apart and
printed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from common import Contender, matmul_peak, median, note, row, serve

V, T, B, L, D, H, F = 4096, 256, 16, 6, 256, 4, 768
Step = Callable[[Tensor], Tensor]


def flops_a_step(params: int) -> float:
    """The usual count: 6 a parameter and token, and causal attention (forward and backward, half of T×T)."""
    return 6 * params * B * T + 12 * L * D * T * T * B / 2


def exnihilo(compiled: bool, micro: int) -> tuple[nn.Module, Step]:
    from exnihilo.config import ModelConfig
    from exnihilo.model import build
    from exnihilo.objective.registry import create

    config = ModelConfig(depth=L, width=D, heads=H, mlp_width=F, vocab_size=V, context=T)
    model, objective = build(config), create("causal_lm")
    if compiled:
        from exnihilo.parallel.compile import compile_blocks

        compile_blocks(model)

    def loss(rows: Tensor) -> Tensor:
        batches = [{"tokens": part} for part in rows.split(micro)]
        count = sum(objective.counts(b)["nll"] for b in batches)
        total = torch.zeros(())
        for batch in batches:
            part = objective.sums(model, batch)["nll"] / count
            part.backward()
            total += part.detach()
        return total

    return model, loss


def qwen3(compiled: bool) -> tuple[nn.Module, Step]:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=F,
        num_hidden_layers=L,
        num_attention_heads=H,
        num_key_value_heads=H,
        head_dim=D // H,
        max_position_embeddings=T,
        tie_word_embeddings=True,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        use_cache=False,
    )
    model = Qwen3ForCausalLM(config)

    def forward(x: Tensor) -> Tensor:
        return model(input_ids=x, labels=x).loss

    return model, peer(forward, compiled, lambda rows: (rows[:, :-1].contiguous(),))


def nanogpt(compiled: bool) -> tuple[nn.Module, Step]:
    sys.path.insert(0, os.environ["NANOGPT"])
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    model = GPT(GPTConfig(block_size=T, vocab_size=V, n_layer=L, n_head=H, n_embd=D, dropout=0.0, bias=False))

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return model(x, y)[1]

    return model, peer(forward, compiled, lambda rows: (rows[:, :-1].contiguous(), rows[:, 1:].contiguous()))


def peer(forward: Any, compiled: bool, inputs: Callable[[Tensor], tuple[Tensor, ...]]) -> Step:
    call = torch.compile(forward) if compiled else forward

    def loss(rows: Tensor) -> Tensor:
        value = call(*inputs(rows))
        value.backward()
        return value.detach()

    return loss


MAKERS: dict[str, Callable[[int], tuple[nn.Module, Step]]] = {
    "exnihilo": lambda micro: exnihilo(False, micro),
    "transformers-qwen3": lambda micro: qwen3(False),
    "nanogpt": lambda micro: nanogpt(False),
    "exnihilo+compile": lambda micro: exnihilo(True, micro),
    "transformers-qwen3+compile": lambda micro: qwen3(True),
    "nanogpt+compile": lambda micro: nanogpt(True),
}


def contender(name: str, micro: int) -> None:
    """The process of one contender."""
    if name.startswith("exnihilo"):
        from exnihilo.environment import keep_memory

        keep_memory()  # as `train` does
    torch.manual_seed(0)
    start = time.perf_counter()
    model, loss = MAKERS[name](micro)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)

    def step() -> float:
        rows = torch.randint(0, V, (B, T + 1))
        begin = time.perf_counter()
        loss(rows)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - begin

    for _ in range(4):
        step()
    params = sum(p.numel() for p in model.parameters())
    serve(step, {"params": params, "setup": time.perf_counter() - start})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--micro", type=int, default=8, help="exnihilo: rows a micro-batch")
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("only", nargs="*")
    a = parser.parse_args()
    if a.serve:
        contender(a.serve, a.micro)
        return
    names = [n for n in MAKERS if not (a.no_compile and n.endswith("+compile"))]
    names = [n for n in names if "NANOGPT" in os.environ or not n.startswith("nanogpt")]
    runners = []
    for name in names:
        if a.only and name not in a.only:
            continue
        runners.append(Contender(name, ["--micro", str(a.micro)]))
        note(f"{name}: built and warm after {runners[-1].about['setup']:.1f} s")
    seconds: dict[str, list[float]] = {r.name: [] for r in runners}
    peaks = [matmul_peak()]
    for i in range(a.rounds):
        for runner in runners:
            seconds[runner.name].append(runner.step())
        peaks.append(matmul_peak())
        note(f"round {i + 1}/{a.rounds}")
    peak = median(peaks)
    row("throughput", contender="matmul-peak", gflops=round(peak / 1e9, 1))
    eager = median(seconds["transformers-qwen3"]) if "transformers-qwen3" in seconds else None
    for runner in runners:
        s = median(seconds[runner.name])
        row(
            "throughput",
            contender=runner.name,
            params=runner.about["params"],
            tokens_per_s=round(B * T / s),
            mfu=round(flops_a_step(runner.about["params"]) / s / peak, 3),
            seconds=round(s, 4),
            fastest=round(min(seconds[runner.name]), 4),
            setup_s=round(runner.about["setup"], 1),
            to_transformers_eager=round(eager / s, 2) if eager else None,
        )
        runner.close()


if __name__ == "__main__":
    main()
