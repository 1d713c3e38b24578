"""Next sentence and sentence order: labels that are never wrong, balanced, and not told by a pair's shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo import log
from exnihilo.codec import train as train_codec
from exnihilo.codec.base import Codec
from exnihilo.config import CodecConfig, DataConfig, ModelConfig, SourceConfig
from exnihilo.data import collate, packing
from exnihilo.data.prepare import prepare
from exnihilo.errors import ConfigError, DataError
from exnihilo.infer.predict import Predictor
from exnihilo.model import build
from exnihilo.objective import draws, registry
from exnihilo.objective._blocks import BEGIN, END, MARKS
from exnihilo.objective._pairs import Pairs
from exnihilo.objective.base import Columns, Item
from exnihilo.objective.pieces import IGNORE

LETTERS = "bcdfghjklmnpqrstvwxyz"
NAMES = [f"{a}{b}a" for a in LETTERS for b in "aeiou"]  # one a document: which one a token is from shows


def document(name: str, sentences: int, words: int = 6, seed: int = 0) -> str:
    """Sentences of which every word begins with the document's name and is numbered, in order."""
    rng = np.random.default_rng(seed)
    out, n = [], 0
    for _ in range(sentences):
        size = int(rng.integers(2, 2 * words))
        out.append(" ".join([name.capitalize(), *[name] * size, f"n{n}"]) + ".")
        n += 1
    return " ".join(out)


@pytest.fixture(scope="module")
def codec() -> Codec:
    texts = [" ".join(NAMES), " ".join(f"n{i}" for i in range(400)), ". ! ?"]
    return train_codec(CodecConfig(kind="wordpiece", vocab_size=2000, lowercase=True), texts * 3)


class Rows:
    """Items in packed rows, as a data set gives them."""

    def __init__(self, items: Sequence[Item], row: int, codec: Codec) -> None:
        lengths = np.array([len(np.asarray(i["tokens"])) for i in items], np.int64)
        plan = packing.plan(lengths, row, overlap=0, max_padding=1.0)
        self.rows = plan.rows
        pieces = [plan.pieces(r) for r in range(plan.rows)]
        self.columns = collate.of_items(pieces, items, row=row, pad_id=codec.pad_id)

    def batch(self, rows: np.ndarray) -> Columns:
        return {k: v[rows] for k, v in self.columns.items()}


def prepared(
    texts: Sequence[str], codec: Codec, name: str = "next_sentence", length: int = 64
) -> tuple[Pairs, Rows]:
    o = registry.create(name, length=length)
    assert isinstance(o, Pairs)
    items = [i for items in o.encode_many([{"text": t} for t in texts], codec) for i in items]
    return o, Rows(items, length, codec)


def pairs_of(columns: Columns, codec: Codec) -> Iterator[tuple[list[int], list[int], int]]:
    """(A, B, label) of every piece; B is empty where there is one text only."""
    for b in range(len(columns["tokens"])):
        doc = columns["doc"][b]
        for d in range(int(doc.max()) + 1):
            at = np.flatnonzero(doc == d)
            tokens, segment = columns["tokens"][b][at], columns["segment"][b][at]
            assert columns["pos"][b][at].tolist() == list(range(len(at)))
            assert tokens[0] == codec.cls_id and tokens[-1] == codec.sep_id
            second = np.flatnonzero(segment == 1)
            first = tokens[1 : (second[0] if len(second) else len(tokens)) - 1]
            assert (columns["label"][b][at[1:]] == IGNORE).all()
            if len(second):
                assert (second == np.arange(second[0], len(at))).all() and tokens[
                    second[0] - 1
                ] == codec.sep_id
            assert (tokens[second[:-1]] != codec.sep_id).all() and (first != codec.sep_id).all()
            yield first.tolist(), tokens[second][:-1].tolist(), int(columns["label"][b][at[0]])


def drawn(
    o: Pairs, rows: Rows, codec: Codec, steps: int = 1, seed: int = 0
) -> list[tuple[list[int], list[int], int]]:
    ids = np.arange(rows.rows)
    return [
        pair
        for step in range(steps)
        for pair in pairs_of(draws.draw(o, rows, ids, codec=codec, seed=seed, step=step), codec)
    ]


@pytest.fixture
def said() -> Iterator[list[str]]:
    found: list[str] = []
    with log.listen(found.append):
        yield found


