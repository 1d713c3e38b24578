"""Every field's own format, by small files like the real ones, and by hypothesis where a format is parsed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exnihilo.config import DataConfig
from exnihilo.data import Drops, open_sources
from exnihilo.data.sources import FileSource
from exnihilo.errors import ConfigError, DataError

FAST = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(alphabet="ab :_\t\u00a0e\u0301\u6f22\U0001f600", min_size=1, max_size=20)
LABEL = ("text", "label")
PAIR = ("a", "b", "label")
QA = ("question", "context", "answers")
TAGS = ("words", "tags")


def opened(path: Path, roles: tuple[str, ...], extras: tuple[str, ...] = (), **options: Any) -> FileSource:
    config = DataConfig.model_validate({"sources": str(path), **options})
    (source,) = open_sources(config, roles=roles, extras=extras)
    assert isinstance(source, FileSource)
    return source


def read(path: Path, roles: tuple[str, ...], **options: Any) -> list[dict[str, Any]]:
    """The examples of a file, without what says where they come from."""
    return [{k: v for k, v in e.items() if k[0] != "_"} for e in opened(path, roles, **options).examples()]


def put(folder: Path, name: str, body: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(body if isinstance(body, bytes) else body.encode())
    return path


# tables ---------------------------------------------------------------------------------------------


MRPC = (
    "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
    '1\t70\t71\tHe called "the witness" a liar.\tHe called the "witness a liar.\r\n'
    "0\t72\t73\tIt fell in 1995.\tIt rose in 1996.\r\n"
)


def test_mrpc_has_a_mark_a_header_and_literal_quotes(tmp_path: Path) -> None:
    path = put(tmp_path, "msr_paraphrase_train.txt", MRPC)
    source = opened(path, PAIR)
    assert source.fields == {"a": "#1 String", "b": "#2 String", "label": "Quality"}
    assert source.format == "a table"
    assert read(path, PAIR)[0] == {
        "a": 'He called "the witness" a liar.',
        "b": 'He called the "witness a liar.',
        "label": "1",
    }


def test_rte_and_snli_by_their_headers(tmp_path: Path) -> None:
    rte = put(tmp_path, "rte.tsv", 'index\tsentence1\tsentence2\tlabel\n0\tNo "x.\tx.\tnot_entailment\n')
    assert read(rte, PAIR) == [{"a": 'No "x.', "b": "x.", "label": "not_entailment"}]
    snli = put(tmp_path, "snli.tsv", "sentence1\tsentence2\tgold_label\nA.\tB.\tneutral\nC.\tD.\t-\n")
    drops = Drops()
    found = list(opened(snli, PAIR).examples(drops))
    assert [e["label"] for e in found] == ["neutral"]
    assert drops.to_json() == {"without label": [1, f"{snli}, record 2"]}


STSB = "".join(
    f'main\tMSRvid\t2012test\t{i:04}\t{score}\tA {what} "is flying here.\tThe {what} flies.{more}\n'
    for i, (score, what, more) in enumerate(
        [("5.000", "plane", ""), ("3.80", "bird", "\tsource one\tsource two"), ("0", "kite", "")]
    )
)


def test_stsb_is_tabs_under_the_name_of_commas(tmp_path: Path) -> None:
    path = put(tmp_path, "sts-dev.csv", STSB)
    names = "genre,file,year,id,score,sentence1,sentence2"
    found = read(path, PAIR, columns=names)
    assert [e["label"] for e in found] == ["5.000", "3.80", "0"]
    assert found[1]["b"] == "The bird flies." and found[0]["a"] == 'A plane "is flying here.'
    assert read(path, PAIR, columns=names.split(",")) == found
    assert [e["score"] for e in read(path, ("a", "b"), extras=("score",), columns=names)] == [5.0, 3.8, 0.0]
    with pytest.raises(DataError, match="no column fits the role 'label'; found: column_1") as caught:
        read(path, PAIR)
    assert "data.columns" in caught.value.next


def test_cola_and_ag_news_have_no_header(tmp_path: Path) -> None:
    cola = put(tmp_path, "cola.tsv", 'gj04\t1\t\tThe sailors rode.\ncj99\t0\t*\tMary "listens.\n')
    found = read(cola, LABEL, columns="source,label,mark,sentence")
    assert found == [
        {"text": "The sailors rode.", "label": "1"},
        {"text": 'Mary "listens.', "label": "0"},
    ]
    rows = [f'"{i % 4 + 1}","Title {i}","Body ""{i}"", with\na second line, and more"\n' for i in range(40)]
    news = put(tmp_path, "news.csv", "".join(rows))
    source = opened(news, LABEL)  # the one column with few values is the label, the longest the text
    assert source.fields == {"text": "column_3", "label": "column_1"}
    both = read(news, LABEL, columns="label,title,body", fields={"text": "title+body"})
    assert both[1] == {"text": 'Title 1 Body "1", with\na second line, and more', "label": "2"}


def test_a_header_is_told_from_a_row(tmp_path: Path) -> None:
    rows = "".join(
        f"neutral\tA man rides a bicycle no {w}.\tA person rides.\n" for w in ("one", "two", "six")
    )
    path = put(tmp_path, "a.tsv", rows)
    assert len(read(path, PAIR, columns="label,a,b")) == 3
    assert opened(path, ("a", "b")).fields == {"a": "column_2", "b": "column_3"}
    pandas = put(tmp_path, "b.csv", ",text,label\n0,fine day,1\n1,bad day,0\n")
    assert read(pandas, LABEL) == [{"text": "fine day", "label": "1"}, {"text": "bad day", "label": "0"}]
    named = put(tmp_path, "c.tsv", "label\ttext\n1\tyes it is\n")
    assert read(named, LABEL, columns="Label,Text") == [{"text": "yes it is", "label": "1"}]
    with pytest.raises(ConfigError, match="has a header"):
        read(named, LABEL, columns="x,y")
    years = put(tmp_path, "d.csv", "2019,2020\nup it goes,down it goes\n")
    assert len(read(years, ("text",))) == 2
    assert read(years, ("text",), header=True) == [{"text": "down it goes"}]
    assert opened(years, ("text",), header=False).fields == {"text": "column_2"}


def test_duplicated_names_and_one_column(tmp_path: Path) -> None:
    twice = put(tmp_path, "a.csv", "text,label,text\na b,1,c d\n")
    with pytest.raises(DataError, match="two columns are named 'text'"):
        read(twice, LABEL)
    one = put(tmp_path, "b.csv", "text\nsome words\nmore words\n")
    assert [e["text"] for e in read(one, ("text",))] == ["some words", "more words"]
    with pytest.raises(DataError, match="no column fits the role 'label'; found: text"):
        read(one, LABEL)
    comma = put(tmp_path, "c.csv", "text\nsome words, and more\n")
    with pytest.raises(DataError, match="row 2: 2 cells under 1 columns"):
        read(comma, ("text",))


def test_rows_with_another_number_of_cells(tmp_path: Path) -> None:
    good = "".join(f"{i}\tfirst {i}\tsecond {i}\t1\n" for i in range(8))
    path = put(
        tmp_path, "qqp.tsv", f"id\tquestion1\tquestion2\tlabel\n{good}9\tbroken\n\n10\ta\tb\t1\tmore\n{good}"
    )
    drops = Drops()
    assert len(list(opened(path, PAIR).examples(drops))) == 16
    assert drops.to_json() == {"rows with another number of cells": [2, f"{path}, row 10", f"{path}, row 12"]}
    bad = put(tmp_path, "bad.tsv", "a\tb\tlabel\nonly one\nonly one more\nx\ty\t1\n")
    with pytest.raises(DataError, match=r"2 of 3 rows do not have 3 cells; the first: .*row 2"):
        read(bad, PAIR)


def test_quotes_can_be_set(tmp_path: Path) -> None:
    path = put(tmp_path, "a.tsv", 'text\tlabel\n"a\tb"\t1\n')
    with pytest.raises(DataError, match="1 of 1 rows"):
        read(path, LABEL)
    assert read(path, LABEL, quotes=True) == [{"text": "a\tb", "label": "1"}]
    open_ = put(tmp_path, "b.csv", 'text,label\n"half a quote,1\n')
    with pytest.raises(DataError, match="broken CSV") as caught:
        read(open_, LABEL)
    assert "data.quotes=false" in caught.value.next
    assert read(open_, LABEL, quotes=False) == [{"text": '"half a quote', "label": "1"}]


# lines of labels ------------------------------------------------------------------------------------


def test_sst_and_trec_lines(tmp_path: Path) -> None:
    sst = put(tmp_path, "stsa.binary.train", "1 a stirring , funny film\n0 no film at all\n1 a film\n")
    source = opened(sst, LABEL)
    assert source.format == "labelled lines" and source.fields == {"text": "text", "label": "label"}
    assert [(e["label"], e["text"][:7]) for e in read(sst, LABEL)] == [
        ("1", "a stirr"),
        ("0", "no film"),
        ("1", "a film"),
    ]
    lines = "DESC:manner How did it go ?\nENTY:animal What bird is it ?\nDESC:def Who is Fran\u00e7ois ?\n"
    trec = put(tmp_path, "TREC.train", lines.encode("latin-1"))
    assert read(trec, LABEL, encoding="latin-1", format="labelled")[2] == {
        "text": "Who is Fran\u00e7ois ?",
        "label": "DESC:def",
    }
    coarse = read(trec, LABEL, encoding="latin-1", format="labelled", fields={"label": "coarse"})
    assert [e["label"] for e in coarse] == ["DESC", "ENTY", "DESC"]
    with pytest.raises(DataError, match="not utf-8") as caught:
        read(trec, LABEL, format="labelled")
    assert "latin-1" in caught.value.next
    many = put(tmp_path, "TREC.dev", lines.encode("latin-1") * 30)
    assert len(read(many, LABEL, encoding="latin-1")) == 90  # detected


def test_fasttext_lines(tmp_path: Path) -> None:
    path = put(tmp_path, "a.train", "__label__good fine day\n__label__a __label__b two\n__label__x\n\n")
    drops = Drops()
    found = list(opened(path, LABEL, format="labelled").examples(drops))
    assert [e["label"] for e in found] == ["good", ["a", "b"]] and found[1]["text"] == "two"
    assert drops.to_json() == {"lines with a label only": [1, f"{path}, line 3"]}


@FAST
@given(st.lists(st.tuples(st.sampled_from(["0", "1", "A:b"]), TEXT), min_size=1, max_size=20))
def test_labelled_lines_come_back(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    rows = [(label, text.strip(" \t") or "x") for label, text in rows]
    path = put(tmp_path, "a.dev", "".join(f"{label} {text}\n" for label, text in rows))
    got = [(e["label"], e["text"]) for e in read(path, LABEL, format="labelled")]
    assert got == [(label, text) for label, text in rows if not text.isspace()]


def test_plain_text_is_refused_where_labels_are_wanted(tmp_path: Path) -> None:
    story = "".join(
        f"Once upon a time number {i} went out to see the world of that day.\n" for i in range(60)
    )
    path = put(tmp_path, "story.txt", story)
    with pytest.raises(DataError, match="plain text, which has no columns for text, label") as caught:
        opened(path, LABEL)
    assert "data.format" in caught.value.next and "CoNLL" in caught.value.expected
    put(tmp_path, "train.dev", "1 good\n0 bad\n1 fine\n0 poor\n")
    folder = opened(tmp_path, LABEL)
    assert folder.names == ("train.dev",) and folder.skipped == {"of no known format": 1}
    assert len(read(path, ("text",))) == 1  # a document still


# columns of words -----------------------------------------------------------------------------------


CONLL = (
    "-DOCSTART- -X- -X- O\n\n# a comment of some words that follow\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n"
    "\n\nPeter NNP B-NP B-PER\n# # O O\n"
)


def test_conll_columns(tmp_path: Path) -> None:
    path = put(tmp_path, "eng.train", CONLL)
    source = opened(path, TAGS)
    assert source.format == "conll" and source.fields == {"words": "words", "tags": "tags"}
    assert read(path, TAGS) == [
        {"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"words": ["Peter", "#"], "tags": ["B-PER", "O"]},
    ]
    second = read(path, TAGS, fields={"tags": "column_2"})
    assert second[0]["tags"] == ["NNP", "VBZ"]
    assert read(path, TAGS, columns="word,pos,chunk,ner", fields={"tags": "pos"}) == second
    with pytest.raises(ConfigError, match="names 2 columns; .*line 4 has 4"):
        read(path, TAGS, columns="word,ner")


WNUT = (
    "@paul\tO\r\n#photo\tO\nEmpire\tB-location\nState Building\tI-location\r\n\t\n"
    "Top\tO\n\u00a0\tO\n\U0001f602\tO\n \t \n"
)


def test_wnut_blank_lines_hold_a_tab_and_line_ends_are_mixed(tmp_path: Path) -> None:
    path = put(tmp_path, "wnut17train.conll", WNUT)
    found = read(path, TAGS, extras=("text",))
    assert [e["words"] for e in found] == [
        ["@paul", "#photo", "Empire", "State Building"],
        ["Top", "\U0001f602"],
    ]


def test_sentences_that_are_ragged(tmp_path: Path) -> None:
    good = "a O\nb O\n\n" * 5
    path = put(tmp_path, "a.conll", good + "New York B-LOC\nis O\n\n" + good)
    drops = Drops()
    assert len(list(opened(path, TAGS).examples(drops))) == 10
    assert drops.to_json() == {
        "sentences with another number of columns": [1, f"{path}, the sentence from line 16"]
    }
    worse = put(tmp_path, "b.conll", "a O\n\nb\n\nc\n\n")
    with pytest.raises(DataError, match="2 of 3 sentences .* begins at line 3"):
        read(worse, TAGS, format="conll")
    one = put(tmp_path, "c.conll", "a\nb\n")
    with pytest.raises(DataError, match="line 1: one column: 'a'"):
        read(one, TAGS, format="conll")
    hole = put(tmp_path, "d.conll", "a\tO\n\tO\nb\tB-X\n")
    drops = Drops()
    (only,) = opened(hole, TAGS, format="conll").examples(drops)
    assert only["words"] == ["a", "b"] and only["tags"] == ["O", "B-X"]
    assert drops.to_json() == {"blank words (their sentences stay)": [1, f"{hole}, the sentence from line 1"]}


WORD = st.text(alphabet="ab#-\u00e9\u6f22\U0001f600.", min_size=1, max_size=5).filter(
    lambda w: w != "-DOCSTART-"
)
SENTENCES = st.lists(
    st.lists(st.tuples(WORD, st.sampled_from(["O", "B-X", "I-X"])), min_size=1, max_size=6),
    min_size=1,
    max_size=5,
)


@FAST
@given(SENTENCES, st.sampled_from(["\t", " "]), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_conll_comes_back(tmp_path: Path, rows: list, gap: str, end: str, middle: bool) -> None:
    rows[0][0] = ("w", rows[0][0][1])  # the first line of a file tells the columns: no "#" there
    between = f"{gap}x{gap}" if middle else gap
    body = end.join(end.join(f"{w}{between}{t}" for w, t in sentence) + end for sentence in rows)
    path = put(tmp_path, "a.x", body)
    got = read(path, TAGS, format="conll")
    assert [list(zip(e["words"], e["tags"], strict=True)) for e in got] == rows


def line(number: str, word: str, upos: str = "X", xpos: str = "Y") -> str:
    return f"{number}\t{word}\tlemma\t{upos}\t{xpos}\t_\t0\troot\t_\t_\n"


CONLLU = (
    "# newdoc id = d\n# sent_id = 1\n# text = I don't know.\n"
    + line("1", "I", "PRON", "PRP")
    + line("2-3", "don't", "_", "_")
    + line("2", "do", "AUX", "VBP")
    + line("3", "n't", "PART", "RB")
    + line("3.1", "ghost", "VERB", "VB")
    + line("4", "know", "VERB", "VB")
    + line("5", ".", "PUNCT", ".")
    + "\n# sent_id = 2\n"
    + line("1", "#", "SYM", "SYM")
)


def test_conllu_words_are_syntactic(tmp_path: Path) -> None:
    path = put(tmp_path, "en-ud-dev.conllu", CONLLU)
    found = read(path, TAGS, extras=("text",))
    assert found[0] == {
        "words": ["I", "do", "n't", "know", "."],
        "tags": ["PRON", "AUX", "PART", "VERB", "PUNCT"],
        "text": "I don't know.",
    }
    assert found[1] == {"words": ["#"], "tags": ["SYM"], "text": "#"}
    assert read(path, TAGS, fields={"tags": "xpos"})[0]["tags"] == ["PRP", "VBP", "RB", "VB", "."]
    assert opened(path, TAGS).format == "conllu"
    texts = [e["text"] for e in read(path, ("text",), format="conllu")]
    assert texts == ["I don't know.", "#"]
    assert "sent_id" in read(path, ("text",))[0]["text"]  # as ever: a file of text


def test_conllu_with_broken_lines(tmp_path: Path) -> None:
    good = "".join(line(str(i), "w") for i in range(1, 4)) + "\n"
    path = put(tmp_path, "a.conllu", good + "1\tonly\ttwo\n2\tx\n\n" + good)
    drops = Drops()
    assert len(list(opened(path, TAGS, format="conllu").examples(drops))) == 2
    assert drops.to_json() == {"sentences with broken lines": [1, f"{path}, line 5: '1\\tonly\\ttwo'"]}
    with pytest.raises(DataError, match="1 of 1 sentences"):
        read(put(tmp_path, "b.conllu", "a b\n"), TAGS, format="conllu")


# SQuAD ----------------------------------------------------------------------------------------------


def squad(*articles: tuple[str, list[tuple[str, list]]], **more: Any) -> dict[str, Any]:
    return {
        **more,
        "data": [
            {"title": t, "paragraphs": [{"context": c, "qas": qas} for c, qas in paragraphs]}
            for t, paragraphs in articles
        ],
    }


CONTEXT = "Mia found the kite \U0001f602 in the e\u0301tang. Noah had lost it."
QUESTIONS = [
    {"id": "q1", "question": "Who found it?", "answers": [{"text": "Mia", "answer_start": 0}] * 2},
    {
        "id": "q2",
        "question": "Who ate it?",
        "is_impossible": True,
        "answers": [],
        "plausible_answers": [{"text": "Noah", "answer_start": 37}],
    },
    {"id": "q3", "question": "Who lost it?", "answers": [{"text": "Noah", "answer_start": 35}]},
]


def test_squad_nested_and_flat_are_the_same_examples(tmp_path: Path) -> None:
    whole = squad(("Kites", [(CONTEXT, QUESTIONS)]), ("Other", [("No one.", QUESTIONS[1:2])]), version="v2.0")
    nested = put(tmp_path, "train-v2.0.json", json.dumps(whole))
    found = read(nested, QA, extras=("id",))
    assert [e["id"] for e in found] == ["q1", "q2", "q3", "q2"]
    assert found[0]["answers"] == [{"text": "Mia", "start": 0}] * 2 and found[1]["answers"] == []
    assert opened(nested, QA).format == "squad"
    flat = [
        {
            "id": q["id"],
            "title": a["title"],
            "context": p["context"],
            "question": q["question"],
            "answers": {
                "text": [x["text"] for x in q["answers"]],
                "answer_start": [x["answer_start"] for x in q["answers"]],
            },
        }
        for a in whole["data"]
        for p in a["paragraphs"]
        for q in p["qas"]
    ]
    lines = put(tmp_path, "train.jsonl", "".join(json.dumps(r) + "\n" for r in flat))
    assert read(lines, QA, extras=("id",)) == found
    groups = [[e["_group"] for e in opened(p, QA).examples()] for p in (nested, lines)]
    assert groups[0] == groups[1] == ["Kites"] * 3 + ["Other"]
    packed = put(tmp_path, "t.json.gz", gzip.compress(json.dumps(whole, indent=1).encode()))
    assert read(packed, QA, extras=("id",)) == found
    late = put(tmp_path, "late.json", json.dumps({"data": whole["data"], "version": "x" * 100_000}))
    assert read(late, QA, extras=("id",)) == found


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda q: q.pop("question"), r"article 1 \(T\), paragraph 1, question 2: no 'question'"),
        (lambda q: q.update(answers=None), "question 2: no 'answers'"),
        (lambda q: q.update(answers=[{"answer_start": 1}]), "question 2, its answers: no 'text'"),
        (lambda q: q.update(question=5), "question 2: 'question' is int '5'"),
    ],
)
def test_squad_with_a_missing_key_names_the_question(tmp_path: Path, change: Any, place: str) -> None:
    questions = [dict(QUESTIONS[0]), dict(QUESTIONS[0])]
    change(questions[1])
    path = put(tmp_path, "a.json", json.dumps(squad(("T", [(CONTEXT, questions)]))))
    with pytest.raises(DataError, match=place) as caught:
        read(path, QA)
    assert str(path) in caught.value.given and caught.value.next


def test_squad_that_is_cut_short_or_no_squad(tmp_path: Path) -> None:
    body = json.dumps(squad(("T", [(CONTEXT, QUESTIONS)])))
    with pytest.raises(DataError, match="article 1: broken JSON"):
        read(put(tmp_path, "a.json", body[:-20]), QA)
    with pytest.raises(DataError, match="no 'data'"):
        read(put(tmp_path, "b.json", '{"paragraphs": []}'), QA, format="squad")
    with pytest.raises(DataError, match="no 'paragraphs'; found: title"):
        read(put(tmp_path, "c.json", '{"data": [{"title": "T"}]}'), QA, format="squad")


def test_squad_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An article is given out before the file has been read to its end."""
    from exnihilo.data.formats import squad as reader

    articles = [(f"T{i}", [("x" * 5000 + CONTEXT, QUESTIONS)]) for i in range(400)]
    body = json.dumps(squad(*articles))
    taken = 0

    def blocks() -> Any:
        nonlocal taken
        for at in range(0, len(body), 1 << 16):
            taken += 1
            yield body[at : at + (1 << 16)]

    first = next(reader.read(tmp_path / "a.json", blocks()))
    assert first["id"] == "q1" and taken < len(body) / (1 << 16) / 1.5


