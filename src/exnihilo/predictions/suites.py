"""Suites of a loaded run: what ``exnihilo eval RUN --suite ...`` does.

::

    run_suites("runs/books", suite="lambada,gsm8k=test.jsonl", device="cpu", shots=5)
    # {"run": ..., "suites": {"lambada": {"data": "world", "accuracy": ...}, "gsm8k": {...}}}

The figures are kept in the run folder (`eval.saved`), where reports and model cards find them. See
docs/eval.md.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from exnihilo import log
from exnihilo.codec.chat import Chat
from exnihilo.config import DataConfig
from exnihilo.data.base import Drops
from exnihilo.errors import DataError, UsageError
from exnihilo.eval import harness, saved
from exnihilo.eval.suites import Asked, create, names, parse
from exnihilo.eval.suites._records import READING
from exnihilo.eval.suites.base import WORLD
from exnihilo.interop import hf
from exnihilo.predictions.run import Run, load_run
from exnihilo.train.lineage import weights_hash
from exnihilo.train.progress import shown

ALL = "all"
"""Every suite that the embedded world has items for."""


def run_suites(
    run: str | Path,
    *,
    suite: str | Sequence[str],
    data: Any = None,
    overrides: Sequence[str] = (),
    device: str = "cpu",
    progress: bool = True,
    max_tokens: int | None = None,
    dtype: str = "fp32",
    max_examples: int | None = None,
    chat: Literal["auto", "on", "off"] = "auto",
    shots_from: str | Path | None = None,
    tasks: str | Sequence[str] = "",
    include: str | Path | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Figures of suites, each with intervals and the figure of a control.

    Args:
        run: a run, a checkpoint, or a Hugging Face folder.
        suite: ``NAME`` or ``NAME=PATH``, several with commas or as a list; ``all``; ``harness``.
        data: for the suites that name no path; None: held-out items of the embedded world.
        overrides: ``KEY=VALUE`` texts under ``data``: format, encoding, fields ...
        max_tokens, dtype: of a loss; refused.
        max_examples: of each suite, use at most so many items.
        chat: "auto": in turns where the model was taught to answer; "on", "off".
        shots_from: records to show, in place of the first ones of the data.
        tasks, include: of the suite ``harness``: names of lm-evaluation-harness, and a folder with more.
        out: a .jsonl that takes one line an item.
        options: shots, samples, temperature, max_new_tokens, seed, grader, seconds, stride.

    Raises:
        UsageError: an unknown suite, an option that none of the suites obeys.
        DataError: a suite that finds nothing to ask.
    """
    if max_tokens is not None:
        raise UsageError(
            "max_tokens with a suite",
            expected="max_examples=N, max_new_tokens=N",
            next="leave max_tokens out",
        )
    if dtype != "fp32":
        raise UsageError(f"dtype={dtype} with a suite", expected="fp32", next="leave dtype out")
    wanted = _wanted(suite)
    given = {name: value for name, value in options.items() if value not in (None, "")}
    if isinstance(graders := given.get("grader"), (list, tuple)):
        given["grader"] = ",".join(graders)
    _known(wanted, given, chat, shots_from, tasks, include)
    reading = _reading(data, overrides)
    if out is not None and (Path(out).is_dir() or not Path(out).absolute().parent.is_dir()):
        raise UsageError(f"out={out}", expected="a file in a folder that exists", next="out=items.jsonl")
    loaded = load_run(run, device=device)
    loaded.check_writes()
    style = _style(loaded, chat)
    found: dict[str, Any] = {}
    lines: list[dict[str, Any]] = []
    with shown(progress) as display:
        for name, path in wanted:
            label = name if path is None or [n for n, _ in wanted].count(name) == 1 else f"{name}={path}"
            if name == harness.NAME:
                used = {k: v for k, v in given.items() if k in harness.OPTIONS}
                figures, items = harness.evaluate_tasks(
                    loaded.model, loaded.codec, tasks, include=include, chat=style,
                    max_examples=max_examples, progress=display, **used,
                )  # fmt: skip
                found |= figures
                lines += items
                continue
            one, drops = create(name), Drops()
            source = WORLD if reading is None else reading
            if path is not None:
                source = (reading or DataConfig()).model_copy(update={"sources": _sources(path)})
            if one.needs_data and source is WORLD:
                raise UsageError(
                    f"the suite {name!r} without data", expected="its records: the embedded world has none",
                    next=f"--suite {name}=FILE",
                )  # fmt: skip
            asked = Asked(
                loaded.model, loaded.codec, source, progress=display, drops=drops,
                max_examples=max_examples, chat=style if "chat" in one.options else None,
                shots_from=_reading(str(shots_from), overrides) if shots_from is not None else None,
                **{k: v for k, v in given.items() if k in one.options},
            )  # fmt: skip
            result = one.run(asked)
            if drops.counts:
                log.warn(drops.summary(f"{name}: "))
            where = ", ".join(s.path for s in source.sources)
            turns = "turns" if asked.chat is not None else "text"
            asked_in = {"asked_in": turns} if "chat" in one.options else {}
            found[label] = {"data": where, **asked_in, **result.figures}
            lines += [{"suite": label, **item} for item in result.items]
            home = saved.home(run)
            if result.picture is not None and home is not None:
                found[label]["picture"] = _drawn(result.picture, home[0], label)
    if out is not None:
        _write(Path(out), lines)
    settings = {k: v for k, v in given.items()} | ({"max_examples": max_examples} if max_examples else {})
    settings |= {"shots_from": str(shots_from)} if shots_from is not None else {}
    kept = saved.keep(run, found, weights=weights_hash(loaded.model), settings=settings)
    if kept is not None:
        log.say(f"kept in {kept}")
    return {"run": str(run), "weights": str(loaded.path), "suites": found}


