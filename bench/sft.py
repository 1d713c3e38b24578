"""Supervised fine-tuning on real instructions: packed rows against TRL's SFTTrainer, from the same weights on
the same batches.

    python bench/sft.py [--data alpaca llms-from-scratch] [--steps 40] [--packing] [--folder DIR]

A small Qwen3 (4 layers × 256, 4 heads, vocabulary 4096) is first trained on children's stories for
``--pretrain`` steps and written as a Hugging Face folder; both sides start from it, with its tokenizer and
chat template. A step has the same conversations on both sides: those that exnihilo packs into rows of 512
(4096 tokens a step). Loss on the assistant's turns only (TRL: assistant_only_loss), AdamW, one constant rate,
no decay, clipping at 1, float32, eager. TRL pads each batch to its longest conversation; its gradient
checkpointing, on by default, is switched off: it would only slow it down. ``--packing`` adds TRL with
packing, where on CPUs attention crosses conversations, with batches of its own.

Each side is a process of its own, they take turns step by step. Speed: tokens of the step's conversations
(padding does not count) over seconds, the first two steps left out. Validation loss: of the weights that both
sides saved after the last step, by one loop over each conversation alone, in Transformers."""

# pyright: reportMissingImports=false
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

from common import Contender, data_folder, median, note, row, serve, turns

V, L, D, H, T = 4096, 4, 256, 4, 512
TOKENS, LR, BETAS, CLIP = 4096, 1e-3, (0.9, 0.95), 1.0
WARM = 2  # steps that are not timed
STORIES = "childrens-stories/train.txt"
DATA: dict[str, dict[str, str]] = {
    "alpaca": {"train": "alpaca-5k/alpaca_train.json"},
    "llms-from-scratch": {
        "train": "llms-from-scratch/instruction-data.train.json",
        "val": "llms-from-scratch/instruction-data.valid.json",
    },
}


# what both sides begin with --------------------------------------------------------------------------


def pretrain(folder: Path, steps: int) -> None:
    """Write start/: weights, tokenizer, chat template."""
    import exnihilo as xn
    from exnihilo.codec.chat import chat
    from exnihilo.interop.load import load

    xn.train(
        "gpt",
        data=str(data_folder() / STORIES),
        run=str(folder / "start"),
        steps=steps,
        compile="off",
        progress=False,
        overrides=[
            f"codec.vocab_size={V}",
            f"model.depth={L}",
            f"model.width={D}",
            f"model.heads={H}",
            f"model.context={T}",
            f"batch.tokens={TOKENS}",
            "eval.samples=0",
        ],
    )
    template = chat(load(folder / "start").codec).masked_template
    (folder / "start" / "masked.jinja").write_text(template, encoding="utf-8")


