"""The one way in: by which name the server is asked for, from which page, by whom, and whether they may. HTTP and
sockets alike; what is refused here reaches nothing behind it."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlencode

from anyio import CapacityLimiter, to_thread
from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oneseek.errors import ConfigError, OneSeekError
from oneseek.server import errors
from oneseek.server.access import SAFE, SOCKET, is_for_people, scope_of, suffices
from oneseek.server.errors import Refusal
from oneseek.server.places import Hide, as_it_is
from oneseek.server.shares import Shares, Turn
from oneseek.server.speech import LANGUAGE, language_of
from oneseek.server.work import ASKING
from oneseek.state.access import Access, Identity

LOOK_AGAIN = 20.0
"""Seconds until it is looked again whether who is still being answered, or has a socket open, is still known."""

Headers = Iterable[tuple[bytes, bytes]]

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_ONLY_TLS = {"Strict-Transport-Security": "max-age=31536000"}
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"(?P<name>[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_PUBLIC = re.compile(r"https://(?P<authority>[^/]+)/?")
_AS_NAME = "Write it as NAME or NAME:PORT, an address of IPv6 in brackets."
_LOOKING_UP = 4  # threads
_LAST_WORD = 3.0  # seconds for the closing frame of who does not read

_log = logging.getLogger("oneseek.access")


@dataclass(frozen=True)
class Names:
    """By what the server is asked for. `hosts` and `origins`: as browsers write them, in the headers Host and Origin;
    `secure`: browsers reach it by https."""

    hosts: frozenset[str]
    origins: frozenset[str]
    secure: bool

    @classmethod
    def of(cls, port: int, *, tls: bool = False, public_url: str = "", allowed: Sequence[str] = ()) -> Names:
        """This machine's own names with the port that is listened at, and those that somebody else has given it.

        tls: the port speaks TLS. public_url: https://NAME[:PORT] of a proxy in front, "" where there is none. allowed:
        NAME or NAME:PORT; without a port it is the served one, and the proxy's.

        Raises:
            ConfigError: one of them is no name, or the URL is no https address without a path.
        """
        given = [_authority(each, f"The allowed host {each!r} is no name.", _AS_NAME) for each in allowed]
        alone = [name for name, own in given if own is None and name not in _LOOPBACK]
        secure = tls or bool(public_url)
        places = {("https" if tls else "http", name, port) for name in (*_LOOPBACK, *alone)}
        places |= {("https" if secure else "http", name, own) for name, own in given if own is not None}
        if public_url:
            public_name, public_port = _public(public_url)
            places |= {("https", name, public_port) for name in (public_name, *alone)}
        usual = {name for scheme, name, its_port in places if its_port == _DEFAULT_PORTS[scheme]}
        hosts = usual | {f"{name}:{its_port}" for _, name, its_port in places}
        return cls(frozenset(hosts), frozenset(_origin(*place) for place in places), secure)


def _origin(scheme: str, name: str, port: int) -> str:
    return f"{scheme}://{name}" if port == _DEFAULT_PORTS[scheme] else f"{scheme}://{name}:{port}"


def _authority(text: str, problem: str, fix: str) -> tuple[str, int | None]:
    found = _AUTHORITY.fullmatch(text.lower())
    if found is None or not 0 < int(found["port"] or 1) < 65536:
        raise ConfigError(problem, fix)
    return found["name"], int(found["port"]) if found["port"] else None


def _public(url: str) -> tuple[str, int]:
    written = _PUBLIC.fullmatch(url)
    problem = f"The public URL {url!r} is no https address without a path."
    name, port = _authority(written["authority"] if written else "", problem, "Write it as https://NAME.")
    return name, port or _DEFAULT_PORTS["https"]


def cookie_name(secure: bool) -> str:
    """What the session's cookie is called. Browsers take `__Host-` only by https, from the host itself, for all
    paths."""
    return "__Host-oneseek" if secure else "oneseek"


def session_secret(headers: Headers, cookie: str) -> str:
    """What the session's cookie holds; "" where there is none, or several: whoever can set one beside ours (another
    port of the same machine can) must not choose which of them counts."""
    pairs = (pair.partition("=") for line in _values(headers, b"cookie") for pair in line.split(";"))
    # Other blanks belong to a name: browsers let any host of a domain set a cookie of which `__Host-` is not the start.
    found = [value.strip(" \t") for name, _, value in pairs if name.strip(" \t") == cookie]
    return found[0] if len(found) == 1 else ""


def _values(headers: Headers, wanted: bytes) -> list[str]:
    """Every value of a header, however often it was sent."""
    return [value.decode("latin-1") for name, value in headers if name.lower() == wanted]


class Guard:
    """Around an application: refuses what is not allowed, tells it who asks (`identity` in the request's state, None
    where nobody is known), adds the headers that every answer has, and logs one line a request to `oneseek.access`.
    Answers and sockets end when who asked is not known any more, and nobody gets so many that others get none.

    hide: of what it refuses with itself, which reaches strangers.
    """

    def __init__(self, app: ASGIApp, access: Access, names: Names, hide: Hide = as_it_is) -> None:
        self._app = app
        self._hide = hide
        self._access = access
        self._names = names
        self._cookie = cookie_name(names.secure)
        self._headers = _HEADERS | (_ONLY_TLS if names.secure else {})
        # In threads, since another process that writes may keep a look-up waiting; of its own, since routes that wait
        # for something may keep all others busy.
        self._threads = CapacityLimiter(_LOOKING_UP)
        self._shares = Shares()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        answer = _Answer(scope, receive, send, self._headers)
        state = scope.setdefault("state", {})
        state["identity"] = None
        LANGUAGE.set(language_of(scope["headers"]))
        try:
            _check_length(scope["headers"])
            self._check_host(scope["headers"])
            self._check_origin(scope["headers"])
            who = state["identity"] = await self._identity(scope["headers"])
            _check_allowed(scope, who)
        except (Refusal, OneSeekError) as error:
            if _may_log_in(scope, error):
                await RedirectResponse(f"/login?{urlencode({'next': _asked(scope)})}", 303)(scope, receive, answer)
            else:
                await answer.refuse(error, self._hide)
        else:
            await self._let_in(scope, receive, answer, who)
        finally:
            who = state["identity"]
            told = {
                "method": _method(scope),
                "path": scope["path"],
                "status": answer.status,
                "milliseconds": round((time.perf_counter() - began) * 1000, 1),
                "who": f"{who.kind} {who.id}" if who else "nobody",
            }
            _log.info("request", extra=told)

    def _check_host(self, headers: Headers) -> None:
        """A page whose name was led to this machine (DNS rebinding) still asks by its own name."""
        asked = _values(headers, b"host")
        if len(asked) != 1 or asked[0].lower() not in self._names.hosts:
            raise Refusal(
                421,
                "OneSeek is not served by that name.",
                "Ask by the address that it printed, or start it with --allowed-host NAME.",
            )

    def _check_origin(self, headers: Headers) -> None:
        """Browsers say from which page a socket or anything that changes something is asked for."""
        said = _values(headers, b"origin")
        if said and (len(said) > 1 or said[0] not in self._names.origins):
            raise Refusal(
                403,
                "Pages of other sites may not ask here.",
                "Open the page by the address that OneSeek printed, or start it with --allowed-host NAME.",
            )

    async def _let_in(self, scope: Scope, receive: Receive, answer: _Answer, who: Identity | None) -> None:
        """Let the application answer when it is their turn, for as long as they are known: what was revoked watches
        nothing any more."""
        if who is None:
            await self._app(scope, receive, answer)
            return
        try:
            async with self._shares.turn(who) as answer.turn:
                ASKING.set(f"{who.kind} {who.id}")
                await self._answer_while_known(scope, receive, answer)
        except Refusal as error:
            await answer.refuse(error, self._hide)

    async def _answer_while_known(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        answering = asyncio.ensure_future(self._app(scope, receive, answer))
        try:
            while not (await asyncio.wait((answering,), timeout=LOOK_AGAIN))[0]:
                if not await self._is_known(scope["headers"]):
                    answering.cancel()
                    await asyncio.wait((answering,))
                    await answer.end(_unknown("Who asks is not known any more."))
                    return
            await answering
        finally:
            answering.cancel()

    async def _is_known(self, headers: Headers) -> bool:
        try:
            return await self._identity(headers) is not None
        except Refusal:
            return False
        except OneSeekError as error:  # a database that is busy cuts nobody off; it is looked again
            _log.warning("not looked up", extra={"problem": str(error)})
            return True

    async def _identity(self, headers: Headers) -> Identity | None:
        """The header Authorization decides alone where it is: a wrong token is no reason to look for a cookie."""
        given = _values(headers, b"authorization")
        if given:
            scheme, _, token = given[0].partition(" ")
            bearer = len(given) == 1 and scheme.lower() == "bearer"
            identity = await self._looked_up(self._access.of_token, token) if bearer else None
            if identity is None:
                raise _unknown("The header Authorization holds no token that is known here.")
            return identity
        secret = session_secret(headers, self._cookie)
        return await self._looked_up(self._access.of_session, secret) if secret else None

    async def _looked_up(self, look_up: Callable[[str], Identity | None], secret: str) -> Identity | None:
        return await to_thread.run_sync(look_up, secret, limiter=self._threads)


def _check_length(headers: Headers) -> None:
    """Of a request that says in two ways where it ends, a proxy in front may have believed the other: what is the rest
    of it here was somebody else's next request there. https://www.rfc-editor.org/rfc/rfc9112#section-6.1"""
    if _values(headers, b"content-length") and _values(headers, b"transfer-encoding"):
        raise Refusal(
            400,
            "The request has both Content-Length and Transfer-Encoding.",
            "Send one of them.",
            {"Connection": "close"},
        )


