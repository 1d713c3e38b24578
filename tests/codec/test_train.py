"""Training a codec: the same texts give the same one, and bad input gets one clear error."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from exnihilo import codec
from exnihilo.codec.chars import Chars
from exnihilo.config import CodecConfig
from exnihilo.errors import CodecError, ConfigError, DataError
from exnihilo.log import Quiet

KINDS = ("bpe", "wordpiece", "bytes", "chars")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_an_empty_corpus_is_an_error(kind, texts):
    with pytest.raises(DataError, match=r"empty \(0 bytes\)[\s\S]*data=PATH"):
        codec.train(CodecConfig(kind=kind), texts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a", "aaaa", "é", "\U0001f600"])
def test_a_corpus_of_one_character_works(kind, text):
    made = codec.train(CodecConfig(kind=kind), [text])
    assert made.decode(made.encode(text)) == text


def test_white_space_alone():
    for kind in ("bpe", "bytes", "chars"):
        made = codec.train(CodecConfig(kind=kind), [" \n "])
        assert made.decode(made.encode(" \n ")) == " \n "
    with pytest.raises(CodecError, match="only white space"):
        codec.train(CodecConfig(kind="wordpiece"), [" \n "])


def test_a_vocabulary_that_is_too_small_names_both_numbers(texts):
    with pytest.raises(ConfigError, match=r"vocab_size=200 [\s\S]*at least 261"):
        codec.train(CodecConfig(kind="bpe", vocab_size=200), texts)
    with pytest.raises(ConfigError, match=r"vocab_size=50 [\s\S]*at least \d+") as caught:
        codec.train(CodecConfig(kind="wordpiece", vocab_size=50), texts)
    least = int(caught.value.next.split("=")[1].split()[0])
    assert codec.train(CodecConfig(kind="wordpiece", vocab_size=least), texts).vocab_size == least
    with pytest.raises(ConfigError):
        codec.train(CodecConfig(kind="wordpiece", vocab_size=least - 1), texts)
    assert codec.train(CodecConfig(kind="bpe", vocab_size=261), texts).vocab_size == 261


def test_sizes(codecs, texts):
    assert codecs["bpe"].vocab_size <= 480 and codecs["wordpiece"].vocab_size <= 480
    assert codecs["bytes"].vocab_size == 5 + 256
    seen = set("".join(texts))
    spare = sum(chr(b) not in seen for b in range(128))
    assert codecs["chars"].vocab_size == 5 + len(seen) + spare + 64 + 51  # 0x80-0xBF, 0xC2-0xF4


def test_every_id_of_a_trained_vocabulary_has_an_entry(any_codec):
    assert sorted(any_codec.tokenizer.get_vocab().values()) == list(range(any_codec.vocab_size))


def test_lowercase_is_obeyed_or_refused(texts):
    with pytest.raises(ConfigError, match="lowercase"):
        codec.train(CodecConfig(kind="bpe", lowercase=True), texts)


def test_only_the_sample_is_read():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield "abc " * 250

    made = codec.train(CodecConfig(kind="chars", sample_mb=0.01), endless())
    assert isinstance(made, Chars) and len(taken) <= 11
    codec.train(CodecConfig(kind="bpe", sample_mb=0.01), endless())
    cut = codec.train(CodecConfig(kind="chars", sample_mb=0.1), ["a b " * 100_000 + "é"])  # one long text
    assert len(cut.encode("é")) == 2  # not reached, so it is spelled in bytes


def test_errors_of_the_texts_pass_through():
    def broken():
        yield "abc"
        raise DataError("part.jsonl, line 7: no JSON")

    for kind in ("bpe", "wordpiece", "chars"):  # bytes read no further than the first text
        with pytest.raises(DataError, match="line 7"):
            codec.train(CodecConfig(kind=kind), broken())


def test_progress_is_told(texts):
    class Seen(Quiet):
        total = 0.0
        log: tuple[object, ...] = ()

        def start(self, what, total=None, unit=""):
            self.log += ((what, unit),)

        def advance(self, amount=1):
            self.total += amount

        def stop(self):
            self.log += ("stop",)

    seen = Seen()
    codec.train(CodecConfig(kind="bpe", vocab_size=300), texts, seen)
    assert seen.total == sum(len(t.encode()) for t in texts)
    assert seen.log[0] == ("train tokenizer (bpe)", "bytes") and seen.log[-1] == "stop"


def test_path_reads_a_codec_instead(codecs, tmp_path):
    codecs["bpe"].save(tmp_path)
    assert codec.train(CodecConfig(path=str(tmp_path)), []).hash == codecs["bpe"].hash


SCRIPT = """
import random
from exnihilo import codec
from exnihilo.config import CodecConfig
rng = random.Random(1)
words = ["".join(rng.choices("abcdefghij\\u00e9\\u4f60", k=rng.randint(1, 7))) for _ in range(400)]
texts = [" ".join(rng.choices(words, k=60)) for _ in range(80)]  # many ties between pairs
for kind in ("bpe", "wordpiece", "bytes", "chars"):
    print(codec.train(CodecConfig(kind=kind, vocab_size=420), texts).hash)
"""


def test_the_same_texts_give_the_same_codec_in_every_process():
    seen = set()
    for threads, hashes in (("1", "1"), ("2", "2"), ("4", "3")):
        env = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": hashes}
        run = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(run, env=env, capture_output=True, text=True, check=True)
        seen.add(done.stdout)
    assert len(seen) == 1 and len(set(seen.pop().split())) == 4


def test_other_texts_give_another_hash(codecs, texts):
    assert len({c.hash for c in codecs.values()}) == len(codecs)
    other = codec.train(CodecConfig(kind="bpe", vocab_size=480), texts[:-1])
    assert other.hash != codecs["bpe"].hash


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_encoding_is_near_the_speed_of_the_library(kind, codecs, texts):
    made, many = codecs[kind], [t * 4 for t in texts] * 100
    ours, raw = [], []
    for _ in range(
        4
    ):  # interleaved, the processor's time, the best of each: other work on the machine slows both
        began = time.process_time()
        made.encode_batch(many)
        ours.append(time.process_time() - began)
        began = time.process_time()
        made.tokenizer.encode_batch(many, add_special_tokens=False)
        raw.append(time.process_time() - began)
    assert min(ours) < 1.5 * min(raw)
