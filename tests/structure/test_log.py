"""What the project says goes to standard error, once, from the first worker, or to whoever listens."""

from __future__ import annotations

import pytest

from exnihilo import log


def test_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log.say("a fact")
    log.warn("a doubt")
    seen = capsys.readouterr()
    assert seen.out == "" and seen.err == "a fact\nwarning: a doubt\n"


def test_the_newest_listener_hears(capsys: pytest.CaptureFixture[str]) -> None:
    outer: list[str] = []
    inner: list[str] = []
    with log.listen(outer.append):
        log.say("one")
        with log.listen(inner.append):
            log.say("two")
        log.say("three")
    assert (outer, inner) == (["one", "three"], ["two"])
    assert capsys.readouterr().err == ""


def test_other_workers_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    log.say("nothing")
    assert capsys.readouterr().err == ""


def test_quiet_is_a_progress() -> None:
    quiet = log.Quiet()
    quiet.start("x", 3, "y")
    quiet.advance()
    quiet.say("z")
    quiet.stop()
    assert isinstance(quiet, log.Progress)
