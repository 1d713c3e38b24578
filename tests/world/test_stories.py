"""Stories: the same everywhere, many, varied."""

import hashlib
import re
from itertools import islice

from exnihilo.world import HELD_OUT, Document, World, stories


def test_pure_function_of_seed_and_index(world: World) -> None:
    fresh = World(0)
    for i in (0, 5, 10**6, HELD_OUT + 3):
        assert fresh.document(i).text == world.document(i).text
    assert [d.text for d in stories(0, 3)] == [world.document(i).text for i in range(3)]
    assert next(iter(World(1).stories(1))).text != world.document(0).text


def test_unlimited(world: World) -> None:
    assert len(list(islice(world.stories(), 5))) == 5
    assert [d.index for d in islice(world.stories(start=7), 2)] == [7, 8]


def test_same_on_every_machine(world: World) -> None:
    # A contract, not a derivation: the text of these documents may change only together with the grammar.
    text = "\f".join(world.document(i).text for i in range(200))
    wanted = "9ae24f6cfacb7abcdea8a4f791bc45aadf92b42450fecf3fa0cfce45055dd32a"
    assert hashlib.sha256(text.encode()).hexdigest() == wanted


def test_structure(docs: list[Document]) -> None:
    for doc in docs:
        paragraphs = [" ".join(s.text for s in paragraph) for paragraph in doc.paragraphs]
        assert doc.text == "\n\n".join([doc.title, *paragraphs])
        assert [s for p in doc.paragraphs for s in p] == list(doc.sentences)
        assert doc.text.isascii() and doc.text == doc.text.strip() and "  " not in doc.text
        for sentence in doc.spans:
            assert doc.text[sentence.start : sentence.end] == sentence.text
            assert sentence.text[0] == '"' or sentence.text[0].isupper()
        assert all(s.text.rstrip('"')[-1] in ".!?" for s in doc.sentences)
        assert doc.text.startswith(doc.story)


def test_length_and_vocabulary_vary(docs: list[Document]) -> None:
    lengths = [len(doc.sentences) for doc in docs]
    assert min(lengths) <= 6 and max(lengths) >= 22 and len(set(lengths)) > 15
    words = {w.lower() for doc in docs for w in re.findall(r"[A-Za-z]+", doc.text)}
    assert len(words) > 1500
    assert any('"' in doc.text for doc in docs)


def test_articles_agree(docs: list[Document]) -> None:
    for doc in docs:
        for article, word in re.findall(r"\b([Aa]n?) (\w+)", doc.text):
            vowel = word[0].lower() in "aeiou" or word == "hour"
            assert (article.lower() == "an") == vowel, (article, word)


def test_repeats_are_rare(world: World) -> None:
    n = 20_000
    texts = {hash(doc.text) for doc in world.stories(n)}
    assert len(texts) > 0.99 * n


def test_held_out_stories_are_new(world: World, docs: list[Document]) -> None:
    seen = {doc.text for doc in docs}
    held = [doc.text for doc in world.stories(500, start=HELD_OUT)]
    assert sum(text in seen for text in held) < 5


def test_title_fixes_the_plot(docs: list[Document]) -> None:
    plots: dict[str, set[str]] = {}
    for doc in docs:
        plots.setdefault(doc.title, set()).add(doc.plot)
    assert all(len(names) == 1 for names in plots.values())
