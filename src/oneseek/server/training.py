"""Training over HTTP: judged, started, watched; and runs that are trained elsewhere and only reported."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from oneseek import runs as door
from oneseek.events import wire
from oneseek.files.layout import Home
from oneseek.preflight.finding import PreflightError
from oneseek.preflight.looking import Remembering
from oneseek.runs import Device, Machine, Verdict, outside
from oneseek.runs.queue import Accepted, Supervisor
from oneseek.server import queue, settings
from oneseek.server import runs as known_runs
from oneseek.server.bodies import BODY, answer, answers, asks, received, refuses
from oneseek.server.leaving import unless_left
from oneseek.server.live import Live, Moment
from oneseek.server.places import hiding
from oneseek.server.runs import LISTED, WAITING, Runs, listed
from oneseek.server.speech import speaking, spoken
from oneseek.server.tasks import Task, Tasks, Tell

Body = dict[str, Any]


def routes(
    runs: Supervisor, live: Live, *, home: Home, environment: Mapping[str, str], work: Executor, tasks: Tasks
) -> APIRouter:
    """Training, runs, the queue and settings.

    environment: the server's own settings, below those of a request; it reaches the processes of `work`, where requests
    are judged. tasks: where they are rehearsed.
    """
    router = APIRouter()
    hide = hiding(home)
    tell = speaking(hide)
    for others in (known_runs.routes(runs, home=home), queue.routes(runs), settings.routes()):
        router.include_router(others)

    @router.post(
        "/api/admin/training/start-dna-v2",
        status_code=202,
        openapi_extra=asks(Body, SETTINGS),
        responses=answers(Accepted, ACCEPTED, status=202, description="It waits for its turn") | refuses(409, *BODY),
    )
    def start(asked: Annotated[Body, Depends(settings.bounded)]) -> Response:
        """Train what these settings ask for; they may be flat or in sections, and `device` beside them says where. What
        is wrong with them is told all at once, and nothing is started."""
        wanted = work.submit(settings.requested, asked, environment, home, runs.devices).result()
        device = asked.get("device")
        accepted = runs.submit(wanted, device if device in runs.devices else None)
        return answer(tell(accepted.wire()), 202)

    @router.post(
        "/api/validate",
        openapi_extra=asks(Body, SETTINGS),
        responses=answers(Body, VERDICT)
        | answers(Task, REHEARSAL, status=202, description="It is rehearsed")
        | refuses(429, *BODY),
    )
    async def validate(
        request: Request,
        asked: Annotated[Body, Depends(settings.bounded)],
        partial: Annotated[bool, Query(description="for forms that are being filled: 200 whatever is found")] = False,
        rehearse: Annotated[bool, Query(description="also take each model through one step, as a task")] = False,
    ) -> Response:
        """Everything that would make these settings fail, and what they would take. Nothing is started."""
        verdict = await unless_left(request, work.submit(judged, asked, environment, home, runs.devices))
        if not (verdict.ok or partial):
            raise PreflightError(verdict.findings)
        if rehearse:
            started = await run_in_threadpool(
                tasks.start, "rehearsal", _about(asked), lambda tell: rehearsed(asked, tell)
            )
            return answer(started, 202)
        return await run_in_threadpool(lambda: answer(tell(verdict.wire())))  # saying a thousand findings takes a while

    def rehearsed(asked: Body, tell: Tell) -> Body:
        """The verdict with what a step of each model took; told to nobody how far it is, but it can be cancelled."""
        wanted = settings.requested(asked, environment, home, runs.devices)
        return door.validate(
            wanted.config,
            home,
            problems=wanted.problems,
            trained_on=runs.devices,
            rehearsed=True,
            watch=lambda key, stage: tell(None),
        ).wire()

    @router.get("/api/machine", responses=answers(Machine, MACHINE))
    def machine() -> Response:
        """What runs are trained on here, and how much of it is free just now. Estimates are judged by the machine's own
        memory, also where the devices have theirs."""
        return answer(door.machine(home, runs.devices))

    @router.get("/api/training/active", responses=answers(Runs, {"runs": [LISTED]}))
    def active() -> Response:
        """Runs that are being trained now, or wait for it."""
        return answer(Runs([listed(run, tell) for run in runs.active()]))

    @router.get("/api/training/{run_id}/metrics", responses=answers(Body, METRICS) | refuses(404, 409))
    async def metrics(run_id: str) -> Response:
        """How a run stands, and how it came there, epoch by epoch."""
        return await _viewed(wire.metrics, await live.state(run_id))

    @router.get("/api/training/{run_id}/leaderboard", responses=answers(Body, LEADERBOARD) | refuses(404, 409))
    async def leaderboard(run_id: str) -> Response:
        """Which model is winning."""
        return await _viewed(wire.standings, await live.state(run_id))

    @router.post(
        "/api/training/{run_id}/metrics",
        openapi_extra=asks(outside.Report, REPORT),
        responses=answers(Body, LISTED)
        | answers(Body, LISTED, status=201, description="The run is known from now on")
        | refuses(404, 409, *BODY),
    )
    def report(run_id: str, said: Annotated[Body, received(Body)]) -> Response:
        """What another program tells of a run that it trains, in camelCase or snake_case. The first report of an id
        that nobody has begins the run; it is shown like all others, and never certified."""
        _, begun = outside.report(home, run_id, outside.read(said))
        return answer(listed(door.describe(runs.find(run_id)), tell), 201 if begun else 200)

    return router


def judged(body: Body, environment: Mapping[str, str], home: Home, devices: Sequence[str]) -> Verdict:
    """What preflight says of a request's body. It may be asked at every key press of a form, so this process remembers
    what it has seen."""
    wanted = settings.requested(body, environment, home, devices, _SEEN)
    return door.validate(wanted.config, home, problems=wanted.problems, trained_on=devices, looking=_SEEN)


_SEEN = Remembering()


def warmed(environment: Mapping[str, str], home: Home, devices: Sequence[str]) -> None:
    """Let this process import what it needs to judge, and look at the base models, before anybody waits for it."""
    judged({}, environment, home, devices)


async def _viewed(view: Callable[..., wire.Body], moment: Moment) -> Response:
    """A view of a run, made beside the event loop: its history may be long."""
    return await run_in_threadpool(lambda: answer(spoken(view(moment.at, moment.state, moment.status))))


def _about(body: Body) -> dict[str, str]:
    """What tells one rehearsal from another."""
    return {"settings": hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()[:16]}


MACHINE = Machine(
    devices=(Device(name="cpu", title="AMD EPYC 7763", memory_bytes=66 * 10**9, free_memory_bytes=58 * 10**9),),
    memory_bytes=66 * 10**9,
    free_memory_bytes=58 * 10**9,
    disk_free_bytes=410 * 10**9,
    cores=16,
)
SETTINGS = {"datasetId": "rows.jsonl", "baseModels": ["llama-2-7b", "mistral-7b"], "epochs": 3, "lora": {"r": 16}}
_WARNING: dict[str, Any] = {
    "rule": "enough-examples",
    "severity": "warning",
    "field": "data.dataset",
    "problem": "The dataset has 8 usable row(s); fewer than 10 rarely help.",
    "fix": "Add examples.",
    "model": None,
    "changes": [],
}
ACCEPTED = {**msgspec.to_builtins(WAITING), "version": "1.0", "warnings": [_WARNING]}
VERDICT = {
    "ok": True,
    "findings": [_WARNING],
    "estimate": None,
    "rows": 8,
    "rows_looked_at": 8,
    "machine": msgspec.to_builtins(MACHINE),
}
REHEARSAL = {
    "id": "task-0123456789abcdef",
    "kind": "rehearsal",
    "about": {"settings": "0123456789abcdef"},
    "status": "waiting",
    "created_at": "2025-11-22T14:30:25Z",
}
_STANDING = {
    "run_id": "run-20251122-143025",
    "status": "training",
    "current_epoch": 1,
    "total_epochs": 3,
    "auto_stop_info": {"remaining": 3, "threshold": 0.001, "current_change": None},
    "progress_percent": 33.33,
    "timestamp": "2025-11-22T14:35:01.456Z",
}
METRICS = _STANDING | {
    "val_losses": {"llama-2-7b": 1.21, "mistral-7b": 1.17},
    "bits_per_byte": {"llama-2-7b": 0.52, "mistral-7b": 0.49},
    "weights": {"llama-2-7b": 0.6316, "mistral-7b": 1.3684},
    "lr_multipliers": {"llama-2-7b": 0.00006316, "mistral-7b": 0.00013684},
    "total_loss": 1.19,
    "quarantined": {},
    "display": {"show_weights": True},
    "training_history": [],
}
LEADERBOARD = _STANDING | {
    "leaderboard": [
        {
            "rank": 1,
            "model": "mistral-7b",
            "display_name": "Mistral-7B",
            "val_loss": 1.17,
            "bits_per_byte": 0.49,
            "weight": 1.3684,
            "lr_multiplier": 0.00013684,
            "status": "training",
        }
    ]
}
REPORT = {"epoch": 1, "totalEpochs": 3, "valLosses": {"llama-2-7b": 1.21, "mistral-7b": 1.17}}
