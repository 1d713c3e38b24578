"""Did pretraining help? The same network, fine-tuned with and without it, over several seeds.

After a downstream run with ``init=``, unless ``control.seeds=0``::

    did pretraining help? accuracy on 872 validation examples; 3 seeds, mean and 95% interval (t)
      majority baseline     0.5092
      without pretraining   0.7064  [0.6886, 0.7243]  optim.lr=0.001
      with pretraining      0.8142  [0.8050, 0.8234]
      yes: the intervals do not overlap

The main run counts as one of those with pretraining. All take as many steps as it took, on the same data
with the same tokenizer and shape; the seed changes the order of the rows, dropout and what is drawn. The
comparison leans towards no pretraining: it trains all weights, even where the main run has frozen some, and
has the better of two learning rates, the main run's and the default for random weights, judged by its first
seed on the validation split itself.

The runs are in ``RUN/control/``, the figures in ``RUN/control.json``. A cut comparison goes on where it was
(``--resume``): runs that are done are not done again.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo import log
from exnihilo.config import CheckpointConfig, ControlConfig, OptimConfig, RunConfig, TuneConfig
from exnihilo.errors import ConfigError
from exnihilo.objective.base import Objective
from exnihilo.optim.create import optim_default
from exnihilo.train.progress import duration
from exnihilo.train.runfolder import write_json
from exnihilo.train.setup import digest

if TYPE_CHECKING:
    from exnihilo.log import Progress
    from exnihilo.parallel.mesh import World
    from exnihilo.train.loop import Result

SEEDS = 3  # of each, where nothing else is said
FILE, FOLDER, DONE = "control.json", "control", "runs.json"
Train = Callable[..., "Result"]
# 97.5% points of Student's t for 1 .. 30 degrees of freedom
_T = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604,
    2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555,
    2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


def seeds(config: RunConfig, objective: Objective) -> int:
    """Seeds of each side; 0: no comparison."""
    if config.control.seeds is not None:
        return config.control.seeds
    return SEEDS if config.init is not None and objective.supervised and objective.main_metric else 0


def wanted(config: RunConfig, objective: Objective) -> bool:
    """Whether a comparison follows the run."""
    return seeds(config, objective) > 0 and config.init is not None and objective.supervised


def check(config: RunConfig, objective: Objective) -> None:
    """Refuse a comparison that cannot be made, before anything is trained."""
    asked = config.control.seeds
    if not asked:
        return
    why = ""
    if config.init is None:
        why = "there is no init=: nothing is pretrained"
    elif not (objective.supervised and objective.main_metric):
        why = f"the objective {config.objective} has no metric to compare by"
    if why:
        raise ConfigError(
            f"control.seeds={asked}, but {why}",
            expected="a downstream recipe with init=RUN",
            next="leave control.seeds out",
        )


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): the 95% interval of the mean by Student's t; NaN bounds for a single value.

    >>> [round(x, 3) for x in interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return mean, math.nan, math.nan
    half = quantile(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return mean, mean - half, mean + half


def quantile(freedom: int) -> float:
    """The 97.5% point of Student's t; beyond 30 degrees of freedom by Cornish and Fisher's expansion."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def compare(
    config: RunConfig, result: Result, objective: Objective, world: World, display: Progress, train: Train
) -> Result:
    """Run the controls of a finished run, write ``RUN/control.json`` and say the table.

    Args:
        config: of the run, with nothing open.
        result: of the run.
        train: `train.run`.

    Returns:
        `result`; interrupted where a control run was told to stop.
    """
    if objective.main_metric not in result.metrics:
        log.warn(f"no control: there is no validation split to measure {objective.main_metric} on")
        return result
    series = _Series(config, result, objective.main_metric, world, display, train)
    return series.go()


@dataclass(frozen=True)
class _Trial:
    """One control run: its folder's name, its seed, and what it changes in the configuration."""

    name: str
    seed: int
    changes: Mapping[str, Any] = field(default_factory=dict)


