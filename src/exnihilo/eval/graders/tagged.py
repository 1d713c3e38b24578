"""What a reply marks as its answer.

::

    answered("<think>3 + 4</think><answer>7</answer>")      # '7'
    answered("seven")                                       # None: it marks nothing

Several marked answers are none that can be trusted: a reply may not try them all and be paid for one. Then,
and where a tag is opened and never closed, the answer is "".
"""

from __future__ import annotations

import re

_OPEN, _CLOSE = "<answer>", "</answer>"
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)


def answered(text: str) -> str | None:
    """The text between ``<answer>`` and ``</answer>``; None without such tags, "" where there is not one.

    >>> answered("<answer>7</answer> or <answer>8</answer>")
    ''
    """
    if _OPEN not in text and _CLOSE not in text:
        return None
    if text.count(_OPEN) != 1 or text.count(_CLOSE) != 1:
        return ""
    _, _, rest = text.partition(_OPEN)
    inside, closed, _ = rest.partition(_CLOSE)
    return inside.strip() if closed else ""


def thought(text: str) -> str | None:
    """The text of the one ``<think>...</think>`` block; None where there is none, or not exactly one.

    >>> thought("<think> so </think>7"), thought("7")
    ('so', None)
    """
    if text.count("<think>") != 1 or text.count("</think>") != 1:
        return None
    found = _THOUGHT.search(text)
    return found[1].strip() if found else None


def after_thought(text: str) -> str:
    """What a reply says behind its thought: all of it, where there is no thought.

    >>> after_thought("<think>6? 8?</think> 7")
    ' 7'
    """
    _, closed, rest = text.rpartition("</think>")
    return rest if closed else text
