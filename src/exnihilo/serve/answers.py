"""The shapes of what decoders answer, for the interface's schema; answers themselves are plain dictionaries.

Reference: https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from exnihilo.serve.schemas import ToolCall, Usage


class Candidate(BaseModel):
    """A token that might have stood there."""

    token: str
    logprob: float | None = Field(description="in nats; null: it cannot come")
    bytes: list[int] | None = None


class TokenFact(Candidate):
    """A token of an answer."""

    processed_logprob: float | None = Field(description="under the distribution it was drawn from")
    top_logprobs: list[Candidate]


class ChatLogprobs(BaseModel):
    """Of a chat's answer."""

    content: list[TokenFact]
    refusal: None = None


class ChatMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    """One of n answers."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: ChatLogprobs | None


class ChatCompletion(BaseModel):
    """A chat's answers."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str | None


class TextLogprobs(BaseModel):
    """Of a text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, Any]] | None
    text_offset: list[int]


class TextChoice(BaseModel):
    """One of the texts."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: TextLogprobs | None


class Completion(BaseModel):
    """Texts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    system_fingerprint: str | None
