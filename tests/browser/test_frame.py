"""What every page has: who may open it, language, theme, one address bar, nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from playwright.sync_api import expect

from browser.conftest import Barriers, Open
from support.browser import PASSPHRASE, Seen, Site, too_wide

PAGES = ("/train", "/runs", "/runs/{trained}", "/models", "/datasets", "/playground", "/ledger", "/access")
DOORS = ("/login", "/setup")
WIDTHS = (320, 390, 861, 1121, 1600)


@pytest.fixture(scope="module")
def served(finished: Site) -> Site:
    return finished


@pytest.mark.parametrize("path", [*PAGES, *DOORS])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_window(
    visited: Open, runs: Mapping[str, str], seen: Seen, barriers: Barriers, path: str
) -> None:
    page = visited(path.format(**runs), signed_in=path not in DOORS)
    seen.rest(page)

    assert barriers(page) == {}
    assert {width: over for width in WIDTHS if (over := too_wide(page, width))} == {}


def test_who_is_not_known_logs_in_and_comes_back_to_the_page(visited: Open) -> None:
    page = visited("/ledger?from=mail", signed_in=False)
    expect(page).to_have_url(re.compile(r"/login\?next="))

    page.locator("input[type=password]").first.fill(PASSPHRASE)
    page.keyboard.press("Enter")

    expect(page).to_have_url(re.compile(r"/ledger\?from=mail$"))


def test_a_wrong_passphrase_is_said_and_nothing_is_lost(visited: Open, seen: Seen) -> None:
    page = visited("/login", signed_in=False)

    page.locator("input[type=password]").first.fill("not the passphrase at all")
    page.keyboard.press("Enter")

    expect(page.get_by_role("alert").first).to_be_visible()
    expect(page).to_have_url(re.compile("/login"))
    seen.expect("status of 403")


def test_the_language_is_kept_from_page_to_page(visited: Open) -> None:
    page = visited("/train")

    page.get_by_role("button", name="Svenska").click()
    expect(page.get_by_role("link", name="Körningar").first).to_be_visible()
    page.goto("/runs")

    expect(page.locator("html")).to_have_attribute("lang", "sv")


def test_a_browser_that_asks_for_swedish_gets_it(visited: Open) -> None:
    page = visited("/runs", locale="sv-SE")

    expect(page.locator("html")).to_have_attribute("lang", "sv")


def test_the_theme_is_kept_from_page_to_page(visited: Open) -> None:
    page = visited("/runs")

    page.get_by_role("button", name="Switch between light and dark").click()
    page.goto("/ledger")

    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
