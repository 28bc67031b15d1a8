"""Layers: the settings that one source gives, under our own names, and how one layer lies over another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from oneseek.config.aliases import Meant, meant_by
from oneseek.config.parse import ConfigProblem, leaves, shown

Path = tuple[str, ...]


class ConfigNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a person should know of a setting that was taken. `given` is the name that it was given under."""

    field: str
    given: str
    note: str


class Layer(msgspec.Struct, frozen=True):
    """The settings of one source: nested mappings, and the origin of each dotted field."""

    settings: dict[str, Any]
    origins: dict[str, str]
    problems: tuple[ConfigProblem, ...] = ()
    notes: tuple[ConfigNote, ...] = ()


def with_own_names(layer: Layer) -> Layer:
    """`layer` with every alias read as the setting that it means, a note for each, and a problem for each that cannot
    be read or contradicts another name of the same setting."""
    settings, origins = nested_copy(layer.settings), dict(layer.origins)
    problems, notes = [], []
    written: dict[Path, Path] = {}  # setting: where it was given
    for path, value in list(leaves(layer.settings)):
        meant = meant_by(path)
        if meant is None:
            continue
        given, field = ".".join(path), ".".join(meant.path)
        _take(settings, path)
        origin = origins.pop(given, "")
        try:
            own = meant.alias.own_value(value)
        except ValueError as error:
            problems.append(_not_readable(meant, given, value, error))
            continue
        notes.append(_note(meant, given, value, own))
        if own is None or not has_room(settings, meant.path):
            continue
        before = _at(settings, meant.path)
        if before is not None and before != own:
            problems.append(_contradiction(field, ".".join(written.get(meant.path, meant.path)), before, given, value))
        elif before is None:
            merge(settings, nested(meant.path, own))
            origins[field] = f"{origin} (as {given})"
            written[meant.path] = path
    return Layer(settings, origins, (*layer.problems, *problems), (*layer.notes, *notes))


def lay_over(settings: dict[str, Any], origins: dict[str, str], layer: Layer) -> None:
    """Put `layer` over what lies below. Naming base models one way replaces the other way of a lower layer."""
    if {"model.name", "model.base_models"} & layer.origins.keys():
        below = settings.get("model")
        for name in ("name", "base_models"):
            if isinstance(below, dict):
                below.pop(name, None)
            origins.pop(f"model.{name}", None)
    merge(settings, layer.settings)
    origins |= layer.origins


def merge(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    """Put `above` into `below`, setting by setting; an empty value hides no section."""
    for key, value in above.items():
        if isinstance(value, Mapping):
            inner = below.get(key)
            below[key] = inner = dict(inner) if isinstance(inner, Mapping) else {}
            merge(inner, value)
        elif value is not None or not isinstance(below.get(key), Mapping):
            below[key] = value


def nested(path: Path, value: Any) -> dict[str, Any]:
    """`value` under the names of `path`."""
    for name in reversed(path):
        value = {name: value}
    tree: dict[str, Any] = value
    return tree


def nested_copy(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """A copy whose mappings, and nothing else, are its own."""
    return {key: nested_copy(value) if isinstance(value, Mapping) else value for key, value in settings.items()}


def fields(settings: Mapping[Any, Any]) -> list[str]:
    """The dotted names of what is set. A key that is no text is no setting, and a number may be too long to write."""
    return [".".join(path) for path, _ in leaves(settings) if all(isinstance(step, str) for step in path)]


def has_room(settings: Mapping[str, Any], path: Path) -> bool:
    """Whether everything above `path` is a section, or will be one. What is none is a problem that `parse` tells."""
    return all(isinstance(_at(settings, path[:depth]), Mapping | None) for depth in range(1, len(path)))


def _at(settings: Mapping[str, Any], path: Path) -> Any:
    """The value there; None where there is none."""
    inner: Any = settings
    for step in path:
        inner = inner.get(step) if isinstance(inner, Mapping) else None
    return inner


def _take(settings: dict[str, Any], path: Path) -> None:
    for step in path[:-1]:
        settings = settings[step]
    del settings[path[-1]]


def _note(meant: Meant, given: str, value: Any, own: Any) -> ConfigNote:
    field = ".".join(meant.path)
    if own is None:
        said = f"{given}: {shown(value)} sets nothing."
    elif own is value:
        said = f"{given} is read as {field}."
    else:
        said = f"{given} is read as {field}: {own}."
    return ConfigNote(field=field, given=given, note=said)


def _not_readable(meant: Meant, given: str, value: Any, error: ValueError) -> ConfigProblem:
    field = ".".join(meant.path)
    return ConfigProblem(
        kind="value",
        field=field,
        value=value,
        problem=f"{given} cannot be read as {field}: {error}.",
        fix=f"Set {field} in place of {given}.",
    )


def _contradiction(field: str, first: str, before: Any, given: str, value: Any) -> ConfigProblem:
    return ConfigProblem(
        kind="conflict",
        field=field,
        value=value,
        problem=f"{first} is {shown(before)} and {given} is {shown(value)}, but both mean {field}.",
        fix=f"Give {field} alone.",
    )
