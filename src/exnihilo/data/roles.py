"""Records -> examples: the value of each role, checked and in one shape, whatever the file's own.

    mapper = Mapper({"question": "question", ...}, names={}, where="a.jsonl")
    example = mapper.example(record, index=0, file=0, drops=drops)      # None: left out, and counted

    text a b question context query document    a string
    label       as it stands: a string, a number, or a list; integer ids become names where they have some
    score       a number
    words tags  lists of strings, equally long
    spans       [{"start", "end", "label"}], offsets into the text
    answers     [{"text", "start"}]; none: []; start -1 where the data tells none and the text is not found
    id          a string

A record without a value (none, NaN, blank) or whose tags do not match its words is left out and counted, and
so is a blank word with its tag, and a question without the key of its answers. An empty context stays: what
is asked about it has no answer. A value of another kind is an error that names the file and the record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from exnihilo.data import fields
from exnihilo.data.base import MEDIA, Drops
from exnihilo.errors import DataError

STRINGS = frozenset({"text", "a", "b", "question", "context", "query", "document", *MEDIA})
BLANK = frozenset({"context"})  # may be empty: a question about nothing has no answer
_NO_GOLD = {"gold_label": "-"}  # SNLI's mark of a pair on which its annotators did not agree


class Skip(Exception):
    """A record that is left out; its argument is the reason."""


class Mapper:
    """Turns the records of one file into examples.

    Args:
        mapping: role -> column, or columns joined by ``+``.
        names: column -> names of integer ids.
        where: the file, for messages.
        needed: roles without which a record is left out; those of the mapping otherwise may be empty.
    """

    def __init__(
        self,
        mapping: Mapping[str, str],
        names: Mapping[str, Sequence[str]],
        where: str,
        needed: Sequence[str],
    ) -> None:
        self.mapping, self.names, self.where = dict(mapping), names, where
        self.needed = frozenset(needed)

    def example(
        self, record: Mapping[str, Any], index: int, file: int, drops: Drops | None
    ) -> dict[str, Any] | None:
        """An example, or None where the record is left out."""
        place = f"{self.where}, {record.get('_at', f'record {index + 1}')}"
        out: dict[str, Any] = {}
        try:
            for role, column in self.mapping.items():
                value = self._value(role, column, record, place)
                if value is not None:
                    out[role] = value
            _match(out, place, drops)
        except Skip as reason:
            if drops is not None:
                drops.add(str(reason), place)
            return None
        group = record.get("_group")
        if group is None and "context" in out:
            group = record.get("title")
        if isinstance(group, str) and group.strip():
            out["_group"] = group
        out["_file"], out["_index"] = file, index
        return out

    def _value(self, role: str, column: str, record: Mapping[str, Any], place: str) -> Any:
        needed = role in self.needed
        names = fields.parts(column, record)
        absent = next((n for n in names if n not in record), None)
        if absent is not None:
            if not needed:
                return None
            if role == "answers":  # [] says that there is none; a record without the key says nothing
                raise Skip("without answers")
            raise fields.missing(place, role, absent, list(record))
        value = record[names[0]] if len(names) == 1 else _joined(record, names)
        if role != "answers" and (value is None or (isinstance(value, float) and math.isnan(value))):
            if needed:
                raise Skip(f"without {role}")
            return None
        try:
            return self._shaped(role, column, value, record)
        except Skip:
            if needed:
                raise
            return None
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            kind = f"{type(value).__name__} {str(value)[:40]!r}"
            raise DataError(
                f"{place}: column {column!r} holds {kind}",
                expected=EXPECTED.get(role, "another value") + (f" ({error})" if str(error) else ""),
                next=f"correct the file, or set data.fields={{ {role} = COLUMN }}",
            ) from error

    def _shaped(self, role: str, column: str, value: Any, record: Mapping[str, Any]) -> Any:
        if role in STRINGS:
            if not isinstance(value, str):
                raise TypeError("")
            if (not value or value.isspace()) and role not in BLANK:
                raise Skip(f"empty {role}")
            return value
        if role == "label":
            return self._label(column, value)
        if role in ("words", "tags"):
            found = [str(v) for v in _named(_list(value), self.names.get(column))]
            if not found:
                raise Skip(f"without {role}")
            return found
        shape = SHAPES.get(role)
        return shape(value, record) if shape else value

    def _label(self, column: str, value: Any) -> Any:
        names = self.names.get(column)
        if isinstance(value, (list, tuple)):
            return _named(value, names)
        if isinstance(value, str):
            value = value.strip()
            if not value or value == _NO_GOLD.get(column.lower()):
                raise Skip("without label")
            return value
        if not isinstance(value, (bool, int, float)):
            raise TypeError("")
        if names and value == -1:
            raise Skip("without label")  # the hub's mark of a hidden label
        return _named([value], names)[0]


def _match(out: dict[str, Any], place: str, drops: Drops | None) -> None:
    """Words and tags are equally many, and no word is blank: such a word is left out with its tag."""
    words, tags = out.get("words"), out.get("tags")
    if words is None:
        return
    if tags is not None and len(tags) != len(words):
        raise Skip("tags that do not match the words")
    kept = [i for i, word in enumerate(words) if word.strip()]
    if len(kept) == len(words):
        return
    if not kept:
        raise Skip("without words")
    if drops is not None:
        drops.add("blank words (their sentences stay)", place)
    out["words"] = [words[i] for i in kept]
    if tags is not None:
        out["tags"] = [tags[i] for i in kept]


def _joined(record: Mapping[str, Any], names: Sequence[str]) -> str | None:
    values = [record[name] for name in names]
    return " ".join(str(v).strip() for v in values if v is not None and str(v).strip()) or None


def _named(values: Sequence[Any], names: Sequence[str] | None) -> list[Any]:
    if not names:
        return list(values)
    out = []
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 0 <= value < len(names):
                raise ValueError(f"an id from 0 to {len(names) - 1}")
            value = names[value]
        out.append(value)
    return out


def _list(value: Any) -> list[Any]:
    """A list, also one that is written as JSON or as words with spaces."""
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith("[") else value.split()
    if not isinstance(value, (list, tuple)) or any(not isinstance(v, (str, int)) for v in value):
        raise TypeError("")
    return list(value)


def _score(value: Any, record: Mapping[str, Any]) -> float:
    if isinstance(value, str) and not value.strip():
        raise Skip("without score")
    number = float(value)
    if not math.isfinite(number):
        raise Skip("without score")
    return number


def _answers(value: Any, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """From SQuAD's list, the hub's pair of lists, or a plain string."""
    if record.get("is_impossible") is True or value is None or value == "" or value == []:
        return []
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        value = json.loads(value)
    if isinstance(value, str):
        value = [{"text": value, "start": record.get("answer_start")}]
    if isinstance(value, Mapping):
        if isinstance(value["text"], str):
            value = [value]
        else:
            texts = value["text"]
            starts = value.get("answer_start", value.get("start"))
            starts = [None] * len(texts) if starts is None else starts
            value = [{"text": t, "start": s} for t, s in zip(texts, starts, strict=True)]
    out = []
    for answer in value:
        text, start = answer["text"], answer.get("start", answer.get("answer_start"))
        if not isinstance(text, str):
            raise TypeError("")
        if start is None or start == "":
            context = next((v for k, v in record.items() if k.lower() == "context"), "")
            start = context.find(text) if isinstance(context, str) else -1
        out.append({"text": text, "start": int(start)})
    return out


def _spans(value: Any, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """From objects, or from triples as doccano and spaCy write them."""
    if isinstance(value, str):
        value = json.loads(value)
    out = []
    for span in value:
        if isinstance(span, Mapping):
            key = next((k for k in ("label", "type", "tag", "entity_group", "entity") if k in span), "label")
            start, end, label = span["start"], span["end"], span[key]
        else:
            start, end, label = span
        out.append({"start": int(start), "end": int(end), "label": str(label)})
    return out


SHAPES: Mapping[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "score": _score,
    "answers": _answers,
    "spans": _spans,
    "events": lambda value, record: json.loads(value) if isinstance(value, str) else list(value),
    "id": lambda value, record: str(value),
}
EXPECTED: Mapping[str, str] = {
    **dict.fromkeys(STRINGS, "strings"),
    "label": "a string, a number, or a list of them",
    "score": "numbers",
    "words": "a list of strings",
    "tags": "a list of strings or ids",
    "answers": 'a list of {"text", "start"}, or {"text": [...], "answer_start": [...]}',
    "spans": 'a list of {"start", "end", "label"}',
    "events": 'a list of {"start", "end", "label"}, in seconds',
}
