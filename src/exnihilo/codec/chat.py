"""Conversations -> (ids, mask), by token lists: ChatML, and the Jinja template that others render it with.

Used by all of post-training, by evaluation and by `exnihilo chat`::

    chat = Chat(codec)
    rendered = chat.render([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}])
    rendered.ids, rendered.mask         # equally long; mask 1: this token is trained on
    ids = chat.prompt([{"role": "user", "content": "Hi"}])      # ends where the reply begins
    text = chat.reply(generated)        # without <|im_end|> and what is behind it

The layout, and what of it is trained on (in brackets)::

    <|bos|><|im_start|>user⏎Hi<|im_end|>⏎<|im_start|>assistant⏎[Hello.<|im_end|>]⏎

Special tokens are put in as ids, and the text between them is encoded alone: a message that spells
``<|im_end|>`` holds that text, and cannot end its own turn. A string is never parsed again, so the ids that
are trained on are the ids that a prompt begins with. `Chat.template`, rendered by Transformers or vLLM and
tokenized by them, gives the same ids, except where a message spells a special token: there theirs becomes it.

Format: ChatML, https://github.com/openai/openai-python/blob/v0.28.1/chatml.md; templates:
https://huggingface.co/docs/transformers/chat_templating
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from exnihilo.errors import CodecError

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec

START, END = "<|im_start|>", "<|im_end|>"
ROLES = ("system", "user", "assistant", "tool")
Train = Literal["assistant", "all", "last"]
Message = Mapping[str, Any]
"""``{"role": one of ROLES, "content": text}``; of an assistant also ``"weight": 0``: not trained on."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids. ``mask[i]`` is 1 where token i is trained on, else 0."""

    ids: list[int]
    mask: list[int]