def test_blocks_are_filled_hold_everything_and_know_their_document(codec: Codec):
    texts = [document(n, k, seed=k) for k, n in enumerate(NAMES[:9], 1)]
    o, _ = prepared(texts, codec)
    for text, items in zip(texts, o.encode_many([{"text": t} for t in texts], codec), strict=True):
        tokens = [np.asarray(i["tokens"]) for i in items]
        assert [i for t in tokens for i in t[1:-2].tolist()] == codec.encode(text)
        assert all(len(t) == 64 for t in tokens[:-1]) and len(tokens[-1]) <= 64
        marks = np.concatenate([np.asarray(i["sentence"])[1:-2] for i in items])
        assert (marks & BEGIN).sum() == text.count(".") and (marks & END).sum() == END
        assert [int(np.asarray(i["sentence"])[-MARKS]) & END for i in items] == [0] * (len(items) - 1) + [END]
        assert len({int(i["document"]) for i in items}) == 1
    numbers = {int(items[0]["document"]) for items in o.encode_many([{"text": t} for t in texts], codec)}
    assert len(numbers) == len(texts) and all(0 <= n < 1 << 63 for n in numbers)


def test_parts_of_one_document_are_one_document(codec: Codec):
    o, _ = prepared(["a"], codec)
    place = {"_file": 0, "_index": 7}
    first = o.encode({"text": document("baa", 20), "_end": False, **place}, codec)
    last = o.encode({"text": document("caa", 20), "_begin": False, **place}, codec)
    assert isinstance(first, list) and isinstance(last, list)
    assert {int(i["document"]) for i in first} == {int(i["document"]) for i in last}
    assert not (np.asarray(first[-1]["sentence"]) & END).any()
    assert np.asarray(last[-1]["sentence"])[-MARKS] & END


def test_labels_are_balanced_and_true(codec: Codec):
    texts = [document(n, 30, seed=i) for i, n in enumerate(NAMES[:40])]
    o, rows = prepared(texts, codec)
    found = drawn(o, rows, codec, steps=12)
    names = {codec.encode(n)[0]: n for n in NAMES}
    assert all(len(codec.encode(n)) == 1 for n in NAMES)
    labels = np.array([label for *_, label in found])
    n = int((labels != IGNORE).sum())
    assert (labels == IGNORE).mean() < 0.05 and n > 1500
    assert abs(int((labels == 1).sum()) - n / 2) < 4 * np.sqrt(n) / 2
    whole = {
        name: " " + " ".join(map(str, codec.encode(text))) + " "
        for name, text in zip(NAMES, texts, strict=False)
    }
    for a, b, label in found:
        if label == IGNORE:
            continue
        of_a, of_b = ({names[t] for t in part if t in names} for part in (a, b))
        assert len(of_a) <= 1 and len(of_b) == 1, "a half is of one document"
        text = whole[next(iter(of_b))]
        assert f" {' '.join(map(str, b))} " in text
        if label == 0:
            assert f" {' '.join(map(str, a + b))} " in text, "B follows A"
        elif of_a:
            assert of_a != of_b, "B is from another document"
        assert codec.decode(b[:1]) in NAMES, "B begins where a sentence does"


def test_rows_keep_their_length_and_the_shape_of_b_does_not_tell_the_label(codec: Codec):
    # long documents: blocks end anywhere; short ones: blocks end where the documents do
    for sentences, rest in ((60, 0.01), (5, 0.05)):
        texts = [document(n, sentences, seed=i) for i, n in enumerate(NAMES[:100])]
        o, rows = prepared(texts, codec)
        ids = np.arange(rows.rows)
        stop = codec.encode(".")[0]
        shapes: dict[int, list[tuple[int, int, bool]]] = {0: [], 1: []}
        for step in range(16):
            out = draws.draw(o, rows, ids, codec=codec, seed=1, step=step)
            lost = (rows.columns["doc"] >= 0).sum() - (out["doc"] >= 0).sum()
            assert lost <= rest * out["doc"].size
            for a, b, label in pairs_of(out, codec):
                if label != IGNORE:
                    shapes[label].append((len(a), len(b), b[-1] == stop))
        true, false = (np.array(shapes[k], float) for k in (0, 1))
        assert min(len(true), len(false)) > 500
        deviation = np.sqrt(true.var(0) / len(true) + false.var(0) / len(false)) + 1e-9
        away = abs(true.mean(0) - false.mean(0))
        # within chance, or (negatives that end a document only fit if they are no longer) within one token
        assert (away < np.maximum(4.5 * deviation, [1.5, 1.5, 0.03])).all(), (sentences, away, deviation)


