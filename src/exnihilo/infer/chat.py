"""A conversation with a chat model, turn by turn.

::

    talk = Conversation(model, codec, system="Answer in one sentence.", temperature=0.7)
    for piece in talk.say("Who lives by the sea?"):        # the reply as it grows
        print(piece, end="")
    talk.ask("And who is her friend?")                     # the whole reply
    talk.messages, talk.finish_reason, talk.reset()

The prompt of each turn is the conversation so far, rendered to ids by the chat codec. Where it no longer fits
the model's context, the oldest turns are left out of it, never a part of one; the system message stays. A
reply ends at ``<|im_end|>`` or eos.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from exnihilo.codec.chat import Chat, Message
from exnihilo.errors import UsageError
from exnihilo.infer.generate import Generation, stream

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

_ROOM = 4  # at least a quarter of the context is kept for the reply


class Conversation:
    """A conversation and the model that answers in it.

    Args:
        model: a decoder. codec: its tokenizer, with the tokens that mark turns.
        system: what the system message says; empty: none.
        max_new_tokens: of a reply, at most.
        temperature, top_k, top_p, min_p: as for `generate`; temperature=0 is greedy.
        seed: turn n of a conversation draws with numbers that follow from (seed, n) alone.

    Attributes:
        messages: all turns so far, those that no longer fit the context too.
        forgotten: how many of them the last prompt left out.
        finish_reason: of the last reply: eos, length, or interrupted.

    Raises:
        CodecError: the codec cannot mark turns.
        UsageError: a value that cannot be obeyed.
    """

    def __init__(
        self,
        model: Model,
        codec: Codec,
        *,
        system: str = "",
        max_new_tokens: int = 256,
        temperature: float = 0.7,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.codec, self.chat = model, codec, Chat(codec)
        self._options = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "seed": seed,
        }
        self.system = system
        self.messages: list[Message] = []
        self.forgotten = 0
        self.finish_reason: str | None = None
        self.reset()
        stream(model, codec, [codec.bos_id], eos=self.chat.stop_ids, **self._options)  # refuses what is wrong

    def reset(self, system: str | None = None) -> None:
        """Forget all turns; with `system`, go on under another system message."""
        self.system = self.system if system is None else system
        self.messages = [{"role": "system", "content": self.system}] if self.system.strip() else []
        self.forgotten, self.finish_reason = 0, None

    def ask(self, text: str) -> str:
        """The whole reply to a message.

        Raises:
            UsageError: as `say`.
        """
        return "".join(self.say(text))

    def say(self, text: str) -> Generator[str, None, None]:
        """The reply to a message, in pieces as they become certain; both are then part of the conversation.

        A reply that is left off before its end (the generator is closed) stays as far as it came.

        Raises:
            UsageError: the message is empty, or alone leaves no room in the context; with both counts.
        """
        if not text.strip():
            raise UsageError("an empty message", expected="text")
        turns = [*self.messages, {"role": "user", "content": text}]
        context = self.model.config.context
        room = min(int(self._options["max_new_tokens"] or 1), max(1, context // _ROOM))
        kept = self.chat.fitted(turns, context - room)
        ids = self.chat.prompt(kept)
        if len(ids) >= context:
            raise UsageError(
                f"the message with what is around it has {len(ids)} tokens, the model's context is {context}",
                expected=f"at most {context - 1}, so that there is room to answer",
                next="shorten it" + (" or the system message" if self.system else ""),
            )
        self.forgotten = len(turns) - len(kept)
        number = sum(m["role"] == "user" for m in self.messages)
        pieces = stream(self.model, self.codec, ids, eos=self.chat.stop_ids, first=number, **self._options)
        return self._pieces(turns, pieces)

    def _pieces(
        self, turns: list[Message], pieces: Generator[str, None, Generation]
    ) -> Generator[str, None, None]:
        said: list[str] = []
        self.finish_reason = "interrupted"
        try:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    self.finish_reason = end.value.finish_reason
                    break
                said.append(piece)
                yield piece
        finally:
            pieces.close()
            self.messages = [*turns, {"role": "assistant", "content": "".join(said)}]
