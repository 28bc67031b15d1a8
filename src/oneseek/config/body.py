"""Settings as programs send them: camelCase names, and the flat fields of the older interface."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from oneseek.config.layers import Layer, Path, fields, has_room, merge, nested
from oneseek.config.parse import ConfigProblem, is_too_deep
from oneseek.errors import ConfigError

ORIGIN = "HTTP body"

# The flat fields of the older interface, in its spelling.
FLAT = {
    "datasetId": "data.dataset",
    "baseModels": "model.base_models",
    "epochs": "training.num_epochs",
    "learningRate": "training.learning_rate",
    "autoStopThreshold": "confidence_auto_stop.threshold",
    "autoStopPatience": "confidence_auto_stop.patience",
}


def of_body(body: Mapping[str, Any]) -> Layer:
    """The settings of a request's body as a layer. Sections may be nested in camelCase or in our own spelling; model
    keys under `perModel` stay as they are. A setting that is given twice is a problem, whatever the two values are.

    Raises:
        ConfigError: it is nested deeper than settings are.
    """
    refuse_too_deep(body)
    settings: dict[str, Any] = {}
    given: dict[str, str] = {}
    problems = []
    for written, value in _values(body):
        flat = FLAT.get(written[0]) if len(written) == 1 else None
        path = tuple(flat.split(".")) if flat else _own_spelling(written)
        name, field = ".".join(written), ".".join(path)
        if field in given:
            problems.append(_given_twice(field, given[field], name, value))
        elif has_room(settings, path):
            given[field] = name
            merge(settings, nested(path, value))
    return Layer(settings, dict.fromkeys(fields(settings), ORIGIN), tuple(problems))


def refuse_too_deep(body: Mapping[str, Any]) -> None:
    """Only so deep a body can be walked, or handed to another process.

    Raises:
        ConfigError: it is nested deeper than settings are.
    """
    if is_too_deep(body):
        raise ConfigError("The body is nested too deeply.", "Send sections with settings in them.")


def _values(body: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value that is no section with settings in it, with its path."""
    for name, value in body.items():
        if isinstance(value, Mapping) and value:
            yield from _values(value, (*path, name))
        else:
            yield (*path, name), value


def _own_spelling(path: Path) -> Path:
    spelled = tuple(re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower() for name in path)
    return (*spelled[:1], *path[1:2], *spelled[2:]) if spelled[0] == "per_model" else spelled


def _given_twice(field: str, first: str, second: str, value: Any) -> ConfigProblem:
    return ConfigProblem(
        kind="conflict",
        field=field,
        value=value,
        problem=f"{field} is given twice: as {first} and as {second}.",
        fix=f"Give one of them: {first} or {second}.",
    )
