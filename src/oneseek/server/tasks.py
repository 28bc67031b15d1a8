"""Work that takes longer than a request: downloads, conversions, rehearsals. A few at a time, in threads; the server
forgets them when it ends, and what they were at can be asked for again."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse

from oneseek.errors import OneSeekError
from oneseek.server.bodies import answer, answers, refuses
from oneseek.server.errors import Error, Refusal, told
from oneseek.server.places import Hide, as_it_is

Status = Literal["waiting", "running", "done", "failed", "cancelled"]

AT_ONCE = 4
MOST_WAITING = 100

_KEPT_SECONDS = 3600.0
_MOST_KEPT = 200
_LOOK = 0.2  # seconds between two looks at a task that somebody follows
_HEARTBEAT = 15.0  # seconds

_log = logging.getLogger("oneseek.server")


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a task is, in bytes of what it is at; `seconds_left` is null where nobody can tell."""

    done: int
    total: int
    bytes_per_second: float = 0.0
    seconds_left: float | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task: of what `kind` it is and what it is `about`, its `result` once it is done, the `error` that it failed
    with. `warning` is what is to be known while there is time to cancel it. Times are UTC."""

    id: str
    kind: str
    about: dict[str, str]
    status: Status
    created_at: str
    warning: str | None = None
    progress: Progress | None = None
    result: Any = None
    error: Error | None = None
    ended_at: str | None = None

    @property
    def over(self) -> bool:
        return self.status not in ("waiting", "running")


class Listed(msgspec.Struct, frozen=True):
    """Tasks, the newest first."""

    tasks: list[Task]


class CancelledError(Exception):
    """Somebody wants a task to end."""


Tell = Callable[[Progress | None], None]
"""What a task's function calls again and again, with how far it is where it knows.

Raises:
    CancelledError: it shall end.
