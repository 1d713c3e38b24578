"""The page, used in a real browser as a reader uses it: by mouse, by keyboard and on a phone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
Open = Callable[..., "Page"]


def shows(place: Locator, text: str) -> None:
    """Waits until a place holds exactly this text."""
    from playwright.sync_api import expect

    expect(place).to_have_text(text, timeout=20_000)


def until(page: Page, holds: Callable[[], bool]) -> None:
    """Waits until what the other side of a connection learns in its own time holds."""
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < 20, "twenty seconds, and it does not hold"
        page.wait_for_timeout(20)


def done(page: Page) -> None:
    shows(page.locator("#status"), "Done.")


def send(page: Page, text: str, field: str = "message") -> None:
    page.fill(f"#field-{field}", text)
    page.press(f"#field-{field}", "Enter" if field == "message" else "Control+Enter")


# chat -------------------------------------------------------------------------------------------------


def test_a_chat_streams_and_is_text_never_markup(opened: Open, fake: Any) -> None:
    page = opened()
    send(page, "Hi <b>there</b>\u00a0é🙂 &amp;")
    done(page)
    assert page.locator(".text").inner_text() == "You said: Hi <b>there</b>\u00a0é🙂 &amp;"
    assert page.locator("#out b").count() == 0
    assert page.locator(".foot").first.inner_text().startswith("5 tokens · first after")
    send(page, "And?")
    done(page)
    roles = [(m["role"], m["content"]) for m in fake.asked[-1]["messages"]]
    assert roles[0][0] == "user" and roles[1] == ("assistant", "You said: Hi <b>there</b>\u00a0é🙂 &amp;")
    assert roles[2] == ("user", "And?")


def test_probabilities_on_hover_and_by_keyboard(opened: Open) -> None:
    page = opened()
    send(page, "a🙂")
    done(page)
    tokens = page.locator(".tok")
    assert tokens.all_inner_texts() == ["You", " said:", " ", "a", "🙂"]
    tokens.nth(1).hover()
    tip = page.locator("#tip")
    assert "drawn ␣said: at 90.5%" in tip.inner_text()  # exp(-0.1)
    assert "<b>markup</b>" in tip.inner_text() and tip.locator("b").count() == 0
    drawn = float(tip.locator("meter").first.get_attribute("value") or 0)
    assert math.isclose(drawn, math.exp(-0.1), abs_tol=1e-6)
    tokens.nth(0).focus()
    assert "drawn You at 100%" in tip.inner_text()
    page.keyboard.press("End")
    assert "\\xf0" in tip.inner_text() and tip.locator("table").count() == 4  # four bytes, four tokens
    page.keyboard.press("Escape")
    assert not tip.is_visible()


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop_ends_the_stream_and_keeps_what_came(opened: Open, fake: Any, how: str) -> None:
    page = opened()
    send(page, "slow")
    page.locator(".tok").nth(3).wait_for()
    page.click("#stop") if how == "button" else page.keyboard.press("Escape")
    shows(page.locator("#status"), "Stopped.")
    assert "stopped by you" in page.locator(".panes .foot").inner_text()
    text = page.locator(".text").inner_text()
    assert text.startswith("word word word ")
    send(page, "next")
    done(page)
    assert fake.asked[-1]["messages"][1] == {"role": "assistant", "content": text + " " * (text[-1] != " ")}
    until(page, lambda: fake.gone == 1)  # the server saw that its reader had gone


def test_settings_are_sent_and_what_is_off_is_not(opened: Open, fake: Any) -> None:
    page = opened()
    controls = page.locator("#controls")
    for name, value in {
        "system": "Be brief.",
        "top_k": "5",
        "seed": "0",
        "stop": "END",
        "max_tokens": "",
    }.items():
        controls.locator(f"[name={name}]").fill(value)
    controls.locator("[name=temperature]").fill("0")
    send(page, "x")
    done(page)
    asked = dict(fake.asked[-1])
    assert asked.pop("messages")[0] == {"role": "system", "content": "Be brief."}
    assert asked == {
        "model": "talk", "stream": True, "stream_options": {"include_usage": True},
        "temperature": 0, "top_k": 5, "seed": 0, "stop": "END", "logprobs": True, "top_logprobs": 5,
    }  # fmt: skip
    controls.get_by_label("Probabilities of tokens").uncheck()
    controls.get_by_label("Shade unlikely tokens").check()
    page.reload()  # settings are remembered
    page.get_by_role("tab").first.wait_for()
    send(page, "y")
    done(page)
    assert fake.asked[-1]["top_k"] == 5 and "logprobs" not in fake.asked[-1]
    assert page.locator(".tok").count() == 0 and "shade" in (
        page.locator("#out").get_attribute("class") or ""
    )
    controls.locator("[name=top_k]").fill("-3")
    send(page, "z")
    assert len(fake.asked) == 2  # not sent; the browser says why at the field
    assert page.evaluate("() => document.activeElement.name") == "top_k"
    assert page.input_value("#field-message") == "z"  # and the message is not lost


def test_two_checkpoints_side_by_side(opened: Open, fake: Any) -> None:
    page = opened()
    page.select_option("#beside", "talk@step-00000100")
    send(page, "one")
    done(page)
    send(page, "two")
    done(page)
    assert sorted(a["model"] for a in fake.asked) == [
        "talk",
        "talk",
        "talk@step-00000100",
        "talk@step-00000100",
    ]
    assert all(len(a["messages"]) == 3 for a in fake.asked[2:])
    left, right = (page.locator(".turn").last.locator(".panes > *").nth(i).bounding_box() for i in (0, 1))
    assert left and right and left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
    assert page.locator(".name").all_inner_texts() == ["talk", "talk@step-00000100"] * 2
    page.get_by_text("Answer again").last.click()
    done(page)
    assert len(fake.asked) == 6 and page.locator(".turn").count() == 2


def test_errors_are_shown_where_they_belong(opened: Open, fake: Any) -> None:
    page = opened()
    for said, seen in {
        "busy": "the queue is full Try again in 7 s.",
        "break": "the connection broke before the end",
        "fail": "the engine failed at this request",
    }.items():
        send(page, said)
        shows(page.locator(".turn").last.locator(".error"), seen)
        done(page)
    assert page.locator(".text").all_inner_texts() == ["", "You said:", "You said:"]
    send(page, "   ")
    shows(page.locator("#status"), "Nothing to send: message is empty.")
    assert len(fake.asked) == 3
    fake.server.should_exit = True
    fake.thread.join(10)
    send(page, "gone")
    shows(page.locator(".turn").last.locator(".error"), "the server cannot be reached: is it still running?")


def test_a_conversation_that_is_too_long_loses_its_oldest_turns_and_says_so(opened: Open, fake: Any) -> None:
    page = opened()
    for text in ("first", "second", "third"):
        send(page, text)
        done(page)
    fake.context = 40  # holds one earlier turn, not three
    send(page, "fourth")
    done(page)
    assert [m["content"] for m in fake.asked[-1]["messages"]][0] == "third"
    assert "the oldest 2 turns were left out" in page.locator(".turn").last.inner_text()
    send(page, "x" * 100)
    shows(page.locator(".turn").last.locator(".error"), "a prompt of 99 tokens, the context is 50")


def test_a_key_is_asked_for_and_kept_in_the_tab_only(opened: Open, fake: Any) -> None:
    page = opened()
    fake.key = "secret"
    page.reload()
    page.locator("#ask[open]").wait_for()
    page.fill("#secret", "secret")
    page.keyboard.press("Enter")
    page.get_by_role("tab").first.wait_for()
    assert not page.locator("#ask").is_visible() and not page.locator("#notice").is_visible()
    kept = page.evaluate("() => [JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
    assert "secret" not in kept[0] and "secret" in kept[1]


# writing and encoders ---------------------------------------------------------------------------------


def test_writing_goes_on_with_a_text(opened: Open, fake: Any) -> None:
    page = opened()
    page.select_option("#model", "base")
    assert page.get_by_role("tab").all_inner_texts() == ["Write"]
    send(page, "Once", "prompt")
    done(page)
    assert page.locator(".text").inner_text() == "Once aé b"
    assert page.locator(".tok").all_inner_texts() == [" a", "é", " b"]  # two tokens share one character
    assert fake.asked[-1]["logprobs"] == 5 and fake.asked[-1]["prompt"] == "Once"
    assert "cut at the limit of tokens" in page.locator(".panes .foot").inner_text()
    page.get_by_text("Go on from here").click()
    assert page.input_value("#field-prompt") == "Once aé b"


def test_tags_are_highlighted_where_they_stand(opened: Open, fake: Any) -> None:
    page = opened()
    page.select_option("#model", "tags")
    page.select_option("#beside", "tags-old")
    send(page, "🙂 Mia\nsaw <i>Rome</i>.", "text")
    done(page)
    passage = page.locator(".passage").first
    assert passage.inner_text() == "🙂 MiaPERSON\nsaw <i>RomePLACE</i>."
    assert page.locator(".passage").count() == 2
    marks = passage.locator("mark")
    colours = marks.evaluate_all("all => all.map((m) => getComputedStyle(m).backgroundColor)")
    assert colours[0] != colours[1]
    marks.nth(0).focus()
    assert "PERSON at 90.0%" in page.locator("#tip").inner_text()
    page.keyboard.press("ArrowRight")
    assert "PLACE at 90.0%" in page.locator("#tip").inner_text()
    assert "characters 13 to 17" in page.locator("#tip").inner_text()


def test_an_answer_is_highlighted_and_so_are_the_others(opened: Open) -> None:
    page = opened()
    page.select_option("#model", "qa")
    page.fill("#field-context", "In Rome 🙂 sang Mia.")
    send(page, "Who sang?", "question")
    done(page)
    mark = page.locator(".passage mark")
    assert mark.inner_text() == "Mia" and page.locator(".passage").inner_text() == "In Rome 🙂 sang Mia."
    page.get_by_role("button", name="Rome").press("Enter")
    assert mark.inner_text() == "Rome"


@pytest.mark.parametrize(
    ("model", "fields", "seen"),
    [
        ("sentiment", {"text": "fine"}, ["positive", "70.0%", "negative"]),
        ("pairs", {"a": "It rains.", "b": "It is wet."}, ["neutral", "entailment", "30.0%"]),
        ("bert", {"text": "The [MASK] sat."}, ["The cat sat.", "Gap 1", "dog", "10.0%"]),
        ("ranker", {"query": "q", "documents": "one\n\ntwo"}, ["two\n90.0%\none\n70.0%"]),
        ("vectors", {"texts": "one\ntwo\nthree"}, ["1. one", "0.60", "vectors of 2 numbers"]),
    ],
)
def test_each_encoder_task(opened: Open, model: str, fields: dict[str, str], seen: list[str]) -> None:
    page = opened()
    page.select_option("#model", model)
    assert not page.locator("#settings").is_visible()  # nothing is drawn: nothing to set
    for name, text in fields.items():
        page.fill(f"#field-{name}", text)
    page.click("#send")
    done(page)
    for text in seen:
        assert text in page.locator("#out").inner_text()


@pytest.mark.parametrize(
    ("model", "name", "kind"), [("ears", "a.wav", "audio/"), ("eyes", "a.png", "image/png")]
)
def test_a_file_is_sent_as_a_data_url(
    opened: Open, fake: Any, tmp_path: Path, model: str, name: str, kind: str
) -> None:
    page = opened()
    page.select_option("#model", model)
    page.click("#send")
    assert "file is empty" in page.locator("#status").inner_text()
    (tmp_path / name).write_bytes(b"abc")
    page.set_input_files("#field-file", tmp_path / name)
    page.wait_for_timeout(100)
    page.click("#send")
    done(page)
    assert "positive" in page.locator("#out").inner_text()
    sent = fake.asked[-1]["input"]
    assert (
        sent.startswith(f"data:{kind}") and sent.endswith(";base64,YWJj") and "truncate" not in fake.asked[-1]
    )


# everyone ---------------------------------------------------------------------------------------------


def test_by_keyboard_alone(opened: Open, fake: Any) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the input"
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.name"))
    assert reached[:6] == ["model", "beside", "tab-chat", "key", "field-message", "clear"]
    page.locator("#tab-chat").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#tab-write").get_attribute("aria-selected") == "true"
    page.keyboard.press("ArrowLeft")
    page.locator("#field-message").focus()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    done(page)
    assert fake.asked[-1]["messages"][-1]["content"] == "one\ntwo"


def test_everything_has_a_name(opened: Open) -> None:
    """What a screen reader says of each control: WCAG 2.2, 4.1.2."""
    page = opened()
    send(page, "x")
    done(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, [role=region], dialog")]
          .filter((e) => !(e.labels?.length || e.textContent.trim() || e.ariaLabel))
          .map((e) => e.outerHTML)"""
    )
    assert nameless == []


