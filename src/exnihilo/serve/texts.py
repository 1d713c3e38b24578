"""One text as it is written: from tokens to what a reader may see.

::

    text = Growing(codec, stops=["\\n\\n"], stop_ids=frozenset({2}), facts=True)
    piece = text.push(token)        # piece.text, piece.facts, piece.reason

Text is let through in whole characters, and not while it may still become a stop string. A token's facts come
with its text, so that a reader never sees a token of a stop string.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from exnihilo.infer.stops import Stops

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.infer.request import Scored, Token

Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Fact:
    """A drawn token.

    Attributes:
        id: in the vocabulary.
        logprob: in nats, under the model itself.
        processed: in nats, under the distribution that it was drawn from.
        top: the likeliest tokens at its place, (id, logprob), likeliest first.
    """

    id: int
    logprob: float
    processed: float
    top: Sequence[tuple[int, float]] = ()


@dataclass(slots=True)
class Piece:
    """What is new of one text.

    Attributes:
        index: which of the request's texts.
        text: that is now certain; may be empty.
        tokens: drawn since the last piece.
        facts: of the tokens whose text this is, where they were asked for.
        reason: why the text is over; None: more will come.
        prompt: with a text's first piece, the prompt's tokens where they were asked for.
    """

    index: int
    text: str = ""
    tokens: int = 0
    facts: list[Fact] = field(default_factory=list)
    reason: Finish | None = None
    prompt: Sequence[Scored] = ()

    def join(self, later: Piece) -> None:
        """Adds a later piece of the same text."""
        self.text += later.text
        self.tokens += later.tokens
        self.facts += later.facts
        self.reason = later.reason


class Growing:
    """A text that grows by tokens.

    Args:
        codec: whose ids the tokens are.
        index: which of a request's texts.
        stops: strings at which it ends.
        stop_ids: ids that end it; they have no text.
        facts: whether to tell of each token.
    """

    def __init__(
        self, codec: Codec, index: int, stops: Sequence[str], stop_ids: frozenset[int], facts: bool
    ) -> None:
        self._streamer, self._stops = codec.streamer(), Stops(stops)
        self._vocabulary, self._ends, self._index = codec.vocab_size, stop_ids, index
        self._told = facts
        self._held: deque[tuple[int, Fact]] = deque()  # (characters, fact) whose text is held back
        self._free = 0  # characters that were let through, and belong to facts that are held
        self.over = False

    def push(self, token: Token) -> Piece:
        """Add a token. After a piece with a reason no more may come."""
        piece = Piece(self._index, tokens=1, prompt=token.prompt)
        ended = token.id in self._ends
        text = "" if ended or token.id >= self._vocabulary else self._streamer.push(token.id)
        if self._told and not ended:
            top = getattr(token, "top", None) or ()
            self._held.append((len(text), Fact(token.id, token.raw, token.processed, top)))
        piece.text = self._stops.push(text)
        if token.reason is not None and self._stops.found is None:
            rest = self._streamer.finish()
            if self._held and rest:
                size, fact = self._held.pop()
                self._held.append((size + len(rest), fact))
            piece.text += self._stops.push(rest)
        if self._stops.found is not None:
            piece.reason = "stop"
        elif token.reason is not None:
            piece.text += self._stops.finish()
            piece.reason = "length" if token.reason == "length" else "stop"
        self._release(piece)
        self.over = piece.reason is not None
        return piece

    def _release(self, piece: Piece) -> None:
        """Facts whose text is let through whole."""
        self._free += len(piece.text)
        while self._held and self._held[0][0] <= self._free:
            size, fact = self._held.popleft()
            self._free -= size
            piece.facts.append(fact)
