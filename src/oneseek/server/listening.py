"""How a service listens: its address, TLS, what it bears from those who connect, one of a kind, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from filelock import FileLock, Timeout
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from oneseek.errors import ConfigError
from oneseek.files.durable import storage_errors
from oneseek.ledger.client import is_this_machine

PATIENCE = 30.0
"""Seconds that a connection is kept without a request, and that the head of one may take."""

STANDSTILL = 60.0
"""Seconds that the body of a request, or an answer, may stand still. One that moves may take hours."""

FAREWELL = 5.0
"""Seconds that a socket which is to be closed may take to go, and that requests under way may when the service ends."""

_SHY = 1.0  # seconds until who has connected should have asked for something, where others wait
_PING = 20.0  # seconds between pings to an open socket, and for an answer to one
_SAID_BY_VIEWERS = 64 << 10  # bytes of a message: they have nothing to say
_BYTES_MOVED = struct.Struct("120xQQ")  # acknowledged by the other side, received from it: struct tcp_info of Linux
_NOT_OURS = "Give an address of this machine as --host."
_BINDING = {
    errno.EADDRINUSE: "End what listens there, or choose another with --port.",
    errno.EADDRNOTAVAIL: _NOT_OURS,
    errno.EACCES: "Choose a port from 1024 on with --port.",
}


def tls_of(certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext | None:
    """What speaks TLS with a certificate and its key; None where neither is given.

    Raises:
        ConfigError: there is only one of them, or they can't be used.
    """
    if certfile is None and keyfile is None:
        return None
    if certfile is None or keyfile is None:
        raise ConfigError("TLS needs a certificate and its key.", "Give both --certfile and --keyfile.")
    for path in (certfile, keyfile):
        try:
            path.open("rb").close()  # OpenSSL does not say which of the two it can't open
        except OSError as error:
            raise ConfigError(
                f"{path} can't be used for TLS: {_plain(error)}.", "Name a file in PEM that you may read."
            ) from error
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        tls.load_cert_chain(certfile, keyfile, password=str)  # an empty one: with none, OpenSSL asks at the terminal
    except OSError as error:  # ssl.SSLError is one
        why = "one of them is not in PEM, or the key has a password"
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            why = "the key is not that of the certificate"
        raise ConfigError(
            f"{certfile} and {keyfile} can't be used for TLS: {why}.",
            "Give a certificate and its private key in PEM, the key without a password.",
        ) from error
    return tls


@contextmanager
def listening(host: str, port: int, *, protected: bool) -> Iterator[socket.socket]:
    """A socket that listens at an address.

    port: 0 takes a free one. protected: who connects does so over TLS, ours or that of a proxy.

    Raises:
        ConfigError: other machines could reach it unprotected, or it can't be listened at.
    """
    if not protected and not is_this_machine(host):
        raise ConfigError(
            f"Other machines can reach {host}, and secrets would travel unencrypted.",
            "Give --certfile and --keyfile, or --behind-proxy where a proxy speaks TLS; or leave --host away.",
        )
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        fix = _BINDING.get(error.errno or 0, "Choose another address with --host, or another port with --port.")
        if isinstance(error, socket.gaierror):  # its numbers are not the system's
            fix = _NOT_OURS
        raise ConfigError(f"Port {port} of {host} can't be listened at: {_plain(error)}.", fix) from error
    with listener:
        yield listener


def address(listener: socket.socket, *, tls: bool) -> str:
    """Where a socket listens, as a URL without a path."""
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def only_service(file: Path | None) -> Iterator[None]:
    """One process at a time serves a file; others of this machine may use it meanwhile.

    Raises:
        ConfigError: it is served already.
        StorageError: nothing can be written beside it.
    """
    if file is None:
        yield
        return
    lock = FileLock(file.with_name(f".{file.name}.served.lock"), timeout=0)
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise ConfigError(
                f"{file} is being served by another process.", "End that one first, or serve another home with --home."
            ) from error
    try:
        yield
    finally:
        lock.release()


def configured(
    app: ASGIApp, tls: ssl.SSLContext | None = None, *, connections: int = 200, with_sockets: bool = False
) -> uvicorn.Config:
    """How an application is served.

    connections: when there are more, open sockets included, idle ones are let go, and where there are none requests are
        answered with 503. with_sockets: it has WebSockets, and a beginning and an end of its own.
    """
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws=_Socket if with_sockets else "none",
        ws_max_size=_SAID_BY_VIEWERS,
        ws_per_message_deflate=False,
        ws_ping_interval=_PING,
        ws_ping_timeout=_PING,
        loop="asyncio",
        lifespan="on" if with_sockets else "off",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=connections,
        timeout_graceful_shutdown=int(FAREWELL),
    )
    config.load()
    config.ssl = tls
    return config


def run(config: uvicorn.Config, listener: socket.socket, said: str, ending: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGINT or SIGTERM. Then nobody is accepted any more, open sockets are closed with 1012, and requests
    under way are answered, for `FAREWELL` seconds at most. From the main thread only.

    said: is written to standard output when signals end it cleanly and those who connect are answered.
    ending: lets answers end that would go on for ever. It is called in the event loop.
    """
    _allow_files(2 * (config.limit_concurrency or 0))
    server = _Server(config, ending)
    with _ended_by_signals(server):
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)


