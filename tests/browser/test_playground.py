"""The Playground: one prompt, put to the adapters of a run and to the base models under them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from playwright.sync_api import expect

from browser.conftest import Barriers, Open
from support.browser import Site
from support.homes import QUESTION

# The next model may be loaded, and have answered, before a test presses what it sees: a tiny one takes a moment.
STOPPED_AFTER_TWO = """(stop) => new MutationObserver((_, watching) => {
  if (states.filter((state) => state === "done").length < 2) return;
  watching.disconnect();
  stop.click();
}).observe(document.body, { subtree: true, attributeFilter: ["data-state"] })"""
WATCHED = """
window.states = [];
addEventListener("DOMContentLoaded", () => {
  const note = (records) => records.forEach(({ target }) => states.push(target.dataset.state));
  new MutationObserver(note).observe(document.body, { subtree: true, attributeFilter: ["data-state"] });
});
"""


@pytest.fixture(scope="module")
def served(finished: Site) -> Site:
    return finished


def test_base_and_tuned_answer_side_by_side_while_it_is_written_until_somebody_stops_it(
    visited: Open, runs: Mapping[str, str], barriers: Barriers
) -> None:
    page = visited("/playground")
    page.add_init_script(WATCHED)
    page.goto(f"/playground?run={runs['trained']}")
    page.get_by_role("button", name=QUESTION).click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(QUESTION)
    page.get_by_text("How answers are drawn").click()
    page.get_by_label("Longest answer", exact=True).fill("24")

    page.get_by_label("Prompt", exact=True).press("Control+Enter")

    answers = page.locator("#exchange article")
    expect(answers.locator("h3")).to_have_text(
        ["Alfa-Llama base model", "Alfa-Llama tuned", "Beta-Mistral base model", "Beta-Mistral tuned"]
    )
    page.get_by_role("button", name="Stop").evaluate(STOPPED_AFTER_TWO)
    expect(page.locator("#now-said")).to_have_text("Stopped")
    states = answers.evaluate_all("(all) => all.map((each) => each.dataset.state)")
    assert states[:2] == ["done", "done"]
    assert states[3] == "unasked"
    assert "writing" in page.evaluate("states")
    expect(answers.nth(1).locator(".answer-foot")).to_contain_text("tokens/s")
    assert barriers(page) == {}

    page.reload()
    page.locator("#history summary").click()
    expect(page.locator("#history .question")).to_have_text(QUESTION)


def test_nothing_is_asked_without_a_prompt_and_a_model(visited: Open, runs: Mapping[str, str]) -> None:
    page = visited(f"/playground?run={runs['trained']}")
    for name in ("Alfa-Llama", "Beta-Mistral"):
        page.get_by_role("checkbox", name=name).uncheck()

    page.get_by_role("button", name="Ask").click()

    expect(page.get_by_role("checkbox", name="Alfa-Llama")).to_be_focused()
    expect(page.locator("#models-said")).to_have_text("Choose at least one model.")
    expect(page.locator("#prompt-said")).to_have_text("Write what to ask.")
