"""The verbs as Python functions: ``import exnihilo as xn; xn.train("gpt", data="books/", minutes=10)``.

Same names and same settings as the command line. torch is imported by the first verb that needs it, after the
thread environment is set. Every verb raises `ExNihiloError` with what was given, expected and the next
action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exnihilo import environment
from exnihilo.errors import UsageError

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.config import RunConfig
    from exnihilo.doctor.report import Diagnosis
    from exnihilo.infer.chat import Conversation
    from exnihilo.infer.generate import Generation
    from exnihilo.optim.finder import Curve
    from exnihilo.plan import Plan
    from exnihilo.predictions import Run
    from exnihilo.train.loop import Result

VERSION = "0.1.0"
PathLike = str | Path


def _configure(
    recipe: str | None,
    settings: dict[str, Any],
    overrides: Sequence[str],
    overlay: PathLike | None,
    base: Path | None,
) -> tuple[RunConfig, dict[str, str]]:
    from exnihilo import config_layers

    environment.prepare()
    over = Path(overlay) if overlay is not None else None
    return config_layers.load(recipe, overrides, over, settings=settings, base=base)


def configure(
    recipe: str | None = None,
    *,
    resume: bool = False,
    overlay: PathLike | None = None,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> tuple[RunConfig, dict[str, str]]:
    """The configuration `train` would use, and where each value comes from (what ``--dry-run`` prints).

    With `resume` and no recipe the run folder's own ``config.toml`` is the ground. Values of another type or
    unknown keys raise ConfigError.
    """
    base = None
    if resume:
        from exnihilo import config_layers

        probe = dict(config_layers.split_override(text) for text in overrides)
        run = settings.get("run") or probe.get("run")
        if run is None:
            raise UsageError(
                "resume without a run folder", expected="run=DIR", next="exnihilo train --resume run=DIR"
            )
        if recipe is None:
            base = Path(run) / "config.toml"
            if not base.is_file():
                raise UsageError(
                    f"{base} does not exist",
                    expected="the folder of a run that was cut",
                    next="check run=DIR, or start it: exnihilo train RECIPE data=PATH run=DIR",
                )
    return _configure(recipe, settings, overrides, overlay, base)


def train(
    recipe: str | None = None,
    *,
    resume: bool = False,
    force: bool = False,
    overlay: PathLike | None = None,
    overrides: Sequence[str] = (),
    progress: bool = True,
    **settings: Any,
) -> Result:
    """Train a model; leaves a run folder that is also a Hugging Face folder.

    Args:
        recipe: what to train, e.g. ``"gpt"``; None with `resume` (the run folder says).
        resume: go on where the run folder's newest checkpoint stands, bit for bit.
        force: resume although the configuration changed, or train into a folder that holds a run.
        overlay: a TOML file of settings between the recipe and `settings`.
        overrides: ``KEY=VALUE`` texts, as on the command line.
        progress: show a bar, or plain lines without a terminal.
        **settings: key paths of a `RunConfig`: ``data="books/", minutes=10, model__depth=6`` or
            ``**{"model.depth": 6}``.

    Example:
        >>> import exnihilo as xn
        >>> xn.train("gpt", data="world:200", steps=2, run="runs/tiny", model__depth=1)  # doctest: +SKIP
    """
    from exnihilo.stages import walk

    if walk.wanted(recipe, resume, overrides, settings):  # the recipe chat: several runs in one folder
        environment.prepare()
        over = Path(overlay) if overlay is not None else None
        how = {"again": resume, "force": force, "progress": progress}
        return walk.call(overrides, settings, overlay=over, **how)
    config, origins = configure(recipe, resume=resume, overlay=overlay, overrides=overrides, **settings)
    from exnihilo.train import run as start

    return start(config, resume=resume, force=force, origins=origins, progress=progress)


def plan(
    recipe: str | None = "gpt",
    *,
    overlay: PathLike | None = None,
    overrides: Sequence[str] = (),
    measure: bool = True,
    **settings: Any,
) -> Plan:
    """What a run will cost on this machine: parameters, FLOPs, memory, tokens and time, before it starts.

    `measure` runs a few matrix products and one short training step; False counts only.
    """
    config, _ = _configure(recipe, settings, overrides, overlay, None)
    from exnihilo.plan import make

    return make(config, measure=measure)


def doctor(
    recipe: str,
    *,
    max_examples: int | None = None,
    samples: int = 3,
    overlay: PathLike | None = None,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> Diagnosis:
    """What would silently go wrong in a run, before it: the data is read as training would read it.

    Args:
        recipe: what is to be trained, e.g. ``"span_qa"``.
        max_examples: read at most so many of each split (20,000 and 5,000 examples of a task, 5,000 and 500
            documents of a pretraining); said where it cut.
        samples: examples to show as the model will see them.
        **settings: as for `train`.

    Example:
        >>> print(xn.doctor("token_tagging", data="train.conll").text())    # doctest: +SKIP
    """
    config, _ = _configure(recipe, settings, overrides, overlay, None)
    from exnihilo.doctor import diagnose

    return diagnose(config, max_examples=max_examples, samples=samples)


def load(run: PathLike, *, device: str = "auto") -> Run:
    """The model (in evaluation mode) and tokenizer of a run, a checkpoint of it, or a Hugging Face folder:
    ``.model``, ``.codec``, ``.path``, and ``.predict(...)``, ``.embed(...)`` or ``.generate(...)`` by what it
    was trained for. A run that is not finished gives its newest whole checkpoint.
    """
    environment.prepare()
    from exnihilo.parallel import resolve_device
    from exnihilo.predictions import load_run

    return load_run(run, device=resolve_device(device))


def predict(
    run: PathLike,
    examples: Any = None,
    *,
    file: PathLike | None = None,
    out: PathLike | None = None,
    resume: bool = False,
    force: bool = False,
    fields: dict[str, str] | None = None,
    top_k: int | None = None,
    batch_tokens: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Any:
    """Answers of a run that was trained for a task, or a masked language model (``[MASK]`` in the text).

    Args:
        examples: a text, a tuple of texts (a pair, a question with its context), a mapping of roles, or a
            list of these. One example gives one prediction, a list a list.
        file: instead of `examples`: .jsonl, .csv, .tsv, .parquet, a text a line, or ``-`` (standard input).
        out: with `file`: a .jsonl to append to, one line a row, in order; returns its figures. Without it
            the list of lines is returned.
        resume: go on where `out` was cut.
        force: write over `out`.
        fields: with `file`: role -> column, where the names do not tell.
        top_k: keep at most so many alternatives of each prediction.
        batch_tokens: tokens of one forward; changes speed and memory, never a prediction.

    Example:
        >>> xn.predict("runs/qa", ("Who ran?", "Mia ran home."))["text"]    # doctest: +SKIP
        'Mia'
    """
    loaded = load(run, device=device)
    from exnihilo.predictions import ask

    return ask(
        loaded,
        examples,
        file=file,
        out=out,
        resume=resume,
        force=force,
        columns=fields,
        top_k=top_k,
        batch_tokens=batch_tokens,
        progress=progress,
    )


def sample(
    run: PathLike,
    prompt: str = "",
    *,
    n: int = 1,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    device: str = "auto",
) -> list[Generation]:
    """`n` continuations of a prompt: ``.text``, ``.ids``, ``.logprobs``, ``.finish_reason`` each.

    ``temperature=0`` is greedy. The same seed gives the same texts.
    """
    loaded = load(run, device=device)
    loaded.check_writes()
    from exnihilo.infer import generate

    return generate(
        loaded.model,
        loaded.codec,
        [prompt] * n,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=stop,
    )


def chat(run: PathLike, *, system: str = "", device: str = "auto", **sampling: Any) -> Conversation:
    """A conversation with a chat model: ``.ask(text)`` gives a reply, ``.say(text)`` streams it.

    `sampling`: max_new_tokens (256), temperature (0.7), top_k, top_p, min_p, seed. A base model is refused.

    Example:
        >>> xn.chat("runs/chat", system="Be brief.").ask("Who are you?")    # doctest: +SKIP
    """
    environment.prepare()
    from exnihilo.predictions.chat import open_chat

    return open_chat(run, system=system, device=_device(device), **sampling)


def stream(
    run: PathLike,
    prompt: str = "",
    *,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    seed: int = 0,
    stop: Sequence[str] = (),
    device: str = "auto",
) -> Iterator[str]:
    """One continuation, piece by piece, in whole characters: ``for piece in xn.stream(run, "Once"): ...``."""
    loaded = load(run, device=device)
    loaded.check_writes()
    from exnihilo import infer

    return infer.stream(
        loaded.model,
        loaded.codec,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=stop,
    )


def eval(
    run: PathLike,
    *,
    data: Any = None,
    max_tokens: int | None = None,
    max_examples: int | None = None,
    device: str = "auto",
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
    grader: str | Sequence[str] = "",
    overrides: Sequence[str] = (),
    progress: bool = True,
    **replies: Any,
) -> dict[str, Any]:
    """What a run is worth on `data` or on its own held-out split.

    A run trained for a task: its metrics, and the majority baseline's under ``majority_...``. Any other: loss
    in nats a token, bits per byte, and of each source; with `grader`: pass@1, stop rate ... of its replies.

    Args:
        data: what ``data=`` takes in `train`: a path, a list of paths, or a table; None: the run's
            validation split.
        max_tokens: of a loss: read at most this many tokens.
        max_examples: of a task or with a grader: read at most this many examples.
        grader: what scores replies, e.g. ``"number"`` or ``"my.py:grade"``; see docs/graders.md.
        replies: with a grader: samples, temperature, max_new_tokens, seed, seconds, out (a .jsonl).
        overrides: ``KEY=VALUE`` texts under ``data``, as on the command line: ``data.format=conll``.
    """
    environment.prepare()
    from exnihilo.measure import evaluate_run

    return evaluate_run(
        Path(run), data=data, overrides=overrides, max_tokens=max_tokens, max_examples=max_examples,
        device=_device(device), dtype=dtype, progress=progress,
        replies={"grader": grader, **replies} if grader or replies else None,
    )  # fmt: skip


def export(
    run: PathLike, *, to: Literal["hf"] = "hf", out: PathLike, dtype: str | None = None, force: bool = False
) -> dict[str, Any]:
    """Write a run's model in another project's format, prove it, and return the proof (also
    ``OUT/proof.json``).

    The proof: the written folder is read into a fresh model, its logits equal the run's on real inputs, its
    tokenizer gives the same ids on a hard corpus; Transformers, where it is installed, gives the same
    logits. A failed proof raises ExNihiloError and leaves no model behind.
    """
    environment.prepare()
    from exnihilo.proof import export_run

    return export_run(Path(run), to=to, out=Path(out), dtype=dtype, force=force)


def import_(source: PathLike, *, out: PathLike, force: bool = False) -> Path:
    """Take a Hugging Face folder of a known family as a run folder, so that it can be sampled and trained
    on."""
    environment.prepare()
    from exnihilo.proof import import_folder

    return import_folder(Path(source), out=Path(out), force=force)


def recipes() -> dict[str, str]:
    """The recipes by name, each with its one-line description."""
    import ast
    import importlib.util

    from exnihilo import config_layers

    out: dict[str, str] = {}
    for name in config_layers.recipe_names():
        spec = importlib.util.find_spec(f"exnihilo.recipes.{name}")
        source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
        doc = ast.get_docstring(ast.parse(source)) or ""
        out[name] = doc.split("\n", 1)[0].removeprefix(f"Recipe ``{name}``: ")
    return out


def tokenizer(
    action: Literal["train", "show"],
    path: PathLike | None = None,
    *,
    out: PathLike | None = None,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> Codec:
    """Train a tokenizer (``data=PATH out=DIR codec.vocab_size=4096``) or read one (`path`: its folder or a
    run's)."""
    environment.prepare()
    from exnihilo.tokens import read_tokenizer, train_tokenizer

    if action == "show":
        if path is None:
            raise UsageError(
                "tokenizer show without a folder", expected="a run folder or one with tokenizer.json"
            )
        return read_tokenizer(Path(path))
    if action != "train":
        raise UsageError(f"tokenizer action {action!r}", expected="train or show")
    if out is None:
        raise UsageError("tokenizer train without out=DIR", expected="a folder to write tokenizer.json to")
    config, origins = _configure("gpt", settings, overrides, None, None)
    for key, origin in origins.items():
        if origin in ("command line", "python") and key.split(".")[0] not in ("data", "codec"):
            raise UsageError(
                f"{key} has no effect on a tokenizer", expected="data.* and codec.*", next=f"leave {key} out"
            )
    return train_tokenizer(config, Path(out))


def lr_find(
    recipe: str | None = "gpt",
    *,
    low: float = 1e-5,
    high: float = 1.0,
    trials: int = 60,
    out: PathLike | None = None,
    overlay: PathLike | None = None,
    overrides: Sequence[str] = (),
    **settings: Any,
) -> Curve:
    """Sweep learning rates over a short training; ``.suggestion`` is where the loss falls fastest.

    `out` is a PNG to draw the sweep into.
    """
    config, _ = _configure(recipe, settings, overrides, overlay, None)
    from exnihilo.sweep import find

    return find(config, low=low, high=high, steps=trials, out=Path(out) if out is not None else None)


def report(run: PathLike, *, out: PathLike | None = None) -> Path:
    """One self-contained HTML page of a run folder; default ``RUN/report.html``. Returns its path."""
    environment.prepare()
    from exnihilo.report.page import write

    return write(Path(run), Path(out) if out is not None else None)


def compare(runs: Sequence[PathLike], *, out: PathLike | None = None) -> list[dict[str, Any]]:
    """Figures of several run folders side by side, best validation loss first; `out` is a PNG of their
    curves."""
    environment.prepare()
    from exnihilo.report.compare import compare as side_by_side

    return side_by_side([Path(run) for run in runs], Path(out) if out is not None else None)


def quickstart(
    *,
    data: Any = None,
    minutes: float | None = None,
    run: PathLike | None = None,
    seed: int = 0,
    device: str = "auto",
    force: bool = False,
    encoder: bool = False,
) -> dict[str, Any]:
    """From random weights to a model that answers, on the embedded world, with each gain measured against its
    control; on files of your own to a base model.

    With `encoder`: an encoder instead, on the world: masked tokens and next sentences, then four types of
    fine-tuning, each with and without pretraining.

    Without `minutes` (of pretraining) the whole takes at most eight minutes on two cores, four on files, five
    with `encoder`.
    Returns the figures of ``RUN/quickstart.json``.
    """
    environment.prepare()
    from exnihilo.quickstart import chain
    from exnihilo.quickstart import encoder as encoders

    return (encoders.start if encoder else chain.start)(
        data=data,
        minutes=minutes,
        run=Path(run) if run is not None else None,
        seed=seed,
        device=device,
        force=force,
    )


def _device(name: str) -> str:
    from exnihilo.parallel import resolve_device

    return str(resolve_device(name))


_VERBS: tuple[Callable[..., Any], ...] = (
    train, plan, doctor, load, predict, sample, stream, chat, eval, export, import_, recipes, tokenizer,
    lr_find, report, compare, quickstart,
)  # fmt: skip
VERBS: dict[str, Callable[..., Any]] = {verb.__name__: verb for verb in _VERBS}
