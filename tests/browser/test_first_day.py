"""The first day of a server: its one-time link, its administrator, and pages that have nothing to show yet."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from browser.conftest import Barriers, Open
from support.browser import Seen, Site, site

PASSPHRASE = "a town by the sea in autumn"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server over an empty home, without an administrator."""
    home = tmp_path_factory.mktemp("empty") / "home"
    home.mkdir()
    with site(home, {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "huggingface")}, set_up=False) as opened:
        yield opened


def test_a_one_time_link_makes_the_administrator_and_every_page_says_how_to_begin(
    visited: Open, served: Site, seen: Seen, barriers: Barriers
) -> None:
    page = visited("/login", signed_in=False)
    expect(page.locator("#not-set-up")).to_contain_text("oneseek admin link")
    assert barriers(page) == {}
    (link,) = re.findall(r"/setup#link=\S+", served.said)
    page.goto(link)
    expect(page).to_have_url(re.compile("/setup$"))
    page.get_by_label("Passphrase", exact=True).fill("too short")
    page.keyboard.press("Enter")
    expect(page.locator("#passphrase-said")).to_have_text("9 of at least 12 characters.")
    assert barriers(page) == {}

    page.get_by_label("Passphrase", exact=True).fill(PASSPHRASE)
    page.get_by_label("Passphrase again", exact=True).fill(PASSPHRASE)
    page.keyboard.press("Enter")

    expect(page).to_have_url(re.compile("/train$"))
    begins = {
        "/train": "No base models yet",
        "/runs": "No runs yet",
        "/models": "No base models yet",
        "/datasets": "No datasets yet",
        "/playground": "No adapter to ask yet",
        "/ledger": "Nothing is in the ledger yet",
    }
    for path, said in begins.items():
        page.goto(path)
        expect(page.get_by_role("heading", name=said)).to_be_visible()
        assert barriers(page) == {}, path

    page.context.clear_cookies()
    page.goto("/login")
    page.goto(link)
    page.get_by_label("Passphrase", exact=True).fill(PASSPHRASE)
    page.get_by_label("Passphrase again", exact=True).fill(PASSPHRASE)
    page.keyboard.press("Enter")
    expect(page.locator("#no-link")).to_contain_text("A one-time link is needed")
    expect(page.locator("#refused")).to_have_text(re.compile(r"link"))
    seen.expect("status of 4")
