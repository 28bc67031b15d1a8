"""From untyped settings to a TrainingConfig, with everything that is wrong in plain words.

    raw settings -> parse -> TrainingConfig, and one ConfigProblem for each value that could not be taken

A value that cannot be taken is left out, so its default stands in and every other rule can still speak. A config with
problems is only for judging, never for a run.
"""

from __future__ import annotations

import difflib
import functools
import math
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from oneseek.config.aliases import ABSENT, ALIASES
from oneseek.config.reference import Setting, section_of, sections, setting_of, settings
from oneseek.config.schema import MODEL_OVERRIDABLE, TrainingConfig
from oneseek.names import nearest_name

Path = tuple[str, ...]
Tree = dict[str, Any]

DEEPEST = 32
NEAR = 0.8
"""Share of letters that a misspelt name and the one that was surely meant have in common, as difflib counts."""


class ConfigProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A setting that cannot be taken. `field` is its dotted path, `value` what was given.

    `changes` are the fix where it is settings alone: dotted fields with their new values; None removes one.
    `type`: not the kind of value that the field holds. `bound`: a number outside its bounds. `value`: none of the
    values that the field knows. `conflict`: right by itself, wrong beside another setting.
    """

    kind: Literal["unknown", "type", "bound", "value", "conflict"]
    field: str
    value: Any
    problem: str
    fix: str
    changes: tuple[tuple[str, Any], ...] = ()


def parse(raw: Mapping[Any, Any]) -> tuple[TrainingConfig, tuple[ConfigProblem, ...]]:
    """The configuration that `raw` (nested mappings by section) asks for, and every problem in it.

    Numbers may be text (YAML 1.1 reads 1e-4 as text). Never raises for anything a person can write.
    """
    problems: list[ConfigProblem] = []
    tree = _with_text_keys(raw, (), problems)
    problems += _switches_for_numbers(tree)
    problems += _selected_twice(tree)
    while True:
        try:
            return TrainingConfig.model_validate(tree), tuple(problems)
        except ValidationError as error:
            # Each round takes out at least one value, so this ends; checks between fields only speak in a later round.
            found = {_path_in(tree, details["loc"]): details for details in reversed(error.errors())}
            problems += [_problem(path, tree, found[path]) for path in reversed(found)]
            for path in found:
                _drop(tree, path)


def shown(value: Any) -> str:
    """A value as people would write it, shortened where it is long."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "empty"}[value]
    if isinstance(value, str) and len(value) <= _short.maxstring and _is_number(value):
        return value.strip()
    try:
        return _short.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"


def is_too_deep(value: Any) -> bool:
    """Whether mappings and lists are nested deeper than any settings are, so deep that walking them could fail."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, Mapping | list)
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
    return any(isinstance(each, Mapping | list) for each in level)


def _with_text_keys(raw: Mapping[Any, Any], path: Path, problems: list[ConfigProblem]) -> Tree:
    """A copy to work on. An empty section is left out: YAML reads one whose lines are all comments as null."""
    tree: Tree = {}
    for key, value in raw.items():
        named = isinstance(key, str) and key.isprintable()
        here = (*path, str(key) if named else shown(key))
        if not named:
            problems.append(
                ConfigProblem(
                    kind="unknown",
                    field=".".join(here),
                    value=value,
                    problem=f"{shown(key)} is not the name of a setting.",
                    fix="Remove it, or put it in quotes where it is a model key.",
                )
            )
        elif isinstance(value, Mapping):
            tree[key] = _with_text_keys(value, here, problems)
        elif value is not None or not _is_place_for_settings(here):
            tree[key] = value
    return tree


def _is_place_for_settings(path: Path) -> bool:
    return section_of(path) is not None or (path[0] == "per_model" and len(path) <= 3)


def _switches_for_numbers(tree: Tree) -> list[ConfigProblem]:
    """`true` is 1 to Python and pydantic; a person who writes it for a number has mistaken the field."""
    problems = []
    for path, value in list(leaves(tree)):
        setting = setting_of(".".join(path))
        if isinstance(value, bool) and setting is not None and setting.kind in ("number", "whole number"):
            problems.append(_about(setting, "type", path, value))
            _drop(tree, path)
    return problems


def _selected_twice(tree: Tree) -> list[ConfigProblem]:
    model = tree.get("model")
    if not isinstance(model, dict) or not model.get("name") or not model.get("base_models"):
        return []
    name, models = model["name"], model["base_models"]
    if models in (name, [name], (name,)):
        return []
    del model["name"]
    return [
        ConfigProblem(
            kind="conflict",
            field="model.name",
            value=name,
            problem=f"model.name is {shown(name)} and model.base_models is {shown(models)}.",
            fix="Give one of them: model.name for one base model, model.base_models for several.",
        )
    ]


def leaves(tree: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value that is not a mapping, with its path."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _path_in(tree: Tree, location: tuple[int | str, ...]) -> Path:
    """The part of pydantic's location that is in `tree`; what follows is an index or an alternative of a union."""
    path: list[str] = []
    inner: Any = tree
    for step in location:
        if not isinstance(inner, Mapping) or step not in inner:
            break
        inner = inner[step]
        path.append(str(step))
    return tuple(path)


