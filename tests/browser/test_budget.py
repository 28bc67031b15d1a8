"""What a cold Train page may cost: bytes, requests, and time of the main thread."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Browser, CDPSession

from support.browser import Site, visit

BYTES = 60_000
REQUESTS = 10
LONGEST = 50.0  # milliseconds of the processor's time: what browsers call a long task


@pytest.mark.parametrize("locale", ["en-GB", "sv-SE"])
def test_a_cold_train_page_is_small_and_leaves_the_main_thread_free(
    browser: Browser, finished: Site, locale: str
) -> None:
    with visit(browser, finished, locale=locale) as page:
        came = received(page.context.new_cdp_session(page))
        browser.start_tracing(page=page, categories=["toplevel"])
        page.goto("/train")
        page.locator("#form:not(.stale)").wait_for()
        page.wait_for_load_state("networkidle")
        tasks = main_thread(json.loads(browser.stop_tracing()))

    assert len(came) <= REQUESTS, came
    assert sum(came.values()) <= BYTES, came
    assert max(tasks) <= LONGEST


def received(session: CDPSession) -> dict[str, float]:
    """The bytes of each answer as they come over the wire, with their headers, by address."""
    asked: dict[str, str] = {}
    came: dict[str, float] = {}
    session.on("Network.requestWillBeSent", lambda told: asked.update({told["requestId"]: told["request"]["url"]}))
    session.on(
        "Network.loadingFinished", lambda told: came.update({asked[told["requestId"]]: told["encodedDataLength"]})
    )
    session.send("Network.enable")
    return came


def main_thread(trace: dict[str, Any]) -> list[float]:
    """How long each task of the main thread had the processor, in milliseconds."""
    events = trace["traceEvents"]
    named = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    return [event["tdur"] / 1000 for event in events if "tdur" in event and (event["pid"], event["tid"]) in named]
