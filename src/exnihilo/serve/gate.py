"""What every request passes before the application sees it: who asks, how large it is; and what is counted.

A plain ASGI layer. The body is read here, whole, under limits of size and time, so what stands behind never
meets half a body; an answer's status and time are counted when its last byte is out.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from exnihilo import log
from exnihilo.serve.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from exnihilo.serve.metrics import Metrics
    from exnihilo.serve.settings import Settings

_GUARDED = ("/v1/", "/metrics")  # what needs a key, where keys are set


class Gate:
    """See above.

    Args:
        app: what stands behind.
        settings: keys, hosts, limits.
        metrics: that count.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._keys = [key.encode() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope.setdefault("state", {})
        try:
            refusal = self._refusal(scope)
            whole = None if refusal is not None else await self._body(scope, receive)
            if isinstance(whole, ApiError):
                refusal = whole
            if refusal is not None:
                await refusal.response()(scope, receive, counted)
            elif isinstance(whole, bytes):
                await self._app(scope, _replay(whole, receive), counted)
            else:
                scope["state"]["gone"] = True
        finally:
            self._count(scope, status, time.monotonic() - began)

    def _refusal(self, scope: Scope) -> ApiError | None:
        """Why this request may not go on; None: it may."""
        headers = {name: value for name, value in scope["headers"]}
        allowed = self._settings.allowed_hosts
        if allowed:
            host = headers.get(b"host", b"").decode("latin-1")
            name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
            if name.lower() not in allowed:
                return ApiError(f"the host {host!r:.80} is not served here", status=403)
        if self._keys and scope["path"].startswith(_GUARDED) and scope["method"] != "OPTIONS":
            word, _, key = headers.get(b"authorization", b"").partition(b" ")
            good = [hmac.compare_digest(key.strip(), known) for known in self._keys]
            if word.lower() != b"bearer" or not any(good):
                text = (
                    "an API key is needed: Authorization: Bearer KEY" if not key else "the API key is wrong"
                )
                return ApiError(text, status=401, code="invalid_api_key")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._settings.body_bytes:
            return self._large(int(length[:20]))
        return None

    def _large(self, size: int) -> ApiError:
        most = self._settings.body_bytes
        return ApiError(f"the body has {size} bytes or more, at most {most} are read", status=413)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | ApiError | None:
        """The body; an error; None: the reader left."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.read_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    if size > self._settings.body_bytes:
                        return self._large(size)
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            seconds = self._settings.read_timeout
            return ApiError(f"the body did not come within {seconds:g} s", status=408)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        path = getattr(route, "path", None) or "other"  # a name of ours: paths that are made up are not kept
        gone = scope["state"].get("gone") or status in (0, 499)
        self._metrics.requests.labels(path, "gone" if gone else str(status)).inc()
        self._metrics.seconds.labels(path).observe(seconds)
        if gone:
            self._metrics.disconnects.labels(path).inc()
        if self._settings.log:
            user = scope["state"].get("user")
            who = f" user={log.safe(user)!r}" if user else ""
            ended = "reader left" if gone else status
            log.say(f"{scope['method']} {log.safe(scope['path'])} {ended} {1000 * seconds:.0f} ms{who}")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already; then what really comes: the reader's leaving."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again
