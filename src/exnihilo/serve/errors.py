"""Errors as OpenAI's interface tells them: ``{"error": {"message", "type", "param", "code"}}``.

::

    raise ApiError("temperature must be at most 100", param="temperature")     # 400
    raise ApiError.of(usage_error, param="prompt")                             # what the house says, as 400

Clients choose their exception by the status: 400 wrong, 401 no key, 404 no such model, 408 a body that did
not come, 413 too large, 415 no JSON, 429 too many at once, 500 the engine failed, 503 going down, 504 too
slow.

Reference: https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from exnihilo.codec.base import scrub
from exnihilo.errors import ExNihiloError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from starlette.responses import Response

TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 405: "invalid_request_error", 408: "timeout_error",
    413: "invalid_request_error", 415: "invalid_request_error", 429: "rate_limit_error",
    500: "server_error", 503: "server_error", 504: "timeout_error",
}  # fmt: skip
_LONGEST = 1000  # characters of a message: what was given is shortened, never thrown back whole


class ApiError(Exception):
    """An answer that says what is wrong.

    Args:
        message: for a reader.
        status: of HTTP.
        param: the parameter it is about, e.g. ``messages[0].role``.
        code: a word for programs, e.g. ``context_length_exceeded``.
        retry: seconds after which to ask again (the header Retry-After).
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        retry: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code, self.retry = message, status, param, code, retry

    @classmethod
    def of(cls, error: ExNihiloError, *, param: str | None = None, status: int = 400) -> ApiError:
        """An error of the house, in one line; a parameter it begins with (``top_p=2``) is its `param`."""
        name = error.given.partition("=")[0]
        named = name if name.isidentifier() and "=" in error.given else None
        text = error.given + (f"; expected: {error.expected}" if error.expected else "")
        return cls(text, status=status, param=param or named)

    def body(self) -> dict[str, Any]:
        """The JSON object."""
        message = scrub(self.message)
        if len(message) > _LONGEST:
            message = message[:_LONGEST] + " ..."
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        param = None if self.param is None else scrub(self.param)[:200]
        return {"error": {"message": message, "type": kind, "param": param, "code": self.code}}

    def response(self) -> Response:
        """The whole answer."""
        from starlette.responses import Response

        headers = {} if self.retry is None else {"Retry-After": str(self.retry)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        data = json.dumps(self.body(), ensure_ascii=False).encode()
        return Response(data, self.status, headers, "application/json")


def named(location: Sequence[str | int]) -> str:
    """A parameter's name from where the validator found it.

    >>> named(("messages", 0, "user", "content"))
    'messages[0].content'
    """
    out = ""
    for place, part in enumerate(location):
        if isinstance(part, int):
            out += f"[{part}]"
        elif part.isidentifier() and not _tag(location, place):
            out += f".{part.removesuffix('_')}" if out else part
    return out


def _tag(location: Sequence[str | int], place: int) -> bool:
    """Whether a part is what pydantic puts between: which of a union's members it tried."""
    part, before = str(location[place]), location[place - 1] if place else None
    if place == 0:
        return False
    if part in ("str", "int", "float", "bool") or part[:1].isupper():
        return True
    return before == "response_format" or (location[0] == "messages" and place == 2)


def invalid(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The validator's findings as one 400 that names the parameter."""
    first = min(errors, key=lambda e: e.get("type") != "extra_forbidden")
    location = list(first.get("loc", ()))
    param = named(location) or None
    unknown = first.get("type") == "extra_forbidden"
    if unknown:
        last = str(location[-1]) if location else ""
        above = named(location[:-1])
        param = f"{above}.{last}" if above else last
        message = f"the parameter {param!r} is not supported here"
    else:
        what = str(first.get("msg", "not valid"))
        message = f"{param}: {what}" if param else what
        if len(errors) > 1 and not any(isinstance(e.get("input"), Mapping) for e in errors[:1]):
            others = sorted({named(e.get("loc", ())) for e in errors} - {param or ""})
            message += f" (and: {', '.join(others[:5])})" if others else ""
    return ApiError(message, param=param, code="unsupported_parameter" if unknown else None)


def install(app: FastAPI) -> None:
    """Every error of an application leaves it in this shape."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    from exnihilo import log

    async def api(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def house(request: Request, error: Exception) -> Response:
        assert isinstance(error, ExNihiloError)
        return ApiError.of(error).response()

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return invalid(error.errors()).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        text = str(error.detail)
        if error.status_code == 404:
            text = f"no such address: {request.method} {request.url.path}"
        answer = ApiError(text, status=error.status_code).response()
        answer.headers.update(error.headers or {})
        return answer

    async def unforeseen(request: Request, error: Exception) -> Response:
        log.warn(f"{request.method} {request.url.path} failed: {error!r:.500}")
        return ApiError("the server failed at this request; its log says why", status=500).response()

    app.add_exception_handler(ApiError, api)
    app.add_exception_handler(ExNihiloError, house)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unforeseen)
