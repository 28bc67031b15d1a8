"""The ledger service: a log over HTTP. Everybody may read it, as c2sp.org/tlog-tiles says; who knows the token appends.

GET  /checkpoint, /tile/<level>/<index>[.p/<width>], /tile/entries/<index>[.p/<width>]      the log as tiles
GET  /key, /entries?start=&stop=, /proofs/<index>, /healthz                                 for people and programs
POST /entries                                                                               appends
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import msgspec
import uvicorn
from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from filelock import FileLock, Timeout
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from oneseek import __version__
from oneseek.errors import ConfigError, LedgerDamaged, OneSeekError, ProofInvalid, StorageError
from oneseek.files.durable import storage_errors
from oneseek.ledger import checkpoint
from oneseek.ledger.client import is_this_machine
from oneseek.ledger.log import Log
from oneseek.ledger.tiles import encode_bundle, parse_path

MOST_AT_ONCE = 1000
"""Entries in one request."""

LARGEST_BODY = 4 << 20
"""Bytes."""

PATIENCE = 30.0
"""Seconds that a request may take to arrive, and that a connection without one is kept."""

_SHORTEST_TOKEN = 16
_CONNECTIONS = 200
_ENDING = 5  # seconds for requests under way when the service is ended
_FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_STATUSES: dict[type[OneSeekError], int] = {ProofInvalid: 400, LedgerDamaged: 503, StorageError: 507}
_NOT_OURS = "Give an address of this machine as --host."
_BINDING = {
    errno.EADDRINUSE: "End what listens there, or choose another with --port.",
    errno.EADDRNOTAVAIL: _NOT_OURS,
    errno.EACCES: "Choose a port from 1024 on with --port.",
}
_EXPORT_TOKEN = "export LEDGER_TOKEN=$(openssl rand -hex 32)"


class _Statements(msgspec.Struct, forbid_unknown_fields=True):
    statements: Annotated[list[str], msgspec.Meta(max_length=MOST_AT_ONCE)]


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["statements"],
                    "properties": {
                        "statements": {"type": "array", "items": {"type": "string"}, "maxItems": MOST_AT_ONCE}
                    },
                }
            }
        },
    }
}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {"type": "object", "properties": {name: {"type": "string"} for name in ("code", "message", "fix")}}
    },
}


class Refusal(HTTPException):
    """A request that is refused, with the fix."""

    def __init__(self, status: int, problem: str, fix: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status, problem, headers)
        self.fix = fix


def create_app(log: Log, token: str, *, for_others: bool = False) -> FastAPI:
    """The service over a log, which whoever opened it closes. `log` is called from several threads.

    token: what an append must come with. for_others: other machines may reach it, by whatever name it has there; if
        not, who asks for another name than this machine's or the log's was led here by a web page (DNS rebinding).

    Raises:
        ConfigError: the token is missing, or too short to be a secret.
    """
    app = FastAPI(
        title="OneSeek ledger",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(_guard(token, None if for_others else log.key.name.partition("/")[0]))],
        responses={"4XX": {"description": "Refused", "content": {"application/json": {"schema": _ERROR}}}},
    )
    app.add_middleware(_with_headers)
    for kind in (HTTPException, RequestValidationError, OneSeekError, Exception):
        app.add_exception_handler(kind, _failed)

    def size() -> int:
        return checkpoint.read(log.checkpoint(), log.key).size

    @app.get("/checkpoint")
    def newest() -> Response:
        """The newest checkpoint, a signed note."""
        return _text(log.checkpoint(), {"Cache-Control": "no-cache"})

    @app.get("/tile/{path:path}")
    def tile(request: Request) -> Response:
        """Hashes of the tree, or entries: c2sp.org/tlog-tiles."""
        wanted = parse_path(request.scope["path"].removeprefix("/"))  # a path parameter would lack a newline at its end
        if wanted is None or wanted.start + wanted.width > size() >> wanted.node_level:
            raise Refusal(404, "This log has no such tile.", "Read /checkpoint for its size.")
        places = range(wanted.start, wanted.start + wanted.width)
        if wanted.level is None:
            data = encode_bundle(log.entries(places.start, places.stop))
        else:
            data = b"".join(log.node(wanted.node_level, index) for index in places)
        return Response(data, media_type="application/octet-stream", headers=_FOR_EVER)

    @app.get("/key")
    def key() -> Response:
        """The public key that checkpoints are signed with."""
        return _text(f"{log.key}\n")

    @app.get("/entries")
    def entries(start: Annotated[int, Query(ge=0)] = 0, stop: Annotated[int | None, Query(ge=0)] = None) -> Response:
        """Entries from index `start` up to `stop`, 1,000 at most."""
        there = size()
        first = min(start, there)
        last = max(first, min(first + MOST_AT_ONCE if stop is None else stop, there))
        if last - first > MOST_AT_ONCE:
            raise Refusal(400, f"{last - first} entries are too many at once.", f"Ask for {MOST_AT_ONCE} at most.")
        found = log.entries(first, last)
        told = [{"index": index, **msgspec.json.decode(entry)} for index, entry in enumerate(found, first)]
        return _json({"size": there, "entries": told})

    @app.get("/proofs/{index}")
    def proof(index: int) -> Response:
        """That an entry is in the log: c2sp.org/tlog-proof."""
        there = size()
        if not 0 <= index < there:
            raise Refusal(404, f"The ledger has no entry {index}; it has {there}.", "The first is 0.")
        return _text(log.prove(index).proof.text)

    @app.post("/entries", openapi_extra=_BODY)
    def append(statements: Annotated[list[bytes], Depends(_statements)]) -> Response:
        """Add statements. Needs the header `Authorization: Bearer <LEDGER_TOKEN>`."""
        added = log.append(statements)
        return _json({"entries": [{"leaf": each.entry.decode(), "proof": each.proof.text} for each in added]})

    @app.get("/healthz")
    def health() -> Response:
        """Whether the log can be read and signs."""
        return _json({"status": "ok", "size": size()})

    return app


def serve(
    open_log: Callable[[], Log],
    token: str,
    host: str,
    port: int,
    certfile: Path | None = None,
    keyfile: Path | None = None,
    behind_proxy: bool = False,
    file: Path | None = None,
) -> None:
    """Serve a log until SIGINT or SIGTERM; requests under way are answered first. From the main thread only.

    open_log: called when nothing else is wrong, the certificate included: opening a log for the first time makes its
    key. port: 0 takes a free one. behind_proxy: a proxy in front of it speaks TLS. file: where the log is kept; of one
    file there is one service at a time.

    Raises:
        ConfigError: the token is missing or short; other machines could reach it without TLS; the certificate can't be
            used; the address can't be listened at; the file is served already.
        StorageError: nothing can be written beside the file.
    """
    _check_token(token)
    tls = _tls(certfile, keyfile)
    for_others = tls is not None or behind_proxy
    with (
        _listening(host, port, protected=for_others) as listener,
        _only_service(file),
        closing(open_log()) as log,
    ):
        server = uvicorn.Server(configured(create_app(log, token, for_others=for_others), tls))
        with _ended_by_signals(server):
            sys.stdout.write(f"{log.key.name} is served at {_address(listener, tls=tls is not None)}\n")
            sys.stdout.flush()
            server.run(sockets=[listener])


def configured(app: ASGIApp, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """How a service is run: its limits, and TLS where it has a certificate."""
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_ENDING,
    )
    config.load()
    config.ssl = tls
    return config


def _tls(certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext | None:
    """What speaks TLS with a certificate and its key; None where neither is given."""
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
def _only_service(file: Path | None) -> Iterator[None]:
    """One process at a time serves a log. Others of this machine may use it meanwhile: that is what the log is for."""
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


class _Connection(H11Protocol):
    """Now and then, a connection on which no request is under way is closed: so none is held by sending nothing, or a
    request's head letter by letter."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Head and body are two writes: without this the second waits for the first one's acknowledgement, some 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.access_log = False  # addresses may hold what somebody took for the place of a token
        self.loop.call_later(PATIENCE, self._look)

    def _look(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
            self.loop.call_later(PATIENCE, self.transport.abort)  # where nobody reads, closing waits for ever
        elif not self.transport.is_closing():
            self.loop.call_later(PATIENCE, self._look)


@contextmanager
def _listening(host: str, port: int, *, protected: bool) -> Iterator[socket.socket]:
    if not protected and not is_this_machine(host):
        raise ConfigError(
            f"Other machines can reach {host}, and tokens would travel unencrypted.",
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


def _address(listener: socket.socket, *, tls: bool) -> str:
    host, port = listener.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _check_token(token: str) -> None:
    if len(token) < _SHORTEST_TOKEN:
        problem = f"has fewer than {_SHORTEST_TOKEN} characters" if token else "is missing"
        raise ConfigError(f"LEDGER_TOKEN {problem}: whoever guesses it can append.", f"Run: {_EXPORT_TOKEN}")


def _guard(token: str, name: str | None) -> Any:
    """Whether a request may pass: reading may; everything else needs the token, and does not come from a web page.

    name: the only host that may be asked for, besides this machine by its own names; None where any may.
    """
    _check_token(token)
    expected = hashlib.sha256(token.encode()).digest()

    def guard(request: Request) -> None:
        asked = request.url.hostname or ""
        if name is not None and asked != name and not is_this_machine(asked):
            raise Refusal(421, "This ledger is not served by that name.", "Ask for it by the address that it printed.")
        if request.method == "GET":
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        known = hmac.compare_digest(hashlib.sha256(given.encode()).digest(), expected)
        if scheme.lower() != "bearer" or not known:
            raise Refusal(401, "This needs the ledger's token.", "Set LEDGER_TOKEN.", {"WWW-Authenticate": "Bearer"})
        if "Origin" in request.headers:
            raise Refusal(403, "Web pages may not append.", "Send it from a program, without the header Origin.")

    return guard


async def _statements(request: Request) -> list[bytes]:
    """What is to be appended; no more of a body is read than is allowed."""
    if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "The body is not said to be JSON.", "Send it with Content-Type: application/json.")
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LARGEST_BODY:
                    raise Refusal(
                        413, f"The body has more than {LARGEST_BODY} bytes.", "Send fewer statements at once."
                    )
        return [each.encode() for each in msgspec.json.decode(body, type=_Statements).statements]
    except TimeoutError as error:
        raise Refusal(408, f"The body took longer than {PATIENCE:.0f} seconds.", "Send it again.") from error
    except ClientDisconnect as error:
        raise Refusal(400, "The body broke off.", "Send it again.") from error
    except (msgspec.DecodeError, UnicodeError) as error:
        raise Refusal(400, f"The body can't be read: {error}.", 'Send {"statements": ["...", ...]}.') from error


def _with_headers(app: ASGIApp) -> ASGIApp:
    """Every answer with the headers that it has not set itself."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await app(scope, receive, sending)

    return answering


def _failed(_: Request, error: Exception) -> Response:
    """The one form of every error: {"error": {"code", "message", "fix"}}."""
    status, code, fix, headers = 500, "", "See the service's own log.", _HEADERS
    problem = "The service failed."
    if isinstance(error, HTTPException):
        status, problem = error.status_code, str(error.detail)
        fix, headers = getattr(error, "fix", "See /openapi.json."), {**_HEADERS, **(error.headers or {})}
    elif isinstance(error, RequestValidationError):
        status, fix = 400, "See /openapi.json."
        problem = " ".join(f"{each['loc'][-1]}: {each['msg']}." for each in error.errors())
    elif isinstance(error, OneSeekError):
        status, code = _STATUSES.get(type(error), 500), type(error).__name__
        problem, fix = error.problem, error.fix
    said = {"code": code or HTTPStatus(status).phrase.replace(" ", ""), "message": problem, "fix": fix}
    return _json({"error": said}, status, headers)


def _json(document: Any, status: int = 200, headers: Mapping[str, str] = _HEADERS) -> Response:
    return Response(msgspec.json.encode(document), status, headers, "application/json")


def _text(text: str, headers: dict[str, str] | None = None) -> Response:
    return Response(text, media_type="text/plain", headers=headers)
