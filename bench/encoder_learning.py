"""What an encoder learns in a fixed time: MLM + NSP beside Transformers', and what that is worth downstream.

    python bench/encoder_learning.py all [--minutes 15] [--out runs/encoder-learning]
    python bench/encoder_learning.py prepare | pretrain | peer | finetune [--tasks ...] [--seeds 3]

`prepare` trains the tokenizer (WordPiece of 8192 pieces, lower case) on the classic books, divides them into
pairs of 128 tokens, and draws pairs and masks of the held-out books, once. `pretrain` runs exnihilo's recipe
`bert` for so many minutes of training; `peer` trains Transformers' BertForPreTraining of the same shape as
long, in a plain loop with its collator (DataCollatorForLanguageModeling) on the same pairs, tokenised and
drawn beforehand and outside its time; dropout 0, float32 and 32 sequences a step on both sides. Both end as
folders of transformers, and one judge, Transformers' own model, measures both on the held-out books: the same
rows, pairs and masks.

`finetune` trains each downstream task with exnihilo, with the pretraining and without (the same shape and
tokenizer, random weights), at the rates of RATES: each side takes the rate that is best with seed 0 on the
development split, then the other seeds. Mean, 95% interval (Student's t), and the majority baseline. Peer
weights can be fine-tuned the same way: ``--sides without with peer``.

All is kept in ``--out`` and each finished part is done once: a call that was cut goes on. Another pretraining
needs another ``--out``. The RATES stand here before any result: they are about the package's own defaults at
this width for pretrained and for random weights. The peer's rate is a usual one for AdamW at this width.
The two pretrainings run one after the other by the clock, so they want a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from common import data_folder, note, row

T, B, V, NEVER = 128, 32, 8192, 10**9
RATES = (3e-4, 1e-3)
PEER: dict[str, Any] = {"lr": 1e-3, "warmup": 0.05, "weight_decay": 0.01, "betas": (0.9, 0.999), "clip": 1.0}
BOOKS = "classic-books"
QUIET = ["control.seeds=0", f"eval.every={NEVER}", f"checkpoint.every={NEVER}", "checkpoint.best=false"]


@dataclass(frozen=True)
class Task:
    """A downstream set. `published`: figures of comparable models, all with far more pretraining."""

    recipe: str
    files: str  # with {} for the part
    metric: str
    epochs: int
    published: str = ""
    dev: str = "dev"
    words: tuple[str, ...] = ()  # settings of both sides

    def path(self, part: str) -> Path:
        return data_folder() / self.files.format(part)


BIG_QA = "BERT-Base, 87,000 questions of the official split: EM 81.2, F1 88.4"
SST = "SST-2: BERT-Tiny 83.2, BERT-Mini 85.9 (QNLI: BERT-Tiny 81.5)"
STS = "STS-B: Pearson 74.3 of BERT-Tiny, 75.4 of BERT-Mini"
COMPARE = (
    "data.columns=genre,file,year,id,label,a,b",
    *("options.kind=regression", "options.pooling=compare", "model.dropout=0", "batch.tokens=1024"),
)
MATCH = ("options.match=true", "model.dropout=0")
TASKS = {
    "tagging": Task(
        "token_tagging", "ud-english-ewt/en_ewt-ud-{}.conllu", "accuracy", 3, "full parsers about 0.95-0.97"
    ),
    "pairs": Task("pair_classification", "sts-b/sts-{}.csv", "pearson", 4, STS, words=COMPARE),
    "entailment": Task("pair_classification", "snli-cad/all_combined/{}.tsv", "accuracy", 4),
    "qa": Task("span_qa", "squad-dev-resplit/{}-v1.1.json", "f1", 2, BIG_QA, dev="valid", words=MATCH),
    "sentences": Task("sentence_classification", "sst/stsa.binary.{}", "accuracy", 3, SST),
}


# files and processes ---------------------------------------------------------------------------------


def write_json(path: Path, value: Any) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, indent=1), encoding="utf-8")
    part.replace(path)
    return value


def read_json(path: Path, made_by: str) -> Any:
    if not path.exists():
        raise SystemExit(f"{path} is not there: run the stage {made_by} first")
    return json.loads(path.read_text(encoding="utf-8"))


def exnihilo(out: Path, *words: str) -> dict[str, Any]:
    """The figures of a call of the command line; what it says is appended to OUT/log.txt."""
    environment = {**os.environ, "EXNIHILO_CACHE": str(out / "cache")}
    command = [sys.executable, "-m", "exnihilo", *words, "--json"]
    with (out / "log.txt").open("a", encoding="utf-8") as log:
        log.write(f"\n$ exnihilo {' '.join(words)}\n")
        log.flush()
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=log, text=True, check=False, env=environment
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"exnihilo {words[0]} ended with {done.returncode}: see {out / 'log.txt'}")
    figures = json.loads(lines[-1])
    if figures.get("interrupted"):
        raise SystemExit("stopped; the same call goes on")
    return figures


def shape_words(setup: dict[str, Any]) -> list[str]:
    depth, width, heads = setup["shape"]
    shape = {"family": "bert", "depth": depth, "width": width, "heads": heads, "context": T}
    return [f"model.{name}={value}" for name, value in shape.items()]


# pairs -----------------------------------------------------------------------------------------------


def pieces(columns: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each pair of packed rows alone: tokens, segment, targets where there are masks, and its label."""
    import numpy as np

    named = [name for name in ("tokens", "segment", "targets") if name in columns]
    for b in range(len(columns["tokens"])):
        real = columns["doc"][b] >= 0
        starts = np.flatnonzero((columns["pos"][b] == 0) & real)
        for start, end in zip(starts, [*starts[1:], int(real.sum())], strict=True):
            cut = {name: columns[name][b, start:end] for name in named}
            yield {**cut, "label": int(columns["label"][b, start])}


