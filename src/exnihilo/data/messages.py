"""Conversations in one shape, whatever the file's own: [{"role", "content"}, ...].

    messages([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}])
    dialogue("\\n\\nHuman: Hi\\n\\nAssistant: Hello.")             # both: user "Hi", assistant "Hello."
    pair(chosen, rejected)                                      # (prompt, chosen reply, rejected reply)

Roles are system, user, assistant and tool; other names for them are known. What cannot be learnt from raises
`Skip`, whose argument is the reason; preparation counts it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from exnihilo.data.roles import Skip

Message = dict[str, Any]
Messages = list[Message]

ROLES: Mapping[str, str] = {
    **{name: "system" for name in ("system", "developer", "context")},
    **{name: "user" for name in ("user", "human", "prompter", "instruction", "input", "question")},
    **{name: "assistant" for name in ("assistant", "gpt", "model", "bot", "chatgpt", "bing", "bard", "ai")},
    **{name: "tool" for name in ("tool", "function", "ipython", "observation", "function_response")},
}
"""A role as files have it -> as it is here."""

_WHO = ("role", "from", "speaker", "author")
_WHAT = ("content", "value", "text", "message")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_GOOD = frozenset(
    {"true", "1", "1.0", "yes", "good", "desirable", "chosen", "positive", "up", "thumbs_up", "+1"}
)
_BAD = frozenset(
    {
        "false",
        "0",
        "0.0",
        "-1",
        "-1.0",
        "no",
        "bad",
        "undesirable",
        "rejected",
        "negative",
        "down",
        "thumbs_down",
    }
)

EMPTY = "with an empty turn"
NO_REPLY = "without an assistant's turn"


def messages(value: Any) -> Messages:
    """A list of messages from one in any known spelling, or from its JSON.

    Raises:
        Skip: it is none; a message has no known role, no text, or is empty.

    Example:
        >>> messages([{"from": "gpt", "value": " Hello. "}])
        [{'role': 'assistant', 'content': 'Hello.'}]
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise Skip("whose messages are no list") from None
    if isinstance(value, Mapping):
        value = value.get("messages") or value.get("conversations")
    if not isinstance(value, (list, tuple)):
        raise Skip("whose messages are no list")
    if not value:
        raise Skip("without messages")
    found = [_message(m) for m in value]
    return [m for m in found if m is not None]


def _message(value: Any) -> Message | None:
    """One message; None for an empty system message, which says nothing."""
    if not isinstance(value, Mapping):
        raise Skip("with a message that is no object")
    who = next((value[k] for k in _WHO if value.get(k) is not None), None)
    if not isinstance(who, str):
        raise Skip("with a message without a role")
    role = ROLES.get(who.strip().lower())
    if role is None:
        raise Skip(f"with the unknown role {who[:20]!r}")
    if value.get("tool_calls") or value.get("function_call"):
        raise Skip("with calls of tools apart from the text")
    out: Message = {"role": role, "content": _content(next((value[k] for k in _WHAT if k in value), None))}
    if not out["content"] and role != "tool":
        if role == "system":
            return None
        raise Skip(EMPTY)
    weight = value.get("weight")
    if weight is not None and role == "assistant":
        if weight not in (0, 1):
            raise Skip("with a weight that is not 0 or 1")
        if weight == 0:
            out["weight"] = 0
    return out


def _content(value: Any) -> str:
    """A message's text; a list of text parts is joined."""
    if isinstance(value, (list, tuple)):
        texts = [p.get("text") if isinstance(p, Mapping) else p for p in value]
        kinds = {str(p.get("type", "text")) for p in value if isinstance(p, Mapping)}
        strings = [text for text in texts if isinstance(text, str)]
        if kinds - {"text", "input_text", "output_text"} or len(strings) < len(texts):
            raise Skip("with a message that is not text")
        value = "".join(strings)
    if not isinstance(value, str):
        raise Skip("with a message without a text" if value is None else "with a message that is not text")
    return value.strip()


def is_messages(value: Any) -> bool:
    """Whether a value looks like a list of messages, or JSON of one."""
    if isinstance(value, str):
        if not value.lstrip().startswith("[{"):
            return False
        try:
            value = json.loads(value)
        except ValueError:
            return False
    first = value[0] if isinstance(value, (list, tuple)) and value else None
    return isinstance(first, Mapping) and any(k in first for k in _WHO) and any(k in first for k in _WHAT)


def is_dialogue(value: Any) -> bool:
    """Whether a text is a dialogue of turns ``\\n\\nHuman:`` and ``\\n\\nAssistant:``."""
    return isinstance(value, str) and value.lstrip().startswith("Human:") and "\n\nAssistant:" in value


def dialogue(text: str) -> Messages:
    """The turns of such a text.

    Raises:
        Skip: a turn is empty, or text stands before the first one.
    """
    parts = _TURN.split("\n\n" + text.lstrip())
    turns = zip(parts[1::2], parts[2::2], strict=True)
    out: Messages = []
    for who, body in turns:
        if not body.strip():
            raise Skip(EMPTY)
        out.append({"role": "user" if who == "Human" else "assistant", "content": body.strip()})
    if parts[0].strip() or not out:
        raise Skip("that are no dialogue")
    return out