def _at(tree: Tree, path: Path) -> Any:
    inner: Any = tree
    for step in path:
        inner = inner[step]
    return inner


def _drop(tree: Tree, path: Path) -> None:
    del _at(tree, path[:-1])[path[-1]]


def _problem(path: Path, tree: Tree, details: ErrorDetails) -> ConfigProblem:
    setting, value = setting_of(".".join(path)), _at(tree, path)
    if details["type"] == "extra_forbidden":
        return _unknown(path, value, tree)
    if setting is None:
        return _not_a_section(path, value)
    match details["type"]:
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" | "finite_number":
            return _about(setting, "bound", path, value)
        case "literal_error" if setting.kind == "choice":
            return _about(setting, "value", path, value)
        case "value_error":
            return _said(path, value, details)
        case _:
            return _about(setting, "type", path, value)


def _about(setting: Setting, kind: Literal["type", "bound", "value"], path: Path, value: Any) -> ConfigProblem:
    field = ".".join(path)
    return ConfigProblem(
        kind=kind,
        field=field,
        value=value,
        problem=f"{field} is {shown(value)}.",
        fix=f"Set {field} to {setting.expects}.",
        changes=_corrected(setting, kind, field, value),
    )


def _corrected(setting: Setting, kind: str, field: str, value: Any) -> tuple[tuple[str, Any], ...]:
    """The change to what was surely meant, or of a number outside its bounds to the nearest that is recommended."""
    if field == "output.version" and _is_version(value):
        return ((field, str(value)),)
    near = setting.recommended_near(_number(value)) if kind == "bound" else None
    return () if near is None else ((field, near),)


def _is_version(value: Any) -> bool:
    """1.0 without its quotes. The number 1.1 may have been written as 1.10, which is another version."""
    return isinstance(value, float) and re.fullmatch(r"\d{1,6}\.0", str(value)) is not None


def _said(path: Path, value: Any, details: ErrorDetails) -> ConfigProblem:
    """What one of the schema's own validators said."""
    field = ".".join(path)
    reason = str(details.get("ctx", {}).get("error", details["msg"])).rstrip(".")
    return ConfigProblem(
        kind="value",
        field=field,
        value=value,
        problem=f"{field} is {shown(value)}: {reason}.",
        fix=f"Correct {field}, or remove it.",
    )


def _not_a_section(path: Path, value: Any) -> ConfigProblem:
    field = ".".join(path)
    section = section_of(path)
    inside = ", ".join(section.model_fields) if section else "lora and training, each with its own settings"
    return ConfigProblem(
        kind="type",
        field=field,
        value=value,
        problem=f"{field} is {shown(value)}, where a section is needed.",
        fix=f"Write {field} with its settings under it: {inside}.",
    )


class _Guess(NamedTuple):
    """The fix for an unknown key, and the settings or sections that it surely means."""

    fix: str
    meant: tuple[Path, ...] = ()


def _unknown(path: Path, value: Any, tree: Tree) -> ConfigProblem:
    field, absent = ".".join(path), ABSENT.get(path[-1])
    changes: tuple[tuple[str, Any], ...] = ()
    if absent is not None:
        fix = absent.fix(field)
        if not absent.instead:
            changes = ((field, None),)
    else:
        fix, meant = _guess(path, value)
        if len(meant) == 1:
            changes = _moved(path, value, meant[0], tree)
    return ConfigProblem(
        kind="unknown", field=field, value=value, problem=f"{field} is not a setting.", fix=fix, changes=changes
    )


def _moved(path: Path, value: Any, to: Path, tree: Tree) -> tuple[tuple[str, Any], ...]:
    """The changes that put `value` where it belongs: none where it would be refused there, or hide what is there."""
    moves = [(rest, inner) for rest, inner in leaves(value)] if isinstance(value, Mapping) else [((), value)]
    exact = all(
        _can_be_moved(inner) and not any("." in step for step in (path[-1], *rest)) and not _is_in(tree, (*to, *rest))
        for rest, inner in moves
    )
    if not exact or parse(functools.reduce(lambda inner, step: {step: inner}, reversed(to), value))[1]:
        return ()
    # Written first: a section that is left empty in between would go, and its place with it.
    written = [(".".join((*to, *rest)), inner) for rest, inner in moves]
    return (*written, *((".".join((*path, *rest)), None) for rest, _ in moves))


