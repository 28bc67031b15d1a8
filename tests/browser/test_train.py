"""A new run, asked for in a browser: what can't work is said before anything starts, with what to do about it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from browser.conftest import GATED, ON_THE_HUB, Barriers, Open
from support.browser import Seen, Site
from support.hub import StandIn

CHECKED = "No errors"


def choose(page: Page, *names: str) -> None:
    for name in names:
        page.get_by_role("checkbox", name=name).check()


def drop(page: Page, served: Site, name: str) -> None:
    """Give a file, as who drops it does, and wait until it is chosen."""
    page.locator("#data input[type=file]").first.set_input_files(served.home / "files" / name)
    expect(page.locator("#data-dataset")).to_have_value(name)


def finding(page: Page, rule: str) -> Locator:
    """What is said of a rule in the review dialog."""
    return page.locator("#review .finding", has_text=rule)


def described(page: Page, element: Locator) -> Locator:
    """What an element is described by last: why it can't be chosen."""
    return page.locator(f"#{(element.get_attribute('aria-describedby') or '').split()[-1]}")


def review(page: Page) -> Locator:
    page.locator("[data-review]").locator("visible=true").first.click()
    dialog = page.locator("#review")
    expect(dialog).to_be_visible()
    return dialog


def may_start(page: Page, *, allowed: bool) -> None:
    expect(page.locator("#start")).to_have_attribute("aria-disabled", "false" if allowed else "true")


def test_nothing_asked_for_is_two_things_to_choose_and_two_errors_for_who_wants_to_start(visited: Open) -> None:
    page = visited("/train")
    expect(page.locator(".rail")).to_contain_text("2 things to choose")

    dialog = review(page)

    expect(dialog).to_contain_text("No base models selected.")
    expect(dialog).to_contain_text("No dataset is given.")
    expect(page.locator(".rail")).to_contain_text("2 errors")
    may_start(page, allowed=False)


def test_gpt2_with_chats_is_refused_with_what_would_work(visited: Open, served: Site) -> None:
    page = visited("/train")
    choose(page, "GPT-2")

    drop(page, served, "chats.jsonl")

    dialog = review(page)
    expect(dialog).to_contain_text("GPT-2 has no chat template")
    may_start(page, allowed=False)


def test_gpt2_cannot_be_chosen_for_chats_and_its_card_says_why(visited: Open, served: Site) -> None:
    page = visited("/train")

    drop(page, served, "chats.jsonl")

    card = page.get_by_role("checkbox", name="GPT-2")
    expect(card).to_have_attribute("aria-disabled", "true")
    expect(described(page, card)).to_contain_text("chat template")


def test_messages_and_the_standard_strategy_do_not_go_together_and_that_is_said(visited: Open, served: Site) -> None:
    page = visited("/train")
    choose(page, "Alfa-Llama")
    drop(page, served, "chats.jsonl")

    standard = page.get_by_role("radio", name="Standard")

    expect(standard).to_have_attribute("aria-disabled", "true")
    expect(page.locator("#strategy-why")).to_contain_text("this dataset has messages")


def test_preferences_need_dpo_and_the_page_changes_to_it_by_itself_and_tells(visited: Open, served: Site) -> None:
    page = visited("/train")
    choose(page, "Alfa-Llama")

    drop(page, served, "preferences.jsonl")

    expect(page.get_by_role("radio", name="DPO")).to_be_checked()
    expect(page.locator(".rail")).to_contain_text(CHECKED)


def test_negative_epochs_are_said_at_the_field_while_typing_in_the_servers_words(visited: Open, served: Site) -> None:
    page = visited("/train")
    choose(page, "Alfa-Llama")
    drop(page, served, "chats.jsonl")
    expect(page.locator(".rail")).to_contain_text(CHECKED)
    epochs = page.get_by_label("Epochs", exact=True).first

    epochs.fill("-1")

    expect(epochs).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#training-num-epochs-said")).to_contain_text("training.num_epochs is -1")
    expect(page.locator(".rail")).to_contain_text("1 error")
    dialog = review(page)
    expect(dialog).to_contain_text("Set training.num_epochs to a whole number greater than 0")
    may_start(page, allowed=False)


def test_a_small_dataset_is_a_warning_that_has_to_be_read_first(visited: Open, served: Site) -> None:
    page = visited("/train")
    choose(page, "Alfa-Llama")
    drop(page, served, "small.jsonl")
    expect(page.locator(".rail")).to_contain_text(re.compile("1 warning"))

    dialog = review(page)
    expect(dialog).to_contain_text("5 usable row")
    may_start(page, allowed=False)
    dialog.get_by_role("checkbox").check()

    may_start(page, allowed=True)


