"""Runs the server: listens, obeys signals, and ends in good order.

SIGTERM and Ctrl-C: no new connections, requests there get `Settings.drain` seconds, what is left then is
ended with an error that says so; a second signal ends at once. SIGHUP: look for newer checkpoints now.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exnihilo import log
from exnihilo.errors import ExNihiloError, MissingExtra, UsageError
from exnihilo.serve.errors import ApiError
from exnihilo.serve.settings import Settings
from exnihilo.serve.wire import HEAD, protocol

if TYPE_CHECKING:
    from fastapi import FastAPI
    from uvicorn import Server

    from exnihilo.serve.models import Shelf

_LAST = 3.0  # seconds for errors to reach their readers
_SWITCH = (
    0.0005  # seconds between looks at who wants Python: the engine's thread must not wait 5 ms for the loop's
)


def serve(
    runs: Sequence[str | Path], settings: Settings, *, started: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Serve models until a signal ends it; returns how it ended.

    Args:
        runs: run folders, checkpoints, Hugging Face folders.
        settings: what to obey.
        started: is called with the address once requests are answered.

    Raises:
        MissingExtra: the extra ``serve`` is not installed.
        UsageError: the address cannot be listened on.
        ExNihiloError: a run cannot be loaded.
    """
    try:
        import uvicorn  # noqa: F401
    except ImportError:
        raise MissingExtra.of("uvicorn", "serve") from None
    from exnihilo.serve.app import create_app
    from exnihilo.serve.metrics import Metrics
    from exnihilo.serve.models import Shelf

    if not settings.local and not settings.api_keys:
        log.warn(f"{settings.host} can be reached by others, and no API key is asked for: see api_keys")
    shelf = Shelf.open(runs, settings, metrics=Metrics())
    app = create_app(shelf, settings)
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_listen(app, shelf, settings, started))
    finally:
        sys.setswitchinterval(before)
        shelf.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: it takes a third of the time a piece of an answer."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _listen(
    app: FastAPI, shelf: Shelf, settings: Settings, started: Callable[[str], None] | None
) -> dict[str, Any]:
    """Answer requests until told to end."""
    server = make_server(app, settings)
    listening = _bound(settings)
    address = _address(settings, listening.getsockname()[1])
    how: dict[str, Any] = {"address": address, "signal": None, "cut": 0}
    asked = asyncio.Event()
    _obey(server, shelf, asked, how)
    beside = [
        asyncio.create_task(_drain(server, shelf, settings, asked, how)),
        asyncio.create_task(_tell(server, address, started)),
    ]
    try:
        await server.serve([listening])
    finally:
        listening.close()
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    if not server.started:
        raise ExNihiloError("the server did not start", next="what it said above tells why")
    if asked.is_set():
        log.say(
            "ended; every request was finished"
            if not how["cut"]
            else f"ended; {how['cut']} requests were cut"
        )
    return how


def make_server(app: FastAPI, settings: Settings) -> Server:
    """uvicorn's server for an application; signals are obeyed here, not by its own handlers."""
    import uvicorn

    class Quiet(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        http=protocol(settings.read_timeout),
        ws="none",
        lifespan="on",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=None,  # requests are ended by `_drain`, with an error of their own
        server_header=False,
        h11_max_incomplete_event_size=HEAD,
    )
    server = Quiet(config)
    app.state.kick = _kicker(server)
    return server


def _bound(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        found = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # for whole answers that nobody reads; connections inherit it
            milliseconds = max(1, int(1000 * settings.write_timeout))
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        return found
    except OSError as error:
        raise UsageError(
            f"{settings.host}:{settings.port} cannot be listened on: {error.strerror or error}",
            expected="an address of this machine and a free port",
            next="port=0 takes any free one",
        ) from error


def _address(settings: Settings, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{port}"


async def _tell(server: Server, address: str, started: Callable[[str], None] | None) -> None:
    """Say where, once it answers."""
    while not server.started:
        await asyncio.sleep(0.01)
    if started is not None:
        started(address)


def _obey(server: Server, shelf: Shelf, asked: asyncio.Event, how: dict[str, Any]) -> None:
    """Handlers of signals, in the loop; none where this is not the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()

    def end(number: signal.Signals) -> None:
        if asked.is_set():
            server.force_exit = True
            return
        how["signal"] = number.name
        busy = sum(served.desk.active + served.desk.waiting for served in shelf.all())
        log.say(
            f"{number.name}: no new connections"
            + (f"; {busy} running texts are finished first" if busy else "")
        )
        shelf.draining = True
        server.should_exit = True
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)

    def look() -> None:
        looking = loop.run_in_executor(None, shelf.reload)
        looking.add_done_callback(_told)

    loop.add_signal_handler(signal.SIGHUP, look)


def _told(looking: asyncio.Future[list[str]]) -> None:
    if not looking.cancelled() and (error := looking.exception()) is not None:
        log.warn(f"looking for newer checkpoints failed: {error!r:.300}")
    elif not looking.cancelled() and not looking.result():
        log.say("no newer checkpoint")


async def _drain(
    server: Server, shelf: Shelf, settings: Settings, asked: asyncio.Event, how: dict[str, Any]
) -> None:
    """When told to end: let requests finish, then end them with an error, then without."""
    await asked.wait()
    await asyncio.sleep(settings.drain)
    down = f"the server went down before this was finished (after {settings.drain:g} s)"
    how["cut"] += shelf.abort(ApiError(down, status=503, code="shutting_down"))
    await asyncio.sleep(_LAST)
    server.force_exit = True


def _kicker(server: Server) -> Callable[[Any], None]:
    """Cuts the connection of a client's address at once, what waits to be sent included."""

    def kick(client: Any) -> None:
        for connection in list(server.server_state.connections):
            if client is not None and getattr(connection, "client", None) == tuple(client):
                transport = getattr(connection, "transport", None)
                if transport is not None:
                    transport.abort()

    return kick
