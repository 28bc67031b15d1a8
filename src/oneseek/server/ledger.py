"""The ledger service: a log over HTTP. Everybody may read it, as c2sp.org/tlog-tiles says; who knows the token appends.

GET  /checkpoint, /tile/<level>/<index>[.p/<width>], /tile/entries/<index>[.p/<width>]      the log as tiles
GET  /key, /entries?start=&stop=, /proofs/<index>, /healthz                                 for people and programs
POST /entries                                                                               appends
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Query, Request, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oneseek import __version__
from oneseek.errors import ConfigError
from oneseek.ledger import checkpoint
from oneseek.ledger.client import is_this_machine
from oneseek.ledger.log import Log
from oneseek.ledger.tiles import encode_bundle, parse_path
from oneseek.server import errors
from oneseek.server.bodies import answer, asks, content, describe, refuses
from oneseek.server.errors import Refusal
from oneseek.server.listening import address, configured, listening, only_service, run, tls_of

MOST_AT_ONCE = 1000
"""Entries in one request."""

LARGEST_BODY = 4 << 20
"""Bytes."""

_SHORTEST_TOKEN = 16
_FOR_EVER = {"Cache-Control": "public, max-age=31536000, immutable"}
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_EXPORT_TOKEN = "export LEDGER_TOKEN=$(openssl rand -hex 32)"


class _Statements(msgspec.Struct, forbid_unknown_fields=True):
    statements: Annotated[list[str], msgspec.Meta(max_length=MOST_AT_ONCE)]


class _Service(FastAPI):
    def build_middleware_stack(self) -> ASGIApp:
        """Around everything, what answers for errors that nobody foresaw included."""
        return _with_headers(super().build_middleware_stack())


def create_app(log: Log, token: str, *, for_others: bool = False) -> FastAPI:
    """The service over a log, which whoever opened it closes. `log` is called from several threads.

    token: what an append must come with. for_others: other machines may reach it, by whatever name it has there; if
        not, who asks for another name than this machine's or the log's was led here by a web page (DNS rebinding).

    Raises:
        ConfigError: the token is missing, or too short to be a secret.
    """
    app = _Service(
        title="OneSeek ledger",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(_guard(token, None if for_others else log.key.name.partition("/")[0]))],
        responses=refuses(400, 421, 503, 507),
    )
    errors.install(app)
    describe(app)

    def size() -> int:
        return checkpoint.read(log.checkpoint(), log.key).size

    @app.get("/checkpoint")
    def newest() -> Response:
        """The newest checkpoint, a signed note."""
        return _text(log.checkpoint(), {"Cache-Control": "no-cache"})

    @app.get("/tile/{path:path}", responses=refuses(404))
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
        return answer({"size": there, "entries": told})

    @app.get("/proofs/{index}", responses=refuses(404))
    def proof(index: int) -> Response:
        """That an entry is in the log: c2sp.org/tlog-proof."""
        there = size()
        if not 0 <= index < there:
            raise Refusal(404, f"The ledger has no entry {index}; it has {there}.", "The first is 0.")
        return _text(log.prove(index).proof.text)

    @app.post("/entries", openapi_extra=asks(_Statements), responses=refuses(401, 403, 408, 413, 415))
    def append(statements: Annotated[list[bytes], Depends(_statements)]) -> Response:
        """Add statements. Needs the header `Authorization: Bearer <LEDGER_TOKEN>`."""
        added = log.append(statements)
        return answer({"entries": [{"leaf": each.entry.decode(), "proof": each.proof.text} for each in added]})

    @app.get("/healthz")
    def health() -> Response:
        """Whether the log can be read and signs."""
        return answer({"status": "ok", "size": size()})

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
    tls = tls_of(certfile, keyfile)
    for_others = tls is not None or behind_proxy
    with (
        listening(host, port, protected=for_others) as listener,
        only_service(file),
        closing(open_log()) as log,
    ):
        config = configured(create_app(log, token, for_others=for_others), tls)
        run(config, listener, f"{log.key.name} is served at {address(listener, tls=tls is not None)}")


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
    body = await content(request, LARGEST_BODY)
    try:
        return [each.encode() for each in msgspec.json.decode(body, type=_Statements).statements]
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


def _text(text: str, headers: dict[str, str] | None = None) -> Response:
    return Response(text, media_type="text/plain", headers=headers)
