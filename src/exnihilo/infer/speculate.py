"""Speculative decoding: several tokens are guessed cheaply, and the model checks them in one forward.

::

    Engine(model, speculate="lookup")       # the text goes on as it did before after the same tokens
    Engine(model, speculate=small_model)    # a smaller model with the same vocabulary writes drafts

A forward of a few tokens takes hardly longer than one of a single token where reading the weights is what
takes time. After it each token is drawn as always, from the model's own distribution with the number that
belongs to its step, for as long as the draws are what was guessed. So nothing depends on the guesses but the
time: greedy and sampled texts are those without speculation, token for token, under penalties, constraints
and stop ids too.

That is the rejection scheme of the papers below with the randomness shared: a guess is kept exactly where the
model's own draw is the guess. The draft model draws with the same numbers, so that similar distributions
give equal tokens. Road not taken: accepting with probability min(1, p/q), which keeps more guesses of a model
whose distribution differs, but gives another text for each way of guessing, so that a seed names none.

Whether it pays depends on the machine, the model and the text. So time is taken with and without, in turns,
and the faster of both is used (`Trial`).

References: Leviathan et al. 2023 (arXiv:2211.17192); Chen et al. 2023 (arXiv:2302.01318); prompt lookup,
Saxena 2023; coupled draws, Daliri et al. 2025 (arXiv:2408.07978).

Key: S slots, R tokens of a forward, V vocabulary
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from exnihilo.errors import UsageError
from exnihilo.infer.board import Board
from exnihilo.infer.request import Request
from exnihilo.infer.step import Step, choose

if TYPE_CHECKING:
    from exnihilo.model.model import Model

_PLAIN = 16  # steps without guesses, at most, before the trial is asked again
_LONG, _SHORT = 4, 2  # tokens that a lookup must find again
_CHUNK = 256  # tokens of a prompt that a draft model reads at once


class Guess(Protocol):
    """Who guesses."""

    def seat(self, slot: int, request: Request, index: int, limit: int, stops: frozenset[int]) -> None:
        """A completion takes a slot."""
        ...

    def guess(self, board: Board, slots: Sequence[int], most: Sequence[int]) -> list[list[int]]:
        """What each slot's text may go on with after its last token, `most` tokens at most."""
        ...

    def refresh(self) -> None:
        """Weights have changed."""
        ...


class Lookup:
    """Guesses from the text itself: what came after the last few tokens when they stood there before."""

    def __init__(self, slots: int) -> None:
        self._texts: list[list[int]] = [[] for _ in range(slots)]
        self._prompt = [0] * slots
        self._ends: list[dict[tuple[int, ...], int]] = [{} for _ in range(slots)]

    def seat(self, slot: int, request: Request, index: int, limit: int, stops: frozenset[int]) -> None:
        """See `Guess`."""
        self._texts[slot], self._ends[slot] = [], {}
        self._prompt[slot] = len(request.ids)
        self._extend(slot, request.ids)

    def _extend(self, slot: int, ids: Sequence[int]) -> None:
        """Add to the text; note where each run of tokens was followed by something, the latest last."""
        text, ends = self._texts[slot], self._ends[slot]
        for i in ids:
            for n in range(_SHORT, _LONG + 1):
                if len(text) >= n:
                    ends[tuple(text[-n:])] = len(text)
            text.append(int(i))

    def guess(self, board: Board, slots: Sequence[int], most: Sequence[int]) -> list[list[int]]:
        """See `Guess`."""
        out: list[list[int]] = []
        for slot, count in zip(slots, most, strict=True):
            text = self._texts[slot]
            known, made = len(text) - self._prompt[slot], int(board.made_S[slot])
            self._extend(slot, board.ids_SN[slot, known:made].tolist())
            found: list[int] = []
            for n in range(_LONG, _SHORT - 1, -1):
                at = self._ends[slot].get(tuple(text[-n:])) if len(text) >= n else None
                if at is not None:
                    for i in range(count):  # a guess may go on into itself: repetitions
                        found.append(text[at + i] if at + i < len(text) else found[at + i - len(text)])
                    break
            out.append(found)
        return out

    def refresh(self) -> None:
        """See `Guess`."""


