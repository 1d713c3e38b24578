"""Offsets into the original string, words, windows: laws that hold for any text and any codec."""

from __future__ import annotations

import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo import codec as codecs
from exnihilo.codec.base import Codec, scrub
from exnihilo.config import CodecConfig
from exnihilo.objective import _offsets

TEXTS = [
    "The fox's den lay under the old oak; it wasn't far from the river, and the fox liked it that way.\n",
    "On 12 May 1984 the miller counted 1,024 sacks. The river and the fox and the miller.\r\n\r\n\tAll.\n",
    "Le cœur déçu mais l'âme plutôt naïve. Cafe\u0301. 你好，世界！ Привет, мир. 🦊\n",
]
KINDS = ("bpe", "bytes", "chars", "wordpiece", "wordpiece-lower")
PIECES = [
    "fox",
    "The ",
    "É",
    "e\u0301",
    "世",
    " ",
    "\r\n",
    "\t",
    "🦊",
    "👩\u200d👧",
    "\ud800",
    "\ud83d\ude00",
    "İ",
    "ﬁ",
    ".",
]
ANY = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


@pytest.fixture(scope="module")
def made() -> dict[str, Codec]:
    out = {}
    for kind in KINDS:
        name, _, lower = kind.partition("-")
        config = CodecConfig(kind=name, vocab_size=420, lowercase=bool(lower))  # type: ignore[arg-type]
        out[kind] = codecs.train(config, TEXTS)
    return out


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120, deadline=None)
@given(text=ANY)
def test_ids_are_the_codecs_and_offsets_are_in_order(made: dict[str, Codec], kind: str, text: str):
    ids, starts, ends = _offsets.offsets(made[kind], text)
    assert ids.tolist() == made[kind].encode(text)
    assert len(ids) == len(starts) == len(ends)
    assert (starts <= ends).all() and (ends <= len(text)).all() and (starts >= 0).all()
    assert (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all()


@pytest.mark.parametrize("kind", ["bpe", "bytes", "chars"])
@settings(max_examples=80, deadline=None)
@given(text=ANY)
def test_byte_codecs_miss_no_character_but_white_space(made: dict[str, Codec], kind: str, text: str):
    _, starts, ends = _offsets.offsets(made[kind], text)
    covered = np.zeros(len(text), bool)
    for s, e in zip(starts.tolist(), ends.tolist(), strict=True):
        covered[s:e] = True
    assert all(char.isspace() for char, hit in zip(text, covered, strict=True) if not hit)


@pytest.mark.parametrize("kind", ["wordpiece", "wordpiece-lower"])
@settings(max_examples=80, deadline=None)
@given(text=ANY)
def test_what_a_wordpiece_token_covers_spells_it_again(made: dict[str, Codec], kind: str, text: str):
    """From the first to the last token of a word, the original characters encode to the same ids."""
    codec = made[kind]
    ids, starts, ends = _offsets.offsets(codec, text)
    pieces = {i: p for p, i in codec.tokenizer.get_vocab().items()}
    firsts = [i for i, id in enumerate(ids.tolist()) if not pieces[id].startswith("##")]
    for a, b in itertools.pairwise([*firsts, len(ids)]):
        assert codec.encode(text[starts[a] : ends[b - 1]]) == ids[a:b].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_character_of_several_tokens_is_in_all_of_them_and_marks_are_not_torn_off(made, kind: str):
    text = "a 🦊 Cafe\u0301 x"
    ids, starts, ends = _offsets.offsets(made[kind], text)
    seen = [text[s:e] for s, e in zip(starts, ends, strict=True)]
    assert "🦊" in seen and set("".join(seen)) >= set("a🦊Cafex")
    at = text.index("C")
    inside = [i for i in range(len(ids)) if at <= starts[i] < at + 5]
    assert text[starts[inside[0]] : ends[inside[-1]]] == "Cafe\u0301"
    assert not any(s != s.strip() for s in seen if s.strip())


def test_surrogates_keep_the_original_places(made: dict[str, Codec]):
    text = "\ud83d\ude00 fox \ud800 fox"
    for kind in KINDS:
        ids, starts, ends = _offsets.offsets(made[kind], text)
        assert ids.tolist() == made[kind].encode(text)
        assert text[starts[-1] : ends[-1]][-1] == "x" and int(ends[-1]) == len(text)
        assert text[starts[0] : ends[0]] == "\ud83d\ude00"  # two units, one character


def test_a_text_that_is_read_in_parts(made: dict[str, Codec]):
    text = (TEXTS[0] + TEXTS[2]) * 1900
    assert len(text) > 300_000
    for kind in ("bpe", "wordpiece-lower"):
        ids, starts, ends = _offsets.offsets(made[kind], text)
        assert ids.tolist() == made[kind].encode(text)
        assert int(ends[-1]) == len(text.rstrip()) or kind == "bpe"
    starts, ends = _offsets.words(text)
    assert text[starts[-1] : ends[-1]] == "🦊"


def test_a_tokenizer_made_elsewhere_is_read_by_its_own_offsets(tmp_path):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    own = Tokenizer(models.BPE())
    own.normalizer = normalizers.NFC()  # type: ignore[assignment]
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # type: ignore[assignment]
    own.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    own.train_from_iterator(TEXTS, trainer)
    own.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    codec = codecs.load(tmp_path)
    text = "fox Cafe\u0301 世"
    ids, starts, ends = _offsets.offsets(codec, text)
    assert ids.tolist() == codec.encode(text)
    assert text[starts[0] : ends[-1]] == text
    assert any(text[s:e].endswith("e\u0301") for s, e in zip(starts, ends, strict=True))


@settings(max_examples=150, deadline=None)
@given(ANY)
def test_words_are_disjoint_and_hold_all_but_white_space(text: str):
    starts, ends = _offsets.words(text)
    assert (starts < ends).all() and (ends[:-1] <= starts[1:]).all()
    covered = np.zeros(len(text), bool)
    for s, e in zip(starts.tolist(), ends.tolist(), strict=True):
        covered[s:e] = True
        assert text[s:e].strip()
    left = "".join(char for char, hit in zip(text, covered, strict=True) if not hit)
    assert all(char.isspace() or unicodedata.category(char) == "Cc" for char in scrub(left)), ascii(left)


def test_words_worked_by_hand():
    text = "Don't e\u0301te\u0301 漢字 👍🏽! a_b"
    starts, ends = _offsets.words(text)
    assert [text[s:e] for s, e in zip(starts, ends, strict=True)] == [
        "Don", "'", "t", "e\u0301te\u0301", "漢", "字", "👍🏽", "!", "a_b",
    ]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 5), max_size=60), st.integers(5, 30), st.data())
def test_windows_hold_everything_and_each_unit_is_owned_where_it_has_most_context(sizes, room: int, data):
    overlap = data.draw(st.integers(0, room - 1))
    spans = _offsets.windows(sizes, room, overlap)
    ends = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
    assert spans[0][0] == 0 and spans[-1][1] == len(sizes)
    for first, last in spans:
        assert ends[last] - ends[first] <= room
    for (a, b), (c, d) in zip(spans, spans[1:], strict=False):
        assert a < c <= b < d and ends[b] - ends[c] <= overlap
    owner = _offsets.owners(spans, sizes)
    assert (np.diff(owner) >= 0).all()  # runs
    for unit, number in enumerate(owner.tolist()):
        context = [
            min(ends[unit] - ends[a], ends[b] - ends[unit + 1]) if a <= unit < b else -1 for a, b in spans
        ]
        assert context[number] == max(context) and number == context.index(max(context))
