from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from oneseek.config import reference
from oneseek.config.parse import parse
from oneseek.config.schema import MODEL_OVERRIDABLE

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def generate() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "generate.py"))


@pytest.fixture
def copy(generate: dict[str, Any], tmp_path: Path) -> Path:
    for name in generate["PAGES"]:
        (tmp_path / name).write_bytes((DOCS / name).read_bytes())
    return tmp_path


def test_the_pages_are_what_the_code_says(generate: dict[str, Any]) -> None:
    assert generate["main"](["--check"]) == 0, "run `make docs`"


def test_a_page_that_differs_is_named_by_check_and_left_alone(
    generate: dict[str, Any], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = copy / "configuration.md"
    stale = page.read_text().replace("| `num_epochs` |", "| `epochs` |")
    page.write_text(stale)

    assert generate["main"](["--check"], copy) == 1
    assert "configuration.md is out of date" in capsys.readouterr().err
    assert page.read_text() == stale


def test_a_page_that_differs_is_written_and_what_people_wrote_stays(generate: dict[str, Any], copy: Path) -> None:
    page = copy / "configuration.md"
    right = page.read_text()
    page.write_text(reference.filled(reference.filled(right, "settings", "old"), "aliases", "older"))

    assert generate["main"]([], copy) == 0
    assert page.read_text() == right


def test_a_page_without_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="markers"):
        reference.page("# Configuration\n")


def test_every_setting_is_in_the_table_once_with_its_default_and_range() -> None:
    lines = reference.table().splitlines()

    rows = [line for line in lines if line.startswith("| `")]
    assert len(rows) == len(reference.settings())
    assert (
        "| `num_epochs` | a whole number greater than 0 and at most 1000000 | `3` | 1 to 10 epochs | "
        "Passes over the training rows. Auto-stop may end a run earlier. |"
    ) in rows
    assert [line for line in lines if line.startswith("- `per_model.")] != []
    assert sum(map(len, MODEL_OVERRIDABLE.values())) == len(
        [line for line in lines if line.startswith("- `per_model.")]
    )


def test_the_example_file_on_the_page_is_a_configuration() -> None:
    text = (DOCS / "configuration.md").read_text()
    example = text.partition("```yaml\n")[2].partition("```")[0]

    config, problems = parse(yaml.safe_load(example))

    assert problems == ()
    assert config.training.learning_rate == 1e-4
    assert config.lora_for("mistral-7b-instruct").r == 32
