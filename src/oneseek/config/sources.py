"""Where settings come from: a flag before the environment, the environment before the file, the file before defaults.

file ──┐
environment ──┼── layers, lowest first ── one tree of settings, each with its origin ── parse ── Resolved
flags ──┘
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml

from oneseek.config.parse import ConfigProblem, leaves, parse, shown
from oneseek.config.schema import TrainingConfig
from oneseek.errors import ConfigError
from oneseek.names import nearest_name, normalize_model_name

PREFIX = "ONESEEK_"
LARGEST_FILE = 1 << 20  # bytes; a configuration of every setting is a few KiB

NOT_CONFIGURATION = (
    "Name a .yaml, .toml or .json file with your settings, or give them as flags. docs/configuration.md shows one."
)


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration, and for each of its dotted fields where the value came from.

    An origin is `default`, `file <path>`, `environment <variable>` or `flag`.
    """

    config: TrainingConfig
    origins: dict[str, str]
    problems: tuple[ConfigProblem, ...]


class Layer(msgspec.Struct, frozen=True):
    """The settings of one source: nested mappings, and the origin of each dotted field."""

    settings: dict[str, Any]
    origins: dict[str, str]
    problems: tuple[ConfigProblem, ...] = ()


def resolve(*, file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Resolved:
    """The configuration that file, environment and flags ask for together, with every problem in it.

    flags: nested (`{"training": {"seed": 1}}`) or dotted (`{"training.seed": 1}`); None means not given.

    Raises:
        ConfigError: the file cannot be read as settings at all.
    """
    layers = (of_file(file), of_environment(environment), of_flags(flags))
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        _lay_over(settings, origins, layer)
    config, problems = parse(settings)
    problems = (*(problem for layer in layers for problem in layer.problems), *problems)
    refused = {problem.field for problem in problems}
    fields = [".".join(path) for path, _ in leaves(config.model_dump())]
    return Resolved(
        config=config,
        origins={field: "default" if field in refused else origins.get(field, "default") for field in fields},
        problems=problems,
    )


def rows_of(resolved: Resolved) -> list[tuple[str, Any, str]]:
    """(dotted field, value, origin) of every setting, in the schema's order."""
    return [
        (".".join(path), value, resolved.origins[".".join(path)])
        for path, value in leaves(resolved.config.model_dump())
    ]


def load(path: Path) -> dict[str, Any]:
    """The settings in a .yaml, .yml, .toml or .json file; an empty file has none.

    Raises:
        ConfigError: the file is not there, not readable, too large, broken, not settings at all, has a key twice, or
            is console output (pj.yaml always is).
    """
    if "pj.yaml" in (path.name.lower(), _target(path)):
        raise ConfigError(f"{path} is console output and never configuration.", NOT_CONFIGURATION)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"{path} does not end in {', '.join(_READERS)}.", "Write the settings in one of these formats."
        )
    text = _text_of(path)
    try:
        settings = reader(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _console_output(path, text) or ConfigError(
            f"{path} cannot be read: {_reason(error)}.", "Correct the file there."
        ) from error
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not settings.keys() & TrainingConfig.model_fields.keys():
        refused = _console_output(path, text)
        if refused is not None:
            raise refused
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{path} holds {shown(settings)}, not settings.",
            "Write sections with settings under them, as in model: or training:.",
        )
    return settings


def of_file(path: Path | None) -> Layer:
    """The settings of a configuration file as a layer.

    Raises:
        ConfigError: as in `load`.
    """
    settings = load(path) if path is not None else {}
    return Layer(settings, dict.fromkeys(_fields(settings), f"file {path}"))


def of_environment(environment: Mapping[str, str]) -> Layer:
    """The settings in environment variables: BASE_MODELS, and ONESEEK_<SECTION>__<FIELD>.

    Locations (ONESEEK_HOME, MODELS_DIR) and secrets (HF_TOKEN, LEDGER_TOKEN) are no settings and are not read.
    """
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems = []
    for variable, text in sorted(environment.items()):
        path = _path_of_variable(variable)
        if path is None:
            if _looks_like_ours(variable):
                problems.append(_misspelt(variable, text))
            continue
        if variable == "BASE_MODELS" and not text.strip():
            continue
        try:
            given = _nested(path, scalar(text))
        except ConfigError as error:
            problems.append(_broken(path, variable, text, error))
            continue
        twice = [field for field in _fields(given) if field in origins]
        problems += [_given_twice(field, origins[field], variable, text) for field in twice]
        _merge(settings, given)
        origins |= dict.fromkeys(_fields(given), f"environment {variable}")
    return Layer(settings, origins, tuple(problems))


def of_flags(flags: Mapping[str, Any]) -> Layer:
    """Command-line settings as a layer; those that are None were not given."""
    settings: dict[str, Any] = {}
    for path, value in leaves(flags):
        if value is not None:
            _put(settings, tuple(step for part in path for step in part.split(".")), value)
    return Layer(settings, dict.fromkeys(_fields(settings), "flag"))


