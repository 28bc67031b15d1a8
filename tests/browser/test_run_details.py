"""What a run says in detail: what to do when it failed, figures that agree with each other, ties, and charts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from browser.conftest import MODELS, Barriers, Open
from support.browser import Seen, Site, site, told

LIMITS = ["0.5", "1.0", "1.5"]


@pytest.fixture(scope="module")
def served(with_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server over runs that are over; those that begin are trained by script, an epoch in half a second."""
    home = tmp_path_factory.mktemp("scripted") / "home"
    shutil.copytree(with_runs, home)
    for model in MODELS:
        (home / "models" / model / "script.json").write_text(json.dumps({"step_seconds": 0.05}))
    with site(home, engine="scripted") as opened:
        yield opened


def reported(page: Page, run_id: str, epochs: int, *values: Mapping[str, float], rates: Mapping[str, float]) -> None:
    """Let another program report epochs, each by what its models are worth, and open the run's page."""
    for epoch, now in enumerate(values, start=1):
        report = {"epoch": epoch, "totalEpochs": epochs, "valLosses": now, "bitsPerByte": now}
        slower = {key: rate / epoch for key, rate in rates.items()}
        told(page, "POST", f"/api/training/{run_id}/metrics", {**report, "lrMultipliers": slower})
    page.goto(f"/runs/{run_id}")


def opened(visited: Open, run_id: str) -> Page:
    """The page of a run that is over, with how it went."""
    page = visited(f"/runs/{run_id}")
    page.get_by_text("How it went").click()
    expect(page.locator("#board tbody tr")).to_have_count(2)
    return page


def rows_of(page: Page, chart: str) -> list[list[str]]:
    """What a chart tells as a table, without its head."""
    page.locator(chart).get_by_role("button", name="As a table").click()
    rows = page.locator(chart).get_by_role("row").all()[1:]
    return [row.locator("th, td").all_text_contents() for row in rows]


def test_what_diverged_is_to_be_run_again_and_not_to_be_resumed(
    visited: Open, runs: Mapping[str, str], barriers: Barriers
) -> None:
    page = visited(f"/runs/{runs['failed']}")

    expect(page.get_by_role("button", name="Run again")).to_have_class(re.compile("primary"))
    expect(page.get_by_role("button", name="Resume")).to_have_class(re.compile("quiet"))
    expect(page.locator("#cause")).to_contain_text("would fail again")
    expect(page.locator(".autostop")).to_be_hidden()
    expect(page.locator("#board")).to_contain_text("quarantined")
    heads = page.locator("#board th")
    assert [head.is_visible() for head in heads.all()] == [True, True, *[False] * (heads.count() - 3), True]
    expect(page.locator("#chart-validation .dead")).to_have_text("NaN, step 1")
    assert barriers(page) == {}


@pytest.mark.parametrize(
    ("locale", "said"),
    [
        ("en-GB", "unless bits per byte moves by 0.001"),
        ("sv-SE", "om bitar per byte inte ändras med 0,001"),
    ],
)
def test_auto_stop_names_what_it_watches(visited: Open, begun: Any, locale: str, said: str) -> None:
    page = begun(visited("/runs", locale=locale), confidence_auto_stop={"enabled": True})

    expect(page.locator("#stops")).to_contain_text(said)


def test_a_run_that_waits_was_asked_for_and_has_not_started(begun: Any) -> None:
    expect(begun().locator("#when")).to_contain_text("started")

    page = begun()

    expect(page.locator("#queue")).to_contain_text("Next on CPU")
    expect(page.locator("#when")).to_contain_text("asked for")
    page.get_by_role("button", name="Take out of the queue").click()
    expect(page.locator("#badge")).to_have_text("Stopped")
    expect(page.locator("#when")).to_contain_text("asked for")


def test_models_that_are_worth_the_same_are_level_and_what_stood_still_did_not_move(visited: Open) -> None:
    page = visited("/runs")
    alike = {"alfa": 0.45, "beta": 0.45}

    reported(page, "run-20261120-101010", 5, alike, alike, rates={"alfa": 2e-4, "beta": 2e-4})

    rows = page.locator("#board tbody tr")
    expect(rows).to_contain_text(["level with beta", "level with alfa"])
    for row in rows.all():
        expect(row.locator(".moved")).to_have_text(re.compile("unchanged 0.000"))
        expect(row.locator(".moved")).not_to_have_class(re.compile("good|warn"))


