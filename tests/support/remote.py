"""Servers on loopback for who asks as a client: any application, and a whole OneSeek that trains."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp
from uvicorn.lifespan.off import LifespanOff

from oneseek.client import Client
from oneseek.server.listening import _Server, configured
from support.ledger_service import allow_loopback
from support.runs import Town
from support.server import Served, served


@contextmanager
def answering(
    app: ASGIApp, listener: socket.socket, ending: Callable[[], None] = lambda: None, *, with_lifespan: bool = True
) -> Iterator[str]:
    """The address of a real server over an application."""
    allow_loopback()
    config = configured(app, with_sockets=True)
    if not with_lifespan:
        config.lifespan_class = LifespanOff
    server = _Server(config, ending)
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@dataclass(frozen=True)
class Remote:
    """A server that trains, at an address."""

    url: str
    served: Served

    def token(self) -> str:
        return self.served.access.create_token("test", "run")[1]

    def client(self) -> Client:
        return Client(self.url, self.token())


@contextmanager
def remote(town: Town) -> Iterator[Remote]:
    """A OneSeek of the town whose queue moves on."""
    allow_loopback()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        served(town, port=listener.getsockname()[1]) as made,
        answering(made.app, listener) as url,
    ):
        yield Remote(url, made)
