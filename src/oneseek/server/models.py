"""Base models over HTTP: which there are, what each can do, downloads and conversions as tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query, Response

from oneseek.config.schema import split_list
from oneseek.datasets.limited import template_traits
from oneseek.executors.converting import convert_model
from oneseek.files.layout import Home
from oneseek.names import normalize_model_name
from oneseek.registry.cache import cache_directory
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.coverage import asked_for, coverage
from oneseek.registry.discover import discover
from oneseek.registry.hub import HubError, HubErrorKind, is_hub_id, locate, pickled
from oneseek.registry.pull import Pull, PullProgress, look_up, pull
from oneseek.server.bodies import BODY, answer, answers, asks, received, refuses
from oneseek.server.errors import Refusal
from oneseek.server.places import hiding
from oneseek.server.speech import speaking
from oneseek.server.tasks import Progress, Task, Tasks, Tell

STATUSES: dict[HubErrorKind, int] = {
    "not-an-id": 400,
    "missing": 404,
    "gated": 400,
    "no-safetensors": 400,
    "offline": 502,
    "broken": 502,
    "busy": 502,
    "disk": 507,
}
"""What each kind of trouble with the hub is answered with."""


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model to download: `org/name`, with `@revision` if need be, or the key of one that is in the cache."""

    name: str


def routes(home: Home, tasks: Tasks, environment: Mapping[str, str]) -> APIRouter:
    """Everything below /api/models. A model is called by its key, or by its id on the hub (`org/name`)."""
    cache = home.cache or cache_directory(environment)
    hide = speaking(hiding(home))
    router = APIRouter()

    def known(key: str) -> ModelInfo:
        found = discover(home.models, cache)
        model = next((info for info in found.models if info.key == key), None)
        if model is None and is_hub_id(key):
            with _answered():
                return locate(key, found, cache)
        if model is None:
            raise Refusal(404, f"There is no base model {key[:200]!r}.", "Those there are: GET /api/models")
        return model

    @router.get("/api/models", responses=answers(dict[str, list[dict[str, Any]]]))
    def list_models() -> Response:
        """Every base model in the models directory and in the Hugging Face cache, as `oneseek models list --json`."""
        return answer(hide({"models": discover(home.models, cache).wire()}))

    @router.get("/api/models/{key:path}", responses=answers(dict[str, Any]) | refuses(404, 502))
    def show(key: str, targets: Annotated[str, Query(alias="targetModules")] = "") -> Response:
        """What one can do, as `oneseek models show --json`, and what a list of target modules with commas would train
        of it."""
        model = known(key)
        cover = coverage(model, asked_for(split_list(targets)))
        more = {"template": msgspec.to_builtins(template_traits(model)), "coverage": cover.wire()}
        return answer(hide(model.wire() | more))

    @router.post(
        "/api/models/pull",
        status_code=202,
        responses=answers(Task, status=202, description="It is a task") | refuses(404, 429, 502, *BODY),
        openapi_extra=asks(Wanted, {"name": "HuggingFaceTB/SmolLM2-135M-Instruct"}),
    )
    def pull_model(asked: Annotated[Wanted, received(Wanted)]) -> Response:
        """Download a model into the Hugging Face cache. The same one is downloaded once, however often it is asked
        for; one that is here is checked."""
        in_cache = {info.key: info.hub_id for info in discover(home.models, cache).models if info.hub_id}
        with _answered():
            wanted = look_up(in_cache.get(asked.name, asked.name), cache)

        about = {"model": wanted.model.hub_id, "revision": wanted.model.commit}
        return answer(tasks.start("pull", about, partial(_fetched, wanted), wanted.warning), 202)

    @router.post(
        "/api/models/{key}/convert",
        status_code=202,
        responses=answers(Task, status=202, description="It is a task") | refuses(404, 429),
    )
    def convert(key: str) -> Response:
        """Write safetensors files beside pickled weights, which stay. Nothing in the pickle is run."""
        path = pickled(known(key))

        def write(tell: Tell) -> Any:
            return {"key": key, "written": convert_model(path, lambda: tell(None))}

        return answer(tasks.start("convert", {"model": key}, write), 202)

    return router


def _fetched(wanted: Pull, tell: Tell) -> dict[str, Any]:
    def heard(at: PullProgress) -> None:
        tell(Progress(done=at.done, total=at.total, bytes_per_second=at.bytes_per_second, seconds_left=at.seconds_left))

    pull(wanted, heard)
    model = wanted.model
    key = normalize_model_name(model.hub_id)
    return {"model": model.hub_id, "revision": model.commit, "key": key}


@contextmanager
def _answered() -> Iterator[None]:
    """The hub's troubles with the statuses that programs know."""
    try:
        yield
    except HubError as error:
        raise Refusal(STATUSES[error.kind], error.problem, error.fix) from error
