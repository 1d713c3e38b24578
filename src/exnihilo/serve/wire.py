"""Connections under limits: a request's head must come within a time and a size, or the connection is cut.

uvicorn bounds neither for its fast parser, so a client that opens connections and says nothing, or never ends
a header, would hold them for good. The body has limits of its own in gate.py.
"""

from __future__ import annotations

import asyncio
from typing import Any

HEAD = 64 << 10  # bytes


def protocol(seconds: float) -> Any:
    """The class that speaks HTTP for uvicorn.

    Args:
        seconds: for a head to come, from the connection's beginning or the request's first byte.

    Returns:
        a class on httptools; where that is not installed "h11", which is slower and bounds the size alone.
    """
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return "h11"

    class Bounded(HttpToolsProtocol):
        _reading, _size = True, 0  # whether a head is on its way, and how much of it came
        _alarm: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._rest()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._reading, self._size = True, 0
            self._watch()

        def on_headers_complete(self) -> None:
            self._reading = False
            self._rest()
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._size += len(data)
            if self._reading and self._size > HEAD:
                self.transport.abort()

        def _watch(self) -> None:
            if self._alarm is None:
                self._alarm = self.loop.call_later(seconds, self.transport.abort)

        def _rest(self) -> None:
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None

    return Bounded
