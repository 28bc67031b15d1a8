"""Where settings come from: a flag before the environment, the environment before the file, the file before defaults.

file ──┐
environment ──┼── layers, lowest first ── one tree of settings, each with its origin ── parse ── Resolved
flags ──┘
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from oneseek.config.body import of_body
from oneseek.config.layers import ConfigNote, Layer, fields, lay_over, merge, nested, with_own_names
from oneseek.config.parse import ConfigProblem, leaves, parse
from oneseek.config.schema import TrainingConfig
from oneseek.config.text import NOT_CONFIGURATION, scalar, settings_in
from oneseek.errors import ConfigError
from oneseek.names import nearest_name, normalize_model_name

PREFIX = "ONESEEK_"
LARGEST_FILE = 1 << 20  # bytes; a configuration of every setting is a few KiB


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A configuration, and for each of its dotted fields where the value came from.

    An origin is `default`, `file <path>`, `environment <variable>`, `flag` or `HTTP body`; behind it stands the name
    that the value was given under where that is another tool's: `file train.yaml (as lora_rank)`. `given` has the same
    of everything that was given, also of what could not be taken.
    """

    config: TrainingConfig
    origins: dict[str, str]
    problems: tuple[ConfigProblem, ...]
    given: dict[str, str] = {}
    notes: tuple[ConfigNote, ...] = ()


def resolve(
    *,
    file: Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
    body: Mapping[str, Any] | None = None,
) -> Resolved:
    """The configuration that file, environment and flags ask for together, with every problem in it.

    flags: nested (`{"training": {"seed": 1}}`) or dotted (`{"training.seed": 1}`); None means not given.
    body: what a program sent in place of flags, as `of_body` reads it.

    Raises:
        ConfigError: the file cannot be read as settings at all.
    """
    sources = (of_file(file), of_environment(environment), of_flags(flags), of_body(body or {}))
    layers = tuple(map(with_own_names, sources))
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        lay_over(settings, origins, layer)
    config, problems = parse(settings)
    problems = (*(problem for layer in layers for problem in layer.problems), *problems)
    refused = {problem.field for problem in problems}
    every = [".".join(path) for path, _ in leaves(config.model_dump())]
    return Resolved(
        config=config,
        origins={field: "default" if field in refused else origins.get(field, "default") for field in every},
        problems=tuple(problems),
        given=origins,
        notes=tuple(note for layer in layers for note in layer.notes),
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
    return settings_in(text_of(path), str(path))


def of_file(path: Path | None) -> Layer:
    """The settings of a configuration file as a layer.

    Raises:
        ConfigError: as in `load`.
    """
    settings = load(path) if path is not None else {}
    return Layer(settings, dict.fromkeys(fields(settings), f"file {path}"))


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
            given = nested(path, scalar(text))
        except ConfigError as error:
            problems.append(_broken(path, variable, text, error))
            continue
        twice = [field for field in fields(given) if field in origins]
        problems += [_given_twice(field, origins[field], variable, text) for field in twice]
        merge(settings, given)
        origins |= dict.fromkeys(fields(given), f"environment {variable}")
    return Layer(settings, origins, tuple(problems))


def of_flags(flags: Mapping[str, Any]) -> Layer:
    """Command-line settings as a layer; those that are None were not given."""
    settings: dict[str, Any] = {}
    for path, value in leaves(flags):
        if value is not None:
            merge(settings, nested(tuple(step for part in path for step in part.split(".")), value))
    return Layer(settings, dict.fromkeys(fields(settings), "flag"))


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
        merge(settings, nested(path, scalar(value)))
    return settings


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


def text_of(path: Path) -> str:
    """The text of a configuration file.

    Raises:
        ConfigError: it is not there, not readable, too large, or not UTF-8.
    """
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
