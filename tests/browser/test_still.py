"""Nothing on a page jumps while it fills: what comes later has its place, or comes as a whole."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from playwright.sync_api import expect

from browser.conftest import Open
from support.browser import Seen, Site, held

MOST = 0.02
SHIFTS = """new PerformanceObserver((list) => list.getEntries().forEach((each) => {
  if (!each.hadRecentInput) window.shifted = (window.shifted ?? 0) + each.value;
})).observe({ type: "layout-shift", buffered: true });"""
PAGES = ("/train", "/runs", "/models", "/datasets", "/playground", "/ledger", "/access")


@pytest.fixture(scope="module")
def served(finished: Site) -> Site:
    return finished


@pytest.mark.parametrize("viewport", [{"width": 1440, "height": 900}, {"width": 390, "height": 844}])
def test_nothing_jumps_while_a_page_fills(
    visited: Open, runs: Mapping[str, str], seen: Seen, viewport: dict[str, int]
) -> None:
    page = visited("about:blank", viewport=viewport)
    page.add_init_script(SHIFTS)
    shifted = {}
    for path in (*PAGES, *(f"/runs/{run}" for run in runs.values())):
        page.goto(path)
        seen.rest(page)
        shifted[path] = round(page.evaluate("window.shifted ?? 0"), 3)

    assert {path: by for path, by in shifted.items() if by > MOST} == {}


def test_nothing_jumps_where_a_part_of_a_page_comes_late(visited: Open, runs: Mapping[str, str], seen: Seen) -> None:
    page = visited("about:blank", viewport={"width": 390, "height": 844})
    page.add_init_script(SHIFTS)
    late = held(page, "/result.js$")
    page.goto(f"/runs/{runs['trained']}")
    page.wait_for_timeout(1000)  # a foot that could be seen would be by now

    late.pop().continue_()

    expect(page.locator("#result")).to_be_visible()
    seen.rest(page)
    assert page.evaluate("window.shifted ?? 0") <= MOST