def prepare(name: str, folder: Path, steps: int) -> dict[str, Any]:
    """Write train.jsonl, val.jsonl (conversations that fit a row) and batches.json: those of each step."""
    from exnihilo import data as datas
    from exnihilo.codec.chat import chat
    from exnihilo.config import DataConfig
    from exnihilo.interop.load import load

    def source(part: str) -> DataConfig:
        return DataConfig.model_validate({"sources": [{"path": str(data_folder() / DATA[name][part])}]})

    val = source("val") if "val" in DATA[name] else None
    talk = chat(load(folder / "start").codec)
    for side in ("train", "val"):
        found = datas.examples(source("train"), val, side, roles=("messages",), view="dialogues")
        kept = [e["messages"] for e in found if len(talk.render(e["messages"]).ids) <= T]
        lines = [json.dumps({"messages": messages}) for messages in kept]
        (folder / f"{name}-{side}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    splits, order, rows = laid(name, folder)
    part = splits.train.parts[0]
    start, items, numbers = part.pack["row_start"], part.pack["doc"], part.store["index"]
    batches = []
    for step in range(steps):
        chosen = order.rows(step, rows)
        batches.append([int(numbers[i]) for r in chosen for i in items[start[r] : start[r + 1]]])
    (folder / f"{name}-batches.json").write_text(json.dumps(batches))
    return {
        "conversations": splits.train.documents,
        "a_step": round(sum(map(len, batches)) / steps, 1),
        "padding": round(splits.report.train.padded, 4),
    }


def laid(name: str, folder: Path) -> tuple[Any, Any, int]:
    """(splits, order of the rows, rows a step) as exnihilo lays the conversations out."""
    from functools import partial

    from exnihilo import data as datas
    from exnihilo.config import DataConfig
    from exnihilo.interop.load import load
    from exnihilo.objective.registry import create
    from exnihilo.train.facts import laying

    objective, codec = create("sft", length=T), load(folder / "start").codec
    source = {"sources": [{"path": str(folder / f"{name}-train.jsonl")}], "val_fraction": 0.0}
    splits = datas.prepare(
        DataConfig.model_validate(source),
        None,
        encode=partial(objective.encode_many, codec=codec),
        key=f"sft-{codec.hash}",
        context=T,
        seed=0,
        pad_id=codec.pad_id,
        cache=folder / "cache",
        **laying(objective),
    )
    return splits, splits.train.order(0), TOKENS // T


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# the two sides, each in a process of its own --------------------------------------------------------


def exnihilo(name: str, folder: Path, out: Path, micro: int) -> None:
    from exnihilo.environment import keep_memory

    keep_memory()  # as `train` does
    import torch

    from exnihilo.config import OptimConfig
    from exnihilo.interop import hf
    from exnihilo.interop.load import load
    from exnihilo.objective.registry import create
    from exnihilo.optim import create as optimiser
    from exnihilo.parallel.mesh import World
    from exnihilo.train.batches import Batches
    from exnihilo.train.gradients import step_gradients

    splits, order, rows = laid(name, folder)
    loaded = load(folder / "start")
    model, objective = loaded.model.train(), create("sft", length=T)
    settings = OptimConfig(name="adamw", lr=LR, betas=BETAS, weight_decay=0.0, clip=CLIP)
    optimizer = optimiser(model, settings, model.config)
    batches = Batches(splits.train, order, objective, rows_per_step=rows, micro_rows=micro)
    world, number, tokens = World.start("cpu"), 0, 0

    def step() -> float:
        nonlocal number, tokens
        begin = time.perf_counter()
        data = batches.get(number)
        step_gradients(model, objective, data.micros, world, max_norm=CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        number += 1
        return time.perf_counter() - begin

    serve(step, {"threads": torch.get_num_threads()})
    batches.close()
    hf.save(model.eval(), loaded.codec, out)


def trl(name: str, folder: Path, out: Path, packing: bool) -> None:
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "start")
    tokenizer.chat_template = (folder / "start" / "masked.jinja").read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(folder / "start", attn_implementation="sdpa")
    batches = json.loads((folder / f"{name}-batches.json").read_text())

    class Same(SFTTrainer):
        """The conversations of each step are given."""

        def get_train_dataloader(self) -> Any:
            if packing:
                return super().get_train_dataloader()
            assert self.train_dataset is not None
            data: Any = self.train_dataset
            return DataLoader(data, batch_sampler=batches, collate_fn=self.data_collator)

    arguments = SFTConfig(
        output_dir=str(out / "trainer"),
        per_device_train_batch_size=TOKENS // T,
        max_steps=len(batches),
        learning_rate=LR,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=CLIP,
        max_length=T,
        assistant_only_loss=True,
        packing=packing,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=10**9,
        disable_tqdm=True,
        seed=0,
    )
    trainer = Same(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(read(folder / f"{name}-train.jsonl")),
        processing_class=tokenizer,
        callbacks=[turns()],
    )
    trainer.train()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


# what is compared ------------------------------------------------------------------------------------


def loss_of(model_folder: Path, folder: Path, name: str) -> float:
    """Mean nats a trained token over the validation conversations, each alone, in Transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "start")
    tokenizer.chat_template = (folder / "start" / "masked.jinja").read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(model_folder).eval()
    total, count = 0.0, 0
    for example in read(folder / f"{name}-val.jsonl"):
        found: Any = tokenizer.apply_chat_template(
            example["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        ids = torch.tensor(found["input_ids"])
        kept = torch.tensor(found["assistant_masks"]).bool()[1:]
        with torch.no_grad():
            log_p = model(ids[None]).logits[0, :-1].log_softmax(-1)
        total -= float(log_p.gather(1, ids[1:, None])[kept].sum())
        count += int(kept.sum())
    return total / count


def lengths(name: str, folder: Path) -> list[int]:
    """Tokens of the conversations of each step."""
    from exnihilo.codec.chat import chat
    from exnihilo.interop.load import load

    talk = chat(load(folder / "start").codec)
    sizes = [len(talk.render(e["messages"]).ids) for e in read(folder / f"{name}-train.jsonl")]
    return [
        sum(sizes[i] for i in batch) for batch in json.loads((folder / f"{name}-batches.json").read_text())
    ]


def race(name: str, folder: Path, a: argparse.Namespace) -> None:
    """One data set, and its row."""
    about = prepare(name, folder, a.steps)
    tokens = lengths(name, folder)
    sides = ["exnihilo", "trl", *(["trl+packing"] if a.packing else [])]
    outs = {side: folder / f"{name}-{side}" for side in sides}
    runners = []
    for side in sides:
        arguments = ["--set", name, "--folder", str(folder), "--micro", str(a.micro)]
        runners.append(Contender(side, arguments))
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(a.steps):
        turn = number % len(runners)
        for runner in runners[turn:] + runners[:turn]:
            seconds[runner.name].append(runner.step())
        note(f"step {number + 1}/{a.steps}")
    for runner in runners:
        runner.close()
    speed = {
        side: median([n / s for n, s in zip(tokens[WARM:], found[WARM:], strict=True)])
        for side, found in seconds.items()
        if side != "trl+packing"
    }
    if a.packing:  # its batches are its own: full rows
        speed["trl+packing"] = TOKENS / median(seconds["trl+packing"][WARM:])
    before = loss_of(folder / "start", folder, name)
    losses = {side: loss_of(outs[side], folder, name) for side in sides}
    row(
        "sft",
        data=name,
        steps=a.steps,
        **about,
        tokens_per_s={side: round(value) for side, value in speed.items()},
        ratio=round(speed["exnihilo"] / speed["trl"], 2),
        val_loss_before=round(before, 4),
        val_loss={side: round(value, 4) for side, value in losses.items()},
        difference=round(losses["exnihilo"] / losses["trl"] - 1, 5),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pretrain", type=int, default=60, help="steps on stories before")
    parser.add_argument("--packing", action="store_true", help="also TRL with packing")
    parser.add_argument("--micro", type=int, default=8, help="exnihilo: rows a micro-batch")
    parser.add_argument("--folder", type=Path, help="where to keep the start and the data; default: nowhere")
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    parser.add_argument("--set", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve:
        out = a.folder / f"{a.set}-{a.serve}"
        if a.serve == "exnihilo":
            exnihilo(a.set, a.folder, out, a.micro)
        else:
            trl(a.set, a.folder, out, a.serve == "trl+packing")
        return
    with tempfile.TemporaryDirectory() as tmp:
        folder = a.folder or Path(tmp)
        os.environ["EXNIHILO_CACHE"] = str(folder / "cache")
        for name in a.data:
            if not all((data_folder() / path).exists() for path in (STORIES, *DATA[name].values())):
                note(f"skipped: {name} is not there; set EXNIHILO_DATA")
                continue
            if not (folder / "start" / "masked.jinja").exists():
                pretrain(folder, a.pretrain)
            race(name, folder, a)


if __name__ == "__main__":
    main()
