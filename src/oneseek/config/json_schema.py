"""The whole configuration as JSON Schema, for editors and forms."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from oneseek.config.schema import TrainingConfig


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of what a file may hold, with bounds, defaults and meanings.

    `x-recommended` is the closed range outside which a warning is given, `x-unit` what a number counts. Aliases are not
    in it: an editor should offer one name for one setting.
    """
    schema = TrainingConfig.model_json_schema(schema_generator=_Untitled)
    return {"$schema": GenerateJsonSchema.schema_dialect} | schema | {"title": "Configuration of OneSeek"}


class _Untitled(GenerateJsonSchema):
    """Without a title on every field, which would only say its name again."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False
