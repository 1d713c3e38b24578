"""Encoders as ONNX files, for onnxruntime and whatever else reads them.

::

    export_onnx(loaded, Path("out"))                # out/model.onnx, config.json, the tokenizer
    export_onnx(loaded, Path("out"), int8=True)     # and out/model_int8.onnx
    prove_onnx(loaded, Path("out"), texts, hard)    # {"proved": True, "checks": {...}, "lines": [...]}

The graph is written operator by operator from the weights (onnx_graph.py), not traced: batch and length are
free, names are those that Optimum and sentence-transformers expect. Inputs: ``input_ids``, ``attention_mask``
and, where the model has segments, ``token_type_ids``, int64 (B, T). Outputs by head:

=========  ==========================================================================================
embedding  last_hidden_state (B, T, D), sentence_embedding (B, D): pooled and of length 1, as trained
classes    logits (B, C)
tags       logits (B, T, C); with a CRF also transitions (C, C), start_transitions, stop_transitions (C)
span       start_logits, end_logits (B, T)
mlm        logits (B, T, V)
next       seq_relationship_logits (B, 2); "logits" where it stands alone
value      logits (B, 1)
replaced   logits (B, T)
=========  ==========================================================================================

int8: weights of the blocks (and of an untied masked-token head) in 7 bits a channel, so that processors
without VNNI do not overflow; activations are quantised on the way, by a batch's own range: a prediction then
depends a little on its neighbours.

Format: https://onnx.ai/onnx/operators (opset 20); https://onnxruntime.ai/docs/performance/model-optimizations

Key: B batch, T positions, D model width, C labels, V vocabulary
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo.errors import MissingExtra, ModelError
from exnihilo.interop import hf, labels
from exnihilo.interop.files import write, write_json
from exnihilo.interop.readout import ours, segments
from exnihilo.interop.tensors import written_as
from exnihilo.model.family import find

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.interop.load import Loaded
    from exnihilo.model.model import Model

FILE, SMALL = "model.onnx", "model_int8.onnx"
BOUND = 1e-3  # largest difference of logits in fp32: another library sums in another order
INT8_COSINE, INT8_AGREE = 0.99, 0.95  # of int8's outputs with the source's: direction, decisions


def export_onnx(loaded: Loaded, out: Path, int8: bool = False) -> Path:
    """Write an encoder as ``out/model.onnx`` with its tokenizer, config.json and objective.json.

    Args:
        loaded: the encoder; its weights are written in float32.
        out: a folder, made if absent.
        int8: also write ``out/model_int8.onnx``.

    Returns:
        The path of model.onnx.

    Raises:
        ModelError: a decoder, or a head that has no form in ONNX here, by name.
        MissingExtra: onnx (int8: onnxruntime) is not installed.
    """
    from exnihilo.interop import onnx_graph

    _need("onnx")
    model, config = loaded.model, loaded.model.config
    check(model)
    out.mkdir(parents=True, exist_ok=True)
    made = onnx_graph.graph(model, loaded.objective)
    write(out, {FILE: lambda path: onnx_graph.save(made, path)})
    if int8:
        _need("onnxruntime")
        write(out, {SMALL: lambda path: _quantise(out / FILE, path)})
    words = {**hf.config_to_hf(config), **labels.words(config, written_as(config), loaded.objective)}
    words["exnihilo"] = {
        "outputs": list(config.outputs),
        "onnx": [o for o in (FILE, SMALL) if (out / o).exists()],
    }
    loaded.codec.save(out, model_max_length=config.context)
    if not config.segments:
        hf._without_segments(out / "tokenizer_config.json")
    makers: dict[str, Callable[[Path], None]] = {}
    if loaded.objective is not None:
        makers[hf.OBJECTIVE] = write_json(dict(loaded.objective))
    makers["config.json"] = write_json(words)
    write(out, makers)
    return out / FILE


def check(model: Model) -> None:
    """Raises ModelError where a model has no form in ONNX here."""
    from exnihilo.interop.onnx_graph import HEADS

    family = find(model.config.family)
    if not family.encoder or family.name not in ("bert", "modernbert"):
        kind = "an encoder that does not read text" if family.encoder else "a decoder"
        raise ModelError(
            f"family {family.name} is {kind}",
            expected="an encoder of text: bert, modernbert",
            next="--to hf" + ("" if family.encoder else ", or --to gguf"),
        )
    if model.config.compares:
        raise ModelError(
            "a head that compares two texts has no form in ONNX",
            expected="options.pooling=first, or options.match=false",
            next="--to hf",
        )
    known = [name for name in model.config.outputs if name in HEADS]
    if not known:
        raise ModelError(
            f"the heads {', '.join(model.config.outputs)} have no form in ONNX",
            expected="one of " + ", ".join(HEADS),
            next="--to hf",
        )


def session(path: Path, threads: int | None = None) -> Callable[..., dict[str, np.ndarray]]:
    """A function that runs a file: arrays by name in, arrays by name out.

    Raises:
        MissingExtra: onnxruntime is not installed.
    """
    _need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    run = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in run.get_outputs()]
    wanted = {entry.name for entry in run.get_inputs()}

    def call(**columns: np.ndarray) -> dict[str, np.ndarray]:
        found: Any = run.run(names, {name: v for name, v in columns.items() if name in wanted})
        return dict(zip(names, found, strict=True))

    return call


def prove_onnx(
    loaded: Loaded, folder: Path, texts: Sequence[str], hard: Sequence[str], int8: bool = False
) -> dict[str, Any]:
    """Compare what was written with the model it was written from.

    Args:
        texts: real inputs; each is compared alone, and all of them again in one padded batch.
        hard: texts for the tokenizer.
        int8: the quantised file is held against the source, too.

    Returns:
        ``proved``, ``checks`` by name, ``lines`` to read.
    """
    from exnihilo import codec as codecs

    model, codec = loaded.model, loaded.codec
    rows = _rows(codec, texts, model.config.context)
    source = [_numpy(ours(model, row), model, loaded.objective) for row in rows]
    checks: dict[str, dict[str, Any]] = {}
    lines: list[str] = []

    def note(name: str, held: bool, words: str, **figures: Any) -> None:
        checks[name] = {"held": bool(held), **figures}
        lines.append(f"{'held  ' if held else 'FAILED'} {name}: {words}")

    tokens = sum(map(len, rows))
    for name, padded in (("logits", False), ("padded", True)):
        got = _read(session(folder / FILE), model, rows, codec.pad_id, padded)
        gap = _gap(source, got)
        how = "each alone" if not padded else f"all {len(rows)} in one padded batch"
        note(
            name,
            gap <= BOUND,
            f"max |Δ| {gap:.1e} on {tokens} tokens, {how}",
            max_difference=gap,
            bound=BOUND,
        )
    again = codecs.load(folder)
    every = [*hard, *texts]
    ids = [codec.encode(text) for text in every]
    same = sum(a == again.encode(text) for a, text in zip(ids, every, strict=True))
    note("tokenizer", same == len(every), f"{same} of {len(every)} hard texts to the same ids", same_ids=same)
    if int8:
        got = _read(session(folder / SMALL), model, rows, codec.pad_id, False)
        cosine, agree, number = _near(source, got)
        note(
            "int8",
            cosine >= INT8_COSINE and agree >= INT8_AGREE,
            f"mean cosine {cosine:.4f} with the source's outputs, {agree:.1%} of {number} decisions the same",
            cosine=cosine, agreement=agree, decisions=number, bounds=[INT8_COSINE, INT8_AGREE],
        )  # fmt: skip
    left = [name for name in model.config.outputs if name not in source[0]] if source else []
    if left:
        lines.append(f"not written: {', '.join(left)} (no form in ONNX here)")
    return {
        "proved": bool(rows) and all(c["held"] for c in checks.values()),
        "checks": checks,
        "lines": lines,
    }


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise MissingExtra.of(package, "onnx")


def _quantise(source: Path, path: Path) -> None:
    """Matrix products with constant weights in int8, but for the small ones of heads."""
    import logging

    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    found = onnx.load(str(source))
    names = [
        n.name for n in found.graph.node if n.op_type == "MatMul" and n.name.startswith(("block", "mlm"))
    ]
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)  # it advises to optimise first, which the graph does not need
    try:
        quantize_dynamic(
            str(source),
            str(path),
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=names,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        root.setLevel(before)


def _rows(codec: Codec, texts: Sequence[str], context: int) -> list[list[int]]:
    rows = [[codec.bos_id, *codec.encode(text)][: context - 1] + [codec.eos_id] for text in texts]
    return [row for row in rows if len(row) > 2]


def _numpy(
    found: Mapping[str, Any], model: Model, objective: Mapping[str, Any] | None
) -> dict[str, np.ndarray]:
    """The model's own outputs; of an embedder also the vector of the row, as the objective pools it."""
    from exnihilo.interop.onnx_graph import names

    out = {name: value.numpy() for name, value in found.items() if name in names(model.config)}
    if "embedding" in out:
        first = ((objective or {}).get("options") or {}).get("pooling") == "cls"
        sum_D = out["embedding"][0] if first else out["embedding"].sum(0)
        out["vector"] = sum_D / max(float(np.linalg.norm(sum_D)), 1e-12)
    return out


