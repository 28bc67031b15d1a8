"""Settings as text: YAML, TOML or JSON. What a console printed is told from settings, and a key stands once."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from typing import Any

import yaml

from oneseek.config.parse import is_too_deep, shown
from oneseek.config.schema import TrainingConfig
from oneseek.errors import ConfigError

NOT_CONFIGURATION = (
    "Name a .yaml, .toml or .json file with your settings, or give them as flags. docs/configuration.md shows one."
)


def settings_in(text: str, name: str) -> dict[str, Any]:
    """The settings written in `text`; `name`, which names it in errors, ends as its format does.

    Raises:
        ConfigError: another ending, broken, not settings at all, a key twice, or console output.
    """
    reader = _READERS.get("." + name.rpartition(".")[2].lower())
    if reader is None:
        raise ConfigError(
            f"{name} does not end in {', '.join(_READERS)}.", "Write the settings in one of these formats."
        )
    try:
        settings = _not_too_deep(reader(text))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _console_output(name, text) or ConfigError(
            f"{name} cannot be read: {_reason(error)}.", "Correct the file there."
        ) from error
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not settings.keys() & TrainingConfig.model_fields.keys():
        refused = _console_output(name, text)
        if refused is not None:
            raise refused
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{name} holds {shown(settings)}, not settings.",
            "Write sections with settings under them, as in model: or training:.",
        )
    return settings


def scalar(text: str) -> Any:
    """A value written in a variable or after `--set`.

    What begins with a bracket, a brace or a quote is read as YAML. Everything else stays text: the schema makes numbers
    and switches of it where they belong, and version 1.10 does not become 1.1.

    Raises:
        ConfigError: a bracket or quote is left open.
    """
    if text.lstrip()[:1] in tuple("[{\"'"):
        try:
            return _not_too_deep(_from_yaml(text))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{text!r} cannot be read: {_reason(error)}.", "Close every bracket and quote."
            ) from error
    return text


def _not_too_deep(value: Any) -> Any:
    if is_too_deep(value):
        raise RecursionError
    return value


class _OneKeyOnce(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys and says nothing; here they are an error.

    So are more aliases than settings need: some dozens, nested, stand for billions of values. And so is an alias inside
    what it stands for, which has no end.
    """

    most_aliases = 24

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.aliases = 0
        self.open_anchors: list[str] = []

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        opened: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(opened, yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > self.most_aliases:
                raise yaml.composer.ComposerError(None, None, f"more than {self.most_aliases} aliases")
            if opened.anchor in self.open_anchors:
                said, mark = f"{opened.anchor!r} stands for what it is part of", opened.start_mark
                raise yaml.composer.ComposerError(None, None, said, mark)  # type: ignore[arg-type]  # two Mark classes
            return super().compose_node(parent, index)
        self.open_anchors.append(opened.anchor or "")
        node = super().compose_node(parent, index)
        self.open_anchors.pop()
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode):
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key_node.value!r} is given twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def _from_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_OneKeyOnce)


def _from_json(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for name, value in pairs:
            if name in settings:
                raise ValueError(f"{name!r} is given twice")
            settings[name] = value
        return settings

    return json.loads(text, object_pairs_hook=once) if text.strip() else None


_READERS: dict[str, Callable[[str], Any]] = {
    ".yaml": _from_yaml,
    ".yml": _from_yaml,
    ".toml": tomllib.loads,
    ".json": _from_json,
}

_CONSOLE = re.compile(
    r"""^[\ \t]*(
        Traceback\ \(most\ recent\ call\ last\)
      | \[(ERROR|SUCCESS|MODE|INFO|WARN(ING)?|DEBUG|OK|FAIL(ED)?)\]
      | ={5,}\s*$
      | File\ ".+",\ line\ \d+
      | ([\w.]+\.)?\w*(Error|Exception|Warning):
      | \x1b\[
    )""",
    re.MULTILINE | re.VERBOSE,
)


def _console_output(name: str, text: str) -> ConfigError | None:
    sign = _CONSOLE.search(text)
    if sign is None:
        return None
    line = text.count("\n", 0, sign.start(1)) + 1
    return ConfigError(
        f"{name} is console output, not configuration: line {line} is {shown(text.splitlines()[line - 1].strip())}.",
        NOT_CONFIGURATION,
    )


def _reason(error: Exception) -> str:
    """What a parser found, in one line with the place."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split()).rstrip(".")