class _Interrupted(Exception):
    """A control run was told to stop."""


class _Series:
    """The control runs of one run."""

    def __init__(
        self, config: RunConfig, result: Result, metric: str, world: World, display: Progress, train: Train
    ) -> None:
        self.config, self.result, self.metric = config, result, metric
        self.world, self.display, self.train = world, display, train
        count = config.control.seeds if config.control.seeds is not None else SEEDS
        self.folder = result.run / FOLDER
        self.seeds = [config.seed + i for i in range(count)]
        self.rates = self._rates()
        self.total = 2 * count - 2 + len(self.rates)
        self.walls: list[float] = []  # seconds of the runs of this call

    def go(self) -> Result:
        """All runs that are not done yet, then the figures."""
        self.done = self._open()
        left = self.total - len(self.done)
        if left:
            log.say(
                f"control: {left} runs of {self.result.step:,} steps follow, with and without pretraining; "
                f"about {duration(left * self.result.seconds)} (control.seeds=0 leaves them out)"
            )
        try:
            found = self._values()
        except _Interrupted:
            log.say(f"control: stopped; go on with: exnihilo train --resume run={self.result.run}")
            return replace(self.result, interrupted=True)
        if self.world.main:
            write_json(self.result.run / FILE, found)
        log.say(table(found))
        return self.result

    def _values(self) -> dict[str, Any]:
        first, *others = self.seeds
        trials = {name: self._without(first, name) for name in self.rates}
        tried = {name: self._value(trial) for name, trial in trials.items()}
        chosen = max(tried, key=lambda name: tried[name])
        without = [tried[chosen], *(self._value(self._without(seed, chosen)) for seed in others)]
        after = [self.result.metrics[self.metric]]
        after += [self._value(_Trial(f"with-seed-{seed}", seed)) for seed in others]
        found = report(self.metric, self.result.metrics, without, after, self.seeds, self.result.step)
        found["without"].update(
            lr=self.rates[chosen].lr, tried={self.rates[n].lr: v for n, v in tried.items()}
        )
        found["with"].update(lr=self.config.optim.lr)
        return found

    def _rates(self) -> dict[str, OptimConfig]:
        """Optimiser settings that the runs without pretraining choose from: their own defaults, and ours."""
        optim, width = self.config.optim, self.config.model.width or 256
        changes: dict[str, Any] = {"lr": optim_default(optim.name, width, "learn")}
        if optim.name == "muon":
            changes["adamw_lr"] = None
        own = optim.model_copy(update=changes)
        return {"same-rate": optim} if own.lr == optim.lr else {"own-rate": own, "same-rate": optim}

    def _without(self, seed: int, rate: str) -> _Trial:
        """A run from random weights, all of which are trained."""
        codec = self.config.codec.model_copy(update={"path": str(self.result.run)})
        changes = {"init": None, "optim": self.rates[rate], "tune": TuneConfig(), "codec": codec}
        return _Trial(f"without-seed-{seed}-{rate}", seed, changes)

    def _open(self) -> dict[str, dict[str, float]]:
        """The metrics of the runs that are done already; those of another configuration are moved aside."""
        apart = {"run", "control", "eval", "checkpoint", "threads", "device", "compile"}
        identity = self.config.model_dump(mode="json", exclude=apart)
        self.mark = digest([identity, self.result.step])

        def look() -> dict[str, dict[str, float]]:
            path = self.folder / DONE
            if path.exists():
                held = json.loads(path.read_text(encoding="utf-8"))
                if held["of"] == self.mark:
                    return held["runs"]
                number = next(n for n in range(1, 10**6) if not (self.result.run / f"{FOLDER}-{n}").exists())
                self.folder.rename(self.result.run / f"{FOLDER}-{number}")
            self.folder.mkdir(exist_ok=True)
            write_json(path, {"of": self.mark, "runs": {}})
            return {}

        return self.world.first(look)

    def _value(self, trial: _Trial) -> float:
        """The metric of a run, which is made if it is not done yet."""
        if trial.name not in self.done:
            path = self.folder / trial.name
            begun = self.world.first(lambda: (path / "config.toml").exists())
            number, clock = len(self.done) + 1, time.perf_counter()
            self.display.start(f"control: {trial.name}, {number} of {self.total}")
            found = self.train(self._variant(path, trial), resume=begun, force=not begun, progress=False)
            self.display.stop()
            if found.interrupted:
                raise _Interrupted
            self.done[trial.name] = found.metrics
            self.world.first(lambda: self._note(path))
            value = found.metrics[self.metric]
            self.walls.append(time.perf_counter() - clock)
            left = (self.total - number) * statistics.fmean(self.walls)
            log.say(
                f"control: {trial.name}: {self.metric} {value:.4f}"
                + (f"; about {duration(left)} left" if left else "")
            )
        return self.done[trial.name][self.metric]

    def _note(self, path: Path) -> None:
        write_json(self.folder / DONE, {"of": self.mark, "runs": self.done})
        shutil.rmtree(path / "checkpoints", ignore_errors=True)  # the run is done: its model is kept

    def _variant(self, path: Path, trial: _Trial) -> RunConfig:
        """The main run's configuration with another seed and folder, as many steps, and a trial's changes."""
        steps, best = self.result.step, self.config.checkpoint.use == "best"
        every = self.config.eval.every if best else steps
        update: dict[str, Any] = {
            "run": str(path),
            "seed": trial.seed,
            **{"steps": steps, "tokens": None, "epochs": None, "minutes": None},
            "control": ControlConfig(seeds=0),
            "eval": self.config.eval.model_copy(update={"every": every, "samples": 0}),
            "checkpoint": CheckpointConfig(best=best, keep=1, use=self.config.checkpoint.use),
            **trial.changes,
        }
        return self.config.model_copy(update=update)


