"""Supervised fine-tuning: a decoder learns the assistant's turns of conversations.

::

    exnihilo train sft init=runs/base data=chats.jsonl
    exnihilo train sft init=runs/base data=alpaca.json options.train=last options.neftune=5

An example has ``messages``: [{"role": "system" | "user" | "assistant" | "tool", "content": ...}]. The chat
codec renders them to token ids and a mask together: 1 at what the assistant says and at the token that ends
its turn, 0 elsewhere, so what users and tools say is read and never learnt. Conversations are packed into
rows whole and see nothing of each other. One that is longer than a row keeps the turns that fit; one without
anything to learn is left out. Both are counted with the first row's number. The loss is −Σ log p over the
trained tokens, in nats.

NEFTune (``options.neftune=α``) adds to each embedded token uniform noise in ±α/√(L·D), L the conversation's
tokens: Jain et al. 2023, *NEFTune: Noisy Embeddings Improve Instruction Finetuning*, arXiv:2310.05914.

Sources: Ouyang et al. 2022 (arXiv:2203.02155), section 3; the loss on replies only as in
https://github.com/karpathy/nanochat (render to ids and mask together). See docs/sft.md.

Key: B rows, T positions (a row holds T+1 tokens), D model width, N trained positions, V vocabulary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from exnihilo.codec.chat import chat
from exnihilo.data.base import Noted
from exnihilo.errors import DataError
from exnihilo.kernels.linear_ce import IGNORE, linear_cross_entropy
from exnihilo.nn.layout import Attention
from exnihilo.objective._likelihood import Likelihood
from exnihilo.objective._text import dtype_of
from exnihilo.objective.base import Batch, Example, Item
from exnihilo.objective.causal_lm import shift

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.codec.chat import Chat, Rendered
    from exnihilo.model.model import Model

Message = Mapping[str, str]

NOTHING = "conversations with nothing to train on"
TOO_LONG = "conversations without an exchange that fits the context"
CUT = "conversations longer than the context (they stay, cut at whole turns)"


class SFT(Likelihood):
    """Decoder post-training on conversations; the result answers and stops."""

    attention: ClassVar[Attention] = Attention.CAUSAL
    heads: ClassVar[tuple[str, ...]] = ("tokens",)
    columns: ClassVar[frozenset[str]] = frozenset({"tokens", "doc", "pos", "mask", "source"})
    roles: ClassVar[tuple[str, ...]] = ("messages",)
    view: ClassVar[str] = "dialogues"
    lookahead: ClassVar[int] = 1
    stage: ClassVar[Literal["pretrain", "tune", "align"]] = "tune"
    replies: ClassVar[bool] = True

    class Config(BaseModel):
        """Options.

        Attributes:
            train: what is learnt: assistant (every reply), last (the last reply alone), all (every token).
            neftune: α of the noise on embedded tokens; 0: none. The paper uses 5 to 15.
        """

        model_config = ConfigDict(frozen=True, extra="forbid")
        train: Literal["assistant", "last", "all"] = "assistant"
        neftune: float = Field(default=0.0, ge=0)

    config: Config

    # data ---------------------------------------------------------------------------------------

    def encode(self, example: Example, codec: Codec) -> list[Item]:
        return self.encode_many([example], codec)[0]

    def encode_many(self, examples: Sequence[Example], codec: Codec) -> list[list[Item]]:
        """One item an example: tokens, and the mask of the trained ones; none where nothing can be learnt.

        Raises:
            CodecError: the codec has no chat tokens.
            DataError: an example without messages.
        """
        speaker, dtype = chat(codec), dtype_of(codec)
        talks = [messages_of(example) for example in examples]
        rendered = speaker.render_many(talks, train=self.config.train)
        return [self._item(m, r, speaker, dtype) for m, r in zip(talks, rendered, strict=True)]

    def _item(
        self, messages: Sequence[Message], rendered: Rendered, speaker: Chat, dtype: type[np.generic]
    ) -> list[Item]:
        whole, note = trimmed(rendered), ""
        if whole is None:
            return Noted([], NOTHING)
        ids, mask = whole
        if self.length is not None and len(ids) > self.length + self.lookahead:
            shorter = self._cut(messages, speaker, self.length + self.lookahead)
            if shorter is None:
                return Noted([], TOO_LONG)
            (ids, mask), note = shorter, CUT
        item: Item = {"tokens": np.array(ids, dtype), "mask": np.array(mask, np.uint8)}
        return Noted([item], note)

    def _cut(
        self, messages: Sequence[Message], speaker: Chat, limit: int
    ) -> tuple[list[int], list[int]] | None:
        """The conversation in whole turns that fit and teach something: its beginning; where only the last
        reply is trained, the system's turn and the end. None: no turn fits."""
        head = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
        if self.config.train == "last":
            users = (i for i in range(head + 1, len(messages)) if messages[i]["role"] == "user")
            parts = ([*messages[:head], *messages[i:]] for i in users)
        else:
            ends = (n for n in range(len(messages) - 1, head, -1) if messages[n - 1]["role"] == "assistant")
            parts = (messages[:n] for n in ends)
        for part in parts:
            found = trimmed(speaker.render(part, train=self.config.train))
            if found is not None and len(found[0]) <= limit:
                return found
        return None

    # training -----------------------------------------------------------------------------------

    @staticmethod
    def targets(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """See `Likelihood`."""
        return trained(batch)

    def _nll(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        """(Σ over trained tokens, each position's own (B, T), detached)."""
        inputs, targets_BT = trained(batch)
        kept_BT = targets_BT != IGNORE
        inputs["needed"] = kept_BT
        if self.config.neftune and model.training:
            assert model.config.width is not None
            inputs["noise"] = spread(batch, self.config.neftune, model.config.width)
        hidden_BTD = model(inputs, self.attention)
        head: Any = model.heads["tokens"]
        if hidden_BTD.device.type != "cpu":  # to count the kept ones would make the device wait
            total, nll_N = linear_cross_entropy(
                hidden_BTD.flatten(0, 1), head.weight, targets_BT.flatten(), bias_V=head.bias
            )
            return total, nll_N.view_as(targets_BT)
        total, nll_N = linear_cross_entropy(
            hidden_BTD[kept_BT], head.weight, targets_BT[kept_BT], bias_V=head.bias
        )
        return total, nll_N.new_zeros(targets_BT.shape).masked_scatter_(kept_BT, nll_N)


def messages_of(example: Example) -> list[Message]:
    """The role "messages" of an example.

    Raises:
        DataError: it is missing or no list of {"role", "content"}.
    """
    found = example.get("messages")
    if isinstance(found, (list, tuple)) and all(
        isinstance(m, Mapping) and isinstance(m.get("content"), str) and "role" in m for m in found
    ):
        return list(found)
    raise DataError(
        f"an example without messages; its roles: {sorted(k for k in example if k[0] != '_')}",
        expected='a role "messages": a list of {"role", "content"}',
        next='name the column with data.fields={messages = "COLUMN"}',
    )


def trimmed(rendered: Rendered) -> tuple[list[int], list[int]] | None:
    """(ids, mask) up to the last trained token: what follows it teaches nothing. None: no token is trained.

    The first token has nothing before it to be predicted from, so it does not count.
    """
    last = len(rendered.mask) - 1
    while last > 0 and not rendered.mask[last]:
        last -= 1
    return (rendered.ids[: last + 1], rendered.mask[: last + 1]) if last > 0 else None


def trained(batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """(inputs of T positions, targets_BT): the tokens shifted by one, ignored where the mask has no 1."""
    inputs, targets_BT = shift(batch)
    return inputs, targets_BT.where(batch["mask"][:, 1:] > 0, IGNORE)


def spread(batch: Batch, alpha: float, width: int) -> Tensor:
    """Half-width of NEFTune's noise at each position, (B, T): α/√(L·D), L the tokens of its conversation."""
    tokens = batch["tokens"]
    doc = batch.get("doc")
    if doc is None:
        size = torch.tensor(float(tokens.shape[1]), device=tokens.device).expand(tokens.shape)
    else:
        at = (doc + 1).long()  # padding is document 0 here, and no one reads its noise
        sizes = torch.zeros(len(at), int(tokens.shape[1]) + 1, device=at.device)
        size = sizes.scatter_add_(1, at, torch.ones_like(at, dtype=sizes.dtype)).gather(1, at)
    return alpha / (size[:, :-1] * width).sqrt()
