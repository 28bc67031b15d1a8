"""The whole server over a town of scripted models: every part's routes, behind the guard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from oneseek.runs.queue import Supervisor
from oneseek.server.app import create_app
from oneseek.server.guard import Names
from oneseek.server.live import Live
from oneseek.server.tasks import Tasks
from oneseek.state.access import Access, Scope
from oneseek.state.queue import Queue
from support.runs import Town
from support.state import database
from support.supervised import end_training

ADDRESS = "http://127.0.0.1:3001"
PASSPHRASE = "correct horse battery staple"


@dataclass(frozen=True)
class Served:
    """A server. `app` is what a web server would call, `routes` what stands behind the guard."""

    town: Town
    app: ASGIApp
    client: TestClient
    access: Access
    runs: Supervisor

    @property
    def routes(self) -> FastAPI:
        app: Any = self.app
        while not isinstance(app, FastAPI):
            app = app._app
        return app

    def token(self, scope: Scope) -> dict[str, str]:
        """The header of somebody with this scope."""
        return {"Authorization": f"Bearer {self.access.create_token('test', scope)[1]}"}

    def session(self) -> dict[str, str]:
        """The headers of the administrator's own page."""
        secret = self.access.administer(self.access.new_link(), PASSPHRASE, "a browser")
        return {"Cookie": f"oneseek={secret}", "Origin": ADDRESS}


@contextmanager
def served(
    town: Town, environment: Mapping[str, str] | None = None, *, port: int = 3001, **options: Any
) -> Iterator[Served]:
    """A server of the town, asked for at a port. Nothing is trained unless somebody gives the queue its turn."""
    with ThreadPoolExecutor(2) as work, closing(database(town.home.database)) as opened, closing(Tasks()) as tasks:
        held = dict(environment or {})
        runs = Supervisor(town.home, Queue(opened), environment=held, devices=("cpu",), engine="scripted", work=work)
        access = Access(opened)
        app = create_app(
            runs,
            access,
            Live(runs.find),
            home=town.home,
            environment=held,
            work=work,
            names=Names.of(port),
            doing=tasks,
            **options,
        )
        client = TestClient(app, base_url=ADDRESS, raise_server_exceptions=False)
        yield Served(town, app, client, access, runs)
        end_training(runs)
