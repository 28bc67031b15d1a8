"""The base models: what each can do, and how more of them come."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from browser.conftest import GATED, Barriers, Open
from support.base_models import write_model
from support.browser import Seen, Site, site
from support.homes import pickle_weights
from support.hub import StandIn

LARGE = "north/delta-7b-instruct"


@pytest.fixture(scope="module")
def served(furnished: Path, hub: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server over a home with one more model, whose weights are pickled; the hub has one of some megabytes."""
    made = tmp_path_factory.mktemp("models")
    home = made / "home"
    shutil.copytree(furnished, home)
    pickle_weights(write_model(home / "models" / "gamma-llama", vocab=300, context=256, display_name="Gamma-Llama"))
    hub.add(LARGE, write_model(made / "large", layers=8, hidden=128, vocab=300, context=256))
    with site(home, {"HF_ENDPOINT": hub.address, "HF_HOME": str(home / "huggingface")}) as opened:
        yield opened


def look_up(page: Page, name: str) -> None:
    page.get_by_label("Id on the Hugging Face Hub").fill(name)
    page.get_by_role("button", name="Look up").click()


def test_what_a_model_can_do_is_told_from_its_own_files(visited: Open, barriers: Barriers) -> None:
    page = visited("/models")
    page.get_by_role("button", name="Alfa-Llama", exact=True).click()
    page.get_by_role("button", name="GPT-2", exact=True).click()

    alfa, gpt2 = page.locator('[data-model="alfa-llama"]'), page.locator('[data-model="gpt2"]')
    expect(alfa).to_contain_text("Several turns")
    expect(alfa.get_by_role("region", name="Linear modules of Alfa-Llama").get_by_role("row")).to_have_count(8)
    expect(gpt2).to_contain_text("It has none: it can be trained on plain text (Standard), not on chats.")
    expect(gpt2.get_by_role("rowheader", name="c_attn")).to_be_visible()
    assert barriers(page) == {}

    shown = page.locator("[data-model]:visible")
    page.get_by_label("Search base models").fill("llama")
    expect(shown.get_by_role("button", expanded=True)).to_have_text("Alfa-Llama")
    page.get_by_label("Search base models").fill("old")
    page.get_by_role("radio", name=re.compile("^Not ready")).check()
    expect(shown).to_have_count(1)
    expect(shown).to_contain_text("Pickle only")


def test_pickled_weights_are_converted_in_sight_and_the_model_can_be_trained_then(visited: Open) -> None:
    page = visited("/models")
    model = page.locator('[data-model="gamma-llama"]')
    expect(model).to_contain_text("Pickle only")

    page.get_by_role("button", name="Convert Gamma-Llama to safetensors").click()

    expect(page.locator("#tasks")).to_contain_text("Converting gamma-llama")
    expect(page.locator("#tasks")).to_contain_text("gamma-llama has safetensors now.")
    expect(model).not_to_contain_text("Pickle only")
    page.get_by_role("button", name="Train it: Gamma-Llama").click()
    expect(page).to_have_url(re.compile("/train$"))
    expect(page.get_by_role("checkbox", name="Gamma-Llama")).to_be_checked()


def test_a_model_is_downloaded_with_its_progress_cancelled_and_gone_on_with(
    visited: Open, hub: StandIn, barriers: Barriers
) -> None:
    page = visited("/models")
    look_up(page, LARGE)
    expect(page.locator("#found")).to_contain_text(re.compile(r"\d\.\d MB to download"))
    assert barriers(page) == {}

    hub.faults.pause = 0.2
    page.locator("#found").get_by_role("button", name="Download").click()
    task = page.locator("[data-task]")
    expect(task).to_contain_text(re.compile(r"\d+(\.\d)? (kB|MB) of \d\.\d MB"))
    expect(task.get_by_role("progressbar", name=f"Downloading {LARGE}")).to_have_attribute(
        "value", re.compile(r"\d{5}")
    )
    hub.faults.pause = 2  # whoever looks at it in every look must not be slower than it
    assert barriers(page) == {}
    page.reload()  # it goes on without the page, which finds it again
    task.get_by_role("button", name="Cancel").click()
    expect(task).to_contain_text("was cancelled. What came stays")
    hub.faults.pause = 0

    page.get_by_role("button", name=re.compile("^Resume download")).click()

    expect(task.first).to_contain_text("is downloaded and checked.")
    expect(page.get_by_role("button", name=re.compile("^Train it: .*delta", re.IGNORECASE))).to_be_visible()
    assert any(not asked.endswith("=0-") for asked in hub.bytes_asked if asked)


def test_a_model_that_only_some_may_have_says_how_to_become_one_of_them(visited: Open, seen: Seen) -> None:
    page = visited("/models")

    look_up(page, GATED)

    expect(page.locator("#found .steps li")).to_have_count(3)
    expect(page.locator("#found")).to_contain_text("hf auth login")
    seen.expect("status of 4")