class _Connection(H11Protocol):
    """Now and then it is looked whether those who connected do their part: send a request, and its head not letter by
    letter; send a body and read an answer, however slowly. What an application takes its time for is its own affair.

    An open socket is none of these any more: it leaves `connections`, as one that is closed does.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Head and body are two writes: without this the second waits for the first one's acknowledgement, some 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.access_log = False  # addresses may hold what somebody took for the place of a token
        self._seen: object = None
        self._since = self.loop.time()
        self._make_room()
        self._look_later()

    def _make_room(self) -> None:
        """Where too many are connected, let those go that ask for nothing: whoever connects and stays silent, however
        often, keeps nobody from being answered, and this process from opening no file."""
        if self.limit_concurrency is None or len(self.connections) < self.limit_concurrency:
            return
        for other in list(self.connections):
            if isinstance(other, _Connection) and other.is_idle and self.loop.time() - other._since >= _SHY:
                other.transport.abort()
                self.connections.discard(other)
                if len(self.connections) < self.limit_concurrency:
                    return

    @property
    def is_idle(self) -> bool:
        """Whether nothing that was asked for here is still to be answered."""
        return self.cycle is None or self.cycle.response_complete

    def _look_later(self) -> None:
        self.loop.call_later(min(PATIENCE, STANDSTILL) / 2, self._look)

    def _look(self) -> None:
        if self not in self.connections:
            return
        seen, seconds, end = self._awaited()
        if seen != self._seen:
            self._seen, self._since = seen, self.loop.time()
        elif self.loop.time() - self._since >= seconds:
            end()
        self._look_later()

    def _awaited(self) -> tuple[object, float, Callable[[], None]]:
        """What stays the same while the other side does nothing, for how long it may, and what ends it then."""
        answered = self.is_idle
        unread = self.transport.get_write_buffer_size() > 0
        if unread or (not answered and self.cycle.more_body and not self.flow.read_paused):
            return _moved(self.transport), STANDSTILL, self.transport.abort  # closing waits until all is read
        if answered:
            return self.cycle, PATIENCE, self.transport.close
        return object(), STANDSTILL, self.transport.abort


class _Socket(WebSocketsSansIOProtocol):
    """A viewer that reads nothing is never done closing; its connection is cut."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.close_timeout = FAREWELL
        self._look_later()

    def _look_later(self) -> None:
        self.loop.call_later(FAREWELL, self._look)

    def _look(self) -> None:
        if self.transport.is_closing():
            self.transport.abort()
        else:
            self._look_later()


def _moved(transport: asyncio.Transport) -> object:
    """How many bytes the other side has taken and sent, by its own account; always another where the system does not
    say. What the system holds for it is not among them: that may be megabytes, and minutes."""
    if not sys.platform.startswith("linux"):
        return object()
    info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_MOVED.size)
    return _BYTES_MOVED.unpack(info) if len(info) == _BYTES_MOVED.size else object()


def _allow_files(wanted: int) -> None:
    """Let this process have so many files and connections open, if it may: often it may have 1,024 unless it asks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _plain(error: OSError) -> str:
    """The system's own words. Python's may hold an address, or a line of OpenSSL's source."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error)
    return os.strerror(error.errno)


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """uvicorn raises the signal that ended it again when it is done; here that is no reason to die."""

    def end(*_: object) -> None:
        server.should_exit = True

    before = {each: signal.signal(each, end) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
