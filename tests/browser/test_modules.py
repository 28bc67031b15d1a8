"""The page's modules by themselves: what they work out, and what they do when answers come late or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from browser.test_train import choose, drop
from oneseek.names import normalize_model_name
from support.browser import Seen, Site, visit

Open = Callable[..., Page]
Told = Callable[..., Any]


def asked_of(page: Page, code: str, *given: Any) -> Any:
    """What a function says that is handed `module`, which imports one of the page's modules by its name."""
    return page.evaluate(
        """async ([code, given]) => {
          const assets = document.querySelector("script[type=module]").src.replace(/[^/]+$/, "");
          return await (0, eval)(code)((name) => import(`${assets}${name}.js`), ...given);
        }""",
        [code, list(given)],
    )


@pytest.fixture(scope="module")
def pages(browser: Browser, served: Site) -> Iterator[dict[str, Page]]:
    """A page in each language that nothing was done to."""
    with (
        visit(browser, served, signed_in=False, bypass_csp=True) as english,
        visit(browser, served, signed_in=False, bypass_csp=True, locale="sv-SE") as swedish,
    ):
        english.goto("/login")
        swedish.goto("/login")
        yield {"en": english, "sv": swedish}


@pytest.fixture
def told(pages: dict[str, Page]) -> Told:
    return lambda code, *given, language="en": asked_of(pages[language], code, *given)


@pytest.mark.parametrize(
    ("language", "written"),
    [
        ("en", ["1.3", "0.05", "5e-4", "1.25e-5", "0", "–", "87 %", "–"]),
        ("sv", ["1,3", "0,05", "5e-4", "1,25e-5", "0", "–", "87 %", "–"]),
    ],
)
def test_figures_have_the_signs_of_the_language(told: Told, language: str, written: list[str]) -> None:
    found = told(
        """async (module) => {
          const { plain, small, percent } = await module("ui");
          return [plain(1.3), small(0.05), small(0.0005), small(0.0000125004), small(0), plain(null), percent(0.87),
            percent(null)];
        }""",
        language=language,
    )

    assert found == written


def test_a_loss_that_is_not_zero_never_reads_as_zero(told: Told) -> None:
    found = told(
        """async (module) => {
          const { number } = await module("ui");
          return [1.23456, 0.0005, 0.00049, -0.00002, 0, 0.0004].map((value, at) => number(value, at < 5 ? 3 : 4));
        }"""
    )

    assert found == ["1.235", "0.001", "4.9e-4", "-2e-5", "0.000", "0.0004"]


def test_who_reads_a_chart_as_a_table_keeps_the_place_when_it_is_drawn_again(told: Told) -> None:
    kept = told(
        """async (module) => {
          const { chart } = await module("charts");
          const figure = document.body.appendChild(document.createElement("figure"));
          const drawn = (...points) =>
            chart(figure, { title: "Loss", x: { label: "Epoch" }, series: [{ place: 0, name: "Alfa", points }] });
          drawn([1, 3], [2, 2]);
          figure.querySelector(".as-table").click();
          const row = figure.querySelector("tbody tr");
          const again = [[[1, 3], [2, 2]], [[1, 3], [2, 2], [3, 1]]];
          const kept = again.map((points) => (drawn(...points), row.isConnected));
          figure.remove();
          return kept;
        }"""
    )

    assert kept == [True, False]


def test_what_is_no_time_is_a_dash(told: Told) -> None:
    found = told(
        """async (module) => {
          const { clock, day, fully, moment } = await module("ui");
          return [null, "", "yesterday"].flatMap((time) => [clock(time), day(time), moment(time), fully(time)]);
        }"""
    )

    assert set(found) == {"–"}


@pytest.mark.parametrize(
    ("language", "typed", "value"),
    [
        ("en", "2,048", 2048),
        ("en", "1e-4", 0.0001),
        ("en", "\u22121", -1),
        ("en", "0x10", "0x10"),
        ("en", "many", "many"),
        ("en", "  ", None),
        ("en", "12345678901234567890", "12345678901234567890"),
        ("sv", "0,05", 0.05),
        ("sv", "2\u00a0048", 2048),
    ],
)
def test_a_number_is_read_as_people_write_it_and_what_is_none_stays_text(
    told: Told, language: str, typed: str, value: object
) -> None:
    found = told(
        """async (module, typed) => (await module("settings")).numberIn(typed) ?? null""", typed, language=language
    )

    assert found == value


def test_steps_of_an_epoch_that_begins_anew_take_the_place_of_those_that_are_void(told: Told) -> None:
    found = told(
        """async (module) => {
          const { apply, begin } = await module("course");
          const run = { run_id: "run", status: "training", base_models: ["a"], total_epochs: 2, version: "1" };
          const course = begin(run);
          let seq = 0;
          const step = (step, loss) => apply(course, { type: "progress", seq: ++seq, timestamp: "", model: "a",
            epoch: 1, step, steps: 4, loss, tokens_per_second: 1, progress_percent: 1 });
          step(1, 5), step(2, 4), step(3, 3);
          apply(course, { type: "worker_restarted", seq: ++seq, timestamp: "", model: "a", epoch: 1 });
          step(1, 5), step(2, 2);
          return course.models[0].steps;
        }"""
    )

    assert found == [[0.25, 5], [0.5, 2]]


