"""The verbs as Python functions: ``import exnihilo as xn; xn.train("gpt", data="books/", minutes=10)``.

Here are those that train; those that use a trained model stand in `exnihilo.api_models`. Same names and same
settings as the command line. torch is imported by the first verb that needs it, after the thread environment
is set. Every verb raises `ExNihiloError` with what was given, expected and the next
action.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from exnihilo import environment
from exnihilo.api_models import chat, eval, export, import_, load, predict, probe, sample, serve, stream
from exnihilo.errors import UsageError

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.config import RunConfig
    from exnihilo.doctor.report import Diagnosis
    from exnihilo.optim.finder import Curve
    from exnihilo.plan import Plan
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
    config, origins = _configure(recipe, settings, overrides, overlay, None)
    from exnihilo.plan import make

    return make(config, origins, measure=measure)


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
                "tokenizer show without a folder",
                expected="a run folder or one with tokenizer.json",
                next="exnihilo tokenizer show DIR",
            )
        return read_tokenizer(Path(path))
    if action != "train":
        raise UsageError(f"tokenizer action {action!r}", expected="train or show", next="one of the two")
    if out is None:
        raise UsageError(
            "tokenizer train without out=DIR",
            expected="a folder to write tokenizer.json to",
            next="add out=DIR",
        )
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


def world(
    view: str = "scenes",
    *,
    out: PathLike,
    count: int = 200,
    start: int = 0,
    kind: str | None = None,
    size: int = 64,
    rate: int = 16_000,
    force: bool = False,
) -> dict[str, Any]:
    """Examples of the embedded world as files: PNG, WAV, and a table ``DIR/VIEW.jsonl`` with the truth.

    Returns:
        {"table", "rows", "pictures", "sounds"}.

    Example:
        >>> xn.world("scenes", out="scenes", count=20)      # doctest: +SKIP
    """
    from exnihilo.data.progress import Console
    from exnihilo.world import media

    progress = Console()
    progress.start(f"write {view}", total=count, unit="documents")
    try:
        found = media.write(
            view,
            out,
            count=count,
            start=start,
            kind=kind,
            size=size,
            rate=rate,
            force=force,
            told=lambda rows: progress.advance(1),
        )
    finally:
        progress.stop()
    return {"table": str(Path(out) / f"{view}.jsonl"), **found}


_VERBS: tuple[Callable[..., Any], ...] = (
    train, plan, doctor, load, predict, sample, stream, chat, eval, probe, serve, export, import_, recipes,
    tokenizer, lr_find, report, compare, quickstart, world,
)  # fmt: skip
VERBS: dict[str, Callable[..., Any]] = {verb.__name__: verb for verb in _VERBS}
