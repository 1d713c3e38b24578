"""Any text under any name, format and roles: examples or one of our errors. Real sets open as documented."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exnihilo.config import DataConfig
from exnihilo.data import Drops, open_sources
from exnihilo.errors import ExNihiloError

FUZZ = settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LABEL = ("text", "label")
PAIR = ("a", "b", "label")
QA = ("question", "context", "answers")
TAGS = ("words", "tags")
ROLES = [("text",), LABEL, PAIR, QA, TAGS, ("query", "document", "label")]
NAMES = ["a.csv", "a.tsv", "a.json", "a.jsonl", "a.train", "a.conll", "a.conllu", "a.txt"]
FORMATS = ["auto", "text", "records", "squad", "conll", "conllu", "labelled"]

PIECES = st.sampled_from(
    [
        *(
            "\t",
            "\n",
            "\n\n",
            "\r\n",
            "\r",
            ",",
            ";",
            '"',
            " ",
            "#",
            "# ",
            "{",
            "}",
            "[",
            "]",
            ":",
            "0",
            "1",
            "5.0",
        ),
        *(
            "label",
            "text",
            "sentence1",
            "sentence2",
            "question",
            "context",
            "answers",
            "words",
            "tags",
            "data",
        ),
        *(
            "B-X",
            "O",
            "_",
            "1-2",
            "3.1",
            "-DOCSTART- O",
            "\ufeff",
            "\u00a0",
            "e\u0301",
            "\U0001f600",
            "\u2028",
            "x y",
        ),
        *(
            '{"text": "a", "label": 1}\n',
            '{"question": "q", "context": "c", "answers": []}\n',
            '"title": "t", ',
        ),
        *('{"data": [{"paragraphs": [{"context": "c", "qas": [', "]}]}]}", "label\ttext\n", "a,b,label\n"),
        *(
            "__label__a ",
            "1\ta\ta\tX\tY\t_\t0\troot\t_\t_\n",
            '{"words": ["a"], "tags": ["O"]}\n',
            '{"words": 3}\n',
        ),
    ]
)
BODIES = st.lists(PIECES | st.text(max_size=3), min_size=1, max_size=14).map("".join)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.floats()
    | st.sampled_from(["", "a", "a b", "[", '["a"]']),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "start", "answer_start", "end", "label"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
SPAN = {"start": 0, "end": 1, "label": "X"}
GOOD: dict[str, Any] = {
    **dict.fromkeys(("text", "a", "b", "question", "context", "query", "document"), "a b"),
    **{"label": 1, "score": 0.5, "words": ["a", "b"], "tags": ["O", "B-X"], "id": "7", "title": "t"},
    **{"answers": {"text": ["a"], "answer_start": [0]}, "spans": [SPAN]},
}


@st.composite
def records(draw: st.DrawFn) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Roles, and records that have them, a few of them with a value or a key that is wrong."""
    roles = draw(st.sampled_from([*ROLES, ("text", "spans")]))
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        row = {
            key: GOOD[key]
            for key in (*roles, *draw(st.sets(st.sampled_from(["id", "score", "spans", "title"]))))
        }
        for key in draw(st.lists(st.sampled_from(sorted(row)), max_size=1)):
            if draw(st.integers(0, 9)):
                row[key] = draw(JSON)
            else:
                del row[key]
        rows.append(row)
    return (TAGS if "spans" in roles else roles), rows


def check(path: Path, roles: tuple[str, ...], **options: Any) -> None:
    """Reads a file to its end, twice to the same examples, each with its roles in shape; or refuses it."""
    config = DataConfig.model_validate({"sources": str(path), **options})
    try:
        (source,) = open_sources(config, roles=roles, extras=("id", "score", "spans"))
        drops = Drops()
        got = list(source.examples(drops))
    except ExNihiloError as error:
        assert error.given and (error.expected or error.next)
        return
    assert got == list(source.examples())
    assert all(drops.counts.values())
    for example in got:
        words, tags = example.get("words"), example.get("tags")
        if "words" in roles and words is not None:
            assert (
                words
                and tags
                and len(words) == len(tags)
                and all(isinstance(w, str) and w.strip() for w in words)
            )
        for role in ("text", "a", "b", "question", "context", "query", "document"):
            assert not isinstance(example.get(role), str) or example[role].strip()
        assert all(
            isinstance(a["text"], str) and isinstance(a["start"], int) for a in example.get("answers", ())
        )


@FUZZ
@given(BODIES, st.sampled_from(NAMES), st.sampled_from(ROLES), st.sampled_from(FORMATS))
def test_any_text(tmp_path: Path, body: str, name: str, roles: tuple[str, ...], kind: str) -> None:
    path = tmp_path / name
    path.write_bytes(body.encode("utf-8", "surrogatepass"))
    check(path, roles, format=kind)


@FUZZ
@given(records())
def test_any_records(tmp_path: Path, given_: tuple[tuple[str, ...], list[dict]]) -> None:
    roles, rows = given_
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    check(path, roles)


REAL: list[tuple[str, tuple[str, ...], int, dict[str, Any]]] = [
    ("sst/stsa.binary.dev", LABEL, 872, {}),
    ("sst/stsa.fine.dev", LABEL, 1101, {}),
    ("trec/TREC.train", LABEL, 5452, {"encoding": "latin-1", "fields": {"label": "coarse"}}),
    (
        "ag-news-7k6/valid.csv",
        LABEL,
        400,
        {"columns": "label,title,description", "fields": {"text": "title+description"}},
    ),
    ("cola/in_domain_dev.tsv", LABEL, 527, {"columns": "source,label,mark,sentence"}),
    ("mrpc/msr_paraphrase_train.txt", PAIR, 4076, {}),
    ("rte/train.tsv", PAIR, 2490, {}),
    ("sts-b/sts-dev.csv", PAIR, 1500, {"columns": "genre,file,year,id,score,sentence1,sentence2"}),
    ("snli-cad/original/train.tsv", PAIR, 1666, {}),
    ("squad-dev-resplit/valid-v1.1.json", QA, 976, {}),
    ("squad-dev-resplit/valid-v2.0.json", QA, 1616, {}),
    ("ud-english-ewt/en_ewt-ud-dev.conllu", TAGS, 2001, {}),
    ("wnut17/wnut17train.conll", TAGS, 3394, {}),
    ("wnut17/emerging.dev.conll", TAGS, 1009, {}),
]


@pytest.mark.parametrize(("name", "roles", "count", "options"), REAL, ids=[r[0] for r in REAL])
def test_real_sets_open_with_the_settings_of_the_documentation(
    name: str, roles: tuple[str, ...], count: int, options: dict[str, Any]
) -> None:
    root = Path(os.environ.get("EXNIHILO_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    if not (root / name).exists():
        pytest.skip(f"no real data at {root} (EXNIHILO_DATA)")
    (source,) = open_sources(DataConfig.model_validate({"sources": str(root / name), **options}), roles=roles)
    drops = Drops()
    got = list(source.examples(drops))
    assert len(got) == count and not drops.counts and all(set(roles) <= set(e) for e in got)
    if "answers" in roles:
        for example in got:
            for a in example["answers"]:
                assert example["context"][a["start"] : a["start"] + len(a["text"])] == a["text"]
    if "columns" in options:  # what the page says is what is tested
        page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
        assert f"data.columns={options['columns']}" in page
