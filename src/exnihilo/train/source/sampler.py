"""Who draws completions for rollouts: this package's engine, or a server that speaks vLLM's protocol.

::

    sampler = create(parts)
    replies = sampler.draw(model, prompts, examples, seed=seed_of(0, 12, 0), places=[0, 1])
    sampler.text(replies[0][0])        # without what ended it

Nothing is cut from the distribution (no top-k, no top-p): what was drawn is what the trainer's softmax
says. A completion holds the token that ended it, so that stopping is learnt.

Key: no tensors
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from exnihilo.codec.chat import chat
from exnihilo.infer.engine import Engine
from exnihilo.infer.request import Completion, Request
from exnihilo.infer.sampling import Sampling
from exnihilo.objective.rlvr import talks
from exnihilo.train.source.base import Parts

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

SLOTS = {"cpu": 64}  # completions decoded at once
SLOTS_ELSEWHERE = 256


class Sampler(Protocol):
    """Draws groups of completions.

    Attributes:
        foreign: its log-probabilities are not the trainer's own forward: they are corrected for.
    """

    foreign: bool

    def draw(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        examples: Sequence[Mapping[str, Any]],
        *,
        seed: int,
        places: Sequence[int],
    ) -> list[list[Completion]]:
        """`rollout.group` completions of each prompt.

        Args:
            model: its weights are those of now.
            examples: the tasks, for environments.
            places: of the prompts in the batch: with `seed` they decide the random numbers.
        """
        ...

    def text(self, completion: Completion) -> str:
        """The reply as a grader sees it."""
        ...

    def close(self) -> None:
        """End connections."""
        ...


def seed_of(seed: int, batch: int, turn: int) -> int:
    """A seed for one draw of one batch: 64 bits that follow from the three numbers.

    >>> seed_of(0, 1, 0) == seed_of(0, 1, 0) != seed_of(0, 1, 1)
    True
    """
    digest = hashlib.blake2b(f"{seed} {batch} {turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def stops(codec: Codec) -> frozenset[int]:
    """What ends a reply."""
    return chat(codec).stop_ids if talks(codec) else frozenset((codec.eos_id,))


class Own:
    """The package's engine on the weights that are trained."""

    foreign = False

    def __init__(self, parts: Parts) -> None:
        self.how, self.codec = parts.config.rollout, parts.codec
        kind = parts.world.device.type
        self.slots = self.how.slots or SLOTS.get(kind, SLOTS_ELSEWHERE)
        self.stops = stops(parts.codec)
        self.sampling = Sampling(temperature=self.how.temperature)
        self._chat = chat(parts.codec) if talks(parts.codec) else None
        self._engine: Engine | None = None
        self._model: Model | None = None

    def engine(self, model: Model) -> Engine:
        """An engine that has read the model's weights of now."""
        if self._engine is None or self._model is not model:
            self._engine, self._model = Engine(model, slots=self.slots, eos=self.stops), model
        else:
            self._engine.refresh()
        return self._engine

    def draw(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        examples: Sequence[Mapping[str, Any]],
        *,
        seed: int,
        places: Sequence[int],
    ) -> list[list[Completion]]:
        n = self.how.group
        requests = [
            Request(
                prompt,
                max_new_tokens=self.how.max_new_tokens,
                sampling=self.sampling,
                n=n,
                seed=seed,
                number=place * n,
                stop_ids=self.stops,
            )
            for prompt, place in zip(prompts, places, strict=True)
        ]
        return self.engine(model).run(requests)

    def go_on(
        self,
        model: Model,
        starts: Sequence[Sequence[int]],
        left: Sequence[int],
        *,
        seed: int,
        numbers: Sequence[int],
    ) -> list[Completion]:
        """One completion of each start, of at most so many new tokens; for `turns`."""
        assert self._engine is not None and self._model is model
        made = [
            Request(
                start,
                max_new_tokens=most,
                sampling=self.sampling,
                seed=seed % 2**64,
                number=number,
                stop_ids=self.stops,
            )
            for start, most, number in zip(starts, left, numbers, strict=True)
        ]
        return [group[0] for group in self._engine.run(made)]

    def text(self, completion: Completion) -> str:
        # an embedding may have more rows than the tokenizer has ids: such a token has no text
        ids = [i for i in completion.ids if i < self.codec.vocab_size]
        if self._chat is not None:
            return self._chat.reply(ids)
        return self.codec.decode(ids[:-1] if ids and ids[-1] in self.stops else ids)

    def close(self) -> None:
        self._engine = self._model = None


def create(parts: Parts) -> Sampler:
    """The sampler that ``rollout.engine`` names, with the tools of ``environment``."""
    own: Sampler
    if parts.config.rollout.engine == "vllm":
        from exnihilo.train.source.vllm import Vllm

        own = Vllm(parts)
    else:
        own = Own(parts)
    if parts.config.environment:
        from exnihilo.train.source.turns import Turns

        return Turns(parts, own)
    return own
