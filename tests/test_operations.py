"""What who keeps a server running can ask it: whether it is well, and its figures."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from prometheus_client.parser import text_string_to_metric_families
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient

from oneseek import __version__
from oneseek.errors import AccessRefused, StorageError
from oneseek.files.layout import Home
from oneseek.runs.queue import Place
from oneseek.server import errors, operations
from oneseek.server.operations import Metered, Metrics
from oneseek.state.access import Access
from oneseek.state.database import Database


@dataclass
class Runs:
    """As much of a Supervisor as figures are taken of."""

    devices: tuple[str, ...] = ("cuda:0", "cuda:1")
    statuses: list[str] = field(default_factory=list)
    queue: list[Place] = field(default_factory=list)

    def active(self) -> list[Any]:
        return [SimpleNamespace(status=status) for status in self.statuses]

    def places(self) -> tuple[Place, ...]:
        return tuple(self.queue)


@dataclass
class World:
    """A server of a few routes, with what it is asked about."""

    home: Home
    database: Database
    runs: Runs
    live: SimpleNamespace
    client: TestClient

    def figures(self) -> dict[tuple[str, ...], float]:
        """Every sample by its name and the values of its labels."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        return {(each.name, *each.labels.values()): each.value for each in samples}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    home = Home(tmp_path / "home", tmp_path / "home" / "models")
    home.root.mkdir()
    database = Database.open(home.database)
    runs, live = Runs(), SimpleNamespace(viewers=0)
    metrics = Metrics(runs, live)  # type: ignore[arg-type]
    app = FastAPI()
    app.include_router(operations.routes(metrics, Access(database), home))
    app.include_router(odd_routes())
    errors.install(app)
    yield World(home, database, runs, live, TestClient(Metered(app, metrics), raise_server_exceptions=False))
    database.close()


def odd_routes() -> APIRouter:
    router = APIRouter(prefix="/api/runs/{run_id}")

    @router.get("/files/{path:path}")
    def file(path: str) -> str:
        return path

    @router.post("/upload")
    async def upload(request: Request) -> int:
        return len(await request.body())

    @router.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse(iter(["a", "b"]))

    @router.delete("")
    def refused() -> None:
        raise AccessRefused("No.", "Ask.")

    @router.get("/broken")
    def broken() -> None:
        raise RuntimeError

    return router


def test_a_server_that_can_work_says_so_and_its_version(world: World) -> None:
    answer = world.client.get("/healthz")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "version": __version__})


def test_a_home_that_is_gone_is_told_without_its_name(world: World, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(world.home.root)

    answer = world.client.get("/healthz")

    assert (answer.status_code, answer.json()) == (503, {"status": "unavailable", "version": __version__})
    assert str(world.home.root) in str([record.__dict__.get("cause") for record in caplog.records])


def test_a_database_that_cannot_be_read_is_told_alike(world: World) -> None:
    world.database.close()
    for leftover in world.home.root.glob("oneseek.db-*"):
        leftover.unlink()
    world.home.database.write_bytes(b"no database")

    answer = world.client.get("/healthz")

    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")


def test_requests_are_counted_by_route_and_status_and_never_by_address(world: World) -> None:
    client = world.client
    for number in range(3):
        client.get(f"/api/runs/run-{number}/files/a/{number}")
    client.delete("/api/runs/run-1")
    client.get("/api/runs/run-1/broken")
    client.get("/api/runs/run-1/stream")
    client.get("/no/such/path")
    client.request("BREW", "/api/runs/run-1/stream")

    figures = world.figures()
    counted = {key[1:]: value for key, value in figures.items() if key[0] == "oneseek_requests_total"}

    assert counted == {
        ("GET", "/api/runs/{run_id}/files/{path:path}", "200"): 3,
        ("DELETE", "/api/runs/{run_id}", "403"): 1,
        ("GET", "/api/runs/{run_id}/broken", "500"): 1,
        ("GET", "/api/runs/{run_id}/stream", "200"): 1,
        ("GET", "other", "404"): 1,
        ("other", "/api/runs/{run_id}/stream", "405"): 1,
    }
    assert figures["oneseek_request_seconds_count", "GET", "/api/runs/{run_id}/files/{path:path}"] == 3
    assert "run-1" not in world.client.get("/metrics").text


def test_what_is_sent_with_requests_is_counted_in_bytes(world: World) -> None:
    world.client.post("/api/runs/a/upload", content=b"x" * 1000)
    world.client.post("/api/runs/b/upload", content=iter([b"y" * 200, b"z" * 300]))

    assert world.figures()["oneseek_received_bytes_total", "/api/runs/{run_id}/upload"] == 1500


def test_runs_and_queues_are_told_as_they_are_now_the_empty_ones_too(world: World) -> None:
    world.live.viewers = 7
    world.runs.statuses = ["training", "queued", "queued"]
    world.runs.queue = [
        Place(run_id="run-1", device="cuda:0", position=None, status="training", pid=1),
        Place(run_id="run-2", device="cuda:0", position=0, status="queued", pid=None),
        Place(run_id="run-3", device="cuda:0", position=1, status="queued", pid=None),
    ]

    figures = world.figures()

    assert figures["oneseek_viewers",] == 7
    assert {key[1]: value for key, value in figures.items() if key[0] == "oneseek_runs"} == {
        "queued": 2,
        "preparing": 0,
        "training": 1,
        "stopping": 0,
    }
    assert figures["oneseek_queue", "cuda:0"] == 2
    assert figures["oneseek_queue", "cuda:1"] == 0


def test_figures_come_in_the_format_of_prometheus_with_those_of_the_process(world: World) -> None:
    answer = world.client.get("/metrics")

    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert re.search(r"^process_resident_memory_bytes \d", answer.text, re.MULTILINE)


def test_figures_that_cannot_be_taken_are_an_error_like_any_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> None:
        raise StorageError("The disk reported an error.", "Check it.")

    monkeypatch.setattr(world.runs, "places", unreadable)

    answer = world.client.get("/metrics")

    assert (answer.status_code, answer.json()["error"]["fix"]) == (507, "Check it.")
