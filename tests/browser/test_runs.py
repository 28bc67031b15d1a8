"""All runs: found by status and words, kept in the address, and laid beside each other."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from playwright.sync_api import Page, expect

from browser.conftest import Barriers, Open
from support.browser import Site


@pytest.fixture(scope="module")
def served(finished: Site) -> Site:
    return finished


def listed(page: Page) -> list[str]:
    """The ids of the runs that are shown."""
    return page.locator("#runs tbody .c-run code").all_text_contents()


def test_runs_are_found_by_status_and_words_and_the_address_keeps_both(visited: Open, runs: Mapping[str, str]) -> None:
    page = visited("/runs")
    expect(page.locator("#runs tbody tr")).to_have_count(4)
    assert listed(page) == sorted(runs.values(), reverse=True)

    page.get_by_role("radio", name=re.compile("^Failed")).check()
    expect(page).to_have_url(re.compile(r"/runs\?status=failed$"))
    expect(page.locator("#runs tbody tr")).to_have_count(1)
    expect(page.locator("#runs")).to_contain_text("nan")

    page.get_by_label("Search runs").fill("chats beta")
    expect(page.locator("#nothing")).to_contain_text("No run matches")
    page.reload()
    expect(page.get_by_label("Search runs")).to_have_value("chats beta")
    expect(page.get_by_role("radio", name=re.compile("^Failed"))).to_be_checked()

    page.go_back()
    expect(page.locator("#runs tbody tr")).to_have_count(4)
    expect(page.get_by_role("radio", name=re.compile("^All"))).to_be_checked()


def test_two_runs_are_compared_by_their_curves_results_and_the_settings_that_differ(
    visited: Open, runs: Mapping[str, str], barriers: Barriers
) -> None:
    page = visited("/runs")
    for name in ("slow", "fast"):
        page.locator(f'#runs input[value="{runs[name]}"]').check()
    page.get_by_role("button", name="Compare").click()

    compared = page.locator("#compared")
    expect(compared.locator("figure .legend li")).to_have_count(2)
    differing = compared.get_by_role("region", name="Settings that differ")
    expect(differing.get_by_role("row")).to_have_count(3)
    expect(differing.get_by_role("row", name="training.num_epochs")).to_contain_text(re.compile("4.*2"))
    expect(differing.get_by_role("row", name="training.learning_rate")).to_contain_text(re.compile("1e-4.*2e-4"))
    compared.get_by_text(re.compile(r"\d+ settings are the same")).click()
    expect(compared.locator(".same li code", has_text="training.batch_size")).to_be_visible()
    expect(compared.get_by_role("row", name="DNA: data")).to_contain_text("same data")
    assert barriers(page) == {}

    page.reload()
    expect(differing.get_by_role("row")).to_have_count(3)
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#compare")).to_be_hidden()
    page.go_back()
    expect(page.locator("#compare")).to_be_visible()
