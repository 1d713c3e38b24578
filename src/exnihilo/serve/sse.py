"""Answers that take their time: server-sent events, and readers that leave before the end.

``stream(request, events, settings)`` sends a first event as soon as there is one: what fails before it has a
status of its own, what fails later is the last event. A reader that leaves is noticed while it waits, not at
the next write; one that does not read is cut after `Settings.write_timeout`.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response

from exnihilo.serve.errors import ApiError

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.types import Receive, Scope, Send

T = TypeVar("T")
DONE = b"data: [DONE]\n\n"


class Gone(ApiError):
    """The reader left; nobody sees this answer."""

    def __init__(self) -> None:
        super().__init__("the reader left", status=499)


def event(data: Mapping[str, Any]) -> bytes:
    """One event."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return b"data: " + text.encode() + b"\n\n"


async def until_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, unless the reader leaves first.

    Raises:
        Gone: it left; `work` was cancelled.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        for each in (task, gone):
            if not each.done():
                each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def stream(request: Request, events: AsyncGenerator[bytes, None], write_timeout: float) -> Response:
    """Events as an answer; waits for the first.

    Raises:
        ApiError: what went wrong before it.
    """
    try:
        first = await until_gone(request, anext(events))  # type: ignore[arg-type]
    except BaseException:
        await events.aclose()
        raise
    return Stream(first, events, write_timeout)


class Stream(Response):
    """Sends events; see `stream`.

    Args:
        first: that is there already.
        events: the rest; closed when the answer is over, however it ends.
        write_timeout: seconds that a reader may let an event wait.
    """

    media_type = "text/event-stream"

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None], write_timeout: float) -> None:
        super().__init__(b"", headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first, self._events, self._seconds = first, events, write_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.ensure_future(self._pump(send))
        gone = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not pump.done():
                scope.setdefault("state", {})["gone"] = True
        finally:
            for each in (pump, gone):
                if not each.done():
                    each.cancel()
            [failure, _] = await asyncio.gather(pump, gone, return_exceptions=True)
            await self._events.aclose()
        if isinstance(failure, TimeoutError):
            scope.setdefault("state", {})["gone"] = True
            _cut(scope)
        elif isinstance(failure, Exception):
            raise failure

    async def _pump(self, send: Send) -> None:
        await self._send(
            send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        await self._send(send, {"type": "http.response.body", "body": self._first, "more_body": True})
        try:
            async for data in self._events:
                await self._send(send, {"type": "http.response.body", "body": data, "more_body": True})
        except ApiError as error:
            data = event(error.body())
            await self._send(send, {"type": "http.response.body", "body": data, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: Any) -> None:
        async with asyncio.timeout(self._seconds):
            await send(message)


async def _left(receive: Receive) -> None:
    """Returns when the reader has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _cut(scope: Scope) -> None:
    """Close a connection whose reader does not read: what waits to be sent would keep it open."""
    kick = getattr(scope["app"].state, "kick", None)
    if kick is not None:
        kick(scope.get("client"))
