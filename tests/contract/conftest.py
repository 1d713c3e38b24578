"""What each objective is put through the contract with: examples of its roles, its tokenizer, a small model.

A test takes `case`: it runs once for every objective there is, found by listing their folder.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import pytest

from exnihilo.codec import train as train_codec
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, ModelConfig
from exnihilo.model import build
from exnihilo.model.model import Model
from exnihilo.nn.layout import Attention
from exnihilo.objective import registry
from exnihilo.objective.base import Example, Item, Objective

LENGTH = 64
TEXTS = (
    "a",
    "The cat sat on the mat. It was warm there. The dog came in, and the cat ran away. Nobody saw it again.",
    "Once there was a fox who wanted a red ball. He asked the owl. The owl said no. So he ran home.",
    "Ünïcödé, 漢字 and 🦊.",
    "Two plus two is four, and four plus four is eight; that is all. Is there more? There is. Nine is odd.",
    "She went home. He stayed. They wrote letters. The letters were long. One of them was lost at sea.",
    "b c d e f g",
    "“Where is it?” he asked. “I do not know,” she said. He looked again. There it was, on the table.",
)
WORDS = [text.replace(".", "").split() for text in TEXTS]
SOUNDS = ("bell", "drum", "horn", "wind")
DRAWN = ("kite", "drum", "cup", "key")
SERIES = ("tide", "walk", "beats", "trend")
QUESTIONS = ("Where was it warm?", "Who said no?", "What is odd?", "What was lost?")


def talk(*contents: str) -> list[dict[str, str]]:
    """Messages of a user and an assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def _examples() -> dict[frozenset[str], list[Example]]:
    """By the roles that training needs."""
    contexts = [TEXTS[i] for i in (1, 2, 4, 5)]
    answers = ("there", "The owl", "Nine", "One of them")
    sides = list(zip(TEXTS, TEXTS[::-1], strict=True))
    found: dict[frozenset[str], list[Example]] = {
        frozenset({"text"}): [{"text": text} for text in TEXTS],
        frozenset({"text", "label"}): [
            {"text": t, "label": ("good", "bad", "so-so")[i % 3]} for i, t in enumerate(TEXTS)
        ],
        frozenset({"a", "b", "label"}): [
            {"a": a, "b": b, "label": ("yes", "no")[i % 2]} for i, (a, b) in enumerate(sides)
        ],
        frozenset({"a", "b"}): [
            {"a": a, "b": b, "score": min(i, 7 - i) / 2} for i, (a, b) in enumerate(sides)
        ],
        frozenset({"query", "document", "label"}): [
            {"query": q, "document": c, "label": int(i == j)}
            for i, q in enumerate(QUESTIONS)
            for j, c in enumerate(contexts[:2])
        ],
        frozenset({"question", "context", "answers"}): [
            *(
                {"id": str(i), "question": q, "context": c, "answers": [{"text": a, "start": c.index(a)}]}
                for i, (q, c, a) in enumerate(zip(QUESTIONS, contexts, answers, strict=True))
            ),
            {"id": "none", "question": "Why?", "context": TEXTS[7], "answers": []},
        ],
        frozenset({"messages"}): [
            *({"messages": talk(q, a)} for q, a in zip(QUESTIONS, answers, strict=True)),
            {"messages": talk("Who?", "A fox.", "What?", "A red ball.")},
            {"messages": [{"role": "system", "content": "Be brief."}, *talk("Hi", "Hello.")]},
            {
                "messages": [
                    *talk("2 + 2?", "add(2, 2)"),
                    {"role": "tool", "content": "4"},
                    talk("", "Four.")[1],
                ]
            },
        ],
        frozenset({"prompt", "chosen", "rejected"}): [
            {"prompt": talk(q), "chosen": talk("", a)[1:], "rejected": talk("", b)[1:]}
            for q, a, b in zip(QUESTIONS, answers, ("nowhere", "Nobody did.", "Four", "A"), strict=True)
        ],
        frozenset({"sound"}): [{"sound": f"world:{k}:{i}:0.{4 + i}"} for i, k in enumerate(SOUNDS)],
        frozenset({"sound", "label"}): [
            {"sound": f"world:{k}:{i}:0.{4 + i}", "label": k} for i, k in enumerate(SOUNDS)
        ],
        frozenset({"sound", "text"}): [
            {"sound": f"world:{k}:{i}:0.{4 + i}", "text": f"the {k}"} for i, k in enumerate(SOUNDS)
        ],
        frozenset({"picture"}): [{"picture": f"world:red-{k}@1:{i}"} for i, k in enumerate(DRAWN)],
        frozenset({"picture", "label"}): [
            {"picture": f"world:red-{k}@1:{i}", "label": k} for i, k in enumerate(DRAWN)
        ],
        frozenset({"picture", "text"}): [
            {"picture": f"world:red-{k}@1:{i}", "text": f"the {k}"} for i, k in enumerate(DRAWN)
        ],
        frozenset({"sound", "events"}): [
            {"sound": f"world:{k}:{i}:0.{4 + i}", "events": [{"start": 0.1, "end": 0.3, "label": k}]}
            for i, k in enumerate(SOUNDS)
        ],
        frozenset({"question", "answer"}): [
            {"question": "What colour?", "answer": "red", "picture": "world:red-kite@1:3"},
            {"question": "What is heard?", "answer": "the drum", "sound": "world:drum:1:0.1"},
            {
                "question": "Where is it?",
                "answer": "at the top",
                "picture": "world:blue-bell@2:5",
                "sound": "world:bell:4:0.06",
            },
            {"question": "Who said no?", "answer": "The owl"},
        ],
        frozenset({"prompt"}): [  # groups that were drawn and graded elsewhere
            {"prompt": talk(q), "completions": [a, "No idea.", "b"], "rewards": [1.0, 0.0, float(i % 2)]}
            for i, (q, a) in enumerate(zip(QUESTIONS, answers, strict=True))
        ],
        frozenset({"series"}): [
            {"series": f"world:{k}:{i}:{60 + i}", "part": "all"} for i, k in enumerate(SERIES)
        ],
        frozenset({"series", "label"}): [
            {"series": f"world:{k}:{i}:{60 + i}", "label": k} for i, k in enumerate(SERIES)
        ],
        frozenset({"words", "tags"}): [
            {"words": words, "tags": [("O", "B-X", "I-X")[i % 3] for i in range(len(words))]}
            for words in WORDS
        ],
    }
    return found


