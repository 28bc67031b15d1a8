"""What a service bears from those who connect: they may be slow, and may not stand still."""

from __future__ import annotations

import asyncio
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import uvicorn
import websocket
from starlette.types import Receive, Scope, Send

from oneseek.errors import ConfigError, StorageError
from oneseek.server import listening
from oneseek.server.listening import configured, only_service
from support.ledger_service import allow_loopback

PIECE = bytes(64 << 10)
LONG = 100  # pieces: more than systems take in on both sides of a connection


class Served:
    """An application of a few oddities under the real server."""

    def __init__(self, connections: int = 50) -> None:
        self.received = 0
        self.sent = 0
        self.gone = threading.Event()
        self.server = uvicorn.Server(configured(self, connections=connections, with_sockets=True))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[self.listener]), daemon=True)
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            time.sleep(0.005)

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port

    def connected(self) -> socket.socket:
        return socket.create_connection(self.listener.getsockname(), timeout=10)

    def is_left_alone(self, seconds: float) -> bool:
        """Whether every connection goes within so many seconds."""
        end = time.monotonic() + seconds
        while self.server.server_state.connections and time.monotonic() < end:
            time.sleep(0.01)
        return not self.server.server_state.connections

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.listener.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await getattr(self, scope["path"].removeprefix("/"))(receive, send)

    async def body(self, receive: Receive, send: Send) -> None:
        """Takes all of a body."""
        more = True
        while more:
            message = await receive()
            self.received += len(message.get("body", b""))
            more = message.get("more_body", False)
        await _answer(send, b"%d" % self.received)

    async def pondering(self, _: Receive, send: Send) -> None:
        """Takes its time."""
        await asyncio.sleep(1.2)
        await _answer(send, b"done")

    async def long(self, _: Receive, send: Send) -> None:
        """Answers more than anybody takes in at once."""
        await send({"type": "http.response.start", "status": 200})
        for number in range(LONG):
            await send({"type": "http.response.body", "body": PIECE, "more_body": number < LONG - 1})
            self.sent += 1
        self.gone.set()

    async def viewer(self, receive: Receive, send: Send) -> None:
        """Sends so much that who reads nothing is stuck, then wants to close."""
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        if message.get("text") == "more":
            try:
                async with asyncio.timeout(0.3):
                    for _ in range(LONG):
                        await send({"type": "websocket.send", "bytes": PIECE})
            except TimeoutError:
                return  # the server closes what is left
        await send({"type": "websocket.send", "text": "still here"})
        await receive()
        self.gone.set()


async def _answer(send: Send, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def watching(served: Served) -> Iterator[websocket.WebSocket]:
    viewer = websocket.create_connection(f"ws://127.0.0.1:{served.port}/viewer", timeout=10)
    try:
        yield viewer
    finally:
        viewer.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """With little patience."""
    allow_loopback()
    monkeypatch.setattr(listening, "PATIENCE", 0.3)
    monkeypatch.setattr(listening, "STANDSTILL", 0.6)
    monkeypatch.setattr(listening, "FAREWELL", 0.3)
    with closing(Served()) as found:
        yield found


def everything(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_a_head_that_comes_letter_by_letter_is_not_waited_for(served: Served) -> None:
    letters = iter(b"POST /body HTTP/1.1\r\nX-Long: " + b"x" * 200)
    with served.connected() as slow:
        while not select.select([slow], [], [], 0.02)[0] and (letter := next(letters, None)):
            slow.sendall(bytes([letter]))

    assert next(letters, None)


def test_a_body_that_stands_still_is_ended(served: Served) -> None:
    with served.connected() as still:
        still.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")

        assert everything(still) == b""


def test_a_body_that_moves_may_take_long(served: Served) -> None:
    with served.connected() as slow:
        slow.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8\r\n\r\n")
        for letter in b"a slow b":
            time.sleep(0.25)
            slow.sendall(bytes([letter]))

        assert everything(slow).endswith(b"\r\n8\r\n0\r\n\r\n")


def test_an_answer_that_nobody_reads_is_ended(served: Served) -> None:
    with served.connected() as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")

        assert served.is_left_alone(5)
        assert served.gone.wait(5)  # who sends to a connection that was cut is not held up any more


def test_an_answer_that_is_read_slowly_comes_whole(served: Served) -> None:
    length, began = 0, time.monotonic()
    with served.connected() as slow:
        slow.sendall(b"GET /long HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while piece := slow.recv(1 << 18):
            length += len(piece)
            time.sleep(0.07)

    assert length > LONG * len(PIECE)
    assert time.monotonic() - began > 2 * listening.STANDSTILL


def test_what_an_application_takes_its_time_for_is_its_own_affair(served: Served) -> None:
    with served.connected() as patient:
        patient.sendall(b"GET /pondering HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

        assert everything(patient).startswith(b"HTTP/1.1 200 ")


def test_a_connection_between_two_requests_is_kept_as_long_as_one_is_waited_for(served: Served) -> None:
    with served.connected() as kept:
        for _ in range(5):
            kept.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            time.sleep(0.15)
            assert kept.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_an_open_socket_is_left_alone(served: Served) -> None:
    with watching(served) as viewer:
        time.sleep(1.5)
        viewer.send("hello")

        assert viewer.recv() == "still here"


def test_a_viewer_that_reads_nothing_is_cut_when_it_is_to_be_closed(served: Served) -> None:
    with watching(served) as viewer:
        viewer.send("more")

        assert served.is_left_alone(5)


def test_what_a_viewer_says_may_not_be_long(served: Served) -> None:
    with watching(served) as viewer:
        viewer.send("x" * (65 << 10))

        assert served.is_left_alone(5)


def test_sockets_are_not_compressed(served: Served) -> None:
    with watching(served) as plain:
        with served.connected() as offered:
            offered.sendall(
                b"GET /viewer HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
            )
            answer = offered.recv(1000)

        assert plain.connected
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-extensions" not in answer.lower()


def test_more_than_the_service_bears_are_told_so() -> None:
    allow_loopback()
    pondering = b"GET /pondering HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with closing(Served(connections=3)) as small, small.connected() as first, small.connected() as second:
        first.sendall(pondering)
        second.sendall(pondering)
        with small.connected() as third:
            third.sendall(pondering)

            answer = everything(third)

    assert answer.startswith(b"HTTP/1.1 503 ")


def test_who_connects_and_stays_silent_keeps_nobody_from_being_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    allow_loopback()
    monkeypatch.setattr(listening, "_SHY", 0.1)
    with ExitStack() as opened:
        small = opened.enter_context(closing(Served(connections=5)))
        silent = [opened.enter_context(small.connected()) for _ in range(40)]
        time.sleep(0.2)
        last = opened.enter_context(small.connected())
        last.sendall(b"GET /pondering HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

        answer = everything(last)
        left = len(small.server.server_state.connections)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert left <= 5 < len(silent)


def test_a_file_is_served_once_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "home" / "oneseek.db"
    with only_service(file):
        with pytest.raises(ConfigError) as refused, only_service(file):
            pass

        with only_service(tmp_path / "another.db"):
            pass
    with only_service(file):
        pass

    assert f"{file} is being served by another process" in refused.value.problem


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(StorageError, match="file"), only_service(tmp_path / "file" / "oneseek.db"):
        pass


def test_as_many_files_may_be_open_as_connections_need() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        listening._allow_files(300)
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
        listening._allow_files(10)

        assert raised == resource.getrlimit(resource.RLIMIT_NOFILE) == (300, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
