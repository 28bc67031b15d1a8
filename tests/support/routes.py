"""Routes of the server without its guard, and requests that nobody tidies up on their way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPMessage
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI

from oneseek.errors import RunUnknown
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.names import is_run_id
from oneseek.server import bodies, errors
from oneseek.server.places import as_it_is, hiding


def application(router: APIRouter, home: Home | None = None) -> FastAPI:
    """home: whose directories no error names."""
    app = FastAPI(redirect_slashes=False, responses=bodies.EVERYWHERE)
    app.include_router(router)
    errors.install(app, hiding(home) if home else as_it_is)
    bodies.describe(app)
    return app


def finder(home: Home) -> Callable[[str], RunDirectory]:
    """The runs of a home by their ids, as the server finds them."""

    def find(run_id: str) -> RunDirectory:
        directory = Results(home.models).run(run_id)
        if not is_run_id(run_id) or not directory.journal.exists():
            raise RunUnknown(f"There is no run {run_id}.", "GET /api/runs lists them.")
        return directory

    return find


class Got:
    """An answer, whole."""

    def __init__(self, status: int, headers: HTTPMessage, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


def request(
    address: str, path: str, method: str = "GET", body: Any = None, headers: Mapping[str, str] | None = None
) -> Got:
    """The answer to a request; `path` is sent letter by letter, `body` as JSON."""
    connection = HTTPConnection(urlsplit(address).netloc, timeout=30)
    try:
        sent = None if body is None else json.dumps(body).encode()
        said = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, sent, {**said, **(headers or {})})
        answer = connection.getresponse()
        return Got(answer.status, answer.headers, answer.read())
    finally:
        connection.close()
