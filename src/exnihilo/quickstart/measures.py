"""What a model of the world knows, prefers and can do, by its own replies to held-out prompts.

::

    found = measure(model, codec, chat=True)
    found["knows"]["share"], found["polite"]["low"], found["sorts"]["high"], found["stops"]

- knows: questions about people of whom no talk nor lesson was, answered greedily; the reply holds the fact;
- answers: the same, asked in turns, and the reply ends by itself;
- polite, rude, both: replies drawn at temperature 1 to the same questions, by the words that they begin
  with; both: polite and right at once;
- sorts: puzzles of numbers that no other stage has seen, one drawn reply each, right as a whole.

A base model knows no turns: what it knows and prefers is asked as people ask each other in its text, a line
each, and its reply is the next line. Random weights are asked like it. Intervals are 95%, bootstrap over
prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from exnihilo.infer import generate
from exnihilo.infer.interval import bootstrap
from exnihilo.world import World
from exnihilo.world.lessons import School, in_order, manner, says

if TYPE_CHECKING:
    from exnihilo.codec.base import Codec
    from exnihilo.model.model import Model

DRAWS = 3  # replies drawn to each question
LONGEST = 28  # tokens of a reply
NAMES = ("knows", "answers", "polite", "rude", "both", "sorts")


@lru_cache(maxsize=1)
def school() -> School:
    """The world's school; its questions and puzzles are the same in every run."""
    return School(World(0))


def measure(model: Model, codec: Codec, *, chat: bool, seed: int = 0) -> dict[str, Any]:
    """Shares with their intervals, how many replies ended by themselves, and some replies to show.

    Args:
        chat: it has learnt turns; False: what it knows and prefers is asked as lines of text.
    """
    asked = school().questions()
    puzzles = school().puzzles()
    questions = [question.question for question in asked]
    ask = Answerer(model, codec, chat, seed)
    in_turns = ask if chat else Answerer(model, codec, True, seed)
    greedy = ask.replies(questions, temperature=0.0)
    turns = greedy if chat else in_turns.replies(questions, temperature=0.0)
    drawn = ask.replies([text for text in questions for _ in range(DRAWS)], temperature=1.0)
    ordered = in_turns.replies([made["prompt"] for made in puzzles], temperature=1.0)
    manners = [manner(reply.text) for reply in drawn]
    right = [says(reply.text, asked[i // DRAWS].key) for i, reply in enumerate(drawn)]
    polite = [name == "polite" for name in manners]
    values = {
        "knows": [float(says(r.text, q.key)) for r, q in zip(greedy, asked, strict=True)],
        "answers": [float(says(r.text, q.key) and r.ended) for r, q in zip(turns, asked, strict=True)],
        "polite": _means(polite),
        "rude": _means([name == "rude" for name in manners]),
        "both": _means([a and b for a, b in zip(polite, right, strict=True)]),
        "sorts": [float(in_order(r.text, p["answer"])) for r, p in zip(ordered, puzzles, strict=True)],
    }
    out: dict[str, Any] = {name: share(values[name]) for name in NAMES}
    out["stops"] = sum(r.ended for r in turns) / len(turns)
    shown = [drawn[0].text, drawn[2 * DRAWS].text, ordered[0].text]
    out["replies"] = dict(zip((questions[0], questions[2], puzzles[0]["prompt"]), shown, strict=True))
    return out


def share(values: Sequence[float]) -> dict[str, float]:
    """A mean with its interval.

    >>> share([1.0, 1.0])
    {'share': 1.0, 'low': 1.0, 'high': 1.0, 'count': 2}
    """
    low, high = bootstrap(values)
    return {"share": sum(values) / len(values), "low": low, "high": high, "count": len(values)}


def _means(values: Sequence[bool]) -> list[float]:
    """Of the replies to each question."""
    return [sum(values[i : i + DRAWS]) / DRAWS for i in range(0, len(values), DRAWS)]


@dataclass(frozen=True)
class Reply:
    """A reply, and whether it ended by itself."""

    text: str
    ended: bool


class Answerer:
    """Asks a model, in turns or in lines."""

    def __init__(self, model: Model, codec: Codec, chat: bool, seed: int) -> None:
        from exnihilo.codec.chat import Chat

        self.model, self.codec, self.seed = model, codec, seed
        self.chat = Chat(codec) if chat else None

    def replies(self, texts: Sequence[str], *, temperature: float) -> list[Reply]:
        """One reply to each text."""
        chat, codec = self.chat, self.codec
        if chat is not None:
            prompts = chat.prompt_many([[{"role": "user", "content": text}] for text in texts])
            stops: dict[str, Any] = {"eos": chat.stop_ids}
        else:
            prompts = [[codec.bos_id, *codec.encode(text + "\n")] for text in texts]
            stops = {"stop": "\n"}
        made = generate(
            self.model,
            codec,
            prompts,
            max_new_tokens=LONGEST,
            temperature=temperature,
            seed=self.seed,
            rows=256,
            **stops,
        )
        return [
            Reply(each.text if chat is None else chat.reply(each.ids), each.finish_reason != "length")
            for each in made
        ]
