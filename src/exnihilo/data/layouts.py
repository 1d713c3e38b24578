"""How a file holds conversations, replies to compare and prompts with answers: records -> examples.

    layout = layout_names.detect(records, wanted=("prompt", "chosen", "rejected"), given={}, where="a.jsonl")
    layout.name, layout.fields()        # 'preference pairs', {"prompt": "question", "chosen": ..., ...}
    for example in layout.examples(record, wanted): ...

    messages    [{"role", "content"}, ...]
    prompt      the same, up to where a reply begins
    completion, chosen, rejected    replies: messages, the last one an assistant's
    label       of a completion: whether it is a good one
    answer      text: what a grader compares with
    record      the whole row, for graders

Known: messages (OpenAI's), conversations of from/value (ShareGPT), instruction/input/output or response
(Alpaca), instances (self-instruct), prompt/completion under many names, question/answer, Body/Question/Answer
(SVAMP), prompt/chosen/rejected, chosen/rejected as whole conversations or as texts of ``Human:`` and
``Assistant:`` turns, response1/response2 with annotators (PandaLM), prompt/completion/label. What a file
has stands for what is wanted where it can: a pair's chosen reply is a conversation to learn from, a
conversation's last reply is a completion, a pair is one desirable and one undesirable reply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exnihilo.data import messages as talk
from exnihilo.data.base import Drops
from exnihilo.data.roles import Skip
from exnihilo.data.split import text_hash, utf8
from exnihilo.data.tables import Record

TALKS = frozenset({"messages", "prompt", "completion", "chosen", "rejected"})
"""Roles that make data conversations: whoever wants one of them is served by this file."""

ROLES = (*("messages", "prompt", "completion", "chosen", "rejected"), "label", "answer", "system")
GIVEN = (*(role for role in ROLES if role != "system"), "record")

SAME = "whose chosen reply is the rejected one"
TWICE = "pairs that came before"
_JOIN = "\n\n"  # between an instruction and its input


@dataclass(frozen=True)
class Layout:
    """How one file is read.

    Attributes:
        name: shown.
        kind: of `_READERS`.
        columns: role -> columns, joined by a blank line where they are several.
        annotators: columns of votes (PandaLM).
    """

    name: str
    kind: str
    columns: Mapping[str, tuple[str, ...]]
    annotators: tuple[str, ...] = ()

    def fields(self) -> dict[str, str]:
        """Role -> column, or columns joined by ``+``: what is shown."""
        out = {role: "+".join(names) for role, names in self.columns.items()}
        return out | ({"votes": "+".join(self.annotators)} if self.annotators else {})

    def parts(self, record: Record) -> list[dict[str, Any]]:
        """What a record holds, in our shape: usually one set of roles, several of self-instruct.

        Raises:
            Skip: it is of no use.
        """
        return _READERS[self.kind](self, record)

    def examples(self, record: Record, wanted: Collection[str]) -> list[dict[str, Any]]:
        """The record's examples, with the roles that are wanted and can be had.

        Raises:
            Skip: it is of no use.
        """
        own = {k: v for k, v in record.items() if k[:1] != "_"} if "record" in wanted else None
        return [
            {**e, "record": own} if own is not None else e
            for p in self.parts(record)
            for e in derive(p, wanted)
        ]

    def value(self, role: str, record: Record) -> Any:
        """A role's value as the record has it; texts of several columns are joined."""
        names = self.columns.get(role, ())
        if len(names) == 1:
            return record.get(names[0])
        found = [str(record[n]).strip() for n in names if record.get(n) is not None]
        return _JOIN.join(v for v in found if v) if names else None


# records -> parts -------------------------------------------------------------------------------------------


def _system(layout: Layout, record: Record) -> talk.Messages:
    text = layout.value("system", record)
    return [{"role": "system", "content": text.strip()}] if isinstance(text, str) and text.strip() else []


def _conversation(layout: Layout, record: Record) -> list[dict[str, Any]]:
    found = talk.whole(layout.value("messages", record))
    if found and found[0]["role"] != "system":
        found = [*_system(layout, record), *found]
    out: dict[str, Any] = {"messages": found}
    if "label" in layout.columns:
        out["label"] = talk.desirable(layout.value("label", record))
    if "answer" in layout.columns:
        out["answer"] = talk.answer(layout.value("answer", record))
    return [out]


def _reply(layout: Layout, record: Record) -> list[dict[str, Any]]:
    """A prompt with whatever the columns give beside it: a completion, an answer, a label, a pair."""
    prompt = talk.user(layout.value("prompt", record))
    system = _system(layout, record)
    if system and prompt[0]["role"] != "system":
        prompt = [*system, *prompt]
    out: dict[str, Any] = {"prompt": prompt}
    for role in ("completion", "chosen", "rejected"):
        if role in layout.columns:
            named = "reply" if role == "completion" else f"{role} reply"
            out[role] = talk.reply(layout.value(role, record), out["prompt"], named)
    if "label" in layout.columns:
        out["label"] = talk.desirable(layout.value("label", record))
    if (own := layout.columns.get("answer")) and own != layout.columns.get("completion"):  # else derived
        out["answer"] = talk.answer(layout.value("answer", record))
    if layout.kind == "svamp":  # variations of one problem stand on one side of the split
        out["_group"] = str(record.get(layout.columns["prompt"][0]))
    return [out]


def _wholes(layout: Layout, record: Record) -> list[dict[str, Any]]:
    prompt, chosen, rejected = talk.pair(layout.value("chosen", record), layout.value("rejected", record))
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected}]


