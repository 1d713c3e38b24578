"""Stop strings, found across token boundaries.

Text that may still become a stop string is held back; the rest is let through at once::

    stops = Stops(["\\n\\n", "END"])
    stops.push("one\\n")   # 'one'      the newline may be half a stop
    stops.push("two")      # '\\ntwo'   it was not
    stops.push("\\n\\nx")  # ''         stops.found == "\\n\\n"

The result does not depend on how the text is cut into pieces: the stop that *ends* first wins, and among
those that end together the longest.
"""

from __future__ import annotations

from collections.abc import Sequence

from exnihilo.errors import UsageError


class Stops:
    """A matcher for one text.

    Args:
        strings: stop strings, none empty.

    Attributes:
        found: the stop string that was met, or None.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = tuple(strings)
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Add text; what comes back can no longer be part of a stop string. Empty once one is found."""
        if not self._strings:
            return text
        if self.found is not None:
            return ""
        self._held += text
        hits = [(start + len(s), start, s) for s in self._strings if (start := self._held.find(s)) >= 0]
        if hits:
            _, start, self.found = min(hits)
            out, self._held = self._held[:start], ""
            return out
        keep = max(_overlap(self._held, s) for s in self._strings)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def finish(self) -> str:
        """The text is over: what was held back after all belongs to it."""
        out, self._held = self._held, ""
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


def check(stop: Sequence[str] | str) -> tuple[str, ...]:
    """Stop strings as a tuple; one string alone is one stop."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    for s in strings:
        if not isinstance(s, str) or not s:
            raise UsageError(
                f"stop={stop!r}", expected="strings of at least one character", next='stop=["\\n\\n"]'
            )
    return strings
