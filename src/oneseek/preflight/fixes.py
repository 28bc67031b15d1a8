"""Fixes of findings, written into the text of a configuration: everything else of it stays as it is.

    text, findings -> one change after another -> the new text, read again: exactly the changed settings differ

A change that would do anything else (what another setting shares by a YAML anchor, say) is refused, never made.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tomlkit
import tomlkit.exceptions
import yaml

from oneseek.config.aliases import meant_by
from oneseek.config.layers import Path, merge, nested, nested_copy
from oneseek.config.text import settings_in
from oneseek.errors import ConfigError
from oneseek.preflight.finding import Change, Finding

Edit = tuple[Path, Any]  # None as the value removes what is there


def fixed(text: str, suffix: str, findings: Iterable[Finding]) -> str:
    """The text of a `.yaml`, `.yml`, `.toml` or `.json` configuration with the changes that `findings` carry.

    A setting that the text has under another tool's name keeps that name where values are written the same way there.
    What is so already is left alone.

    Raises:
        ConfigError: `text` is no configuration, or a change cannot be made in it without changing something else.
    """
    for finding in findings:
        for change in finding.changes:
            text = _changed(text, suffix.lower(), change)
    return text


def difference(old: str, new: str, name: str) -> str:
    """Both texts of the file `name` as a unified diff; empty where they are the same."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), f"{name}.orig", name, lineterm="")
    return "".join(f"{line}\n" for line in lines)


def _changed(text: str, suffix: str, change: Change) -> str:
    wanted = settings_in(text, suffix)
    try:
        for path, value in _edits(wanted, change):
            wanted = _with(wanted, path, value)
            text = _in_toml(text, path, value) if suffix == ".toml" else _in_yaml(text, path, value, suffix == ".json")
        done = settings_in(text, suffix)
    except (yaml.YAMLError, tomlkit.exceptions.TOMLKitError, ConfigError) as error:
        raise _refusal(change) from error
    if _without_empty(done) != _without_empty(wanted):
        raise _refusal(change)
    return text


def _refusal(change: Change) -> ConfigError:
    what = f"set to {_written(change.value)}" if change.value is not None else "removed"
    return ConfigError(
        f"{change.field} cannot be {what} without changing something else in the file.",
        "Change it in the file by hand.",
    )


# -- which settings are to change ----------------------------------------------------------------------------------


def _edits(settings: Mapping[str, Any], change: Change) -> list[Edit]:
    """What has to be done in a file of `settings`: at most one value is set, other names of the setting go."""
    value = list(change.value) if isinstance(change.value, tuple) else change.value
    places = [path for path in _paths(settings) if change.field in (".".join(path), _field_meant_by(path))]
    if value is None:
        return [(path, None) for path in places]
    stays = next((path for path in places if _takes_any(path)), _own_path(change.field))
    removed: list[Edit] = [(path, None) for path in places if path != stays]
    return [*removed, *([] if _holds(settings, stays, value) else [(stays, value)])]


def _paths(settings: Mapping[Any, Any], above: Path = ()) -> Iterator[Path]:
    """Every key that is text, sections before what is in them."""
    for key, value in settings.items():
        if isinstance(key, str):
            yield (*above, key)
            if isinstance(value, Mapping):
                yield from _paths(value, (*above, key))


def _field_meant_by(path: Path) -> str:
    meant = meant_by(path)
    return ".".join(meant.path) if meant else ""


def _takes_any(path: Path) -> bool:
    meant = meant_by(path)
    return meant is None or meant.alias.takes_any


def _own_path(field: str) -> Path:
    first, *rest = field.split(".")
    if first == "per_model" and len(rest) > 3:  # a model key may hold dots
        return (first, ".".join(rest[:-2]), *rest[-2:])
    return (first, *rest)


def _holds(settings: Any, path: Path, value: Any) -> bool:
    for name in path:
        if not isinstance(settings, Mapping) or name not in settings:
            return False
        settings = settings[name]
    return type(settings) is type(value) and settings == value