def test_one_document_gives_negatives_from_elsewhere_in_it_and_says_so(codec: Codec, said: list[str]):
    text = document("baa", 120)
    o, rows = prepared([text], codec)
    found = drawn(o, rows, codec, steps=6)
    assert len([s for s in said if "one document" in s]) == 1
    whole = " " + " ".join(map(str, codec.encode(text))) + " "
    numbers = {codec.encode(f"n{i}")[0] for i in range(120)}
    assert len(numbers) == 120
    labels = [label for *_, label in found]
    assert 0.35 < np.mean([x == 1 for x in labels if x != IGNORE]) < 0.65
    for a, b, label in found:
        if label != IGNORE and numbers & set(b):  # else "baa baa baa" may be anywhere
            assert (f" {' '.join(map(str, a + b))} " in whole) == (label == 0)


def test_a_rare_second_document_is_where_negatives_come_from(codec: Codec):
    texts = [document("baa", 200), document("caa", 9)]
    o, rows = prepared(texts, codec)
    baa, caa = (codec.encode(n)[0] for n in ("baa", "caa"))
    for a, b, label in drawn(o, rows, codec, steps=3):
        if label == 1 and {baa, caa} & set(a):
            assert (baa in a) == (caa in b)


def test_single_sentences_have_no_label_and_it_is_said(codec: Codec, said: list[str]):
    texts = [document(n, 1, seed=i) for i, n in enumerate(NAMES[:60])] + [
        document("zua", 9),
        document("zoa", 9),
    ]
    o, rows = prepared(texts, codec)
    found = drawn(o, rows, codec)
    single = [pair for pair in found if not pair[1]]
    assert len(single) >= 60 and all(label == IGNORE for *_, label in single)
    assert {label for _, b, label in found if b} == {0, 1}
    assert any("hold one sentence" in s for s in said)


@pytest.mark.parametrize("name", ["next_sentence", "sentence_order"])
def test_a_corpus_without_pairs_is_refused_alone_and_left_out_of_a_mix(
    codec: Codec, said: list[str], name: str
):
    texts = [document(n, 1, words=3) for n in NAMES[:5]]
    o, rows = prepared(texts, codec, name)
    with pytest.raises(DataError, match="two sentences"):
        drawn(o, rows, codec)
    with pytest.raises(DataError, match="two sentences"):
        drawn(o, rows, codec)
    evaluated = draws.draw(o, rows, np.arange(rows.rows), codec=codec)
    assert (evaluated["label"] == IGNORE).all()
    mix = registry.create("mix", {"objectives": ["masked_lm", name]}, length=64)
    for step in range(3):
        out = draws.draw(mix, rows, np.arange(rows.rows), codec=codec, seed=0, step=step)
        assert (out["label"] == IGNORE).all() and (out["targets"] != IGNORE).any()
    assert len([s for s in said if "left out" in s]) == 1
    if name == "next_sentence":
        o, rows = prepared([document("baa", 4)], codec)
        with pytest.raises(DataError, match="nothing that does not follow"):
            drawn(o, rows, codec)


def test_halves_are_swapped_in_half_of_the_cases(codec: Codec):
    texts = [document(n, 30, seed=i) for i, n in enumerate(NAMES[:40])]
    o, rows = prepared(texts, codec, "sentence_order")
    padded = float((rows.columns["doc"] < 0).mean())
    assert padded < 0.05
    found = drawn(o, rows, codec, steps=6)
    labels = np.array([label for *_, label in found])
    n = int((labels != IGNORE).sum())
    assert n > 0.8 * len(labels) and abs(int((labels == 1).sum()) - n / 2) < 4 * np.sqrt(n) / 2
    whole = " | ".join(" ".join(map(str, codec.encode(t))) for t in texts)
    stop = codec.encode(".")[0]
    for a, b, label in found:
        if label != IGNORE:
            assert a[-1] == b[-1] == stop, "both halves are whole sentences"
            assert " ".join(map(str, b + a if label else a + b)) in whole


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_corpus_gives_rows_that_are_right(codec: Codec, data: st.DataObject):
    texts = data.draw(
        st.lists(
            st.one_of(
                st.text('baba nana.!?\n "é🦊', max_size=200),
                st.builds(document, st.sampled_from(NAMES), st.integers(1, 12)),
            ),
            min_size=1,
            max_size=6,
        )
    )
    name = data.draw(st.sampled_from(["next_sentence", "sentence_order"]))
    length = data.draw(st.integers(8, 70))
    o, rows = prepared(texts, codec, name, length) if any(codec.encode(t) for t in texts) else (None, None)
    if o is None or rows is None or not rows.rows:
        return
    o.alone = False
    before = np.sort(rows.columns["tokens"][rows.columns["doc"] >= 0])
    for a, b, label in drawn(o, rows, codec, seed=data.draw(st.integers(0, 99))):
        assert len(a) and len(a) + len(b) + (MARKS if b else MARKS - 1) <= length
        assert (label == IGNORE) == (not b)
    assert (np.sort(rows.columns["tokens"][rows.columns["doc"] >= 0]) == before).all()


