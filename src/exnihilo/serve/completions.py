"""Texts that go on with a prompt, as OpenAI's completions tell of them, whole or as events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from exnihilo.serve import sse
from exnihilo.serve.writing import aside, encoded, fingerprint, finite, token_text, told, usage

if TYPE_CHECKING:
    from exnihilo.serve.models import Served
    from exnihilo.serve.schemas import CompletionRequest
    from exnihilo.serve.texts import Fact, Piece
    from exnihilo.serve.tickets import Job, Ticket


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
        self._at = [len(text) for text in before]  # characters so far, for text_offset

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
        facts: list[list[Fact]] = [[] for _ in texts]
        reasons: list[str | None] = [None] * len(texts)
        async with aclosing(ticket.pieces()) as pieces:
            async for piece in pieces:
                texts[piece.index] += piece.text
                facts[piece.index] += piece.facts
                reasons[piece.index] = piece.reason

        def built() -> bytes:
            choices = [
                {
                    "index": i,
                    "text": text,
                    "logprobs": self._logprobs(i, facts[i]),
                    "finish_reason": reasons[i],
                }
                for i, text in enumerate(texts)
            ]
            return encoded({**self._head, "choices": choices, "usage": usage(self._job, ticket.made_tokens)})

        return await aside(told(facts), built)

    async def events(self, ticket: Ticket) -> AsyncGenerator[bytes, None]:
        """The answer as it grows."""
        options = self._asked.stream_options
        counted = options is not None and bool(options.include_usage)
        more = {"usage": None} if counted else {}
        begun: set[int] = set()
        async with aclosing(ticket.pieces()) as pieces:
            async for piece in pieces:
                if not (piece.text or piece.facts or piece.reason):
                    continue
                yield sse.event({**self._head, "choices": [self._choice(piece, begun)], **more})
        if counted:
            yield sse.event({**self._head, "choices": [], "usage": usage(self._job, ticket.made_tokens)})
        yield sse.DONE

    def _choice(self, piece: Piece, begun: set[int]) -> dict[str, Any]:
        text = piece.text
        if piece.index not in begun:
            begun.add(piece.index)
            text = self._before_each[piece.index] + text
        logprobs = self._logprobs(piece.index, piece.facts)
        return {"index": piece.index, "text": text, "logprobs": logprobs, "finish_reason": piece.reason}

    def _logprobs(self, index: int, facts: list[Fact]) -> dict[str, Any] | None:
        if self._asked.logprobs is None:
            return None
        codec = self._served.codec
        tokens = [token_text(codec, fact.id) for fact in facts]
        offsets = []
        for text in tokens:
            offsets.append(self._at[index])
            self._at[index] += 0 if text.startswith("bytes:") else len(text)
        top = None
        if self._asked.logprobs:
            top = [{token_text(codec, id): finite(logprob) for id, logprob in fact.top} for fact in facts]
        return {
            "tokens": tokens, "token_logprobs": [finite(fact.logprob) for fact in facts],
            "top_logprobs": top, "text_offset": offsets,
        }  # fmt: skip
