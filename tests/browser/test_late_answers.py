"""Answers that come when something else was asked for meanwhile, files that come before the page is ready for them, and
what stays behind when somebody has left."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from browser.conftest import ON_THE_HUB, Open
from browser.test_train import choose
from support.browser import PASSPHRASE, Seen, Site, held, told

DROP = """([name, text]) => {
  const files = new DataTransfer();
  files.items.add(new File([text], name, { type: "application/jsonl" }));
  const given = { bubbles: true, cancelable: true, dataTransfer: files };
  return ["dragenter", "dragover", "drop"].map((kind) => {
    const event = new DragEvent(kind, given);
    document.querySelector("#models-list").dispatchEvent(event);
    return event.defaultPrevented;
  });
}"""


def stored(page: Page, served: Site, name: str) -> str:
    """A dataset of the files that can be chosen in the form from now on."""
    told(page, "POST", f"/api/datasets?name={name}", (served.home / "files" / name).read_bytes())
    return name


def test_a_dataset_that_is_not_chosen_any_more_is_not_drawn_when_its_answer_comes(
    visited: Open, served: Site, seen: Seen
) -> None:
    page = visited("/ledger")
    first, second = (stored(page, served, name) for name in ("chats.jsonl", "small.jsonl"))
    waiting = held(page, r"/api/datasets/chats\.jsonl$")
    page.goto("/train")
    chosen = page.locator("#data-dataset")

    for then in ("", second):
        chosen.select_option(first)
        expect(page.locator("#data-shown")).to_have_attribute("aria-busy", "true")
        chosen.select_option(then)
        expect(page.locator("#data-shown")).not_to_have_attribute("aria-busy", "true")
        for route in waiting:
            route.fulfill(status=500, content_type="application/json", body="null")
        waiting.clear()
        page.wait_for_load_state("networkidle")

        expect(page.locator("#data-shown .failure")).to_have_count(0)
        expect(page.locator("#data-shown")).not_to_contain_text(first)
    expect(page.locator("#data-shown")).to_contain_text(second)
    page.unroute_all(behavior="ignoreErrors")
    seen.expect("status of 500|ERR_FAILED")


def test_a_conversion_that_is_refused_when_its_dialog_was_closed_is_told_all_the_same(
    visited: Open, served: Site, seen: Seen
) -> None:
    page = visited("/ledger")
    stored(page, served, "preferences.jsonl")
    waiting = held(page, r"/api/datasets/[0-9a-f]+/convert$")
    page.goto("/datasets")
    page.get_by_role("button", name="preferences.jsonl").click()
    page.get_by_role("button", name="Convert…").click()
    page.get_by_role("button", name="Convert", exact=True).click()
    expect(page.locator("dialog.convert progress")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog.convert")).to_have_count(0)

    refused = {"error": {"code": "StorageError", "message": "The disk is full.", "fix": "Make room."}}
    waiting[0].fulfill(status=507, json=refused)

    expect(page.locator(".toast")).to_contain_text("The disk is full. Make room.")
    page.unroute_all(behavior="ignoreErrors")
    seen.expect("status of 507")


def test_what_was_converted_when_its_dialog_was_closed_is_in_the_list_all_the_same(visited: Open, served: Site) -> None:
    page = visited("/ledger")
    stored(page, served, "preferences.jsonl")
    waiting = held(page, r"/api/datasets/[0-9a-f]+/convert$")
    page.goto("/datasets")
    page.get_by_role("button", name="preferences.jsonl").click()
    page.get_by_role("button", name="Convert…").click()
    page.locator("#convert-name").fill("late.parquet")
    page.get_by_role("button", name="Convert", exact=True).click()
    expect(page.locator("dialog.convert progress")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog.convert")).to_have_count(0)

    waiting[0].continue_()

    expect(page.locator(".toast")).to_contain_text("late.parquet is stored.")
    expect(page.get_by_role("button", name="late.parquet")).to_be_visible()
    page.unroute_all(behavior="ignoreErrors")


def test_a_question_to_the_hub_is_over_when_another_id_is_typed(visited: Open) -> None:
    page = visited("about:blank")
    waiting = held(page, r"/api/models/north")
    page.goto("/train")
    page.locator("#hub").fill(ON_THE_HUB)
    page.get_by_role("button", name="Look up").click()
    expect(page.locator("#hub-found")).to_contain_text("Asking the hub")

    page.locator("#hub").press_sequentially("x")

    expect(page.locator("#hub-found")).to_be_empty()
    for route in waiting:
        route.continue_()
    page.wait_for_load_state("networkidle")
    expect(page.locator("#hub-found")).to_be_empty()
    page.unroute_all(behavior="ignoreErrors")


def test_a_file_that_is_dropped_beside_its_zone_is_taken_from_the_first_moment_on(visited: Open, served: Site) -> None:
    page = visited("/train")
    text = (served.home / "files" / "chats.jsonl").read_text()

    kept = page.evaluate(DROP, ["dropped.jsonl", text + text.splitlines()[0].replace("a", "e", 1) + "\n"])

    assert kept[1:] == [True, True]
    expect(page.locator("#data-dataset")).to_have_value("dropped.jsonl")


def test_who_signs_out_leaves_nothing_that_was_written(visited: Open, seen: Seen) -> None:
    page = visited("/login?next=/train", signed_in=False)  # with a session of its own, which ends
    seen.rest(page)
    page.locator("#passphrase").fill(PASSPHRASE)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/train"))
    page.evaluate("sessionStorage.setItem('oneseek.prompt', 'A secret plan.')")
    choose(page, "Alfa-Llama")
    assert page.evaluate("[localStorage.length, sessionStorage.length]") == [1, 1]
    seen.rest(page)  # what is asked for now would be refused

    page.get_by_role("button", name="Account").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile("/login"))

    assert page.evaluate("localStorage.length + sessionStorage.length") == 0
