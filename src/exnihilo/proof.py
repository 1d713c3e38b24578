"""Exports that prove themselves, and imports: what is written is read back and compared before anyone is
told "done".

::

    proof = export_run(Path("runs/books"), to="hf", out=Path("books-hf"), dtype=None)
    proof["checks"]["logits"]["max_difference"]

The folder is written aside, proved there, and renamed only when every check held; else nothing is left
behind.

Checks of a Hugging Face folder: the written weights, read into a fresh model, give the run's logits on real
inputs; the written tokenizer gives the run's ids on a hard corpus, and the texts back; and, where
Transformers is installed, its own model and tokenizer agree with both, and decode greedily to the same
tokens. Of a GGUF file: see interop/gguf_proof.py, of an ONNX file interop/onnx.py. A format is a function in
`_WRITERS` that gives one function to write and one to prove.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo.errors import ConfigError, ExNihiloError, ModelError, UsageError
from exnihilo.interop.inputs import HARD, real_inputs

if TYPE_CHECKING:
    from torch import Tensor

    from exnihilo.codec.base import Codec
    from exnihilo.interop.load import Loaded
    from exnihilo.model.model import Model

BOUND = 1e-4  # largest difference of logits in fp32
_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_GREEDY = 24  # tokens decoded greedily for the comparison
Export = tuple[Callable[[Path], None], Callable[[Path], dict[str, Any]]]  # writes a folder, proves it


def export_run(run: Path, *, to: str, out: Path, dtype: str | None, force: bool = False) -> dict[str, Any]:
    """Write the model of `run` as a folder `out`, prove it, return the proof.

    Args:
        to: "hf" (a Hugging Face folder), "gguf" (a file for llama.cpp) or "onnx" (encoders, for onnxruntime).
        dtype: fp32, bf16 or fp16; of a GGUF file f32 (the default), f16 or q8_0; of ONNX fp32 or int8.
        force: replace what `out` holds.

    Raises:
        UsageError: an unknown format, or `out` exists and `force` is not given.
        ModelError: a check failed; `out` is as it was.
    """
    from exnihilo.interop.load import load

    if to not in _WRITERS:
        known = ", ".join(f"{name} ({what})" for name, (what, _) in _WRITERS.items())
        raise UsageError(f"to={to}", expected=f"one of {known}", next="--to hf")
    loaded = load(run)
    texts, where = real_inputs(run, loaded.codec, loaded.objective)
    write, prove = _WRITERS[to][1](loaded, run, texts, dtype)

    def proved(folder: Path) -> dict[str, Any]:
        return {**prove(folder), "inputs": where, "source": str(loaded.path)}

    return publish(out, write, proved, force)


def _hf(loaded: Loaded, run: Path, texts: list[str], dtype: str | None) -> Export:
    from exnihilo.interop import hf
    from exnihilo.interop.files import read_json
    from exnihilo.report import card

    if dtype is not None and dtype not in _DTYPES:
        raise ConfigError(f"dtype={dtype!r}", expected="one of " + ", ".join(_DTYPES))
    came = read_json(run / "config.json").get("exnihilo") if (run / "config.json").is_file() else None
    extra = {"lineage": came["lineage"]} if came and came.get("lineage") else None

    def write(folder: Path) -> None:
        hf.save(loaded.model, loaded.codec, folder, dtype=dtype, objective=loaded.objective, extra=extra)

    def prove(folder: Path) -> dict[str, Any]:
        proof = check(loaded.model, loaded.codec, folder, texts, dtype)
        kind = read_json(folder / "config.json")["architectures"][0]
        (folder / card.NAME).write_text(card.card(run, loaded, proof["lines"], kind), encoding="utf-8")
        return proof

    return write, prove


def _gguf(loaded: Loaded, run: Path, texts: list[str], dtype: str | None) -> Export:
    from exnihilo.interop import gguf, gguf_proof
    from exnihilo.report import card

    kind = {None: "f32", "fp32": "f32", "fp16": "f16"}.get(dtype, dtype)
    if kind not in gguf.KINDS:
        raise ConfigError(f"dtype={dtype!r} of a GGUF file", expected="one of " + ", ".join(gguf.KINDS))
    name = f"model-{kind}.gguf"

    def prove(folder: Path) -> dict[str, Any]:
        proof = gguf_proof.prove_gguf(loaded, folder / name, texts, HARD, kind)
        proof |= {"format": "gguf", "dtype": kind, "weights": {name: (folder / name).stat().st_size}}
        proof["versions"] = {n: _version(n) for n in ("exnihilo", "torch", "gguf", "llama-cpp-python")}
        (folder / card.NAME).write_text(card.card(run, loaded, proof["lines"]), encoding="utf-8")
        return proof

    def write(folder: Path) -> None:
        gguf.export_gguf(loaded, folder, kind)

    return write, prove


def _onnx(loaded: Loaded, run: Path, texts: list[str], dtype: str | None) -> Export:
    from exnihilo.interop import onnx
    from exnihilo.report import card

    if dtype not in (None, "fp32", "int8"):
        raise ConfigError(f"dtype={dtype!r} of an ONNX file", expected="fp32, or int8 (both files)")
    small = dtype == "int8"
    onnx.check(loaded.model)

    def prove(folder: Path) -> dict[str, Any]:
        proof = onnx.prove_onnx(loaded, folder, texts, HARD, small)
        proof |= {"format": "onnx", "dtype": dtype or "fp32"}
        proof["weights"] = {file.name: file.stat().st_size for file in sorted(folder.glob("*.onnx"))}
        proof["versions"] = {n: _version(n) for n in ("exnihilo", "torch", "onnx", "onnxruntime")}
        (folder / card.NAME).write_text(card.card(run, loaded, proof["lines"]), encoding="utf-8")
        return proof

    def write(folder: Path) -> None:
        onnx.export_onnx(loaded, folder, small)

    return write, prove


_WRITERS: dict[str, tuple[str, Callable[[Loaded, Path, list[str], str | None], Export]]] = {
    "hf": ("a Hugging Face folder", _hf),
    "gguf": ("a file for llama.cpp", _gguf),
    "onnx": ("an encoder for onnxruntime", _onnx),
}


def import_folder(source: Path, *, out: Path, force: bool = False) -> Path:
    """Read a Hugging Face folder of a known family and write it as a run folder, proved like an export.

    Raises:
        ModelError: a family, option or tensor that cannot be obeyed, by name; or no tokenizer.
    """
    from exnihilo.interop import hf
    from exnihilo.interop.load import objective_of

    if not source.is_dir():
        raise UsageError(
            f"{source} is no folder",
            expected="a folder with config.json, model.safetensors and tokenizer.json",
            next="fetch the model first, e.g. with `hf download NAME --local-dir DIR`",
        )
    model, codec = hf.load(source)
    if codec is None:
        raise ModelError(
            f"{source} has no tokenizer.json", expected="a tokenizer beside the weights", next="copy it there"
        )

    def write(folder: Path) -> None:
        hf.save(model, codec, folder, extra={"imported_from": source.name}, objective=objective_of(source))

    def prove(folder: Path) -> dict[str, Any]:
        proof = check(model, codec, folder, HARD, None)
        if find_spec("transformers") is not None:
            _as_source(source, model, codec, proof)
        return proof

    publish(out, write, prove, force)
    return out


def _as_source(source: Path, model: Model, codec: Codec, proof: dict[str, Any]) -> None:
    """Adds to a proof: what Transformers says of the folder that was imported."""
    from exnihilo.interop import fed
    from exnihilo.interop.readout import ours, theirs

    if _reads_numbers(model):
        gap, _ = fed.against(model, source)
        _note_source(proof, gap, source)
        return
    try:
        read = theirs(source)
    except ModelError as error:  # an old folder, with tensors that its class no longer has
        proof["lines"].append(f"not checked against {source.name} itself: {error.given}")
        return
    rows = _rows(codec, HARD, model.config.context, encoder=_encodes(model))
    got = [read(row) for row in rows]
    mine = [ours(model, row) for row in rows]
    gap = _gap([{name: here[name] for name in there} for here, there in zip(mine, got, strict=True)], got)
    _note_source(proof, gap, source)


def _note_source(proof: dict[str, Any], gap: float, source: Path) -> None:
    held = gap <= BOUND
    proof["checks"]["source_logits"] = {"held": held, "max_difference": gap, "bound": BOUND}
    proof["lines"].append(
        f"{'held  ' if held else 'FAILED'} source_logits: max |Δ| {gap:.1e} against Transformers on "
        f"{source.name}"
    )
    proof["proved"] = proof["proved"] and held


def publish(
    out: Path, write: Callable[[Path], None], prove: Callable[[Path], dict[str, Any]], force: bool
) -> dict[str, Any]:
    """Write aside, prove, rename."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", expected="a folder", next="choose another --out DIR")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise UsageError(
            f"{out} is not empty", expected="a new folder", next="choose another --out DIR, or --force"
        )
    aside = out.parent / f".{out.name}.writing-{os.getpid()}"
    old = out.parent / f".{out.name}.old-{os.getpid()}"
    try:
        aside.mkdir(parents=True)
        write(aside)
        proof = prove(aside)
        (aside / "proof.json").write_text(
            json.dumps(proof, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        if not proof["proved"]:
            raise ModelError(
                "the export is not equal to the run: "
                + "; ".join(line for line in proof["lines"] if "FAILED" in line),
                expected="every check to hold",
                next=f"nothing was written to {out}; please report it with these lines",
            )
        if out.exists():
            os.rename(out, old)
        os.rename(aside, out)
    except OSError as error:
        if old.exists() and not out.exists():
            os.rename(old, out)
        raise ExNihiloError(
            f"{out} cannot be written: {error.strerror or error}", expected="a writable folder with room"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    proof["out"] = str(out)
    proof["lines"].append(f"proved; written to {out}")
    return proof


def check(
    model: Model, codec: Codec, folder: Path, texts: Sequence[str], dtype: str | None
) -> dict[str, Any]:
    """Compare what was written to `folder` with the model and codec it was written from."""
    import torch

    from exnihilo.interop import fed, hf
    from exnihilo.interop.files import read_json
    from exnihilo.interop.readout import ours

    numbers = _reads_numbers(model)
    rows = [] if numbers else _rows(codec, texts, model.config.context, encoder=_encodes(model))
    source = _rounded(model, dtype)
    fresh, their_codec = hf.load(folder)
    checks: dict[str, dict[str, Any]] = {}
    lines: list[str] = []

    def note(name: str, held: bool, words: str, **figures: Any) -> None:
        checks[name] = {"held": held, **figures}
        lines.append(f"{'held  ' if held else 'FAILED'} {name}: {words}")

    mine, again = [ours(source, row) for row in rows], [ours(fresh, row) for row in rows]
    gap, tokens = _gap(mine, again), sum(len(row) for row in rows)
    if numbers:
        gap = fed.read_back(source, folder)
    note(
        "logits",
        gap <= BOUND,
        f"max |Δ| {gap:.1e} on {'noise' if numbers else f'{tokens} tokens'}, read back into a fresh model",
        max_difference=gap,
        bound=BOUND,
        tokens=tokens,
    )
    here = (read_json(folder / "config.json").get("exnihilo") or {}).get("only_here")
    if here:
        lines.append(
            f"only this project reads {hf.MORE}: {', '.join(here[:4])}" + (" ..." if here[4:] else "")
        )
    hard = [*HARD, *texts]
    if their_codec is None:
        note("tokenizer", False, "no tokenizer was written")
    else:
        ids = [codec.encode(text) for text in hard]
        same = sum(a == their_codec.encode(text) for a, text in zip(ids, hard, strict=True))
        back = sum(codec.decode(a) == their_codec.decode(a) for a in ids)
        whole = sum(codec.decode(a) == text for a, text in zip(ids, hard, strict=True))
        note(
            "tokenizer",
            same == back == len(hard),
            f"{same} of {len(hard)} hard texts to the same ids, {back} back to the same text, "
            f"{whole} of those exactly as they were",
            texts=len(hard),
            same_ids=same,
            same_text=back,
            round_trip=whole,
        )
    if find_spec("transformers") is None:
        lines.append("not checked: transformers is not installed")
    elif numbers:
        gap, heads = fed.against(source, folder)
        words = f"max |Δ| {gap:.1e} against Transformers"
        note("transformers_logits", gap <= BOUND, words, max_difference=gap, bound=BOUND, heads=heads)
    else:
        _with_transformers(folder, codec, source, rows, mine, hard, note)
    proved = all(entry["held"] for entry in checks.values())
    return {
        "proved": proved,
        "format": "hf",
        "dtype": dtype or str(next(model.parameters()).dtype).removeprefix("torch."),
        "checks": checks,
        "lines": lines,
        "versions": {name: _version(name) for name in ("exnihilo", "torch", "transformers", "tokenizers")},
        "weights": {file.name: file.stat().st_size for file in sorted(folder.glob("*.safetensors"))},
        "threads": torch.get_num_threads(),
    }


def _with_transformers(
    folder: Path,
    codec: Codec,
    source: Model,
    rows: list[list[int]],
    mine: list[dict[str, Tensor]],
    hard: Sequence[str],
    note: Callable[..., None],
) -> None:
    import torch

    from exnihilo.infer import generate
    from exnihilo.interop.readout import theirs as read_theirs

    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a folder needs no network
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    read = read_theirs(folder)
    got = [read(row) for row in rows]
    gap = _gap([{name: here[name] for name in there} for here, there in zip(mine, got, strict=True)], got)
    only = sorted(set(mine[0]) - set(got[0]) - {"embedding"}) if rows else []
    note(
        "transformers_logits",
        gap <= BOUND,
        f"max |Δ| {gap:.1e} against Transformers" + (f"; it has no {', '.join(only)}" if only else ""),
        max_difference=gap,
        bound=BOUND,
        heads=sorted(got[0]) if rows else [],
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    same = sum(codec.encode(text) == _their_ids(tokenizer, text) for text in hard)
    note(
        "transformers_tokenizer",
        same == len(hard),
        f"{same} of {len(hard)} hard texts to the same ids",
        same_ids=same,
    )
    if _encodes(source):
        return
    from exnihilo.codec.chat import Chat, is_chatml

    if is_chatml(tokenizer.chat_template) and tokenizer.chat_template == Chat(codec).template:
        chat, talks = Chat(codec), [_TALK[:n] for n in range(1, len(_TALK) + 1)]
        same = sum(
            chat.prompt(talk) == _ids(tokenizer.apply_chat_template(talk, add_generation_prompt=True))
            for talk in talks
        )
        said = f"{same} of {len(talks)} conversations to the same ids"
        note("transformers_chat", same == len(talks), said, same_ids=same)
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts = [row[: min(8, len(row))] for row in rows[:4]]
    longest = min(_GREEDY, source.config.context - max(map(len, prompts)))
    equal = 0
    for prompt in prompts:
        ours = generate(source, codec, [prompt], temperature=0, max_new_tokens=longest)[0].ids
        with torch.no_grad():
            out = theirs.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=longest,
                do_sample=False,
                eos_token_id=codec.eos_id,
                pad_token_id=codec.pad_id,
            )[0]
        equal += out[len(prompt) :].tolist() == ours
    note(
        "greedy",
        equal == len(prompts),
        f"{equal} of {len(prompts)} prompts go on token for token",
        equal=equal,
    )


_TALK = [
    {"role": role, "content": text}
    for role, text in (
        *(("system", " Be brief. "), ("user", "Hi \U0001f600"), ("assistant", "Hello.\n\n1 + 1 = 2")),
        *(("tool", "42"), ("assistant", "It is 42."), ("user", "So?")),
    )
]


def _ids(found: Any) -> list[int]:
    """Ids of a chat template's rendering, whichever release made it."""
    return list(found if isinstance(found, list) else found["input_ids"])


def _their_ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _reads_numbers(model: Model) -> bool:
    """Whether its family reads no tokens: pictures, spectrograms."""
    from exnihilo.model.family import find

    return find(model.config.family).feed is not None


def _encodes(model: Model) -> bool:
    from exnihilo.model.family import find

    return find(model.config.family).encoder


def _rows(codec: Codec, texts: Sequence[str], context: int, *, encoder: bool = False) -> list[list[int]]:
    """Ids to compare on: bos and text (of an encoder also eos), at most the model's context."""
    ends = [codec.eos_id] if encoder else []
    rows = [[codec.bos_id, *codec.encode(text)][: context - len(ends)] + ends for text in texts]
    return [row for row in rows if len(row) > 1]


def _rounded(model: Model, dtype: str | None) -> Model:
    """The model with its weights rounded as they were written, in fp32."""
    import copy

    import torch

    kept = copy.deepcopy(model).cpu().eval()
    if dtype is not None:
        kept = kept.to(getattr(torch, _DTYPES[dtype]))
    return kept.to(torch.float32)


def _gap(a: Sequence[Mapping[str, Tensor]], b: Sequence[Mapping[str, Tensor]]) -> float:
    """Largest absolute difference, over rows and heads; infinite where a number is not finite."""
    worst = 0.0
    for left, right in zip(a, b, strict=True):
        for name, value in left.items():
            difference = (value - right[name]).abs().max().item()
            worst = max(worst, difference) if difference == difference else float("inf")
    return worst


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
