"""A source of batches that draws them: prompts from the data, completions from the model, rewards from
graders.

::

    source = Rollouts(parts, micro_rows=8)
    step = source.get(17)              # ordinary micro-batches: the loop never learns that it is doing RL
    source.report(17)                  # reward, pass@1, pass@8, length, stop_rate, zero_variance ...

Batch n of rollouts is a function of (weights, seed, n): prompts are n's part of a keyed order, completion j
of prompt i draws with random numbers of (seed, n, i, j) alone, so neither workers nor decoding slots change
it. It is divided over ``rollout.updates`` steps. All completions of a prompt are one group and stand
together.

Sampler and trainer are one forward: `old_logp` is what the sampler said, and its mean distance from what the
trainer computes before the first update (`drift`) is rounding. Where completions come from older weights
(``rollout.staleness``) or another engine, the trainer computes `old_logp` itself before the first update, and
the tokens get truncated importance weights. With ``rollout.dynamic`` groups without any spread of scores are
replaced by further prompts, at most ``rollout.rounds`` times (DAPO, arXiv:2503.14476).

Key: N completions of this worker, T tokens of one, B rows, R tokens of a row
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo import log
from exnihilo.data.order import Order
from exnihilo.errors import ConfigError, DataError
from exnihilo.eval import graders
from exnihilo.objective import rlvr
from exnihilo.objective._rl import advantages, shaping
from exnihilo.train.batches import Step
from exnihilo.train.source import learning, records, rows, steps
from exnihilo.train.source.ahead import Ahead
from exnihilo.train.source.base import Parts
from exnihilo.train.source.records import Drawn, Record
from exnihilo.train.source.sampler import Sampler, create, seed_of
from exnihilo.train.source.troubles import Troubles
from exnihilo.train.source.troubles import place as place_of

if TYPE_CHECKING:
    from exnihilo.infer.request import Completion
    from exnihilo.model.model import Model

SHOWN = 5  # prompts without room that are named


class _Passes:
    """Where a run is in its prompts, whatever a step's rows are."""

    def __init__(self, order: Order, prompts: int, updates: int) -> None:
        self.order, self.prompts, self.updates = order, prompts, updates

    def epoch(self, step: int, rows_per_step: int) -> float:
        del rows_per_step
        return self.order.epoch(step // self.updates, self.prompts)


class _View:
    """The tasks as the loop looks at a data set: its steps are as long as completions may be."""

    def __init__(self, tasks: Any, context: int) -> None:
        self.tasks, self.context = tasks, context
        self.rows, self.source_names = tasks.rows, tasks.source_names

    def refs(self, row: int) -> list[Any]:
        return self.tasks.refs(row)


class Rollouts:
    """Batches that are drawn from the model that is trained.

    Args:
        parts: what it is made from; the objective is `rlvr` (it has `pieces`).
        micro_rows: rows of ``model.context`` tokens that one forward may hold.

    Attributes:
        rows_per_step: completions of a step, over all workers.

    Raises:
        ConfigError: settings that cannot be obeyed together. DataError: no prompt leaves room for a reply.
    """

    def __init__(self, parts: Parts, *, micro_rows: int) -> None:
        self.parts, config, objective = parts, parts.config, parts.objective
        self.how = how = config.rollout
        self.objective = objective
        self.pieces = getattr(objective, "pieces", None)
        if not isinstance(objective, rlvr.RLVR) or self.pieces is None:
            raise ConfigError(f"objective {config.objective} does not learn from rollouts", expected="rlvr")
        self._check()
        objective.facts.update(temperature=how.temperature, max_new_tokens=how.max_new_tokens)
        self.dynamic = how.dynamic or self.pieces.dynamic
        self.grader = graders.create(config.grader)
        self.troubles = Troubles(str(config.grader))
        self.judges = graders.create(config.alarms.grader) if config.alarms.grader else None
        self.folder = parts.run / records.FOLDER
        self.prompts = self._room()
        self._order = Order([len(self.kept)], None, config.seed)
        self.order = _Passes(self._order, how.prompts, how.updates)
        self.dataset = _View(parts.tasks, how.max_new_tokens)
        self.rows_per_step = max(1, how.prompts * how.group // how.updates)
        self.layout = rows.Layout(
            width=parts.model.config.width or 1,
            micro_tokens=max(1, micro_rows) * config.model.context,
            pad_id=parts.codec.pad_id,
            skip_cut=objective.config.skip_cut,
        )
        if how.keep:
            parts.world.first(lambda: self.layout.write(self.folder))
        self.sampler: Sampler = create(parts)
        self.foreign = how.staleness > 0 or self.sampler.foreign
        self.learner = learning.Learner(parts, self.layout)
        self.ahead = Ahead(
            self._draw, parts.weights, lag=how.staleness, known=self._drawn_before if how.staleness else None
        )
        self._batch: Drawn | None = None
        self._figures: dict[str, float] = {}
        self._oldest = 0

    def _check(self) -> None:
        how, world = self.how, self.parts.world
        assert self.pieces is not None
        if how.prompts < how.updates * world.size:
            raise ConfigError(
                f"rollout.prompts={how.prompts} for rollout.updates={how.updates} on {world.size} workers",
                expected=f"at least {how.updates * world.size}, one a step and worker",
                next="a larger rollout.prompts",
            )
        if how.group < 2 and self.pieces.advantage in ("mean", "std", "loo", "maxrl"):
            raise ConfigError(
                f"rollout.group={how.group} with options.advantage={self.pieces.advantage}",
                expected="at least 2: a completion is compared with the others of its prompt",
                next="rollout.group=8, or options.preset=reinforce_pp or ppo",
            )
        if not self.parts.config.grader:
            raise ConfigError(
                "no grader was given", expected=f"one of {', '.join(graders.names())}", next="grader=number"
            )

    def _room(self) -> list[list[int]]:
        """Ids of each task's prompt; those that leave no room for a reply are left out, and said."""
        examples, context = self.parts.tasks.examples, self.parts.config.model.context
        found = [rlvr.prompt_ids(self.parts.codec, e["prompt"]) for e in examples]
        self.kept = np.array([i for i, ids in enumerate(found) if len(ids) < context], np.int64)
        lost = [i for i, ids in enumerate(found) if len(ids) >= context]
        if lost:
            named = ", ".join(place_of(examples[i], i) for i in lost[:SHOWN]) + (
                " ..." if len(lost) > SHOWN else ""
            )
            log.warn(f"{len(lost)} prompts leave no room to answer in {context} positions: {named}")
        if not len(self.kept):
            raise DataError(
                f"none of {len(found)} prompts leaves room to answer in {context} positions",
                expected="prompts shorter than model.context",
                next="a larger model.context",
            )
        return found

    # the protocol -------------------------------------------------------------------------------

    def get(self, step: int) -> Step:
        """The step's micro-batches; where a batch of rollouts begins, it is drawn now (or waited for)."""
        number, part = divmod(step, self.how.updates)
        if self._batch is None or self._batch.number != number:
            self._batch = self._begin(number, part)
            self._figures = self._summed(self._batch)
            self.troubles.taught(self._figures)
        return steps.step_of(self._batch, step, self.how, self.objective, self.layout, world=self.parts.world)

    def report(self, step: int) -> dict[str, float]:
        """Figures of the batch that a step learnt from, over all workers."""
        del step
        return dict(self._figures)

    def judge(self, step: int, terms: Mapping[str, float]) -> str | None:
        """Nothing of its own: what the figures say is judged by the run's alarms."""
        del step, terms
        return None

    def settle(self, step: int) -> None:
        """What is drawn already is on disk (`_draw` writes it); files that no checkpoint needs go."""
        self.ahead.settle()
        if not self.how.keep and self.folder.is_dir():
            for old in range(self._oldest, max(0, step // self.how.updates - 1)):
                for stage in ("", "drawn"):
                    records.path_of(self.folder, old, rank=self.parts.world.rank, stage=stage).unlink(
                        missing_ok=True
                    )
            self._oldest = max(self._oldest, step // self.how.updates - 1)

    def forget(self, step: int) -> None:
        """The run went back to `step`: what was drawn for later ones is of other weights."""
        self.ahead.forget()
        number, part = divmod(step, self.how.updates)
        if self._batch is not None and self._batch.number >= number:
            self._batch = None
        first = number + (1 if part else 0)
        for path in sorted(self.folder.glob("batch-*.parquet")) if self.folder.is_dir() else ():
            if records.number_of(path) >= first and records.rank_of(path) == self.parts.world.rank:
                path.unlink()

    def close(self) -> None:
        """End the thread and the engine."""
        self.ahead.close()
        self.troubles.close()
        self.sampler.close()

    # batches ------------------------------------------------------------------------------------

    def _begin(self, number: int, part: int) -> Drawn:
        """A batch with all that the objective reads; of one that was begun before a cut, what was written."""
        rank = self.parts.world.rank
        if part:
            known = records.read(self.folder, number, rank=rank)
            if known is not None:
                return known
        batch = self.learner.finish(self.ahead.get(number), foreign=self.foreign)
        if self.how.keep or self.how.updates > 1:
            records.write(self.folder, batch, rank=rank)
        return batch

    def _drawn_before(self, number: int) -> Drawn | None:
        return records.read(self.folder, number, rank=self.parts.world.rank, stage="drawn")

    # drawing ------------------------------------------------------------------------------------

    def _draw(self, model: Model, number: int, version: int) -> Drawn:
        """A batch's completions and their rewards. May run in a thread: touches nothing the loop changes."""
        began = time.perf_counter()
        places = steps.mine(self.how, self.parts.world)
        chosen = self._order.rows(number, self.how.prompts)
        found = self._groups(model, number, 0, version, {p: int(self.kept[chosen[p]]) for p in places})
        figures = {"replaced": 0.0, "flat_scores": float(sum(map(_flat, found.values())))}
        for turn in range(1, self.how.rounds if self.dynamic else 1):
            weak = [p for p in places if _flat(found[p])]
            if not weak:
                break
            # further prompts: an order of this batch and round alone, by place
            further = Order([len(self.kept)], None, seed_of(self.parts.config.seed, number, turn) >> 1)
            fresh = further.rows(0, self.how.prompts)
            found |= self._groups(model, number, turn, version, {p: int(self.kept[fresh[p]]) for p in weak})
            figures["replaced"] += len(weak)
        figures["sampling_s"] = time.perf_counter() - began
        drawn = Drawn(number, version, tuple(r for p in places for r in self._shaped(found[p])), figures)
        if self.how.staleness:
            records.write(self.folder, drawn, rank=self.parts.world.rank, stage="drawn")
        return drawn

    def _groups(
        self, model: Model, number: int, turn: int, version: int, tasks: Mapping[int, int]
    ) -> dict[int, list[Record]]:
        """Draw and score: place in the batch -> its group."""
        examples = [self.parts.tasks.examples[i] for i in tasks.values()]
        prompts = [self.prompts[i] for i in tasks.values()]
        replies = self.sampler.draw(
            model, prompts, examples, seed=seed_of(self.parts.config.seed, number, turn), places=list(tasks)
        )
        texts = [[self.sampler.text(reply) for reply in group] for group in replies]
        asked = [e for e in examples for _ in range(self.how.group)]
        said = [text for group in texts for text in group]
        graded = graders.grade_many(self.grader, asked, said)
        self.troubles.add(graded, asked)
        dealt = np.arange(len(said))
        if self.objective.config.shuffle:
            chance = np.random.default_rng(seed_of(self.parts.config.seed, number, turn))
            dealt = chance.permutation(dealt)
        scores = iter([(g, graded[i].score) for g, i in zip(graded, dealt.tolist(), strict=True)])
        others = iter(graders.grade_many(self.judges, asked, said) if self.judges is not None else ())
        out: dict[int, list[Record]] = {}
        for (place, task), prompt, group, words in zip(tasks.items(), prompts, replies, texts, strict=True):
            make = partial(Record, group=place, example=task, version=version, prompt=tuple(prompt))
            out[place] = [
                _scored(make, reply, text, *next(scores), next(others, None))
                for reply, text in zip(group, words, strict=True)
            ]
        return out

    def _shaped(self, group: list[Record]) -> list[Record]:
        """What length adds to the rewards of a group."""
        assert self.pieces is not None
        limit, config = self.how.max_new_tokens, self.objective.config
        lengths = np.array([sum(r.mask) for r in group])
        extra: dict[str, np.ndarray] = {}
        if self.pieces.overlong:
            buffer = round(self.pieces.overlong * limit)
            extra["overlong"] = np.array([shaping.overlong(int(n), limit, buffer) for n in lengths])
        if config.brevity:
            right = np.array([r.right for r in group])
            extra["brevity"] = config.brevity * shaping.brevity(lengths, right)
        if not extra:
            return group
        return [
            replace(
                r,
                parts={**r.parts, **{k: float(v[i]) for k, v in extra.items()}},
                reward=r.reward + sum(float(v[i]) for v in extra.values()),
            )
            for i, r in enumerate(group)
        ]

    # figures ------------------------------------------------------------------------------------

    def _summed(self, batch: Drawn) -> dict[str, float]:
        """Means over all workers' completions and groups."""
        found = batch.records
        groups = records.groups(found)
        totals: dict[str, float] = {
            "n": len(found),
            "groups": len(groups),
            "reward": float(records.rewards(found).sum()),
            "right": sum(r.right for r in found),
            "solved": sum(any(r.right for r in g) for g in groups),
            "length": sum(sum(r.mask) for r in found),
            "stopped": sum(r.stopped for r in found),
            "flat": sum(advantages.flat(records.rewards(g)) for g in groups),
            "errors": sum(bool(r.error) for r in found),
            "independent": sum(r.independent for r in found),
            **{f"part {name}": sum(r.parts.get(name, 0.0) for r in found) for name in _parts(found)},
            **batch.figures,
        }
        told = self.parts.world.sum({k: float(v) for k, v in totals.items()})
        n, count = told["n"], told["groups"]
        out = {
            "reward": told["reward"] / n,
            **{f"reward_{k[5:]}": v / n for k, v in told.items() if k.startswith("part ")},
            "pass@1": told["right"] / n,
            "pass@k": told["solved"] / count,  # k: the group
            "length": told["length"] / n,
            "stop_rate": told["stopped"] / n,
            "cut": 1 - told["stopped"] / n,
            "zero_variance": told["flat"] / count,
            "grader_errors": told["errors"],
            "sampling_s": round(told["sampling_s"] / self.parts.world.size, 4),
        }
        if self.dynamic:
            out["replaced"] = told["replaced"] / count
        if self.how.staleness:
            out["staleness"] = float(batch.number - batch.version)
        if self.judges is not None:
            out["independent"] = told["independent"] / n
        return out


def _parts(found: Sequence[Record]) -> list[str]:
    return sorted({name for r in found for name in r.parts})


def _flat(group: Sequence[Record]) -> bool:
    return advantages.flat(records.rewards(group))


def _scored(
    make: Callable[..., Record],
    reply: Completion,
    text: str,
    graded: graders.Graded,
    score: float | None,
    other: graders.Graded | None,
) -> Record:
    """A record of a reply, its grades and its reward; what has none scores nothing."""
    return make(
        completion=tuple(reply.ids),
        mask=tuple(getattr(reply, "mask", None) or [1] * len(reply.ids)),
        logprobs=tuple(reply.logprobs),
        reason=reply.reason,
        text=text,
        parts=dict(graded.parts),
        reward=score if score is not None else 0.0,
        right=graded.right,
        independent=(other.score or 0.0) if other is not None else 0.0,
        error=graded.error or "",
    )
