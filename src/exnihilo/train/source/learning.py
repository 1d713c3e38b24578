"""From scored records to records with all that the objective reads: old_logp, advantages, the critic's
targets.

::

    learner = Learner(parts, layout)
    batch = learner.finish(drawn, foreign=False)       # columns_of(objective) in every record

Runs in the loop's thread before a batch's first update, with the weights of now. Only what the preset needs
is computed: on-policy and without a reference or a critic that is nothing but arithmetic on rewards.

Key: N completions of this worker, T tokens of one, B rows, R tokens of a row
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from exnihilo.data.base import Item
from exnihilo.errors import ConfigError
from exnihilo.nn.layout import Attention
from exnihilo.objective import _branches
from exnihilo.objective._rl import advantages
from exnihilo.objective.base import Objective
from exnihilo.objective.rlvr import RLVR
from exnihilo.parallel import fsdp
from exnihilo.train import precision
from exnihilo.train.source import records, rows
from exnihilo.train.source.ahead import is_weights
from exnihilo.train.source.base import Parts
from exnihilo.train.source.records import Drawn, Record

Values = list[np.ndarray]  # of each completion, one number a token


def columns_of(objective: Objective, *, foreign: bool) -> list[str]:
    """The per-token floats that records of this objective hold."""
    from_branches = _branches.COLUMNS
    return sorted((objective.columns - from_branches) | ({"is_weight"} if foreign else set()))


class Learner:
    """Adds to a batch what its learning needs."""

    def __init__(self, parts: Parts, layout: rows.Layout) -> None:
        assert isinstance(parts.objective, RLVR)
        self.parts, self.layout, self.objective = parts, layout, parts.objective
        self.pieces = parts.objective.pieces
        if self.pieces.referenced and parts.reference is None:
            raise ConfigError(
                f"options.beta={self.pieces.beta} without a reference model",
                expected="what the divergence is measured from",
                next="reference=init or a run folder, or options.beta=0",
            )

    def finish(self, drawn: Drawn, *, foreign: bool) -> Drawn:
        """The batch with its columns; `foreign`: the sampler was not the trainer's own forward of now."""
        found = list(drawn.records)
        drawn_N = [np.array(r.logprobs, np.float64) for r in found]
        columns: dict[str, Values] = {"old_logp": drawn_N}
        figures = dict(drawn.figures)
        if foreign:
            columns["old_logp"] = self._trained(found)
            cap = self.parts.config.rollout.truncate
            columns["is_weight"] = [
                is_weights(now, then, cap) for now, then in zip(columns["old_logp"], drawn_N, strict=True)
            ]
        penalty: Values = [np.zeros(len(r.completion)) for r in found]
        if self.pieces.referenced:
            columns["ref_logp"] = self._reference(found)
            if self.pieces.kl_in_reward:
                penalty = [
                    self.pieces.beta * (old - base) * np.array(r.mask)
                    for old, base, r in zip(columns["old_logp"], columns["ref_logp"], found, strict=True)
                ]
        if self.pieces.critic:
            columns["value"] = self._values(found)
        self._advantages(found, penalty, columns)
        done = tuple(
            replace(r, columns={k: tuple(np.asarray(v[i], np.float64).tolist()) for k, v in columns.items()})
            for i, r in enumerate(found)
        )
        return Drawn(drawn.number, drawn.version, done, figures)

    # advantages ---------------------------------------------------------------------------------

    def _advantages(self, found: Sequence[Record], penalty: Values, columns: dict[str, Values]) -> None:
        """Puts "advantage", and for a critic "target"."""
        kind, reward_N = self.pieces.advantage, records.rewards(found)
        masks = [np.array(r.mask) > 0 for r in found]
        if kind == "gae":
            columns["advantage"], columns["target"] = [], []
            for reward, lost, value, mask in zip(reward_N, penalty, columns["value"], masks, strict=True):
                gained = -lost[mask]
                gained[-1:] += reward
                mine = advantages.gae(gained, value[mask], gamma=self.pieces.gamma, lam=self.pieces.lam)
                columns["advantage"].append(_placed(mine, mask))
                columns["target"].append(_placed(mine + value[mask], mask))
            return
        if kind == "batch":
            raw = [advantages.to_go(r, p) for r, p in zip(reward_N, penalty, strict=True)]
            columns["advantage"] = self._whitened(raw, masks)
            return
        group_N = np.array([r.group for r in found])
        advantage_N = advantages.of_groups(kind, reward_N - [p.sum() for p in penalty], group_N)
        columns["advantage"] = [a * m for a, m in zip(advantage_N, masks, strict=True)]

    def _whitened(self, raw: Values, masks: Sequence[np.ndarray]) -> Values:
        """Over the counted tokens of all workers."""
        world = self.parts.world
        mine = np.concatenate([v[m] for v, m in zip(raw, masks, strict=True)])
        told = world.gather(mine.tolist())
        every = np.array([x for part in told for x in part])
        white = advantages.whiten(every, np.ones(len(every)))
        at = sum(len(part) for part in told[: world.rank])
        out = []
        for mask in masks:
            count = int(mask.sum())
            out.append(_placed(white[at : at + count], mask))
            at += count
        return out

    # forwards -----------------------------------------------------------------------------------

    def _trained(self, found: Sequence[Record]) -> Values:
        """The trainer's log-probabilities, with the weights of now."""

        def logps(batch: dict[str, Tensor], hidden_BTD: Tensor) -> Tensor:
            temperature = self.objective.temperature
            return cast(
                Tensor, _branches.logps_of(self.parts.model, hidden_BTD, batch, temperature=temperature)
            )

        return self._forward(found, logps)

    def _values(self, found: Sequence[Record]) -> Values:
        """The critic's value before each token."""

        def values(batch: dict[str, Tensor], hidden_BTD: Tensor) -> Tensor:
            head = cast(Any, self.parts.model.heads["value"])
            return torch.nn.functional.pad(head.logits(hidden_BTD), (1, 0))

        return self._forward(found, values)

    def _reference(self, found: Sequence[Record]) -> Values:
        reference, temperature = self.parts.reference, self.objective.temperature
        assert reference is not None

        def logps(columns: Mapping[str, np.ndarray]) -> np.ndarray:
            return reference.logps(columns, temperature=temperature, dtype=self.parts.dtype)

        return self._by_rows(found, logps)

    def _forward(
        self, found: Sequence[Record], read: Callable[[dict[str, Tensor], Tensor], Tensor]
    ) -> Values:
        """What is read from the trained model's states, without gradients or dropout."""
        model, device = self.parts.model, self.parts.world.device

        def rows_of(columns: Mapping[str, np.ndarray]) -> np.ndarray:
            batch = {k: torch.from_numpy(np.ascontiguousarray(v)).to(device) for k, v in columns.items()}
            with torch.no_grad(), precision.autocast(self.parts.dtype, device):
                hidden_BTD = model(_branches.inputs(batch), Attention.CAUSAL)
                return read(batch, hidden_BTD).float().cpu().numpy()

        training = model.training
        model.eval()
        try:
            return self._by_rows(found, rows_of)
        finally:
            model.train(training)
            fsdp.reshard(model)

    def _by_rows(
        self, found: Sequence[Record], read: Callable[[Mapping[str, np.ndarray]], np.ndarray]
    ) -> Values:
        """(B, R) of rows -> (T,) of each completion, in the records' order."""
        pairs: list[tuple[Item, list[Record]]] = []
        for group in records.groups(found):
            pairs += rows.lay(group, self.layout, ())
        order = sorted(range(len(pairs)), key=lambda i: rows.size(pairs[i][0]))
        ends = rows.cuts([rows.size(pairs[i][0]) for i in order], self.layout.micro_tokens)
        most = max(self.parts.world.gather(len(ends)))
        read_BR: dict[int, np.ndarray] = {}
        for begin, end in zip([0, *ends[:-1]], ends, strict=True):
            chosen = order[begin:end]
            columns = rows.collated([pairs[i][0] for i in chosen], self.layout.pad_id)
            read_BR.update(zip(chosen, read(columns), strict=True))
        for _ in range(most - len(ends)):  # with sharded weights a forward is a joint act
            read(rows.collated([pairs[order[0]][0]], self.layout.pad_id))
        out: Values = []
        for number, (_, held) in enumerate(pairs):
            places = rows.starts(len(held[0].prompt), [len(r.completion) for r in held])
            for record, place in zip(held, places, strict=True):
                out.append(read_BR[number][place : place + len(record.completion)].astype(np.float64))
        return out


def _placed(values: np.ndarray, mask_T: np.ndarray) -> np.ndarray:
    out = np.zeros(len(mask_T))
    out[mask_T] = values
    return out
