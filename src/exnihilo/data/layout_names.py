"""Which layout of conversations a file has: from its columns' names and its first records, or as it is set.

    layout = detect(records, wanted=("messages",), given={}, where="a.jsonl")
    layout.name         # 'Alpaca instructions'

``data.fields={prompt="question+background", completion="text"}`` sets columns; ``+`` joins them with a blank
line between. What was found is shown before training, and by ``exnihilo doctor``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from exnihilo.data import messages as talk
from exnihilo.data.base import Drops
from exnihilo.data.fields import SAMPLE, missing, parts
from exnihilo.data.formats import choose
from exnihilo.data.formats.reading import Reading
from exnihilo.data.layouts import ROLES, Layout
from exnihilo.data.tables import Record
from exnihilo.errors import ConfigError, DataError, nearest

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns"),
    "prompt": ("prompt", "question", "query", "problem", "user", "input", "request", "context"),
    "completion": ("completion", "response", "output", "answer", "reply", "assistant", "solution", "target"),
    "chosen": ("chosen", "chosen_response", "response_chosen", "preferred"),
    "rejected": ("rejected", "rejected_response", "response_rejected", "dispreferred"),
    "label": ("label", "desirable", "kto_tag", "thumbs_up"),
    "answer": (
        "answer",
        "ground_truth",
        "gold",
        "final_answer",
        "target",
        "output",
        "response",
        "completion",
    ),
    "system": ("system", "system_prompt", "system_message"),
}
"""Role -> names of columns that are taken for it, the likeliest first; compared without regard to case."""


def detect(
    sample: Sequence[Record],
    *,
    wanted: Sequence[str],
    given: Mapping[str, str],
    where: str,
    extras: Sequence[str] = (),
) -> Layout:
    """The layout of a file, from its first records.

    Args:
        sample: the first records.
        wanted: roles that are needed. extras: roles that are taken where they are there.
        given: role -> column, or columns joined by ``+``, as the user has set it.
        where: the file, for messages.

    Raises:
        DataError: a column that is set is not there, or no known layout gives what is wanted.
        ConfigError: a role that is set is none of conversations.
    """
    columns = list(dict.fromkeys(name for record in sample for name in record if name[:1] != "_"))
    seen = _Seen(sample, columns, {})
    for role, column in given.items():
        if role not in ROLES:
            raise ConfigError(f"data.fields sets the role {role!r}", expected=nearest(role, ROLES))
        for name in parts(column, columns):
            if name not in columns:
                raise missing(where, role, name, columns)
        seen.given[role] = tuple(parts(column, columns))
    layout = _pairs(seen) if "chosen" in wanted else _single(seen, wanted)
    if layout is None:
        kind = "chosen" if "chosen" in wanted else "label" if "label" in wanted else "messages"
        raise DataError(
            f"{where}: no known layout gives {', '.join(wanted)}; columns: {', '.join(columns) or 'none'}",
            expected=_EXPECTED[kind],
            next=f"name the columns: data.fields={{ {' = COLUMN, '.join(_asked(wanted))} = COLUMN }}",
        )
    more = {
        r: n for r in ("system", "answer") if r not in layout.columns and (n := seen.extra(r, layout, extras))
    }
    return Layout(layout.name, layout.kind, {**layout.columns, **more}, layout.annotators)


def of_files(
    paths: Sequence[Path],
    kinds: Sequence[str],
    reading: Reading,
    *,
    wanted: Sequence[str],
    given: Mapping[str, str],
    extras: Sequence[str] = (),
) -> list[Layout | None]:
    """The layout of each file; None where it has none and others have.

    Raises:
        DataError: as `detect`, for the first file, where no file has one; a file cannot be read.
    """
    out: list[Layout | None] = []
    first: DataError | None = None
    for path, kind in zip(paths, kinds, strict=True):
        drops = Drops()
        try:
            if kind == "text":
                raise DataError(
                    f"{path} is plain text, which has no columns for {', '.join(wanted)}",
                    expected="records: .jsonl .json .csv .tsv .parquet",
                    next="see docs/chat.md for the layouts that are known",
                )
            rows = list(islice(choose.read(path, kind, reading, drops, lenient=True), SAMPLE))
            if not rows:
                raise DataError(
                    f"{path} has no records{drops.summary(' (', ')')}",
                    expected="at least one",
                    next="check data=PATH",
                )
            out.append(detect(rows, wanted=wanted, given=given, where=str(path), extras=extras))
        except DataError as error:
            first = first or error
            out.append(None)
    if first is not None and not any(out):
        raise first
    return out


_EXPECTED = {
    "messages": "messages (OpenAI), conversations (ShareGPT), instruction/input/output (Alpaca), "
    "prompt/completion or question/answer",
    "chosen": "prompt/chosen/rejected, chosen/rejected as whole conversations, or response1/response2 with "
    "annotators",
    "label": "prompt/completion/label, or pairs of chosen and rejected replies",
}


def _asked(wanted: Sequence[str]) -> list[str]:
    """Roles that a user would name."""
    if "chosen" in wanted:
        return ["prompt", "chosen", "rejected"]
    return ["prompt", "completion", "label"] if "label" in wanted else ["prompt", "completion"]


@dataclass
class _Seen:
    """The columns of a file's first records, and what the user says of them."""

    sample: Sequence[Record]
    columns: Sequence[str]
    given: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def named(self, *names: str) -> str | None:
        """The column of the first of some names, without regard to case."""
        lower = {name.lower(): name for name in reversed(self.columns)}
        return next((lower[name] for name in names if name in lower), None)

    def role(self, role: str, taken: Collection[str] = ()) -> tuple[str, ...]:
        """The columns of a role: as set, else by name."""
        if role in self.given:
            return self.given[role]
        left = _Seen(self.sample, [c for c in self.columns if c not in taken])
        name = left.named(*COLUMNS[role])
        return (name,) if name else ()

    def holds(self, column: str | None, test: Any) -> bool:
        """Whether most values of a column are as a test says."""
        values = [r[column] for r in self.sample if r.get(column) is not None] if column else []
        return bool(values) and 2 * sum(map(bool, map(test, values))) >= len(values)

    def prompt(self, taken: Collection[str] = ()) -> tuple[str, ...]:
        """The columns of the prompt: an instruction with its input, or one by name."""
        if "prompt" in self.given:
            return self.given["prompt"]
        instruction = self.named("instruction")
        if instruction and instruction not in taken:
            extra = self.named("input", "context")
            return (instruction, extra) if extra and extra not in taken else (instruction,)
        return self.role("prompt", taken)

    def extra(self, role: str, layout: Layout, extras: Sequence[str]) -> tuple[str, ...]:
        """Columns of a role beside the layout's own: set, or of that name."""
        if role == "answer" and role not in extras and role not in self.given:
            return ()
        taken = {n for r, names in layout.columns.items() for n in names if role == "system" or r == "prompt"}
        return self.role(role, taken)


