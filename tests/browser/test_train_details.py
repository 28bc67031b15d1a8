"""What a sceptical visitor looks at twice: that the page says the same of a thing everywhere, and nothing untrue."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from browser.conftest import GATED, ON_THE_HUB, Barriers, Open
from support.browser import Seen, Site, site
from support.hub import StandIn
from support.tiny_models import write_rows

CHECKED = "No errors"


@pytest.fixture(scope="module")
def served(furnished: Path, hub: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A furnished home in which two base models have one name, and with prompts and their answers."""
    home = tmp_path_factory.mktemp("details") / "home"
    shutil.copytree(furnished, home)
    shutil.copytree(home / "models" / "alfa-llama", home / "models" / "alfa-again")
    write_rows(home / "files" / "pairs.jsonl", [{"prompt": f"Number {n}?", "completion": "Yes."} for n in range(60)])
    turns = [[{"role": "user", "content": f"Number {n}?"}, {"role": "assistant", "content": "Yes."}] for n in range(60)]
    write_rows(home / "files" / "turns.jsonl", [{"messages": each} for each in turns])
    with site(home, {"HF_ENDPOINT": hub.address, "HF_HOME": str(home / "huggingface")}) as opened:
        yield opened


def drop(page: Page, served: Site, name: str) -> None:
    page.locator("#data input[type=file]").set_input_files(served.home / "files" / name)
    expect(page.locator("#data-dataset")).to_have_value(name)
    expect(page.locator("#data-shown h3").first).to_have_text(name)


def card(page: Page, key: str) -> Locator:
    return page.locator(f'[data-model="{key}"]')


def colours(element: Locator) -> list[str]:
    found: list[str] = element.evaluate("(one) => [getComputedStyle(one).color, getComputedStyle(one).backgroundColor]")
    return found


def size(element: Locator) -> tuple[float, float]:
    """Width and height in pixels."""
    box = element.bounding_box()
    assert box is not None
    return box["width"], box["height"]


