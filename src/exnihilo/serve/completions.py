"""Texts that go on with a prompt, as OpenAI's completions tell of them, whole or as events."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

from exnihilo.serve import sse
from exnihilo.serve.writing import aside, encoded, fingerprint, finite, token_text, told, usage

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.serve.models import Served
    from exnihilo.serve.schemas import CompletionRequest
    from exnihilo.serve.texts import Piece
    from exnihilo.serve.tickets import Job, Ticket


class _Told(NamedTuple):
    """A token as it is told of; `logprob` is None where nothing stands before it."""

    id: int
    logprob: float | None
    top: Sequence[tuple[int, float]]


class Completions:
    """One request's answers.

    Args:
        served: the model. asked: the request. job: what was made of it.
    """

    def __init__(self, served: Served, asked: CompletionRequest, job: Job) -> None:
        self._served, self._asked, self._job = served, asked, job
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()),
            "model": served.name, "system_fingerprint": fingerprint(served),
        }  # fmt: skip
        n = asked.n or 1
        before = [self._before(i // n) if asked.echo else "" for i in range(job.texts)]
        self._before_each = before
        self._none = asked.max_tokens == 0  # the drawn token is not shown
        # of each text: reads its tokens along, and the characters so far, for text_offset
        self._readers = [served.codec.streamer() for _ in before]
        self._at = [0] * len(before)
        self._texts_given = isinstance(asked.prompt, str) or isinstance(asked.prompt[0], str)

    def _before(self, number: int) -> str:
        """The prompt's text, where it is to stand before the answer."""
        prompt = self._asked.prompt
        if isinstance(prompt, str):
            return prompt
        part = prompt[number] if not prompt or not isinstance(prompt[0], int) else prompt
        return part if isinstance(part, str) else self._served.codec.decode(part)  # type: ignore[arg-type]

    async def whole(self, ticket: Ticket) -> bytes:
        """The answer at once, as JSON."""
        texts = list(self._before_each)
        facts: list[list[_Told]] = [[] for _ in texts]
        reasons: list[str | None] = [None] * len(texts)
        async with aclosing(ticket.pieces()) as pieces:
            async for piece in pieces:
                texts[piece.index] += "" if self._none else piece.text
                facts[piece.index] += self._facts(piece)
                reasons[piece.index] = piece.reason

        def built() -> bytes:
            choices = [
                {
                    "index": i,
                    "text": text,
                    "logprobs": self._logprobs(i, facts[i]),
                    "finish_reason": "length" if self._none else reasons[i],
                }
                for i, text in enumerate(texts)
            ]
            return encoded({**self._head, "choices": choices, "usage": self._usage(ticket)})

        return await aside(told(facts), built)

    async def events(self, ticket: Ticket) -> AsyncGenerator[bytes, None]:
        """The answer as it grows."""
        options = self._asked.stream_options
        counted = options is not None and bool(options.include_usage)
        more = {"usage": None} if counted else {}
        begun: set[int] = set()
        async with aclosing(ticket.pieces()) as pieces:
            async for piece in pieces:
                if not (piece.text or piece.facts or piece.prompt or piece.reason):
                    continue
                facts = self._facts(piece)
                made = functools.partial(self._choice, piece, facts, begun)
                choice = await aside(told([facts]), made)
                yield sse.event({**self._head, "choices": [choice], **more})
        if counted:
            yield sse.event({**self._head, "choices": [], "usage": self._usage(ticket)})
        yield sse.DONE

    def _usage(self, ticket: Ticket) -> dict[str, int]:
        return usage(self._job, 0 if self._none else ticket.made_tokens)

    def _choice(self, piece: Piece, facts: list[_Told], begun: set[int]) -> dict[str, Any]:
        text = "" if self._none else piece.text
        if piece.index not in begun:
            begun.add(piece.index)
            text = self._before_each[piece.index] + text
        logprobs = self._logprobs(piece.index, facts)
        reason = "length" if self._none and piece.reason else piece.reason
        return {"index": piece.index, "text": text, "logprobs": logprobs, "finish_reason": reason}

    def _facts(self, piece: Piece) -> list[_Told]:
        """Tokens to tell of: the prompt's without the BOS that was put before a text, then the text's."""
        first = 1 if self._texts_given and piece.prompt else 0
        found = [_Told(s.id, s.raw, s.top) for s in piece.prompt[first:]]
        return found if self._none else found + [_Told(f.id, f.logprob, f.top) for f in piece.facts]

    def _logprobs(self, index: int, facts: list[_Told]) -> dict[str, Any] | None:
        if self._asked.logprobs is None:
            return None
        codec = self._served.codec
        offsets = []
        for fact in facts:
            offsets.append(self._at[index])
            self._at[index] += len(self._readers[index].push(fact.id)) if fact.id < codec.vocab_size else 0
        top = None
        if self._asked.logprobs:
            top = [_table(codec, fact) for fact in facts]
        return {
            "tokens": [token_text(codec, fact.id) for fact in facts],
            "token_logprobs": [None if fact.logprob is None else finite(fact.logprob) for fact in facts],
            "top_logprobs": top, "text_offset": offsets,
        }  # fmt: skip


def _table(codec: Codec, fact: _Told) -> dict[str, float | None] | None:
    """The likeliest tokens of a place; None where nothing stands before it."""
    if fact.logprob is None:
        return None
    return {token_text(codec, id): finite(logprob) for id, logprob in fact.top}
