"""Training tokens/s on documents of natural lengths: packed rows against Transformers' Trainer with its
collator.

    python bench/documents.py [--rounds 3] [--steps 12] [--context 512]

The same stories, tokenizer, model shape (6×256, vocabulary 4096) and float32 on both sides; both sides take
turns. exnihilo packs whole documents into rows without attention across them; the Trainer pads each batch of
16 to its longest document (DataCollatorForLanguageModeling, dynamic padding), documents longer than the
context are cut there. Only real tokens that are predicted count. Start-up, preparation and compilation are
left out on both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from common import data_folder, median, note, row

V, L, D, H, F, B = 4096, 6, 256, 4, 768, 16


def exnihilo(text: Path, tokenizer: Path, context: int, steps: int, out: Path) -> list[float]:
    """Predicted tokens/s of each logged stretch of steps, the first left out."""
    from exnihilo.config import RunConfig
    from exnihilo.train import run

    config = RunConfig.model_validate(
        {
            "data": {"sources": [{"path": str(text)}], "val_fraction": 0.0},
            "run": str(out),
            "codec": {"path": str(tokenizer)},
            "model": {
                "depth": L,
                "width": D,
                "heads": H,
                "mlp_width": F,
                "context": context,
                "vocab_size": V,
            },
            "optim": {"name": "adamw", "lr": 3e-4},
            "batch": {"tokens": B * context},
            "steps": steps,
            "compile": "off",
            "eval": {"samples": 0},
            "checkpoint": {"every": 10**9, "best": False},
        }
    )
    run(config, progress=False)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    train = [r for r in rows if r["kind"] == "train"]
    speeds = []
    for a, b in zip(train, train[1:], strict=False):
        if b["seconds"] > a["seconds"]:
            speeds.append((b["tokens"] - a["tokens"]) / (b["seconds"] - a["seconds"]))
    return speeds[1:]


def trainer(
    texts: list[str], tokenizer: Path, context: int, steps: int, out: Path
) -> tuple[list[float], float]:
    """(predicted tokens/s of each step, the first left out; share of positions that are padding)."""
    import torch
    from datasets import Dataset
    from transformers import (
        AutoTokenizer,
        DataCollatorForLanguageModeling,
        Qwen3Config,
        Qwen3ForCausalLM,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    tok = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=V, hidden_size=D, intermediate_size=F, num_hidden_layers=L, num_attention_heads=H,
        num_key_value_heads=H, head_dim=D // H, max_position_embeddings=context, tie_word_embeddings=True,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue] use_cache=False,
    )  # fmt: skip
    data = Dataset.from_dict({"text": texts})
    data = data.map(
        lambda batch: tok(
            [tok.bos_token + t + tok.eos_token for t in batch["text"]], truncation=True, max_length=context
        ),
        batched=True,
        remove_columns=["text"],
    )
    stamps: list[float] = []
    tokens: list[int] = []
    sizes: list[int] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            stamps.append(time.perf_counter())

    collate = DataCollatorForLanguageModeling(tok, mlm=False)

    def count(features: list[Any]) -> Any:
        batch = collate(features)
        tokens.append(int((batch["labels"][:, 1:] != -100).sum()))
        sizes.append(batch["labels"][:, 1:].numel())
        return batch

    arguments = TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=B, max_steps=steps, learning_rate=3e-4, use_cpu=True,
        report_to=[], save_strategy="no", logging_steps=10**6, disable_tqdm=True, seed=0,
    )  # fmt: skip
    Trainer(
        model=Qwen3ForCausalLM(config),
        args=arguments,
        train_dataset=data,
        data_collator=count,
        callbacks=[Clock()],
    ).train()
    speeds = [n / (b - a) for n, a, b in zip(tokens[1:], stamps, stamps[1:], strict=False)]
    return speeds[1:], 1 - sum(tokens) / sum(sizes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument(
        "--data", choices=["tinystories-sample", "childrens-stories"], default="tinystories-sample"
    )
    a = parser.parse_args()
    source = data_folder() / a.data / "train.txt"
    if not source.exists():
        note(f"skipped: {a.data} is not there; set EXNIHILO_DATA")
        return
    texts = [t.strip("\n") for t in source.read_text().split("<|endoftext|>\n") if t.strip()]
    from exnihilo.codec import train
    from exnihilo.config import CodecConfig

    ours: list[float] = []
    theirs: list[float] = []
    padding = 0.0
    with tempfile.TemporaryDirectory() as tmp:
        os.environ["EXNIHILO_CACHE"] = f"{tmp}/cache"
        codec = train(CodecConfig(kind="bpe", vocab_size=V), texts)
        codec.save(Path(tmp) / "tokenizer")
        for i in range(a.rounds):
            ours += exnihilo(source, Path(tmp) / "tokenizer", a.context, a.steps, Path(tmp) / f"run{i}")
            speeds, padding = trainer(
                texts, Path(tmp) / "tokenizer", a.context, a.steps, Path(tmp) / f"hf{i}"
            )
            theirs += speeds
            note(f"round {i + 1}/{a.rounds}: {median(ours):.0f} against {median(theirs):.0f} tokens/s")
    row(
        "documents",
        data=a.data,
        context=a.context,
        exnihilo=round(median(ours)),
        transformers_trainer=round(median(theirs)),
        trainer_padding=round(padding, 3),
        ratio=round(median(ours) / median(theirs), 2),
    )


if __name__ == "__main__":
    main()
