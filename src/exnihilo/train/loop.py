"""The loop: one for every training type.

A step: the source gives this worker's micro-batches; their counts are added up over all workers *before* the
first backward, so that each micro-batch's loss is divided by the global count and gradients are sums
(`gradients`); the guard judges before the update; then the optimiser acts, at a learning rate that is a pure
function of the step. Objectives' ``term@slice`` keys are reported, never trained on. What the source reports
goes into the same row, and alarms are read from it; where one stops the run, it ends as a run does whose
budget is spent.

Everything random in a step is seeded from (seed, step, worker), so a run that was cut needs a step number
to go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from exnihilo import log
from exnihilo.config import RunConfig
from exnihilo.errors import TrainError
from exnihilo.objective.base import Objective
from exnihilo.parallel import fsdp
from exnihilo.parallel.mesh import World
from exnihilo.train import guard as guarding
from exnihilo.train import precision
from exnihilo.train.batches import Step
from exnihilo.train.budget import Budget
from exnihilo.train.ema import Ema
from exnihilo.train.evaluation import Evaluator, better, figure_words, final_tokens
from exnihilo.train.gradients import Gradients, step_gradients
from exnihilo.train.metrics import Metrics
from exnihilo.train.progress import Display
from exnihilo.train.saving import Keeper
from exnihilo.train.signals import Stop
from exnihilo.train.source.alarms import Alarm, Alarms
from exnihilo.train.source.base import Source
from exnihilo.train.state import State, step_seed

if TYPE_CHECKING:
    from exnihilo.model.model import Model


@dataclass
class Result:
    """What a run came to.

    Attributes:
        run: its folder. step, tokens, seconds: what was done, over all resumes.
        loss: of the last step, nats. val_loss, bpb: of the validation split; None without one.
        interrupted: it was told to stop, has saved, and can be resumed.
        metrics: of a downstream type on the validation split, calibrated, e.g. {"accuracy": 0.83}; those of
            the majority baseline are called "majority_accuracy" and so on.
    """

    run: Path
    step: int
    tokens: int
    seconds: float
    loss: float | None
    val_loss: float | None
    bpb: float | None
    interrupted: bool
    metrics: dict[str, float] = field(default_factory=dict)


class Loop:
    """Takes steps until the budget is spent or it is told to stop. All its memory is in `state` and the
    tensors."""

    def __init__(
        self,
        config: RunConfig,
        world: World,
        model: Model,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        state: State,
        *,
        batches: Source,
        budget: Budget,
        evaluator: Evaluator,
        keeper: Keeper,
        metrics: Metrics,
        display: Display,
        ema: Ema | None,
        flops_per_token: float,
        peak_flops: float,
        clock: float,
    ) -> None:
        self.config, self.world, self.model, self.objective = config, world, model, objective
        self.optimizer, self.state, self.ema = optimizer, state, ema
        self.batches, self.budget, self.evaluator, self.keeper = batches, budget, evaluator, keeper
        self.metrics, self.display = metrics, display
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.guard = guarding.Guard(config.guard, spikes=objective.needs != "rollout")
        self.alarms = Alarms(config.alarms, dtype=state.choices.dtype)
        self.scaler: precision.LossScale | None = None
        if state.choices.dtype == "fp16":
            saved = state.loss_scale
            self.scaler = precision.LossScale.from_json(saved) if saved else precision.LossScale()
        self.params = [p for p in model.parameters() if p.requires_grad]
        self.step_tokens = batches.rows_per_step * batches.dataset.context
        self._before = state.seconds  # of earlier processes
        self._clock = clock
        self._started = False
        self._stopping = False
        self._smooth: float | None = None  # seconds a step, for display

    # the run --------------------------------------------------------------------------------

    def run(self, stop: Stop) -> bool:
        """Train to the end; returns whether it was interrupted."""
        self.model.train()
        if self.state.step == 0 and self.state.evaluated < 0 and self.keeper.last is None:
            self.keeper.save()  # so that a cut in the first minutes loses no measured choice
        self._between(stop)
        while not self._over() and not self._stopping:
            self._one()
            self._tell_time(stop)
            fixed = self.budget.update(self.state)
            if fixed:
                log.say(f"the run will have {self.state.horizon} steps, by this machine's pace")
            self._between(stop, save=fixed)
        if self._stopping:
            self._save()
            return True
        with self.keeper.at_best():
            self._final()
        if self.keeper.last != self.state.step or self.keeper.dirty:
            self._save()
        return False

    def _over(self) -> bool:
        """Whether the budget is spent, or an alarm has ended the run."""
        return self.state.stopped is not None or self.budget.over(self.state)

    def _save(self) -> None:
        """A checkpoint; what the source has drawn for later steps is on disk before."""
        self.batches.settle(self.state.step)
        self.keeper.save()

    def _tell_time(self, stop: Stop) -> None:
        """All workers take worker 0's clock, and stop if any of them is told to."""
        told = self.world.gather([self._before + time.perf_counter() - self._clock, stop.asked])
        self.state.seconds = max(self.state.seconds, told[0][0])
        if any(t[1] for t in told) and not self._stopping:
            self._stopping = True
            log.say(f"stopping after step {self.state.step}: saving (Ctrl-C again leaves at once)")
        if not self._started:
            self._started = True
            self.state.startup_seconds += self.state.seconds - self._before
            self.state.startup_steps += 1

    def _between(self, stop: Stop, save: bool = False) -> None:
        """Between two steps: evaluate and save where due."""
        better = False
        if not self._stopping and self.evaluator.due(self.state, self.budget):
            better = self._evaluate()
        if self.state.guard.streak or self._stopping:
            return  # not among bad steps: a rewind needs a checkpoint from before them
        if save or better or self.keeper.due():
            self._save()

    # one step --------------------------------------------------------------------------------

    def _one(self) -> None:
        """One step: train, or leave its rows out, or skip it as bad."""
        state, step = self.state, self.state.step
        begun = time.perf_counter()
        if step in state.guard.avoid:
            self._done(step)
            self._event("left_out", why="its rows were in or before a bad stretch")
            return
        data = self.batches.get(step)
        if data.begins:  # longer rows may be harder: a higher loss is no spike
            state.guard.history.clear()
        torch.manual_seed(step_seed(self.config.seed, step, self.world.rank))
        found = step_gradients(
            self.model,
            self.objective,
            data.micros,
            self.world,
            dtype=state.choices.dtype,
            mode=self.config.parallel.mode,
            scaler=self.scaler,
            max_norm=self.config.optim.clip,
        )
        if self.scaler is not None and self.scaler.overflowed(found.norm, found.loss):
            self.scaler.update(False)
            self._drop_gradients()
            self._done(step)
            self._event("loss_scale", scale=self.scaler.scale)
            return
        verdict = self.guard.judge(state.guard, found.loss, found.norm)
        if not verdict.ok:
            self._bad(data, found, verdict.why)
            return
        share = self.budget.scale(state, step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        self.optimizer.step()
        self._drop_gradients()
        if self.ema is not None:
            self.ema.update()
        if self.scaler is not None:
            self.scaler.update(True)
        self.guard.good(state.guard, found.loss)
        state.loss = found.loss
        self._done(step)
        if data.tokens is not None:
            state.tokens += data.tokens - self.step_tokens
        told = self.batches.report(step)
        self._report(found, told, data.tokens, time.perf_counter() - begun)
        slices = {key.rpartition("@")[2]: value for key, value in found.terms.items()}
        self._judge(step, {**slices, **told})

    def _done(self, step: int) -> None:
        self.state.step = step + 1
        self.state.tokens += self.step_tokens
        self.keeper.dirty = True

    def _judge(self, step: int, figures: Mapping[str, float]) -> None:
        """Alarms, and what the source itself finds wrong."""
        told = figures
        if self.objective.needs != "rollout":  # elsewhere a figure of such a name may mean anything
            told = {name: value for name, value in figures.items() if name in self.objective.watched}
        found = self.alarms.step(self.state.alarms, step, told)
        why = self.batches.judge(step, figures)
        self._alarm([*found, *([Alarm("source", why)] if why else [])])

    def _alarm(self, found: Sequence[Alarm]) -> None:
        """Say and write alarms; the first ends the run, where they are to."""
        step, stop = self.state.step, self.config.alarms.stop
        for alarm in found:
            log.warn(f"alarm after step {step}: {alarm.text}")
            self._event("alarm", alarm=alarm.name, why=alarm.text)
            event = {"event": "alarm", "step": step, "name": alarm.name, "why": alarm.text, "stops": stop}
            self.keeper.record(event, "alarms.json")
        if found and stop and self.state.stopped is None:
            self.state.stopped = f"{found[0].name}: {found[0].text}"
            log.say("the run ends here; alarms.stop=false would go on")

    def _drop_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _rate(self) -> float:
        """The learning rate of what is not slowed down for its layer."""
        first = self.optimizer.param_groups[0]
        return (
            first["lr"]
            if first["peak_lr"] == first["base_lr"]
            else first["base_lr"] * first["lr"] / first["peak_lr"]
        )

    def _report(
        self, found: Gradients, told: Mapping[str, float], tokens: int | None, seconds: float
    ) -> None:
        self._smooth = seconds if self._smooth is None else 0.9 * self._smooth + 0.1 * seconds
        tokens = self.step_tokens if tokens is None else tokens
        speed = tokens / seconds
        mfu = speed * self.flops_per_token / (self.peak_flops * self.world.size)
        names = self.batches.dataset.source_names
        row = self.metrics.write(
            "train",
            self.state.step,
            {
                "loss": found.loss,
                "lr": self._rate(),
                "grad_norm": found.norm,
                "tokens": self.state.tokens,
                "seconds": round(self._before + time.perf_counter() - self._clock, 3),
                "tokens_per_s": round(speed, 1),
                "mfu": round(mfu, 4),
                "epoch": round(self.batches.order.epoch(self.state.step, self.batches.rows_per_step), 4),
                **named(found.terms, names, self.objective),
                **told,
            },
        )
        shown = {**row, "tokens_per_s": tokens / self._smooth}
        shown["mfu"] = shown["tokens_per_s"] * self.flops_per_token / (self.peak_flops * self.world.size)
        total = self.budget.estimate(self.state)
        left = max(0.0, total - self.state.step) * self._smooth
        if self.budget.seconds is not None:
            left = min(left, max(0.0, self.budget.seconds - self.state.seconds))
        self.display.train(shown, self.budget.progress(self.state), total, left)

    # bad steps --------------------------------------------------------------------------------

    def _bad(self, data: Step, found: Gradients, why: str) -> None:
        """Skip a step; after too many in a row go back to the last good checkpoint."""
        state, step = self.state, self.state.step
        self._drop_gradients()
        culprits = self._culprits(data)
        self.keeper.record({"event": "skip", "step": step, "why": why, "rows": culprits})
        rewind = self.guard.bad(state.guard, step)
        log.warn(f"step {step} is skipped: {why}; {guarding.describe(culprits)}")
        self._done(step)
        self._event("skip", why=why, rows=culprits, loss=found.loss, grad_norm=found.norm)
        if rewind:
            self._rewind(why, culprits)

    def _culprits(self, data: Step) -> list[dict[str, Any]]:
        """The documents of the worst rows of a step, of all workers."""
        row_losses = getattr(self.objective, "row_losses", None)
        if row_losses is None:
            return []
        mine: list[tuple[int, float]] = []
        at = 0
        with torch.no_grad():
            for micro in data.micros:
                batch = {k: v.to(self.world.device) for k, v in micro.batch.items()}
                with precision.autocast(self.state.choices.dtype, self.world.device):
                    losses = row_losses(self.model, batch).tolist()
                if not micro.filler:
                    mine += [(int(r), float(x)) for r, x in zip(data.rows[at:], losses, strict=False)]
                    at += len(losses)
        fsdp.reshard(self.model)
        told = self.world.gather([[r, x if math.isfinite(x) else None] for r, x in mine])
        every = [(int(r), math.inf if x is None else float(x)) for part in told for r, x in part]
        return guarding.offenders(self.batches.dataset, every)

    def _rewind(self, why: str, culprits: list[dict[str, Any]]) -> None:
        memory = self.state.guard
        last = memory.streak[-1]
        if not self.guard.may_rewind(memory):
            raise TrainError(
                f"{len(memory.streak)} bad steps in a row up to step {last}, after {memory.rewinds} rewinds: "
                + why,
                expected="a run that stays finite",
                next=f"lower optim.lr, or look at the data: {guarding.describe(culprits)} "
                f"(all of them: {self.keeper.run / 'guard.json'})",
            )
        avoid = self.guard.avoid(memory)
        kept = (memory.rewinds + 1, memory.skipped, self.state.seconds, self.state.evals)
        came_from = self.state.step
        back = self.keeper.rewind(before=memory.streak[0], wish=avoid[0])
        self.batches.forget(back)
        self.state.guard.avoid = avoid
        self.state.guard.rewinds, self.state.guard.skipped, self.state.seconds, self.state.evals = kept
        log.warn(
            f"{self.config.guard.max_skips} bad steps in a row: back from step {came_from} to step {back}"
        )
        self.keeper.record({"event": "rewind", "step": came_from, "to": back, "why": why, "left_out": avoid})
        self._event("rewind", why=why, came_from=came_from, left_out=avoid)

    def _event(self, name: str, **values: Any) -> None:
        self.metrics.write("event", self.state.step, {"event": name, **values})

    # evaluation --------------------------------------------------------------------------------

    def _evaluate(self) -> bool:
        """Evaluate now; returns whether the checkpoint of this step is to be kept as the best."""
        state = self.state
        figures = self.evaluator.measure(state, state.choices.eval_tokens, over=self._over())
        sample = self.evaluator.write_samples(state)
        if state.step > 0:
            state.evals += 1
        state.evaluated = state.step
        self.keeper.dirty = True
        writes = f"; it writes: {sample}" if sample else ""
        if not figures:
            if sample:
                log.say(f"step {state.step}{writes}")
            return False
        self.metrics.write("eval", state.step, {"tokens": state.tokens, "seconds": state.seconds, **figures})
        log.say(f"step {state.step}: {figure_words(figures, self.objective.main_metric)}{writes}")
        state.last_val = figures
        if not self._over():
            plain = {k.removeprefix("val_"): v for k, v in figures.items()}
            self._alarm(self.alarms.evaluated(state.alarms, state.step, plain))
        return self.config.checkpoint.best and better(state, figures)

    def _final(self) -> None:
        """The last figures: over more of the validation split than those on the way, and calibrated."""
        state = self.state
        if state.last_val and state.last_val.get("final"):
            return
        speed = self.step_tokens / max(state.choices.step_seconds, 1e-6)
        figures = self.evaluator.last(state, final_tokens(state.seconds, speed))
        if not figures:
            return
        self.metrics.write(
            "eval", state.step, {"tokens": state.tokens, "seconds": state.seconds, "final": True, **figures}
        )
        causal = self.objective.attention.value == "causal" and self.objective.stage != "align"
        kind = "tokens" if causal else "targets"  # a preference's are pairs
        over = f"over {figures['val_tokens']:,.0f} {kind}" if "val_tokens" in figures else ""
        log.say(f"final {figure_words(figures, self.objective.main_metric, over)}")
        state.last_val = {**figures, "final": 1.0}
        self.keeper.dirty = True

    def result(self, run: Path, interrupted: bool) -> Result:
        """What the run came to so far."""
        state, val = self.state, self.state.last_val or {}
        return Result(
            run,
            state.step,
            state.tokens,
            state.seconds,
            state.loss,
            val.get("val_loss"),
            val.get("val_bpb"),
            interrupted,
            {k.removeprefix("val_"): v for k, v in val.items() if k.startswith("val_")}
            if self.objective.supervised or self.objective.replies or self.objective.stage != "pretrain"
            else {},
        )


def named(terms: Mapping[str, float], sources: tuple[str, ...], objective: Objective) -> dict[str, float]:
    """Terms and slices under names for people: ``nll@0`` becomes ``loss@books`` where there is one term,
    ``policy@entropy`` entropy.

    >>> from exnihilo.objective.registry import create
    >>> named({"nll": 2.0, "nll@1": 3.0}, ("books", "code"), create("causal_lm"))
    {'loss@code': 3.0}
    """
    plain = [k for k in terms if "@" not in k]
    out: dict[str, float] = {}
    for key, value in terms.items():
        term, at, part = key.partition("@")
        shown = "loss" if len(plain) == 1 else term
        if part.isdigit():
            out[f"{shown}@{sources[int(part)] if int(part) < len(sources) else part}"] = value
        elif at:
            out[part] = value
        elif len(plain) > 1:
            out[key] = value
    return out
