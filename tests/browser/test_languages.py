"""Both languages: what is said in English is said in Swedish on a Swedish page, with nothing forgotten."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pytest
from playwright.sync_api import Page, expect

from browser.conftest import Open
from oneseek.server.pages.words import catalogue
from support.browser import PASSPHRASE, Seen, Site

SWEDISH = catalogue("sv")

# What is seen or read aloud, but for what says itself that it is in another language.
SEEN = """() => {
  const told = new Set();
  const add = (text) => text?.trim() && told.add(text.trim().replace(/\\s+/g, " "));
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const element = node.nodeType === Node.TEXT_NODE ? node.parentElement : node;
    if (element.closest("script, style, code, pre, noscript, blockquote")) continue;
    if (element.closest("[lang]").lang !== "sv") continue;
    if (node.nodeType === Node.TEXT_NODE) add(node.data);
    else for (const name of ["aria-label", "placeholder", "title", "alt"]) add(element.getAttribute(name));
  }
  return [...told];
}"""


@pytest.fixture(scope="module")
def served(finished: Site) -> Site:
    return finished


def english(texts: list[str]) -> dict[str, str]:
    """The texts that the catalogue has in other words: with the Swedish that should stand there."""
    patterns = [
        (re.compile(re.sub(r"\\\{\w+\\\}", "(.+)", re.escape(text))), swedish)
        for text, swedish in SWEDISH.items()
        if re.sub(r"\{\w+\}", "", text) != re.sub(r"\{\w+\}", "", swedish)
    ]
    swedish = set(SWEDISH.values())
    return {
        text: meant for text in texts if text not in swedish for pattern, meant in patterns if pattern.fullmatch(text)
    }


def states(page: Page, runs: Mapping[str, str], seen: Seen) -> Iterator[str]:
    """Every page, and what opens on it; the name of each."""
    for path in ("/setup", "/login"):
        page.goto(path)
        seen.rest(page)
        yield path
    page.locator("input[type=password]").first.fill(PASSPHRASE)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/train$"))
    for path in ("/runs", "/ledger", "/playground", "/nothing", f"/runs/{runs['failed']}"):
        page.goto(path)
        seen.rest(page)
        yield path
    page.goto(f"/runs/{runs['trained']}")
    expect(page.locator("#verify-said")).to_contain_text("12")
    page.locator("#live > summary").click()
    expect(page.locator("#board tbody tr")).to_have_count(2)
    yield "a run"
    page.goto(f"/runs?compare={runs['slow']},{runs['fast']}")
    expect(page.locator("#compared .same")).to_be_visible()
    yield "a comparison"
    page.goto("/models")
    page.get_by_role("button", name="Alfa-Llama", exact=True).click()
    expect(page.locator(".modules")).to_be_visible()
    yield "a model"
    page.goto("/datasets#chats.jsonl")
    expect(page.locator(".opened .hist").first).to_be_visible()
    page.get_by_role("button", name=SWEDISH["Convert…"]).click()
    yield "a dataset"
    page.goto("/access")
    page.get_by_role("button", name=SWEDISH["New token"]).click()
    seen.rest(page)
    yield "access"
    page.goto("/train")
    seen.rest(page)
    yield "an empty form"
    page.get_by_role("checkbox", name="Alfa-Llama").check()
    page.locator("#data-dataset").select_option("chats.jsonl")
    page.locator("#training-num-epochs").fill("-1")
    expect(page.locator("#training-num-epochs")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#data .hist").first).to_be_visible()
    page.locator("[data-review]").locator("visible=true").first.click()
    expect(page.locator("#review")).to_be_visible()
    yield "a form"


def test_no_english_is_left_on_a_swedish_page(visited: Open, runs: Mapping[str, str], seen: Seen) -> None:
    page = visited("/login", locale="sv-SE", signed_in=False)

    left = {state: found for state in states(page, runs, seen) if (found := english(page.evaluate(SEEN)))}

    seen.expect("status of 404.*/nothing")
    assert left == {}
