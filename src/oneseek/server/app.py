"""The application: every part's routes, behind the one guard."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Executor
from contextlib import asynccontextmanager, suppress
from functools import partial

from fastapi import FastAPI
from starlette.types import ASGIApp

from oneseek import __version__
from oneseek.files.layout import Home
from oneseek.runs.queue import Supervisor
from oneseek.server import (
    artefacts,
    asking,
    bodies,
    datasets,
    entrance,
    errors,
    ledger_routes,
    models,
    operations,
    pages,
    socket,
    tasks,
    training,
)
from oneseek.server.guard import Guard, Names
from oneseek.server.live import Live
from oneseek.server.operations import Metered, Metrics
from oneseek.server.packed import Packed
from oneseek.server.places import hiding
from oneseek.server.speech import speaking
from oneseek.server.tasks import Tasks
from oneseek.state.access import Access

LARGEST_UPLOAD = 20 * 10**9
"""Bytes, unless the administrator says otherwise."""

_TURN = 1.0  # seconds between looks at the queue

_log = logging.getLogger("oneseek.server")


def create_app(
    runs: Supervisor,
    access: Access,
    live: Live,
    *,
    home: Home,
    environment: Mapping[str, str],
    work: Executor,
    names: Names,
    doing: Tasks,
    largest_upload: int = LARGEST_UPLOAD,
) -> ASGIApp:
    """The whole server as an application. While it runs, waiting runs get their turn; in the end nobody is left
    watching, and tasks are told to end. The rest is closed by whoever made it.

    environment: of the server, in a form that reaches the processes of `work`. doing: the tasks that it starts.
    largest_upload: in bytes.
    """
    metrics, hide = Metrics(runs, live), hiding(home)
    tell = speaking(hide)
    app = FastAPI(
        title="OneSeek",
        description="LoRA adapters for several base models, trained side by side.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=bodies.EVERYWHERE,
        lifespan=lambda _: _lifespan(runs, live, doing),
    )
    for part in (
        operations.routes(metrics, access, home),
        entrance.routes(access, secure=names.secure),
        training.routes(runs, live, home=home, environment=environment, work=work, tasks=doing),
        socket.routes(live),
        artefacts.routes(runs.find, home, environment, work),
        asking.routes(runs.find, tell),
        ledger_routes.routes(home, environment, work),
        datasets.routes(home, work, partial(_users, runs), largest=largest_upload),
        models.routes(home, doing, environment),
        tasks.routes(doing, tell),
    ):
        app.include_router(part)
    errors.install(app, tell)
    pages.install(app, tell)
    bodies.describe(app)
    return Metered(Guard(Packed(app), access, names, tell), metrics)


def end(live: Live, doing: Tasks) -> None:
    """Let every answer end that would go on as long as the server does."""
    live.close()
    doing.close(patience=0)


def _users(runs: Supervisor, sha256: str) -> list[str]:
    """The runs that go on and use the dataset of a hash."""
    known = [(run.run_id, run.state.accepted.dataset) for run in runs.active() if run.state]
    return [run_id for run_id, used in known if sha256 in (used.sha256, used.validation_sha256)]


@asynccontextmanager
async def _lifespan(runs: Supervisor, live: Live, doing: Tasks) -> AsyncIterator[None]:
    ending = asyncio.Event()
    turning = asyncio.create_task(_take_turns(runs, ending))
    try:
        yield
    finally:
        end(live, doing)
        ending.set()
        await turning


async def _take_turns(runs: Supervisor, ending: asyncio.Event) -> None:
    """Let the queue move on. What goes wrong is said once, not every second."""
    said = ""
    while not ending.is_set():
        try:
            await asyncio.to_thread(runs.turn)
            said = ""
        except Exception as error:  # noqa: BLE001  a server that can't look now looks again
            if str(error) != said:
                _log.exception("the queue stands still")
            said = str(error)
        with suppress(TimeoutError):
            async with asyncio.timeout(_TURN):
                await ending.wait()