def report(
    metric: str,
    main: Mapping[str, float],
    without: Sequence[float],
    after: Sequence[float],
    seeds: Sequence[int],
    steps: int,
) -> dict[str, Any]:
    """What ``control.json`` holds. `main`: the metrics of the main run, with the majority baseline's."""

    def side(values: Sequence[float]) -> dict[str, Any]:
        mean, low, high = interval(values)
        bounded = len(values) > 1
        return {
            "mean": mean, "low": low if bounded else None, "high": high if bounded else None,
            "values": list(values),
        }  # fmt: skip

    found = {
        "metric": metric,
        "examples": int(main.get("examples", 0)),
        "steps": steps,
        "seeds": list(seeds),
        "majority": main.get(f"majority_{metric}"),
        "without": side(without),
        "with": side(after),
    }
    low, high = found["with"]["low"], found["without"]["high"]
    found["helps"] = None if low is None else bool(low > high)
    return found


def table(found: Mapping[str, Any]) -> str:
    """The figures as lines for people."""
    count = len(found["seeds"])
    how = f"{count} seeds, mean and 95% interval (t)" if count > 1 else "one seed, so no interval"
    lines = [f"did pretraining help? {found['metric']} on {found['examples']:,} validation examples; {how}"]
    if found["majority"] is not None:
        lines.append(f"  {'majority baseline':<20}{found['majority']:8.4f}")
    for key, name in (("without", "without pretraining"), ("with", "with pretraining")):
        side = found[key]
        bounds = "" if side["low"] is None else f"  [{side['low']:.4f}, {side['high']:.4f}]"
        rate = f"  optim.lr={side['lr']:g}" if side.get("lr") else ""
        lines.append(f"  {name:<20}{side['mean']:8.4f}{bounds}{rate}")
    if found["helps"] is None:
        return "\n".join(lines)
    worse = found["with"]["high"] < found["without"]["low"]
    no = "no: without it the metric is higher" if worse else "not shown: the intervals overlap"
    lines.append("  yes: the intervals do not overlap" if found["helps"] else f"  {no}")
    return "\n".join(lines)