def _read(
    call: Callable[..., dict[str, np.ndarray]],
    model: Model,
    rows: Sequence[Sequence[int]],
    pad: int,
    padded: bool,
) -> list[dict[str, np.ndarray]]:
    """What a file says of rows, under the names of `readout.ours`."""
    from exnihilo.interop.onnx_graph import names

    out: list[dict[str, np.ndarray]] = []
    number = model.config.segments or 0
    for batch in [list(rows)] if padded else [[row] for row in rows]:
        T = max(map(len, batch))
        shape = (len(batch), T)
        tokens, mask = np.full(shape, pad, np.int64), np.zeros(shape, np.int64)
        segment = np.zeros(shape, np.int64)
        for b, row in enumerate(batch):
            tokens[b, : len(row)], mask[b, : len(row)] = row, 1
            segment[b, : len(row)] = segments(row, number)[0].numpy()
        got = call(input_ids=tokens, attention_mask=mask, token_type_ids=segment)
        for b, row in enumerate(batch):
            one: dict[str, np.ndarray] = {}
            for head, listed in names(model.config).items():
                parts = [got[name][b] for name in listed]
                value = np.stack(parts, -1) if len(parts) > 1 else parts[0]
                per_token = value.ndim > 0 and head in ("embedding", "tags", "span", "mlm", "replaced")
                value = value[: len(row)] if per_token else value
                one[head] = value[0] if head == "value" else value
            if "embedding" in one:
                one["vector"] = got["sentence_embedding"][b]
            out.append(one)
    return out


