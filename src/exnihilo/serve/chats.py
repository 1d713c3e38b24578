"""Answers in a conversation, as OpenAI's chat completions tell of them, whole or as events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from exnihilo.serve import sse, tools
from exnihilo.serve.writing import aside, encoded, facts_of, fingerprint, told, usage

if TYPE_CHECKING:
    from exnihilo.serve.models import Served
    from exnihilo.serve.schemas import ChatRequest
    from exnihilo.serve.texts import Fact, Piece
    from exnihilo.serve.tickets import Job, Ticket


class _Answer:
    """One of the n answers as it grows."""

    def __init__(self, names: Sequence[str], whole: bool, most: int) -> None:
        self._reader, self._most = tools.Reader(names, whole=whole), most
        self.calls = 0
        self.text = ""
        self.begun = False

    def take(self, piece: Piece) -> list[str | tools.Call]:
        """What of it may be shown, in order."""
        parts = self._reader.push(piece.text)
        if piece.reason is not None:
            parts += self._reader.finish()
        shown: list[str | tools.Call] = []
        for part in parts:
            if isinstance(part, tools.Call):
                if self.calls >= self._most:
                    continue
                self.calls += 1
            elif self.calls and not part.strip():
                continue  # line breaks between calls
            shown.append(part)
        return shown

    def reason(self, piece: Piece) -> str | None:
        """Why it ended."""
        return "tool_calls" if piece.reason == "stop" and self.calls else piece.reason


class Chats:
    """One request's answers.

    Args:
        served: the model. asked: the request. job: what was made of it.
    """

    def __init__(self, served: Served, asked: ChatRequest, job: Job) -> None:
        self._served, self._asked, self._job = served, asked, job
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        names = [tool.function.name for tool in tools.offered(asked)]
        most = 1 if asked.parallel_tool_calls is False else 128
        whole = tools.forced(asked) is not None
        self._answers = [_Answer(names, whole, most) for _ in range(job.texts)]

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id, "object": kind, "created": self._created, "model": self._served.name,
            "system_fingerprint": fingerprint(self._served),
        }  # fmt: skip

    async def whole(self, ticket: Ticket) -> bytes:
        """The answer at once, as JSON."""
        texts: list[list[str]] = [[] for _ in self._answers]
        calls: list[list[dict[str, Any]]] = [[] for _ in self._answers]
        facts: list[list[Fact]] = [[] for _ in self._answers]
        reasons: list[str | None] = [None] * len(texts)
        async with aclosing(ticket.pieces()) as pieces:
            async for piece in pieces:
                i, answer = piece.index, self._answers[piece.index]
                for part in answer.take(piece):
                    if isinstance(part, str):
                        texts[i].append(part)
                    else:
                        calls[i].append(part.shown())
                facts[i] += piece.facts
                reasons[i] = answer.reason(piece)

        def built() -> bytes:
            choices = []
            for i, parts in enumerate(texts):
                content = "".join(parts)
                message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
                if calls[i]:
                    message |= {"content": content.strip() or None, "tool_calls": calls[i]}
                logprobs, reason = self._logprobs(facts[i]), reasons[i]
                choices.append(
                    {"index": i, "message": message, "logprobs": logprobs, "finish_reason": reason}
                )
            counts = usage(self._job, ticket.made_tokens)
            return encoded({**self._head("chat.completion"), "choices": choices, "usage": counts})

        return await aside(told(facts), built)

    async def events(self, ticket: Ticket) -> AsyncGenerator[bytes, None]:
        """The answer as it grows."""
        options = self._asked.stream_options
        counted = options is not None and bool(options.include_usage)
        head = self._head("chat.completion.chunk") | ({"usage": None} if counted else {})
        async with aclosing(ticket.pieces()) as pieces:
            async for piece in pieces:
                for delta, last in self._deltas(piece):
                    choice = {
                        "index": piece.index, "delta": delta,
                        "logprobs": self._logprobs(piece.facts) if last else None,
                        "finish_reason": self._answers[piece.index].reason(piece) if last else None,
                    }  # fmt: skip
                    yield sse.event({**head, "choices": [choice]})
        if counted:
            yield sse.event({**head, "choices": [], "usage": usage(self._job, ticket.made_tokens)})
        yield sse.DONE

    def _deltas(self, piece: Piece) -> list[tuple[dict[str, Any], bool]]:
        """(delta, whether it is the piece's last): the last carries log-probabilities and the reason."""
        answer = self._answers[piece.index]
        out: list[dict[str, Any]] = []
        for part in answer.take(piece):
            if isinstance(part, str):
                out.append({"content": part})
            else:
                number = answer.calls - 1
                out.append({"tool_calls": [part.shown(number)]})
        if not out and (piece.reason is not None or piece.facts):
            out.append({})
        if out and not answer.begun:
            answer.begun = True
            if "content" in out[0] or not out[0]:
                out[0] = {"role": "assistant", "content": "", **out[0]}
            else:
                out.insert(0, {"role": "assistant", "content": None})
        return [(delta, n == len(out) - 1) for n, delta in enumerate(out)]

    def _logprobs(self, facts: list[Fact]) -> dict[str, Any] | None:
        if not self._asked.logprobs:
            return None
        return {"content": facts_of(self._served.codec, facts), "refusal": None}
