"""A small corpus, and one codec of each kind trained on it."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: tests need no network

import pytest

from exnihilo import codec
from exnihilo.codec import Codec
from exnihilo.config import CodecConfig

TEXTS = [
    "The fox's den lay under the old oak; it wasn't far from the river, and the fox liked it that way.\n",
    'On 12 May 1984 the miller counted 1,024 sacks. "That\'s all?" he asked.\r\n\r\n\tAll, said she.\n',
    "Καλημέρα κόσμε. Le cœur déçu mais l'âme plutôt naïve. 你好，世界！ Привет, мир.\n",
    "def f(x: int) -> int:\n    return x ** 2  # twice\n\n\nprint(f(3))\n",
    "the river and the fox and the miller and the sacks and the river again\n",
]
HARD = [
    "",
    " ",
    "\n",
    "a",
    "Hello, world!",
    " leading and trailing  ",
    "tabs\tand\r\nWindows\rline\n\n\nends   ",
    "e\u0301 is not \u00e9, \ufb01 is not fi, \u212b is not \u00c5",  # NFD, ligature, singleton
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1ea\U0001f1fa \U0001f3fd \U0010ffff",
    "你好，世界。日本語のテキスト、한국어 문장",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0627\u0644\u0633\u0644\u0627\u0645",
    "zero\u200bwidth\u200c\u200d\ufeff soft\u00adhyphen no\u00a0break",
    "\u3000wide\u2028line\u2029paragraph\x85nel",
    "nul \x00 bell \x07 escape \x1b unit \x1f delete \x7f c1 \x9f",
    "\ufffd replacement, \ufffe non-character, \ue000 private",
    "<|pad|> <|bos|><|eos|> <|im_start|>user<|im_end|> [PAD][UNK] [CLS] [SEP] [MASK]",
    "<0x41> <0xE4> \u2581 ##ing Ġword Ċ",
    "I'll DON'T we'Re 'S 1234567890 \u00bd \u2167 \u0663\u0664",
    "x" * 300 + " " * 300 + "\n" * 300,
    "Z\u0351\u036b\u0343\u0369\u0357\u0301a\u0300\u0301\u0302l\u0334g\u0321o\u0322",
    "İstanbul ẞ ß ǅ ŉ",
]
LOSSLESS = ("bpe", "bytes", "chars")


@pytest.fixture(scope="session")
def codecs() -> dict[str, Codec]:
    """Kind -> codec; also "wordpiece-lower"."""
    out = {k: codec.train(CodecConfig(kind=k, vocab_size=480), TEXTS) for k in ("bpe", "bytes", "chars")}
    for lower in (False, True):
        config = CodecConfig(kind="wordpiece", vocab_size=480, lowercase=lower)
        out["wordpiece" + ("-lower" if lower else "")] = codec.train(config, TEXTS)
    return out


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return TEXTS


@pytest.fixture(scope="session")
def hard() -> list[str]:
    return HARD


@pytest.fixture(params=LOSSLESS)
def lossless(request: pytest.FixtureRequest, codecs: dict[str, Codec]) -> Codec:
    return codecs[request.param]


@pytest.fixture(params=("bpe", "bytes", "chars", "wordpiece", "wordpiece-lower"))
def any_codec(request: pytest.FixtureRequest, codecs: dict[str, Codec]) -> Codec:
    return codecs[request.param]