def test_a_model_that_is_not_here_is_looked_up_chosen_and_downloaded_in_sight(
    visited: Open, served: Site, hub: StandIn
) -> None:
    page = visited("/train")
    drop(page, served, "chats.jsonl")

    page.get_by_placeholder("organisation/model").first.fill(ON_THE_HUB)
    page.get_by_role("button", name="Look up").first.click()
    found = page.locator("#hub-found")
    expect(found).to_contain_text(re.compile(r"\d+(\.\d)? (kB|MB)"))
    found.get_by_role("button", name=re.compile("Select")).click()

    dialog = review(page)
    expect(dialog).to_contain_text(re.compile("not (here|cached|downloaded)|download", re.IGNORECASE))


def test_a_gated_model_says_what_to_do(visited: Open, seen: Seen) -> None:
    page = visited("/train")

    page.get_by_placeholder("organisation/model").first.fill(GATED)
    page.get_by_role("button", name="Look up").first.click()

    expect(page.locator("#hub-found")).to_contain_text("HF_TOKEN")
    seen.expect("status of 4")


def test_lora_targets_are_locked_until_a_model_is_chosen_then_filled_in_from_it(visited: Open, served: Site) -> None:
    page = visited("/train")
    expect(page.locator("#targets-why")).to_contain_text("Locked")
    expect(page.locator("#target-name")).to_have_attribute("aria-disabled", "true")

    choose(page, "GPT-2")
    expect(page.locator("#targets")).to_contain_text("c_attn")
    choose(page, "Alfa-Llama")
    expect(page.locator("#coverage")).to_contain_text("Alfa-Llama")
    page.locator("#target-name").fill("no_such_module")
    page.locator("#target-add").click()

    expect(page.locator("#targets-said")).to_contain_text("no_such_module")
    page.get_by_role("button", name="Fill in from the models (Target modules)", exact=True).first.click()
    expect(page.locator("#targets-said")).not_to_contain_text("no_such_module")


def test_rows_that_cannot_be_used_are_named_by_line_and_set_aside_with_one_switch(visited: Open, served: Site) -> None:
    page = visited("/train")
    choose(page, "Alfa-Llama")
    drop(page, served, "faulty.jsonl")
    problems = page.locator("#data .problems")
    expect(problems).to_contain_text("line 8")
    expect(problems).to_contain_text("line 12")
    expect(page.locator(".rail")).to_contain_text("1 error")

    problems.get_by_role("switch").check()

    expect(page.locator(".rail")).to_contain_text(CHECKED)


def test_a_pickled_model_can_be_reached_by_the_keyboard_and_says_why_it_cannot_be_chosen(visited: Open) -> None:
    page = visited("/train")
    pickled = page.get_by_role("checkbox", name=re.compile("old-pickle"))

    pickled.focus()
    page.keyboard.press("Space")

    expect(pickled).to_be_focused()
    expect(pickled).not_to_be_checked()
    expect(described(page, pickled)).to_contain_text("pickle")


def test_the_draft_survives_a_reload(visited: Open, served: Site) -> None:
    page = visited("/train")
    choose(page, "Beta-Mistral")
    drop(page, served, "chats.jsonl")
    page.get_by_label("Epochs", exact=True).first.fill("7")

    page.reload()

    expect(page.get_by_role("checkbox", name="Beta-Mistral")).to_be_checked()
    expect(page.locator("#data-dataset")).to_have_value("chats.jsonl")
    expect(page.get_by_label("Epochs", exact=True).first).to_have_value("7")


def test_a_fix_is_a_button_that_mends_it(visited: Open, served: Site) -> None:
    page = visited("/train")
    choose(page, "Alfa-Llama")
    drop(page, served, "chats.jsonl")
    page.locator("#training-learning-rate").fill("0.02")
    said = page.locator("#training-learning-rate-said")
    expect(said).to_contain_text("outside the recommended")

    said.get_by_role("button").click()

    expect(page.locator(".rail")).to_contain_text(CHECKED)


def test_scripts_in_names_stay_text(visited: Open, served: Site, tmp_path: Path) -> None:
    script = "<img src=x onerror=alert(1)>"
    row = {"messages": [{"role": "user", "content": script}, {"role": "assistant", "content": script}]}
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row | {"n": n}) + "\n" for n in range(12)))
    page = visited("/train")
    choose(page, "Alfa-Llama")

    page.locator("#data input[type=file]").first.set_input_files(
        {"name": f"{script}.jsonl", "mimeType": "text/plain", "buffer": (tmp_path / "x.jsonl").read_bytes()}
    )

    expect(page.locator("#data")).to_contain_text(script)
    assert page.locator("img").count() == 0


def test_axe_finds_nothing_on_a_form_that_is_filled_in_nor_in_the_dialog(
    visited: Open, served: Site, seen: Seen, barriers: Barriers
) -> None:
    page = visited("/train")
    choose(page, "GPT-2", "Alfa-Llama", "Beta-Mistral")
    drop(page, served, "faulty.jsonl")
    page.locator("#training-learning-rate").fill("0.02")
    expect(page.locator("#data .problems")).to_be_visible()
    seen.rest(page)

    assert barriers(page) == {}
    review(page)
    assert barriers(page) == {}
