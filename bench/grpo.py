"""Seconds of one GRPO step (rollout and update) on a CPU, against TRL's GRPOTrainer; the two take turns.

    python bench/grpo.py [--steps 12] [--threads N]

Both sides: the same Qwen3 of 0.8M parameters (4 layers × 128, 4 heads, vocabulary 128) with the same first
weights, 512 prompts of a few characters, 8 prompts × 8 completions × 32 tokens (none ends early),
temperature 1, reward: the number of different characters, advantages by mean and spread of the group, no
KL, AdamW, clipping at 1, float32. A step is all that lies between two rollouts: drawing, grading, the
update, and what each side writes (this one keeps all rollouts on disk). Each side is a process of its own;
the first two steps are not counted.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from common import Contender, median, note, row

PROMPTS, GROUP, NEW = 8, 8, 32
WARM = 2
GRADER = "def grade(example, completion):\n    return float(len(set(completion)))\n"


def asked() -> list[str]:
    return [f"{i}+{i * 7 % 31}=" for i in range(512)]


class Turns:
    """Lets one step pass a line of standard input; says how long it took."""

    def __init__(self, **about: Any) -> None:
        self.about, self.began = about, 0.0

    def wait(self) -> None:
        """Called once a step, always at the same place of it."""
        if self.began:
            print(json.dumps({"seconds": time.perf_counter() - self.began}), flush=True)
        else:
            print(json.dumps(self.about), flush=True)
        if not sys.stdin.readline():
            os._exit(0)
        self.began = time.perf_counter()


def start(folder: Path) -> None:
    """The weights and the tokenizer that both sides begin with."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    words = ["<pad>", "<eos>", *(chr(c) for c in range(32, 127))]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # type: ignore[attr-defined]
    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=1,
    )
    Qwen3ForCausalLM(shape).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")
    tokenizer.save_pretrained(folder)


def trl(folder: Path, steps: int) -> None:
    """TRL's trainer, which waits in its reward function."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    turns = Turns(name="trl", params=sum(p.numel() for p in model.parameters()))

    def reward(completions: list[str], **_: Any) -> list[float | None]:
        turns.wait()
        return [float(len(set(c))) for c in completions]

    with tempfile.TemporaryDirectory() as tmp:
        how = GRPOConfig(
            output_dir=tmp,
            per_device_train_batch_size=PROMPTS * GROUP,
            num_generations=GROUP,
            max_completion_length=NEW,
            max_steps=steps + WARM + 2,
            use_cpu=True,
            report_to=[],
            logging_steps=1000,
            save_strategy="no",
            beta=0.0,
            bf16=False,
            generation_kwargs={"min_new_tokens": NEW, "eos_token_id": None},
            disable_tqdm=True,
        )
        data = Dataset.from_list([{"prompt": p} for p in asked()])
        tokenizer = AutoTokenizer.from_pretrained(folder)
        GRPOTrainer(
            model=model, reward_funcs=reward, args=how, train_dataset=data, processing_class=tokenizer
        ).train()


def exnihilo(folder: Path, steps: int) -> None:
    """This project's training run, which waits where a step begins."""
    from exnihilo.config import (
        CheckpointConfig,
        DataConfig,
        EvalConfig,
        OptimConfig,
        RolloutConfig,
        RunConfig,
        ScheduleConfig,
        SourceConfig,
    )
    from exnihilo.train import run
    from exnihilo.train.source import sampler
    from exnihilo.train.source.rollout import Rollouts

    sampler.stops = lambda codec: frozenset()  # nothing ends a completion early, as on the other side
    turns = Turns(name="exnihilo")
    get: Callable[[Rollouts, int], Any] = Rollouts.get

    def waiting(self: Rollouts, step: int) -> Any:
        turns.wait()
        return get(self, step)

    Rollouts.get = waiting  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as tmp:
        tasks, grader = Path(tmp) / "tasks.jsonl", Path(tmp) / "distinct.py"
        tasks.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in asked()), encoding="utf-8")
        grader.write_text(GRADER, encoding="utf-8")
        run(
            RunConfig(
                recipe="rlvr",
                objective="rlvr",
                options={"preset": "field", "advantage": "std"},
                run=str(Path(tmp) / "run"),
                init=str(folder),
                data=DataConfig(sources=(SourceConfig(path=str(tasks)),), val_fraction=0.0),
                grader=f"{grader}:grade",
                rollout=RolloutConfig(prompts=PROMPTS, group=GROUP, max_new_tokens=NEW),
                optim=OptimConfig(
                    name="adamw", lr=1e-6, weight_decay=0.0, schedule=ScheduleConfig(name="constant")
                ),
                eval=EvalConfig(every=10**6, replies=0, samples=0),
                checkpoint=CheckpointConfig(every=10**6, best=False),
                steps=steps + WARM + 2,
                device="cpu",
                compile="off",
                threads=int(os.environ["BENCH_THREADS"]) if "BENCH_THREADS" in os.environ else None,
            ),
            progress=False,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, help="of this project's side; default: what it measures")
    parser.add_argument("--serve", choices=["trl", "exnihilo"])
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.serve:
        {"trl": trl, "exnihilo": exnihilo}[given.serve](given.folder, given.steps)
        return
    if given.threads:
        os.environ["BENCH_THREADS"] = str(given.threads)
    with tempfile.TemporaryDirectory() as tmp:
        start(Path(tmp))
        arguments = ["--folder", tmp, "--steps", str(given.steps)]
        sides = [Contender(name, arguments) for name in ("exnihilo", "trl")]
        seconds: dict[str, list[float]] = {side.name: [] for side in sides}
        for step in range(given.steps + WARM):
            for side in sides:
                took = side.step()
                if step >= WARM:
                    seconds[side.name].append(took)
            note(f"step {step + 1}/{given.steps + WARM}")
        for side in sides:
            side.process.kill()
        params = sides[1].about["params"]
    ours, theirs = median(seconds["exnihilo"]), median(seconds["trl"])
    ratios = sorted(b / a for a, b in zip(seconds["exnihilo"], seconds["trl"], strict=True))
    row(
        "grpo",
        params=params,
        prompts=PROMPTS,
        group=GROUP,
        new_tokens=NEW,
        steps=given.steps,
        exnihilo_s=round(ours, 4),
        trl_s=round(theirs, 4),
        ratio=round(theirs / ours, 2),
        ratio_each=[round(ratios[0], 2), round(ratios[-1], 2)],
        completion_tokens_per_s=round(PROMPTS * GROUP * NEW / ours),
    )


if __name__ == "__main__":
    main()
