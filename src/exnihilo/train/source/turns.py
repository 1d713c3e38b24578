"""Rollouts of several turns: an environment's tools answer, and the model goes on.

::

    sampler = Turns(parts, own)        # draws like `own`; each completion is an episode

A completion then holds all behind the prompt: what the model drew (mask 1), the tools' turns and headers
(mask 0). A turn goes on from the ids that were drawn; its random numbers follow from (seed, place, turn).

Key: no tensors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from exnihilo.codec.chat import chat
from exnihilo.errors import ConfigError
from exnihilo.objective.rlvr import talks
from exnihilo.train.source import environments
from exnihilo.train.source.base import Parts

if TYPE_CHECKING:
    from exnihilo.model.model import Model


class Turns:
    """Plays episodes with what another sampler draws."""

    def __init__(self, parts: Parts, own: Any) -> None:
        if not hasattr(own, "go_on"):
            raise ConfigError(
                f"environment={parts.config.environment} with rollout.engine={parts.config.rollout.engine}",
                expected="an engine that can go on from a tool's answer",
                next="rollout.engine=own",
            )
        if not talks(parts.codec):
            raise ConfigError(
                "an environment with a tokenizer that cannot mark turns",
                expected="a tokenizer with <|im_start|> and <|im_end|>",
                next="start from a model whose tokenizer has them",
            )
        self.own, self.how, self.foreign = own, parts.config.rollout, own.foreign
        self.environment = environments.create(parts.config.environment)
        self.chat, self.context = chat(parts.codec), parts.config.model.context

    def draw(
        self,
        model: Model,
        prompts: Sequence[Sequence[int]],
        examples: Sequence[Mapping[str, Any]],
        *,
        seed: int,
        places: Sequence[int],
    ) -> list[list[Any]]:
        n = self.how.group
        first = [
            c for group in self.own.draw(model, prompts, examples, seed=seed, places=places) for c in group
        ]
        numbers = [place * n + j for place in places for j in range(n)]

        def more(
            going: Sequence[int], starts: Sequence[Sequence[int]], left: Sequence[int], turn: int
        ) -> list[Any]:
            return self.own.go_on(model, starts, left, seed=seed + turn, numbers=[numbers[i] for i in going])

        episodes = environments.converse(
            self.environment,
            self.chat,
            [_messages(e["prompt"]) for e in examples for _ in range(n)],
            [list(p) for p in prompts for _ in range(n)],
            first,
            more,
            max_new_tokens=self.how.max_new_tokens,
            context=self.context,
        )
        return [episodes[i : i + n] for i in range(0, len(episodes), n)]

    def text(self, completion: Any) -> str:
        """The last assistant message."""
        return completion.text

    def close(self) -> None:
        """End what draws."""
        self.own.close()


def _messages(prompt: Any) -> list[Mapping[str, Any]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
