"""Text -> ids -> text: the same for every Unicode string, never a special id, streams in whole characters."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exnihilo.codec import Codec
from exnihilo.codec.base import _LONG, cut, scrub
from exnihilo.codec.wordpiece import WordPiece
from exnihilo.errors import CodecError

fixed = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
awkward = st.lists(
    st.sampled_from(
        ["<|eos|>", "[MASK]", "<0x41>", "'s", " ", "\n", "\r\n", "\t", "a", "é", "e\u0301", "1", "…", "你"]
    )
    | st.characters(exclude_categories=["Cs"]),
    max_size=30,
).map("".join)


def streamed(codec: Codec, ids: list[int]) -> list[str]:
    streamer = codec.streamer()
    return [*(streamer.push(i) for i in ids), streamer.finish()]


@given(unicode | awkward)
@fixed
def test_every_unicode_string_round_trips(lossless: Codec, text: str):
    ids = lossless.encode(text)
    assert lossless.decode(ids) == text
    assert not lossless.special_ids & set(ids)
    assert all(0 <= i < lossless.vocab_size for i in ids)
    assert int(lossless.token_bytes()[ids].sum()) == len(text.encode())


def test_hard_texts_round_trip_alone_and_in_a_batch(lossless: Codec, hard: list[str]):
    batch = lossless.encode_batch(hard)
    assert [lossless.decode(ids) for ids in batch] == hard
    assert [lossless.encode(text) for text in hard] == batch


@given(st.text(st.characters(), max_size=40))
@fixed
def test_surrogates_become_replacement_characters(lossless: Codec, text: str):
    ids = lossless.encode_batch([text, "next"])
    assert lossless.decode(ids[0]) == scrub(text)
    assert lossless.decode(ids[1]) == "next"


def test_scrub():
    assert scrub("a\ud83d\ude00b") == "a\U0001f600b"  # a pair is the character that it stands for
    assert scrub("\ud83d") == "\ufffd" and scrub("\ude00\ud83d") == "\ufffd\ufffd"
    assert scrub("\ud800x\udfff") == "\ufffdx\ufffd"
    assert scrub("plain é") == "plain é"


@given(unicode | awkward)
@fixed
def test_streams_join_to_the_text_in_whole_characters(any_codec: Codec, text: str):
    ids = any_codec.encode(text)
    pieces = streamed(any_codec, ids)
    assert "".join(pieces) == any_codec.decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)  # no half of a character came out


@given(st.lists(st.integers(0, 140), max_size=40))
@fixed
def test_streams_of_any_ids_join_to_their_text(any_codec: Codec, ids: list[int]):
    assert "".join(streamed(any_codec, ids)) == any_codec.decode(ids)


def test_a_stream_holds_back_an_unfinished_character(codecs: dict[str, Codec]):
    codec = codecs["bytes"]
    ids = codec.encode("a\U0001f600b")
    streamer = codec.streamer()
    assert [streamer.push(i) for i in ids] == ["a", "", "", "", "\U0001f600", "b"]
    assert streamer.finish() == ""
    assert [streamer.push(i) for i in ids[:3]] == ["a", "", ""]
    assert streamer.finish() == "\ufffd"
    assert streamer.push(ids[0]) == "a"  # as new after finish


def test_special_ids_are_skipped_or_spelled(lossless: Codec):
    ids = [lossless.bos_id, *lossless.encode("hé"), lossless.eos_id, lossless.pad_id]
    assert lossless.decode(ids) == "hé"
    assert lossless.decode(ids, skip_special=False) == "<|bos|>hé<|eos|><|pad|>"
    streamer = lossless.streamer(skip_special=False)
    assert "".join(map(streamer.push, ids)) + streamer.finish() == "<|bos|>hé<|eos|><|pad|>"
    assert lossless.token_bytes()[[lossless.bos_id, lossless.eos_id, lossless.pad_id]].sum() == 0


def test_special_names_in_text_are_text(any_codec: Codec):
    for id in any_codec.special_ids:
        name = any_codec.tokenizer.id_to_token(id)
        got = set(any_codec.encode(f"a {name} b{name}"))
        assert not got & (any_codec.special_ids - {any_codec.unk_id})
    assert len({any_codec.pad_id, any_codec.bos_id, any_codec.eos_id}) == 3


def test_decoders_have_their_specials_first(lossless: Codec):
    names = ["<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
    assert [lossless.token_id(name) for name in names] == [0, 1, 2, 3, 4]
    assert lossless.special_ids == frozenset(range(5))
    assert (lossless.pad_id, lossless.bos_id, lossless.eos_id, lossless.unk_id) == (0, 1, 2, None)
    with pytest.raises(CodecError, match=r"'<\|im_star\|>'[\s\S]*did you mean '<\|im_start\|>'"):
        lossless.token_id("<|im_star|>")


@pytest.mark.parametrize("id", [-1, 10**6])
def test_ids_outside_the_vocabulary_are_errors(any_codec: Codec, id: int):
    with pytest.raises(CodecError, match=f"id {id} of a vocabulary of {any_codec.vocab_size}"):
        any_codec.decode([5, id])
    with pytest.raises(CodecError, match=f"id {id} of a vocabulary"):
        any_codec.streamer().push(id)


def test_numpy_ids_decode(any_codec: Codec):
    ids = any_codec.encode("the river")
    assert any_codec.decode(np.asarray(ids, np.uint16)) == "the river"  # type: ignore[arg-type]


# Long texts are encoded in parts.


def test_long_texts_have_the_ids_of_the_whole(any_codec: Codec, texts: list[str], hard: list[str]):
    rng = np.random.default_rng(0)
    parts = texts + hard[1:]
    text = "".join(parts[i] for i in rng.integers(0, len(parts), 3000))
    assert len(text) > 3 * _LONG and len(cut(text)) > 2
    whole = any_codec.tokenizer.encode(text, add_special_tokens=False).ids
    assert any_codec.encode(text) == whole
    assert any_codec.encode_batch(["the fox", text, ""])[1:] == [whole, []]


@given(st.lists(st.sampled_from(list("ab1.' \n\r\t\x1c\x85\u00a0\u200b中ﬁé_-½")), max_size=40).map("".join))
@fixed
def test_any_allowed_cut_leaves_the_ids_alone(codecs: dict[str, Codec], text: str):
    from exnihilo.codec.base import _CUT

    for kind in ("bpe", "wordpiece", "wordpiece-lower"):
        tokenizer = codecs[kind].tokenizer
        whole = tokenizer.encode(text, add_special_tokens=False).ids
        for at in (m.start() for m in _CUT.finditer(text)):
            parts = tokenizer.encode_batch_fast([text[:at], text[at:]], add_special_tokens=False)
            assert [i for e in parts for i in e.ids] == whole, at


@given(st.text("a \n", max_size=50))
@settings(max_examples=20, deadline=None)
def test_cut_parts_join_to_the_text(text: str):
    long = text * (3 * _LONG // max(1, len(text)))
    assert "".join(cut(long)) == long
    assert cut("x" * (2 * _LONG)) == ["x" * (2 * _LONG)]  # nowhere to cut


# WordPiece, which is made to lose.


@given(unicode | awkward)
@fixed
def test_wordpiece_keeps_its_words(codecs: dict[str, Codec], text: str):
    for kind in ("wordpiece", "wordpiece-lower"):
        codec = codecs[kind]
        assert isinstance(codec, WordPiece)
        ids = codec.encode(text)
        back = codec.decode(ids)
        if codec.unk_id not in ids:
            assert codec.words(back) == codec.words(text)
            assert codec.encode(back) == ids
        known = [w for w in codec.words(text) if codec.unk_id not in codec.encode(w)]
        assert codec.words(back) == known  # what is unknown goes, and nothing else


def test_wordpiece_case_and_accents(codecs: dict[str, Codec]):
    text = "Déçu, the FOX"
    assert codecs["wordpiece-lower"].decode(codecs["wordpiece-lower"].encode(text)) == "decu, the fox"
    kept = codecs["wordpiece"]
    assert kept.decode(kept.encode("On May, déçu  naïve")) == "On May, déçu naïve"
    assert kept.encode("\u0416\u0416") == [kept.unk_id]  # a letter that the training text lacks
    assert (kept.pad_id, kept.unk_id, kept.bos_id, kept.eos_id, kept.mask_id) == (0, 1, 2, 3, 4)
    assert (kept.cls_id, kept.sep_id) == (2, 3)


def test_wordpiece_bytes_count_letters(codecs: dict[str, Codec]):
    codec = codecs["wordpiece"]
    text = "the miller wasn't naïve"
    assert int(codec.token_bytes()[codec.encode(text)].sum()) == len(re.sub(r"\s", "", text).encode())
