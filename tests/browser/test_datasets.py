"""Datasets: sent, looked at, converted and deleted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from browser.conftest import Barriers, Open
from support.browser import Seen, Site, site, told


@pytest.fixture(scope="module")
def served(furnished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server whose runs, trained by script, take minutes."""
    home = tmp_path_factory.mktemp("datasets") / "home"
    shutil.copytree(furnished, home)
    (home / "models" / "alfa-llama" / "script.json").write_text(json.dumps({"step_seconds": 5}))
    with site(home, engine="scripted") as opened:
        yield opened


def send(page: Page, served: Site, name: str) -> None:
    page.locator("#drop input[type=file]").set_input_files(served.home / "files" / name)


def test_a_file_is_sent_and_shown_with_its_rows_lengths_and_faults(
    visited: Open, served: Site, barriers: Barriers
) -> None:
    page = visited("/datasets")
    send(page, served, "faulty.jsonl")

    opened = page.locator("#stored .opened")
    expect(page.get_by_role("button", name="faulty.jsonl", expanded=True)).to_be_visible()
    expect(opened.locator(".problems")).to_contain_text("line 8")
    expect(opened.locator(".problems")).to_contain_text("line 12")
    expect(opened).to_contain_text("First rows")
    expect(opened.get_by_label("Tokens as counted by")).to_have_value("alfa-llama")
    expect(opened.get_by_role("img", name=re.compile("^Tokens a row as Alfa-Llama counts"))).to_be_visible()
    assert barriers(page) == {}

    opened.get_by_role("button", name="Train on it").click()
    expect(page).to_have_url(re.compile("/train"))
    expect(page.locator("#data-dataset")).to_have_value("faulty.jsonl")


def test_another_format_becomes_a_dataset_of_its_own_and_what_it_cannot_hold_is_refused(
    visited: Open, served: Site, seen: Seen, barriers: Barriers
) -> None:
    page = visited("/datasets")
    send(page, served, "preferences.jsonl")
    page.get_by_role("button", name="Convert…").click()
    dialog = page.get_by_role("dialog", name="Convert preferences.jsonl")
    dialog.get_by_role("radio", name="Parquet").check()
    expect(dialog.get_by_label("Name of the new dataset")).to_have_value(re.compile(r"\.parquet$"))
    assert barriers(page) == {}

    dialog.get_by_label("Name of the new dataset").fill("preferences.jsonl")
    dialog.get_by_role("button", name="Convert").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Another dataset has the name preferences.jsonl.")
    seen.expect("status of 400")
    dialog.get_by_label("Name of the new dataset").fill("kept.parquet")
    dialog.get_by_role("button", name="Convert").click()

    expect(page.get_by_role("button", name="kept.parquet", expanded=True)).to_be_visible()
    expect(page.locator("#stored tr", has=page.get_by_role("button", name="kept.parquet"))).to_contain_text("PARQUET")


def test_a_dataset_is_deleted_only_when_that_is_confirmed_and_no_run_needs_it(
    visited: Open, served: Site, seen: Seen
) -> None:
    page = visited("/datasets")
    send(page, served, "chats.jsonl")
    expect(page.get_by_role("button", name="chats.jsonl", expanded=True)).to_be_visible()
    asked = {"datasetId": "chats.jsonl", "baseModels": ["alfa-llama"], "execution": {"executor": "inline"}}
    run_id = told(page, "POST", "/api/admin/training/start-dna-v2", asked)["run_id"]

    page.get_by_role("button", name="Delete…").click()
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text(f"is used by {run_id}")
    seen.expect("status of 409")

    told(page, "POST", f"/api/runs/{run_id}/stop", {"when": "kill"})
    while told(page, "GET", "/api/queue")["queue"]:
        page.wait_for_timeout(100)
    page.get_by_role("button", name="Delete…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("button", name="chats.jsonl")).to_have_count(0)
    expect(page.locator("#drop input")).to_be_focused()
