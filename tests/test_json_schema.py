from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from oneseek.config.json_schema import json_schema
from oneseek.config.parse import parse
from oneseek.config.reference import section_of, settings
from oneseek.config.schema import TrainingConfig

DOCS = Path(__file__).parent.parent / "docs"
PAGES = "\n".join(page.read_text() for page in DOCS.rglob("*.md"))
EXAMPLES = [
    example
    for text in re.findall(r"^```yaml\n(.*?)^```$", PAGES, re.DOTALL | re.MULTILINE)
    # YAML 1.1 reads 1e-4 as text; an editor, which this schema is for, reads it as the number it is.
    if (example := yaml.safe_load(re.sub(r"\b(\d)(e-\d)", r"\1.0\2", text))).keys()
    <= TrainingConfig.model_fields.keys()
]


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def described(field: str) -> dict[str, Any]:
    """What the schema says of a setting."""
    section, _, name = field.rpartition(".")
    found = section_of(tuple(section.split(".")))
    assert found is not None
    said: dict[str, Any] = json_schema()["$defs"][found.__name__]["properties"][name]
    return said


def test_the_examples_of_the_docs_are_what_the_schema_describes(validator: Any) -> None:
    assert EXAMPLES
    assert [error.message for example in EXAMPLES for error in validator.iter_errors(example)] == []


def test_every_default_is_what_the_schema_describes(validator: Any) -> None:
    validator.validate(TrainingConfig().model_dump(mode="json"))


@pytest.mark.parametrize(
    "raw",
    [
        {"training": {"num_epochs": -1}},
        {"training": {"num_epochs": "three"}},
        {"training": {"num_epoch": 1}},
        {"training": {"method": ""}},
        {"lora": {"target_modules": []}},
        {"per_model": {"a": {"lora": {"r": 0}}}},
        {"per_model": {"a": {"training": {"seed": 1}}}},
        {"trainig": {}},
        {"lora": 5},
        {"model": {"base_models": [1]}},
    ],
)
def test_what_the_parser_refuses_the_schema_refuses(raw: dict[str, Any], validator: Any) -> None:
    assert parse(raw)[1]
    assert not validator.is_valid(raw)


@pytest.mark.parametrize(
    "raw",
    [
        {"model": {"base_models": "a, b"}},
        {"lora": {"target_modules": "q_proj, v_proj"}},
        {"training": {"sample_prompts": "Why?"}},
        {"per_model": {"a": {"lora": {"target_modules": ["x"]}}}},
        {"model": {"name": None}},
    ],
)
def test_what_the_parser_takes_the_schema_takes(raw: dict[str, Any], validator: Any) -> None:
    assert parse(raw)[1] == ()
    validator.validate(raw)


def test_recommended_ranges_units_meanings_and_defaults_are_in_the_schema() -> None:
    assert described("training.num_epochs") == {
        "type": "integer",
        "exclusiveMinimum": 0,
        "maximum": 1_000_000,
        "default": 3,
        "description": settings()["training.num_epochs"].text,
        "x-recommended": [1, 10],
        "x-unit": "epochs",
    }
    for field, setting in settings().items():
        said = described(field)
        assert said["description"] == setting.text, field
        assert "default" in said, field
        assert said.get("x-recommended") == (list(setting.recommended) if setting.recommended else None), field
        assert said.get("x-unit", "") == setting.unit, field


def test_the_settings_of_one_model_are_described_without_the_defaults_of_all() -> None:
    overridable = json_schema()["$defs"]["OverrideSection"]["properties"]

    rank = overridable["lora"]["properties"]["r"]
    assert rank == {name: value for name, value in described("lora.r").items() if name != "default"}