def _votes(layout: Layout, record: Record) -> list[dict[str, Any]]:
    votes = Counter(
        int(record[n]) for n in layout.annotators if str(record.get(n)).strip() in ("0", "1", "2")
    )
    ranked = votes.most_common(2)
    best = ranked[0] if ranked else (0, 0)
    if best[0] == 0 or (len(ranked) > 1 and ranked[1][1] == best[1]):
        raise Skip("without a majority of annotators for one reply")
    first, second = layout.columns["chosen"][0], layout.columns["rejected"][0]
    good, bad = (first, second) if best[0] == 1 else (second, first)
    prompt = talk.user(layout.value("prompt", record))
    return [
        {
            "prompt": prompt,
            "chosen": talk.reply(record.get(good), prompt, "chosen reply"),
            "rejected": talk.reply(record.get(bad), prompt, "rejected reply"),
        }
    ]


def _instances(layout: Layout, record: Record) -> list[dict[str, Any]]:
    ask, given = (layout.columns[role][0] for role in ("prompt", "completion"))
    instances = record.get(given)
    if not isinstance(instances, (list, tuple)) or not instances:
        raise Skip("without instances")
    out = []
    for one in instances:
        if not isinstance(one, Mapping):
            raise Skip("with an instance that is no object")
        texts = [record.get(ask), one.get("input")]
        prompt = talk.user(_JOIN.join(t.strip() for t in texts if isinstance(t, str) and t.strip()))
        out.append({"prompt": prompt, "completion": talk.reply(one.get("output"), prompt)})
    return out


_READERS = {
    "messages": _conversation,
    "reply": _reply,
    "svamp": _reply,
    "wholes": _wholes,
    "votes": _votes,
    "instances": _instances,
}


def derive(found: Mapping[str, Any], wanted: Collection[str]) -> list[dict[str, Any]]:
    """What is wanted from what there is: none, one, or two examples of a record.

    Raises:
        Skip: what there is cannot give it.

    Example:
        >>> hi = {"role": "user", "content": "Hi"}; yes = {"role": "assistant", "content": "Yes"}
        >>> derive({"prompt": [hi], "completion": [yes]}, ["messages"])[0]["messages"] == [hi, yes]
        True
    """
    have = dict(found)
    if "chosen" in have:
        if have["chosen"] == have["rejected"]:
            raise Skip(SAME)
        if "label" in wanted and "completion" in wanted:
            base = {k: v for k, v in have.items() if k not in ("chosen", "rejected")}
            both = (("chosen", True), ("rejected", False))
            return [
                e for k, good in both for e in derive({**base, "completion": have[k], "label": good}, wanted)
            ]
        have.setdefault("completion", have["chosen"])
    if "messages" in have:
        turns = have["messages"]
        if turns[-1]["role"] != "assistant":
            have["prompt"] = turns
        elif "messages" not in wanted or any(m["role"] != "assistant" for m in turns):
            have["prompt"], have["completion"] = talk.cut(turns)
    elif "completion" in have:
        have["messages"] = [*have["prompt"], *have["completion"]]
    if "messages" in wanted and not any(m["role"] == "assistant" for m in have.get("messages", ())):
        raise Skip(talk.NO_REPLY)
    if "completion" in have:
        have.setdefault("answer", have["completion"][-1]["content"])
    group = have.get("_group")
    if not isinstance(group, str):
        turns = have.get("prompt") or have.get("messages") or []
        first = next((n for n, m in enumerate(turns) if m["role"] == "user"), len(turns) - 1)
        group = talk.text_of(turns[: first + 1])
    return [{**{role: have[role] for role in GIVEN if role in wanted and role in have}, "_group": group}]


def given_by(roles: Collection[str]) -> frozenset[str]:
    """The roles that `derive` can give where some are there."""
    have = frozenset(roles)
    if "chosen" in have:
        have |= {"completion", "label"}
    if "messages" in have:
        have |= {"prompt", "completion"}
    if {"prompt", "completion"} <= have:
        have |= {"messages", "answer"}
    return have


def is_talk(roles: Collection[str]) -> bool:
    """Whether some roles are of conversations."""
    return bool(TALKS & set(roles))


# records of a file -> examples ------------------------------------------------------------------------------


class Talks:
    """Turns the records of one file into examples, and counts those that are left out.

    Args:
        layout: of the file.
        roles: what each example must have. extras: what it has where the record does.
        where: the file, for messages.
    """

    def __init__(self, layout: Layout, roles: Sequence[str], extras: Sequence[str], where: str) -> None:
        self.layout, self.where = layout, where
        self.roles, self.wanted = tuple(roles), tuple(dict.fromkeys((*roles, *extras)))
        self._seen: set[int] = set()

    def examples(
        self, record: Record, index: int, file: int, drops: Drops | None
    ) -> Iterator[dict[str, Any]]:
        """The examples of a record: none where it is left out, and counted."""
        at = record.get("_at", f"record {index + 1}")
        place = f"{self.where}, {at}"
        try:
            for example in self.layout.examples(record, self.wanted):
                self._check(example)
                yield {**example, "_file": file, "_index": index, "_at": at}
        except Skip as reason:
            if drops is not None:
                drops.add(str(reason), place)

    def _check(self, example: Mapping[str, Any]) -> None:
        lacking = [role for role in self.roles if role not in example]
        if lacking:
            raise Skip(f"without {' and '.join(lacking)}")
        if "chosen" in example:
            turns = [talk.text_of(example[role]) for role in ("prompt", "chosen", "rejected")]
            key = text_hash(utf8("\0".join(turns)))
            if key in self._seen:
                raise Skip(TWICE)
            self._seen.add(key)
