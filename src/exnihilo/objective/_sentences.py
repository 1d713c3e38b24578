"""Where the sentences of a text begin.

::

    starts = begins("Dr. Smith left. He was late.")      # [0, 15]: the space belongs to what follows it
    parts(text, starts)                                  # join to the text, character by character

The rules of the languages (abbreviations, numbers, quotations) are the library `sentencex`'s. What is added
here: a blank line always ends a sentence; a quotation mark that nobody closes does not swallow the page; a
piece without a letter or digit, and one that is only initials ("M.", "т.е."), is no sentence of its own.

Source: https://github.com/wikimedia/sentencex (MIT), about 300 languages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from exnihilo.errors import ConfigError, MissingExtra

LONG = 400
"""Characters: a longer sentence is looked at again without its quotation marks and brackets."""

_BLANK = re.compile(r"\n[^\S\n]*\n\s*")  # a line break, then a line with nothing in it
_SPACE = re.compile(r"[^\S \n]|[\x00-\x08\x0e-\x1f\x7f-\x9f]")  # the library slices bytes after these
_MARKS = re.compile(r"[\"'“”„‟«»‹›‘’‚()\[\]{}「」『』（）《》〈〉]")
_INITIALS = re.compile(r"(?:^|\s)\w(?:\.\w)*\.$")
_PLAIN = re.compile(r"(?<=[.!?。！？…।])\s+|(?<=[。！？।])(?=\S)")


def begins(text: str, language: str = "en") -> list[int]:
    """Offsets in characters at which sentences begin, the first 0; [] for a text without a letter or digit.

    White space between two sentences belongs to the second.

    Args:
        language: ISO 639 code, e.g. "de"; unknown ones are split by the rules common to all.

    Raises:
        MissingExtra: `sentencex` is not installed.
        ConfigError: `language` is not a code.

    Example:
        >>> begins('It cost $3.50 at 9 a.m. on Monday. "Why?" he asked.')
        [0, 34]
    """
    if not re.fullmatch(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]+)*", language):
        raise ConfigError(
            f"language={language!r}", expected="a code like en, de or zh", next="options.language=CODE"
        )
    found: list[int] = []
    for start, end in _paragraphs(text):
        for a, b in _sentences(text[start:end], language):
            a, b = a + start, b + start
            piece = text[a:b]
            if not any(map(str.isalnum, piece)):
                continue  # belongs to what stands before it
            if found and _goes_on(text[found[-1] : a], paragraph=a == start):
                continue
            found.append(a)
    return [0, *(_before_space(text, a) for a in found[1:])] if found else []


def parts(text: str, starts: Sequence[int]) -> list[str]:
    """The sentences, with the white space before them; they join to the text."""
    ends = [*starts[1:], len(text)] if starts else []
    return [text[a:b] for a, b in zip(starts, ends, strict=True)]


def _paragraphs(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for gap in _BLANK.finditer(text):
        yield start, gap.end()
        start = gap.end()
    if start < len(text):
        yield start, len(text)


def _sentences(text: str, language: str) -> Iterator[tuple[int, int]]:
    """Spans that cover a paragraph."""
    for a, b in _segment(text, language):
        if b - a <= LONG:
            yield a, b
        else:  # an open quotation mark: of all that follows, the library makes one sentence
            yield from ((a + c, a + d) for c, d in _segment(_MARKS.sub(" ", text[a:b]), language))


def _segment(text: str, language: str) -> Iterator[tuple[int, int]]:
    try:
        import sentencex
    except ImportError as error:
        raise MissingExtra.of("sentencex", "encoders") from error
    try:
        pieces = sentencex.segment(language, _SPACE.sub(" ", text))  # type: ignore
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of its Rust side: no subclass of Exception
            raise
        pieces = _plain(text)
    lengths = [len(piece) for piece in pieces]
    if sum(lengths) != len(text):
        lengths = [len(piece) for piece in _plain(text)]
    at = 0
    for length in lengths:
        yield at, at + length
        at += length


def _plain(text: str) -> list[str]:
    """By punctuation alone, where the library fails."""
    cuts = [0, *(m.end() for m in _PLAIN.finditer(text)), len(text)]
    return [text[a:b] for a, b in zip(cuts, cuts[1:], strict=False) if b > a]


def _goes_on(before: str, *, paragraph: bool) -> bool:
    """Whether what ended here was no sentence: "M. Dupont", "это т.е. хорошо"."""
    return not paragraph and _INITIALS.search(before.rstrip()) is not None


def _before_space(text: str, at: int) -> int:
    """Back over white space, so that it goes to the sentence it precedes: " She" is one token in many a
    vocabulary."""
    while at > 0 and text[at - 1].isspace():
        at -= 1
    return at