def _pairs(seen: _Seen) -> Layout | None:
    votes = tuple(c for c in seen.columns if c.lower().startswith("annotator"))
    first, second = seen.named("response1"), seen.named("response2")
    if votes and first and second and not {"chosen", "rejected"} & set(seen.given):
        columns = {"prompt": seen.prompt((first, second)), "chosen": (first,), "rejected": (second,)}
        return Layout("two replies with votes of annotators", "votes", columns, votes)
    chosen = seen.role("chosen")
    rejected = seen.role("rejected", chosen)
    if not chosen or not rejected:
        return None
    columns = {"chosen": chosen, "rejected": rejected}
    prompt = seen.prompt((*chosen, *rejected))
    if prompt:
        return Layout("preference pairs", "reply", {"prompt": prompt, **columns})
    if seen.holds(chosen[0], talk.is_messages):
        return Layout("preference pairs of whole conversations", "wholes", columns)
    if seen.holds(chosen[0], talk.is_dialogue):
        return Layout("preference pairs of Human/Assistant dialogues", "wholes", columns)
    return None


def _single(seen: _Seen, wanted: Sequence[str]) -> Layout | None:
    label = seen.role("label") if "label" in wanted else ()
    more = {"label": label} if label else {}
    if "label" in wanted and not label:
        return _pairs(seen)
    turns = seen.role("messages")
    named = not {"prompt", "completion"} & set(seen.given)
    if turns and named and ("messages" in seen.given or seen.holds(turns[0], _is_talk)):
        first = next((r[turns[0]] for r in seen.sample if r.get(turns[0])), None)
        return Layout(_conversations(first), "messages", {"messages": turns, **more})
    ask, instances = seen.named("instruction"), seen.named("instances")
    if ask and instances and named:
        return Layout("self-instruct tasks", "instances", {"prompt": (ask,), "completion": (instances,)})
    body, question = seen.named("body"), seen.named("question")
    if body and question and named and "chosen" not in wanted:
        answer = seen.role("answer", (body, question))
        if answer:
            columns = {"prompt": (body, question), "completion": answer, "answer": answer}
            return Layout("problems of body and question", "svamp", columns)
    prompt = seen.prompt()
    completion = seen.role("completion", prompt)
    if prompt and completion:
        kind = (
            "Alpaca instructions" if ask in prompt else "questions with answers" if question in prompt else ""
        )
        # an instruction's `output` stands before its `response`; a number may be a whole answer
        return Layout(
            kind or "prompts with completions", "reply", {"prompt": prompt, "completion": completion, **more}
        )
    pairs = _pairs(seen)
    if pairs is not None and named:
        return Layout(f"{pairs.name}: the chosen reply", pairs.kind, pairs.columns, pairs.annotators)
    if prompt and set(wanted) <= {"prompt", "answer", "record"} and "completion" not in wanted:
        return Layout("prompts", "reply", {"prompt": prompt})
    return None


def _is_talk(value: Any) -> bool:
    return talk.is_messages(value) or talk.is_dialogue(value)


def _conversations(value: Any) -> str:
    """What a column of messages is called."""
    if isinstance(value, str):
        return "dialogues" if talk.is_dialogue(value) else "conversations (JSON)"
    first = value[0] if isinstance(value, (list, tuple)) and value else {}
    return "ShareGPT conversations" if isinstance(first, Mapping) and "from" in first else "OpenAI messages"
