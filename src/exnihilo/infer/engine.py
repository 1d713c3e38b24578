"""Many texts at once, each at its own place: continuous batching.

For batches of requests, evaluation and RL::

    engine = Engine(model, slots=64, eos={2})
    requests = [Request(ids, max_new_tokens=32, n=8, number=8 * i) for i, ids in enumerate(prompts)]
    completions = engine.run(requests)      # of each request its eight
    engine.refresh()             # the model was trained meanwhile

For a server, one token a text at a time; requests come and go between steps::

    handle = engine.add(Request(ids))
    for token in engine.step():  # token.handle, token.id, token.reason
        ...
    engine.cancel(handle)        # its slots are free at once

Each text has a slot of the key-value cache. A prompt is read once for all of its n completions, in chunks
beside the texts that are being continued; what a slot already holds of a new prompt, from earlier requests
too, is copied instead of read. A finished text's slot goes to the next one in the queue at once. What a text
says depends on its own request alone: not on slots, order, chunks or neighbours.

References: continuous batching, Yu et al. 2022 (Orca); chunked prefill, Agrawal et al. 2023
(arXiv:2308.16369); prefix sharing, Zheng et al. 2023 (SGLang, arXiv:2312.07104).

Key: S slots, W rows of logits, N places of a prompt, V vocabulary
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from exnihilo.errors import UsageError
from exnihilo.infer.board import Board
from exnihilo.infer.request import Completion, Reason, Request, Scored, Token
from exnihilo.infer.speculate import speculator
from exnihilo.infer.step import Step, choose

if TYPE_CHECKING:
    from exnihilo.model.model import Model

_LEAST_SHARED = 4  # places: fewer are read again rather than looked up


@dataclass(eq=False)
class _Job:
    """A request, and which of its completions still wait for a slot."""

    handle: int
    request: Request
    waiting: list[int]  # completions that have no slot yet
    live: set[int] = field(default_factory=set)  # slots
    done: int = 0
    scored: list[Scored] = field(default_factory=list)  # ids of the prompt so far, where they are told of

    @property
    def unscored(self) -> bool:
        """Whether the prompt must still be read for the sake of its own ids."""
        return self.request.scored and len(self.scored) < len(self.request.ids)


@dataclass
class _Seat:
    """What sits in a slot."""

    job: _Job
    index: int
    unread: int = 0  # the first place of the prompt that is not in the cache yet
    followers: list[int] = field(default_factory=list)  # slots that wait for this one's prompt
    reads: bool = False  # its prompt is being read, by itself


class Engine:
    """Continues texts with one model.

    Args:
        model: a decoder. Its weights are read at construction and at `refresh`.
        slots: texts at a time.
        eos: ids that end a text, beside each request's own.
        threads: of the CPU; None: what is measured to be fastest.
        weights: "float32" as the model has them, or "int8": a quarter of the memory traffic, rounded (blocks
            of 32, each with its scale), so results differ slightly; on CPUs only.
        chunk: tokens of prompts that are read beside each step.
        path: how a step is computed: "native" (native.c, decoders in float32 on a CPU), "torch" (the model
            itself), or "auto", the fastest that applies.
        step: an implementation of one's own instead (`step.Step`), made for so many slots; `threads`,
            `weights` and `path` then say nothing.
        speculate: "lookup" guesses that a text goes on as it did before after the same few tokens; a smaller
            model with the same vocabulary writes drafts. What they guess is checked in one forward, and a
            token that was not guessed is drawn as always: texts are the same, sampled ones too. Used while
            it is measured to be faster.
        draft_tokens: guessed at once, at most.

    Attributes:
        path: how a step is computed, in words.

    Raises:
        UsageError: a model or a value that cannot be obeyed.
    """

    def __init__(
        self,
        model: Model,
        *,
        slots: int = 64,
        eos: Collection[int] = frozenset(),
        threads: int | None = None,
        weights: Literal["float32", "int8"] = "float32",
        chunk: int = 256,
        path: Literal["auto", "native", "torch"] = "auto",
        step: Step | None = None,
        speculate: Literal["off", "lookup"] | Model = "off",
        draft_tokens: int = 5,
    ) -> None:
        for name, value in (
            ("slots", slots),
            ("chunk", chunk),
            ("threads", 1 if threads is None else threads),
            ("draft_tokens", draft_tokens),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(
                    f"{name}={value!r}", expected="a whole number, 1 or above", next=f"{name}=32"
                )
        self._context, vocabulary = model.config.context, model.config.vocab_size
        assert vocabulary is not None, "a built model knows its vocabulary"
        self._vocabulary, self._eos, self._chunk = vocabulary, frozenset(eos), chunk
        self._model: Model | None = model  # `refresh` reads it again
        self._step = step or choose(model, slots, threads, weights, path)
        self._board = Board(slots, vocabulary)
        self._drafts = speculator(speculate, draft_tokens, model, slots, threads)
        self._free: deque[int] = deque(range(slots))
        self._seats: dict[int, _Seat] = {}
        self._held: list[list[int]] = [[] for _ in range(slots)]  # ids whose keys and values a slot holds
        self._queue: deque[_Job] = deque()
        self._jobs: dict[int, _Job] = {}
        self._next_handle = 0

    @property
    def path(self) -> str:
        return self._step.name

    @property
    def native(self) -> bool:
        """Whether steps are computed by native.c, to the last bit alike whatever shares them."""
        return self._step.exact

    def clear(self) -> None:
        """Cancel all requests."""
        for handle in list(self._jobs):
            self.cancel(handle)

    def let_go(self) -> None:
        """Keep the model alive no longer: it is somebody else's, and `refresh` will not be asked for."""
        self._model = None

    @property
    def drafts(self) -> tuple[int, int]:
        """Tokens that were drafted so far, and how many of them were right; (0, 0) without speculation."""
        return (0, 0) if self._drafts is None else (self._drafts.drafted, self._drafts.right)

    @property
    def slots(self) -> int:
        return self._board.slots

    @property
    def active(self) -> int:
        """Texts that have a slot."""
        return len(self._seats)

    @property
    def waiting(self) -> int:
        """Texts that have none yet."""
        return sum(len(job.waiting) for job in self._queue)

    def refresh(self) -> None:
        """The model's weights have changed: read them again, and forget what was computed with the old ones.

        Raises:
            UsageError: texts are in the middle.
        """
        if self._jobs:
            raise UsageError(
                f"refresh() with {len(self._jobs)} requests unfinished",
                expected="none",
                next="run or cancel them",
            )
        self._step.refresh()
        if self._drafts is not None:
            self._drafts.refresh()
        self._held = [[] for _ in self._held]

    def add(self, request: Request) -> int:
        """Put a request in the queue; returns its handle."""
        self._check(request)
        handle = self._next_handle
        self._next_handle += 1
        job = self._jobs[handle] = _Job(handle, request, list(range(request.n)))
        self._queue.append(job)
        return handle

    def _check(self, request: Request) -> None:
        request.check(self._vocabulary, self._context)
        if request.constraint is not None:
            state = request.constraint.start()
            begins = set(np.flatnonzero(state.allowed()).tolist()) - self._eos - request.stop_ids
            if not begins and not state.accepting:
                raise UsageError(
                    "a constraint under which no text can begin", next="another one, or other stop ids"
                )

    def cancel(self, handle: int, index: int | None = None) -> None:
        """End a request, or one of its completions, without another token. Unknown handles are of requests
        that are over: nothing happens."""
        job = self._jobs.get(handle)
        if job is None:
            return
        job.waiting = [i for i in job.waiting if index is not None and i != index]
        for slot in [s for s in job.live if index is None or self._seats[s].index == index]:
            self._leave(slot)
        if not job.waiting:
            if job in self._queue:
                self._queue.remove(job)
            if not job.live:
                self._jobs.pop(handle, None)

    def step(self) -> list[Token]:
        """One token more for each text that is ready, or several where drafts were right; empty where there
        is nothing to do, or only prompts were read."""
        tokens: list[Token] = []
        for slot, seat, reason, count in self._advance(1):
            board, made = self._board, int(self._board.made_S[slot])
            for at in range(made - count, made):
                tokens.append(
                    Token(
                        seat.job.handle,
                        seat.index,
                        int(board.ids_SN[slot, at]),
                        float(board.warm_SN[slot, at]),
                        float(board.processed_SN[slot, at]),
                        float(board.raw_SN[slot, at]),
                        reason if at == made - 1 else None,
                        board.tops[slot][at] if board.top[slot] else (),
                        tuple(seat.job.scored) if at == 0 else (),
                    )
                )
        return tokens

    def run(
        self, requests: Sequence[Request], progress: Callable[[int, int], None] | None = None
    ) -> list[list[Completion]]:
        """Continue all of these; returns each request's n completions, in order.

        Args:
            requests: any number; those that find no slot wait.
            progress: called with (completions done, all) whenever some are done.

        Raises:
            UsageError: a request that cannot be obeyed (nothing was run then), or requests of `add` that are
                not over.
        """
        if self._jobs:
            raise UsageError(
                f"run() with {len(self._jobs)} requests unfinished",
                expected="none",
                next="step() until they are over",
            )
        for request in requests:
            self._check(request)
        first, total, done = self._next_handle, sum(r.n for r in requests), 0
        out: list[list[Completion | None]] = [[None] * r.n for r in requests]
        for request in requests:
            self.add(request)
        try:
            while self._jobs:
                before = done
                for slot, seat, reason, _ in self._advance(1 << 30, ended=True):
                    if reason is not None:
                        found = self._completion(slot, reason, tuple(seat.job.scored))
                        out[seat.job.handle - first][seat.index] = found
                        done += 1
                if progress is not None and done > before:
                    progress(done, total)
        finally:
            self.clear()
        return [[c for c in row if c is not None] for row in out]

    def _completion(self, slot: int, reason: Reason, prompt: tuple[Scored, ...]) -> Completion:
        board, n = self._board, int(self._board.made_S[slot])
        return Completion(
            board.ids_SN[slot, :n].tolist(),
            board.warm_SN[slot, :n].tolist(),
            board.processed_SN[slot, :n].tolist(),
            reason,
            board.raw_SN[slot, :n].tolist(),
            list(board.tops[slot]),
            prompt,
        )

    def _advance(self, most: int, ended: bool = False) -> list[tuple[int, _Seat, Reason | None, int]]:
        """Read prompts and draw tokens, up to `most` a text or until one ends. What has moved: (slot, seat,
        reason, how many); with `ended` only texts that are over. Their slots are free already, and what the
        board holds of them is valid until the next call."""
        self._admit()
        before_S = self._board.made_S.copy()
        reading = [s for s, seat in self._seats.items() if seat.reads]
        live = [s for s, seat in self._seats.items() if not seat.reads and self._board.made_S[s] > 0]
        if reading:
            moved = self._mixed(reading, live)
        elif live:
            moved = live
            if self._drafts is None:
                self._step.decode(self._board, live, most)
            else:
                self._drafts.advance(self._step, self._board, live, most)
        else:
            return []
        out: list[tuple[int, _Seat, Reason | None, int]] = []
        if moved:
            flags = self._board.ended(np.asarray(moved))
            for slot, over in zip(moved, flags.tolist(), strict=True):
                if over or not ended:
                    count = int(self._board.made_S[slot] - before_S[slot])
                    out.append((slot, self._seats[slot], self._board.reason(slot) if over else None, count))
            for slot, _, reason, _ in out:
                if reason is not None:
                    self._leave(slot)
        return out

    def _mixed(self, reading: list[int], live: list[int]) -> list[int]:
        """One forward of everybody's next token and of chunks of prompts; returns the slots that drew."""
        board = self._board
        tokens: list[int] = board.last_S[live].tolist() if live else []
        places: list[int] = board.place_S[live].tolist() if live else []
        slots, wanted, drawn, rows = list(live), list(range(len(live))), list(live), list(range(len(live)))
        room, scoring = self._chunk, []
        for slot in reading:
            if room <= 0:
                break
            seat = self._seats[slot]
            ids = seat.job.request.ids
            part = ids[seat.unread : seat.unread + room]
            if seat.job.unscored:
                told = range(seat.unread, min(seat.unread + len(part), len(ids) - 1))  # what follows is known
                scoring.append((seat.job, len(wanted), told))
                wanted += range(len(tokens), len(tokens) + len(told))
            tokens += [int(i) for i in part]
            places += range(seat.unread, seat.unread + len(part))
            slots += [slot] * len(part)
            self._held[slot] += [int(i) for i in part]
            room -= len(part)
            seat.unread += len(part)
            if seat.unread == len(ids):
                members = [slot, *seat.followers]
                drawn += members
                rows += [len(wanted)] * len(members)
                wanted.append(len(tokens) - 1)
        logits_WV = self._step.forward(tokens, slots, places, wanted)
        for job, row, told in scoring:
            _score(job, logits_WV[row : row + len(told)], told)
        for slot in reading:
            seat = self._seats[slot]
            if seat.unread == len(seat.job.request.ids):
                seat.reads = False
                if seat.followers:
                    self._share(slot, seat.followers, seat.unread)
                    seat.followers = []
        if drawn:
            self._step.draw(board, drawn, logits_WV, rows)
        return drawn

    def _share(self, source: int, targets: list[int], length: int) -> None:
        self._step.copy(source, targets, length)
        for slot in targets:
            self._held[slot] = self._held[source][:length]

    def _admit(self) -> None:
        """Give free slots to those who wait longest."""
        while self._free and self._queue:
            job = self._queue[0]
            if job.unscored:
                if job.live:  # its prompt is being read: one reader tells of it
                    break
                job.scored.clear()
            request = job.request
            count = min(len(self._free), len(job.waiting))
            slot, source, shared = (self._free[0], -1, 0) if job.unscored else self._find(request.ids)
            self._free.remove(slot)
            members = [slot, *(self._free.popleft() for _ in range(count - 1))]
            limit = min(request.max_new_tokens, self._context - len(request.ids))
            stops = self._eos | request.stop_ids
            for s, index in zip(members, job.waiting, strict=False):
                self._seats[s] = _Seat(job, index)
                self._board.seat(s, request, index, limit, stops)
                if self._drafts is not None:
                    self._drafts.seat(s, request, index, limit, stops)
            job.live |= set(members)
            del job.waiting[:count]
            if not job.waiting:
                self._queue.popleft()
            leader = self._seats[slot]
            leader.reads, leader.followers = True, members[1:]
            if shared and source != slot:
                self._share(source, [slot], shared)
            leader.unread = shared
            del self._held[slot][shared:]

    def _find(self, ids: Sequence[int]) -> tuple[int, int, int]:
        """(free slot to take, slot whose first places to take over, how many of them)."""
        best, source = 0, -1
        for slot, held in enumerate(self._held):
            if len(held) > best and held[0] == ids[0]:
                same = _common(held, ids)
                if same > best or (same == best and slot in self._free):
                    best, source = same, slot
        best = min(best, len(ids) - 1)  # the last id must be read: its logits are wanted
        if best < _LEAST_SHARED:
            return self._free[0], -1, 0
        return (source if source in self._free else self._free[0]), source, best

    def _leave(self, slot: int) -> None:
        """A text is over: its slot is free, and remembers what it holds."""
        seat = self._seats.pop(slot)
        board = self._board
        if seat.reads or board.made_S[slot] == 0:
            self._orphans(seat)
        else:
            said = board.ids_SN[slot, : max(0, int(board.made_S[slot]) - 1)].tolist()
            self._held[slot] = [*(int(i) for i in seat.job.request.ids), *said]
        self._free.append(slot)
        job = seat.job
        job.live.discard(slot)
        if not job.live and not job.waiting:
            self._jobs.pop(job.handle, None)

    def _orphans(self, seat: _Seat) -> None:
        """A text left before its prompt was read: those who waited for it read on their own."""
        for slot, other in self._seats.items():
            if seat.followers and slot == seat.followers[0]:
                other.reads, other.unread, other.followers = True, 0, seat.followers[1:]
                other.job.scored.clear()
                self._held[slot] = []
        for other in self._seats.values():
            other.followers = [s for s in other.followers if s in self._seats]


def _score(job: _Job, logits_NV: Tensor, places: range) -> None:
    """Tell of the prompt's ids that follow these places, whose logits these are."""
    ids, top = job.request.ids, job.request.top
    if not job.scored:
        job.scored.append(Scored(int(ids[0]), None))
    if not len(places):
        return
    logits_NV = logits_NV.detach().float()
    whole_N = logits_NV.logsumexp(-1)
    next_N = torch.tensor([int(ids[at + 1]) for at in places], device=logits_NV.device)
    raw = (logits_NV.gather(1, next_N[:, None])[:, 0] - whole_N).tolist()
    tops: list[tuple[tuple[int, float], ...]] = [()] * len(places)
    if top:
        best = logits_NV.topk(top)
        chances = (best.values - whole_N[:, None]).tolist()
        tops = [tuple(zip(i, c, strict=True)) for i, c in zip(best.indices.tolist(), chances, strict=True)]
    job.scored += [Scored(int(i), p, t) for i, p, t in zip(next_N.tolist(), raw, tops, strict=True)]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning: whole slices are compared, which is far quicker than id by id."""
    a, b = (list(x) if not isinstance(x, list) else x for x in (a, b))
    low, high = 0, min(len(a), len(b))  # equal below low
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