class Chat:
    """Renders conversations for one codec.

    Args:
        codec: has ``<|im_start|>`` and ``<|im_end|>``, as every decoder codec trained here.

    Attributes:
        stop_ids: what ends a reply: ``<|im_end|>``, and the codec's eos. `stops`: in this order.
        template: Jinja text for Transformers and vLLM; `masked_template` marks what is trained on, too.

    Raises:
        CodecError: the codec lacks these tokens.
    """

    def __init__(self, codec: Codec) -> None:
        lacking = [t for t in (START, END) if codec.tokenizer.token_to_id(t) is None]
        if lacking:
            raise CodecError(
                f"the tokenizer has no {' and no '.join(lacking)}, so it cannot mark the turns of a "
                "conversation",
                expected="a decoder's tokenizer with both, as codec.kind=bpe, bytes and chars make it",
                next="start from a model whose tokenizer has them: exnihilo train gpt data=PATH makes one",
            )
        self.codec = codec
        self._start, self._end = codec.token_id(START), codec.token_id(END)
        own_bos = "bos" in codec.roles  # some tokenizers have none (Qwen's): codec.bos_id is then another's
        self._begin = [codec.bos_id] if own_bos else []
        self._headers = dict(zip(ROLES, codec.encode_batch([f"{r}\n" for r in ROLES]), strict=True))
        self._newline = codec.encode("\n")
        self.stops: list[int] = list(dict.fromkeys((self._end, codec.eos_id)))
        self.stop_ids: frozenset[int] = frozenset(self.stops)
        self.template: str = _template(own_bos, generation=False)
        self.masked_template: str = _template(own_bos, generation=True)

    def render(self, messages: Sequence[Message], *, train: Train = "assistant") -> Rendered:
        """A conversation as ids and mask.

        Args:
            messages: in order, each with a role and a text, whose white space at both ends is left out.
            train: on every assistant turn, on all tokens behind bos, or on the last assistant turn alone.
                An assistant's terminator is trained with it; the line break behind it only with "all".

        Raises:
            CodecError: a message without a known role, or whose content is no text.

        Example:
            >>> turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
            >>> Chat(codec).render(turns).mask      # doctest: +SKIP
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0]
        """
        return self.render_many([messages], train=train)[0]

    def render_many(
        self, conversations: Sequence[Sequence[Message]], *, train: Train = "assistant"
    ) -> list[Rendered]:
        """`render` of many conversations, their texts encoded together: on all cores."""
        if train not in ("assistant", "all", "last"):
            raise CodecError(f"train={train!r}", expected="assistant, all or last")
        texts = [text for messages in conversations for text in _contents(messages)]
        ids = iter(self.codec.encode_batch(texts))
        return [self._laid(messages, ids, train) for messages in conversations]

    def _laid(self, messages: Sequence[Message], contents: Iterable[list[int]], train: Train) -> Rendered:
        everything = int(train == "all")
        ids, mask = list(self._begin), [0] * len(self._begin)
        assistants = [n for n, m in enumerate(messages) if m["role"] == "assistant"]
        trained = set(assistants[-1:] if train == "last" else assistants)
        for number, (message, content) in enumerate(zip(messages, _some(contents, messages), strict=True)):
            header = self._headers[message["role"]]
            on = everything or int(number in trained and message.get("weight", 1) != 0)
            ids += [self._start, *header, *content, self._end, *self._newline]
            mask += [everything] * (1 + len(header)) + [on] * (len(content) + 1)
            mask += [everything] * len(self._newline)
        return Rendered(ids, mask)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation that waits for the assistant: the reply is what comes behind them.

        Raises:
            CodecError: as `render`.
        """
        return self.prompt_many([messages])[0]

    def prompt_many(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """`prompt` of many conversations."""
        tail = [self._start, *self._headers["assistant"]]
        return [r.ids + tail for r in self.render_many(conversations)]

    def completion(self, text: str) -> list[int]:
        """Ids of a reply as it is trained: its text and ``<|im_end|>``; comes behind `prompt`."""
        return [*self.codec.encode(text.strip()), self._end]

    def reply(self, ids: Sequence[int]) -> str:
        """The text of generated ids, up to what ended them."""
        end = next((n for n, id in enumerate(ids) if id in self.stop_ids), len(ids))
        return self.codec.decode(list(ids[:end]))

    def fitted(self, messages: Sequence[Message], most: int) -> list[Message]:
        """The conversation without its oldest turns, so that its prompt has at most `most` ids.

        System messages at its beginning stay, and it goes on with a user's message. Where the last message
        alone is too long, it is returned with them all the same: its length is for the caller to refuse.
        """
        head = next((n for n, m in enumerate(messages) if m["role"] != "system"), len(messages))
        starts = [n for n, m in enumerate(messages) if n > head and m["role"] == "user"]
        for first in (head, *starts):
            kept = [*messages[:head], *messages[first:]]
            if len(self.prompt(kept)) <= most:
                return kept
        return [*messages[:head], *messages[starts[-1] if starts else head :]]


def chat(codec: Codec) -> Chat:
    """`Chat` of a codec.

    Raises:
        CodecError: the codec has no tokens that mark turns.
    """
    return Chat(codec)


def is_chatml(template: str | None) -> bool:
    """Whether a tokenizer's chat template (None: it has none) is of this layout's family."""
    return isinstance(template, str) and START in template and END in template


def _contents(messages: Sequence[Message]) -> list[str]:
    """The texts of messages, checked."""
    out = []
    for number, message in enumerate(messages, 1):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise CodecError(f"message {number} has the role {role!r:.40}", expected=f"{', '.join(ROLES)}")
        if not isinstance(content, str):
            raise CodecError(
                f"message {number} ({role}) holds a {type(content).__name__}", expected="text as its content"
            )
        out.append(content.strip())
    return out


def _some(contents: Iterable[list[int]], messages: Sequence[Message]) -> list[list[int]]:
    """As many of an iterator's lists as there are messages."""
    source = iter(contents)
    return [next(source) for _ in messages]


def _template(bos: bool, generation: bool) -> str:
    """The layout in Jinja. With `generation`, Transformers can tell which tokens are the assistant's."""
    turn = "{{- message['content'] | trim + '<|im_end|>' }}"
    if generation:
        turn = (
            "{%- if message['role'] == 'assistant' %}"
            "{%- generation %}" + turn + "{%- endgeneration %}{%- else %}" + turn + "{%- endif %}"
        )
    return (
        ("{{- bos_token }}" if bos else "")
        + "{%- for message in messages %}"
        + "{{- '<|im_start|>' + message['role'] + '\\n' }}"
        + turn
        + "{{- '\\n' }}"
        + "{%- endfor %}"
        + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    )
