"""Stop strings do not depend on where text is cut, and nothing of them gets out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exnihilo.errors import UsageError
from exnihilo.infer.stops import Stops, check

letters = st.text("abc", max_size=12)


def reference(text: str, strings: list[str]) -> tuple[str, str | None]:
    """Letter by letter: the first moment at which the text ends with a stop; the longest one then."""
    for end in range(1, len(text) + 1):
        met = [s for s in strings if text[:end].endswith(s)]
        if met:
            longest = max(met, key=len)
            return text[: end - len(longest)], longest
    return text, None


def run(pieces: list[str], strings: list[str]) -> tuple[str, str | None]:
    stops = Stops(strings)
    out = "".join(stops.push(piece) for piece in pieces)
    return out + stops.finish(), stops.found


@settings(max_examples=500, deadline=None)
@given(
    pieces=st.lists(letters, max_size=8), strings=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)
)
def test_any_cut_gives_the_same(pieces, strings):
    assert run(pieces, strings) == reference("".join(pieces), strings)


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(letters, max_size=8), strings=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)
)
def test_what_is_let_through_is_never_taken_back(pieces, strings):
    stops, shown = Stops(strings), ""
    final = reference("".join(pieces), strings)[0]
    for piece in pieces:
        shown += stops.push(piece)
        assert final.startswith(shown)
    assert shown + stops.finish() == final


def test_text_is_held_back_only_while_it_may_become_a_stop():
    stops = Stops(["\n\n"])
    assert [stops.push(p) for p in ("one\n", "two", "\n", "\nthree")] == ["one", "\ntwo", "", ""]
    assert stops.found == "\n\n"
    assert stops.push("more") == "" and stops.finish() == ""


def test_without_stops_all_passes():
    stops = Stops([])
    assert stops.push("text") == "text" and stops.finish() == ""


@pytest.mark.parametrize("stop", [[""], [1], ["a", ""], [None]])
def test_bad_stops_are_refused(stop):
    with pytest.raises(UsageError, match="stop="):
        check(stop)


def test_one_string_is_one_stop():
    assert check("END") == ("END",)
    assert check(["a", "b"]) == ("a", "b")