"""


@dataclass(eq=False)
class _Job:
    task: Task
    function: Callable[[Tell], Any]
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: float = 0.0

    def change(self, **fields: Any) -> None:
        self.task = msgspec.structs.replace(self.task, **fields)

    def tell(self, progress: Progress | None = None) -> None:
        if self.cancelled.is_set():
            raise CancelledError
        if progress is not None:
            self.change(progress=progress)


class Tasks:
    """What is waiting and running, and what has ended in the last hour. Called from several threads."""

    def __init__(self, at_once: int = AT_ONCE, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once = at_once
        self._clock = clock
        self._jobs: dict[str, _Job] = {}  # in the order in which they were started
        self._waiting: deque[_Job] = deque()
        self._running = 0
        self._changing = threading.Condition()

    def start(
        self, kind: str, about: Mapping[str, str], function: Callable[[Tell], Any], warning: str | None = None
    ) -> Task:
        """Have a function called as soon as there is room; it returns the result, which is told as JSON. What is asked
        for while the same is waiting or running is that task.

        Raises:
            Refusal: 429 too many are waiting.
        """
        with self._changing:
            self._forget()
            for job in self._jobs.values():
                ending = job.task.over or job.cancelled.is_set()
                if not ending and (job.task.kind, job.task.about) == (kind, about):
                    return job.task
            if len(self._waiting) >= MOST_WAITING:
                raise Refusal(429, f"{MOST_WAITING} tasks are waiting.", "Try again in a while.", {"Retry-After": "60"})
            task_id = f"task-{secrets.token_hex(8)}"
            task = Task(id=task_id, kind=kind, about=dict(about), status="waiting", created_at=_now(), warning=warning)
            job = self._jobs[task_id] = _Job(task, function)
            self._waiting.append(job)
            if self._running < self._at_once:
                self._running += 1
                # A daemon: what can't be cancelled does not keep the server from ending.
                threading.Thread(target=self._work, name="task", daemon=True).start()
            return task

    def list(self) -> list[Task]:
        """All that are kept, the newest first."""
        with self._changing:
            self._forget()
            return [job.task for job in reversed(self._jobs.values())]

    def get(self, task_id: str) -> Task:
        """One of them.

        Raises:
            Refusal: 404 there is none of that id, or not any more.
        """
        return self._job(task_id).task

    def cancel(self, task_id: str) -> Task:
        """Let a task end: one that waits ends now, one that runs when it tells how far it is. One that is over stays
        as it is.

        Raises:
            Refusal: as `get`.
        """
        job = self._job(task_id)
        with self._changing:
            job.cancelled.set()
            if job.task.status == "waiting":
                self._waiting.remove(job)
                self._end(job, status="cancelled")
            return job.task

    def close(self, patience: float = 5.0) -> None:
        """Cancel everything, and wait so many seconds at most for what runs."""
        for task in self.list():
            self.cancel(task.id)
        with self._changing:
            self._changing.wait_for(lambda: not self._running, patience)

    def _job(self, task_id: str) -> _Job:
        job = self._jobs.get(task_id)
        if job is None:
            raise Refusal(404, f"There is no task {task_id[:80]!r}.", "Those there are: GET /api/tasks")
        return job

    def _work(self) -> None:
        while (job := self._next()) is not None:
            ended: dict[str, Any]
            try:
                ended = {"status": "done", "result": job.function(job.tell)}
            except CancelledError:
                ended = {"status": "cancelled"}
            except Exception as error:  # noqa: BLE001  whatever it was, who asked is told
                if not isinstance(error, OneSeekError):
                    _log.error("unforeseen", exc_info=error)
                ended = {"status": "failed", "error": msgspec.convert(told(error)[1]["error"], Error)}
            with self._changing:
                self._end(job, **ended)

    def _next(self) -> _Job | None:
        with self._changing:
            if not self._waiting:
                self._running -= 1
                self._changing.notify_all()
                return None
            job = self._waiting.popleft()
            job.change(status="running")
            return job

    def _end(self, job: _Job, **fields: Any) -> None:
        job.change(ended_at=_now(), **fields)
        job.ended = self._clock()

    def _forget(self) -> None:
        over = [job for job in self._jobs.values() if job.task.over]
        for at, job in enumerate(sorted(over, key=lambda job: job.ended, reverse=True)):
            if at >= _MOST_KEPT or self._clock() - job.ended > _KEPT_SECONDS:
                del self._jobs[job.task.id]


def routes(tasks: Tasks, hide: Hide = as_it_is) -> APIRouter:
    """Everything below /api/tasks. hide: of what a task says for itself, its result or its error."""
    router = APIRouter()

    def seen(task: Task) -> Any:
        return hide(msgspec.to_builtins(task))

    @router.get("/api/tasks", responses=answers(Listed))
    def list_tasks() -> Response:
        """What is waiting and running, and what has ended in the last hour."""
        return answer({"tasks": [*map(seen, tasks.list())]})

    @router.get("/api/tasks/{task_id}", responses=answers(Task) | refuses(404))
    def show(task_id: str) -> Response:
        """One task."""
        return answer(seen(tasks.get(task_id)))

    @router.get(
        "/api/tasks/{task_id}/events",
        responses=refuses(404) | {200: {"description": "Server-sent events", "content": {"text/event-stream": {}}}},
    )
    def follow(task_id: str) -> Response:
        """The task whenever it has changed, as server-sent events: `progress`, at last `done`, `failed` or
        `cancelled`."""
        tasks.get(task_id)
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(_events(tasks, task_id, seen), headers=headers, media_type="text/event-stream")

    @router.delete(
        "/api/tasks/{task_id}",
        status_code=202,
        responses=answers(Task, status=202, description="It ends") | refuses(404),
    )
    def cancel(task_id: str) -> Response:
        """Let a task end. One that is over stays as it is."""
        return answer(seen(tasks.cancel(task_id)), 202)

    return router


async def _events(tasks: Tasks, task_id: str, seen: Callable[[Task], Any]) -> AsyncIterator[bytes]:
    known, silent = None, 0.0
    while True:
        task = tasks.get(task_id)
        if task != known or silent >= _HEARTBEAT:
            known, silent = task, 0.0
            kind = task.status if task.over else "progress"
            yield b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode(seen(task)))
        if task.over:
            return
        await asyncio.sleep(_LOOK)
        silent += _LOOK


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
