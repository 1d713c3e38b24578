"""The application: every address of the server, behind one gate.

::

    shelf = Shelf.open(["runs/chat"], settings, metrics=metrics)
    app = create_app(shelf, settings)           # any ASGI server runs it; `exnihilo serve` uses uvicorn

Its schema stands at ``/openapi.json``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from exnihilo import log
from exnihilo.errors import MissingExtra
from exnihilo.serve.metrics import Metrics
from exnihilo.serve.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from exnihilo.serve.models import Shelf

TITLE = "exnihilo"


def create_app(shelf: Shelf, settings: Settings | None = None) -> FastAPI:
    """The application over a shelf of models.

    Args:
        shelf: the models; closed when the application ends.
        settings: default: the shelf's.

    Raises:
        MissingExtra: fastapi or prometheus-client is not installed.
    """
    try:
        from fastapi import FastAPI
        from starlette.middleware.cors import CORSMiddleware
    except ImportError:
        raise MissingExtra.of("fastapi", "serve") from None
    from exnihilo.serve import encoders, errors, health, openai, page
    from exnihilo.serve.gate import Gate

    settings = settings or shelf.settings
    metrics = shelf.metrics
    if metrics is None:
        metrics = shelf.metrics = Metrics()
        metrics.watch(shelf)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.create_task(_look(shelf, settings.reload)) if settings.reload else None
        try:
            yield
        finally:
            if looking is not None:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
            await asyncio.to_thread(shelf.close)

    app = FastAPI(
        title=TITLE,
        version=_version(),
        summary="Models trained here, over HTTP",
        docs_url=None,  # they load assets from elsewhere
        redoc_url=None,
        lifespan=life,
        redirect_slashes=False,
    )
    app.state.shelf, app.state.settings, app.state.kick = shelf, settings, None
    errors.install(app)
    app.include_router(openai.router(shelf, settings))
    app.include_router(encoders.router(shelf, settings))
    app.include_router(health.router(shelf, settings, metrics))
    if settings.page:
        app.include_router(page.router())
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    _describe(app)
    return app


async def _look(shelf: Shelf, seconds: float) -> None:
    """Look for newer checkpoints, again and again."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await asyncio.to_thread(shelf.reload)
        except Exception as error:  # one look that fails does not end the looking
            log.warn(f"looking for newer checkpoints failed: {error!r:.300}")


def _describe(app: FastAPI) -> None:
    """The interface's schema: bodies that addresses read themselves, errors as they are."""
    from exnihilo.serve import body

    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = made()
            parts = schema.setdefault("components", {}).setdefault("schemas", {})
            for name, part in body.definitions().items():
                parts.setdefault(name, part)
            for path in schema["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)  # what is not valid gets 400
            parts.pop("HTTPValidationError", None)
            parts.pop("ValidationError", None)
            if app.state.settings.api_keys:
                schemes = schema["components"].setdefault("securitySchemes", {})
                schemes["key"] = {"type": "http", "scheme": "bearer"}
                schema["security"] = [{"key": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _version() -> str:
    from importlib.metadata import version

    return version("exnihilo")