def test_an_axis_has_few_ticks_whatever_the_values_are(told: Told) -> None:
    found = told(
        """async (module) => {
          const { digitsOf, onAxis, scaled } = await module("scale");
          return [[0, 1], [2.31, 2.32], [1e16, 1e16 + 2], [-3, -3], [1e-12, 3e-12]].map((ys) => {
            const points = ys.map((y, x) => [x, y]);
            const scale = scaled({ spec: { x: { from: 0, to: 1000 } }, lines: [{ points, raw: [] }] });
            return [scale.ticks.length, digitsOf(scale.step), onAxis(scale).length];
          });
        }"""
    )

    assert all(ticks <= 8 and digits <= 20 and places <= 12 for ticks, digits, places in found)
    assert [ticks > 2 for ticks, _, _ in found[:2]] == [True, True]


def test_a_run_is_followed_over_one_connection_however_often_the_browser_says_that_it_is_online(told: Told) -> None:
    found = told(
        """async (module) => {
          const { follow } = await module("follow");
          const real = window.WebSocket;
          const sockets = [];
          window.WebSocket = class {
            constructor() { sockets.push(this); }
            close() {}
          };
          const told = { asked: 0 };
          let there;
          follow("run", {
            after: () => 0, told: () => {}, state: () => {}, ended: () => {},
            check: () => new Promise((resolve) => { told.asked += 1; there = () => resolve(true); }),
          });
          sockets[0].onclose({ code: 1006, reason: "" });
          await new Promise((resolve) => setTimeout(resolve, 400));
          dispatchEvent(new Event("online"));
          dispatchEvent(new Event("online"));
          there();
          await new Promise((resolve) => setTimeout(resolve, 50));
          window.WebSocket = real;
          return [told.asked, sockets.length];
        }"""
    )

    assert found == [1, 2]


def test_a_stop_that_was_refused_is_not_told_as_one_that_is_coming(pages: dict[str, Page], told: Told) -> None:
    page = pages["en"]
    told(
        """async (module) => {
          const { h } = await module("ui");
          document.body.append(h("div", { id: "run-actions" }));
          (await module("actions")).draw(
            { id: "run", status: "training", done: 1, total: 3, percent: 40, models: [] }, () => {});
        }"""
    )

    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Stop after epoch 2").click()  # nobody is signed in here

    expect(page.locator(".toast")).to_be_visible()
    expect(page.locator(".toast")).not_to_contain_text("It stops after this epoch")


def test_searching_asks_nothing_anew_of_a_model_that_is_open(visited: Open, seen: Seen) -> None:
    page = visited("/models")
    page.get_by_role("button", name="Alfa-Llama", exact=True).click()
    expect(page.locator(".abilities")).to_contain_text("q_proj")
    seen.rest(page)  # it asks for more than that by itself
    before = len(seen.asked)

    page.locator("#search").press_sequentially("alfa")

    expect(page.locator("#models [data-model]:visible")).to_have_count(1)
    expect(page.locator(".abilities")).to_be_visible()
    seen.rest(page)
    assert seen.asked[before:] == []


def test_an_address_that_somebody_mistyped_leaves_the_datasets_as_they_are(visited: Open) -> None:
    page = visited("/datasets#%")

    expect(page.locator("#empty:visible, #stored:visible")).to_have_count(1)


def test_a_module_that_does_not_come_is_said(visited: Open, seen: Seen) -> None:
    page = visited("about:blank")
    page.route("**/form.js", lambda route: route.abort())
    page.goto("/models")

    page.get_by_role("button", name="Train it: Alfa-Llama").click()

    expect(page.locator(".toast")).to_contain_text("could not be loaded")
    seen.said = [said for said in seen.said if "form.js" not in said]  # Chromium tells of what did not come


def test_what_a_dataset_allows_is_learned_once_the_server_answers_again(
    visited: Open, served: Site, seen: Seen
) -> None:
    page = visited("about:blank")
    page.route("**/api/datasets/preferences.jsonl", lambda route: route.fulfill(status=503, json={}))
    page.goto("/train")
    choose(page, "Alfa-Llama")
    drop(page, served, "preferences.jsonl")
    expect(page.locator("#data-shown .failure")).to_be_visible()
    page.unroute_all()

    page.locator("#training-num-epochs").fill("2")

    expect(page.get_by_role("radio", name="DPO")).to_be_checked()
    seen.said = [said for said in seen.said if "503" not in said]


def test_a_name_has_the_key_that_the_server_makes_of_it(visited: Open) -> None:
    page = visited("/train", bypass_csp=True)
    names = [
        "KB-Llama-3.1-8B-Swedish",
        "gemma_2_9b",
        "org/Model/",
        "org\\Model\\\\",
        " a\tb ",
        "Ångström-7B",
        "_x_",
        "模型-1b",
    ]

    keys = asked_of(page, "async (module, names) => names.map((await module('train')).keyOf)", names)

    assert keys == list(map(normalize_model_name, names))


def test_the_chosen_dataset_is_asked_for_once(visited: Open, served: Site, seen: Seen) -> None:
    page = visited("/train")
    choose(page, "Alfa-Llama")

    drop(page, served, "small.jsonl")

    expect(page.locator("#data-shown .example").first).to_be_visible()
    expect(page.locator("#strategy-note")).to_contain_text("Fits the dataset")
    seen.rest(page)
    assert seen.asked.count("GET /api/datasets/small.jsonl") == 1