def _with(settings: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    changed = nested_copy(settings)
    if value is not None:
        merge(changed, nested(path, value))
        return changed
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return changed


def _without_empty(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Without sections that hold nothing: a file says the same with and without them."""
    kept = {key: _without_empty(value) if isinstance(value, Mapping) else value for key, value in settings.items()}
    return {key: value for key, value in kept.items() if value not in (None, {})}


# -- TOML ----------------------------------------------------------------------------------------------------------


def _in_toml(text: str, path: Path, value: Any) -> str:
    document = tomlkit.parse(text)
    tables: list[Any] = [document]
    for name in path[:-1]:
        tables.append(tables[-1].setdefault(name, tomlkit.table()))
    if value is not None:
        tables[-1][path[-1]] = value
        return tomlkit.dumps(document)
    for table, name in zip(reversed(tables), reversed(path), strict=True):
        del table[name]
        if table:
            break
    return tomlkit.dumps(document)


# -- YAML, and JSON, which is YAML in braces -----------------------------------------------------------------------


def _in_yaml(text: str, path: Path, value: Any, json_only: bool) -> str:
    """`text` edited at the places that its parser names, since no library writes YAML as it found it."""
    text = "{}\n" if json_only and not text.strip() else text
    # Between the tokens of JSON there may be tabs, which are not YAML's; inside them there are none.
    root = yaml.compose(text.replace("\t", " ") if json_only else text, Loader=yaml.SafeLoader)
    entries = _entries(root, path)
    if value is None:
        return _removed(text, entries)
    if len(entries) == len(path):
        return _replaced(text, entries[-1], _written(value, json_only=json_only))
    return _inserted(text, root, entries, path[len(entries) :], value, json_only=json_only)


class _Entry:
    """A key of a mapping with its value. Positions count characters of the text."""

    def __init__(self, mapping: yaml.MappingNode, index: int) -> None:
        self.mapping, self.index = mapping, index
        self.key, self.value = mapping.value[index]

    def end(self, text: str) -> int:
        """Where the value ends, without the comments and empty lines that the parser counts to a block."""
        key_end: int = self.key.end_mark.index
        return max(key_end, _end(self.value, text))


def _end(node: yaml.Node, text: str) -> int:
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        parts: tuple[yaml.Node, ...] = last if isinstance(last, tuple) else (last,)
        return max(_end(part, text) for part in parts)
    return len(text[: node.end_mark.index].rstrip())


def _entries(node: yaml.Node | None, path: Path) -> list[_Entry]:
    """The entries that lead to `path`, as far as they are there."""
    found: list[_Entry] = []
    for name in path:
        names = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        if not isinstance(node, yaml.MappingNode) or name not in names:
            break
        found.append(_Entry(node, names.index(name)))
        node = found[-1].value
    return found


def _replaced(text: str, entry: _Entry, written: str) -> str:
    begin, end = entry.value.start_mark.index, entry.end(text)
    if isinstance(entry.value, yaml.ScalarNode) and begin < end:
        return text[:begin] + written + text[end:]
    return f"{text[: entry.key.end_mark.index]}: {written}{text[end:]}"


def _removed(text: str, entries: list[_Entry]) -> str:
    """Without the last entry, and without the sections that would be left empty."""
    while len(entries) > 1 and len(entries[-1].mapping.value) == 1:
        entries = entries[:-1]
    entry = entries[-1]
    begin, end = entry.key.start_mark.index, entry.end(text)
    if not entry.mapping.flow_style:
        begin = text.rfind("\n", 0, begin) + 1
        return text[:begin] + text[_line_end(text, end) :]
    if entry.index + 1 < len(entry.mapping.value):
        end = entry.mapping.value[entry.index + 1][0].start_mark.index
    elif entry.index:
        begin = _Entry(entry.mapping, entry.index - 1).end(text)
    return text[:begin] + text[end:]


def _inserted(
    text: str, root: yaml.Node | None, entries: list[_Entry], path: Path, value: Any, *, json_only: bool
) -> str:
    """With `path`, which is not there, in the mapping that `entries` lead to."""
    place = entries[-1].value if entries else root
    if isinstance(place, yaml.MappingNode) and place.flow_style:
        return _inserted_in_braces(text, place, _written(nested(path, value), json_only=json_only)[1:-1])
    step = _indentation(root)
    if isinstance(place, yaml.MappingNode) and place.value:
        column, after = place.value[0][0].start_mark.column, _Entry(place, len(place.value) - 1).end(text)
    elif entries:
        column, after = entries[-1].key.start_mark.column + step, entries[-1].end(text)
    else:
        column, after = 0, len(text)
    lines = [f"{' ' * (column + step * depth)}{_written(name)}:" for depth, name in enumerate(path)]
    lines[-1] += f" {_written(value)}"
    newline = "\r\n" if "\r\n" in text else "\n"
    after = _line_end(text, after)
    begin = newline if after and text[after - 1] != "\n" else ""
    return text[:after] + begin + newline.join([*lines, ""]) + text[after:]


def _inserted_in_braces(text: str, place: yaml.MappingNode, written: str) -> str:
    opened = place.start_mark.index + 1
    if not place.value:
        return text[:opened] + written + text[opened:]
    gap = text[opened : place.value[0][0].start_mark.index]
    after = _Entry(place, len(place.value) - 1).end(text)
    separator = f",{gap}" if "\n" in gap and not gap.strip() else ", "
    return text[:after] + separator + written + text[after:]


def _line_end(text: str, position: int) -> int:
    """Where the next line begins; the end of the text where there is none."""
    return text.find("\n", position) + 1 or len(text)


def _indentation(root: yaml.Node | None) -> int:
    """How far the file sets settings in; 2 where it has no section yet."""
    values = [value for _, value in root.value] if isinstance(root, yaml.MappingNode) else []
    blocks = [node for node in values if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value]
    return blocks[0].value[0][0].start_mark.column if blocks else 2


def _written(value: Any, *, json_only: bool = False) -> str:
    """A value in one line of YAML, or of JSON."""
    if json_only:
        return json.dumps(value, ensure_ascii=False)
    match value:
        case Mapping():
            return "{" + ", ".join(f"{_written(name)}: {_written(inner)}" for name, inner in value.items()) + "}"
        case list() | tuple():
            return f"[{', '.join(map(_written, value))}]"
        case str() if re.fullmatch(r"[\w./-]+( [\w./-]+)*", value) and yaml.safe_load(value) == value:
            return value
        case float() if "." not in (number := json.dumps(value)):
            return number.replace("e", ".0e")  # YAML 1.1 has no number 1e-05
        case _:
            return json.dumps(value, ensure_ascii=False)
