"""What breaks around a page: the server gone, slow, full or without words, a session that is over, two tabs, and names
and numbers of any size. Nothing that was filled in is lost, and what went wrong is said with what to do."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from browser.test_train import CHECKED, choose, drop
from support.browser import Seen, Site, site, too_wide

Open = Callable[..., Page]

AWAY = "The server does not answer."
PAGES = ("/train", "/runs", "/models", "/datasets", "/playground", "/ledger", "/access")
WIDE = "x" * 190  # a name without a place to break it


@pytest.fixture(scope="module")
def served(with_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server that may be ended, over a home with runs."""
    home = tmp_path_factory.mktemp("faults") / "home"
    shutil.copytree(with_runs, home)
    with site(home, {"HF_HUB_OFFLINE": "1"}) as opened:
        yield opened


def by_a_proxy(route: Route) -> None:
    """What something in front of the server says where it is away."""
    route.fulfill(status=502, content_type="text/html", body="<h1>502 Bad Gateway</h1>")


def without_words(route: Route) -> None:
    route.fulfill(status=500, content_type="application/json", body="null")


def unanswered(route: Route) -> None:
    """What changes something reaches the server, whose answer is lost."""
    if route.request.method == "GET":
        route.fallback()
    else:
        route.fetch()
        route.abort()


def full(route: Route) -> None:
    said = {"code": "StorageError", "message": "The disk is full.", "fix": "Make room."}
    route.fulfill(status=507, content_type="application/json", body=json.dumps({"error": said}))


def only_refusals(seen: Seen) -> None:
    """Chromium itself tells of every request that fails; nothing else was said, and nothing was left unhandled."""
    seen.said[:] = [said for said in seen.said if not re.search("Failed to load resource|ERR_|WebSocket", said)]


def test_a_half_filled_form_survives_the_death_of_the_server(visited: Open, served: Site, seen: Seen) -> None:
    page = visited("/train")
    drop(page, served, "chats.jsonl")
    choose(page, "Alfa-Llama")
    expect(page.locator(".rail")).to_contain_text(CHECKED)

    served.end(signal.SIGKILL)
    page.locator("#training-num-epochs").fill("7")
    choose(page, "Beta-Mistral")
    expect(page.locator("#verdict")).to_contain_text("Your settings are kept here")
    page.locator("[data-review]").locator("visible=true").first.click()
    expect(page.locator("#start-why")).to_contain_text(AWAY)
    page.keyboard.press("Escape")
    served.start()

    expect(page.locator(".rail")).to_contain_text("2 selected")
    expect(page.locator("#verdict")).not_to_contain_text(AWAY)
    for _ in ("as it stands", "when it is loaded anew"):
        expect(page.locator("#training-num-epochs")).to_have_value("7")
        expect(page.locator("#data-dataset")).to_have_value("chats.jsonl")
        for name in ("Alfa-Llama", "Beta-Mistral"):
            expect(page.get_by_role("checkbox", name=name)).to_be_checked()
        page.reload()
    only_refusals(seen)


def test_every_page_says_that_it_was_refused_and_is_whole_when_asked_again(visited: Open, seen: Seen) -> None:
    for path, refused in zip(PAGES, cycle((by_a_proxy, without_words)), strict=False):
        page = visited("about:blank")
        page.route("**/api/**", refused)
        page.goto(path)
        wrong = page.locator(".failure").locator("visible=true")
        expect(wrong.first).to_contain_text(AWAY if refused is by_a_proxy else "Its log may say why.")

        page.unroute_all()
        again = page.get_by_role("button", name=re.compile("Try again|Check now"))
        while again.evaluate_all("(all) => (all[0]?.click(), all.length)"):  # the page itself may be quicker
            seen.rest(page)

        expect(wrong).to_have_count(0)
        page.close()
    only_refusals(seen)