def _check_allowed(scope: Scope, who: Identity | None) -> None:
    method = _method(scope)
    if who and who.kind == "session" and method not in SAFE and not _values(scope["headers"], b"origin"):
        raise Refusal(
            403,
            "A session may change nothing without the header Origin.",
            "Programs send a token; the pages of this server send the header by themselves.",
        )
    needed = scope_of(method, scope["path"])
    if needed is None:
        return
    if who is None:
        raise _unknown("Who asks is not known.")
    if not suffices(who.scope, needed):
        raise Refusal(
            403,
            f"This needs the scope {needed}; the {who.kind} has {who.scope}.",
            f"Make a token with it: oneseek admin token create NAME --scope {needed}.",
        )


def _may_log_in(scope: Scope, error: Exception) -> bool:
    """Whether a person is to be asked who they are, rather than a program refused, which has a token."""
    if not isinstance(error, Refusal) or error.status_code != 401 or _values(scope["headers"], b"authorization"):
        return False
    return is_for_people(_method(scope), scope["path"], ", ".join(_values(scope["headers"], b"accept")))


def _asked(scope: Scope) -> str:
    """Path and query of a request: where a person goes on after logging in."""
    path: str = scope["path"]
    query: str = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _method(scope: Scope) -> str:
    method: str = scope.get("method", SOCKET)
    return method


