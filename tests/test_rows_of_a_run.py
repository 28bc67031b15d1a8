"""Which rows a run uses: those that can be used, in whatever format and container they come, and what is left out."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from oneseek import runs
from oneseek.errors import RunError
from oneseek.preflight.finding import PreflightError
from support.runs import Town

BAD = '{"messages": []}\nnot json\n'


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def chats(count: int, word: str = "Question") -> str:
    return "".join(
        json.dumps(
            {"messages": [{"role": "user", "content": f"{word} {n}?"}, {"role": "assistant", "content": f"A {n}."}]}
        )
        + "\n"
        for n in range(count)
    )


def test_bad_rows_refuse_a_run_unless_they_are_to_be_quarantined(town: Town) -> None:
    town.dataset.write_text(chats(10) + BAD + chats(3, "More"))

    with pytest.raises(PreflightError) as refused:
        town.train(training__num_epochs=1)
    directory, state = town.train(training__num_epochs=1, data__bad_rows="quarantine")

    assert "2 of 15 rows" in refused.value.findings[0].problem
    used = state.accepted.dataset
    assert (used.training_rows + used.validation_rows, used.quarantined_rows) == (13, 2)
    kept = [json.loads(line) for line in directory.quarantine.read_text().splitlines()]
    assert [(row["line"], row["kind"], row["row"]) for row in kept] == [
        (11, "empty-content", '{"messages": []}'),
        (12, "broken-json", "not json"),
    ]
    assert any("quarantine.jsonl" in warning or "cannot be used" in warning for warning in state.accepted.warnings)


def test_rows_left_out_or_never_there_make_the_same_recipe(town: Town) -> None:
    town.dataset.write_text(chats(12))
    clean, _ = town.train(training__num_epochs=1)
    town.dataset.write_text(chats(12) + BAD)
    mended, _ = town.train(training__num_epochs=1, data__bad_rows="quarantine")

    assert load(clean.recipe) == load(mended.recipe)
    assert not clean.quarantine.exists()


@pytest.fixture
def aside(town: Town) -> Path:
    path = town.root / "aside.jsonl"
    path.write_text(chats(5, "Aside"))
    return path


def test_all_rows_are_trained_on_where_validation_has_rows_of_its_own(town: Town, aside: Path) -> None:
    directory, state = town.train(training__num_epochs=1, data__validation_dataset=str(aside))

    used = state.accepted.dataset
    assert (used.training_rows, used.validation_rows) == (20, 5)
    assert used.validation_path == str(aside.resolve())
    assert state.planned is not None
    assert runs.result(directory, state).status == "completed"


def test_bad_validation_rows_are_kept_apart_too(town: Town, aside: Path) -> None:
    aside.write_text(aside.read_text() + BAD)

    directory, state = town.train(
        training__num_epochs=1, data__validation_dataset=str(aside), data__bad_rows="quarantine"
    )

    assert state.accepted.dataset.quarantined_rows == 2
    assert len(directory.validation_quarantine.read_text().splitlines()) == 2
    assert not directory.quarantine.exists()


def test_other_validation_rows_make_another_recipe(town: Town, aside: Path) -> None:
    one, _ = town.train(training__num_epochs=1, data__validation_dataset=str(aside))
    aside.write_text(chats(5, "Other"))
    other, _ = town.train(training__num_epochs=1, data__validation_dataset=str(aside))
    split, _ = town.train(training__num_epochs=1)

    digests = {load(each.recipe)["rows"]["sha256"] for each in (one, other, split)}
    assert len(digests) == 3


def test_a_changed_validation_dataset_is_found_before_the_run_goes_on(town: Town, aside: Path) -> None:
    with town.submit(training__num_epochs=1, data__validation_dataset=str(aside)) as run:
        directory = run.directory
    aside.write_text(chats(5, "Changed"))

    with pytest.raises(RunError, match=r"the validation dataset .* has changed"):
        town.resume(directory)


def conversations(row: dict[str, Any]) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    said = [{"from": names[message["role"]], "value": message["content"]} for message in row["messages"]]
    return {"conversations": said}


def test_the_same_chats_in_another_format_or_container_are_the_same_rows(town: Town) -> None:
    rows = [json.loads(line) for line in chats(12).splitlines()]
    places = {name: town.root / f"rows.{name}" for name in ("jsonl", "json", "csv", "sharegpt")}
    places["jsonl"].write_text(chats(12))
    places["json"].write_text(json.dumps(rows, indent=2))
    places["sharegpt"].write_text("".join(json.dumps(conversations(row)) + "\n" for row in rows))
    with places["csv"].open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["messages"], *([json.dumps(row["messages"])] for row in rows)])

    digests = set()
    for path in places.values():
        with town.submit(data__dataset=str(path)) as run:
            digests.add(run.state.accepted.dataset.rows_sha256)

    assert len(digests) == 1
