"""One run while it goes on: stopped and resumed, queued, reported from elsewhere, and through a lost connection."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from browser.conftest import MODELS, Barriers, Open
from support.base_models import write_model
from support.browser import Seen, Site, site, told

FETCHED = "performance.getEntriesByType('resource').find(({ name }) => name.endsWith('/result.js'))"


@pytest.fixture(scope="module")
def served(furnished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server whose runs are trained by script, an epoch in half a second."""
    home = tmp_path_factory.mktemp("scripted") / "home"
    shutil.copytree(furnished, home)
    write_model(home / "models" / "diverging", vocab=300, context=256, display_name="Diverging")
    for model in (*MODELS, "diverging"):
        script = {"fail": {"epoch": 2, "kind": "diverged"}} if model == "diverging" else {"step_seconds": 0.05}
        (home / "models" / model / "script.json").write_text(json.dumps(script))
    with site(home, engine="scripted") as opened:
        yield opened


def test_a_run_is_stopped_after_its_epoch_and_resumed_from_there(begun: Any, barriers: Barriers) -> None:
    page = begun()
    expect(page.locator("#badge")).to_have_text("Training")
    expect(page.locator("#log")).to_contain_text("Epoch 1")
    expect(page.locator("#board tbody tr")).to_have_count(2)
    assert barriers(page) == {}

    page.get_by_role("button", name="Stop").click()
    asked = page.get_by_role("alertdialog")
    expect(asked.get_by_role("button", name="Keep training")).to_be_focused()
    assert barriers(page) == {}
    asked.get_by_role("button", name="Stop after epoch").click()

    expect(page.locator("#badge")).to_have_text("Stopped")
    expect(page.locator("#cause")).to_contain_text(re.compile(r"Stopped after \d+ of 1,000 epochs"))
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#badge")).to_have_text("Training")
    expect(page.locator("#cause")).to_be_hidden()
    expect(page.locator("#log")).to_contain_text(re.compile(r"Goes on after epoch \d"))


def test_a_run_that_waits_says_its_place_and_can_be_moved_and_taken_out(begun: Any, barriers: Barriers) -> None:
    begun()
    begun()
    page = begun()
    expect(page.locator("#badge")).to_have_text("Queued")
    expect(page.locator("#queue")).to_contain_text("Place 2 of 2")
    assert barriers(page) == {}

    page.get_by_role("button", name="Move up").click()
    expect(page.locator("#queue")).to_contain_text("Next on CPU")
    page.get_by_role("button", name="Take out of the queue").click()

    expect(page.locator("#badge")).to_have_text("Stopped")
    expect(page.locator("#queue")).to_be_hidden()


def test_settings_hide_columns_of_the_leaderboard(begun: Any) -> None:
    hidden = ("show_weights", "show_lr_multipliers", "show_loss_per_model", "show_progress")

    page = begun(live_leaderboard={"display": dict.fromkeys(hidden, False)})

    expect(page.locator("#log")).to_contain_text("Epoch 1")
    heads = page.locator("#board").get_by_role("columnheader")
    expect(heads).to_have_text(["Rank", "Model", re.compile("Bits per byte"), "Tokens/s", "Trend"])
    expect(page.locator("#chart-weights")).to_be_hidden()


def test_a_run_that_failed_says_why_what_to_do_and_what_its_process_said(begun: Any, barriers: Barriers) -> None:
    page = begun(baseModels=["diverging"])

    expect(page.locator("#badge")).to_have_text("Failed")
    expect(page.locator("#cause")).to_contain_text("Resume goes on after 1 whole epoch")
    expect(page.locator("#board tbody tr")).to_contain_text("The loss became nan in epoch 2, step 1.")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    assert barriers(page) == {}
    page.get_by_role("button", name="Show the log").click()
    dialog = page.get_by_role("dialog", name="What the run said")
    expect(dialog.locator("pre")).to_contain_text("nan")
    assert barriers(page) == {}
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Show the log")).to_be_focused()


def test_a_lost_connection_leaves_the_numbers_and_comes_back_by_itself(begun: Any, served: Site, seen: Seen) -> None:
    page = begun()
    connection = page.locator("#connection")
    expect(page.locator("#log")).to_contain_text("Epoch 1 committed")

    served.end(signal.SIGKILL)
    expect(connection).to_have_text("Reconnecting…")
    expect(connection).to_have_text(re.compile(r"Connection lost, numbers from \d\d:\d\d"))
    expect(page.locator("#board")).to_contain_text("Alfa-Llama")
    served.start()

    expect(connection).to_have_text("Live")
    told_before = page.locator("#log li").count()
    expect(page.locator("#log li").nth(told_before)).to_be_visible()
    epochs = re.findall(r"Epoch (\d+) committed", page.locator("#log").inner_text())
    assert epochs == [str(epoch) for epoch in range(len(epochs), 0, -1)]
    seen.expect("ERR_|WebSocket")


def test_what_is_left_of_a_run_is_shown_though_nothing_more_of_the_page_comes_by_then(begun: Any) -> None:
    page = begun()
    expect(page.locator("#badge")).to_have_text("Training")
    run_id = page.url.rpartition("/")[2]
    page.wait_for_function(f"() => {FETCHED}")
    page.evaluate(f"import({FETCHED}.name).then(() => null)")  # with all that it imports
    page.route("**/*.js", lambda route: route.abort())

    told(page, "POST", f"/api/runs/{run_id}/stop", {"when": "kill"})

    expect(page.locator("#result-said")).to_contain_text("No adapters were kept")


def test_what_another_program_reports_is_ranked_and_who_diverged_says_why(visited: Open, barriers: Barriers) -> None:
    page = visited("/runs")
    run_id = "run-20261120-091402"
    losses = {"delta": 0.9, "alfa": 0.7, "gamma": 0.8, "beta": 0.75, "omega": 0.85}
    for epoch in (1, 2, 3):
        now = {key: None if (key, epoch) == ("gamma", 3) else loss / epoch for key, loss in losses.items()}
        report = {"epoch": epoch, "totalEpochs": 5, "valLosses": now, "bitsPerByte": now}
        told(page, "POST", f"/api/training/{run_id}/metrics", report)

    page.goto(f"/runs/{run_id}")

    rows = page.locator("#board tbody tr")
    expect(rows).to_have_text([re.compile(key) for key in ("alfa", "beta", "omega", "delta", "gamma")])
    expect(rows.last).to_contain_text("Quarantined in epoch 3")
    expect(page.locator("#cause")).to_contain_text("Another program trains this run")
    expect(page.locator("#run-actions button")).to_have_count(0)
    chart = page.locator("#chart-validation")
    chart.get_by_text("As a table").click()
    expect(chart.get_by_role("row")).to_have_count(4)
    expect(chart.get_by_role("row").nth(2)).to_have_text(re.compile(r"2.*0\.350"))
    chart.get_by_text("As a table").click()  # the drawing again, which stands where the table stood
    chart.locator(".plot").focus()
    page.keyboard.press("End")
    expect(page.locator("#told")).to_contain_text("0.233")
    assert barriers(page) == {}
