"""Every setting as data: what `parse` proposes, the recommended ranges and the reference page come from here."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from pydantic.fields import FieldInfo

from oneseek.config import aliases
from oneseek.config.schema import MODEL_OVERRIDABLE, Section, TrainingConfig


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One field of the schema. `field` is its dotted path; `recommended` is a closed range in `unit`, which
    says of a list what it holds."""

    field: str
    kind: Literal["whole number", "number", "switch", "choice", "text", "names"]
    choices: tuple[str, ...] = ()
    bounds: tuple[str, ...] = ()
    recommended: tuple[float, float] | None = None
    unit: str = ""
    optional: bool = False
    default: Any = None
    text: str = ""

    @property
    def expects(self) -> str:
        """What a value must be, in words: `a whole number greater than 0 (recommended 1 to 10)`."""
        match self.kind:
            case "whole number" | "number":
                bounds = f" {' and '.join(self.bounds)}" if self.bounds else ""
                return f"a {self.kind}{bounds}{self._recommendation()}"
            case "switch":
                return "true or false"
            case "choice":
                return _one_of(self.choices)
            case "text":
                return "a text (in quotes where it looks like a number)"
            case "names":
                return " or ".join([*(f"'{choice}'" for choice in self.choices), f"a list of {self.unit or 'names'}"])

    def _recommendation(self) -> str:
        return f" (recommended {self.recommended_range})" if self.recommended else ""

    def recommended_near(self, number: float) -> float | None:
        """The recommended number that is nearest; None where no range is recommended, or it is near none."""
        if self.recommended is None or math.isnan(number):
            return None
        low, high = self.recommended
        near = min(max(number, low), high)
        return int(near) if self.kind == "whole number" else near

    @property
    def recommended_range(self) -> str:
        """`1 to 10`, or nothing where no range is recommended."""
        return " to ".join(number_text(edge) for edge in self.recommended or ())


@cache
def settings() -> dict[str, Setting]:
    """Every setting by its dotted path, in the schema's order. `per_model` holds the same ones and is not listed."""
    return {setting.field: setting for setting in _settings_of(TrainingConfig, "")}


def setting_of(field: str) -> Setting | None:
    """The setting at a dotted path; `per_model.<key>.lora.r` is described by `lora.r`."""
    parts = field.split(".")
    if parts[0] == "per_model" and len(parts) > 3:
        section, name = parts[-2:]
        return settings().get(f"{section}.{name}") if name in MODEL_OVERRIDABLE.get(section, ()) else None
    return settings().get(field)


def section_of(path: tuple[str, ...]) -> type[Section] | None:
    """The section at a path such as ("adaptive_weights", "adjust_strategy"), or None where there is none."""
    section: type[Section] = TrainingConfig
    for name in path:
        field = section.model_fields.get(name)
        if field is None or not _is_section(field.annotation):
            return None
        section = field.annotation  # type: ignore[assignment]  # _is_section has looked
    return section


@cache
def sections() -> tuple[str, ...]:
    """Every section by its dotted path, in the schema's order."""
    return tuple(".".join(path) for path, _ in _sections(TrainingConfig, ()))


def number_text(value: float) -> str:
    """A number as people write it: 0.0005 and 1e-05 stay, 10.0 is 10."""
    if isinstance(value, int):
        return str(value)  # it may be more than a float can hold
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:g}"


def table() -> str:
    """The reference: one Markdown table for each section."""
    parts = []
    for path, section in _sections(TrainingConfig, ()):
        rows = [_row(setting) for setting in settings().values() if setting.field.rpartition(".")[0] == ".".join(path)]
        if rows:
            head = ["| setting | value | default | recommended | meaning |", "|---|---|---|---|---|"]
            parts += [f"### `{'.'.join(path)}`", "", _first_line(section), "", *head, *rows, ""]
    overridable = [
        f"`per_model.<key>.{section}.{name}`"
        for section, names in MODEL_OVERRIDABLE.items()
        for name in _in_schema_order(section, names)
    ]
    parts += ["### `per_model`", "", "For one model, by its key:", "", *(f"- {name}" for name in overridable), ""]
    return "\n".join(parts)