# settings -------------------------------------------------------------------------------------------


def test_a_format_can_be_set(tmp_path: Path) -> None:
    path = put(tmp_path, "a.data", "text,label\nfine day,1\nbad day,0\n")
    assert read(path, LABEL, format="records") == [
        {"text": "fine day", "label": "1"},
        {"text": "bad day", "label": "0"},
    ]
    rows = put(tmp_path, "rows.jsonl", '{"text": "a"}\n')
    assert [e["text"] for e in read(rows, ("text",), format="text")] == ['{"text": "a"}\n']
    lines = put(tmp_path, "b.data", '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n')
    assert [e["label"] for e in read(lines, LABEL)] == [1, 0]


def test_every_setting_is_part_of_the_key(tmp_path: Path) -> None:
    path = put(tmp_path, "a.tsv", "a\tb\tlabel\nx y\tz w\t1\n")
    cache = tmp_path / "cache"
    cache.mkdir()

    def key(roles: tuple[str, ...] = ("a", "b"), **options: Any) -> str:
        extras = options.pop("extras", ())
        return opened(path, roles, extras, **options).fingerprint(cache)

    keys = [
        key(),
        key(PAIR),
        key(extras=("label",)),
        key(quotes=True),
        key(header=True),
        key(fields={"b": "label"}),
        key(("text",), format="text"),
    ]
    assert len(set(keys)) == len(keys)