def _drawn(picture: Callable[[Path], None], folder: Path, label: str) -> str:
    """A suite's picture in the run folder; where, or why not."""
    path = folder / "suites" / f"{re.sub(r'[^A-Za-z0-9_]+', '-', label)}.png"
    try:
        path.parent.mkdir(exist_ok=True)
        picture(path)
    except OSError as error:  # of a folder that belongs to somebody else: the figures stand without it
        return f"not written: {error.strerror or error}"
    return str(path)


def _wanted(suite: str | Sequence[str]) -> list[tuple[str, str | None]]:
    specs = parse(suite)
    known = names()
    if (ALL, None) in specs:
        if len(specs) > 1:
            raise UsageError("--suite all beside others", expected="all alone, or their names")
        return [(name, None) for name in known if not create(name).needs_data]
    for name, path in specs:
        if name == harness.NAME:
            if path is not None:
                raise UsageError(f"suite harness={path}", expected="--suite harness --tasks NAME[=FILE],...")
        else:
            create(name)  # names the nearest
    return specs


def _known(
    wanted: Sequence[tuple[str, str | None]],
    given: dict[str, Any],
    chat: str,
    shots_from: object,
    tasks: object,
    include: object,
) -> None:
    """Refuses what none of the suites obeys."""
    obeyed = {
        option
        for name, _ in wanted
        for option in (harness.OPTIONS if name == harness.NAME else create(name).options)
    }
    every = {p for p in inspect.signature(Asked).parameters} - {"model", "codec", "data", "progress", "drops"}
    asked_for = [*given]
    asked_for += ["chat"] if chat != "auto" else []
    asked_for += ["shots_from"] if shots_from is not None else []
    asked_for += ["tasks"] if tasks else []
    asked_for += ["include"] if include is not None else []
    for option in asked_for:
        if option not in obeyed:
            what = "has no effect on" if option in every | {"tasks", "include"} else "is no option of"
            raise UsageError(
                f"{option} {what} {', '.join(name for name, _ in wanted)}",
                expected=", ".join(sorted(obeyed | {"max_examples", "out"})),
                next="leave it out; docs/eval.md has what each suite takes",
            )
    if chat not in ("auto", "on", "off"):
        raise UsageError(f"chat={chat!r}", expected="auto, on or off")
    if (harness.NAME, None) in wanted and not tasks:
        raise UsageError(
            "the suite harness without tasks", expected="--tasks NAME[,NAME...] or NAME=FILE",
            next="--tasks arc_easy, or --tasks lambada=passages.jsonl without a network",
        )  # fmt: skip


def _reading(data: Any, overrides: Sequence[str]) -> DataConfig | None:
    """What is read, and how; None where nothing is said."""
    from exnihilo.config_layers import load as merge

    if data is None and not overrides:
        return None
    found, origins = merge("gpt", overrides, settings={} if data is None else {"data": data})
    for key, origin in origins.items():
        parts = key.split(".")
        if origin in ("command line", "python") and parts[0] == "data" and parts[1] not in READING:
            raise UsageError(
                f"{key} has no effect on a suite",
                expected=", ".join(f"data.{name}" for name in READING), next=f"leave {key} out",
            )  # fmt: skip
    config = found.data
    return config if config.sources else config.model_copy(update={"sources": WORLD.sources})


def _sources(path: str) -> Any:
    return DataConfig.model_validate({"sources": path}).sources


def _style(loaded: Run, chat: str) -> Chat | None:
    """How conversations are rendered, where the model is asked in turns."""
    if chat == "off":
        return None
    if chat == "on":
        return Chat(loaded.codec)
    return hf.chat_of(loaded.codec, loaded.model.config, loaded.objective)


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    try:
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror or error}", expected="a file in a folder that exists",
            next="out=FILE.jsonl",
        ) from error  # fmt: skip