def page(written: str) -> str:
    """`written` with what is generated in it as the code has it now: the tables of settings and of aliases.

    Raises:
        ValueError: a marker is missing.
    """
    return filled(filled(written, "settings", table()), "aliases", aliases.table())


def filled(written: str, name: str, text: str) -> str:
    """`written` with `text` between the two markers of what is generated under `name`.

    Raises:
        ValueError: a marker is missing.
    """
    opening, closing = f"<!-- generated: {name} -->", f"<!-- end of generated: {name} -->"
    before, begin, rest = written.partition(opening)
    _, end, after = rest.partition(closing)
    if not begin or not end:
        raise ValueError(f"the page needs the markers {opening!r} and {closing!r}")
    return f"{before}{opening}\n\n{text}\n{closing}{after}"


def _sections(section: type[Section], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], type[Section]]]:
    for name, field in section.model_fields.items():
        if _is_section(field.annotation):
            inner: type[Section] = field.annotation  # type: ignore[assignment]  # _is_section has looked
            yield (*path, name), inner
            yield from _sections(inner, (*path, name))


def _settings_of(section: type[Section], prefix: str) -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        if _is_section(field.annotation):
            inner: type[Section] = field.annotation  # type: ignore[assignment]  # _is_section has looked
            yield from _settings_of(inner, f"{prefix}{name}.")
        elif name != "per_model":
            yield _setting(f"{prefix}{name}", field)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _setting(path: str, field: FieldInfo) -> Setting:
    annotation, metadata = field.annotation, list(field.metadata)
    alternatives = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    inner = []
    for alternative in alternatives:
        if get_origin(alternative) is Annotated:
            alternative, *more = get_args(alternative)
            metadata += [part for item in more for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
        inner.append(alternative)
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    return Setting(
        field=path,
        kind=_kind(inner),
        choices=tuple(str(choice) for part in inner if get_origin(part) is Literal for choice in get_args(part)),
        bounds=_bounds(metadata) if _kind(inner) in ("whole number", "number") else (),
        recommended=_range(extra.get("x-recommended")),
        unit=str(extra.get("x-unit", "")),
        optional=type(None) in inner,
        default=field.get_default(call_default_factory=True),
        text=field.description or "",
    )


def _kind(alternatives: list[Any]) -> Literal["whole number", "number", "switch", "choice", "text", "names"]:
    if any(get_origin(part) is tuple for part in alternatives):
        return "names"
    if any(get_origin(part) is Literal for part in alternatives):
        return "choice"
    if bool in alternatives:
        return "switch"
    if int in alternatives:
        return "whole number"
    return "number" if float in alternatives else "text"


def _bounds(metadata: list[Any]) -> tuple[str, ...]:
    words = (("gt", "greater than"), ("ge", "at least"), ("lt", "less than"), ("le", "at most"))
    found = []
    for attribute, phrase in words:
        edges = [getattr(item, attribute) for item in metadata if getattr(item, attribute, None) is not None]
        found += [f"{phrase} {number_text(edge)}" for edge in edges]
    return tuple(found)


def _range(recommended: Any) -> tuple[float, float] | None:
    return (float(recommended[0]), float(recommended[1])) if recommended else None


def _one_of(choices: tuple[str, ...]) -> str:
    quoted = [f"'{choice}'" for choice in choices]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _first_line(section: type[Section]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


def _in_schema_order(section: str, names: frozenset[str]) -> list[str]:
    found = section_of((section,))
    return [name for name in found.model_fields if name in names] if found else sorted(names)


def _row(setting: Setting) -> str:
    words = msgspec.structs.replace(setting, recommended=None).expects.partition(" (")[0]
    recommended = f"{setting.recommended_range} {setting.unit}".strip() if setting.recommended else ""
    name = setting.field.rpartition(".")[2]
    text = setting.text.replace("|", "\\|").replace("\n", " ")
    return f"| `{name}` | {words} | {_default(setting)} | {recommended} | {text} |"


def _default(setting: Setting) -> str:
    match setting.default:
        case None | ():
            return ""
        case bool():
            return f"`{str(setting.default).lower()}`"
        case int() | float():
            return f"`{number_text(setting.default)}`"
        case _:
            return f"`{setting.default}`"
