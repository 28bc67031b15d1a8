"""The routes of training, runs and queue over a home of their own. Nobody calls `turn`, so what waits waits on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.testclient import TestClient

from oneseek.runs.queue import Supervisor
from oneseek.server import bodies, errors, training
from oneseek.server.live import Live
from oneseek.server.places import hiding
from oneseek.server.tasks import Task, Tasks
from oneseek.state.queue import Queue
from support.runs import Town
from support.state import database

START = "/api/admin/training/start-dna-v2"


def end_training(runs: Supervisor) -> None:
    """End what it trains in processes of their own: they are meant to go on without it."""
    for child in runs._children.values():
        child.kill()
        child.wait()


@dataclass(frozen=True)
class Desk:
    """Where requests are handed in."""

    town: Town
    runs: Supervisor
    tasks: Tasks
    client: TestClient

    def start(self, **more: Any) -> str:
        """The id of a run that waits from now on."""
        answer = self.client.post(START, json=ASKED | more)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["run_id"])

    def ended(self, task: str) -> Task:
        """A task, once it is over."""
        deadline = time.monotonic() + 30
        while not (known := self.tasks.get(task)).over and time.monotonic() < deadline:
            time.sleep(0.01)
        return known

    def findings(self, body: Mapping[str, Any], path: str = "/api/validate?partial=true") -> list[dict[str, Any]]:
        """What is found in a body that is handed in there."""
        told = self.client.post(path, json=body).json()
        found: list[dict[str, Any]] = told.get("error", told)["findings"]
        return found


ASKED = {"datasetId": "rows.jsonl", "baseModels": ["alfa-1b", "beta-1b"]}
"""What can be trained in the town."""


@contextmanager
def desk(town: Town, environment: Mapping[str, str], devices: tuple[str, ...] = ("cpu",)) -> Iterator[Desk]:
    """environment: that of the server."""
    with ThreadPoolExecutor(2) as work, closing(database(town.home.database)) as opened, closing(Tasks()) as tasks:
        runs = Supervisor(
            town.home, Queue(opened), environment=environment, devices=devices, engine="scripted", work=work
        )
        live = Live(runs.find)
        app = FastAPI(responses=bodies.EVERYWHERE)
        app.include_router(training.routes(runs, live, home=town.home, environment=environment, work=work, tasks=tasks))
        errors.install(app, hiding(town.home))
        bodies.describe(app)
        with TestClient(app, raise_server_exceptions=False) as client:
            yield Desk(town, runs, tasks, client)
