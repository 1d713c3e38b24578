"""What each verb of the command line does: calls the Python API's function and prints what it returns.

torch is not imported here: an action imports what it needs when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from exnihilo.cli.parse import Arguments

Figures = Mapping[str, Any] | None


def out(arguments: Arguments, text: object = "", end: str = "\n") -> None:
    """A result, to standard output; to standard error where --json wants that for its object."""
    from exnihilo.log import rank

    if rank() != 0:  # under torchrun one worker speaks
        return
    stream = sys.stderr if "json" in arguments.flags else sys.stdout
    if isinstance(text, str):
        if stream.isatty():
            from exnihilo.log import safe

            text = safe(text)  # a model may write what steers a terminal
        print(text, end=end, file=stream, flush=True)
    else:  # a rich object: coloured where the terminal can
        from rich.console import Console

        Console(file=stream, highlight=False).print(text)


def train(a: Arguments) -> Figures:
    from exnihilo import api

    resume = "resume" in a.flags
    if "dry_run" in a.flags and a.positional(0) == "chat":
        return _stages(a)
    if "dry_run" in a.flags:
        from exnihilo import config_layers

        config, origins = api.configure(
            a.positional(0), resume=resume, overlay=a.options.get("with"), overrides=a.settings
        )
        from exnihilo.plan import make, sized, table

        config, origins = sized(config, origins)
        out(a, config_layers.dump(config, origins))
        plan = make(config)
        out(a, table(plan))
        return {"config": config.model_dump(mode="json"), "origins": origins, "plan": plan.figures()}
    result = api.train(
        a.positional(0),
        resume=resume,
        force="force" in a.flags,
        overlay=a.options.get("with"),
        overrides=a.settings,
    )
    from exnihilo.report.folder import summary

    out(a, summary(result))
    if not result.interrupted:
        out(a, f"try: {_next(str(result.run))}")
    figures = {name: getattr(result, name) for name in _RESULT}
    control = result.run / "control.json"
    if control.is_file():
        from exnihilo.interop.files import read_json

        figures["control"] = read_json(control)
    return figures


def _stages(a: Arguments) -> Figures:
    """``train chat --dry-run``: every stage with its settings."""
    from pathlib import Path

    from exnihilo import config_layers
    from exnihilo.stages.walk import configurations

    over = a.options.get("with")
    found = configurations(a.settings, {}, Path(over) if over is not None else None)
    for name, (config, origins) in found.items():
        out(a, f"# stage {name}\n{config_layers.dump(config, origins)}")
    return {"stages": {name: config.model_dump(mode="json") for name, (config, _) in found.items()}}


def _next(run: str) -> str:
    """What a run of its kind is used for."""
    from pathlib import Path

    from exnihilo.interop.files import read_json
    from exnihilo.objective import registry

    path = Path(run) / "objective.json"
    name = str(read_json(path).get("objective")) if path.is_file() else "causal_lm"
    roles = set(registry.find(name).roles)
    if roles & {"messages", "prompt"} and name != "reward_model":
        return f"exnihilo chat {run}"
    if name == "causal_lm":
        from exnihilo.predictions import raw

        begin = "0" if raw.kind_of(run) == "ids" else "Once"
        return f'exnihilo sample {run} "{begin}"'
    if name == "recall":
        return f"exnihilo probe {run}"
    if name in ("masked_lm", "mix"):
        return f'exnihilo predict {run} "The [MASK] was old."'
    if "context" in roles:
        return f'exnihilo predict {run} "QUESTION" "CONTEXT"'
    if name == "sound_tokens":
        return f"exnihilo sample {run} max_new_tokens=8000 out=a.wav"
    if name in ("forecasting", "series_tokens"):
        return f"exnihilo predict {run} FILE.csv --out next.csv"
    if name == "masked_series":
        return f"exnihilo train forecasting init={run} data=PATH"
    if name == "series_classification":
        return f'exnihilo predict {run} "[1, 2, 3]"'
    if name == "masked_sound":
        return f"exnihilo train sound_classification init={run} data=PATH"
    if name == "media_qa":
        return f'exnihilo predict {run} picture.png "QUESTION"'
    if "sound" in roles:
        return f"exnihilo predict {run} clip.wav"
    if name == "picture_tokens":
        return f"exnihilo sample {run} n=4 out=a.png"
    if name == "masked_picture":
        return f"exnihilo train picture_classification init={run} data=PATH"
    if "picture" in roles:
        return f"exnihilo predict {run} picture.png"
    two = {"a", "b"} <= roles or "query" in roles
    return f'exnihilo predict {run} "TEXT"' + (' "SECOND TEXT"' if two else "")


_RESULT = ("run", "step", "tokens", "seconds", "loss", "val_loss", "bpb", "interrupted", "metrics")


def plan(a: Arguments) -> Figures:
    from exnihilo import api
    from exnihilo.plan import table

    plan = api.plan(
        a.positional(0, "gpt"),
        overlay=a.options.get("with"),
        overrides=a.settings,
        measure="no_measure" not in a.flags,
    )
    out(a, table(plan))
    return plan.figures()


def sample(a: Arguments) -> Figures:
    from exnihilo import api
    from exnihilo.errors import UsageError
    from exnihilo.predictions import picture, raw, sound

    run, prompt = a.positionals[0], a.positional(1)
    given = dict(a.options)
    if prompt is not None and "prompt" in given:
        raise UsageError(
            f"two prompts were given: {prompt!r} and {given['prompt']!r}",
            expected="one: as the second word, or prompt=TEXT",
            next="leave one out; a text of several words needs quotes",
        )
    prompt = given.pop("prompt", prompt) or ""
    n, to = given.pop("n", 1), given.pop("out", None)
    if picture.draws(run):
        return _drawn(a, run, prompt, n, to, given)
    whole = to is not None and bool(raw.kind_of(run))
    if to is not None and not whole:
        sound.check(run)
    asked, prompt = prompt, raw.prompt(run, sound.prompt(run, prompt))
    texts: list[str] = []
    if to is not None and whole:
        made = api.sample(run, prompt, n=n, **given)
        files = raw.write(run, made, to, asked)
        out(a, f"written: {', '.join(files)}")
        return {"run": run, "files": files, "tokens": [len(generation.ids) for generation in made]}
    if n == 1:
        out(a, prompt.encode("utf-8", "replace").decode(), end="")  # a file's bytes may be no text
        pieces = []
        for piece in api.stream(run, prompt, **given):
            out(a, piece, end="")
            pieces.append(piece)
        out(a)
        texts = ["".join(pieces)]
    else:
        for index, generation in enumerate(api.sample(run, prompt, n=n, **given)):
            out(a, f"--- {index + 1}")
            out(a, prompt + generation.text)
            texts.append(generation.text)
    figures: dict[str, Any] = {"run": run, "prompt": prompt, "texts": texts}
    if to is not None:
        figures["sounds"] = sound.write(run, [prompt + text for text in texts], to)
        out(a, f"written: {', '.join(figures['sounds'])}")
    return figures


def _drawn(a: Arguments, run: str, prompt: str, n: int, to: str | None, given: dict[str, Any]) -> Figures:
    """`sample` of a model of pixels: files, not text."""
    from exnihilo import api
    from exnihilo.errors import UsageError
    from exnihilo.predictions import picture

    if to is None:
        raise UsageError(
            f"{run} draws pictures", expected="out=FILE", next=f"exnihilo sample {run} out=a.png"
        )
    picture.check(run, to)
    prompt = picture.prompt(run, prompt)
    given.setdefault("max_new_tokens", picture.most(run, prompt))
    made = api.sample(run, prompt, n=n, **given)
    files = picture.write(run, [prompt + generation.text for generation in made], to)
    out(a, f"written: {', '.join(files)}")
    return {"run": run, "pictures": files, "tokens": [len(generation.ids) for generation in made]}


def doctor(a: Arguments) -> Figures:
    from rich.console import Console

    from exnihilo import api

    diagnosis = api.doctor(
        a.positionals[0],
        overlay=a.options.get("with"),
        overrides=a.settings,
        **a.given("max_examples", "samples"),
    )
    stream = sys.stderr if "json" in a.flags else sys.stdout
    diagnosis.show(Console(file=stream, highlight=False, width=None if stream.isatty() else 110))
    return diagnosis.figures()


def predict(a: Arguments) -> Figures:
    from exnihilo import api
    from exnihilo.config_layers import load as merge
    from exnihilo.errors import UsageError
    from exnihilo.predictions import ask, series

    run, *texts = a.positionals
    given = a.given("out", "top_k", "batch_tokens")
    flags = {name: name in a.flags for name in ("resume", "force")}
    file = a.options.get("file")
    if texts and file is not None:
        raise UsageError(
            f"a text ({texts[0]!r:.60}) and a file ({file})",
            expected="one of them",
            next="leave one out",
        )
    if "json" in a.flags and file is not None and "out" not in given:
        raise UsageError(
            "--json with a file and no --out",
            expected="--out FILE, which takes the predictions",
            next="--out out.jsonl, or leave --json out: the rows are JSON",
        )
    if a.settings and file is None:
        raise UsageError(
            f"{a.settings[0]} is about a file, and none is given",
            expected="--file FILE",
            next=f"add --file FILE, or leave {a.settings[0]} out",
        )
    reading = merge("gpt", a.settings)[0].data
    options: dict[str, Any] = {
        "file": file, "out": None, "top_k": None, "batch_tokens": None, "reading": reading,
        "columns": dict(reading.fields) or None, **flags, **given,
    }  # fmt: skip
    alone = texts[0] if len(texts) == 1 else tuple(texts)
    found = ask(
        api.load(run, **a.given("device")),
        alone if texts else None,
        write=(lambda line: out(a, line)) if file is not None and "out" not in given else None,
        progress=True,
        **options,
    )
    if file is None:
        for line in series.lines(found) if "forecasts" in found else _told(found):
            out(a, line)
        return {"run": run, "prediction": found}
    if "out" in given:
        errors = f", {found['errors']} of them errors" if found["errors"] else ""
        out(a, f"{found['rows']} rows{errors} in {given['out']}")
    return {"run": run, "file": file, **given, **found}


def _told(value: Any, indent: str = "") -> list[str]:
    """A prediction as lines: a name, its value; lists and tables below their name."""
    lines: list[str] = []
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            lines += [f"{indent}{name}", *_told(inner, indent + "  ")]
        elif isinstance(inner, (list, tuple)) and inner and all(isinstance(x, Mapping) for x in inner):
            lines.append(f"{indent}{name}")
            lines += [f"{indent}  " + "  ".join(f"{k}={_short(v)}" for k, v in x.items()) for x in inner]
        else:
            lines.append(f"{indent}{name:<{max(1, 24 - len(indent))}} {_short(inner)}")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, (list, tuple)) and len(value) > 12 and isinstance(value[0], float):
        return f"[{', '.join(_short(v) for v in value[:6])}, ... {len(value)} numbers]"
    if isinstance(value, Mapping):
        return ":".join(_short(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return " ".join(_short(v) for v in value)
    return str(value)


def eval(a: Arguments) -> Figures:
    from exnihilo import api

    given = a.given("max_tokens", "max_examples", "device", "dtype", "grader", *_REPLIES, *_SUITE)
    found = api.eval(a.positionals[0], overrides=a.settings, **given)
    for name, figures in found.get("suites", {"": found}).items():
        if name:
            out(a, f"--- {name}")
        _metrics(a, figures)
    return found


def _metrics(a: Arguments, figures: Mapping[str, Any]) -> None:
    for name, value in figures.items():
        if name.endswith(("_low", "_high")) and name.rpartition("_")[0] in figures:
            continue  # stands beside its figure
        base = figures.get(f"majority_{name}")
        beside = f"  majority {base:,.4f}" if base is not None and name not in _COUNTS else ""
        if f"{name}_low" in figures:
            beside = f"  [{figures[f'{name}_low']:,.4f}, {figures[f'{name}_high']:,.4f}]{beside}"
        if name in _COUNTS:
            out(a, f"{name:<24} {value:,.0f}")
        elif not name.startswith("majority_"):
            out(a, f"{name:<24} {value:,.4f}{beside}" if isinstance(value, float) else f"{name:<24} {value}")


_SUITE = ("suite", "shots", "shots_from", "chat", "stride", "tasks", "include")
_REPLIES = ("samples", "temperature", "max_new_tokens", "seed", "seconds", "out")
_COUNTS = {
    *("prompts", "replies", "ungraded", "failed"),
    *("examples", "skipped", "dropped", "tokens", "total", "HasAns_total", "NoAns_total", "queries"),
    *("cut", "no_room", "bytes", "resampled_windows", "shots"),
    *("unseen", "unlabelled", "unanswered", "unseen_tags", "repaired_tags", "moved_spans", "skipped_rows"),
}


def export(a: Arguments) -> Figures:
    from exnihilo import api

    proof = api.export(
        a.positionals[0],
        to=a.options.get("to", "hf"),
        out=_required(a, "out"),
        force="force" in a.flags,
        **a.given("dtype"),
    )
    for line in proof["lines"]:
        out(a, line)
    return proof


def import_(a: Arguments) -> Figures:
    from exnihilo import api

    path = api.import_(a.positionals[0], out=_required(a, "out"), force="force" in a.flags)
    out(a, f"{path} is ready: {_next(str(path))}")
    return {"run": path}


def _required(a: Arguments, name: str) -> str:
    from exnihilo.errors import UsageError

    if name not in a.options:
        raise UsageError(
            f"no {name} given",
            expected=f"{name}=DIR or --{name} DIR",
            next=f"add --{name} DIR, a folder that does not exist yet",
        )
    return a.options[name]


def recipes(a: Arguments) -> Figures:
    from exnihilo import api

    found = api.recipes()
    for name, text in found.items():
        out(a, f"{name:<28} {text}")
    return {"recipes": found}


def tokenizer(a: Arguments) -> Figures:
    from exnihilo import api
    from exnihilo.errors import UsageError
    from exnihilo.tokens import pieces

    action = a.positionals[0]
    if action == "train":
        if len(a.positionals) > 1:
            raise UsageError(
                f"unexpected {a.positionals[1]!r}",
                expected="exnihilo tokenizer train data=PATH out=DIR",
                next="settings are KEY=VALUE",
            )
        codec = api.tokenizer("train", out=_required(a, "out"), overrides=a.settings)
        out(a, f"{codec.vocab_size} tokens in {a.options['out']}")
        return {"vocab_size": codec.vocab_size, "hash": codec.hash, "out": a.options["out"]}
    if action != "show":
        raise UsageError(
            f"tokenizer action {action!r}",
            expected="train or show",
            next="exnihilo tokenizer train data=PATH out=DIR, or exnihilo tokenizer show DIR",
        )
    codec = api.tokenizer("show", a.positional(1))
    out(a, f"{codec.vocab_size} tokens; hash {codec.hash[:16]}")
    figures: dict[str, Any] = {"vocab_size": codec.vocab_size, "hash": codec.hash}
    text = a.positional(2)
    if text is not None:
        ids = codec.encode(text)
        shown = pieces(codec, ids)
        out(a, " ".join(f"{piece!r}:{number}" for piece, number in zip(shown, ids, strict=True)))
        size = len(text.encode())
        out(a, f"{len(ids)} tokens, {size} bytes, {size / max(1, len(ids)):.2f} bytes a token")
        figures.update(ids=ids, pieces=shown, bytes=size)
    return figures


def lr_find(a: Arguments) -> Figures:
    from exnihilo import api
    from exnihilo.report import terminal

    curve = api.lr_find(
        a.positional(0, "gpt"),
        overlay=a.options.get("with"),
        overrides=a.settings,
        **a.given("low", "high", "trials", "out"),
    )
    out(a, terminal.sweep(curve.rates, curve.smooth, curve.suggestion))
    out(a, f"suggestion: optim.lr={curve.suggestion:.3g}")
    return {
        "suggestion": curve.suggestion,
        "rates": curve.rates,
        "losses": curve.losses,
        "diverged_at": curve.diverged_at,
    }


def report(a: Arguments) -> Figures:
    from exnihilo import api

    path = api.report(a.positionals[0], **a.given("out"))
    out(a, str(path))
    return {"report": path}


def compare(a: Arguments) -> Figures:
    from exnihilo import api
    from exnihilo.report.compare import table

    rows = api.compare(a.positionals, **a.given("out"))
    out(a, table(rows))
    return {"runs": rows}


def quickstart(a: Arguments) -> Figures:
    from pathlib import Path

    from exnihilo.config_layers import parse_value
    from exnihilo.quickstart import chain, encoder

    start = encoder.start if "encoder" in a.flags else chain.start
    given = a.given("data", "minutes", "run", "seed", "device")
    if "run" in given:
        given["run"] = Path(given["run"])
    if "data" in given:
        given["data"] = parse_value("data", given["data"])
    return start(force="force" in a.flags, stream=sys.stderr if "json" in a.flags else sys.stdout, **given)
