"""A grader, tried with answers that are known to be right or wrong: its false negatives and false positives.

::

    found = fuzz(create("number"), "number", tasks)
    found.rows          # (kind of answer, "right" or "wrong", tries, paid, an example that went wrong)
    found.paid_wrong, found.unpaid_right, found.paid_unreadable

Right answers are the gold in the ways in which models give it; wrong ones are near misses, hedges and what is
known to deceive checkers: a neighbour's answer, the prompt itself, several answers at once, ``2**3`` for 8,
an empty thought, a process that ends itself. Gold that cannot be read must never be paid, whatever is said.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any

from exnihilo.eval.graders import Grader, code, countdown, fields, grade_many
from exnihilo.eval.graders.number import final

Example = Mapping[str, Any]
_TASKS = {"code": 4, "math": 16}  # tried; each try takes a process's time
_MOST = 48
SOME = "…"


@dataclass(frozen=True)
class Trial:
    """An answer whose worth is known. `kind` says how it was made."""

    example: Example
    text: str
    kind: str
    right: bool
    readable: bool = True


@dataclass
class Fuzz:
    """What came out.

    Attributes:
        rows: of a table: kind, what it is, tries, share that is paid, an example of a mistake.
        right, wrong, unreadable: tries.
        unpaid_right, paid_wrong, paid_unreadable: mistakes among them, as (kind, text, gold).
        failed: tries in which the grader itself failed, with the first reason.
    """

    rows: list[tuple[str, str, int, str, str]] = field(default_factory=list)
    right: int = 0
    wrong: int = 0
    unreadable: int = 0
    unpaid_right: list[tuple[str, str, str]] = field(default_factory=list)
    paid_wrong: list[tuple[str, str, str]] = field(default_factory=list)
    paid_unreadable: list[tuple[str, str, str]] = field(default_factory=list)
    failed: int = 0
    reason: str = ""


def fuzz(grader: Grader, spec: str, tasks: Sequence[Example], *, seed: int = 0, seconds: float = 5.0) -> Fuzz:
    """Try a grader on tasks; see above.

    Args:
        grader: from `graders.create`. spec: what it was made from: the first name decides what is tried.
        tasks: examples with their gold.
        seed: of what is drawn.
    """
    kind = main(spec)
    rng = random.Random(seed)
    chosen = list(tasks)
    rng.shuffle(chosen)
    tries = list(_trials(kind, chosen[: _TASKS.get(kind, _MOST)], rng, "&" in spec))
    grades = grade_many(grader, [t.example for t in tries], [t.text for t in tries], seconds=seconds)
    out, kinds = Fuzz(), {}
    for trial, graded in zip(tries, grades, strict=True):
        if graded.failed and trial.readable:
            out.failed += 1
            out.reason = out.reason or str(graded.error)
        # unreadable gold: any score above that of nothing said is one too many
        paid = graded.right if trial.readable else graded.right or (graded.score or 0.0) > 0
        told = (trial.kind, _short(trial.text), _short(str(fields.answer(trial.example) or "")))
        count = kinds.setdefault((trial.kind, trial.right), [0, 0, ""])
        count[0] += 1
        count[1] += paid
        if not trial.readable:
            out.unreadable += 1
            wrong = paid
            out.paid_unreadable += [told] * paid
        elif trial.right:
            out.right += 1
            wrong = not paid
            out.unpaid_right += [told] * (not paid)
        else:
            out.wrong += 1
            wrong = paid
            out.paid_wrong += [told] * paid
        if wrong and not count[2]:
            count[2] = f"{told[1]} for {told[2]}" if told[2] else told[1]
    for (name, right), (count, paid, example) in kinds.items():
        worth = "right" if right else "wrong"
        out.rows.append((" ".join(name.split()), worth, count, f"{paid}/{count}", example))
    return out


def main(spec: str) -> str:
    """The name that decides what is tried: the first of the first part, but a form.

    >>> main("format&number*1,length*-0.01"), main("my.py:grade")
    ('number', 'own')
    """
    for part in re.split(r"[,&]", spec):
        name = part.split("*")[0].strip()
        if re.search(r"\.py(:|$)", name):
            return "own"
        if name.split(":")[0] not in ("format", "length"):
            return name.split(":")[0]
    return "format"


def _trials(kind: str, tasks: Sequence[Example], rng: random.Random, gated: bool) -> Iterator[Trial]:
    golds = [fields.answer(task) for task in tasks]
    for number, (task, gold) in enumerate(zip(tasks, golds, strict=True)):
        others = [g for n, g in enumerate(golds) if n != number and g is not None]
        if kind == "countdown":
            made = _countdown(task)
        elif kind == "code":
            made = _code(task)
        elif kind == "math" and gold is not None and not _bare(gold):
            made = _formulas(gold, others)
        elif kind in ("number", "math") or (kind == "own" and gold is not None and _bare(gold)):
            made = _numbers(gold, others, rng)
        else:
            made = _texts(kind, gold, others, rng)
        found = list(made)
        if gated:  # behind a gate only what has its form can be right
            found = [*((t, k, r) for t, k, r in found if not r), *_formed(found)]
        for text, name, right in found:
            yield Trial(task, text, name, right)
        if found:
            yield Trial(task, "", "nothing said", False)
            yield Trial(task, "<think></think>", "an empty thought", False)
            if kind != "countdown":
                yield Trial(task, _asked(task), "the prompt again", False)
        if kind in ("number", "math", "exact", "own") and number < 8:
            broken = {**task, "answer": "???", "record": {}}
            for text in ("", "0", "???"):
                if kind in ("number", "math"):
                    yield Trial(broken, text, "gold that cannot be read", False, False)
                yield Trial(_without(task), text, "no gold at all", False, False)


def _without(task: Example) -> dict[str, Any]:
    """The task with its prompt alone."""
    return {"prompt": task.get("prompt", ""), "answer": None, "record": {}}


def _asked(task: Example) -> str:
    prompt = task.get("prompt", "")
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"]) if prompt else ""


def _bare(gold: str) -> bool:
    """Whether a gold text is a number and nothing else (or GSM8K's line)."""
    return (
        final(gold) is not None
        and re.fullmatch(r"[-−+$\d.,/\s]+", gold.rpartition("####")[2].strip()) is not None
    )


_Made = Iterator[tuple[str, str, bool]]


def _numbers(gold: str | None, others: Sequence[str], rng: random.Random) -> _Made:
    value = None if gold is None else final(gold)
    if value is None or gold is None:
        return
    text = str(value) if value.denominator != 1 else str(value.numerator)
    for form in ("{}", "#### {}", "#### {}.", "The answer is {}.", "the answer is {}", "\\boxed{{{}}}",
                 "We add them up.\n#### {}", "<think>Let me see.</think><answer>{}</answer>"):  # fmt: skip
        yield form.format(text), form.format(SOME), True
    if value.denominator == 1:
        yield f"{text}.0", f"{SOME}.0", True
        if abs(value) >= 1000:
            yield f"The answer is {value.numerator:,}.", "with thousands separators", True
    for wrong, name in (
        (value + 1, "one more"), (value - 1, "one less"), (value * 10, "a digit more"), (-value, "the sign"),
        (value + rng.randint(2, 9), "another number"), (value / 1000, "a thousandth"),
    ):  # fmt: skip
        if wrong != value:
            yield f"The answer is {_written(wrong)}.", name, False
    yield f"The answer is {text} or {_written(value + 1)}.", "two answers", False
    yield f"The answer is {_written(value - 1)} or {text}.", "two answers, the right one last", False
    yield f"<answer>{text}</answer><answer>{_written(value + 1)}</answer>", "two marked answers", False
    yield f"The answer is {text} + 1.", "an unfinished sum", False
    yield f"<think>{text}</think>", "in the thought alone", False
    yield f"The answer is not {text}.", "denied", False
    if value.denominator == 1:
        yield f"The answer is 1{abs(value.numerator)}.", "a digit before", False
        yield " ".join(str(value.numerator + n) for n in range(-3, 4)), "a list with the answer in it", False
    other = next((o for o in others if final(o) not in (None, value)), None)
    if other is not None:
        yield f"#### {_written(final(other))}", "another task's answer", False


def _formulas(gold: str, others: Sequence[str]) -> _Made:
    """Gold that is no plain number, in the ways in which formulas are given; a worked solution as it is."""
    if "\\boxed" in gold:  # a worked solution is gold as it is, and what it ends in cannot be told safely
        yield gold, "the gold itself", True
        return
    bare = gold.rpartition("####")[2].strip().strip("$")
    if "$" in bare or "\n" in bare:
        yield gold, "the gold itself", True
        return
    for form in (
        "${}$",
        "The answer is ${}$.",
        "\\boxed{{{}}}",
        "<think>Let me see.</think><answer>{}</answer>",
    ):
        yield form.format(bare), form.format(SOME), True
    other = next((o for o in others if not _bare(o) and o.strip() != gold.strip()), None)
    yield f"The answer is $({bare}) + 1$.", "one more", False
    yield f"The answer is ${bare}$ or $({bare}) + 1$.", "two answers", False
    yield f"<think>{bare}</think>", "in the thought alone", False
    yield f"The answer is not ${bare}$.", "denied", False
    if other is not None:
        yield f"The answer is ${bare}$ or ${other}$.", "two answers, of which one is another task's", False


def _written(value: Any) -> str:
    return str(value)


def _texts(kind: str, gold: str | None, others: Sequence[str], rng: random.Random) -> _Made:
    del rng
    if gold is None or kind in ("regex", "json", "reward_model", "format"):
        return
    yield gold, SOME, True
    yield f"  {gold}\n", "with white space around", True
    other = next((o for o in others if o.strip().casefold() != gold.strip().casefold()), None)
    if other is not None:
        yield other, "another task's answer", False
        yield f"{gold} or {other}", "two answers", False
    yield gold[: len(gold) // 2], "the first half", False
    yield f"not {gold}", "denied", False
    yield f"{gold} {gold}", "twice", False


def _formed(found: Sequence[tuple[str, str, bool]]) -> _Made:
    plain = next((text for text, _, right in found if right), None)
    if plain is not None:
        form = "<think>Let me see.</think><answer>{}</answer>"
        yield form.format(plain), form.format(SOME), True
        yield f"<think></think><answer>{plain}</answer>", "right behind an empty thought", False
        yield plain, "right without the form", False


def _countdown(task: Example) -> _Made:
    read = countdown.read(task)
    if read is None or len(read[0]) > 5:
        return
    numbers, target = read
    solution = solve(numbers, target)
    if solution is None:
        return
    yield solution, SOME, True
    yield f"<think>Let me see.</think><answer>{solution}</answer>", f"<answer>{SOME}</answer>", True
    yield f"{solution} = {target}", f"{SOME} = target", True
    yield f"({solution})", f"({SOME})", True
    yield str(target), "the target itself", False
    yield f"({solution}) ** 1", "a power", False
    yield f"({solution}) // 1", "// for /", False
    yield f"({solution}) * 1.0", "a decimal", False
    yield f"({solution}) + 0", "a number that was not given", False
    yield f"({solution}) + {numbers[0]} - {numbers[0]}", "a number used again", False
    yield f"{solution} = {target + 1}", "the wrong result beside it", False
    yield f"{target + 1} - 1", "other numbers", False
    yield f"int('{target}')", "a call", False
    if len(numbers) > 1:
        yield "+".join(map(str, numbers[:-1])), "a part of the numbers", False


def solve(numbers: Sequence[int], target: Any) -> str | None:
    """An expression of all the numbers that reaches the target, by trying; None where there is none.

    >>> solve([3, 4, 7], 25)
    '3 * 7 + 4'
    """
    for order in permutations(numbers):
        for signs in product("+-*/", repeat=len(order) - 1):
            flat = " ".join(f"{n} {s}" for n, s in zip(order, (*signs, ""), strict=True)).strip()
            for text in (flat, _nested(order, signs)):
                if countdown.reaches(text, numbers, target):
                    return text
    return None


def _nested(order: Sequence[int], signs: Sequence[str]) -> str:
    text = str(order[0])
    for number, sign in zip(order[1:], signs, strict=True):
        text = f"({text}) {sign} {number}"
    return text


def _code(task: Example) -> _Made:
    tests = code.read(task)
    if tests is None or not tests.count:
        return
    solution = fields.value(task, "canonical_solution", "code", "reference_solution")
    if not isinstance(solution, str) and fields.answer(task) is not None:
        solution = fields.answer(task)
    if isinstance(solution, str) and solution.strip():
        yield f"```python\n{solution}\n```", "the reference solution, fenced", True
        yield solution, "the reference solution", True
    entry = tests.entry or next((_called(text) for text, _ in tests.checks), None) or "solve"
    yield "pass", "nothing done", False
    yield "import os\nos._exit(0)", "the process ends itself", False
    yield "raise SystemExit(0)", "the program ends itself", False
    yield (
        f"class Any:\n    __eq__ = lambda s, o: True\n\n\ndef {entry}(*a, **k):\n    return Any()",
        "a value equal to everything", False,
    )  # fmt: skip
    yield f"def {entry}(*a, **k):\n    return None", "a function of nothing", False


def _called(expression: str) -> str | None:
    found = re.search(r"\b([A-Za-z_]\w*)\(", expression.removeprefix("bool("))
    return found[1] if found else None


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 40 else text[:39] + "…"
