"""Fine-tuning on sentences of natural lengths: packed rows against Transformers' Trainer with dynamic
padding.

    python bench/encoder_finetune.py [--data sst trec] [--rounds 3] [--epochs 3] [--grouped] [--init RUN]

The same BERT-Mini (4 layers × 256, dropout 0.1) with the same random weights and the same tokenizer
(WordPiece of 8192 pieces), written once and read by both sides; or with ``--init`` a pretrained encoder of
any size (random post-norm weights stay at chance for hundreds of steps, and leave it by luck). The same
sentences, epochs, AdamW, rate, warm-up and linear decay, float32, eager. exnihilo packs whole sentences into
rows of 128 without attention across them and takes as many rows a step as hold 32 sentences on average; the
Trainer takes 32 sentences and pads them to the longest (DataCollatorWithPadding). ``--grouped`` adds the
Trainer with sentences grouped by length.

Every run is a process of its own, the sides take turns, and each round has its seed and begins with another
side. Speed is examples over the seconds from the end of the first step to the end of the last: start-up,
preparation and evaluation are left out on both sides. Accuracy is that of the development split after the
last step; TREC has none, so a tenth of its training questions is held out, for both sides the same. Wants a
quiet machine: beside busy cores PyTorch's waiting threads, at their defaults in the peer, lose most.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from common import data_folder, median, note, row

T, B, V = 128, 32, 8192
LR, WARMUP, DECAY, BETAS, CLIP = 5e-4, 0.1, 0.01, (0.9, 0.999), 1.0
NEVER = 10**9
DATA: dict[str, dict[str, Any]] = {
    "sst": {"train": "sst/stsa.binary.train", "dev": "sst/stsa.binary.dev"},
    "trec": {
        "train": "trec/TREC.train",
        "settings": {"encoding": "latin-1", "fields": {"label": "coarse"}, "val_fraction": 0.1},
    },
    "cola": {
        "train": "cola/in_domain_train.tsv",
        "dev": "cola/in_domain_dev.tsv",
        "settings": {"columns": ["source", "label", "star", "text"]},
    },
}


# what both sides begin with --------------------------------------------------------------------------


def prepare(name: str, folder: Path, init: Path | None) -> dict[str, Any]:
    """Write train.jsonl, dev.jsonl and start/ (weights, tokenizer); returns figures of the data."""
    from exnihilo import data as datas
    from exnihilo.codec import train
    from exnihilo.config import CodecConfig, DataConfig, ModelConfig
    from exnihilo.interop import hf
    from exnihilo.model import build, resolve
    from exnihilo.objective.registry import create

    about, roles = DATA[name], ("text", "label")
    settings = about.get("settings", {})

    def source(part: str) -> DataConfig:
        path = str(data_folder() / about[part])
        return DataConfig.model_validate({"sources": [{"path": path}], **settings})

    val = source("dev") if "dev" in about else None
    parts = {
        "train": list(datas.examples(source("train"), val, "train", roles=roles)),
        "dev": list(datas.examples(source("train"), val, "val", roles=roles)),
    }
    for part, examples in parts.items():
        lines = [json.dumps({role: example[role] for role in roles}) for example in examples]
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    texts = [example["text"] for example in parts["train"]]
    labels = [str(example["label"]) for example in parts["dev"]]
    figures: dict[str, Any] = {
        "train": len(texts),
        "dev": len(labels),
        "majority": round(max(labels.count(x) for x in set(labels)) / len(labels), 4),
    }
    if init is not None:
        codec = pretrained(init, folder)
        return {**figures, **shape_of(codec.encode_batch(texts))}
    codec = train(CodecConfig(kind="wordpiece", vocab_size=V, lowercase=True), texts)
    objective = create("sentence_classification", {}, length=T)
    objective.facts = json.loads(json.dumps(objective.survey(parts["train"])))
    shape = ModelConfig(family="bert", preset="bert-mini", context=T, dropout=0.1)
    shape = resolve(shape.model_copy(update=objective.model_settings), codec.vocab_size)
    options = objective.config.model_dump(mode="json")
    known = {"objective": "sentence_classification", "options": options, "length": T}
    model = build(shape, heads=objective.heads, seed=0)
    hf.save(model, codec, folder / "start", objective={**known, "facts": objective.facts})
    return {**figures, **shape_of(codec.encode_batch(texts))}


def pretrained(init: Path, folder: Path) -> Any:
    """A pretrained encoder with a new classifier, written to start/; returns its codec."""
    import exnihilo as xn

    xn.train(
        "sentence_classification",
        data=str(folder / "train.jsonl"),
        val=str(folder / "dev.jsonl"),
        init=str(init),
        run=str(folder / "start"),
        steps=1,
        progress=False,
        **{"optim.lr": 1e-12, "control.seeds": 0},
    )
    return xn.load(folder / "start").codec


def shape_of(encoded: Any) -> dict[str, Any]:
    """Mean tokens of a sentence, and rows of T that hold B of them."""
    mean = statistics.fmean(min(T, len(ids) + 2) for ids in encoded)
    return {"mean_tokens": round(mean, 1), "rows": max(1, round(B * mean / T))}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# the two sides, each in a process of its own --------------------------------------------------------


def exnihilo(folder: Path, out: Path, a: argparse.Namespace) -> dict[str, Any]:
    import exnihilo as xn

    budget = {"steps": a.steps} if a.steps else {"epochs": a.epochs}
    result = xn.train(
        "sentence_classification",
        data=str(folder / "train.jsonl"),
        val=str(folder / "dev.jsonl"),
        init=str(folder / "start"),
        run=str(out),
        seed=a.seed,
        compile="off",
        dtype="fp32",
        progress=False,
        **budget,
        **{
            "batch.tokens": a.rows * T,
            "optim.name": "adamw",
            "optim.lr": LR,
            "optim.betas": list(BETAS),
            "optim.weight_decay": DECAY,
            "optim.clip": CLIP,
            "optim.schedule.name": "linear",
            "optim.schedule.warmup": WARMUP,
            "control.seeds": 0,
            "eval.every": NEVER,
            "checkpoint.every": NEVER,
            "checkpoint.best": False,
        },
    )
    rows = read(out / "metrics.jsonl")
    steps = [r for r in rows if r["kind"] == "train"]
    first, last = steps[0], steps[-1]
    sentences = (last["epoch"] - first["epoch"]) * len(read(folder / "train.jsonl"))
    data = json.loads((out / "data.json").read_text())
    return {
        "examples_per_s": sentences / (last["seconds"] - first["seconds"]),
        "accuracy": result.metrics["accuracy"],
        "steps": last["step"],
        "padding": data["train"]["padded"],
    }


def transformers(folder: Path, out: Path, a: argparse.Namespace, grouped: bool) -> dict[str, Any]:
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(folder / "start")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "start")
    known = {str(name): index for name, index in model.config.label2id.items()}

    def encoded(part: str) -> Any:
        rows = read(folder / f"{part}.jsonl")
        ids = tokenizer([r["text"] for r in rows], truncation=True, max_length=T)["input_ids"]
        both = zip(ids, rows, strict=True)
        return [{"input_ids": x, "labels": known[str(r["label"])]} for x, r in both]

    collate = DataCollatorWithPadding(tokenizer)
    real, whole = 0, 0

    def counting(features: list[dict[str, Any]]) -> Any:
        nonlocal real, whole
        batch = collate(features)
        real, whole = real + int(batch["attention_mask"].sum()), whole + batch["attention_mask"].numel()
        return batch

    stamps: list[tuple[float, int]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            stamps.append((time.perf_counter(), state.global_step))

    arguments = TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=B,
        per_device_eval_batch_size=B,
        num_train_epochs=a.epochs,
        max_steps=a.steps or -1,
        learning_rate=LR,
        warmup_steps=WARMUP,
        lr_scheduler_type="linear",
        weight_decay=DECAY,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=CLIP,
        optim="adamw_torch_fused",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=NEVER,
        disable_tqdm=True,
        seed=a.seed,
        train_sampling_strategy="group_by_length" if grouped else "random",
        remove_unused_columns=False,
    )  # fmt: skip
    train, dev = encoded("train"), encoded("dev")
    trainer = Trainer(
        model=model, args=arguments, train_dataset=train, data_collator=counting, callbacks=[Clock()]
    )
    trainer.train()
    padding = 1 - real / whole
    # steps of an epoch have B sentences, the last one what is left
    per_epoch = math.ceil(len(train) / B)

    def seen(step: int) -> int:
        epochs, rest = divmod(step, per_epoch)
        return epochs * len(train) + rest * B

    (begin, first), (end, last) = stamps[0], stamps[-1]
    found = trainer.predict(dev)  # type: ignore[arg-type]
    right = (found.predictions.argmax(-1) == found.label_ids).mean()  # type: ignore[union-attr]
    return {
        "examples_per_s": (seen(last) - seen(first)) / (end - begin),
        "accuracy": float(right),
        "steps": last,
        "padding": padding,
    }


# in turns ------------------------------------------------------------------------------------------


def one(name: str, folder: Path, seed: int, rows: int, a: argparse.Namespace) -> dict[str, Any]:
    """A run of one side in a process of its own."""
    command = [sys.executable, sys.argv[0], "--side", name, "--folder", str(folder), "--seed", str(seed)]
    command += ["--rows", str(rows), "--epochs", str(a.epochs), "--steps", str(a.steps)]
    environment = {**os.environ, "EXNIHILO_CACHE": str(folder / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    found = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not found:
        raise SystemExit(f"{name}: {done.stderr}")
    return json.loads(found[-1])


def race(name: str, folder: Path, a: argparse.Namespace) -> None:
    """Rounds on one data set, and its rows."""
    sides = ["exnihilo", "transformers_trainer", *(["transformers_trainer_grouped"] if a.grouped else [])]
    about = prepare(name, folder, a.init)
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for seed in range(a.rounds):
        turn = seed % len(sides)
        for side in sides[turn:] + sides[:turn]:
            figures = one(side, folder, seed, about["rows"], a)
            found[side].append(figures)
            rounded = {k: round(v, 4) for k, v in figures.items()}
            row("encoder-finetune", data=name, contender=side, seed=seed, **rounded)
    speed = {side: median([f["examples_per_s"] for f in runs]) for side, runs in found.items()}
    accuracy = {side: statistics.fmean(f["accuracy"] for f in runs) for side, runs in found.items()}
    row(
        "encoder-finetune",
        data=name,
        epochs=a.epochs if not a.steps else None,
        rounds=a.rounds,
        examples_per_s={side: round(value, 1) for side, value in speed.items()},
        accuracy={side: round(value, 4) for side, value in accuracy.items()},
        ratio=round(speed["exnihilo"] / speed["transformers_trainer"], 2),
        accuracy_difference=round(accuracy["exnihilo"] - accuracy["transformers_trainer"], 4),
        about=about,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=["sst", "trec"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=0, help="instead of epochs: for a short look")
    parser.add_argument("--init", type=Path, help="a pretrained encoder's run folder, for both sides")
    parser.add_argument("--grouped", action="store_true", help="also the Trainer with group_by_length")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=0, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.side:
        with tempfile.TemporaryDirectory(dir=a.folder) as tmp:
            out = Path(tmp) / "run"
            if a.side == "exnihilo":
                figures = exnihilo(a.folder, out, a)
            else:
                figures = transformers(a.folder, out, a, a.side.endswith("grouped"))
        print(json.dumps(figures), flush=True)
        return
    for name in a.data:
        if not (data_folder() / DATA[name]["train"]).exists():
            note(f"skipped: {name} is not there; set EXNIHILO_DATA")
            continue
        with tempfile.TemporaryDirectory() as tmp:
            race(name, Path(tmp), a)


if __name__ == "__main__":
    main()
