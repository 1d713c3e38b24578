"""Whether the server lives, whether its models answer, and what it counts.

``/health/live`` answers as long as the event loop turns. ``/health/ready`` is 200 only if every decoder drew
a token, and every encoder answered, within `Settings.ready_after`; where nobody asked them, they are asked
here. So a server whose engine hangs is alive and not ready.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from exnihilo.infer.predict import inputs_of
from exnihilo.infer.request import Request as Asked
from exnihilo.infer.sampling import Sampling
from exnihilo.serve.errors import ApiError
from exnihilo.serve.tickets import Job

if TYPE_CHECKING:
    from exnihilo.serve.metrics import Metrics
    from exnihilo.serve.models import Served, Shelf
    from exnihilo.serve.settings import Settings

_PATIENCE = 10.0  # seconds for one token


# of the embedded world: what stands for a file of a role
_SAMPLES = {"sound": "world:bell:1", "picture": "world:red-ball@0:1"}


class Live(BaseModel):
    """The event loop turns."""

    status: Literal["live"]


class Readiness(BaseModel):
    """Whether requests will be answered, and why not."""

    status: Literal["ready", "draining", "not ready"]
    models: dict[str, str]


def router(shelf: Shelf, settings: Settings, metrics: Metrics) -> APIRouter:
    """The addresses of this file."""
    routes = APIRouter(tags=["health"])
    one_at_a_time = asyncio.Lock()

    @routes.get("/health/live", response_model=Live)
    async def live() -> Any:
        """The process answers."""
        return {"status": "live"}

    @routes.get("/health/ready", response_model=Readiness, responses={503: {"model": Readiness}})
    async def ready() -> Response:
        """The models answer."""
        if shelf.draining:
            return JSONResponse({"status": "draining", "models": {}}, 503)
        async with one_at_a_time:
            found = await asyncio.gather(*(state(served, settings) for served in shelf.all()))
        models = {served.name: text for served, text in zip(shelf.all(), found, strict=True)}
        good = all(text == "ready" for text in found)
        return JSONResponse(
            {"status": "ready" if good else "not ready", "models": models}, 200 if good else 503
        )

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def counts() -> Response:
        """Prometheus' format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


async def state(served: Served, settings: Settings) -> str:
    """``ready``, or what is wrong with a model; asks it where nobody did lately."""
    try:
        if served.worker is not None:
            return await _writes(served, settings)
        return await _answers(served, settings)
    except ApiError as error:
        return error.message


async def _writes(served: Served, settings: Settings) -> str:
    worker = served.worker
    assert worker is not None
    if time.monotonic() - worker.drew <= settings.ready_after and worker.drew > worker.broke:
        return "ready"
    if worker.stuck > settings.ready_after:
        return f"no step for {worker.stuck:.0f} s"
    job = Job([Asked([served.codec.bos_id], 1, Sampling(temperature=0))], seconds=_PATIENCE)
    ticket = worker.submit(job, urgent=True)
    try:
        async with asyncio.timeout(_PATIENCE):
            async for _ in ticket.pieces():
                pass
    except TimeoutError:
        return f"no token within {_PATIENCE:g} s"
    finally:
        ticket.cancel()
    return "ready"


async def _answers(served: Served, settings: Settings) -> str:
    batcher = served.batcher
    assert batcher is not None
    if time.monotonic() - batcher.answered <= settings.ready_after and batcher.answered > batcher.broke:
        return "ready"
    if batcher.stuck > settings.ready_after:
        return f"no answer for {batcher.stuck:.0f} s"
    example: dict[str, Any] = {}
    for role in inputs_of(batcher.predictor.objective):
        if role in _SAMPLES:
            example[role] = _SAMPLES[role]
            continue
        example[role] = ["ready"] if role in ("words", "documents", "candidates") else "ready"
    await batcher.predict([example], seconds=_PATIENCE, urgent=True)
    return "ready"
