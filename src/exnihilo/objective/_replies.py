"""Prompts with replies as items: what preferences and reward models are encoded by.

::

    made = encode(chat(codec), [(prompt, [chosen, rejected]), ...], length=512)

A prompt is messages up to where the assistant speaks; a reply is messages that begin and end with the
assistant's. A reply's tokens are predicted (``mask`` 1) where the assistant says them, the terminator of each
turn included; what a user or a tool says inside it is read only. Prompts that leave no room lose their oldest
turns; what cannot fit is left out. Both are counted (`data.base.Noted`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from exnihilo.data.base import Noted
from exnihilo.errors import DataError
from exnihilo.objective import _branches
from exnihilo.objective.base import Example

if TYPE_CHECKING:
    from exnihilo.codec.chat import Chat

Messages = Sequence[Mapping[str, Any]]

TOO_LONG = "prompts whose replies do not fit the context"
CUT = "prompts without their oldest turns, for they are longer than the context"
OTHER = "replies that do not begin with the assistant's turn"


def messages(example: Example, role: str) -> Messages:
    """A role that holds messages; a text is a user's (the prompt) or the assistant's.

    Raises:
        DataError: it is missing, or neither.
    """
    value = example.get(role)
    if isinstance(value, str) and value.strip():
        return [{"role": "user" if role == "prompt" else "assistant", "content": value}]
    if isinstance(value, (list, tuple)) and value and all(isinstance(m, Mapping) for m in value):
        return list(value)
    raise DataError(
        f"an example without {role}; its roles: {sorted(k for k in example if k[0] != '_')}",
        expected=f'a role "{role}": messages, or a text',
        next=f'name the column with data.fields={{{role} = "COLUMN"}}',
    )


def encode(
    speaker: Chat,
    groups: Sequence[tuple[Messages, Sequence[Messages]]],
    *,
    length: int | None,
    dtype: type[np.integer] = np.int64,
) -> list[Noted]:
    """One item a group: its prompt once, its replies as branches 1, 2, ... (`_branches.lay`).

    Args:
        groups: (prompt, replies).
        length: positions that a model sees; a prompt with any one of its replies has at most so many tokens.
        dtype: of the ids.

    Returns:
        For each group no item or one, with the reason.
    """
    prompts = speaker.prompt_many([prompt for prompt, _ in groups])
    flat = iter(_replies(speaker, [reply for _, replies in groups for reply in replies]))
    out = []
    for (prompt, replies), ids in zip(groups, prompts, strict=True):
        made = [next(flat) for _ in replies]
        if any(one is None for one in made):
            out.append(Noted([], OTHER))
            continue
        pairs = [one for one in made if one is not None]
        out.append(_item(speaker, prompt, ids, pairs, length, dtype))
    return out


def _item(
    speaker: Chat,
    prompt: Messages,
    ids: list[int],
    replies: Sequence[tuple[list[int], list[int]]],
    length: int | None,
    dtype: type[np.integer],
) -> Noted:
    note = ""
    if length is not None:
        room = length - max(len(reply) for reply, _ in replies)
        if len(ids) > room:
            ids = speaker.prompt(speaker.fitted(prompt, room)) if room > 0 else ids
            if len(ids) > room:
                return Noted([], TOO_LONG)
            note = CUT
    item = _branches.lay(ids, [r for r, _ in replies], [m for _, m in replies], dtype=dtype)
    return Noted([item], note)


def _replies(speaker: Chat, replies: Sequence[Messages]) -> list[tuple[list[int], list[int]] | None]:
    """(ids, mask) of each reply as it goes on behind its prompt, up to its last trained token; None: it does
    not begin with the assistant's turn."""
    head = len(speaker.prompt([]))  # what a prompt ends with, and each reply, rendered alone, begins with
    out: list[tuple[list[int], list[int]] | None] = []
    for reply, rendered in zip(replies, speaker.render_many(replies), strict=True):
        if reply[0].get("role") != "assistant":
            out.append(None)
            continue
        ids, mask = rendered.ids[head:], rendered.mask[head:]
        end = max((i + 1 for i, on in enumerate(mask) if on), default=len(mask))
        out.append((ids[:end], mask[:end]))
    return out
