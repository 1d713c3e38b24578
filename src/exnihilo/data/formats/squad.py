"""SQuAD's nested JSON, versions 1.1 and 2.0: articles of paragraphs of questions, one article at a time.

    {"version": "v2.0", "data": [{"title": ..., "paragraphs": [{"context": ..., "qas": [{"id": ...,
     "question": ..., "answers": [{"text": ..., "answer_start": 7}], "is_impossible": false}]}]}]}

Each question is a record: id, title, context, question, answers. Where ``is_impossible`` is true the answers
are none (``plausible_answers`` are no answers); a question without ``answers`` is left out and counted. The
questions of one article are a group: they stand on one side of the split. The flat rows of the hub's
``squad`` are ordinary records and give the same examples.

Reference: Rajpurkar, Jia & Liang, *Know What You Don't Know: Unanswerable Questions for SQuAD*, 2018
(arXiv:1806.03822).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from exnihilo.errors import DataError

_DATA = re.compile(r'"data"\s*:\s*\[')
_HEAD = 1 << 16


def looks(head: str) -> bool:
    """Whether the beginning of a file is this format."""
    return head.lstrip()[:1] == "{" and '"paragraphs"' in head and ('"context"' in head or '"qas"' in head)


def read(path: Path, source: Iterator[str]) -> Iterator[dict[str, Any]]:
    """One record a question.

    Raises:
        DataError: broken JSON, or a missing key; the message names the article, paragraph and question.
    """
    from exnihilo.data.tables import array, whole_object

    text = ""
    for block in source:
        text += block
        if len(text) >= _HEAD:
            break
    found = _DATA.search(text[:_HEAD])
    if found:
        articles: Iterator[Any] = array(path, text[found.end() :], source, "article")
    else:
        value = whole_object(path, chain([text], source))
        articles = iter(_get(path, "the file", value, "data", list))
    for a, article in enumerate(articles, 1):
        title = article.get("title") if isinstance(article, dict) else None
        title = title if isinstance(title, str) and title.strip() else None
        at = f"article {a}" + (f" ({title})" if title else "")
        for p, paragraph in enumerate(_get(path, at, article, "paragraphs", list), 1):
            here = f"{at}, paragraph {p}"
            context = _get(path, here, paragraph, "context", str)
            for q, entry in enumerate(_get(path, here, paragraph, "qas", list), 1):
                place = f"{here}, question {q}"
                record: dict[str, Any] = {
                    "question": _get(path, place, entry, "question", str),
                    "context": context,
                    "_at": place,
                }
                if "answers" in entry or entry.get("is_impossible") is True:
                    record["answers"] = _answers(path, place, entry)
                if title:
                    record["title"] = record["_group"] = title
                if entry.get("id") is not None:
                    record["id"] = str(entry["id"])
                yield record


def _answers(path: Path, place: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    if entry.get("is_impossible") is True:
        return []
    out = []
    for answer in _get(path, place, entry, "answers", list):
        text = _get(path, f"{place}, its answers", answer, "text", str)
        out.append({"text": text, "start": answer.get("answer_start")})
    return out


def _get(path: Path, place: str, value: Any, key: str, kind: type) -> Any:
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, kind):
        what = f"no {key!r}" if found is None else f"{key!r} is {type(found).__name__} {str(found)[:40]!r}"
        keys = ", ".join(value) if isinstance(value, dict) else type(value).__name__
        raise DataError(
            f"{path}, {place}: {what}; found: {keys}",
            expected="SQuAD JSON: data > paragraphs > context, qas > question, answers > text",
            next="correct the file, or give records with data.format=records",
        )
    return found
