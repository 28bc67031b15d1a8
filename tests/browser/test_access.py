"""Who gets in: tokens for programs, sessions of browsers, and the passphrase."""

from __future__ import annotations

import re
import urllib.error
import urllib.request

from playwright.sync_api import Browser, Page, expect

from browser.conftest import Barriers, Open
from support.browser import PASSPHRASE, Seen, Site, told, visit


def let_in(served: Site, token: str) -> bool:
    """Whether a program with a token is let in."""
    request = urllib.request.Request(f"{served.address}/api/runs", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=20):
            return True
    except urllib.error.HTTPError as refused:
        return refused.code != 401


def test_a_token_is_shown_once_lets_a_program_in_and_is_revoked(
    visited: Open, served: Site, barriers: Barriers
) -> None:
    page = visited("/access")
    page.get_by_role("button", name="New token").click()
    dialog = page.get_by_role("dialog", name="New token")
    dialog.get_by_role("button", name="Make token").click()
    expect(dialog.locator("#token-name-said")).to_have_text("A token needs a name.")
    assert barriers(page) == {}
    dialog.get_by_label("Name").fill("nightly")
    dialog.get_by_role("radio", name=re.compile("Viewer")).check()
    dialog.get_by_role("button", name="Make token").click()

    expect(page.get_by_role("heading", name="“nightly”: copy its secret now")).to_be_focused()
    secret = page.locator("#made code").first.inner_text()
    assert let_in(served, secret)
    assert barriers(page) == {}
    page.reload()
    expect(page.get_by_role("row", name="nightly")).to_contain_text("Viewer")
    assert secret not in page.content()

    page.get_by_role("button", name="Revoke nightly").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    page.get_by_role("button", name="Revoke", exact=True).click()
    expect(page.get_by_role("row", name="nightly")).to_have_count(0)
    assert not let_in(served, secret)


def test_other_browsers_are_signed_out_one_by_one_or_all_at_once(visited: Open, served: Site, browser: Browser) -> None:
    page = visited("/access")
    with visit(browser, served, signed_in=False) as other:
        signed_in(other)
        page.reload()
        page.get_by_role("button", name="End all others").click()
        page.get_by_role("button", name="End them").click()
        expect(page.get_by_role("table", name="Sessions").get_by_role("row")).to_have_count(2)
        signed_in(other)
        page.reload()

        page.get_by_role("button", name="End the session of Chromium on Linux").click()

        expect(page.get_by_role("table", name="Sessions").get_by_role("row")).to_have_count(2)
        expect(page.locator("#sessions-title")).to_be_focused()
        other.goto("/runs")
        expect(other).to_have_url(re.compile("/login"))


def test_a_new_passphrase_takes_the_place_of_the_old_one(visited: Open, served: Site, seen: Seen) -> None:
    page = visited("/login", signed_in=False)
    signed_in(page)
    page.goto("/access")
    fields = {
        "Current passphrase": "not this one",
        "New passphrase": f"{PASSPHRASE} 2",
        "New passphrase again": "other",
    }
    for name, text in fields.items():
        page.get_by_label(name, exact=True).fill(text)
    change = page.get_by_role("button", name="Change passphrase")
    change.click()
    expect(page.locator("#again-said")).to_have_text("The two passphrases differ.")
    page.get_by_label("New passphrase again", exact=True).fill(f"{PASSPHRASE} 2")
    change.click()
    expect(page.get_by_label("Current passphrase", exact=True)).to_have_attribute("aria-invalid", "true")
    seen.expect("status of 403")

    page.get_by_label("Current passphrase", exact=True).fill(PASSPHRASE)
    change.click()

    expect(page.locator("#change-problem")).to_contain_text("The passphrase is changed.")
    told(page, "PUT", "/api/passphrase", {"current": f"{PASSPHRASE} 2", "new": PASSPHRASE})
    served.session.clear()


def signed_in(page: Page) -> None:
    """Sign in anew, by hand."""
    page.goto("/login")
    page.get_by_label("Passphrase", exact=True).fill(PASSPHRASE)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/train$"))
