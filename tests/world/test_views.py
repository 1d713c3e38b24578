"""Labelled views of the stories: every label is checked against the text itself."""

from __future__ import annotations

from collections import Counter

import pytest

from exnihilo.world import World
from exnihilo.world.tags import TAGS
from exnihilo.world.tasks import reaches
from exnihilo.world.views import VIEWS

WORLD = World(0)
DOCUMENTS = list(WORLD.stories(120))


def made(view: str) -> list[dict]:
    return [example for doc in DOCUMENTS for example in VIEWS[view].make(doc)]


@pytest.mark.parametrize("view", VIEWS)
def test_views_have_their_roles_and_are_pure(view: str) -> None:
    found = made(view)
    told = [{r for r in e if r[0] != "_"} for e in found]
    if view == "scenes":  # about a picture, a sound, or both
        assert {frozenset(t) for t in told} == {
            frozenset({"question", "answer", *media})
            for media in (("picture",), ("sound",), ("picture", "sound"))
        }
    else:
        assert found and all(set(VIEWS[view].roles) == t for t in told)
    again = [e for doc in World(0).stories(120) for e in VIEWS[view].make(doc)]
    assert again == found


def test_answers_stand_where_they_are_said_to() -> None:
    found = made("qa")
    answered = [e for e in found if e["answers"]]
    for example in answered:
        for answer in example["answers"]:
            end = answer["start"] + len(answer["text"])
            assert example["context"][answer["start"] : end] == answer["text"]
    assert 0.2 < len(answered) / len(found) < 0.8 and len({e["id"] for e in found}) == len(found)


def test_tags_are_bio_and_agree_with_the_spans() -> None:
    for example in made("entities"):
        assert len(example["words"]) == len(example["tags"])
        assert example["text"].replace(" ", "").replace("\n", "") == "".join(example["words"])
        before = "O"
        for tag in example["tags"]:
            assert tag == "O" or tag[:2] in ("B-", "I-")
            assert tag[:2] != "I-" or before[2:] == tag[2:]
            before = tag
        begun = [w for w, t in zip(example["words"], example["tags"], strict=True) if t[:2] == "B-"]
        spans = [example["text"][s["start"] : s["end"]] for s in example["spans"]]
        assert len(spans) == len(begun) and all(s.startswith(w) for s, w in zip(spans, begun, strict=True))
    kinds = {t for e in made("pos") for t in e["tags"]}
    assert kinds <= set(TAGS) and len(kinds) > 10


def test_labels_are_balanced_enough_to_learn_from() -> None:
    entailment = Counter(e["label"] for e in made("entailment"))
    assert (
        set(entailment) == {"entailment", "neutral", "contradiction"} and len(set(entailment.values())) == 1
    )
    sentiment = Counter(e["label"] for e in made("sentiment"))
    assert set(sentiment) == {"positive", "neutral", "negative"}
    assert max(sentiment.values()) < 0.6 * sentiment.total()
    texts = [e["text"] for e in made("sentiment")]
    assert len(set(texts)) > 0.98 * len(texts)


def test_rerank_pairs_a_right_and_a_wrong_passage() -> None:
    found = made("rerank")
    assert Counter(e["label"] for e in found) == {1: len(found) // 2, 0: len(found) // 2}
    answers = {}
    for doc in DOCUMENTS:
        for q in doc.qa:
            answers.setdefault((q.question, q.answer), q.answer)
    for right, wrong in zip(found[::2], found[1::2], strict=True):
        assert right["query"] == wrong["query"] and right["document"] != wrong["document"]
        said = [a for (q, a) in answers if q == right["query"] and a]
        assert any(a in right["document"] and a not in wrong["document"] for a in said)


def test_talks_are_true_and_of_the_kind_that_is_asked_for() -> None:
    for view, key in (("dialogues", "kind"), ("preferences", "property"), ("tasks", "kind")):
        kinds = VIEWS[view].kinds
        assert {e["record"][key] for e in made(view)} == set(kinds)
        for kind in kinds:
            one = [e for doc in DOCUMENTS[:8] for e in VIEWS[view].of(kind).make(doc)]
            assert {e["record"][key] for e in one} == {kind}
    for example in made("dialogues"):
        assert example["answer"].lower() in example["messages"][-1]["content"].lower()
    for example in made("preferences"):
        assert example["chosen"] != example["rejected"]
    for example in made("tasks"):
        record = example["record"]
        if record["kind"] == "countdown":
            assert reaches(example["answer"], tuple(record["numbers"]), record["target"])


def test_pairs_share_their_story() -> None:
    for example, doc in zip(made("pairs"), DOCUMENTS, strict=True):
        a, b = example["a"], example["b"]
        assert a and b and a != b
        assert len(a) + len(b) <= len(doc.story)
