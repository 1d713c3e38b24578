"""Sentences: abbreviations, quotations, numbers, languages; nothing is lost or changed, whatever the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.errors import ConfigError
from exnihilo.objective import _sentences as room
from exnihilo.objective._sentences import LONG, begins, parts


def split(text: str, language: str = "en") -> list[str]:
    found = parts(text, begins(text, language))
    assert "".join(found) == text
    return [part.strip() for part in found]


@pytest.mark.parametrize(
    ("language", "sentences"),
    [
        ("en", ["Dr. Smith met Mr. J. K. Jones in Washington, D.C. on Jan. 5th.", "He paid $3.50 at 9 a.m."]),
        ("en", ['"Where is it?" he asked.', '"I don\'t know."', "She left.", "It was 3.14 exactly."]),
        ("en", ["He said “Stop! Now.” and ran.", "See Fig. 2 for e.g. this one.", "The U.S. Army left."]),
        ("de", ["Z.B. am 3. Mai kam Dr. Müller.", "Er sagte: „Komm her!“", "Dann ging er."]),
        ("fr", ["M. Dupont est venu.", "« Où est-il ? » demanda-t-il.", "Il est parti."]),
        ("es", ["¿Dónde está?", "No lo sé.", "El Sr. García se fue."]),
        ("ru", ["Он пришёл в г. Москву.", "Это т.е. хорошо.", "Да."]),
        ("zh", ["今天天气很好。", "我们去公园吧！", "你呢？"]),
        ("ja", ["これは本です。", "それも本です。"]),
        ("hi", ["यह एक वाक्य है।", "यह दूसरा है।"]),
        ("xx", ["No such language.", "The common rules hold."]),
    ],
)
def test_sentences_of_several_languages(language: str, sentences: list[str]):
    gap = "" if language in ("zh", "ja") else " "
    assert split(gap.join(sentences), language) == sentences


def test_blank_lines_end_sentences_and_line_breaks_do_not():
    assert split("A title\n\nThe first\nsentence. The second.\r\n\r\n \t\r\nThe third") == [
        "A title",
        "The first\nsentence.",
        "The second.",
        "The third",
    ]
    assert parts("One. Two.", begins("One. Two.")) == ["One.", " Two."]  # the space goes with what follows


def test_an_open_quotation_mark_does_not_swallow_the_rest():
    said = "He said “this and never closed it. " + "Then he went on to the next house. " * 40
    assert len(split(said)) == 41
    whole = "She said “this is short. And closed.” He left."
    assert len(split(whole)) == 2


def test_what_is_no_sentence_goes_with_what_is_before_it():
    assert split("It ended.\n\n* * *\n\nIt began.") == ["It ended.\n\n* * *", "It began."]
    assert begins("") == begins(" \n\t ") == begins("* * *") == begins("🦊!") == []
    assert begins("... a") == [0]


def test_languages_are_codes():
    with pytest.raises(ConfigError, match="language"):
        begins("a", "english please")


def test_where_the_library_fails_punctuation_decides(monkeypatch: pytest.MonkeyPatch):
    class PanicException(BaseException):
        """As pyo3's, which is no Exception."""

    def panic(language: str, text: str) -> list[str]:
        raise PanicException

    monkeypatch.setattr("sentencex.segment", panic)
    assert split("One. Two! 三。四。 Five") == ["One.", "Two!", "三。", "四。", "Five"]
    monkeypatch.setattr("sentencex.segment", lambda language, text: [text[:-1]])  # loses a character
    assert split("One. Two.") == ["One.", "Two."]


NASTY = "aB.!?\"'“”„«»()[] \n\r\t;:-1é漢。！🦊\u2028\u00a0\x00\x85\u3000\u200b\ufeffMrDr"


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=40), st.text(NASTY, max_size=40), st.text('ab. \n“”"', max_size=3 * LONG)),
    st.sampled_from(["en", "de", "fr", "zh", "ja", "ru", "hi", "xx"]),
)
def test_any_text_comes_back_whole(text: str, language: str):
    text = text.encode("utf-8", "replace").decode()
    starts = begins(text, language)
    assert starts == sorted(set(starts))
    assert bool(starts) == any(map(str.isalnum, text))
    if starts:
        assert starts[0] == 0 and "".join(parts(text, starts)) == text
        assert all(any(map(str.isalnum, part)) for part in parts(text, starts))
    assert room.begins(text, language) == starts
