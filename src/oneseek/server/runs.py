"""Runs that are there: listed, shown, stopped, taken up again, and what their processes said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Query, Response

from oneseek.errors import RunUnknown
from oneseek.files.durable import storage_errors
from oneseek.files.layout import Home
from oneseek.names import normalize_model_name
from oneseek.runs import KnownRun, OldRun, describe, list_runs, old_runs
from oneseek.runs.old import old_named
from oneseek.runs.queue import Place, Supervisor
from oneseek.server.bodies import BODY, answer, answers, asks, received, refuses
from oneseek.server.download import open_without_links
from oneseek.server.errors import Refusal
from oneseek.server.places import Hide, hiding
from oneseek.server.speech import speaking, spoken

TAIL: Final = 64 << 10
LONGEST_TAIL: Final = 1 << 20
"""Bytes of a log that are told, unless others are asked for, and at most."""


class Runs(msgspec.Struct, frozen=True):
    """Runs as `oneseek runs list --json` has them, the newest first; below them, what the old system left."""

    runs: list[dict[str, Any]]


class Stop(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """When a run is to stop: after the epoch that it is in, at once (what the epoch did is lost), or even where its
    process heeds nothing. Whichever it is, the run can be resumed."""

    when: Literal["after-epoch", "now", "kill"] = "after-epoch"


class Resume(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Where a run is to go on; on any device unless one is named."""

    device: str | None = None


def listed(run: KnownRun, hide: Hide) -> dict[str, Any]:
    """A run as the command line lists it; its place as one below the models directory, not of this machine."""
    told = run.wire()
    told["certified_dir"] = run.directory.relative_to(run.directory.parent.parent).as_posix()
    words = ("problem", "failure", "failed_models")
    said: dict[str, Any] = hide({name: told[name] for name in words if told.get(name)})
    return told | said


def shown(run: KnownRun, hide: Hide) -> dict[str, Any]:
    """One run with its detail, as the command line shows it. In its settings, datasets go by the names that a request
    may have."""
    told: dict[str, Any] = listed(run, hide) | hide(run.detail())
    if "config" in told and told["dataset"]:
        used = told["dataset"]
        names = {"dataset": used["name"], "validation_dataset": used["validation_name"]}
        told["config"] |= {"data": told["config"]["data"] | names}
    return told


def routes(runs: Supervisor, *, home: Home) -> APIRouter:
    """Everything below /api/runs that is about a run itself."""
    router = APIRouter()
    hide = speaking(hiding(home))

    def listed_old(run: OldRun) -> dict[str, Any]:
        return run.wire() | {"path": run.path.relative_to(home.models).as_posix()}

    @router.get("/api/runs", responses=answers(Runs, {"runs": [LISTED]}))
    def every_run() -> Response:
        """Every run, the newest first; below them, what the old system left."""
        old = spoken([listed_old(run) for run in old_runs(home)])
        return answer(Runs([*(listed(run, hide) for run in list_runs(home)), *old]))

    @router.get("/api/runs/{run_id}", responses=answers(dict[str, Any], LISTED | DETAIL) | refuses(404, 409))
    def one_run(run_id: str) -> Response:
        """One run, with its settings, leaderboard and answers to sample prompts; or what the old system left of one."""
        try:
            known = describe(runs.find(run_id))
        except RunUnknown:
            old = old_named(run_id, home)
            if old is None:
                raise
            return answer(spoken(listed_old(old) | old.detail(), "reason"))
        return answer(shown(known, hide))

    @router.post(
        "/api/runs/{run_id}/stop",
        status_code=202,
        openapi_extra=asks(Stop, {"when": "after-epoch"}),
        responses=answers(dict[str, Any], LISTED, status=202, description="It was told") | refuses(404, 409, *BODY),
    )
    def stop(run_id: str, asked: Annotated[Stop, received(Stop)]) -> Response:
        """Stop a run that is running or waits for its turn."""
        runs.stop(run_id, asked.when)
        return answer(listed(describe(runs.find(run_id)), hide), 202)

    @router.post(
        "/api/runs/{run_id}/resume",
        status_code=202,
        openapi_extra=asks(Resume, {"device": "cpu"}),
        responses=answers(Place, WAITING, status=202, description="It waits for its turn") | refuses(404, 409, *BODY),
    )
    def resume(run_id: str, asked: Annotated[Resume, received(Resume)]) -> Response:
        """Let a run that was stopped, interrupted or failed go on from its last whole epoch."""
        return answer(runs.resume(run_id, asked.device), 202)

    @router.get("/api/runs/{run_id}/log", response_class=_Text, responses=refuses(404))
    def log(
        run_id: str,
        most: Annotated[int, Query(alias="bytes", ge=1, le=LONGEST_TAIL, description="of its end")] = TAIL,
        model: Annotated[str | None, Query(description="the key of a model: what its worker said")] = None,
    ) -> Response:
        """The end of what a run's process said, where this server started it; of a model's worker while it is there."""
        directory = runs.find(run_id)
        if model is None:
            return _Text(_tail(home.root, home.run_log(directory.run_id), most))
        if not model or normalize_model_name(model) != model:  # it becomes the name of a file
            raise Refusal(404, f"{model[:80]!r} is not the key of a model.", f"GET /api/runs/{run_id} has them.")
        return _Text(_tail(directory.root, directory.worker_log(model), most))

    return router


class _Text(Response):
    media_type = "text/plain"
    charset = "utf-8"


def _tail(root: Path, path: Path, most: int) -> str:
    """The end of a log below `root`. Workers write what they like, so what is no text there is replaced."""
    with storage_errors(path):
        try:
            with open_without_links(root, path.relative_to(root).as_posix()) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - most))
                return file.read(most).decode("utf-8", "replace")
        except PermissionError:
            raise
        except OSError:  # none, or something that is no file
            raise Refusal(
                404,
                f"There is no log {path.stem}.",
                "It is kept of what this server started, a worker's as long as it runs.",
            ) from None


WAITING = Place(run_id="run-20251122-143025", device="cpu", position=0, status="queued", pid=None)
LISTED = {
    "run_id": "run-20251122-143025",
    "status": "certified",
    "created_at": "2025-11-22T14:30:25.123Z",
    "certified_dir": "oneseek-certified/run-20251122-143025",
    "problem": None,
    "verifiable": True,
    "version": "1.0",
    "engine": "torch",
    "dataset": {
        "name": "rows.jsonl",
        "sha256": "01234567" * 8,
        "format": "messages",
        "strategy": "chat",
        "rows": 1200,
        "training_rows": 1080,
        "validation_rows": 120,
        "quarantined_rows": 0,
        "validation_name": None,
    },
    "base_models": ["llama-2-7b", "mistral-7b"],
    "display_names": {"llama-2-7b": "Llama-2-7B", "mistral-7b": "Mistral-7B"},
    "current_epoch": 3,
    "total_epochs": 3,
    "champion": "mistral-7b",
    "leader": "mistral-7b",
    "rank_by": "bits_per_byte",
    "bits_per_byte": 0.49,
    "val_loss": 1.17,
    "failure": None,
    "seconds": 1906.5,
    "ended_at": "2025-11-22T15:02:11.123Z",
}
DETAIL = {
    "leaderboard": [],
    "config": {"training": {"num_epochs": 3}},
    "warnings": [],
    "final_weights": {"llama-2-7b": 0.25, "mistral-7b": 0.75},
    "reason": "all_epochs",
}
