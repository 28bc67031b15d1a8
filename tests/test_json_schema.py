from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from oneseek.config.aliases import ALIASES, TABLE, Alias
from oneseek.config.json_schema import json_schema
from oneseek.config.parse import parse
from oneseek.config.reference import section_of, settings
from oneseek.config.schema import TrainingConfig
from oneseek.config.sources import resolve

DOCS = Path(__file__).parent.parent / "docs"
PAGES = "\n".join(page.read_text() for page in DOCS.rglob("*.md"))
EXAMPLES = [
    example
    for text in re.findall(r"^```yaml\n(.*?)^```$", PAGES, re.DOTALL | re.MULTILINE)
    if (example := yaml.safe_load(text)).keys() <= TrainingConfig.model_fields.keys() | ALIASES.keys()
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
        {"learning_rate": "fast"},
        {"lora": {"lora_alpha": -1}},
        {"training": {"num_epochs": None}},
        {"training": {"seed": "1.5"}},
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
        {"training": {"learning_rate": "1e-4", "num_epochs": "3", "seed": " +4.0 "}},
        {"data": {"validation_split": ".5"}, "lora": {"alpha": "16."}},
        {"training": None, "per_model": None, "adaptive_weights": {"adjust_strategy": None}},
        {"per_model": {"a": None, "b": {"lora": None, "training": {"learning_rate": "1e-4"}}}},
    ],
)
def test_what_the_parser_takes_the_schema_takes(raw: dict[str, Any], validator: Any) -> None:
    assert parse(raw)[1] == ()
    validator.validate(raw)


@pytest.mark.parametrize(
    "raw",
    [
        {"learning_rate": "1e-4", "lora_rank": 4, "lora_alpha": None},
        {"load_in_4bit": True, "datasets": [{"path": "a.jsonl", "type": "alpaca"}], "lora_target": "all"},
        {"lora": {"lora_alpha": 8}, "per_model": {"a": {"lora": {"lora_alpha": 8}}}},
    ],
)
def test_names_of_other_tools_are_taken_where_they_may_stand(raw: dict[str, Any], validator: Any) -> None:
    assert resolve(file=None, environment={}, flags=raw).problems == ()
    validator.validate(raw)


@pytest.mark.parametrize("alias", TABLE, ids=lambda alias: alias.name)
def test_every_alias_is_deprecated_and_names_its_setting(alias: Alias) -> None:
    said = json_schema()["properties"][alias.name]

    assert said["deprecated"] is True
    assert alias.field in said["description"]


def test_recommended_ranges_units_meanings_and_defaults_are_in_the_schema() -> None:
    assert described("training.num_epochs") == {
        "anyOf": [
            {"type": "integer", "exclusiveMinimum": 0, "maximum": 1_000_000},
            {"type": "string", "pattern": r"^\s*[+-]?\d+(\.0*)?\s*$"},
        ],
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