def assignments(texts: Iterable[str]) -> dict[str, Any]:
    """`["training.num_epochs=5", "lora.r=8"]`, as --set takes them, as nested settings. A later one wins.

    Raises:
        ConfigError: a text without `=` or without a name.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        field, equals, value = text.partition("=")
        path = tuple(field.strip().split("."))
        if not equals or not all(path):
            raise ConfigError(
                f"{text!r} sets nothing.", "Write --set section.field=value, as in --set training.num_epochs=5."
            )
        _put(settings, path, scalar(value))
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
            return yaml.load(text, Loader=_OneKeyOnce)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{text!r} cannot be read: {_reason(error)}.", "Close every bracket and quote."
            ) from error
    return text


# -- layers --------------------------------------------------------------------------------------------------------


def _lay_over(settings: dict[str, Any], origins: dict[str, str], layer: Layer) -> None:
    """Put `layer` over what lies below. Naming base models one way replaces the other way of a lower layer."""
    if {"model.name", "model.base_models"} & layer.origins.keys():
        below = settings.get("model")
        for name in ("name", "base_models"):
            if isinstance(below, dict):
                below.pop(name, None)
            origins.pop(f"model.{name}", None)
    _merge(settings, layer.settings)
    origins |= layer.origins


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping):
            inner = below.get(key)
            below[key] = inner = dict(inner) if isinstance(inner, Mapping) else {}
            _merge(inner, value)
        elif value is not None or not isinstance(below.get(key), Mapping):
            below[key] = value


def _fields(settings: Mapping[Any, Any]) -> list[str]:
    """The dotted names of what is set. A key that is no text is no setting, and a number may be too long to write."""
    return [".".join(path) for path, _ in leaves(settings) if all(isinstance(step, str) for step in path)]


def _put(settings: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    _merge(settings, _nested(path, value))


def _nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    nested: dict[str, Any] = value
    return nested


# -- environment ---------------------------------------------------------------------------------------------------


def _path_of_variable(variable: str) -> tuple[str, ...] | None:
    if variable == "BASE_MODELS":
        return "model", "base_models"
    if not variable.startswith(PREFIX) or "__" not in variable:
        return None
    path = tuple(variable.removeprefix(PREFIX).lower().split("__"))
    # A variable's name cannot hold the hyphens of a model key.
    return (path[0], normalize_model_name(path[1]), *path[2:]) if path[0] == "per_model" else path


def _looks_like_ours(variable: str) -> bool:
    """ONESEEK_TRAINING_SEED: one underscore too few. Other ONESEEK_ variables are not about settings."""
    name = variable.removeprefix(PREFIX).lower()
    return variable.startswith(PREFIX) and any(
        f"{name}_".startswith(f"{section}_") for section in TrainingConfig.model_fields
    )


def _misspelt(variable: str, text: str) -> ConfigProblem:
    known = [PREFIX + "__".join(path).upper() for path, _ in leaves(TrainingConfig().model_dump())]
    near = nearest_name(variable, known)
    return ConfigProblem(
        kind="unknown",
        field=variable,
        value=text,
        problem=f"The environment variable {variable} sets nothing.",
        fix=f"Did you mean {near}?" if near else "Write ONESEEK_<SECTION>__<FIELD>, with two underscores between them.",
    )


def _broken(path: tuple[str, ...], variable: str, text: str, error: ConfigError) -> ConfigProblem:
    return ConfigProblem(
        kind="value",
        field=".".join(path),
        value=text,
        problem=f"The environment variable {variable} is wrong: {error.problem}",
        fix=error.fix,
    )


def _given_twice(field: str, origin: str, variable: str, text: str) -> ConfigProblem:
    return ConfigProblem(
        kind="conflict",
        field=field,
        value=text,
        problem=f"{field} is set by {origin} and by {variable}.",
        fix=f"Unset one of the two variables; --set {field}=... on the command line would win over both.",
    )


# -- files ---------------------------------------------------------------------------------------------------------


def _target(path: Path) -> str:
    """The name of the file that a link leads to."""
    try:
        return path.resolve().name.lower()
    except (OSError, RuntimeError, ValueError):
        return ""  # a link that leads nowhere; reading it says so


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The configuration file {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}.",
            "Name a file that is there and readable.",
        ) from error
    if len(content) > LARGEST_FILE:
        raise ConfigError(f"{path} is larger than {LARGEST_FILE} bytes.", "Name a configuration file, not a dataset.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}.", "Save the file as UTF-8 text.") from error


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


def _console_output(path: Path, text: str) -> ConfigError | None:
    sign = _CONSOLE.search(text)
    if sign is None:
        return None
    line = text.count("\n", 0, sign.start(1)) + 1
    return ConfigError(
        f"{path} is console output, not configuration: line {line} is {shown(text.splitlines()[line - 1].strip())}.",
        NOT_CONFIGURATION,
    )


def _reason(error: Exception) -> str:
    """What a parser found, in one line with the place."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split()).rstrip(".")