def test_an_axis_has_one_notation_and_room_for_its_labels(visited: Open) -> None:
    page = visited("/runs")
    now = {"alfa": 0.5, "beta": 0.6}

    reported(page, "run-20261120-111111", 5, now, now, now, rates={"alfa": 1.5e-3, "beta": 1.25e-3})

    labels = page.locator("#chart-rates .ylab text")
    expect(labels.first).to_be_visible()
    assert {re.sub(r"^\d\.\d+", "", label) for label in labels.all_text_contents()} == {"e-3"}
    lefts = labels.evaluate_all("(labels) => labels.map((label) => label.getBoundingClientRect().left)")
    assert min(lefts) >= page.locator("#chart-rates").evaluate("(chart) => chart.getBoundingClientRect().left")
    expect(page.locator("#board .c-lr")).to_have_text(["5.00e-4", "4.17e-4"])


def test_the_rates_and_weights_of_each_epoch_are_those_it_was_trained_with_and_left(
    visited: Open, served: Site, runs: Mapping[str, str]
) -> None:
    (results,) = served.home.glob(f"models/**/{runs['slow']}/training_results.json")
    history = json.loads(results.read_text())["training_history"]
    page = opened(visited, runs["slow"])

    expect(page.locator("#chart-weights .ylab text")).to_have_text(LIMITS)
    rates = rows_of(page, "#chart-rates")
    weights = rows_of(page, "#chart-weights")

    used = [[commit["models"][model]["learning_rate"] for model in MODELS] for commit in history]
    assert [[float(rate) for rate in row[1:]] for row in rates] == [pytest.approx(row, rel=5e-3) for row in used]
    assert [row[0] for row in rates] == ["1", "2", "3", "4"]
    assert [row[0] for row in weights] == ["start", "1", "2", "3", "4"]
    expect(page.locator("#chart-weights thead th").first).to_have_text("After epoch")


def test_a_table_takes_the_place_of_its_drawing(visited: Open, runs: Mapping[str, str], barriers: Barriers) -> None:
    page = opened(visited, runs["slow"])
    height = "document.querySelector('.charts').scrollHeight"
    before = page.evaluate(height)

    rows_of(page, "#chart-rates")

    assert page.evaluate(height) == before
    expect(page.locator("#chart-rates .plot")).to_be_hidden()
    assert barriers(page) == {}
    page.locator("#chart-rates").get_by_role("button", name="As a table").click()
    expect(page.locator("#chart-rates .plot")).to_be_visible()


def test_what_models_are_ranked_by_is_drawn_once(visited: Open, runs: Mapping[str, str]) -> None:
    page = opened(visited, runs["slow"])

    expect(page.get_by_role("heading", name="Validation bits per byte")).to_have_count(1)
    expect(page.locator("#chart-validation h2")).to_have_text("Validation loss")
    expect(page.locator("#chart-validation fieldset")).to_be_hidden()


def test_runs_of_other_models_differ_in_them_and_who_led_a_failed_one_is_not_its_champion(
    visited: Open, runs: Mapping[str, str]
) -> None:
    page = visited(f"/runs?compare={runs['slow']},{runs['failed']}")

    differing = page.get_by_role("region", name="Settings that differ")
    expect(differing.get_by_role("row", name="model.base_models").locator("mark")).to_have_text("beta-mistral")
    expect(page.locator(".differs header")).to_contain_text(re.compile(r"^What differs2 of \d+ settings$"))
    results = page.get_by_role("region", name="Results")
    expect(results.get_by_role("row", name="Champion")).to_contain_text("led when it ended")
    expect(page.locator("#runs tbody tr", has_text="Failed")).to_contain_text("led when it ended")


def test_the_only_entry_of_a_ledger_has_no_tree(visited: Open, runs: Mapping[str, str], seen: Seen) -> None:
    page = visited("/runs")
    page.route("**/api/ledger/proofs/*", lambda route: route.abort())  # then the run's own proof is shown

    page.goto(f"/runs/{runs['trained']}")

    expect(page.locator("#ledger-said")).to_contain_text("0 (number 1 of 1: entries are counted from 0)")
    expect(page.locator("#ledger-said .tree")).to_have_count(0)
    seen.expect("ERR_FAILED")


def test_an_answer_that_begins_with_a_blank_is_not_indented_by_it(visited: Open, runs: Mapping[str, str]) -> None:
    def indented(route: Route) -> None:
        answer = route.fetch()
        document = answer.json()
        for each in document["samples"]:
            each["samples"] = {model: [" At nine.\n"] for model in each["samples"]}
        route.fulfill(response=answer, json=document)

    page = visited("/runs")
    page.route(f"**/api/runs/{runs['trained']}", indented)

    page.goto(f"/runs/{runs['trained']}")

    expect(page.locator("#answers blockquote").first).to_be_visible()
    assert page.locator("#answers blockquote").all_text_contents() == ["At nine.", "At nine."]
