"""What docs/datasets.md says is what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from oneseek.datasets.convert import targets_of
from oneseek.datasets.faults import FaultKind
from oneseek.datasets.formats import METHOD_OF, STRATEGY_OF, USED_AS, Format, check_row, detect, normalise_row
from oneseek.datasets.quarantine import quarantine
from oneseek.datasets.scan import Container

PAGE = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text(encoding="utf-8")


def table(*columns: str) -> list[list[str]]:
    """The rows of the table with these columns, cell by cell."""
    header = "| " + " | ".join(columns) + " |\n"
    assert PAGE.count(header) == 1
    lines = PAGE.partition(header)[2].split("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


EXAMPLES = {quoted(name)[0]: json.loads(quoted(row)[0]) for name, row in table("format", "a row")}


def test_every_format_has_an_example() -> None:
    assert tuple(EXAMPLES) == get_args(Format)


@pytest.mark.parametrize("form", get_args(Format))
def test_each_example_is_a_good_row_of_its_format(form: Format) -> None:
    assert detect(EXAMPLES[form]) == form
    assert check_row(EXAMPLES[form], form) is None


def test_the_table_of_formats_is_that_of_the_code() -> None:
    said = [
        (quoted(form), quoted(used), quoted(strategy), quoted(method), quoted(targets))
        for form, used, strategy, method, targets in table("format", "used as", "strategy", "method", "converts to")
    ]

    assert said == [
        ([form], [USED_AS[form]], [STRATEGY_OF[form]], [METHOD_OF[form]], list(targets_of(form)))
        for form in get_args(Format)
    ]


def test_the_prompt_of_alpaca_is_what_the_page_shows() -> None:
    block = re.search(r"^```\n(### Instruction:\n.*?)\n```$", PAGE, re.DOTALL | re.MULTILINE)

    assert block is not None
    assert block[1] == normalise_row(EXAMPLES["alpaca"], "alpaca")["prompt"]


def test_every_kind_of_bad_row_is_explained() -> None:
    assert [quoted(kind)[0] for kind, _ in table("kind", "what is wrong")] == list(get_args(FaultKind))


def test_every_container_is_explained() -> None:
    assert [quoted(name)[0] for name, _ in table("container", "what it is")] == list(get_args(Container))


def test_a_quarantined_row_looks_as_the_page_shows(tmp_path: Path) -> None:
    example = re.search(r"^```json\n(\{\"line\".*)\n```$", PAGE, re.MULTILINE)
    assert example is not None
    good = json.dumps(EXAMPLES["messages"])
    (tmp_path / "rows.jsonl").write_text(f'{good}\n{good}\n{{"messages": 3}}\n')

    quarantine(tmp_path / "rows.jsonl", tmp_path / "quarantine.jsonl")

    assert json.loads((tmp_path / "quarantine.jsonl").read_text()) == json.loads(example[1])