def _gap(a: Sequence[Mapping[str, np.ndarray]], b: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Largest absolute difference over rows and the heads that both have; infinite where not finite."""
    worst = 0.0
    for left, right in zip(a, b, strict=True):
        for name in left.keys() & right.keys():
            gap = float(np.abs(left[name] - right[name]).max())
            worst = max(worst, gap if np.isfinite(gap) else float("inf"))
    return worst


def _near(
    a: Sequence[Mapping[str, np.ndarray]], b: Sequence[Mapping[str, np.ndarray]]
) -> tuple[float, float, int]:
    """(mean cosine of outputs, share of decisions that are the same, decisions): the largest of several."""
    cosines, same, number = [], 0, 0
    for left, right in zip(a, b, strict=True):
        for name in left.keys() & right.keys():
            x, y = np.float64(left[name]), np.float64(right[name])
            if name == "span":  # where an answer starts, where it ends
                x, y = x.T, y.T
            if (
                name not in ("embedding", "vector")
                and x.ndim
                and x.shape[x.ndim - 1] > 1
                and name != "replaced"
            ):
                same += int((x.argmax(-1) == y.argmax(-1)).sum())
                number += int(np.prod(x.shape[:-1], dtype=np.int64))
            size = np.linalg.norm(x) * np.linalg.norm(y)
            cosines.append(float((x * y).sum() / size) if size else 1.0)
    return float(np.mean(cosines)) if cosines else 0.0, same / number if number else 1.0, number