class Draft:
    """Guesses with a smaller model, which reads along."""

    def __init__(self, step: Step, slots: int, vocabulary: int, context: int) -> None:
        self._step, self._context = step, context
        self._board = Board(slots, vocabulary)
        self._read = [0] * slots  # places that the draft model has read of the text that is there

    def seat(self, slot: int, request: Request, index: int, limit: int, stops: frozenset[int]) -> None:
        """See `Guess`."""
        free = request if request.constraint is None and not request.top else _free(request)
        self._board.seat(slot, free, index, limit, stops)
        self._read[slot] = 0

    def guess(self, board: Board, slots: Sequence[int], most: Sequence[int]) -> list[list[int]]:
        """See `Guess`: it reads what it has not read yet, then writes on."""
        own = self._board
        room = [
            min(n, self._context - 1 - int(board.place_S[s]), int(own.limit_S[s] - board.made_S[s]))
            for s, n in zip(slots, most, strict=True)
        ]
        able = [s for s, n in zip(slots, room, strict=True) if n > 0]
        if not able:
            return [[] for _ in slots]
        for slot in able:
            made, length = int(board.made_S[slot]), int(board.length_S[slot])
            own.ids_SN[slot, :made] = board.ids_SN[slot, :made]
            own.made_S[slot], own.last_S[slot] = made, board.last_S[slot]
            own.place_S[slot] = length + made - 1
        self._catch_up(able)
        wanted = max(room)
        before = {s: int(own.made_S[s]) for s in able}
        live = list(able)
        done = 0
        while live and done < wanted:
            done += self._step.decode(own, live, wanted - done)
            over = own.ended(np.asarray(live)).tolist()
            live = [
                s
                for s, end in zip(live, over, strict=True)
                if not end and int(own.place_S[s]) < self._context - 1
            ]
        out: list[list[int]] = []
        for slot, n in zip(slots, room, strict=True):
            start = before.get(slot, 0)
            drawn = own.ids_SN[slot, start : int(own.made_S[slot])].tolist() if n > 0 else []
            out.append(drawn[: max(n, 0)])
            if n > 0:  # the last one drawn was not read
                self._read[slot] = int(board.place_S[slot]) + max(1, len(drawn))
        return out

    def _catch_up(self, slots: Sequence[int]) -> None:
        """Read all but the last token of these texts."""
        for slot in slots:
            length, place = int(self._board.length_S[slot]), int(self._board.place_S[slot])
            read = self._read[slot]
            if read >= place:
                continue
            prompt = [int(i) for i in self._board.prompts[slot][read:]]
            said = self._board.ids_SN[slot, max(0, read - length) : place - length].tolist()
            ids = [*prompt, *said]
            for at in range(0, len(ids), _CHUNK):
                part = ids[at : at + _CHUNK]
                places = range(read + at, read + at + len(part))
                self._step.forward(part, [slot] * len(part), places, [])

    def settle(self, slot: int, place: int) -> None:
        """The slot's text is certain up to this place, the last token excluded: beyond it was misread."""
        self._read[slot] = min(self._read[slot], place)

    def refresh(self) -> None:
        """See `Guess`."""
        self._step.refresh()
        self._read = [0] * len(self._read)


def _free(request: Request) -> Request:
    """The request as a draft model may see it: nobody looks at its logits, and the model's draws decide what
    is allowed."""
    return replace(request, constraint=None, top=0)


