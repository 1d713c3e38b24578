"""The web page: chat, writing and encoder tasks in a browser, served by the process that answers.

::

    app.include_router(page.router())       # GET /, /page.css, /page.js ...

Files that ask for nothing outside: no font, script or picture of another server, and a policy that forbids
them (Content Security Policy). All addresses in them are relative, so the page also works behind a prefix. It
asks the same endpoints as any client; a key that it is given stays in the browser's tab.

Policy: https://www.w3.org/TR/CSP3/. Conditional requests: RFC 9110, section 13.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from exnihilo.errors import ExNihiloError, MissingExtra

if TYPE_CHECKING:
    from fastapi import APIRouter

FOLDER = Path(__file__).parent / "page"
_SCRIPT = "text/javascript; charset=utf-8"
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", _SCRIPT),
    "/reply.js": ("reply.js", _SCRIPT),
    "/tasks.js": ("tasks.js", _SCRIPT),
}
"""Address -> (file, type). They need no key: they hold nothing but the page itself."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def router() -> APIRouter:
    """The page's addresses, to be included in an application. They are not part of its OpenAPI schema.

    Raises:
        MissingExtra: fastapi is not installed.
        ExNihiloError: a file of the page is missing from the installation.

    Example:
        >>> from fastapi import FastAPI
        >>> app = FastAPI()
        >>> app.include_router(router())
    """
    try:
        from fastapi import APIRouter
    except ImportError as error:
        raise MissingExtra.of("fastapi", "serve") from error
    out = APIRouter(include_in_schema=False)
    for address, (name, kind) in FILES.items():
        _add(out, address, _read(name), kind)
    return out


def _read(name: str) -> bytes:
    """A file of the page."""
    try:
        return (FOLDER / name).read_bytes()
    except OSError as error:
        raise ExNihiloError(
            f"the page's file {name} cannot be read: {error.strerror or error}",
            expected="it stands in the installed package, under serve/page",
            next="install exnihilo again, or serve with --no-page",
        ) from error


def _add(router: APIRouter, address: str, data: bytes, kind: str) -> None:
    """One address; a browser that has the present version is told so (304)."""
    from starlette.requests import Request
    from starlette.responses import Response

    tag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'

    async def give(request: Request) -> Response:
        headers = {**HEADERS, "ETag": tag}
        known = [
            part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")
        ]
        if tag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(data, media_type=kind, headers=headers)

    router.add_route(address, give, methods=["GET"], include_in_schema=False)
