"""Tools: told to the model in its system message, and read from what it writes.

A model is told of its tools as JSON between ``<tools>`` tags, and calls one by writing::

    <tool_call>
    {"name": "weather", "arguments": {"city": "Oslo"}}
    </tool_call>

which is how Hermes and Qwen models were taught; what is no whole call of a known tool stays text. Where a
call is forced (``tool_choice``), the reply is constrained to the call's JSON alone, so any model makes a
valid one.

Reference: https://github.com/NousResearch/Hermes-Function-Calling
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exnihilo.codec.base import scrub
from exnihilo.serve.errors import ApiError
from exnihilo.serve.schemas import ChatRequest, Content, Tool, ToolCall, ToolChoice

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class Call:
    """A call that the model made."""

    name: str
    arguments: str  # JSON

    def shown(self, index: int | None = None) -> dict[str, Any]:
        """As an answer holds it; with its number in a stream."""
        call = {
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }
        return call if index is None else {"index": index, **call}


def messages_of(asked: ChatRequest) -> list[dict[str, str]]:
    """The conversation as the chat codec takes it: roles and texts, with the tools in the system message.

    Raises:
        ApiError: a call's arguments that are no JSON object.
    """
    out: list[dict[str, str]] = []
    for number, message in enumerate(asked.messages):
        content = _text(message.content)
        if message.role == "assistant" and message.tool_calls:
            calls = [_written(call, number) for call in message.tool_calls]
            content = "\n".join([*([content] if content else []), *calls])
        role = "system" if message.role == "developer" else message.role
        out.append({"role": role, "content": content})
    tools = offered(asked)
    if tools:
        text = _manual(tools)
        if out[0]["role"] == "system":
            out[0] = {"role": "system", "content": f"{out[0]['content']}\n\n{text}"}
        else:
            out.insert(0, {"role": "system", "content": text})
    return out


def offered(asked: ChatRequest) -> list[Tool]:
    """The tools that the model may call in this answer.

    Raises:
        ApiError: a choice without tools, or of one that is not there; two of one name.
    """
    tools, choice = asked.tools or [], asked.tool_choice
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        raise ApiError("two tools have one name", param="tools")
    if choice in (None, "auto", "none"):
        if choice == "auto" and not tools:
            raise ApiError("tool_choice without tools", param="tool_choice")
        return [] if choice == "none" else tools
    if not tools:
        raise ApiError("tool_choice without tools", param="tool_choice")
    if isinstance(choice, ToolChoice):
        tools = [tool for tool in tools if tool.function.name == choice.function.name]
        if not tools:
            raise ApiError(
                f"tool_choice names {choice.function.name!r}; the tools are {', '.join(names)}",
                param="tool_choice",
            )
    return tools


def forced(asked: ChatRequest) -> dict[str, Any] | None:
    """The JSON schema of the call that must be made; None: none must be."""
    if asked.tool_choice in (None, "auto", "none"):
        return None
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.function.name},
                "arguments": tool.function.parameters or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in offered(asked)
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


def call_of(text: str, names: Sequence[str]) -> Call | None:
    """A call's JSON as a call; None where it is none of a tool of these names."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, Mapping) or found.get("name") not in names:
        return None
    arguments = found.get("arguments", {})
    if not isinstance(arguments, Mapping):
        return None
    return Call(found["name"], scrub(json.dumps(arguments, ensure_ascii=False)))


class Reader:
    """Separates a reply into text and calls as it comes.

    ::

        reader = Reader(["weather"])
        reader.push("Let me see. <tool_")       # ["Let me see. "]
        reader.push('call>{"name": ...')        # []
        reader.finish()                         # what is left: a call that was never closed is text

    Args:
        names: of the tools.
        whole: the reply is one call's JSON and nothing else.
    """

    def __init__(self, names: Sequence[str], *, whole: bool = False) -> None:
        self._names, self._whole, self._held = list(names), whole, ""

    def push(self, text: str) -> list[str | Call]:
        """Add text; what is certain now."""
        self._held += text
        out: list[str | Call] = []
        while not self._whole and self._names:
            start = self._held.find(OPEN)
            if start < 0:
                cut = len(self._held) - _overlap(self._held, OPEN)
                out.append(self._held[:cut])
                self._held = self._held[cut:]
                break
            end = self._held.find(CLOSE, start)
            if end < 0:
                out.append(self._held[:start])
                self._held = self._held[start:]
                break
            inner = self._held[start + len(OPEN) : end]
            call = call_of(inner, self._names)
            out.append(self._held[:start])
            out.append(call or self._held[start : end + len(CLOSE)])
            self._held = self._held[end + len(CLOSE) :]
        if not self._names:
            out.append(self._held)
            self._held = ""
        return [part for part in out if part]

    def finish(self) -> list[str | Call]:
        """The reply is over."""
        rest, self._held = self._held, ""
        call = call_of(rest, self._names) if self._whole else None
        return [call] if call is not None else [rest] if rest else []


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(mark[:size])), 0)


def _text(content: Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def _written(call: ToolCall, number: int) -> str:
    """A call of an earlier turn as the model wrote it."""
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise ApiError(
            f"the arguments of the call {call.function.name!r} are no JSON object",
            param=f"messages[{number}].tool_calls",
        )
    text = json.dumps({"name": call.function.name, "arguments": arguments}, ensure_ascii=False)
    return f"{OPEN}\n{text}\n{CLOSE}"


def _manual(tools: Sequence[Tool]) -> str:
    """What the system message says of them."""
    lines = [
        json.dumps(
            {"type": "function", "function": tool.function.model_dump(exclude_none=True)}, ensure_ascii=False
        )
        for tool in tools
    ]
    listed = "\n".join(lines)
    return (
        "# Tools\n\nThese functions can be called:\n"
        f"<tools>\n{listed}\n</tools>\n\n"
        f"To call one, write its name and arguments as JSON:\n{OPEN}\n"
        '{"name": NAME, "arguments": {...}}\n' + CLOSE
    )
