"""Journals that are written while somebody watches, and the server that shows them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from filelock import FileLock

from oneseek.errors import RunUnknown
from oneseek.events import DISPLAY_ONLY, AnyEvent
from oneseek.files.layout import Results, RunDirectory
from oneseek.journal.file import Writer
from oneseek.server import errors
from oneseek.server.listening import _Server, configured
from oneseek.server.live import Live
from oneseek.server.socket import routes
from support.ledger_service import allow_loopback

RUN = "run-20251122-143025"


@dataclass(frozen=True)
class Told:
    """A run of which nothing is there but its journal."""

    directory: RunDirectory

    @classmethod
    def begin(cls, root: Path, *events: AnyEvent) -> Told:
        told = cls(Results(root / "models").run(RUN))
        told.directory.root.mkdir(parents=True)
        told.append(*events)
        return told

    def append(self, *events: AnyEvent) -> None:
        with Writer(self.directory.journal) as writer:
            for event in events:
                writer.append(event, durable=not isinstance(event, DISPLAY_ONLY))

    def find(self, run_id: str) -> RunDirectory:
        if run_id != RUN:
            raise RunUnknown(f"There is no run {run_id}.", "`oneseek runs list` shows the runs there are.")
        return self.directory

    @property
    def lines(self) -> list[str]:
        return self.directory.journal.read_text().splitlines()

    def damage(self) -> None:
        """Append a line that does not belong there."""
        with self.directory.journal.open("ab") as file:
            file.write(b'{"seq":99}\n')

    @contextmanager
    def running(self) -> Iterator[None]:
        """As long as a process is behind it."""
        self.directory.work.mkdir(exist_ok=True)
        with FileLock(self.directory.lock):
            yield


def application(live: Live) -> FastAPI:
    """An application that does nothing else."""
    app = FastAPI()
    errors.install(app)
    app.include_router(routes(live))
    return app


@contextmanager
def served(live: Live) -> Iterator[tuple[str, uvicorn.Server]]:
    """The address, without a scheme, of a real server over it."""
    allow_loopback()
    server = _Server(configured(application(live), with_sockets=True), live.close)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", server
        finally:
            server.should_exit = True
            thread.join()


def seqs(messages: Iterable[dict[str, object]]) -> list[object]:
    return [message["seq"] for message in messages]
