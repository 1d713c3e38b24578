"""What a run must remember, beside its tensors, to go on as if it had never been cut.

Small, because so much is a pure function of the step: the order of rows, the learning rate (with the
horizon), and all randomness, which is seeded anew at every step from (seed, step, worker). What is left are
counters, the guard's history, and the choices that were measured at the start, since measuring again could
choose otherwise.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from exnihilo.errors import CheckpointError


@dataclass
class Choices:
    """What was measured on the machine, or given. Kept, so that a resumed run adds in the same order."""

    device: str = "cpu"
    world: int = 1
    threads: int = 1
    dtype: str = "fp32"
    micro_rows: int = 1
    compile: bool = False
    eval_tokens: int | None = None
    step_seconds: float = (
        0.0  # measured before the first step; sizes a warm-up where the budget is in minutes
    )


@dataclass
class GuardState:
    """History of good losses and what was skipped."""

    history: list[float] = field(default_factory=list)
    streak: list[int] = field(default_factory=list)  # the bad steps that lie directly behind
    avoid: list[int] = field(default_factory=list)  # steps whose rows are not trained on, after a rewind
    skipped: int = 0
    rewinds: int = 0


@dataclass
class State:
    """A run's memory at the border between two steps."""

    step: int = 0  # steps done
    tokens: int = 0  # positions trained on
    seconds: float = 0.0  # of training, evaluation and saving included, over all resumes
    startup_seconds: float = 0.0  # of that: first steps, which pay for compiling and caches
    startup_steps: int = 0
    horizon: int | None = None  # the schedule's last step; None until it is known
    mark: list[float] | None = None  # [step, seconds] where the pace was last looked at, horizon known
    bend: list[float] | None = None  # [step, scale] from where the rate falls straight to a new horizon
    warmup: int | None = None  # steps; fixed at the start where the budget is in minutes
    evaluated: int = -1  # step of the last evaluation
    evals: int = 0
    best: dict[str, float] | None = None  # {"step", "val_loss"}
    last_val: dict[str, float] | None = None
    loss: float | None = None
    loss_scale: dict[str, float] | None = None  # fp16
    ema_updates: int = 0
    guard: GuardState = field(default_factory=GuardState)
    choices: Choices = field(default_factory=Choices)
    config: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)  # config, data, codec
    groups: list[dict[str, Any]] = field(default_factory=list)  # the optimiser's scalars, for reading
    parent: dict[str, str] | None = None
    lineage: list[dict[str, Any]] = field(default_factory=list)  # of what the run starts from
    before: dict[str, Any] | None = None  # its replies before the first step: the control
    alarms: dict[str, Any] = field(default_factory=dict)  # what alarms are judged by
    stopped: str | None = None  # the alarm that ended the run
    facts: dict[str, Any] = field(default_factory=dict)  # the objective's, from the training split
    calibrated: dict[str, Any] = field(
        default_factory=dict
    )  # and those from the validation split, at the end

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> State:
        """The state a checkpoint holds; unknown keys mean that another version wrote it."""
        known = {f.name for f in fields(cls)}
        try:
            if unknown := set(data) - known:
                raise TypeError(f"unknown entries {sorted(unknown)}")
            made = dict(data)
            made["guard"] = GuardState(**data["guard"])
            made["choices"] = Choices(**data["choices"])
            return cls(**made)
        except (TypeError, KeyError) as error:
            raise CheckpointError(
                f"state.json does not fit this version of exnihilo: {error}",
                expected="a checkpoint written by this version",
                next="resume with the version that env.json names",
            ) from error


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """The seed of all randomness of one step on one worker: a pure function, so no generator need be saved.

    >>> step_seed(0, 1) != step_seed(0, 2) != step_seed(1, 2)
    True
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
