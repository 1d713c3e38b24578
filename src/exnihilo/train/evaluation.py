"""Evaluation inside the loop: validation loss, bits per byte, loss by source, the metrics of a downstream
type, and samples of what the model writes.

It leaves no trace: random states, training mode and sharding are as before, and the averaged weights
(`ema`) are in place only meanwhile. When it happens depends on steps, or on the clock where the budget is
in minutes; training does not depend on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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
from exnihilo.train.budget import Budget
from exnihilo.train.checkpoint import name_of, write_text
from exnihilo.train.ema import Ema
from exnihilo.train.examples import Examples
from exnihilo.train.precision import DTYPES
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
    ) -> None:
        self.config, self.run, self.world = config, run, world
        self.model, self.objective, self.codec, self.dataset, self.ema = model, objective, codec, dataset, ema
        self.examples: Examples | None = None
        if objective.supervised and dataset is not None:
            self.examples = Examples(config, model, objective, codec)

    def due(self, state: State, budget: Budget) -> bool:
        """Whether to evaluate now, between two steps; never twice at one step."""
        if state.evaluated == state.step:
            return False
        if state.step == 0 or budget.over(state):
            return True
        if self.config.eval.every is not None:
            return state.step % self.config.eval.every == 0
        if budget.seconds is not None:
            return state.seconds >= (state.evals + 1) * budget.seconds / TIMES
        assert budget.steps is not None
        return state.step % max(1, budget.steps // TIMES) == 0

    def measure(self, state: State, max_tokens: int | None) -> dict[str, float]:
        """Figures of the validation split: "val_loss", "val_bpb", "val_loss@SOURCE", "val_tokens", and the
        metrics of a downstream type; {} without one."""
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
