"""WordPiece, trained from scratch: BERT's tokenizer, for encoders.

Used through ``exnihilo.codec.train(CodecConfig(kind="wordpiece", lowercase=True), texts)``.

WordPiece is made to lose: runs of white space become one, control characters go, words with a character that
the training text lacks (or longer than 100 characters) become [UNK], with `lowercase` case and accents go.
What holds instead of a round trip, wherever no [UNK] stands: `words` of the decoded text are `words` of the
text, and encoding the decoded text gives the same ids. A test holds both.

The trainer of `tokenizers` numbers the pieces inside words (``##a``) in the order of a hash table, which
differs from run to run, and breaks ties by number. Here they are numbered before it starts, so that the same
texts give the same tokenizer.

References: Schuster & Nakajima, *Japanese and Korean voice search*, 2012; Devlin et al., *BERT*, 2019;
https://github.com/google-research/bert/blob/master/tokenization.py
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar, final

import numpy as np
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from exnihilo.codec.base import Codec, Streamer, TextStreamer, check, scrub
from exnihilo.errors import CodecError, ConfigError

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
ROLES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_CONTINUES = "##"


@final
class WordPiece(Codec):
    """WordPiece with BERT's normaliser and pre-tokenizer; bos is [CLS], eos is [SEP]."""

    kind: ClassVar[str] = "wordpiece"

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, *, lowercase: bool) -> WordPiece:
        """Learns pieces until the vocabulary has `vocab_size` entries, or no pair occurs twice.

        The alphabet is the 1000 (or `vocab_size` / 3) most frequent characters; rarer ones become [UNK].

        Raises:
            ConfigError: `vocab_size` has no room for the special tokens and the alphabet.
            CodecError: there is no word in the texts.
        """
        texts = list(texts)
        scratch = _bert(models.WordPiece(unk_token="[UNK]"), lowercase)  # type: ignore[call-arg]
        first, inside = _alphabet(scratch, texts, max(1000, vocab_size // 3))
        if not first:
            raise CodecError(
                "the training text has no word, only white space",
                expected="a text with words",
                next="check data=PATH, or use codec.kind=bytes",
            )
        entries = [*SPECIALS, *inside]
        least = len(entries) + len(first)
        if vocab_size < least:
            raise ConfigError(
                f"codec.vocab_size={vocab_size} is too small for WordPiece on this text",
                expected=f"at least {least}: {len(SPECIALS)} special tokens, {len(first)} characters at a "
                f"word's start, {len(inside)} inside one",
                next=f"set codec.vocab_size={least} or more",
            )
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[_special(entry) for entry in entries],
            initial_alphabet=first,
            limit_alphabet=len(first),
            show_progress=False,
        )
        scratch.train_from_iterator(texts, trainer)
        vocab = scratch.get_vocab(with_added_tokens=True)
        model = models.WordPiece(vocab=vocab, unk_token="[UNK]")  # type: ignore[call-arg]
        tokenizer = _bert(model, lowercase)
        tokenizer.add_special_tokens([_special(t) for t in SPECIALS])
        tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUES)  # type: ignore[assignment]
        ends = [(token, SPECIALS.index(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
        return cls(tokenizer, ROLES)

    def words(self, text: str) -> list[str]:
        """The normalised words and punctuation marks of a text, before they are cut into pieces."""
        return _words(self.tokenizer, scrub(text))

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        ids = [check(int(i), self.vocab_size) for i in ids]
        return self.tokenizer.decode(ids, skip_special_tokens=skip_special)

    def streamer(self, skip_special: bool = True) -> Streamer:
        return TextStreamer(self, skip_special)

    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each piece without its ``##``; white space between words counts nowhere."""
        sizes = np.zeros(self.vocab_size, np.int32)
        for piece, id in self.tokenizer.get_vocab(with_added_tokens=True).items():
            if id not in self.special_ids:
                sizes[id] = len(piece.removeprefix(_CONTINUES).encode())
        return sizes


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _bert(model: models.WordPiece, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    return tokenizer


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    text = tokenizer.normalizer.normalize_str(text)  # type: ignore[union-attr]
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]  # type: ignore[union-attr]


def _alphabet(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> tuple[list[str], list[str]]:
    """The most frequent characters after normalising, sorted; and ``##`` forms of those inside words."""
    raw: Counter[str] = Counter()
    for text in texts:
        raw.update(text)
    seen: Counter[str] = Counter()
    for char, count in raw.items():
        for word in _words(tokenizer, char):
            for c in word:
                seen[c] += count
    first = sorted(sorted(seen, key=lambda c: (-seen[c], c))[:limit])
    # "aa" is one word; ",," is two, and so are two CJK ideographs
    return first, [_CONTINUES + c for c in first if len(_words(tokenizer, c + c)) == 1]
