"""The queue: one run at a time per device, the others in an order that can be changed."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Response

from oneseek.runs.queue import Place, Supervisor
from oneseek.server.bodies import BODY, answer, answers, asks, received, refuses
from oneseek.server.runs import WAITING


class Waiting(msgspec.Struct, frozen=True):
    """The devices that runs are trained on, and every run on one or waiting for it: by device, the running one first,
    then in order."""

    devices: tuple[str, ...]
    queue: tuple[Place, ...]


class Move(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A place among the runs that wait for the same device; 0 is next."""

    position: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


def routes(runs: Supervisor) -> APIRouter:
    """Everything below /api/queue."""
    router = APIRouter()

    @router.get("/api/queue", responses=answers(Waiting, {"devices": ["cpu"], "queue": [WAITING]}))
    def queue() -> Response:
        """Who trains, and who waits."""
        return answer(Waiting(tuple(runs.devices), runs.places()))

    @router.patch(
        "/api/queue/{run_id}",
        openapi_extra=asks(Move, {"position": 0}),
        responses=answers(Place, WAITING) | refuses(404, 409, *BODY),
    )
    def move(run_id: str, asked: Annotated[Move, received(Move)]) -> Response:
        """Let a waiting run come sooner or later; behind the last is the last place."""
        return answer(runs.move(run_id, asked.position))

    @router.delete("/api/queue/{run_id}", status_code=204, responses=refuses(404, 409))
    def leave(run_id: str) -> Response:
        """Take a waiting run out of the queue. It can be resumed."""
        runs.dequeue(run_id)
        return Response(status_code=204)

    return router
