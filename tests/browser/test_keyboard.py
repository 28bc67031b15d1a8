"""The Train page by the keyboard alone: what is focused, what it is called, and where the focus comes back to."""

from __future__ import annotations

import re
from collections.abc import Iterator

from playwright.sync_api import Page, expect

from browser.conftest import Open
from support.browser import Seen, Site, told

PHONE = {"width": 390, "height": 844}

# Whether any of the focused element can be seen: not where something lies over it, nor outside the window.
SEEN = """() => {
  const element = document.activeElement;
  const shown = element.closest("label") ?? element;
  const { left, right, top, bottom } = shown.getBoundingClientRect();
  return [[left + 2, top + 2], [right - 2, bottom - 2], [(left + right) / 2, (top + bottom) / 2]].some(([x, y]) => {
    const hit = document.elementFromPoint(x, y);
    return hit && (shown.contains(hit) || hit.contains(shown));
  });
}"""


def to(page: Page, selector: str, key: str = "Tab") -> None:
    """Press a key until an element has the focus."""
    for _ in range(150):
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press(key)
    raise AssertionError(f"{selector} is never reached: {page.evaluate('document.activeElement.outerHTML')}")


def stops(page: Page) -> Iterator[str]:
    """Every element that Tab comes to on a page from its first on."""
    page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
    for _ in range(150):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            return
        yield page.evaluate("document.activeElement.outerHTML.slice(0, 150)")


def test_a_run_is_asked_for_reviewed_and_mended_without_a_pointer(visited: Open, served: Site, seen: Seen) -> None:
    page = visited("/train")
    told(page, "POST", "/api/datasets?name=chats.jsonl", (served.home / "files" / "chats.jsonl").read_bytes())
    page.reload()
    seen.rest(page)  # what comes while Tab is pressed may come behind the focus
    llama = page.get_by_role("checkbox", name="Alfa-Llama")

    to(page, '[value="alfa-llama"]')
    page.keyboard.press("Space")
    expect(llama).to_be_checked()
    to(page, '[popovertarget="data-dataset-help"]')
    page.keyboard.press("Enter")
    expect(page.locator("#data-dataset-help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#data-dataset-help")).to_be_hidden()
    to(page, "#data-dataset")
    page.keyboard.type("chats")
    to(page, "#training-num-epochs")
    page.keyboard.type("-1")
    expect(page.get_by_role("textbox", name="Epochs", exact=True)).to_have_attribute("aria-invalid", "true")
    to(page, "[data-review]")
    page.keyboard.press("Enter")
    expect(page.locator("#review-title")).to_be_focused()
    to(page, "#review-findings button")
    page.keyboard.press("Enter")
    expect(page.locator("#training-num-epochs")).to_have_value("1")
    expect(page.locator("#start")).not_to_have_attribute("aria-disabled", "true")
    page.keyboard.press("Escape")
    expect(page.locator("[data-review]").first).to_be_focused()


def test_groups_are_called_by_their_names_and_a_model_says_what_it_can(visited: Open) -> None:
    page = visited("/train")

    for name in ("Strategy", "Method", "Target modules"):
        expect(page.get_by_role("group", name=name, exact=True)).to_be_visible()
    expect(page.get_by_role("checkbox", name="Alfa-Llama")).to_have_accessible_description(re.compile("Cached .* Chat"))


def test_what_has_the_focus_is_in_sight_on_a_phone_too(visited: Open, seen: Seen) -> None:
    page = visited("/train", viewport=PHONE, reduced_motion="reduce")
    page.get_by_role("checkbox", name="Alfa-Llama").check()
    expect(page.locator("#targets")).to_contain_text("q_proj")
    seen.rest(page)  # what comes above the focus pushes it out of sight

    hidden = [each for each in stops(page) if not page.evaluate(SEEN)]

    assert hidden == []
