"""Prompts in memory, for rollouts and for replies in evaluations: what is asked, and what is right.

::

    tasks = Tasks.read(config, objective, "train")
    numbers = tasks.order(seed).rows(step, 8)     # which prompts a step has: a function of (seed, step)
    tasks.examples[numbers[0]]                    # {"prompt": [{"role": "user", ...}], "answer": "7", ...}

Dialogues (``messages``) become tasks, too: all but the last turn of the assistant is asked, that turn is the
answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from exnihilo import data as datas
from exnihilo.config import RunConfig
from exnihilo.data.base import Drops
from exnihilo.data.cache import digest
from exnihilo.data.dataset import DocRef
from exnihilo.data.order import Order
from exnihilo.errors import DataError
from exnihilo.objective.base import Example, Objective
from exnihilo.train.facts import reading
from exnihilo.train.source.troubles import place

SHOWN = 80  # characters of a prompt in a reference to it


class Tasks:
    """Examples with a prompt, and what identifies them.

    Args:
        examples: roles to values.
        context: positions of a row, for speeds.
        name: of the source.

    Attributes:
        hash: of all contents.
        rows: how many there are.
        drops: records that were left out when it was read, and why.
    """

    def __init__(
        self, examples: Sequence[Example], *, context: int, name: str = "tasks", drops: Drops | None = None
    ) -> None:
        self.drops = drops or Drops()
        self.examples: list[Example] = list(examples)
        self.context = context
        self.source_names = (name,)
        self.source_rows = (len(self.examples),)
        self.rows = len(self.examples)
        self.tokens = self.rows * context
        self.hash = digest([_plain(e) for e in self.examples])

    @classmethod
    def read(cls, config: RunConfig, objective: Objective, side: Literal["train", "val"]) -> Tasks:
        """The tasks of one side of the run's data.

        Raises:
            DataError: there are none to train on.
        """
        drops, kept = Drops(), []
        for example in datas.examples(config.data, config.val, side, drops=drops, **reading(objective)):
            task = task_of(example)
            if task is None:
                drops.add("that ask nothing", place(example))
            else:
                kept.append(task)
        if not kept and side == "train":
            raise DataError(
                f"the training data has no prompt{drops.summary(': ')}",
                expected=f"examples with {' and '.join(objective.roles)}",
                next="check data= and data.fields",
            )
        name = config.data.sources[0].name or "tasks"
        drawn = config.rollout.group * config.rollout.max_new_tokens  # tokens of a prompt's completions
        context = drawn if objective.needs == "rollout" else config.model.context
        return cls(kept, context=context, name=name, drops=drops)

    def __len__(self) -> int:
        return self.rows

    def order(self, seed: int) -> Order:
        """Which prompts a step has: each once a pass, in an order of its own."""
        return Order([self.rows], None, seed)

    def refs(self, row: int) -> list[DocRef]:
        """Where a prompt comes from."""
        example = self.examples[row]
        preview = " ".join(prompt_text(example["prompt"]).split())[:SHOWN]
        return [
            DocRef(
                self.source_names[0],
                str(example.get("_file", "")),
                int(example.get("_index", row)),
                preview,
            )
        ]


def tasks_of(examples: Iterable[Example]) -> list[Example]:
    """Those that ask something, as tasks."""
    return [task for task in map(task_of, examples) if task is not None]


def task_of(example: Example) -> Example | None:
    """An example as a task: "prompt" (messages), perhaps "answer", and the rest as it was; None where it asks
    nothing.

    >>> asked = task_of({"messages": [{"role": "user", "content": "2+2?"},
    ...                               {"role": "assistant", "content": "4"}]})
    >>> asked["prompt"], asked["answer"]
    ([{'role': 'user', 'content': '2+2?'}], '4')
    """
    if example.get("prompt"):
        prompt = example["prompt"]
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        found = {**example, "prompt": messages}
        answer = next((example[r] for r in ("answer", "completion", "chosen") if example.get(r)), None)
        if answer is not None and not isinstance(answer, str):
            answer = prompt_text(answer)
        return {**found, "answer": answer} if answer is not None else found
    messages = list(example.get("messages") or ())
    last = max((i for i, m in enumerate(messages) if m.get("role") == "assistant"), default=0)
    if not last:
        return None
    rest = {k: v for k, v in example.items() if k != "messages"}
    return {**rest, "prompt": messages[:last], "answer": messages[last]["content"]}


def prompt_text(messages: Any) -> str:
    """The last message's words."""
    if isinstance(messages, str):
        return messages
    return str(messages[-1]["content"]) if messages else ""


def _plain(example: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in example.items() if not k.startswith("_")}