def test_two_tabs_of_the_form_take_nothing_from_each_other(visited: Open) -> None:
    page = visited("/train")
    other = page.context.new_page()
    other.goto("/train")
    expect(other.locator(".rail")).to_contain_text("2 things to choose")

    page.locator("#training-num-epochs").press_sequentially("1234567", delay=5)

    expect(other.locator("#training-num-epochs")).to_have_value("1234567")
    expect(page.locator("#training-num-epochs")).to_have_value("1234567")


def test_a_file_that_was_refused_is_sent_again_and_a_conversion_asked_for_twice_is_one(
    visited: Open, served: Site, seen: Seen
) -> None:
    page = visited("about:blank")
    page.route("**/api/datasets?name=*", full)
    page.goto("/datasets")
    page.locator("#drop input").set_input_files(served.home / "files" / "small.jsonl")
    refused = page.locator("#drop-uploads .failure")
    expect(refused).to_contain_text("The disk is full. Make room.")

    page.unroute_all()
    refused.get_by_role("button", name="Send again").click()
    expect(page.locator(".opened")).to_contain_text("SHA-256")

    page.get_by_role("button", name="Convert…").dblclick()
    expect(page.locator("dialog.convert")).to_have_count(1)
    only_refusals(seen)


def test_a_verification_that_fails_leaves_no_check_that_waits(
    visited: Open, runs: Mapping[str, str], seen: Seen
) -> None:
    page = visited("about:blank")
    page.route("**/verify*", by_a_proxy)
    page.goto(f"/runs/{runs['slow']}")
    expect(page.locator("#verify-said")).to_contain_text(AWAY)
    expect(page.locator("#checks li")).to_have_count(0)

    page.unroute_all()
    page.get_by_role("button", name="Verify again").click()

    expect(page.locator("#checks li")).to_have_count(14)
    only_refusals(seen)


def test_what_is_being_asked_survives_a_session_that_is_over(visited: Open, seen: Seen) -> None:
    page = visited("/playground")
    expect(page.locator("#machine")).to_be_visible()  # everything else that a page asks by itself was answered
    page.locator("#prompt").fill("When does it open?")
    page.context.clear_cookies()
    page.locator("#go").click()
    expect(page).to_have_url(re.compile(r"/login\?next="))
    seen.rest(page)  # before its module is there, the form sends nothing

    page.locator("#passphrase").fill("correct horse battery staple")
    page.keyboard.press("Enter")

    expect(page.locator("#prompt")).to_have_value("When does it open?")
    only_refusals(seen)


def test_a_token_whose_answer_was_lost_is_in_the_list(visited: Open, seen: Seen) -> None:
    page = visited("about:blank")
    page.route("**/api/tokens", unanswered)  # an open page would heed it only a moment later
    page.goto("/access")
    page.get_by_role("button", name="New token").first.click()
    page.locator("#token-name").fill("lost")

    page.keyboard.press("Enter")

    expect(page.locator("#token-problem")).to_contain_text(AWAY)
    expect(page.locator("#tokens-list")).to_contain_text("lost")
    expect(page.locator("#token-name")).to_have_value("lost")
    only_refusals(seen)


def test_names_and_numbers_of_any_size_widen_no_page(visited: Open, served: Site) -> None:
    page = visited("/runs")
    losses: dict[str, Any] = {WIDE: 1e-12, "huge": 1e12, "none": None}
    told = page.context.request.post(
        "/api/training/run-20251122-143025/metrics",
        data={"epoch": 1, "totalEpochs": 1_000_000, "valLosses": losses},
        headers={"Origin": served.address},
    )
    assert told.ok, told.text()

    for path, place in (("/runs", "#runs"), ("/runs/run-20251122-143025", "#board")):
        page.goto(path)
        expect(page.locator(place)).to_contain_text(WIDE)
        assert {width: over for width in (320, 861, 1440) if (over := too_wide(page, width))} == {}
    expect(page.locator("#board")).to_contain_text("1e12")
    expect(page.locator("#board")).to_contain_text("It reported no loss.")
