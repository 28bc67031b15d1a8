"""Nothing on a page jumps while it fills: what comes later has its place, or comes as a whole."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from browser.conftest import Open
from support.browser import Seen, Site

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