EXAMPLES = _examples()
# What an objective needs to be told here. Contrastive vectors are learnt from the other pairs of a row, so
# how rows are laid out is part of that loss (its own tests hold its laws); scores are learnt pair by pair.
OPTIONS: dict[str, dict[str, Any]] = {
    "embeddings": {"loss": "cosine"},
    "sound_tokens": {"rate": 1000},
    "series_tokens": {"history": 32, "horizon": 16},
    "media_qa": {"size": 16, "patch": 8},
    **{name: {"size": 16} for name in ("picture_classification", "masked_picture", "caption")},
    "picture_tokens": {"size": 6},
}
CODEC = train_codec(CodecConfig(kind="wordpiece", vocab_size=400, lowercase=True), TEXTS)
CHAT_CODEC = train_codec(
    CodecConfig(kind="bpe", vocab_size=500), [*TEXTS, "user\n", "assistant\n", "system\n"] * 2
)
WAVES = train_codec(CodecConfig(kind="waves"), ())
BINS = train_codec(CodecConfig(kind="ids", ids=64), ())
assert CODEC.pad_id == CHAT_CODEC.pad_id == WAVES.pad_id
CHATS = frozenset({"messages", "prompt"})  # roles that are rendered as conversations


class Case:
    """One objective with what it learns from its training data."""

    length = LENGTH

    def __init__(self, name: str) -> None:
        options = OPTIONS.get(name)
        first = registry.create(name, options, length=LENGTH)
        self.objective: Objective = first
        self.objective = registry.create(name, options, length=LENGTH, facts=first.survey(self.examples))

    @cached_property
    def codec(self) -> Codec:
        """The tokenizer: those that render conversations need marks of turns, raw sound its own."""
        if type(self.objective).__name__ in ("SoundTokens", "PictureTokens"):
            return WAVES
        if type(self.objective).__name__ == "SeriesTokens":
            return BINS
        return CHAT_CODEC if CHATS & set(self.objective.roles) else CODEC

    @cached_property
    def examples(self) -> list[Example]:
        """Of the roles that it reads."""
        roles = frozenset(self.objective.roles)
        assert roles in EXAMPLES, f"give the contract examples with the roles {sorted(roles)}"
        if self.objective.lookahead and "sound" in roles:  # a sample is a token
            return [{"sound": f"world:{k}:{i}:0.0{4 + i}"} for i, k in enumerate(SOUNDS)]
        return EXAMPLES[roles]

    @property
    def questions(self) -> list[Example]:
        """What a user asks."""
        gaps = [{"text": "The [MASK] sat."}, {"text": "[MASK] said no, and the owl [MASK] to the [MASK]."}]
        pairs = [{"a": a, "b": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]
        if self.objective.supervised:
            return self.examples
        heads = self.objective.heads
        return [*(gaps if "mlm" in heads else []), *(pairs if "next" in heads else [])]

    def items(self) -> list[Item]:
        """The examples encoded."""
        made = self.objective.encode_many(self.examples, self.codec)
        items = [item for several in made for item in several]
        if "ref_logp" in self.objective.columns:  # a source adds it
            items = [{**item, "ref_logp": -2.0 * np.asarray(item["mask"], np.float32)} for item in items]
        return items

    def model(self, seed: int = 0) -> Model:
        """A small one of its kind, in float64."""
        objective = self.objective
        config = ModelConfig(
            family="bert" if objective.attention is Attention.FULL else "qwen3",
            depth=2,
            width=32,
            heads=2,
            context=128,
            vocab_size=self.codec.vocab_size,
            labels=objective.labels,
            crf=bool(getattr(objective.config, "crf", False)),
            inputs=objective.model_settings.get("inputs", {}),
            straight=objective.model_settings.get("straight"),
        )
        return build(config, heads=objective.heads, seed=seed).double()


@pytest.fixture(params=registry.names())
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)
