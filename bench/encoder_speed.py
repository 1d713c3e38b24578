"""MLM + NSP pretraining in sequences of 128 a second, beside Transformers' BertForPreTraining and collator.

    python bench/encoder_speed.py [--rounds 6] [--vocab 30522 8192] [--no-compile] [--micro 32]

BERT-Mini (4 layers × 256), float32, batch 32, dropout 0.1, AdamW (fused), clipping at 1; contenders take
turns, one optimiser step each, every one in a process of its own. Both sides read the same rows of 128 tokens
(the embedded world's stories; the model's vocabulary is as large as said, whatever the tokenizer needs) and
mask them anew at each step: exnihilo in its `draw`, the peer in DataCollatorForLanguageModeling. exnihilo
computes the vocabulary's logits, and most of the last block, at masked positions only. Compile time is
counted apart.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from torch import nn

from common import Contender, matmul_peak, median, note, row, serve

B, T, L, D, H, F = 32, 128, 4, 256, 4, 1024
STORIES = 3000


def corpus(cache: Path) -> tuple[Any, Any, Any]:
    """(codec, objective, data set) of rows of T tokens."""
    from exnihilo import codec as codecs
    from exnihilo import data as datas
    from exnihilo.config import CodecConfig, DataConfig
    from exnihilo.objective.registry import create

    config = DataConfig.model_validate({"sources": [{"path": f"world:{STORIES}"}], "val_fraction": 0.0})
    codec = codecs.train(
        CodecConfig(kind="wordpiece", vocab_size=8192, lowercase=True),
        datas.texts(config, limit_bytes=3_000_000),
    )
    objective = create("mix", {"objectives": ["masked_lm", "next_sentence"]}, length=T)
    encode = partial(objective.encode_many, codec=codec)
    splits = datas.prepare(
        config,
        None,
        encode=encode,
        key=codec.hash,
        context=T,
        seed=0,
        cache=cache,
        pad_id=codec.pad_id,
        lookahead=objective.lookahead,
        join=objective.joins,
        overlap=0,
    )
    return codec, objective, splits.train


def exnihilo(vocab: int, compiled: bool, micro: int, parts: tuple[Any, Any, Any]) -> tuple[nn.Module, Any]:
    from exnihilo.config import ModelConfig
    from exnihilo.model import build
    from exnihilo.parallel.compile import compile_blocks
    from exnihilo.train.batches import Batches

    codec, objective, dataset = parts
    config = ModelConfig(
        family="bert", depth=L, width=D, heads=H, mlp_width=F, vocab_size=vocab, context=T, dropout=0.1
    )
    model = build(config, heads=objective.heads)
    if compiled:
        compile_blocks(model)
    batches = Batches(
        dataset, dataset.order(0), objective, rows_per_step=B, micro_rows=micro, codec=codec, seed=0
    )

    def step(number: int) -> None:
        made = [m.batch for m in batches.get(number).micros]
        counts = [objective.counts(batch) for batch in made]
        total = {key: sum(float(c.get(key, 0.0)) for c in counts) for key in ("mlm", "next")}
        for batch in made:
            sums = objective.sums(model, batch)
            loss = sum(sums[key] / total[key] for key in total)
            loss.backward()  # type: ignore[union-attr]

    return model, step


def transformers(vocab: int, compiled: bool, parts: tuple[Any, Any, Any], tokenizer: Any) -> tuple[Any, Any]:
    import numpy as np
    from transformers import BertConfig, BertForPreTraining, DataCollatorForLanguageModeling

    codec, objective, dataset = parts
    model = BertForPreTraining(
        BertConfig(
            vocab_size=vocab,
            hidden_size=D,
            num_hidden_layers=L,
            num_attention_heads=H,
            intermediate_size=F,
            max_position_embeddings=T,
        )
    )
    call = torch.compile(model) if compiled else model
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15)
    order = dataset.order(0)

    def step(number: int) -> None:
        columns = dataset.batch(order.rows(number, B))
        generator = np.random.default_rng(number)
        features = [
            {"input_ids": ids.tolist(), "token_type_ids": (np.arange(T) > T // 2).astype(int).tolist()}
            for ids in columns["tokens"]
        ]
        batch = collate(features)
        follows = torch.from_numpy(generator.integers(0, 2, B))
        call(**batch, next_sentence_label=follows).loss.backward()

    return model, step


def contender(name: str, vocab: int, micro: int, folder: Path) -> None:
    """The process of one contender."""
    parts = corpus(folder)
    torch.manual_seed(0)
    begun = time.perf_counter()
    if name.startswith("exnihilo"):
        from exnihilo.environment import keep_memory

        keep_memory()  # as `train` does
        model, work = exnihilo(vocab, name.endswith("+compile"), micro, parts)
    else:
        from transformers import AutoTokenizer

        parts[0].save(folder / name)
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        model, work = transformers(vocab, name.endswith("+compile"), parts, tokenizer)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    numbers = iter(range(1 << 30))

    def step() -> float:
        start = time.perf_counter()
        work(next(numbers))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    for _ in range(4):
        step()
    serve(step, {"setup": time.perf_counter() - begun, "padded": parts[2].report.padded})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--vocab", type=int, nargs="+", default=[30522, 8192])
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--micro", type=int, default=B, help="rows of a micro-batch of exnihilo")
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve:
        contender(a.serve, a.vocab[0], a.micro, a.folder)
        return
    names = ["exnihilo", "transformers", "exnihilo+compile", "transformers+compile"]
    names = names[:2] if a.no_compile else names
    with tempfile.TemporaryDirectory() as tmp:
        for vocab in a.vocab:
            given = ["--vocab", str(vocab), "--micro", str(a.micro), "--folder", tmp]
            compare(vocab, [Contender(name, given) for name in names], a.rounds)


def compare(vocab: int, runners: list[Contender], rounds: int) -> None:
    seconds: dict[str, list[float]] = {r.name: [] for r in runners}
    for number in range(rounds):
        for runner in runners:
            seconds[runner.name].append(runner.step())
        note(f"vocabulary {vocab}: round {number + 1}/{rounds}")
    speed = {name: B / median(values) for name, values in seconds.items()}
    theirs = max(v for name, v in speed.items() if name.startswith("transformers"))
    ours = max(v for name, v in speed.items() if name.startswith("exnihilo"))
    for runner in runners:
        name = runner.name
        row(
            "encoder-speed",
            vocab=vocab,
            contender=name,
            sequences_per_s=round(speed[name], 1),
            fastest=round(B / min(seconds[name]), 1),
            setup_s=round(runner.about["setup"], 1),
            padded=round(runner.about["padded"], 4),
        )
        runner.close()
    row(
        "encoder-speed",
        vocab=vocab,
        ratio_to_fastest_peer=round(ours / theirs, 2),
        peak_gflops=round(matmul_peak() / 1e9, 1),
    )


if __name__ == "__main__":
    main()