class Trial:
    """Which of two ways is faster, by taking time: each in turn at first, then the faster one, the other one
    again now and then.

    >>> trial = Trial(clock=iter([0.0, 1.0, 1.0, 5.0]).__next__, window=1)
    >>> for _ in range(2):
    ...     way = trial.begin()
    ...     trial.end(tokens=1)
    >>> trial.begin()
    True
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter, window: int = 8) -> None:
        self._clock, self._window = clock, window
        self._seconds = {True: 0.0, False: 0.0}
        self._tokens = {True: 0, False: 0}
        self._way, self._left, self._rest = True, window, 0
        self._begun = 0.0
        self._rounds = 0

    def begin(self) -> bool:
        """Whether to guess in this step."""
        if self._left <= 0:
            self._turn()
        self._begun = self._clock() if self._left <= self._window else 0.0
        return self._way

    def end(self, tokens: int) -> None:
        """The step is over, and gave so many tokens."""
        if self._left <= self._window:
            self._seconds[self._way] += self._clock() - self._begun
            self._tokens[self._way] += tokens
        self._left -= 1

    def _turn(self) -> None:
        self._rounds += 1
        if self._rounds % 2:  # the other one
            self._way, self._left = not self._way, self._window
            return
        paces = {way: self._tokens[way] / max(self._seconds[way], 1e-9) for way in (True, False)}
        self._way = paces[True] > paces[False]
        self._left = 32 * self._window
        for way in (True, False):  # what was measured long ago counts less
            self._seconds[way] /= 2
            self._tokens[way] //= 2


class Speculator:
    """Guesses, checks, and keeps account.

    Attributes:
        drafted: tokens guessed so far. right: those that the model drew, too.
    """

    def __init__(self, guess: Guess, most: int, slots: int, trial: Trial | None = None) -> None:
        self._guess, self._most, self._trial = guess, most, trial or Trial()
        self._lengths = [most] * slots
        self.drafted = self.right = 0
        self.seat, self.refresh = guess.seat, guess.refresh

    def advance(self, step: Step, board: Board, live: Sequence[int], most: int) -> None:
        """Draw at least one token for each live slot, with guesses or without, at most about `most`."""
        before = int(board.made_S.sum())
        if self._trial.begin():
            left = board.limit_S[list(live)] - board.made_S[list(live)] - 1
            room = [min(self._lengths[s], int(n)) for s, n in zip(live, left, strict=True)]
            guesses = self._guess.guess(board, live, room)
            if any(guesses):
                self._check(step, board, live, guesses)
            else:
                step.decode(board, live, 1)
        else:
            step.decode(board, live, min(most, _PLAIN))
        self._trial.end(int(board.made_S.sum()) - before)

    def _check(self, step: Step, board: Board, live: Sequence[int], guesses: Sequence[list[int]]) -> None:
        """One forward of last tokens and guesses; draws, as long as they are what was guessed."""
        tokens: list[int] = []
        slots: list[int] = []
        places: list[int] = []
        first: dict[int, int] = {}
        for slot, guess in zip(live, guesses, strict=True):
            place = int(board.place_S[slot])
            first[slot] = len(tokens)
            tokens += [int(board.last_S[slot]), *guess]
            slots += [slot] * (len(guess) + 1)
            places += range(place, place + len(guess) + 1)
        logits_WV = step.forward(tokens, slots, places, range(len(tokens)))
        going = dict(zip(live, guesses, strict=True))
        kept = dict.fromkeys(live, 0)
        for j in range(max(map(len, guesses)) + 1):
            at = list(going)
            step.draw(board, at, logits_WV, [first[s] + j for s in at])
            over = board.ended(np.asarray(at)).tolist()
            for slot, end in zip(at, over, strict=True):
                guess = going[slot]
                hit = j < len(guess) and int(board.last_S[slot]) == guess[j]
                kept[slot] += hit
                if end or not hit:
                    del going[slot]
            if not going:
                break
        for slot, guess in zip(live, guesses, strict=True):
            self.drafted += len(guess)
            self.right += kept[slot]
            if guess:
                whole = kept[slot] == len(guess)
                self._lengths[slot] = min(self._most, len(guess) + 2) if whole else max(1, kept[slot] + 1)
            if isinstance(self._guess, Draft):
                self._guess.settle(slot, int(board.place_S[slot]))


def speculator(
    how: str | Model, most: int, model: Model, slots: int, threads: int | None
) -> Speculator | None:
    """What `Engine` was asked for.

    Raises:
        UsageError: an unknown way, or a draft model that cannot draft for this one.
    """
    if isinstance(how, str):
        if how not in ("off", "lookup"):
            raise UsageError(
                f"speculate={how!r}", expected="off, lookup, or a model", next="speculate='lookup'"
            )
        return None if how == "off" else Speculator(Lookup(slots), most, slots)
    ours, theirs = model.config.vocab_size, how.config.vocab_size
    if ours != theirs:
        raise UsageError(
            f"a draft model with a vocabulary of {theirs} for one of {ours}",
            expected="the same tokenizer",
            next="train the draft model with codec=RUN of the large one",
        )
    assert theirs is not None, "a built model knows its vocabulary"
    step = choose(how, slots, threads, "float32", "auto")
    return Speculator(Draft(step, slots, theirs, how.config.context), most, slots)
