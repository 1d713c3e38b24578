"""The page against the real server: what the fake one answers by hand, models answer here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def opened(browser: Browser, server: Any) -> Page:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(30_000)
    page = context.new_page()
    page.goto(server.url)
    page.get_by_role("tab").first.wait_for()
    return page


def done(page: Page) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#status")).to_have_text("Done.", timeout=30_000)


def test_two_models_write_beside_each_other(browser: Browser, server: Any) -> None:
    """Bytes drawn almost at random: tokens that are parts of characters, or none, must not lose text."""
    page = opened(browser, server)
    page.select_option("#model", "talk")
    assert page.get_by_role("tab").all_inner_texts() == ["Chat", "Write"]
    page.locator("#tab-write").click()
    page.select_option("#beside", "base")
    for name, value in {"seed": "3", "max_tokens": "40", "temperature": "1.5"}.items():
        page.locator(f"#controls [name={name}]").fill(value)
    page.fill("#field-prompt", "the cat ")
    page.click("#send")
    done(page)
    assert page.locator(".error").count() == 0
    for number, name in enumerate(("talk", "base")):
        asked = {"model": name, "prompt": "the cat ", "seed": 3, "max_tokens": 40, "temperature": 1.5}
        with server.client() as client:
            text = client.post("/v1/completions", json=asked).json()["choices"][0]["text"]
        place = page.locator(".text").nth(number)
        assert place.evaluate("e => e.textContent") == "the cat " + text
        tokens = place.locator(".tok").evaluate_all("all => all.map((e) => e.textContent).join('')")
        assert tokens == text  # each character belongs to a token that can be asked
    page.locator(".tok").first.hover()
    assert page.locator("#tip tr").count() >= 5
    page.context.close()


def test_a_chat_and_vectors(browser: Browser, server: Any) -> None:
    page = opened(browser, server)
    page.select_option("#model", "talk")
    page.locator("#tab-chat").click()
    page.locator("#controls [name=max_tokens]").fill("30")
    page.fill("#field-message", "hello, big world")
    page.press("#field-message", "Enter")
    done(page)
    foot = page.locator(".panes .foot").inner_text()
    assert page.locator(".error").count() == 0 and " tokens · first after " in foot
    place = page.locator(".panes .text")
    tokens = place.locator(".tok").evaluate_all("all => all.map((e) => e.textContent).join('')")
    assert tokens == place.evaluate("e => e.textContent")
    page.select_option("#model", "vectors")
    page.fill("#field-texts", "the cat\na dog")
    page.click("#send")
    done(page)
    assert page.locator("table.near td").all_inner_texts()[0] == "1.00"
    page.context.close()


def test_what_the_server_refuses_is_shown(browser: Browser, server: Any) -> None:
    page = opened(browser, server)
    page.select_option("#model", "base")
    page.fill("#field-prompt", "x" * 400)
    page.click("#send")
    done(page)
    said = page.locator(".error").inner_text()
    assert "256" in said and "401" in said  # both counts: the context's, and the prompt's with its BOS
    page.context.close()
