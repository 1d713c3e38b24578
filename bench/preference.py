"""Preferences: the same losses and gradients as TRL's, more pairs a second, and what they do.

    python bench/preference.py equal                          # every loss that both have, on one batch
    python bench/preference.py speed [--data hh llms] [--steps 24]

equal: two random Qwen3 models (2 layers x 64), one the reference, on 7 pairs of different lengths, float32.
Both sides are given the same token ids. Differences are the largest of |ours − theirs| / max(1, |theirs|), of
the loss and of every gradient. TRL's ORPO counts the prompt in its likelihood, this project the reply alone;
so its prompts have one token here, which nothing predicts. KTO is given the same strangers' replies.

speed: real pairs, the same ones in each step, a Qwen3 of 4 layers x 256, vocabulary 4096, at most 512 tokens,
AdamW, float32, eager. TRL's reference is computed before on its side, too (precompute_ref_log_probs); ``trl``
in its default computes it in each step. Gradient checkpointing, on by default there, is off: it would only
slow it down. Each side is a process of its own, they take turns step by step; the first two are not counted.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from common import Contender, data_folder, median, note, row, serve, turns

V, L, D, H, T = 4096, 4, 256, 4, 512
LR, BETAS, CLIP = 5e-5, (0.9, 0.95), 1.0
WARM = 2  # steps that are not timed
DATA = {
    "hh": "hh-rlhf-harmless/train.jsonl",
    "llms": "llms-from-scratch/instruction-data-with-preference.train.json",
}
MOST = 128  # pairs of a data set that are used
PAIRS = 16  # of a step


# equal ------------------------------------------------------------------------------------------------------


def equal() -> None:
    """One row a loss."""
    import torch
    from transformers import AutoModelForCausalLM

    from exnihilo.codec import train as train_codec
    from exnihilo.config import CodecConfig, ModelConfig
    from exnihilo.interop import hf
    from exnihilo.model import build

    torch.manual_seed(0)
    codec = train_codec(CodecConfig(kind="bpe", vocab_size=400), ["user assistant the fox and the owl"] * 4)
    shape = ModelConfig(family="qwen3", depth=2, width=64, heads=4, context=128, vocab_size=400, dropout=0.0)
    with tempfile.TemporaryDirectory() as tmp:
        ours, theirs = [], []
        for seed in (0, 1):
            model = build(shape, seed=seed)
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(0.05 * torch.randn_like(p))
            hf.save(model, codec, Path(tmp) / str(seed))
            ours.append(model)
            theirs.append(AutoModelForCausalLM.from_pretrained(Path(tmp) / str(seed)))
        for name, loss, run in _cases(Path(tmp), theirs):
            want, grads = run()
            got, own = _ours(name, loss, ours, codec)
            named = hf.to_hf(ours[0].config, own)
            pairs = [(named[k], g) for k, g in grads.items() if k in named]
            assert len(pairs) == len(grads)
            gap = max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)
            off = abs(got - want) / max(1.0, abs(want))
            scale = max(float(b.abs().max()) for _, b in pairs)
            verdict = "equal" if max(off, gap) <= 1e-5 else "DIFFERENT"
            row(
                "preference equal",
                loss=name,
                trl=loss,
                value=round(want, 6),
                loss_difference=off,
                gradient_difference=gap,
                largest_gradient=round(scale, 4),
                verdict=verdict,
            )


def _examples(prompt: int | None = None) -> list[tuple[list[int], list[int], list[int], list[int], bool]]:
    """(prompt, chosen, rejected, a stranger's reply, label), ids."""
    import numpy as np

    g = np.random.default_rng(0)

    def ids(low: int, high: int) -> list[int]:
        return g.integers(10, 380, int(g.integers(low, high))).tolist()

    out = [(ids(*((prompt, prompt + 1) if prompt else (3, 20))), ids(2, 30), ids(2, 30)) for _ in range(7)]
    return [(p, w, r, out[i - 1][1], i % 3 > 0) for i, (p, w, r) in enumerate(out)]


def _cases(tmp: Path, models: Sequence[Any]) -> list[tuple[str, str, Callable[[], Any]]]:
    """(our name, TRL's, a function that gives TRL's loss and gradients)."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp / "0")
    plain: dict[str, Any] = {
        "output_dir": str(tmp / "out"), "report_to": [], "use_cpu": True, "bf16": False,
        "gradient_checkpointing": False, "disable_tqdm": True,
    }  # fmt: skip

    def trained(loss: Any) -> tuple[float, dict[str, Any]]:
        models[0].zero_grad()
        loss.backward()
        return float(loss.detach()), {
            n: p.grad for n, p in models[0].named_parameters() if p.grad is not None
        }

    def pairs(kind: str) -> Callable[[], Any]:
        def run() -> Any:
            from datasets import Dataset
            from trl.trainer.dpo_config import DPOConfig
            from trl.trainer.dpo_trainer import DPOTrainer

            given = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2)
            smoothing = {"label_smoothing": 0.1} if kind == "robust" else {}
            args = DPOConfig(
                loss_type=[kind], beta=5.0 if kind == "sigmoid_norm" else 0.1, **smoothing, **plain
            )
            trainer = DPOTrainer(
                model=models[0],
                ref_model=models[1],
                args=args,
                train_dataset=given,
                processing_class=tokenizer,
            )
            batch = trainer.data_collator(
                [{"prompt_ids": p, "chosen_ids": w, "rejected_ids": r} for p, w, r, _, _ in _examples()]
            )
            return trained(trainer._compute_loss(models[0], dict(batch), False))

        return run

    def kto() -> Any:
        from datasets import Dataset
        from trl.trainer.kto_config import KTOConfig
        from trl.trainer.kto_trainer import KTOTrainer

        given = Dataset.from_list([{"prompt": "a", "completion": "b", "label": True}] * 4)
        args = KTOConfig(beta=0.1, desirable_weight=1.3, undesirable_weight=0.7, **plain)
        trainer = KTOTrainer(
            model=models[0], ref_model=models[1], args=args, train_dataset=given, processing_class=tokenizer
        )
        batch = trainer.data_collator(
            [
                {"prompt_ids": p, "completion_ids": w, "KL_completion_ids": k, "label": good}
                for p, w, _, k, good in _examples()
            ]
        )
        return trained(trainer._compute_loss(models[0], dict(batch), False))

    def whole(kind: str) -> Callable[[], Any]:
        def run() -> Any:
            import torch
            from datasets import Dataset
            from trl.experimental.cpo import CPOConfig, CPOTrainer
            from trl.experimental.orpo import ORPOConfig, ORPOTrainer

            given = Dataset.from_list([{"prompt": "a b", "chosen": "b c", "rejected": "c d"}] * 2)
            more: Any = {"model": models[0], "train_dataset": given, "processing_class": tokenizer}
            if kind == "orpo":
                trainer: Any = ORPOTrainer(args=ORPOConfig(beta=0.1, **plain), **more)
            else:
                args = CPOConfig(loss_type="simpo", beta=2.5, simpo_gamma=0.5, cpo_alpha=0.0, **plain)
                trainer = CPOTrainer(args=args, **more)
            batch: dict[str, Any] = {}
            for side, at in (("chosen", 1), ("rejected", 2)):
                found: list[Any] = list(_examples(1 if kind == "orpo" else None))
                rows = [(e[0], e[at]) for e in found]
                longest = max(len(p) + len(c) for p, c in rows)
                pads = [longest - len(p) - len(c) for p, c in rows]
                batch[f"{side}_input_ids"] = torch.tensor(
                    [p + c + [0] * n for (p, c), n in zip(rows, pads, strict=True)]
                )
                batch[f"{side}_attention_mask"] = torch.tensor(
                    [[1] * (len(p) + len(c)) + [0] * n for (p, c), n in zip(rows, pads, strict=True)]
                )
                batch[f"{side}_labels"] = torch.tensor(
                    [[-100] * len(p) + c + [-100] * n for (p, c), n in zip(rows, pads, strict=True)]
                )
            return trained(trainer.get_batch_loss_metrics(models[0], batch)[0])

        return run

    return [
        ("dpo", "sigmoid", pairs("sigmoid")),
        ("robust", "robust", pairs("robust")),
        ("ipo", "ipo", pairs("ipo")),
        ("apo_zero", "apo_zero", pairs("apo_zero")),
        ("dpo_norm", "sigmoid_norm", pairs("sigmoid_norm")),
        ("kto", "kto", kto),
        ("simpo", "simpo", whole("simpo")),
        ("orpo", "orpo", whole("orpo")),
    ]


def _ours(name: str, theirs: str, models: Sequence[Any], codec: Any) -> tuple[float, dict[str, Any]]:
    """Loss and gradients by parameter, through the objective."""
    import numpy as np
    import torch

    from exnihilo.data import collate
    from exnihilo.objective import preludes, registry
    from exnihilo.objective._branches import lay, token_logps

    options: dict[str, Any] = {"loss": name}
    if name == "kto":
        options |= {"desirable": 1.3, "undesirable": 0.7}
    objective = registry.create("preference", options, length=128)
    items = []
    for p, w, r, k, good in _examples(1 if name == "orpo" else None):
        item = lay(p, [w, k] if name == "kto" else [w, r])
        items.append({**item, "label": int(good)})
    sizes = [len(np.asarray(i["tokens"])) for i in items]
    pieces = [[(i, 0, n)] for i, n in enumerate(sizes)]
    columns = collate.of_items(pieces, items, row=max(sizes), pad_id=codec.pad_id)
    batch: dict[str, Any] = {k: torch.from_numpy(v) for k, v in columns.items()}
    with torch.no_grad():
        batch["ref_logp"] = token_logps(models[1], batch)
    batch = preludes.alone(models[0], objective, batch)
    counts, sums = objective.counts(batch), objective.sums(models[0], batch)
    loss = torch.stack([objective.weights.get(k, 1.0) * v / counts[k] for k, v in sums.items()]).sum()
    models[0].zero_grad()
    loss.backward()
    state = models[0].state_dict(keep_vars=True)
    found = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in state.items()}
    return float(loss.detach()), found


# speed ------------------------------------------------------------------------------------------------------


def prepare(name: str, folder: Path) -> dict[str, Any]:
    """Write start/ (random weights, a tokenizer of the data) and pairs.jsonl: ids of pairs that fit."""
    from exnihilo import data as datas
    from exnihilo.codec import train as train_codec
    from exnihilo.codec.chat import chat
    from exnihilo.config import CodecConfig, DataConfig, ModelConfig
    from exnihilo.data.messages import text_of
    from exnihilo.interop import hf
    from exnihilo.model import build
    from exnihilo.objective.registry import create
    from exnihilo.train.facts import reading

    source = DataConfig.model_validate(
        {"sources": [{"path": str(data_folder() / DATA[name])}], "val_fraction": 0.0}
    )
    found = list(datas.examples(source, None, "train", **reading(create("preference"))))
    texts = [text_of(e[role]) for e in found for role in ("prompt", "chosen", "rejected")]
    codec = train_codec(CodecConfig(kind="bpe", vocab_size=V), texts)
    model = build(
        ModelConfig(
            family="qwen3", depth=L, width=D, heads=H, context=T, vocab_size=codec.vocab_size, dropout=0.0
        )
    )
    hf.save(model, codec, folder / "start")
    speaker = chat(codec)
    lines, shared, double = [], 0, 0
    for e in found:
        prompt = speaker.prompt(e["prompt"])
        if any(len(e[r]) != 1 for r in ("chosen", "rejected")):
            continue
        good, bad = (speaker.completion(e[r][0]["content"]) for r in ("chosen", "rejected"))
        if len(prompt) + max(len(good), len(bad)) <= T and len(lines) < MOST:
            lines.append(json.dumps({"prompt_ids": prompt, "chosen_ids": good, "rejected_ids": bad}))
            shared += len(prompt) + len(good) + len(bad)
            double += 2 * len(prompt) + len(good) + len(bad)
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return {
        "pairs": len(lines),
        "tokens_a_pair": round(double / len(lines), 1),
        "of_them_prompt_twice": round(1 - shared / double, 3),
    }


def _read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def _batches(count: int) -> list[list[int]]:
    return [[(s * PAIRS + i) % count for i in range(PAIRS)] for s in range(10_000 // PAIRS)]


def exnihilo(folder: Path, micro: int) -> None:
    """A step a line of standard input: pairs packed into rows, as the loop does it."""
    from exnihilo.environment import keep_memory

    keep_memory()  # as `train` does
    import numpy as np
    import torch

    from exnihilo.config import OptimConfig
    from exnihilo.data import collate, packing
    from exnihilo.interop.load import load
    from exnihilo.objective._branches import lay
    from exnihilo.objective.registry import create
    from exnihilo.optim import create as optimiser
    from exnihilo.parallel.mesh import World
    from exnihilo.train.batches import Micro
    from exnihilo.train.gradients import step_gradients
    from exnihilo.train.source.reference import Reference

    pairs = _read(folder)
    loaded = load(folder / "start")
    model, objective = loaded.model.train(), create("preference", {"loss": "dpo"}, length=T)
    reference = Reference(load(folder / "start").model, "the start")
    items = [lay(p["prompt_ids"], [p["chosen_ids"], p["rejected_ids"]]) for p in pairs]
    assert objective.row is not None
    steps = []
    for chosen in _batches(len(items)):
        mine = [items[i] for i in chosen]
        sizes = np.array([len(np.asarray(i["tokens"])) for i in mine])
        plan = packing.plan(sizes, objective.row + 1, overlap=0, max_padding=1.0)
        columns = collate.of_items(
            [plan.pieces(r) for r in range(plan.rows)], mine, row=plan.row, pad_id=loaded.codec.pad_id
        )
        columns["ref_logp"] = reference.logps(columns)
        batch = {k: torch.from_numpy(v) for k, v in columns.items() if k in objective.columns}
        rows = range(0, plan.rows, micro)
        steps.append([Micro({k: v[at : at + micro] for k, v in batch.items()}) for at in rows])
        if len(steps) * PAIRS >= len(items):
            break
    settings = OptimConfig(name="adamw", lr=LR, betas=BETAS, weight_decay=0.0, clip=CLIP)
    optimizer, world, number = optimiser(model, settings, model.config), World.start("cpu"), 0

    def step() -> float:
        nonlocal number
        begin = time.perf_counter()
        step_gradients(model, objective, steps[number % len(steps)], world, max_norm=CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        number += 1
        return time.perf_counter() - begin

    serve(step, {"threads": torch.get_num_threads(), "rows": float(np.mean([len(s) for s in steps]))})


def trl(folder: Path, precomputed: bool) -> None:
    """The same of DPOTrainer, with the pairs of each step given."""
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(folder / "start")
    pairs = _read(folder)

    class Same(DPOTrainer):
        """Token ids and the pairs of each step are given."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def get_train_dataloader(self) -> Any:
            data: Any = self.train_dataset
            return DataLoader(data, batch_sampler=_batches(len(pairs)), collate_fn=self.data_collator)

    arguments = DPOConfig(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=PAIRS,
        max_steps=10_000,
        learning_rate=LR,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        max_grad_norm=CLIP,
        max_length=T,
        beta=0.1,
        precompute_ref_log_probs=precomputed,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=10**9,
        disable_tqdm=True,
        seed=0,
    )
    start = folder / "start"
    trainer = Same(
        model=AutoModelForCausalLM.from_pretrained(start, attn_implementation="sdpa"),
        ref_model=AutoModelForCausalLM.from_pretrained(start, attn_implementation="sdpa"),
        args=arguments,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        callbacks=[turns()],
    )
    trainer.train()


def speed(name: str, folder: Path, a: argparse.Namespace) -> None:
    """One data set, and its row."""
    about = prepare(name, folder)
    common = ["speed", "--folder", str(folder), "--micro", str(a.micro)]
    runners = [Contender(side, common) for side in ("exnihilo", "trl", "trl-default")]
    seconds: dict[str, list[float]] = {runner.name: [] for runner in runners}
    for number in range(a.steps):
        turn = number % len(runners)
        for runner in runners[turn:] + runners[:turn]:
            seconds[runner.name].append(runner.step())
        note(f"step {number + 1}/{a.steps}")
    for runner in runners:
        runner.close()
    each = {side: PAIRS / median(found[WARM:]) for side, found in seconds.items()}
    row(
        "preference speed",
        data=name,
        steps=a.steps,
        **about,
        pairs_a_step=PAIRS,
        rows_a_step=runners[0].about["rows"],
        pairs_per_s={side: round(value, 1) for side, value in each.items()},
        ratio=round(each["exnihilo"] / each["trl"], 2),
        ratio_default=round(each["exnihilo"] / each["trl-default"], 2),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["equal", "speed"])
    parser.add_argument("--data", nargs="+", choices=list(DATA), default=list(DATA))
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--micro", type=int, default=2, help="exnihilo: rows a micro-batch")
    parser.add_argument("--folder", type=Path, help="where to keep runs; default: nowhere")
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.serve:
        if a.serve == "exnihilo":
            exnihilo(a.folder, a.micro)
        else:
            trl(a.folder, a.serve == "trl")
        return
    if a.what == "equal":
        equal()
        return
    with tempfile.TemporaryDirectory() as tmp:
        folder = a.folder or Path(tmp)
        folder.mkdir(parents=True, exist_ok=True)
        for name in a.data:
            if not (data_folder() / DATA[name]).exists():
                note(f"skipped: {name} is not there; set EXNIHILO_DATA")
                continue
            (folder / name).mkdir(parents=True, exist_ok=True)
            speed(name, folder / name, a)


if __name__ == "__main__":
    main()
