"""What a finished run shows: every check of its certificate, its answers and files, and how it is run again."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from playwright.sync_api import expect

from browser.conftest import Barriers, Open
from support.browser import Site, held, told
from support.homes import QUESTION

PASSED = "is-ok"
FAILED = "is-failed"


@pytest.fixture(scope="module")
def served(finished: Site) -> Site:
    return finished


def directory(served: Site, run_id: str) -> Path:
    (found,) = served.home.glob(f"models/**/{run_id}")
    return found


def test_every_check_of_a_certified_run_is_made_and_shown_with_where_it_looks(
    visited: Open, runs: Mapping[str, str], barriers: Barriers
) -> None:
    page = visited(f"/runs/{runs['trained']}")
    followed: list[str] = []
    page.on("websocket", lambda socket: followed.append(socket.url))
    page.reload()
    expect(page.locator("#badge")).to_have_text("Certified")
    expect(page.locator("#verify-said")).to_contain_text("12 of 14 checks passed")
    checks = page.locator("#checks li")
    expect(checks).to_have_count(14)
    expect(page.locator(f"#checks li.{PASSED}")).to_have_count(12)
    expect(checks.filter(has_text="Signature")).to_contain_text("model.sig")
    expect(page.locator("#ledger-said")).to_contain_text("counted from 0")

    page.get_by_role("button", name="Verify with dataset and base models").press("Enter")

    expect(page.locator(f"#checks li.{PASSED}")).to_have_count(14)
    expect(page.get_by_role("button", name="Verify again")).to_be_focused()
    page.locator("#files summary").first.click()
    assert followed == []  # how it went is read when somebody wants to know
    page.locator("#live summary").first.click()
    expect(page.locator("#board tbody tr")).to_have_count(2)
    assert barriers(page) == {}


def test_checks_that_are_being_made_can_be_read_meanwhile(
    visited: Open, runs: Mapping[str, str], barriers: Barriers
) -> None:
    page = visited("about:blank")
    waiting = held(page, "/verify")
    page.goto(f"/runs/{runs['fast']}")
    expect(page.locator("#checks li.is-awaited")).to_have_count(14)
    assert barriers(page) == {}
    waiting.pop().continue_()
    expect(page.locator("#verify-said")).to_contain_text("12 of 14 checks passed")

    page.get_by_role("button", name="Verify again").click()

    expect(page.locator("#checks")).to_have_attribute("aria-busy", "true")
    assert barriers(page) == {}
    waiting.pop().continue_()
    expect(page.locator("#verify-said")).to_contain_text("12 of 14 checks passed")


def test_a_flipped_byte_is_named_and_the_run_is_not_to_be_used_until_it_is_put_back(
    visited: Open, served: Site, runs: Mapping[str, str], barriers: Barriers
) -> None:
    adapter = directory(served, runs["slow"]) / "adapters" / "alfa-llama" / "adapter_model.safetensors"
    whole = adapter.read_bytes()
    adapter.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        page = visited(f"/runs/{runs['slow']}")
        expect(page.locator(f"#checks li.{FAILED}").first).to_contain_text(
            "adapters/alfa-llama/adapter_model.safetensors"
        )
        alarm = page.get_by_role("alert", name="This is not what was certified")
        expect(alarm).to_contain_text("Don’t use its files")
        assert barriers(page) == {}
    finally:
        adapter.write_bytes(whole)

    page.get_by_role("button", name="Verify again").click()

    expect(page.locator("#verify-said")).to_contain_text("12 of 14 checks passed")
    expect(alarm).to_be_hidden()


def test_each_file_is_downloaded_as_it_is_and_all_of_them_as_one(
    visited: Open, served: Site, runs: Mapping[str, str], tmp_path: Path
) -> None:
    page = visited(f"/runs/{runs['fast']}")
    page.locator("#files summary", has_text="adapters/beta-mistral").click()
    name = "adapters/beta-mistral/adapter_model.safetensors"

    with page.expect_download() as one:
        page.get_by_role("link", name=f"Download {name}").click()
    with page.expect_download() as all_of_them:
        page.get_by_role("link", name=re.compile("^Download all")).click()

    kept = directory(served, runs["fast"])
    assert one.value.path().read_bytes() == (kept / name).read_bytes()
    with tarfile.open(all_of_them.value.path()) as packed:
        assert {each.name for each in packed if each.isfile()} == {
            str(path.relative_to(kept.parent)) for path in kept.rglob("*") if path.is_file()
        }


def test_sample_answers_are_read_epoch_by_epoch(visited: Open, runs: Mapping[str, str]) -> None:
    page = visited(f"/runs/{runs['trained']}")
    samples = told(page, "GET", f"/api/runs/{runs['trained']}")["samples"]
    assert [each["epoch"] for each in samples] == [1, 2]
    answers = page.locator("#answers blockquote")
    expect(page.locator("#answers")).to_contain_text(QUESTION)
    epoch = page.get_by_role("slider", name="After epoch")

    for place, key in ((1, "End"), (0, "Home")):
        epoch.press(key)
        expect(epoch).to_have_attribute("aria-valuetext", f"{place + 1} of 2")
        for number, model in enumerate(("alfa-llama", "beta-mistral")):
            said = samples[place]["samples"][model][0]
            assert answers.nth(number).text_content() == (said if said.strip() else "An empty answer.")


def test_a_run_is_run_again_from_the_form_with_its_settings(visited: Open, runs: Mapping[str, str]) -> None:
    page = visited(f"/runs/{runs['fast']}")

    page.get_by_role("button", name="Run again").click()

    expect(page).to_have_url(re.compile("/train$"))
    expect(page.get_by_role("checkbox", name="Alfa-Llama")).to_be_checked()
    expect(page.get_by_role("checkbox", name="Beta-Mistral")).to_be_checked()
    expect(page.locator("#data-dataset")).to_have_value("chats.jsonl")
    expect(page.locator("#training-learning-rate")).to_have_value(re.compile("2e-4|0.0002"))
    expect(page.locator("#training-num-epochs")).to_have_value("2")


def test_a_run_that_failed_says_what_is_left_of_it(visited: Open, runs: Mapping[str, str], barriers: Barriers) -> None:
    page = visited(f"/runs/{runs['failed']}")

    expect(page.locator("#result-said")).to_contain_text("No adapters were kept")
    expect(page.locator("#result-said")).to_contain_text("resume the run to go on from epoch 1")
    expect(page.locator("#checks li")).to_have_count(0)
    assert barriers(page) == {}