def _can_be_moved(value: Any) -> bool:
    """Whether it is of the kinds that YAML, TOML and JSON can all write."""
    return all(isinstance(part, str | int | float) for part in (value if isinstance(value, list) else [value]))


def _is_in(tree: Any, path: Path) -> bool:
    return not path or (isinstance(tree, Mapping) and path[0] in tree and _is_in(tree[path[0]], path[1:]))


def _guess(path: Path, value: Any) -> _Guess:
    """The section that an unknown key belongs to, or the nearest name. Only what may be a section means one."""
    *parents, name = path
    if path[0] == "per_model":
        return _guess_for_one_model(path)
    if name in TrainingConfig.model_fields:
        fix = f"{name} is a section of its own: write it beside {path[0]}, not in it."
        return _Guess(fix, ((name,),) if isinstance(value, Mapping) else ())
    names = _names_for(value)
    homes = [known for known in names if known.rpartition(".")[2] == name]
    if homes:
        above = " or ".join(home.rpartition(".")[0] for home in homes)
        return _Guess(f"{name} belongs to {above}: set {' or '.join(homes)}.", _paths(homes))
    if name in ALIASES:
        field = ALIASES[name].field
        return _Guess(f"{name} is {field} here: set {field}.", _paths([field]) if ALIASES[name].takes_any else ())
    return _nearest(name, tuple(parents), names) or _Guess(f"Remove {'.'.join(path)}.{_what_there_is(tuple(parents))}")


def _names_for(value: Any) -> list[str]:
    """The dotted names that may hold `value`: an empty one is a section or a setting."""
    found = [] if isinstance(value, Mapping) else list(settings())
    return [*found, *sections()] if isinstance(value, Mapping | None) else found


def _paths(fields: list[str]) -> tuple[Path, ...]:
    return tuple(tuple(field.split(".")) for field in fields)


def _what_there_is(parents: Path) -> str:
    section = section_of(parents)
    return f" {'.'.join(parents)} has: {', '.join(section.model_fields)}." if parents and section else ""


def _nearest(name: str, parents: Path, names: list[str]) -> _Guess | None:
    """The field or fields that a misspelt name most likely means where it stands.

    Inside a section, what is near in another one is rarely meant: lora.rank is not training.rank_by. Outside of all,
    only what is surely meant is said.
    """
    meant: dict[str, list[str]] = {}
    for known in names:
        above, _, last = known.rpartition(".")
        if not parents or above == ".".join(parents):
            meant.setdefault(last, []).append(known)
    for alias in ALIASES.values():
        if alias.field in names and (not parents or alias.field.rpartition(".")[0] == ".".join(parents)):
            meant.setdefault(alias.name, [alias.field])
    near, surely = _near(name, meant)
    if near is None or not (parents or surely):
        return None
    other = ALIASES.get(near)
    written = [f"{field} ({near})" if field.rpartition(".")[2] != near else field for field in meant[near]]
    exact = surely and (other is None or other.takes_any)
    return _Guess(f"Did you mean {' or '.join(written)}?", _paths(meant[near]) if exact else ())


def _near(name: str, known: Collection[str]) -> tuple[str | None, bool]:
    """The nearest of the known names, and whether it is surely meant."""
    near = nearest_name(name, known)
    return near, near is not None and difflib.SequenceMatcher(None, near, name).ratio() >= NEAR


def _guess_for_one_model(path: Path) -> _Guess:
    key, *inside = path[1:]
    if len(inside) == 1:
        return _Guess(f"Write it under per_model.{key}.lora or per_model.{key}.training.")
    section, name = inside[0], inside[-1]
    allowed = MODEL_OVERRIDABLE.get(section, frozenset())
    if f"{section}.{name}" in settings():
        return _Guess(f"{section}.{name} is the same for every model: set {section}.{name}.")
    near, surely = _near(name, allowed)
    if near:
        return _Guess(f"Did you mean per_model.{key}.{section}.{near}?", ((*path[:-1], near),) if surely else ())
    return _Guess(f"Remove it. Per model there are: {', '.join(sorted(allowed))}.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number(value: Any) -> float:
    """NaN where it is none, or more than a float can hold."""
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        return math.nan


_short = reprlib.Repr()
_short.maxstring = 80
_short.maxother = 80
