"""Settings as a request sends them, and what there is to set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Response

from oneseek.config import reference
from oneseek.config.body import ORIGIN, refuse_too_deep
from oneseek.config.json_schema import json_schema
from oneseek.config.parse import ConfigProblem, leaves, shown
from oneseek.config.schema import TrainingConfig
from oneseek.config.sources import Resolved, resolve
from oneseek.datasets.store import find
from oneseek.errors import ConfigError, DatasetError
from oneseek.files.layout import Home
from oneseek.preflight.looking import ANEW, Looking
from oneseek.registry.hub import is_hub_id
from oneseek.server.bodies import answer, answers, received

DATASETS: Final = ("data.dataset", "data.validation_dataset")
BASE_MODELS: Final = ("model.base_models", "model.name")
DIRECTORY: Final = "output.directory"

MOST = 1_000
"""Values of a body. There are less than a hundred settings, and for each unknown one its nearest is looked for."""

_PATH = re.compile(r"[/\\]|^[~.]")


async def bounded(body: Annotated[dict[str, Any], received(dict[str, Any])]) -> dict[str, Any]:
    """What a route takes as `Depends`: a body of settings, small and flat enough to be handed to another process.

    Raises:
        ConfigError: it is nested deeper than settings are, or has far more of them than there are.
    """
    refuse_too_deep(body)
    if (count := sum(1 for _ in leaves(body))) > MOST:
        raise ConfigError(f"The body has {count:,} settings.", f"Send {MOST:,} at most; GET /api/config lists them.")
    return body


def requested(
    body: Mapping[str, Any],
    environment: Mapping[str, str],
    home: Home,
    devices: Sequence[str],
    looking: Looking = ANEW,
) -> Resolved:
    """The settings of a request's body, above those of the server's environment. No body names a place of this machine:
    datasets are those that are stored here or lie in the home's datasets/, by name or hash; base models go by key, name
    or hub id; where results are kept is not for requests to say. What is asked for otherwise is a problem like those of
    all settings, and left out.

    body: settings as `config.body.of_body` reads them, and `device`, which is one of `devices`.
    """
    settings = {name: value for name, value in body.items() if name != "device"}
    resolved = resolve(file=None, environment=environment, flags={}, body=settings)
    config, problems = resolved.config, list(resolved.problems)
    if body.get("device") not in (None, *devices):
        fix = f"Set device to one of {', '.join(devices)}, or leave it out."
        wrong = f"device is {shown(body['device'])}."
        problems.append(_problem("device", body["device"], wrong, fix, (("device", None),)))
    for field in (*DATASETS, *BASE_MODELS, DIRECTORY):
        section, _, name = field.partition(".")
        value = getattr(getattr(config, section), name)
        if value and resolved.origins[field].startswith(ORIGIN):
            taken, found = _judged(field, value, home, looking)
            problems += found
            config = _with(config, section, name, taken)
    return msgspec.structs.replace(resolved, config=config, problems=tuple(problems))


def _judged(field: str, value: Any, home: Home, looking: Looking) -> tuple[Any, list[ConfigProblem]]:
    """What is taken of a value from outside, and what is wrong with it."""
    if field in DATASETS:
        return _dataset(field, value, home, looking)
    if field in BASE_MODELS:
        return _base_models(field, value)
    problem = f"{field} is {shown(value)}, but results go where the server keeps them."
    return None, [_problem(field, value, problem, f"Remove {field}.", ((field, None),))]


def _dataset(field: str, name: str, home: Home, looking: Looking) -> tuple[str | None, list[ConfigProblem]]:
    try:
        # Never as a path: the working directory of the server is nobody's concern.
        path = None if _PATH.search(name) else find(home, name, looking.digest)
    except DatasetError as error:
        return None, [_problem(field, name, error.problem, error.fix)]
    if path is None:
        problem = f"{field} is {shown(name)}, which is no dataset of this server."
        fix = "Upload it first: POST /api/datasets?name=NAME, then give its name or hash."
        return None, [_problem(field, name, problem, fix)]
    return str(path), []


def _base_models(field: str, value: str | tuple[str, ...]) -> tuple[Any, list[ConfigProblem]]:
    names = (value,) if isinstance(value, str) else value
    paths = [name for name in names if _PATH.search(name) and not is_hub_id(name)]
    fix = "Name base models by key, name or hub id: GET /api/models lists those that are here."
    problems = [_problem(field, name, f"{field} names {shown(name)}, which is a path.", fix) for name in paths]
    if isinstance(value, str):
        return (None if paths else value), problems
    return tuple(name for name in names if name not in paths), problems


def _problem(
    field: str, value: Any, problem: str, fix: str, changes: tuple[tuple[str, Any], ...] = ()
) -> ConfigProblem:
    return ConfigProblem(kind="value", field=field, value=value, problem=problem, fix=fix, changes=changes)


def _with(config: TrainingConfig, section: str, name: str, value: Any) -> TrainingConfig:
    changed = getattr(config, section).model_copy(update={name: value})
    return config.model_copy(update={section: changed})


# -- what there is to set ------------------------------------------------------------------------------------------


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A setting: its place, what it takes in words (`expects`, `bounds`), the range outside which a warning is given,
    and what it is for."""

    field: str
    section: str
    name: str
    type: str
    default: Any
    optional: bool
    choices: tuple[str, ...]
    bounds: tuple[str, ...]
    recommended: tuple[float, float] | None
    unit: str
    expects: str
    help: str


class Settings(msgspec.Struct, frozen=True):
    """Every setting, in the schema's order."""

    settings: tuple[Setting, ...]


def routes() -> APIRouter:
    """What there is to set: for people's forms and programs' checks."""
    router = APIRouter()
    example = Settings((_told(reference.settings()["lora.r"]),))

    @router.get("/api/config", responses=answers(Settings, example))
    def every_setting() -> Response:
        """Every setting with its default, what it takes, and what it is for."""
        return answer(Settings(tuple(map(_told, reference.settings().values()))))

    @router.get("/api/config/schema", responses=answers(dict[str, Any], {"title": "Configuration of OneSeek"}))
    def schema() -> Response:
        """JSON Schema (2020-12) of all settings, with bounds as numbers."""
        return answer(json_schema())

    return router


def _told(setting: reference.Setting) -> Setting:
    section, _, name = setting.field.rpartition(".")
    return Setting(
        field=setting.field,
        section=section,
        name=name,
        type=setting.kind,
        default=setting.default,
        optional=setting.optional,
        choices=setting.choices,
        bounds=setting.bounds,
        recommended=setting.recommended,
        unit=setting.unit,
        expects=setting.expects,
        help=setting.text,
    )
