"""A saved run that can be asked.

::

    run = load_run("runs/sentiment")
    run.predict("a fine film")                                # {"label": "positive", ...}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo.config import DataConfig
from exnihilo.errors import UsageError
from exnihilo.infer.predict import Given, Predictor
from exnihilo.interop.load import Loaded
from exnihilo.objective import registry
from exnihilo.objective.base import Objective
from exnihilo.predictions import series
from exnihilo.predictions.file import predict_file, weights_of

if TYPE_CHECKING:
    import numpy as np
    import torch

    from exnihilo.infer.generate import Generation


@dataclass(frozen=True)
class Run(Loaded):
    """A loaded run that can be asked: `predict` for encoders, `embed`, `generate` for decoders."""

    def predictor(self, *, weights: str = "float32", **more: Any) -> Predictor:
        """The `Predictor` of the run's own objective, as it was saved beside the weights.

        Args:
            weights: "float32", or "int8": faster on CPUs, rounded (encoders; see `infer.int8`).
            more: options of `Predictor`.
        """
        return Predictor(
            self.model, self.codec, objective_of(self), weights=weights, path="auto", **more
        )  # fmt: skip

    def predict(self, example: Given | Sequence[Given], *more: str, batch_tokens: int | None = None) -> Any:
        """One prediction for one example, a list for a list.

        Args:
            example: a text, a mapping of roles, or a list of these.
            more: the further texts of one example: ``predict("Who?", "Mia ran.")``.

        Example:
            >>> run.predict(["good", "bad"])[1]["label"]    # doctest: +SKIP
            'negative'
        """
        if more:
            if not isinstance(example, str):
                raise UsageError("a list and further texts", expected="the texts of one example, or one list")
            example = (example, *more)
        return _asked(self.predictor(), example, batch_tokens)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """A vector a text, float32 (texts, width), of a run trained with the objective ``embeddings``."""
        import numpy as np

        found = self.predictor().predict(list(texts))
        for prediction in found:
            if "embedding" not in prediction:
                raise UsageError(
                    str(prediction.get("error", f"{self.path} was not trained for embeddings")),
                    expected="a run of the recipe embeddings, and texts with words in them",
                    next="exnihilo train embeddings init=RUN data=world",
                )
        return np.asarray([prediction["embedding"] for prediction in found], np.float32)

    def check_writes(self) -> None:
        """Raises UsageError where the model is an encoder, which goes on with no text."""
        if "tokens" not in self.model.heads:
            raise UsageError(
                f"{self.path} is an encoder ({', '.join(self.model.heads.keys())}): it writes no text",
                expected="a decoder, such as a run of the recipe gpt",
                next=f'exnihilo predict {self.path} "TEXT"',
            )

    def generate(self, prompts: str | Sequence[str], **options: Any) -> list[Generation]:
        """Continuations of a decoder; options as for `infer.generate`: max_new_tokens, temperature ..."""
        from exnihilo.infer import generate

        self.check_writes()
        return generate(self.model, self.codec, [prompts] if isinstance(prompts, str) else prompts, **options)


def _asked(predictor: Predictor, examples: Any, batch_tokens: int | None) -> Any:
    """A prediction for one example (a text, a tuple of texts, a mapping), a list for a list."""
    if not isinstance(examples, (str, Mapping, tuple)):
        return predictor.predict(examples, batch_tokens=batch_tokens)
    [answer] = predictor.answers([examples], batch_tokens=batch_tokens)
    if answer.error is not None:
        raise answer.error
    return predictor.objective.decode(answer.example, answer.items, answer.outputs)


def _widen(objective: Objective, top_k: int | None) -> None:
    """Lets an objective list more alternatives than it was set to."""
    members = getattr(objective, "members", {})
    for one in (objective, *members.values()):
        for name in ("top_k", "n_best"):
            now = getattr(one.config, name, None)
            if top_k is not None and isinstance(now, int) and now < top_k:
                one.config = one.config.model_copy(update={name: top_k})


def load_run(path: str | Path, *, device: str | torch.device = "cpu") -> Run:
    """The model, codec and objective of a run, a checkpoint of it, or a Hugging Face folder."""
    from exnihilo.interop.load import load

    loaded = load(path, device=device)
    return Run(**{entry.name: getattr(loaded, entry.name) for entry in fields(loaded)})


def load_predictor(path: str | Path, device: str | torch.device = "cpu", **more: Any) -> Predictor:
    """A run, ready to predict; see `Predictor`.

    Raises:
        UsageError: it was trained for nothing that predicts.
    """
    return load_run(path, device=device).predictor(**more)


def objective_of(run: Loaded) -> Objective:
    """The objective that a run was saved with, with its facts.

    Raises:
        UsageError: the folder has no objective.json.
    """
    saved = run.objective
    if saved is None:
        raise UsageError(
            f"{run.path} has no objective.json, so what its outputs mean is not known",
            expected="a run trained here for a task, or a masked language model",
            next=f"exnihilo train sentence_classification init={run.path} data=PATH",
        )
    return registry.create(
        saved["objective"],
        saved.get("options") or {},
        length=saved.get("length") or run.model.config.context,
        facts=saved.get("facts") or {},
    )


def ask(
    run: Run,
    examples: Any,
    *,
    file: str | Path | None,
    out: str | Path | None,
    resume: bool,
    force: bool,
    columns: Mapping[str, str] | None,
    top_k: int | None,
    batch_tokens: int | None,
    progress: bool,
    reading: DataConfig | None = None,
    write: Callable[[str], None] | None = None,
) -> Any:
    """`exnihilo.predict` with a run that is loaded.

    Raises:
        UsageError: neither examples nor a file, or both; options of a file without one.
    """
    from exnihilo.train.progress import shown

    if (examples is None) == (file is None):
        raise UsageError(
            "examples and a file" if file is not None else "nothing to predict",
            expected="a text, or --file FILE",
            next='exnihilo predict RUN "text", or exnihilo predict RUN --file in.jsonl --out out.jsonl',
        )
    if top_k is not None and top_k < 1:
        raise UsageError(f"top_k={top_k}", expected="at least 1")
    if series.reads(run):  # a file is one or more series, not a row an example
        if resume or columns or top_k is not None:
            raise UsageError("resume, fields and top_k are about rows of examples", next="leave them out")
        found = series.ask(run, examples, file=file, out=out, force=force)
        if write is not None and "forecasts" in found:
            for line in series.lines(found):
                write(line)
        return found
    predictor = run.predictor()
    _widen(predictor.objective, top_k)
    trim = (lambda prediction: top(prediction, top_k)) if top_k is not None else (lambda same: same)
    if file is None:
        if out is not None or resume or force or columns:
            raise UsageError("out, resume, force and fields are about a file", expected="--file FILE")
        found = _asked(predictor, examples, batch_tokens)
        return [trim(each) for each in found] if isinstance(found, list) else trim(found)
    lines: list[Any] = []
    with shown(progress) as display:
        figures = predict_file(
            predictor,
            None if str(file) == "-" else Path(file),
            Path(out) if out is not None else None,
            weights=weights_of(run),
            resume=resume,
            force=force,
            columns=columns,
            reading=reading,
            batch_tokens=batch_tokens,
            trim=trim,
            write=write or (lambda line: lines.append(json.loads(line))),
            progress=display,
        )
    return figures if out is not None or write is not None else lines


def top(prediction: dict[str, Any], k: int) -> dict[str, Any]:
    """A prediction with at most `k` of its alternatives, the likeliest first.

    >>> top({"label": "a", "probabilities": {"b": 0.2, "a": 0.7, "c": 0.1}}, 2)
    {'label': 'a', 'probabilities': {'a': 0.7, 'b': 0.2}}
    """
    out = dict(prediction)
    table = prediction.get("probabilities")
    if isinstance(table, Mapping):
        best = sorted(table.items(), key=lambda pair: -float(pair[1]))
        out["probabilities"] = dict(best[:k])
    if isinstance(prediction.get("nbest"), list):
        out["nbest"] = prediction["nbest"][:k]
    if isinstance(prediction.get("gaps"), list):  # one list of candidates a gap
        out["gaps"] = [gap[:k] for gap in prediction["gaps"]]
    return out