def still(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")


def test_a_button_that_cannot_be_pressed_looks_so_under_the_mouse_too(visited: Open) -> None:
    page = visited("/train")
    still(page)
    page.locator("[data-review]").locator("visible=true").first.click()
    start = page.locator("#start")
    expect(start).to_have_attribute("aria-disabled", "true")
    before = colours(start)

    start.hover()

    assert colours(start) == before


def test_the_dialog_of_a_new_token_gives_each_part_its_place(visited: Open) -> None:
    page = visited("/access")

    page.get_by_role("button", name="New token").click()

    select, hint = page.locator("#token-days"), page.locator("#token-days-said")
    width, height = size(select)
    assert height < 48
    assert size(hint)[0] == width
    select.select_option("other")
    expect(page.locator("#token-other")).to_be_visible()
    assert size(select)[1] < 48


def test_what_is_missing_to_say_how_long_a_run_takes_is_said(visited: Open, served: Site) -> None:
    page = visited("/train")
    time = page.locator("#time > div").first
    expect(time).to_have_text("Shown once base models and a dataset are chosen.")

    card(page, "gpt2").get_by_role("checkbox").check()
    drop(page, served, "chats.jsonl")
    expect(time).to_have_text("Shown once the errors are solved.")
    card(page, "gpt2").get_by_role("checkbox").uncheck()
    page.locator("#hub").fill(ON_THE_HUB)
    page.locator("#hub-look").click()
    page.locator("#hub-found").get_by_role("button", name="Select").click()

    expect(time).to_have_text(re.compile(r"Known once .+ is here\."))


def test_a_page_that_misses_a_part_says_so_until_it_is_loaded_again(
    visited: Open, seen: Seen, axe: Callable[[Page], list[str]]
) -> None:
    page = visited("about:blank")
    page.route("**/form.js", lambda route: route.abort())
    page.goto("/models")
    page.clock.install()
    page.get_by_role("button", name="Train it: Beta-Mistral").click()
    again = page.get_by_role("button", name="Load again")
    expect(again).to_be_visible()
    assert axe(page) == []

    page.clock.fast_forward(60_000)
    page.locator("[data-copy]").first.click()

    expect(page.locator(".toast:not(.stays)")).to_be_visible()
    expect(again).to_be_visible()
    seen.said = [said for said in seen.said if "form.js" not in said]  # Chromium tells of what did not come
    page.unroute("**/form.js")
    again.click()
    expect(again).to_be_hidden()
    page.get_by_role("button", name="Train it: Beta-Mistral").click()
    expect(page).to_have_url(re.compile("/train"))


def test_what_is_an_error_in_the_rail_is_one_on_the_card(visited: Open, served: Site) -> None:
    page = visited("/train")
    card(page, "gpt2").get_by_role("checkbox").check()
    drop(page, served, "chats.jsonl")
    note = card(page, "gpt2").locator(".why", has_text="chat template")
    error = page.locator("#step-strategy .i")
    expect(error).to_have_class(re.compile("bad"))

    assert colours(note.locator(".i"))[0] == colours(error)[0]

    page.locator("#target-name").fill("no_such_module")
    page.locator("#target-add").click()
    expect(page.locator("#step-lora .i")).to_have_class(re.compile("bad"))
    expect(card(page, "gpt2").locator(".why", has_text="See its coverage").locator(".i")).to_have_class(
        re.compile("bad")
    )


def test_a_pickled_model_is_as_bad_on_one_page_as_on_another(visited: Open) -> None:
    tones = []
    for path in ("/train", "/models"):
        badge = visited(path).locator(".badge", has_text="Pickle only").first
        expect(badge).to_be_visible()
        tones.append(badge.get_attribute("class"))

    assert tones[0] == tones[1]


def test_nothing_is_wrong_before_anything_was_chosen_or_asked(visited: Open) -> None:
    page = visited("/train")
    rail = page.locator(".rail")
    expect(rail).to_contain_text("2 things to choose")
    page.locator("#data-dataset").hover()
    expect(page.locator("#data-said")).to_contain_text("No dataset is given")
    assert page.locator(".rail .bad, #models .bad, #data .bad").count() == 0

    page.locator("[data-review]").locator("visible=true").first.click()

    expect(rail).to_contain_text("2 errors")
    expect(page.locator("#data-said .bad")).to_have_count(1)
    page.locator("#review-back").click()
    expect(page.locator("#models-count .bad")).to_have_text("Select at least one")


@pytest.mark.parametrize(("name", "useful"), [("chats.jsonl", "Prompts and answers"), ("pairs.jsonl", "Chats")])
def test_a_conversion_begins_with_the_format_that_people_want_most(
    visited: Open, served: Site, name: str, useful: str
) -> None:
    page = visited("/train")
    drop(page, served, name)

    page.get_by_role("button", name="Convert…").click()

    expect(page.locator("dialog.convert").get_by_role("radio", name=useful, exact=True)).to_be_checked()


def test_convert_it_begins_with_the_format_that_solves_the_problem(visited: Open, served: Site) -> None:
    page = visited("/train")
    drop(page, served, "turns.jsonl")
    wanted = page.locator("dialog.convert").get_by_role("radio", name="Prompts and answers")

    card(page, "gpt2").get_by_role("button", name="Convert it").click()
    expect(wanted).to_be_checked()
    page.get_by_role("button", name="Cancel").click()
    page.locator("#strategy-why").get_by_role("button", name="Convert it").click()
    expect(wanted).to_be_checked()
    page.locator("dialog.convert").get_by_role("button", name="Convert", exact=True).click()

    expect(page.locator("#data-dataset")).to_have_value("turns-prompt-completion.jsonl")
    expect(page.get_by_role("radio", name="Standard")).to_be_checked()
    expect(card(page, "gpt2").get_by_role("checkbox")).not_to_have_attribute("aria-disabled", "true")


def test_what_was_refused_goes_when_another_file_is_sent(visited: Open, served: Site, seen: Seen) -> None:
    page = visited("/train")
    upload = page.locator("#data input[type=file]")
    for name in ("one.jsonl", "two.jsonl"):
        upload.set_input_files({"name": name, "mimeType": "text/plain", "buffer": b"no rows"})
        expect(page.locator("#data .upload.refused")).to_contain_text(re.compile("Send|Close"))
        expect(page.locator("#data .upload.refused")).to_have_count(1)

    drop(page, served, "chats.jsonl")

    expect(page.locator("#data .upload")).to_have_count(0)
    seen.expect("status of 4")


def test_what_a_rehearsal_has_measured_takes_the_place_of_the_estimate(visited: Open, served: Site) -> None:
    page = visited("/train")
    card(page, "beta-mistral").get_by_role("checkbox").check()
    drop(page, served, "chats.jsonl")
    expect(page.locator(".rail")).to_contain_text(CHECKED)
    headline = page.locator("#time .big-num")
    estimated = headline.inner_text()

    page.locator("#rehearse").click()

    expect(page.locator("#time")).to_contain_text(f"As measured. The estimate was {estimated}.")
    page.locator("#training-batch-size").fill("4")
    expect(page.locator("#time")).to_contain_text("Measured with other settings than these.")
    expect(page.locator("#time")).not_to_contain_text("As measured. The estimate")


def test_a_form_that_is_being_checked_takes_no_colour_from_what_it_does_not_change(visited: Open, served: Site) -> None:
    page = visited("/train")
    still(page)
    card(page, "beta-mistral").get_by_role("checkbox").check()
    drop(page, served, "chats.jsonl")
    expect(page.locator(".rail")).to_contain_text(CHECKED)
    badge = card(page, "beta-mistral").locator(".badge.good")
    good = colours(badge)
    held: list[Route] = []
    page.route("**/api/validate*", lambda route: held.append(route))

    page.locator("#training-num-epochs").fill("4")
    at_once = colours(page.locator("#verdict .badge.good"))
    expect(page.locator("#verdict")).to_contain_text("Checking")

    assert at_once == good
    assert colours(badge) == good
    for route in held:
        route.continue_()
    page.unroute("**/api/validate*")
    expect(page.locator(".rail")).to_contain_text(CHECKED)


def test_two_models_of_one_name_are_told_apart_on_cards_and_in_the_rail(visited: Open) -> None:
    page = visited("/train")

    names = {
        "alfa-llama": "Alfa-Llama (alfa-llama)",
        "alfa-again": "Alfa-Llama (alfa-again)",
        "beta-mistral": "Beta-Mistral",
    }
    for key, name in names.items():
        expect(card(page, key).locator(".name")).to_have_text(name)
        card(page, key).get_by_role("checkbox").check()

    expect(page.locator("#memory .mem li:not(.total) > span:first-of-type")).to_have_text([*names.values()])


@pytest.mark.parametrize("path", ["/login", "/datasets", "/playground", "/ledger", "/runs"])
def test_a_short_page_does_not_scroll(visited: Open, seen: Seen, path: str) -> None:
    page = visited(path, signed_in=path != "/login")
    seen.rest(page)

    assert page.evaluate("document.documentElement.scrollHeight - innerHeight") == 0
    if path != "/login":
        expect(page.locator(".foot")).to_be_visible()
        foot = page.locator(".foot").bounding_box()
        assert foot is not None
        assert round(foot["y"] + foot["height"]) == page.evaluate("innerHeight")


def test_the_place_of_base_models_is_named_from_the_servers_home(visited: Open) -> None:
    page = visited("/models")

    expect(page.locator("#get .cmd code")).to_have_text("models/oneseek-7b-zero/base_models/")
    expect(page.locator("#get")).to_contain_text("the server’s home")


def test_a_search_without_a_hit_says_so_and_is_cleared(visited: Open) -> None:
    page = visited("/train")
    page.locator("#models-search").fill("zzz")
    found = page.locator("#models-found")
    expect(found).to_contain_text("No model matches “zzz”.")

    found.get_by_role("button", name="Clear").click()

    expect(card(page, "gpt2")).to_be_visible()
    expect(page.locator("#models-search")).to_be_focused()


def test_prose_is_written_in_the_face_of_prose_and_cards_are_as_tall_as_what_they_say(visited: Open) -> None:
    page = visited("/train")
    expect(card(page, "gpt2")).to_be_visible()

    faces = page.evaluate(
        """["#training-sample-prompts", "body"].map((each) => document.querySelector(each))
          .map((each) => getComputedStyle(each).fontFamily)"""
    )
    gap = page.locator("#models-add").evaluate(
        "(add) => add.getBoundingClientRect().bottom - add.querySelector('.addmodel').getBoundingClientRect().bottom"
    )

    assert faces[0] == faces[1]
    assert gap < 40


def test_a_gated_model_is_a_card_with_three_steps(visited: Open, seen: Seen, barriers: Barriers) -> None:
    for path, field in (("/train", "#hub"), ("/models", "#wanted")):
        page = visited(path)
        page.locator(field).fill(GATED)
        page.locator(field).press("Enter")

        block = page.locator(".gated")
        expect(block.locator(".badge")).to_have_text("Gated")
        expect(block.get_by_role("listitem")).to_have_count(3)
        expect(block).to_contain_text("HF_TOKEN")
        expect(block).not_to_contain_text("status")
        expect(block.get_by_role("link")).to_have_attribute("href", re.compile(f"/{GATED}$"))
        assert barriers(page) == {}
        block.get_by_role("button", name="Look it up again").click()
        expect(block.locator(".badge")).to_have_text("Gated")
    seen.expect("status of 4")


def test_times_are_said_as_people_say_them(visited: Open) -> None:
    page = visited("/models")
    seconds = [0, 0.4, 0.6, 45, 59.4, 59.6, 66, 120, 599, 600, 6480]

    said: list[Any] = page.evaluate(
        """(seconds) => import(document.querySelector("script[type=module]").src.replace(/[^/]+$/, "ui.js"))
          .then((ui) => [...seconds.map(ui.duration), ui.about(0), ui.about(66)])""",
        seconds,
    )

    assert said == [
        *("under 1 s", "under 1 s", "1 s", "45 s", "59 s", "1 min", "1 min 6 s", "2 min", "9 min 59 s", "10 min"),
        *("1 h 48 min", "under 1 s", "about 1 min 6 s"),
    ]


def test_formats_have_words_for_people_in_both_languages(visited: Open, served: Site) -> None:
    words = {"en-GB": ("Chats", "Prompts and answers"), "sv-SE": ("Chattar", "Promptar och svar")}
    for locale, (chats, pairs) in words.items():
        page = visited("/train", locale=locale)
        drop(page, served, "chats.jsonl")
        expect(page.locator("#data-dataset option:checked")).to_contain_text(chats)
        head = page.locator("#data-shown header")
        expect(head.locator(".badge")).to_have_text(chats)
        expect(head).to_contain_text("messages")
        head.get_by_role("button").first.click()
        expect(page.locator("dialog.convert .chip", has_text=pairs)).to_be_visible()
        page.goto("/datasets")
        expect(page.locator("#stored .c-format", has_text=chats).first).to_contain_text("messages")
