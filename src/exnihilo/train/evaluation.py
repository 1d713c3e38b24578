"""Evaluation inside the loop: validation loss, bits per byte, loss by source, the metrics of a downstream
type, replies to validation prompts, and samples of what the model writes.

It leaves no trace: random states, training mode and sharding are as before, and the averaged weights
(`ema`) are in place only meanwhile. When it happens depends on steps, or on the clock where the budget is
in minutes; training does not depend on it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.eval.loss import evaluate
from exnihilo.infer import generate
from exnihilo.objective.base import Objective
from exnihilo.parallel import fsdp
from exnihilo.parallel.compile import compiled
from exnihilo.parallel.mesh import World
from exnihilo.probe.during import watch
from exnihilo.train import replies as answering
from exnihilo.train.budget import Budget
from exnihilo.train.checkpoint import name_of, write_text
from exnihilo.train.ema import Ema
from exnihilo.train.examples import Examples
from exnihilo.train.precision import DTYPES
from exnihilo.train.runfolder import write_json
from exnihilo.train.source.tasks import Tasks
from exnihilo.train.source.weights import Weights
from exnihilo.train.state import State

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.data.dataset import Dataset
    from exnihilo.model.model import Model

TIMES = 10  # evaluations a run, where eval.every does not say
SHARE = 0.03  # of the run's tokens that one evaluation reads at most by default (about 1% of its time)
LEAST_TOKENS = 4096  # of one evaluation, so that a short run's figure is not all noise
FINAL_SHARE, FINAL_SECONDS = 0.05, 10.0  # of the run's time, or seconds if more, for the last evaluation
MICRO_TOKENS = {"cpu": 4096, "cuda": 1 << 16}  # of one forward, at least: without a backward little is kept
SAMPLE_TOKENS = 128
SHOWN = 100  # characters of a sample that are said


def default_tokens(total_tokens: float, context: int) -> int:
    """Validation tokens that cost a small share of a run of `total_tokens`."""
    return max(LEAST_TOKENS, 16 * context, int(SHARE * total_tokens))


def final_tokens(seconds: float, tokens_per_second: float) -> int:
    """Validation tokens that can be read within a small share of a run that took `seconds`.

    Reading costs a third of training.
    """
    return int(max(FINAL_SECONDS, FINAL_SHARE * seconds) * 3 * tokens_per_second)


def better(state: State, figures: Mapping[str, float]) -> bool:
    """Whether a measurement is the best yet, which is then noted: by the loss, without one by pass@1."""
    loss, passed = figures.get("val_loss", math.nan), figures.get("val_pass@1", math.nan)
    name, value, sign = ("val_loss", loss, 1) if "val_loss" in figures else ("val_pass@1", passed, -1)
    if not math.isfinite(value):
        return False
    if state.best is None or name not in state.best or sign * value < sign * state.best[name]:
        state.best = {"step": state.step, name: value}
        return state.step > 0
    return False


def figure_words(figures: Mapping[str, float], main: str, over: str = "") -> str:
    """What of an evaluation is worth a word: the loss, and the main metric with its majority baseline where
    that is known, or what replies are worth, or the terms of several losses.

    >>> figure_words({"val_loss": 1.5, "val_accuracy": 0.75, "val_majority_accuracy": 0.5}, "accuracy")
    'validation loss 1.5000, accuracy 0.7500 (majority: 0.5000)'
    >>> figure_words({"val_loss": 1.5, "val_bits_per_token": 2.164}, "")
    'validation loss 1.5000, 2.1640 bits a token'
    """
    out: list[str] = []
    if "val_loss" in figures:
        out.append(f"validation loss {figures['val_loss']:.4f}" + (f" {over}" if over else ""))
    if "val_bpb" in figures and not over:
        out.append(f"{figures['val_bpb']:.4f} bits a byte")
    if "val_bits_per_token" in figures and not over:
        out.append(f"{figures['val_bits_per_token']:.4f} bits a token")
    replied = [n for n in ("pass@1", "stop_rate", "length", "independent") if f"val_{n}" in figures]
    if f"val_{main}" in figures:
        base = figures.get(f"val_majority_{main}")
        out.append(
            f"{main} {figures[f'val_{main}']:.4f}" + (f" (majority: {base:.4f})" if base is not None else "")
        )
    elif not replied:
        known = {"loss", "tokens", "bpb", "bits_per_token", "perplexity", "final", "first_to_last", "reach"}
        plain = {k.removeprefix("val_"): v for k, v in figures.items() if "@" not in k}
        out += [f"{k} {v:.4f}" for k, v in plain.items() if k not in known]
    out += [f"{n} {figures[f'val_{n}']:.4g}" for n in replied if n != main]
    if "val_first_to_last" in figures:
        out.append(f"first to last {figures['val_first_to_last']:.4g} nats, reach {figures['val_reach']:.4g}")
    return ", ".join(out)


class Evaluator:
    """Knows when to evaluate, and how."""

    def __init__(
        self,
        config: RunConfig,
        run: Path,
        world: World,
        model: Model,
        objective: Objective,
        codec: Codec,
        dataset: Dataset | None,
        ema: Ema | None,
        tasks: Tasks | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.config, self.run, self.world = config, run, world
        self.model, self.objective, self.codec, self.dataset, self.ema = model, objective, codec, dataset, ema
        self.examples: Examples | None = None
        if objective.supervised and dataset is not None:
            self.examples = Examples(config, model, objective, codec)
        self.weights = weights
        self.replies: answering.Replies | None = None
        if tasks is not None and weights is not None:
            self.replies = answering.Replies(config, objective, tasks, codec)
        self._replied = -1  # the step of the last replies

    def due(self, state: State, budget: Budget) -> bool:
        """Whether to evaluate now, between two steps; never twice at one step."""
        if state.evaluated == state.step:
            return False
        if state.step == 0 or state.stopped is not None or budget.over(state):
            return True
        if self.config.eval.every is not None:
            return state.step % self.config.eval.every == 0
        if budget.seconds is not None:
            return state.seconds >= (state.evals + 1) * budget.seconds / TIMES
        assert budget.steps is not None
        return state.step % max(1, budget.steps // TIMES) == 0

    def measure(self, state: State, max_tokens: int | None, *, over: bool = False) -> dict[str, float]:
        """Figures of the validation split: "val_loss", "val_bpb", "val_loss@SOURCE", "val_tokens", the
        metrics of a downstream type, and those of replies; {} without one.

        Args:
            over: the run is: replies follow in `last`.
        """
        figures = {**self._losses(state, max_tokens), **self._influence()}
        if self.replies is None or over:
            return figures
        first = state.step == 0
        found = self._answer(state, whole=first)
        if first:
            state.before = found.to_json()
        return {**figures, **{f"val_{key}": value for key, value in found.figures.items()}}

    def _answer(self, state: State, *, whole: bool) -> answering.Found:
        """Replies, by worker 0 with whole weights; all workers must call."""
        assert self.replies is not None and self.weights is not None
        asked = self.replies
        with self._quiet():
            model = self.weights.newest()
            told = self.world.first(lambda: asked.measure(model, whole=whole).to_json())
        self._replied = state.step
        return answering.Found(told["figures"], told["scores"])

    def last(self, state: State, tokens: int) -> dict[str, float]:
        """The last figures: of more of the validation split than on the way (`tokens`, or all of it where it
        has no more), calibrated, with all replies; {} where there is nothing to add. Writes the control."""
        if self.dataset is None and self.replies is None:
            return {}
        known = state.last_val is not None and state.evaluated == state.step
        figures = dict(state.last_val or {}) if known else {}
        if self.dataset is not None:
            whole = state.choices.eval_tokens is None or self.config.eval.tokens is not None
            if whole and known and self.examples is None and self.replies is None:
                return {}
            if not (whole and known):
                most = max(state.choices.eval_tokens or 0, tokens)
                figures = self._losses(state, None if self.dataset.tokens <= most else most)
            figures.update(self.conclude(state))
        if self.replies is not None:
            found = self._answer(state, whole=True)
            figures.update({f"val_{key}": value for key, value in found.figures.items()})
            self._gain(state, found)
        return figures

    def _gain(self, state: State, found: answering.Found) -> None:
        """What the run has added to what it started from, on the same prompts."""
        assert self.replies is not None
        if state.before is None:
            return
        compared = answering.compare(
            state.before,
            found,
            metric=self.replies.metric,
            parent=self.config.init or "random weights",
            stage=self.config.recipe,
            seed=self.config.seed,
        )
        if self.world.main:
            write_json(self.run / "control.json", compared)
        log.say(answering.table(compared))

    def _losses(self, state: State, max_tokens: int | None) -> dict[str, float]:
        if self.dataset is None:
            return {}
        dtype = DTYPES[state.choices.dtype]
        with self._quiet():
            found = evaluate(
                self.model,
                self.objective,
                self.dataset,
                device=self.world.device,
                dtype=dtype,
                micro_rows=self.micro_rows(state.choices.micro_rows),
                max_tokens=max_tokens,
                token_bytes=self.codec.token_bytes(),
                codec=self.codec,
                world=self.world,
            )
            if self.examples is not None:
                share = 1.0 if max_tokens is None else max_tokens / max(1, self.dataset.tokens)
                found.update(self.examples.measure(self.world.device, dtype, share))
        return {f"val_{key}": float(value) for key, value in found.items()}

    def _influence(self) -> dict[str, float]:
        """How far back outputs read, of a few examples of the validation split, where it is asked for."""
        if not self.config.eval.probe or self.dataset is None:
            return {}
        with self._quiet():
            found = watch(self.model, self.objective, self.dataset, self.codec, texts=self.config.eval.probe)
        return {f"val_{key}": value for key, value in found.items()}

    def conclude(self, state: State) -> dict[str, float]:
        """After the last step of a downstream type: calibrate, and the metrics of the whole split."""
        if self.examples is None:
            return {}
        with self._quiet():
            state.calibrated, found = self.examples.conclude(DTYPES[state.choices.dtype])
        return {f"val_{key}": float(value) for key, value in found.items()}

    def micro_rows(self, training: int) -> int:
        """Rows of one forward of an evaluation: at least those of training."""
        assert self.dataset is not None
        least = MICRO_TOKENS.get(self.world.device.type, 4096)
        return max(training, least // self.dataset.context)

    def write_samples(self, state: State) -> str:
        """Texts that the model writes now, to ``RUN/samples/step-N.txt``; returns how the first begins."""
        count = self.config.eval.samples
        if count and self.replies is not None:
            if self._replied != state.step or not self.world.main:
                return ""
            return self.replies.write(self.run, state.step)
        if not count or "tokens" not in self.objective.heads or self.objective.attention.value != "causal":
            return ""
        with self._quiet():
            found = generate(
                self.model,
                self.codec,
                [self.config.eval.prompt] * count,
                max_new_tokens=SAMPLE_TOKENS,
                temperature=0.8,
                seed=self.config.seed,
            )
        texts = [self.config.eval.prompt + g.text for g in found]
        if self.world.main:
            path = self.run / "samples" / f"{name_of(state.step)}.txt"
            path.parent.mkdir(exist_ok=True)
            write_text(path, "\n\n---\n\n".join(texts) + "\n")
        first = " ".join(texts[0].split())
        return log.safe(first[:SHOWN]) + ("…" if len(first) > SHOWN else "")

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Eager (other shapes would compile anew), averaged weights, no random state or sharding left
        changed."""
        devices: list[Any] = [self.world.device] if self.world.device.type == "cuda" else []
        training = self.model.training
        fsdp.reshard(self.model)
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=devices, device_type="cuda"))
            if self.ema is not None:
                stack.enter_context(self.ema.applied())
            if compiled(self.model):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            self.model.eval()
            try:
                yield
            finally:
                self.model.train(training)
                fsdp.reshard(self.model)
