"""Predictions of encoders on sentences of natural length, beside Transformers and sentence-transformers.

    python bench/encoder_inference.py --prepare --work DIR      # trains a small classifier (six minutes)
    python bench/encoder_inference.py --work DIR [--rounds 3] [--sentences 872]

One model in every hand: BERT of 4 layers × 256 (--depth, --width at --prepare; 2 and 128 are BERT-Tiny's),
fine-tuned here on SST-2 (EXNIHILO_DATA), exported to a Hugging Face folder and to ONNX. Every contender gets
the same texts in the same order, tokenises them itself and takes turns. Rows: `classify` against
transformers.pipeline (batches of 32, and its default of one text at a time), `embed` (mean of the same
trunk's states) against SentenceTransformer.encode (batches of 32, sorted by length), and int8 weights, ours
and onnxruntime's, with the accuracy of each on the development split (of vectors: the mean cosine with those
of sentence-transformers).

`floor` is the share of the time that the products alone take at the measured peak: where it is near 1 nothing
is left to be faster with, in float32.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np

from common import data_folder, interleave, matmul_peak, median, note, row

BATCH = 32


def sentences(name: str) -> tuple[list[str], list[str]]:
    """(labels, texts) of a split of SST-2."""
    path = data_folder() / "sst" / name
    if not path.exists():
        raise SystemExit(f"{path} is not there: set EXNIHILO_DATA")
    pairs = [line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines() if " " in line]
    return [label for label, _ in pairs], [text for _, text in pairs]


def prepare(work: Path, minutes: float, depth: int, width: int) -> None:
    """A classifier, its exports, and the same trunk as an embedder."""
    import exnihilo as xn
    from exnihilo.config import ModelConfig
    from exnihilo.interop import hf
    from exnihilo.model import build, resolve

    work.mkdir(parents=True, exist_ok=True)
    for name, split in (("train", "stsa.binary.train"), ("dev", "stsa.binary.dev")):
        lines = (f"{label}\t{text}" for label, text in zip(*sentences(split), strict=True))
        (work / f"{name}.tsv").write_text("label\ttext\n" + "\n".join(lines) + "\n", encoding="utf-8")
    shape: dict[str, Any] = {
        "depth": depth, "width": width, "heads": max(1, width // 64), "mlp_width": 4 * width, "context": 128,
    }  # fmt: skip
    xn.train(
        "sentence_classification", data=str(work / "train.tsv"), val=str(work / "dev.tsv"), minutes=minutes,
        run=str(work / "run"), force=True, **{f"model.{key}": value for key, value in shape.items()},
    )  # fmt: skip
    xn.export(work / "run", to="hf", out=work / "hf", force=True)
    xn.export(work / "run", to="onnx", dtype="int8", out=work / "onnx", force=True)
    run = xn.load(work / "run", device="cpu")
    config = ModelConfig(family="bert", vocab_size=run.codec.vocab_size, outputs=("embedding",), **shape)
    model = build(resolve(config, run.codec.vocab_size))
    trunk = {k: v for k, v in run.model.state_dict().items() if not k.startswith("heads.")}
    model.load_state_dict(trunk, strict=False)
    what = {"objective": "embeddings", "options": {}, "length": shape["context"], "facts": {}}
    hf.save(model, run.codec, work / "embedder", objective=what)


def onnx_classifier(work: Path, file: str, codec: Any, names: list[str]) -> Callable[..., list[str]]:
    """A file under onnxruntime, batches of 32 sorted by length and padded: what its users write."""
    from exnihilo.interop.onnx import session

    call = session(work / "onnx" / file)

    def predict(texts: Sequence[str]) -> list[str]:
        rows = [[codec.bos_id, *ids[:126], codec.eos_id] for ids in codec.encode_batch(list(texts))]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        out: list[str] = [""] * len(rows)
        for at in range(0, len(order), BATCH):
            some = order[at : at + BATCH]
            shape = (len(some), len(rows[some[0]]))
            tokens, mask = np.full(shape, codec.pad_id, np.int64), np.zeros(shape, np.int64)
            for b, i in enumerate(some):
                tokens[b, : len(rows[i])], mask[b, : len(rows[i])] = rows[i], 1
            got = call(input_ids=tokens, attention_mask=mask, token_type_ids=np.zeros(shape, np.int64))
            best: list[int] = got["logits"].argmax(-1).tolist()
            for i, number in zip(some, best, strict=True):
                out[i] = names[number]
        return out

    return predict


def contenders(work: Path) -> tuple[dict[str, Callable[..., Any]], dict[str, Callable[..., Any]]]:
    """(classifiers: texts -> labels, embedders: texts -> vectors)."""
    from sentence_transformers import SentenceTransformer
    from transformers import pipeline

    import exnihilo as xn

    run, vectors = xn.load(work / "run", device="cpu"), xn.load(work / "embedder", device="cpu")
    plain, small = run.predictor(), run.predictor(weights="int8")
    names = list(plain.objective.facts["labels"])
    pipe: Any = pipeline("text-classification", model=str(work / "hf"), device="cpu")

    def labels(found: Any) -> list[str]:
        return [each["label"] for each in found]

    classify = {
        "exnihilo": lambda texts: labels(plain.predict(texts)),
        "exnihilo int8": lambda texts: labels(small.predict(texts)),
        "onnxruntime": onnx_classifier(work, "model.onnx", run.codec, names),
        "onnxruntime int8": onnx_classifier(work, "model_int8.onnx", run.codec, names),
        "transformers batch 32": lambda texts: labels(pipe(list(texts), batch_size=BATCH)),
        "transformers batch 1": lambda texts: labels(pipe(list(texts))),
    }
    theirs = SentenceTransformer(str(work / "embedder"), device="cpu")
    tiny = vectors.predictor(weights="int8")
    embed = {
        "exnihilo": vectors.embed,
        "exnihilo int8": lambda t: [found["embedding"] for found in tiny.predict(list(t))],
        "sentence-transformers": lambda t: theirs.encode(list(t), batch_size=BATCH, show_progress_bar=False),
    }
    return classify, embed


def products(work: Path, texts: Sequence[str]) -> float:
    """Floating-point operations of the trunk's products for all tokens of these texts."""
    import exnihilo as xn

    run = xn.load(work / "embedder", device="cpu")
    tokens = sum(len(ids) + 2 for ids in run.codec.encode_batch(list(texts)))
    weights = sum(p.numel() for n, p in run.model.trunk.named_parameters() if p.ndim == 2)
    return 2.0 * tokens * weights


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=872)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.prepare:
        return prepare(asked.work, asked.minutes, asked.depth, asked.width)
    gold, texts = sentences("stsa.binary.dev")
    gold, texts = gold[: asked.sentences], texts[: asked.sentences]
    classify, embed = contenders(asked.work)
    found = {name: call(texts) for name, call in classify.items()}
    right = {
        name: float(np.mean([a == b for a, b in zip(f, gold, strict=True)])) for name, f in found.items()
    }
    mine = np.asarray(found["exnihilo"])
    same = {name: float(np.mean(np.asarray(f) == mine)) for name, f in found.items()}
    vectors = {name: np.asarray(call(texts)) for name, call in embed.items()}
    theirs = vectors["sentence-transformers"]
    near = {name: float((v * theirs).sum(1).mean()) for name, v in vectors.items()}
    floor = products(asked.work, texts) / matmul_peak()
    for task, sides in (("classify", classify), ("embed", embed)):
        note(f"{task}: {len(texts)} sentences")
        seconds = interleave({name: (lambda c=c: c(texts)) for name, c in sides.items()}, asked.rounds)
        base = median(seconds["exnihilo"])
        for name, values in seconds.items():
            middle = median(values)
            more = (
                {"accuracy": round(right[name], 4), "same": round(same[name], 4)}
                if task == "classify"
                else {
                    "cosine": round(near[name], 5),
                    "max_difference": float(f"{np.abs(vectors[name] - theirs).max():.2g}"),
                    "floor": round(floor / middle, 2),
                }
            )
            row(
                "encoder_inference", task=task, side=name, sentences=len(texts), rounds=asked.rounds,
                sentences_per_second=round(len(texts) / middle, 1),
                seconds=[round(v, 3) for v in sorted(values)],
                exnihilo_times_faster=round(middle / base, 2), **more,
            )  # fmt: skip


if __name__ == "__main__":
    main()