def keep(path: Path, items: list[dict[str, Any]]) -> None:
    """Pairs as flat arrays in one file."""
    import numpy as np

    arrays: dict[str, Any] = {
        name: np.concatenate([item[name] for item in items]).astype(np.int32)
        for name in items[0]
        if name != "label"
    }
    arrays["end"] = np.cumsum([len(item["tokens"]) for item in items])
    arrays["label"] = np.array([item["label"] for item in items])
    np.savez(path, **arrays)


def kept(path: Path) -> list[dict[str, Any]]:
    import numpy as np

    if not path.exists():
        raise SystemExit(f"{path} is not there: run the stage prepare first")
    with np.load(path) as file:
        arrays = dict(file)
    labels, cuts = arrays.pop("label").tolist(), arrays.pop("end")[:-1]
    parts = {name: np.split(array, cuts) for name, array in arrays.items()}
    return [
        {**{name: part[i] for name, part in parts.items()}, "label": label} for i, label in enumerate(labels)
    ]


def prepare(out: Path, a: argparse.Namespace) -> None:
    """OUT/tokenizer, OUT/pairs.npz (of the training books) and OUT/heldout.npz (with masks)."""
    if (out / "setup.json").exists():
        return
    import numpy as np

    from exnihilo import codec as codecs
    from exnihilo import data as datas
    from exnihilo.config import DataConfig
    from exnihilo.eval.loss import spread
    from exnihilo.objective import draws
    from exnihilo.objective.registry import create

    out.mkdir(parents=True, exist_ok=True)
    train, valid = str(data_folder() / BOOKS / a.files), str(data_folder() / BOOKS / "valid")
    shutil.rmtree(out / "tokenizer", ignore_errors=True)
    codec_words = ["codec.kind=wordpiece", f"codec.vocab_size={V}", "codec.lowercase=true"]
    exnihilo(out, "tokenizer", "train", f"data={train}", f"out={out / 'tokenizer'}", *codec_words)
    codec = codecs.load(out / "tokenizer")
    objective = create("mix", {"objectives": ["masked_lm", "next_sentence"]}, length=T)
    pairing = create("next_sentence", {}, length=T)

    def encode(examples: Any) -> Any:
        return objective.encode_many(examples, codec)

    splits = datas.prepare(
        DataConfig.model_validate({"sources": [{"path": train}]}),
        DataConfig.model_validate({"sources": [{"path": valid}]}),
        encode=encode,
        key=f"pairs-{codec.hash}",
        context=T,
        seed=0,
        cache=out / "cache",
        pad_id=codec.pad_id,
        lookahead=objective.lookahead,
        join=objective.joins,
        overlap=0,
    )
    assert splits.val is not None

    def drawn(dataset: Any, ids: Any, kind: Any, **more: int) -> list[dict[str, Any]]:
        parts = np.array_split(ids, -(-len(ids) // 256))
        return [p for part in parts for p in pieces(draws.draw(kind, dataset, part, codec=codec, **more))]

    pairs = drawn(splits.train, np.arange(splits.train.rows), pairing, seed=0, step=0)
    heldout = drawn(splits.val, spread(splits.val.rows, a.heldout), objective)
    keep(out / "pairs.npz", pairs)
    keep(out / "heldout.npz", heldout)
    setup = {"shape": a.shape, "train": train, "valid": valid, "pairs": len(pairs), "heldout": len(heldout)}
    write_json(out / "setup.json", setup)
    note(f"{len(pairs):,} pairs to train on, {len(heldout):,} held out")


# pretraining -----------------------------------------------------------------------------------------


def pretrain(out: Path, a: argparse.Namespace) -> None:
    """exnihilo's side, in OUT/pretrained."""
    setup = read_json(out / "setup.json", "prepare")
    run, done = out / "pretrained", out / "pretrained.json"
    if not done.exists():
        words = ["train", "--resume", f"run={run}"]
        if not (run / "config.toml").exists():
            shutil.rmtree(run, ignore_errors=True)
            words = [
                "train",
                "bert",
                f"data={setup['train']}",
                f"val={setup['valid']}",
                f"run={run}",
                f"minutes={a.minutes}",
                f"codec.path={out / 'tokenizer'}",
                f"batch.tokens={B * T}",
                f"eval.every={NEVER}",
                "model.dropout=0",
                "dtype=fp32",
                *shape_words(setup),
            ]
        figures = exnihilo(out, *words)
        found = {
            "minutes": round(figures["seconds"] / 60, 2),
            "steps": figures["step"],
            "tokens": figures["tokens"],
            "own_val_loss": figures["val_loss"],
            **judge(run, out / "heldout.npz"),
        }
        write_json(done, found)
    row("encoder-learning", stage="pretrain", contender="exnihilo", **read_json(done, "pretrain"))
    compare(out)


def peer(out: Path, a: argparse.Namespace) -> None:
    """Transformers' side, in OUT/peer."""
    setup = read_json(out / "setup.json", "prepare")
    done = out / "peer.json"
    if not done.exists():
        figures = train_peer(out, setup, a.minutes * 60)
        write_json(done, {**figures, **judge(out / "peer", out / "heldout.npz")})
    row("encoder-learning", stage="pretrain", contender="transformers", **read_json(done, "peer"))
    compare(out)


def train_peer(out: Path, setup: dict[str, Any], seconds: float) -> dict[str, Any]:
    """A plain loop by the clock: AdamW, linear warm-up and decay over the time that is given."""
    import torch
    from torch.utils.data import DataLoader
    from transformers import AutoTokenizer, BertConfig, BertForPreTraining, DataCollatorForLanguageModeling

    tokenizer = AutoTokenizer.from_pretrained(out / "tokenizer")
    depth, width, heads = setup["shape"]
    torch.manual_seed(0)
    model = BertForPreTraining(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=T,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    features: Any = [
        {
            "input_ids": item["tokens"].tolist(),
            "token_type_ids": item["segment"].tolist(),
            "next_sentence_label": item["label"],
        }
        for item in kept(out / "pairs.npz")
    ]
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15)
    loader = DataLoader(features, batch_size=B, shuffle=True, collate_fn=collate, drop_last=True)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": PEER["weight_decay"]},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=PEER["lr"], betas=PEER["betas"], fused=True)
    model.train()
    begun, steps, tokens, said, spent = time.perf_counter(), 0, 0, 0.0, 0.0
    while spent < seconds:
        for batch in loader:
            share = spent / seconds
            scale = min((share + 1e-3) / PEER["warmup"], (1 - share) / (1 - PEER["warmup"]), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = PEER["lr"] * scale
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), PEER["clip"])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            steps, tokens = steps + 1, tokens + int(batch["attention_mask"].sum())
            spent = time.perf_counter() - begun
            if spent - said > 30:
                said = spent
                note(f"peer: {spent:.0f} s, step {steps}, loss {loss.item():.3f}")
            if spent >= seconds:
                break
    shutil.rmtree(out / "peer", ignore_errors=True)
    shutil.copytree(out / "tokenizer", out / "peer")
    model.save_pretrained(out / "peer")
    return {"minutes": round(spent / 60, 2), "steps": steps, "tokens": tokens}


def judge(folder: Path, heldout: Path) -> dict[str, Any]:
    """MLM loss (nats a masked token) and NSP accuracy of a folder of transformers, on the held-out pairs."""
    import torch
    import torch.nn.functional as F
    from torch.nn.utils.rnn import pad_sequence
    from transformers import BertForPreTraining

    model = BertForPreTraining.from_pretrained(folder).eval()
    items = sorted(kept(heldout), key=lambda item: len(item["tokens"]))

    def padded(batch: list[dict[str, Any]], name: str, fill: int) -> torch.Tensor:
        tensors = [torch.from_numpy(item[name]).long() for item in batch]
        return pad_sequence(tensors, batch_first=True, padding_value=fill)

    nll, masked, right, pairs = 0.0, 0, 0, 0
    with torch.inference_mode():
        for at in range(0, len(items), B):
            batch = items[at : at + B]
            seen = padded([{"seen": item["tokens"] * 0 + 1} for item in batch], "seen", 0)
            found = model(
                input_ids=padded(batch, "tokens", 0),
                attention_mask=seen,
                token_type_ids=padded(batch, "segment", 0),
            )
            targets = padded(batch, "targets", -100)
            at_masked = targets >= 0
            logits = found.prediction_logits[at_masked].float()
            nll += float(F.cross_entropy(logits, targets[at_masked], reduction="sum"))
            masked += int(at_masked.sum())
            label = torch.tensor([item["label"] for item in batch])
            right += int((found.seq_relationship_logits.argmax(-1) == label)[label >= 0].sum())
            pairs += int((label >= 0).sum())
    accuracy = right / max(1, pairs)
    return {"mlm_loss": nll / masked, "nsp_accuracy": accuracy, "masked": masked, "nsp_pairs": pairs}


def compare(out: Path) -> None:
    """One row of both sides, where both are done."""
    if not all((out / name).exists() for name in ("pretrained.json", "peer.json")):
        return
    ours, theirs = read_json(out / "pretrained.json", "pretrain"), read_json(out / "peer.json", "peer")
    row(
        "encoder-learning",
        stage="compare",
        mlm_loss_difference=round(ours["mlm_loss"] - theirs["mlm_loss"], 4),
        nsp_accuracy_difference=round(ours["nsp_accuracy"] - theirs["nsp_accuracy"], 4),
        tokens_ratio=round(ours["tokens"] / max(1, theirs["tokens"]), 2),
    )


# downstream ------------------------------------------------------------------------------------------


def fine_tuned(out: Path, name: str, side: str, seed: int, rate: float, steps: int) -> dict[str, Any]:
    """The figures of one fine-tuning run; made once."""
    task = TASKS[name]
    label = f"{name}-{side}-seed{seed}-lr{rate:g}" + (f"-steps{steps}" if steps else "")
    done = out / "finetune" / f"{label}.json"
    if done.exists():
        return read_json(done, "finetune")
    run = out / "finetune" / label
    shutil.rmtree(run, ignore_errors=True)
    begins = [f"codec.path={out / 'tokenizer'}", *shape_words(read_json(out / "setup.json", "prepare"))]
    if side != "without":
        begins = [f"init={out / {'with': 'pretrained', 'peer': 'peer'}[side]}"]
    began = time.perf_counter()
    figures = exnihilo(
        out,
        "train",
        task.recipe,
        f"data={task.path('train')}",
        f"val={task.path(task.dev)}",
        f"run={run}",
        f"seed={seed}",
        f"optim.lr={rate}",
        f"steps={steps}" if steps else f"epochs={task.epochs}",
        "dtype=fp32",
        *begins,
        *task.words,
        *QUIET,
    )
    note(f"{label}: {task.metric} {figures['metrics'][task.metric]:.4f}, {time.perf_counter() - began:.0f} s")
    shutil.rmtree(run)
    kept_figures = {key: figures[key] for key in ("step", "tokens", "seconds", "metrics")}
    return write_json(done, kept_figures)


def finetune(out: Path, a: argparse.Namespace) -> None:
    """Each task on each side, and whether pretraining helps: its lower bound above the other's upper."""
    from exnihilo.train.control import interval

    for needed in [{"with": "pretrained", "peer": "peer"}[side] for side in a.sides if side != "without"]:
        read_json(out / f"{needed}.json", "pretrain" if needed == "pretrained" else needed)
    for name in a.tasks:
        task, table, majority = TASKS[name], {}, None
        for side in a.sides:
            first = {rate: fine_tuned(out, name, side, 0, rate, a.steps) for rate in a.rates}
            tried = {rate: found["metrics"][task.metric] for rate, found in first.items()}
            best = max(tried, key=lambda rate: tried[rate])
            more = [fine_tuned(out, name, side, seed, best, a.steps) for seed in range(1, a.seeds)]
            values = [found["metrics"][task.metric] for found in (first[best], *more)]
            mean, low, high = interval(values)
            bounds = [round(low, 4), round(high, 4)] if len(values) > 1 else None
            table[side] = {"mean": round(mean, 4), "interval": bounds, "rate": best}
            majority = first[best]["metrics"].get(f"majority_{task.metric}")
            row(
                "encoder-learning",
                stage="finetune",
                task=name,
                side=side,
                metric=task.metric,
                **table[side],
                values=[round(v, 4) for v in values],
                tried={f"{rate:g}": round(v, 4) for rate, v in tried.items()},
                first_seed={k: v for k, v in first[best]["metrics"].items() if not k.startswith("majority_")},
                steps=first[best]["step"],
            )
        figures: dict[str, Any] = {side: about["mean"] for side, about in table.items()}
        if {"with", "without"} <= table.keys() and table["with"]["interval"] is not None:
            low, high = table["with"]["interval"][0], table["without"]["interval"][1]
            figures["pretraining_helps"] = low > high
        row(
            "encoder-learning",
            stage="finetune",
            task=name,
            metric=task.metric,
            seeds=a.seeds,
            majority=majority,
            **figures,
            published=task.published,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = {"prepare": prepare, "pretrain": pretrain, "peer": peer, "finetune": finetune}
    parser.add_argument("stage", choices=["all", *stages])
    parser.add_argument("--out", type=Path, default=Path("runs/encoder-learning"))
    parser.add_argument("--minutes", type=float, default=15.0, help="of each pretraining")
    parser.add_argument(
        "--shape", type=int, nargs=3, default=[4, 256, 4], metavar=("DEPTH", "WIDTH", "HEADS")
    )
    parser.add_argument("--files", default="train", help="prepare: training books, a folder or a glob")
    parser.add_argument("--heldout", type=int, default=2048, help="prepare: rows of the held-out books")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument(
        "--sides", nargs="+", choices=["without", "with", "peer"], default=["without", "with"]
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="finetune: tried with seed 0")
    parser.add_argument("--steps", type=int, default=0, help="finetune: instead of epochs, for a short look")
    a = parser.parse_args()
    if not (data_folder() / BOOKS).exists():
        note(f"skipped: {BOOKS} is not there; set EXNIHILO_DATA")
        return
    for name in stages if a.stage == "all" else [a.stage]:
        stages[name](a.out.resolve(), a)


if __name__ == "__main__":
    main()