def test_a_text_of_a_megabyte_is_encoded(codec: Codec):
    o, _ = prepared(["a"], codec)
    items = o.encode({"text": "x" * (1 << 20)}, codec)
    assert isinstance(items, list) and len(items) >= 1
    text = "baa " * (1 << 16) + ". Nana."
    long = o.encode({"text": text}, codec)
    assert isinstance(long, list)
    assert sum(len(np.asarray(i["tokens"])) - MARKS for i in long) == len(codec.encode(text))


def test_predictions_say_whether_b_follows(codec: Codec):
    for name, key in (("next_sentence", "follows"), ("sentence_order", "in_order"), ("mix", "follows")):
        o = registry.create(name, length=24)
        config = ModelConfig(
            family="bert", depth=1, width=32, heads=2, context=24, vocab_size=codec.vocab_size
        )
        predictor = Predictor(build(config, heads=o.heads), codec, o)
        a, b, missing = predictor.predict(
            [{"a": "baa. ", "b": "caa."}, ("baa " * 99, "caa " * 99), {"a": "baa"}]
        )
        for p in (a, b):
            assert p[key] == (p["probability"] >= 0.5) and 0 <= p["probability"] <= 1
        assert "error" in missing


def test_bad_use_is_refused(codec: Codec):
    with pytest.raises(ConfigError, match="8 or more"):
        registry.create("next_sentence", length=7)
    with pytest.raises(ConfigError, match="language"):
        registry.create("next_sentence", {"language": "!!"}).encode({"text": "a"}, codec)
    plain = {
        "tokens": np.ones((1, 8), np.int64),
        "doc": np.zeros((1, 8), np.int32),
        "pos": np.arange(8)[None],
    }
    o = registry.create("next_sentence")
    with pytest.raises(DataError, match="blocks"):
        o.draw(plain, [draws.generator(0, 0, 0)], draws.Look(1, np.arange(1), lambda rows: plain, codec))


def test_a_batch_of_full_rows_stays_full(codec: Codec):
    """Then attention needs no mask: it is the fastest way, and taken by most batches of long documents."""
    texts = [document(n, 80, words=30, seed=i) for i, n in enumerate(NAMES[:8])]
    texts.append(document("zoa", 3, words=400))  # blocks inside one sentence
    for name in ("next_sentence", "mix"):
        o = registry.create(name, length=64)
        items = [i for items in o.encode_many([{"text": t} for t in texts], codec) for i in items]
        full = [i for i in items if len(np.asarray(i["tokens"])) == 64]
        rows = Rows(full, 64, codec)
        out = draws.draw(o, rows, np.arange(rows.rows), codec=codec, seed=0, step=0)
        assert set(np.unique(out["label"][:, 0]).tolist()) == {IGNORE, 0, 1}
        assert "doc" not in collate.simplify(out)


def test_prepared_data_gives_whole_blocks_and_the_same_pairs_in_any_batch(codec: Codec, tmp_path: Path):
    texts = [document(n, k % 30 + 1, seed=k) for k, n in enumerate(NAMES)]
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(texts))
    mix = registry.create("mix", length=48)
    data = prepare(
        DataConfig(sources=(SourceConfig(path=str(tmp_path / "a.txt")),), val_fraction=0.0),
        None,
        encode=lambda examples: mix.encode_many(examples, codec),
        key="test",
        context=48,
        seed=0,
        cache=tmp_path / "cache",
        pad_id=codec.pad_id,
        lookahead=mix.lookahead,
        join=mix.joins,
    ).train
    ids = np.arange(data.rows)
    whole = draws.draw(mix, data, ids, codec=codec, seed=3, step=5)
    assert {"tokens", "doc", "pos", "segment", "label", "targets"} <= set(whole)
    assert (whole["tokens"][(whole["pos"] == 0) & (whole["doc"] >= 0)] == codec.cls_id).all()
    assert (whole["doc"] < 0).mean() < 0.05
    for part in (ids[5:6], ids[::-3]):
        for name, column in draws.draw(mix, data, part, codec=codec, seed=3, step=5).items():
            np.testing.assert_array_equal(column, whole[name][part])
