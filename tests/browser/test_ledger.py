"""The ledger: its entries with their proofs, the keys to pin, and an audit of all of it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from playwright.sync_api import expect

from browser.conftest import Barriers, Open
from support.browser import Site


@pytest.fixture(scope="module")
def served(finished: Site) -> Site:
    return finished


def test_entries_are_shown_newest_first_audited_and_proven(
    visited: Open, runs: Mapping[str, str], barriers: Barriers
) -> None:
    page = visited("/ledger")
    entries = page.locator("#entries tbody tr")
    expect(entries.locator(".c-run")).to_have_text([runs["fast"], runs["slow"], runs["trained"]])
    expect(page.locator("#facts")).to_contain_text("3")

    page.get_by_role("button", name="Audit the ledger").click()

    expect(page.locator("#audited")).to_contain_text("Nothing was changed, removed or put in between.")
    expect(page.locator("#audited")).to_contain_text("3 entries read and hashed")
    assert barriers(page) == {}
    with page.expect_download() as proof:
        page.get_by_role("link", name="Proof of entry 0").click()
    assert proof.value.suggested_filename == "entry-0.tlog-proof"
    assert proof.value.path().read_text().startswith("c2sp.org/tlog-proof@v1\n")
    with page.expect_download() as keys:
        page.get_by_role("link", name="Download the keys").click()
    assert page.locator("#key").inner_text() in keys.value.path().read_text()

    entries.first.get_by_role("link", name=runs["fast"]).click()
    expect(page.locator("#badge")).to_have_text("Certified")
