"""The whole configuration as JSON Schema, for editors and forms."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from oneseek.config.aliases import TABLE, Alias
from oneseek.config.schema import MODEL_OVERRIDABLE, TrainingConfig

Node = dict[str, Any]


def json_schema() -> Node:
    """JSON Schema 2020-12 of what a file may hold, with bounds, defaults and meanings.

    `x-recommended` is the closed range outside which a warning is given, `x-unit` what a number counts. Names of other
    tools are in it as deprecated: an editor takes them, and offers our own.
    """
    schema = TrainingConfig.model_json_schema(schema_generator=_AsWritten)
    for alias in TABLE:
        _add(alias, schema)
    return {"$schema": GenerateJsonSchema.schema_dialect} | schema | {"title": "Configuration of OneSeek"}


class _AsWritten(GenerateJsonSchema):
    """What files hold beside what the types say. No field has a title, which would only be its name again."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def int_schema(self, schema: Any) -> Node:
        return _or_text(super().int_schema(schema), r"^\s*[+-]?\d+(\.0*)?\s*$")

    def float_schema(self, schema: Any) -> Node:
        return _or_text(super().float_schema(schema), r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$")

    def model_schema(self, schema: Any) -> Node:
        return _or_empty(super().model_schema(schema))

    def typed_dict_schema(self, schema: Any) -> Node:
        return _or_empty(super().typed_dict_schema(schema))

    def dict_schema(self, schema: Any) -> Node:
        return _or_empty(super().dict_schema(schema))


def _or_text(number: Node, pattern: str) -> Node:
    """YAML 1.1 reads 1e-4 as text."""
    return {"anyOf": [number, {"type": "string", "pattern": pattern}]}


def _or_empty(section: Node) -> Node:
    """YAML reads a section whose lines are all comments as null."""
    return section | {"type": ["object", "null"]}


def _add(alias: Alias, schema: Node) -> None:
    """Describe an alias wherever it may stand: it takes what its setting takes, or nothing; anything, where values are
    written otherwise."""
    section, _, name = alias.field.partition(".")
    own = schema["properties"][section]["$ref"]
    defined = schema["$defs"]
    described: Node = {"deprecated": True, "description": f"Another tool's name of `{alias.field}`: use that."}
    if alias.takes_any:
        described["anyOf"] = [{"$ref": f"{own}/properties/{name}"}, {"type": "null"}]
    places = [schema, defined[own.rpartition("/")[2]]]
    if name in MODEL_OVERRIDABLE.get(section, ()):
        places.append(defined["OverrideSection"]["properties"][section])
    for place in places:
        place["properties"].setdefault(alias.name, described)