def user(text: Any) -> Messages:
    """A prompt as messages: a text is one message of a user, a list stays a list.

    Raises:
        Skip: it is empty, or neither.
    """
    if isinstance(text, (list, tuple)) or (isinstance(text, str) and is_messages(text)):
        return messages(text)
    if isinstance(text, str) and text.lstrip().startswith("Human:"):
        return dialogue(text.rstrip().removesuffix("Assistant:"))
    if not isinstance(text, str):
        raise Skip("without a prompt" if text is None else "whose prompt is not text")
    if not text.strip():
        raise Skip("with an empty prompt")
    return [{"role": "user", "content": text.strip()}]


def reply(value: Any, prompt: Messages, what: str = "reply") -> Messages:
    """A reply as messages, without the prompt where the file repeats it; its last one is an assistant's.

    Raises:
        Skip: it is empty, or ends otherwise.
    """
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, (list, tuple)) or (isinstance(value, str) and is_messages(value)):
        found = messages(value)
        if found[: len(prompt)] == prompt:
            found = found[len(prompt) :]
        elif found and found[0]["role"] == "system":
            turns = [m for m in prompt if m["role"] != "system"]
            if found[1 : 1 + len(turns)] == turns:
                found = found[1 + len(turns) :]
        elif len(prompt) > 1 and prompt[0]["role"] == "system" and found[: len(prompt) - 1] == prompt[1:]:
            found = found[len(prompt) - 1 :]
        return ended(found, what)
    if is_dialogue(value) and dialogue(value)[: len(prompt)] == prompt:
        return ended(dialogue(value)[len(prompt) :], what)
    if isinstance(value, (bool, int, float)):  # spreadsheets make `true` of "True"
        value = answer(value)
    if not isinstance(value, str):
        raise Skip(f"without a {what}" if value is None else f"whose {what} is not text")
    if not value.strip():
        raise Skip(f"with an empty {what}")
    return [{"role": "assistant", "content": value.strip()}]


def ended(found: Messages, what: str = "reply") -> Messages:
    """The same messages, if the last one is an assistant's.

    Raises:
        Skip: it is not.
    """
    if not found:
        raise Skip(f"without a {what}")
    if found[-1]["role"] != "assistant":
        raise Skip("whose last turn is not the assistant's")
    return found


def cut(found: Messages) -> tuple[Messages, Messages]:
    """A conversation as its prompt and the last reply: all messages behind the last one of a user or tool.

    Raises:
        Skip: it does not end with an assistant's turn, or has no prompt.
    """
    ended(found)
    at = next((n for n in range(len(found), 0, -1) if found[n - 1]["role"] != "assistant"), 0)
    if not at:
        raise Skip("without a prompt")
    return found[:at], found[at:]


def whole(value: Any) -> Messages:
    """A whole conversation: a list of messages, or a text of turns."""
    return dialogue(value) if is_dialogue(value) else messages(value)


def pair(chosen: Any, rejected: Any) -> tuple[Messages, Messages, Messages]:
    """(prompt, chosen reply, rejected reply) of two whole conversations with a common beginning.

    Raises:
        Skip: one is no conversation, they have no common prompt, or do not end with an assistant's turn.
    """
    good, bad = ended(whole(chosen)), ended(whole(rejected))
    same = next(
        (n for n, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b), min(len(good), len(bad))
    )
    while same and (same == len(good) or same == len(bad) or good[same - 1]["role"] == "assistant"):
        same -= 1
    if not same:
        raise Skip("whose two conversations have no prompt in common")
    return good[:same], good[same:], bad[same:]


def desirable(value: Any) -> bool:
    """A label of a single reply: whether it is a good one.

    Raises:
        Skip: it says neither.

    Example:
        >>> desirable("undesirable"), desirable(1)
        (False, True)
    """
    word = str(value).strip().lower()
    if word in _GOOD:
        return True
    if word in _BAD:
        return False
    raise Skip(
        "without a label" if value is None or word in ("", "nan") else "whose label is neither good nor bad"
    )


def answer(value: Any) -> str:
    """An answer as text; a whole number loses its ``.0``.

    Raises:
        Skip: there is none.

    Example:
        >>> answer(145.0), answer(" 12 "), answer(0)
        ('145', '12', '0')
    """
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Skip("without an answer")
        return str(int(value)) if value == int(value) else repr(value)
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return answer(value[0])
    if isinstance(value, (str, int)):
        if text := str(value).strip():
            return text
    elif value is not None:
        raise Skip("whose answer is neither a text nor a number")
    raise Skip("without an answer")


def text_of(found: Sequence[Mapping[str, Any]]) -> str:
    """Messages as one text, for hashes, previews and the search for copies.

    Example:
        >>> text_of([{"role": "user", "content": "Hi"}])
        'user: Hi'
    """
    return "\n".join(f"{m['role']}: {m['content']}" for m in found)
