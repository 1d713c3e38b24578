"""A model card: what a model is, what it was trained on and how, what it is worth, and where it ends.

::

    text = card(Path("runs/books"), loaded, proof["lines"])     # README.md of an export

Everything in it is read from the run folder: settings that were chosen (not the defaults), the data's counts,
the last evaluation, the comparison with the control, the stages before. What the folder does not say is not
said either, but named as unknown.

Reference: Mitchell et al. 2019 (arXiv:1810.03993); https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from exnihilo.eval import saved
from exnihilo.interop import hf
from exnihilo.interop.files import read_json
from exnihilo.interop.load import Loaded
from exnihilo.model.family import find
from exnihilo.report.folder import RunFolder, open_run
from exnihilo.train.lineage import weights_hash

NAME = "README.md"
_SET = re.compile(r"^(\w+) = (.*?)  ?# (.+)$")
_QUIET = ("default", "measured", "auto: found", "auto: measured", "auto: estimated")
_HERE = ("run", "path", "init", "device", "threads", "workers")  # of this machine
_TASKS = {  # class of transformers, by its ending -> the Hub's name of the task
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForPreTraining": "fill-mask",
    "ForQuestionAnswering": "question-answering",
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
}
_CONTROL = {  # of control.json -> in words
    "with": "with pretraining",
    "without": "without",
    "before": "before this stage",
    "after": "after it",
    "gain": "gain",
}
_COUNTED = ("step", "tokens", "seconds", "final", "kind")


def card(run: Path, loaded: Loaded, proof: Sequence[str] = (), architecture: str | None = None) -> str:
    """The card of a run's model, in Markdown.

    Args:
        run: its folder; one without figures (an imported model) gives a shorter card.
        loaded: the model and tokenizer.
        proof: lines of an export's proof.
        architecture: the class of transformers that the exported config.json names.

    Raises:
        CheckpointError: a file of the folder is broken.
    """
    folder = open_run(run) if _is_run(run) else RunFolder(run)
    return (
        "\n\n".join(
            [
                _front(architecture),
                f"# {_title(run)}",
                _what(loaded),
                _use(loaded, architecture),
                "## Data\n\n" + _data(folder),
                "## Training\n\n" + _training(folder, run),
                "## Evaluation\n\n" + _evaluation(folder, run, loaded),
                "## Limits\n\n" + _limits(folder, loaded),
                *(["## Proof of the export\n\n" + "\n".join(f"- {line}" for line in proof)] if proof else []),
            ]
        )
        + "\n"
    )


def _is_run(run: Path) -> bool:
    return any((run / name).is_file() for name in ("metrics.jsonl", "config.toml", "model.safetensors"))


def _title(run: Path) -> str:
    resolved = run.resolve()
    return resolved.parent.parent.name if resolved.parent.name == "checkpoints" else resolved.name


def _front(architecture: str | None) -> str:
    task = next((t for end, t in _TASKS.items() if (architecture or "").endswith(end)), None)
    lines = ["---", *(["library_name: transformers"] if architecture else [])]
    lines += [f"pipeline_tag: {task}"] if task else []
    return "\n".join([*lines, "tags:", "- exnihilo", "---"])


def _what(loaded: Loaded) -> str:
    config, model = loaded.model.config, loaded.model
    count = sum(p.numel() for p in model.parameters())
    kind = "encoder" if find(config.family).encoder else "decoder"
    objective = (loaded.objective or {}).get("objective")
    said = f", trained for `{objective}`" if objective else ""
    rows = {
        "parameters": f"{count:,}",
        "layers × width": f"{config.depth} × {config.width}",
        "heads (keys and values)": f"{config.heads} ({config.kv_heads})",
        "context": f"{config.context} tokens",
        "vocabulary": f"{loaded.codec.vocab_size:,} ({loaded.codec.kind})",
        "heads of the model": ", ".join(config.outputs),
    }
    return f"{'An' if kind[0] in 'aeiou' else 'A'} {kind} of family `{config.family}`{said}.\n\n" + _table(
        ("", ""), rows.items()
    )


def _use(loaded: Loaded, architecture: str | None) -> str:
    if architecture is None:
        return ""
    if not find(loaded.model.config.family).encoder and "tokens" in loaded.model.config.outputs:
        chats = hf.chat_of(loaded.codec, loaded.model.config, loaded.objective) is not None
        asked = [
            'turns = [{"role": "user", "content": "Hi"}]',
            "inputs = tokenizer.apply_chat_template(",
            '    turns, add_generation_prompt=True, return_tensors="pt", return_dict=True',
            ")",
        ]
        code = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'tokenizer = AutoTokenizer.from_pretrained("DIR")',
            'model = AutoModelForCausalLM.from_pretrained("DIR")',
            *(asked if chats else ['inputs = tokenizer("Once", return_tensors="pt")']),
            "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))",
        ]
    else:
        code = [
            f"from transformers import AutoTokenizer, {architecture}",
            "",
            'tokenizer = AutoTokenizer.from_pretrained("DIR")',
            f'model = {architecture}.from_pretrained("DIR")',
            'outputs = model(**tokenizer("A text.", return_tensors="pt"))',
        ]
    return "## Use\n\n```python\n" + "\n".join(code) + "\n```"


def _data(folder: RunFolder) -> str:
    sources = folder.data.get("sources") or []
    if not sources:
        return "Not known: the folder that this model came from does not say."
    rows = []
    for source in sources:
        skipped = sum(v for v in (source.get("skipped") or {}).values() if isinstance(v, (int, float)))
        rows.append(
            (
                source.get("name") or "?",
                source.get("kind") or "?",
                *(f"{int(source.get(key) or 0):,}" for key in ("documents", "tokens", "bytes", "held_out")),
                f"{int(skipped):,}",
            )
        )
    heads = ("source", "kind", "documents", "tokens", "bytes", "held out", "skipped")
    text = _table(heads, rows)
    leak = folder.data.get("leak") or {}
    if leak.get("documents"):
        text += (
            f"\n\nHeld-out documents that stand in the training data too: {leak.get('exact', 0)} exactly, "
            f"{leak.get('near', 0)} nearly, of {leak['documents']:,}."
        )
    if any(s.get("kind") == "world" for s in sources):
        text += "\n\n`world` is generated text about a small simulated world: no text that people wrote."
    return text


def _training(folder: RunFolder, run: Path) -> str:
    chain = _lineage(run)
    parts = []
    if chain:
        parts.append(
            "From random weights: "
            + " → ".join(f"{e.get('stage') or e.get('objective')} ({e.get('steps')} steps)" for e in chain)
            + "."
        )
    if folder.config is None:
        parts.append("The settings are not known: the folder that this model came from does not say.")
        return "\n\n".join(parts)
    figures = {
        "steps": folder.last("step"),
        "tokens": folder.last("tokens"),
        "seconds": folder.last("seconds"),
    }
    said = ", ".join(f"{value:,.0f} {name}" for name, value in figures.items() if value is not None)
    machine = [str(folder.env[k]) for k in ("device", "processor") if folder.env.get(k)]
    parts.append(
        (f"{said[0].upper()}{said[1:]}" if said else "No step is on record")
        + (f" on {' '.join(machine)}" if machine else "")
        + ". Settings that are not defaults:"
    )
    parts.append(_table(("setting", "value", "from"), _chosen(folder.config_text)))
    return "\n\n".join(parts)


def _lineage(run: Path) -> list[Mapping[str, Any]]:
    path = run / "config.json"
    found = (read_json(path).get("exnihilo") or {}).get("lineage") if path.is_file() else None
    return [entry for entry in found or () if isinstance(entry, dict)]


def _chosen(text: str) -> Iterator[tuple[str, str, str]]:
    """Lines of config.toml that a default or a measurement did not set; no path of this machine."""
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]") + "."
        found = _SET.match(line)
        if found and found[3] not in _QUIET and found[1] not in _HERE and found[1] != "sources":
            yield section + found[1], found[2], found[3]


def _evaluation(folder: RunFolder, run: Path, loaded: Loaded) -> str:
    parts = []
    last = {
        name.removeprefix("val_"): values[-1]
        for name, values in folder.val.items()
        if name not in _COUNTED and values and values[-1] == values[-1]
    }
    if last:
        ends = ("_low", "_high")
        shown = [
            (name, _number(value), _between(*(last.get(name + end) for end in ends)))
            for name, value in last.items()
            if not (name.endswith(ends) and name.rpartition("_")[0] in last)
        ]
        heads = ("figure", "value", "95% interval")
        parts.append("On held-out data, at the last evaluation:\n\n" + _table(heads, shown))
    control = run / "control.json"
    if control.is_file():
        found = read_json(control)
        rows = [
            (name, _number(entry["mean"]), _between(entry.get("low"), entry.get("high")))
            for name, entry in ((words, found.get(key)) for key, words in _CONTROL.items())
            if isinstance(entry, dict) and "mean" in entry
        ]
        if "majority" in found:
            rows.append(("majority", _number(found["majority"]), ""))
        if rows:
            heads = (str(found.get("metric", "figure")), "mean", "interval")
            seeds = f", {len(found['seeds'])} seeds" if found.get("seeds") else ""
            examples = f"{found.get('examples', '?')} examples{seeds}"
            parts.append(f"Against the control, {examples}:\n\n" + _table(heads, rows))
    if suites := list(saved.rows(saved.kept(run, weights_hash(loaded.model)))):
        parts.append("Suites (`exnihilo eval --suite`):\n\n" + _table(saved.HEAD, suites))
    return "\n\n".join(parts) or "None is on record."


def _limits(folder: RunFolder, loaded: Loaded) -> str:
    config = loaded.model.config
    lines = [f"It reads at most {config.context} tokens."]
    if not find(config.family).encoder:
        lines.append(
            "It writes what is likely, not what is true; nothing here says that it is safe to rely on."
        )
    tokens, count = folder.last("tokens"), sum(p.numel() for p in loaded.model.parameters())
    if tokens:
        lines.append(f"This stage read {tokens:,.0f} tokens, {tokens / max(count, 1):.2g} a parameter.")
    if any(s.get("kind") == "world" for s in folder.data.get("sources") or ()):
        lines.append("It knows of nothing outside the simulated world.")
    lines.append("Bias, safety and languages other than those of its data were not measured.")
    return "\n".join(f"- {line}" for line in lines)


def _number(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, (int, float)) else "?"


def _between(low: Any, high: Any) -> str:
    return "" if low is None or high is None else f"{_number(low)} to {_number(high)}"


def _table(heads: Sequence[str], rows: Any) -> str:
    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(_cell(cell) for cell in cells) + " |"

    return "\n".join([line(heads), "| " + " | ".join("---" for _ in heads) + " |", *map(line, rows)])


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|").replace("\n", " ")
