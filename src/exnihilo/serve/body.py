"""Reads a request's body, strictly: JSON in UTF-8, no NaN, no name twice, nothing unknown.

::

    @router.post("/v1/completions", **documented(CompletionRequest, answer=Completion))
    async def completions(request: Request) -> Response:
        asked = await read(request, CompletionRequest)      # ApiError: 400 with the parameter's name
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from exnihilo.serve.errors import ApiError, invalid
from exnihilo.serve.schemas import ErrorBody

if TYPE_CHECKING:
    from fastapi import Request

M = TypeVar("M", bound=BaseModel)
_kinds: dict[str, type[BaseModel]] = {}  # bodies that `documented` points to
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503, 504)
}
"""What every address may answer instead, for the interface's schema."""


async def read(request: Request, kind: type[M]) -> M:
    """The body as a model.

    Raises:
        ApiError: 415 no JSON, 400 not what the schema says.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise ApiError(f"the content type is {media or 'not given'}; expected: application/json", status=415)
    return parsed(await request.body(), kind)


def parsed(raw: bytes, kind: type[M]) -> M:
    """Bytes as a model; see `read`."""
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse, parse_float=_number, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise ApiError(f"the body is not UTF-8: byte {error.start} is wrong") from None
    except json.JSONDecodeError as error:
        raise ApiError(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise ApiError("the body is nested too deeply") from None
    except ValueError as error:  # a constant, a name given twice, a number of thousands of digits
        raise ApiError(f"the body is not JSON as it is expected here: {error}") from None
    if b"\\u" in raw and not _writable(value):
        raise ApiError("the body holds half of a surrogate pair, which is no character")
    if not isinstance(value, dict):
        raise ApiError(f"the body is a JSON {_kind(value)}; expected: an object")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_context=False)) from None
    except RecursionError:
        raise ApiError("the body is nested too deeply") from None


def documented(kind: type[BaseModel], answer: type[BaseModel], *, streams: bool = False) -> dict[str, Any]:
    """What the interface's schema says of an address that reads its body itself."""
    _kinds[kind.__name__] = kind
    responses: dict[int | str, dict[str, Any]] = {**ERRORS, 200: {"model": answer}}
    if streams:
        responses[200]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    return {
        "responses": responses,
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}
                },
            }
        },
    }


def definitions() -> dict[str, Any]:
    """The schemas of bodies that `documented` points to."""
    out: dict[str, Any] = {}
    for kind in _kinds.values():
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        out |= schema.pop("$defs", {})
        out[kind.__name__] = schema
    return out


def _writable(value: Any) -> bool:
    """Whether all text of it is text of UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    except RecursionError:
        raise ApiError("the body is nested too deeply") from None
    return True


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _number(text: str) -> float | int:
    """JSON does not tell 5.0 from 5, so neither do parameters."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r:.60} is given twice")
    return out


def _kind(value: object) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    return names.get(type(value), "value")
