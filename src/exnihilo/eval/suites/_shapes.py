"""Records of well-known data sets -> what a suite asks. None, with a reason, where a record cannot be used.

passage    {text | passage | story ...} (the last word is asked), or {context | prompt, target | completion}
question   ARC, OpenBookQA  {question | question_stem, choices: {text, label}, answerKey}
           MMLU             {question, choices: [...], answer: 2 or "C"}; columns A, B, C, D will do
           HellaSwag        {ctx, endings: [...], label}
           PIQA             {goal, sol1, sol2, label}
           WinoGrande       {sentence with _, option1, option2, answer: "1"}
           own              {question | prompt | context, choices | options, answer | label: number from 0,
                             letter, or the choice itself}
problem    GSM8K            {question, answer: "... #### 72"}
           SVAMP            {Body, Question, Answer}
           own              {question | problem | prompt, answer | solution}
code       HumanEval        {prompt, test, entry_point}
           MBPP             {text | prompt, test_list}
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exnihilo.eval.suites._records import first

_PASSAGE = (
    *("text", "passage", "story", "sentence", "content", "document", "body", "paragraph", "page", "article"),
)
_ASKED = ("question", "question_stem", "problem", "query")
_BEGUN = ("context", "ctx", "prompt", "premise", "text", "passage", "startphrase")
_CHOICES = ("choices", "options", "endings", "answers", "candidates")
_RIGHT = ("answer", "label", "answerkey", "answer_index", "answer_idx", "gold", "target", "correct")
_LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class Passage:
    """A text whose last words are asked: ``context + target``; the target begins with its space."""

    context: str
    target: str


@dataclass(frozen=True)
class Question:
    """A choice. `asked`: the prompt is a question, which is answered; else a text, which goes on.

    With `suffix`, the choices differ before it, and what is likely is the suffix behind each (WinoGrande).
    """

    prompt: str
    choices: tuple[str, ...]
    answer: int
    asked: bool
    suffix: str = ""


@dataclass(frozen=True)
class Problem:
    """A question with an answer that a grader checks; `record` is the raw record."""

    question: str
    answer: str
    record: Mapping[str, Any]


def passage(record: Mapping[str, Any]) -> Passage | str:
    """A passage, or why there is none.

    >>> passage({"text": "The cat sat on the mat"})
    Passage(context='The cat sat on the', target=' mat')
    """
    target = first(record, "target", "completion", "ending", "last_word")
    if isinstance(target, str) and target.strip():
        context = first(record, "context", "prompt", *_PASSAGE)
        if not isinstance(context, str) or not context.strip():
            return "without a context before the target"
        return Passage(context.rstrip(), f" {target.strip()}")
    text = first(record, *_PASSAGE, "prompt", "context")
    return last_word(text) if isinstance(text, str) else "without a text"


def last_word(text: str) -> Passage | str:
    """A text cut before its last word, at a space, as LAMBADA is."""
    context, space, word = text.strip().rpartition(" ")
    if not space or not context.strip() or not word:
        return "of fewer than two words"
    return Passage(context.rstrip(), f" {word}")


def question(record: Mapping[str, Any]) -> Question | str:
    """A choice, or why there is none.

    >>> question({"question": "2 + 2?", "choices": ["3", "4"], "answer": "B"})
    Question(prompt='2 + 2?', choices=('3', '4'), answer=1, asked=True, suffix='')
    """
    goal, one, two = first(record, "goal"), first(record, "sol1"), first(record, "sol2")
    if goal is not None and one is not None and two is not None:
        return _question(goal, (one, two), first(record, *_RIGHT), True)
    one, two = first(record, "option1"), first(record, "option2")
    sentence = first(record, "sentence")
    if isinstance(sentence, str) and "_" in sentence and one is not None and two is not None:
        return _gap(sentence, (one, two), first(record, *_RIGHT))
    choices, labels = _choices(record)
    if not choices:
        return "without choices"
    asked = first(record, *_ASKED)
    begun = first(record, *_BEGUN)
    if asked is not None and isinstance(begun, str) and begun.strip():
        asked = f"{begun.strip()}\n\n{asked}"  # a passage and a question about it
    prompt = begun if asked is None else asked
    return _question(prompt, choices, first(record, *_RIGHT), asked is not None, labels)


def _choices(record: Mapping[str, Any]) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """(texts, labels) of the choices."""
    given = first(record, *_CHOICES)
    if isinstance(given, Mapping) and isinstance(given.get("text"), Sequence):  # ARC in columns
        return tuple(given["text"]), tuple(map(str, given.get("label") or ()))
    if isinstance(given, Mapping):  # {"A": "...", "B": "..."}
        return tuple(given.values()), tuple(map(str, given))
    if isinstance(given, Sequence) and not isinstance(given, str):
        if given and all(isinstance(x, Mapping) and "text" in x for x in given):  # ARC in rows
            return tuple(x["text"] for x in given), tuple(str(x.get("label", "")) for x in given)
        return tuple(given), ()
    if first(record, "a") is not None and first(record, "b") is not None:
        kept = [letter for letter in _LETTERS[:10] if first(record, letter.lower()) is not None]
        return tuple(first(record, letter.lower()) for letter in kept), tuple(kept)
    return (), ()


def _question(
    prompt: Any, choices: Sequence[Any], right: Any, asked: bool, labels: Sequence[str] = ()
) -> Question | str:
    if not isinstance(prompt, str) or not prompt.strip():
        return "without a question"
    texts = tuple(str(choice).strip() for choice in choices)
    if len(texts) < 2 or not all(texts):
        return "with an empty choice or fewer than two"
    answer = _right(right, texts, labels)
    return answer if isinstance(answer, str) else Question(prompt.strip(), texts, answer, asked)


def _gap(sentence: str, options: tuple[Any, Any], right: Any) -> Question | str:
    """WinoGrande: each option stands in the gap, and what is behind it is asked for."""
    before, _, after = sentence.partition("_")
    texts = tuple(str(option).strip() for option in options)
    if not all(texts) or not after.strip():
        return "with an empty choice or fewer than two"
    answer = _right(right, texts, ("1", "2"))
    return answer if isinstance(answer, str) else Question(before.strip(), texts, answer, False, after)


def _right(right: Any, choices: Sequence[str], labels: Sequence[str]) -> int | str:
    """The index of the right choice, or why there is none."""
    if right is None or right == "":
        return "without an answer"
    text = str(right).strip()
    found: int | None = None
    if text in labels:
        found = list(labels).index(text)
    elif isinstance(right, int) and not isinstance(right, bool):
        found = right
    elif text in choices:
        found = list(choices).index(text)
    elif len(text) == 1 and text.upper() in _LETTERS:
        found = _LETTERS.index(text.upper())
    elif text.isdecimal():
        found = int(text)
    if found is None or not 0 <= found < len(choices):
        return "whose answer is none of the choices"
    return found


def problem(record: Mapping[str, Any]) -> Problem | str:
    """A problem, or why there is none.

    >>> problem({"question": "1 + 1?", "answer": "It is 2.\\n#### 2"}).answer
    'It is 2.\\n#### 2'
    """
    asked = first(record, *_ASKED, "prompt", "instruction", "input")
    body = first(record, "body")
    if isinstance(asked, Sequence) and not isinstance(asked, str):  # messages
        turns = [m for m in asked if isinstance(m, Mapping) and isinstance(m.get("content"), str)]
        asked = turns[-1]["content"] if turns else None
    if not isinstance(asked, str) or not asked.strip():
        return "without a question"
    if isinstance(body, str) and body.strip():
        end = "" if body.rstrip()[-1:] in ".!?," else "."
        asked = f"{body.strip()}{end} {asked.strip()}"
    answer = first(record, "answer", "solution", "output", "target")
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if answer is None or isinstance(answer, (list, dict)) or not str(answer).strip():
        return "without an answer"
    return Problem(asked.strip(), str(answer).strip(), record)


def code(record: Mapping[str, Any]) -> Problem | str:
    """A programming problem: its tests stay in the record, where the grader ``code`` looks for them."""
    asked = first(record, "prompt", "text", "question", "problem")
    if not isinstance(asked, str) or not asked.strip():
        return "without a prompt"
    tests = first(record, "test", "test_list", "tests", "input_output")
    if tests is None or tests == [] or tests == "":
        return "without tests"
    solution = first(record, "canonical_solution", "code", "solution", "answer")
    return Problem(asked.rstrip("\n"), str(solution or ""), record)
