"""The user's own vocabulary: ids as they are, special tokens behind them, also for other libraries."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exnihilo import codec as codecs
from exnihilo.codec.ids import MOST, Ids, parse
from exnihilo.config import CodecConfig
from exnihilo.errors import CodecError, ConfigError


@given(ids=st.lists(st.integers(0, 99), max_size=40))
def test_ids_round_trip_and_stream(ids: list[int]):
    codec = Ids.make(100)
    text = codec.decode(ids)
    assert text == " ".join(map(str, ids)) and codec.encode(text) == ids
    stream = codec.streamer()
    assert "".join(stream.push(i) for i in [codec.bos_id, *ids, codec.eos_id]) + stream.finish() == text
    assert codec.decode([codec.bos_id, *ids, codec.eos_id]) == text


def test_special_tokens_stand_behind():
    codec = Ids.make(10)
    assert codec.vocab_size == 18 and codec.special_ids == frozenset(range(10, 18))
    assert (codec.pad_id, codec.bos_id, codec.eos_id) == (10, 11, 12)
    assert {codec.cls_id, codec.sep_id, codec.mask_id} == {15, 16, 17}
    assert codec.token_bytes().tolist() == [1] * 10 + [0] * 8


@pytest.mark.parametrize("text", ["10", "3 10", "-1", "<|eos|>", "3.5", "a", "1e3", "9" * 30, "²"])
def test_what_is_no_id_is_refused(text: str):
    with pytest.raises(CodecError):
        Ids.make(10).encode(text)


@given(st.text(max_size=30))
def test_any_text_is_ids_or_an_error(text: str):
    try:
        found = parse(text)
    except CodecError:
        return
    assert [int(w) for w in text.replace(",", " ").split()] == found.tolist()


def test_how_many_there_are():
    assert codecs.train(CodecConfig(kind="ids"), ["3 4", "41 2"]).vocab_size == 42 + 8
    assert codecs.train(CodecConfig(kind="ids", ids=64), ()).vocab_size == 64 + 8
    with pytest.raises(CodecError):
        codecs.train(CodecConfig(kind="ids"), ["a text"])
    with pytest.raises(CodecError, match="vocabulary"):
        Ids.make(MOST + 1)
    with pytest.raises(ConfigError, match="codec.ids=3"):
        codecs.train(CodecConfig(kind="bytes", ids=3), ["a"])


def test_files_load_here_and_elsewhere_to_the_same_ids(tmp_path: Path):
    codec = Ids.make(300)
    codec.save(tmp_path)
    again = codecs.load(tmp_path)
    assert isinstance(again, Ids) and again.hash == codec.hash and again.count == 300
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (
        theirs("17 4 299", add_special_tokens=False)["input_ids"] == [17, 4, 299] == again.encode("17 4 299")
    )
    assert theirs.eos_token_id == codec.eos_id and theirs.mask_token_id == codec.mask_id