def test_on_a_phone(opened: Open) -> None:
    page = opened(**PHONE)
    page.select_option("#beside", "talk@step-00000100")
    send(page, "a-very-long-word-" * 20)
    done(page)
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    for place in ("#model", "#beside", "#tab-write", "#key", "#field-message", "#send"):
        box = page.locator(place).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 844
        assert box["height"] >= 40  # a finger's
    boxes = [page.locator(".panes > *").nth(i).bounding_box() for i in (0, 1)]
    first, second = boxes
    assert first and second and first["y"] + first["height"] <= second["y"]  # one below the other
    sizes = page.locator("textarea, select, input:not([type=checkbox], [type=range])").evaluate_all(
        "all => all.map((e) => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 16  # below that a phone zooms in at each touch
    assert page.locator("#settings").get_attribute("open") is None
    page.locator(".tok").first.tap()
    assert "drawn You at 100%" in page.locator("#tip").inner_text()
    page.locator("#out").evaluate("e => e.scrollTo(0, 20)")  # a stream's: the tip stays with its token
    page.wait_for_timeout(100)
    token, tip = page.locator(".tok").first.bounding_box(), page.locator("#tip").bounding_box()
    assert token and tip and abs(tip["y"] - token["y"] - token["height"] - 8) < 3
    page.locator("#out").evaluate("e => e.scrollTo(0, 9999)")
    page.locator("#tip").wait_for(state="hidden")
    page.tap("summary")
    page.locator("#controls [name=temperature]").wait_for()
    assert page.locator("#field-message").is_visible()