def _unknown(problem: str) -> Refusal:
    return Refusal(
        401,
        problem,
        "Send Authorization: Bearer TOKEN (oneseek admin token create NAME), or log in.",
        {"WWW-Authenticate": "Bearer"},
    )


class _Answer:
    """Where an application sends its answer to. `status`: of the answer, 101 where a socket was opened, None until
    there is one. `turn`: of who asks, which those who watch need no more."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str]) -> None:
        self.status: int | None = None
        self.turn: Turn | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers = headers

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.close" and self.status is None and self._tells_sockets:
            # Starlette's way to say that no route is there: a server would make it a 403 without a word.
            await self.refuse(Refusal(404, "There is no socket here.", "See docs/api.md."), as_it_is)
            return
        if kind in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            self._add_headers(message)
            if self.turn and MutableHeaders(scope=message).get("Content-Type", "").startswith("text/event-stream"):
                self.turn.end()
        elif kind == "websocket.accept":
            self.status = 101
            if self.turn:
                self.turn.end()
        elif kind == "websocket.close" and self.status is None:
            self.status = 403  # what a server answers that can't be told the status
        await self._send(message)

    async def refuse(self, error: Exception, hide: Hide) -> None:
        """Answer with an error, a socket before it is opened."""
        if self._scope["type"] == "websocket" and not self._tells_sockets:
            await self({"type": "websocket.close", "code": 1008})
        else:
            await errors.response(error, hide)(self._scope, self._receive, self)

    async def end(self, error: Refusal) -> None:
        """End an answer early, with an error where there is none yet. One that has begun just breaks off.

        Raises:
            Refusal: the error, where there is none yet.
        """
        if self.status is None:
            raise error
        if self.status == 101:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORD):
                    await self._send({"type": "websocket.close", "code": 1008, "reason": error.detail})

    @property
    def _tells_sockets(self) -> bool:
        return "websocket.http.response" in (self._scope.get("extensions") or {})

    def _add_headers(self, message: Message) -> None:
        message.setdefault("headers", [])
        headers = MutableHeaders(scope=message)
        headers.update(self._headers)
        headers.setdefault("Cache-Control", "no-store")
