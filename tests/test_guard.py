"""The guard: by which name, from which page, by whom, and whether they may; what is refused reaches nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from anyio import to_thread
from fastapi import APIRouter, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Match
from starlette.types import Message, Receive, Send
from starlette.types import Scope as AsgiScope

from oneseek.errors import ConfigError, StorageError
from oneseek.server import entrance, errors
from oneseek.server.access import PAGES, PUBLIC, SOCKET, scope_of
from oneseek.server.guard import Guard, Names
from oneseek.state.access import Access, Identity, Scope
from oneseek.state.database import Database
from support.ledger_service import Stage, stage

HOST = "localhost:3001"
ORIGIN = "http://localhost:3001"
PASSPHRASE = "a horse, a staple and a battery"
HERE = ("Host", HOST)
OURS = ("Origin", ORIGIN)
EVIL = ("Origin", "https://evil.example")
NAMES = Names.of(3001)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
CHANGING = tuple(method for method in METHODS if method not in ("GET", "HEAD"))
WHOSE: dict[tuple[str, str], Scope] = {
    ("GET", "/metrics"): "read",
    ("GET", "/openapi.json"): "read",
    ("HEAD", "/api/runs/x/archive"): "read",
    ("GET", "/api/training/x/events"): "read",
    ("POST", "/api/logout"): "read",
    (SOCKET, "/ws/training"): "read",
    ("POST", "/api/admin/training/start-dna-v2"): "run",
    ("POST", "/api/validate"): "run",
    ("PATCH", "/api/queue/x"): "run",
    ("DELETE", "/api/runs/x"): "run",
    ("OPTIONS", "/api/runs"): "run",
    ("POST", "/healthz"): "run",
    ("PUT", "/api/passphrase"): "admin",
    ("GET", "/api/sessions"): "admin",
    ("DELETE", "/api/sessions/x"): "admin",
    ("GET", "/api/tokens"): "admin",
    ("POST", "/api/tokens"): "admin",
    ("DELETE", "/api/tokens/x"): "admin",
    (SOCKET, "/api/tokens"): "admin",
}
ENOUGH: dict[Scope, tuple[Scope, ...]] = {"read": ("read",), "run": ("read", "run"), "admin": ("read", "run", "admin")}


@dataclass
class Inside:
    """An application that says yes to everything, and keeps what it was asked."""

    asked: list[AsgiScope] = field(default_factory=list)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        self.asked.append(scope)
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"inside"})


@dataclass
class Answer:
    """What came back: `status` 101 where a socket was opened, 0 where it was closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes
    messages: list[str]

    @property
    def error(self) -> dict[str, str]:
        """What an error says, in the one form that all have."""
        said = json.loads(self.body)
        assert list(said) == ["error"]
        assert list(said["error"]) == ["code", "message", "fix"]
        assert self.headers["content-type"] == "application/json"
        found: dict[str, str] = said["error"]
        return found


@dataclass(frozen=True)
class Doors:
    """An account, and every secret that opens something."""

    access: Access
    session: str
    tokens: dict[Scope, str]

    def bearer(self, scope: Scope = "admin") -> tuple[str, str]:
        return "Authorization", f"Bearer {self.tokens[scope]}"

    @property
    def cookie(self) -> tuple[str, str]:
        return "Cookie", f"oneseek={self.session}"


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    with closing(Database.open(tmp_path_factory.mktemp("guard") / "oneseek.db")) as database:
        access = Access(database)
        session = access.administer(access.new_link(), PASSPHRASE, "a test")
        tokens = {scope: access.create_token(f"for {scope}", scope)[1] for scope in ENOUGH}
        yield Doors(access, session, tokens)


@pytest.fixture
def inside() -> Inside:
    return Inside()


@pytest.fixture
def guard(doors: Doors, inside: Inside) -> Guard:
    return Guard(inside, doors.access, NAMES)


def scope_for(method: str, path: str, *headers: tuple[str, str], query: str = "", told: bool = True) -> AsgiScope:
    """What a server passes on. told: a socket can be refused with a status."""
    scope: AsgiScope = {
        "type": "websocket" if method == SOCKET else "http",
        "path": path,
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
    }
    if method == SOCKET:
        scope.update(subprotocols=[], extensions={"websocket.http.response": {}} if told else {})
    else:
        scope.update(method=method)
    return scope


async def asked(app: Any, scope: AsgiScope) -> Answer:
    """Ask as a server would, and hold the application to what servers take."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"} if scope["type"] == "websocket" else {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    starts = [each for each in sent if each["type"].endswith("response.start")]
    opened = any(each["type"] == "websocket.accept" for each in sent)
    headers = {name.decode(): value.decode() for start in starts for name, value in start["headers"]}
    body = b"".join(each.get("body", b"") for each in sent if each["type"].endswith("response.body"))
    return Answer(
        starts[0]["status"] if starts else 101 if opened else 0, headers, body, [each["type"] for each in sent]
    )


def ask(app: Any, method: str, path: str, *headers: tuple[str, str], query: str = "", told: bool = True) -> Answer:
    return asyncio.run(asked(app, scope_for(method, path, *headers, query=query, told=told)))


# -- by which name -----------------------------------------------------------------------------------------------------

REBOUND = {
    "another": "evil.example",
    "another with our port": "evil.example:3001",
    "ours with another port": "localhost:8080",
    "ours without its port": "localhost",
    "a name below ours": "localhost.evil.example:3001",
    "one that leads here": "127.0.0.1.nip.io:3001",
    "another spelling of here": "127.1:3001",
    "a number": "2130706433:3001",
    "every address": "0.0.0.0:3001",
    "a dot more": "localhost.:3001",
    "a port more": "localhost:3001:3001",
    "a user": "user@localhost:3001",
    "a path": "localhost:3001/",
    "two": "localhost:3001, evil.example",
    "empty": "",
    "no text": "localhost:3001\xff",
}


@pytest.mark.parametrize("host", REBOUND.values(), ids=REBOUND)
@pytest.mark.parametrize("method", ["GET", "POST", SOCKET])
def test_by_another_name_nobody_gets_anything(
    doors: Doors, guard: Guard, inside: Inside, method: str, host: str
) -> None:
    answers = [ask(guard, method, path, ("Host", host), doors.bearer()) for path in ("/healthz", "/api/runs")]

    assert [answer.status for answer in answers] == [421, 421]
    assert {answer.error["code"] for answer in answers} == {"MisdirectedRequest"}
    assert inside.asked == []


@pytest.mark.parametrize("hosts", [[], [HOST, HOST], [HOST, "evil.example"], ["evil.example", HOST]], ids=str)
def test_a_request_says_by_one_name_whom_it_asks(doors: Doors, guard: Guard, inside: Inside, hosts: list[str]) -> None:
    answer = ask(guard, "GET", "/api/runs", *(("Host", host) for host in hosts), doors.bearer())

    assert answer.status == 421
    assert inside.asked == []


@pytest.mark.parametrize("host", ["localhost:3001", "LOCALHOST:3001", "127.0.0.1:3001", "[::1]:3001"])
def test_this_machine_is_asked_by_its_own_names(guard: Guard, host: str) -> None:
    assert ask(guard, "GET", "/healthz", ("Host", host)).status == 200


@pytest.mark.parametrize("name", ["X-Forwarded-Host", "Forwarded"])
def test_what_a_proxy_may_say_of_the_name_is_not_believed(guard: Guard, name: str) -> None:
    answer = ask(guard, "GET", "/healthz", ("Host", "evil.example"), (name, HOST))

    assert answer.status == 421


def test_names_are_those_of_this_machine_of_the_proxy_and_the_allowed_ones() -> None:
    names = Names.of(
        3001, public_url="https://Tune.example.org/", allowed=["gpu", "gpu:9000", "[fd00::1]", "localhost"]
    )

    assert names.secure
    assert names.hosts == {
        *("localhost:3001", "127.0.0.1:3001", "[::1]:3001"),
        *("tune.example.org", "tune.example.org:443"),
        *("gpu", "gpu:443", "gpu:3001", "gpu:9000"),
        *("[fd00::1]", "[fd00::1]:443", "[fd00::1]:3001"),
    }
    assert names.origins == {
        *("http://localhost:3001", "http://127.0.0.1:3001", "http://[::1]:3001"),
        "https://tune.example.org",
        *("https://gpu", "http://gpu:3001", "https://gpu:9000"),
        *("https://[fd00::1]", "http://[fd00::1]:3001"),
    }


def test_a_proxy_at_an_unusual_port_is_asked_for_with_it() -> None:
    names = Names.of(3001, public_url="https://tune.example.org:8443", allowed=["gpu"])

    assert {"tune.example.org:8443", "gpu:8443"} <= names.hosts
    assert not {"tune.example.org", "gpu"} & names.hosts
    assert {"https://tune.example.org:8443", "https://gpu:8443"} <= names.origins


@pytest.mark.parametrize(("port", "tls"), [(80, False), (443, True)])
def test_a_name_without_a_port_is_that_of_the_usual_port(port: int, tls: bool) -> None:
    names = Names.of(port, tls=tls)
    scheme = "https" if tls else "http"

    assert {"localhost", f"localhost:{port}", "[::1]"} <= names.hosts
    assert names.origins == {f"{scheme}://localhost", f"{scheme}://127.0.0.1", f"{scheme}://[::1]"}
    assert names.secure is tls


@pytest.mark.parametrize(("port", "tls"), [(80, True), (443, False), (3001, True)])
def test_a_name_without_a_port_is_none_of_ours_at_another_port(port: int, tls: bool) -> None:
    assert all(":" in host.rpartition("]")[2] for host in Names.of(port, tls=tls).hosts)


@pytest.mark.parametrize(
    "allowed", ["", "*", "https://gpu", "gpu/", "gpu:", "gpu:0", "gpu:65536", "gpu:x", "fd00::1", "a b", "gpu\n", "ä"]
)
def test_what_is_no_name_can_not_be_allowed(allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Names.of(3001, allowed=[allowed])

    assert repr(allowed) in caught.value.problem
    assert caught.value.fix


@pytest.mark.parametrize(
    "url",
    [
        "http://a.org",
        "a.org",
        "https://",
        "https://a.org/x",
        "https://u:p@a.org",
        "https://a.org?x",
        "https://*",
        "https://[x",
    ],
)
def test_a_public_address_is_one_of_https_without_a_path(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Names.of(3001, public_url=url)

    assert repr(url) in caught.value.problem


# -- from which page ---------------------------------------------------------------------------------------------------

FOREIGN = {
    "another site": "https://evil.example",
    "none that is told": "null",
    "empty": "",
    "another scheme": "https://localhost:3001",
    "a socket's scheme": "ws://localhost:3001",
    "another port": "http://localhost:8000",
    "no port": "http://localhost",
    "without a scheme": "localhost:3001",
    "a path": "http://localhost:3001/",
    "a name below ours": "http://localhost:3001.evil.example",
    "two": "http://localhost:3001 https://evil.example",
    "any": "*",
}


@pytest.mark.parametrize("origin", FOREIGN.values(), ids=FOREIGN)
def test_another_sites_page_gets_nothing_by_any_method_or_socket(
    doors: Doors, guard: Guard, inside: Inside, origin: str
) -> None:
    answers = [
        ask(guard, method, path, HERE, ("Origin", origin), who)
        for method in (*METHODS, SOCKET)
        for path in ("/healthz", "/api/login", "/api/runs", "/ws/training")
        for who in (doors.cookie, doors.bearer(), ("X-Nobody", ""))
    ]

    assert {answer.status for answer in answers} == {403}
    assert inside.asked == []


@pytest.mark.parametrize("origins", [[ORIGIN, ORIGIN], [ORIGIN, EVIL[1]], [EVIL[1], ORIGIN]], ids=str)
def test_a_page_names_itself_once(doors: Doors, guard: Guard, inside: Inside, origins: list[str]) -> None:
    answer = ask(guard, "POST", "/api/runs", HERE, doors.cookie, *(("Origin", origin) for origin in origins))

    assert answer.status == 403
    assert inside.asked == []


@pytest.mark.parametrize("method", [*CHANGING, SOCKET])
def test_a_session_changes_nothing_and_opens_no_socket_unless_its_own_page_asks(
    doors: Doors, guard: Guard, inside: Inside, method: str
) -> None:
    without = ask(guard, method, "/api/runs", HERE, doors.cookie)
    reached = len(inside.asked)
    with_it = ask(guard, method, "/api/runs", HERE, doors.cookie, OURS)

    assert (without.status, reached) == (403, 0)
    assert "Origin" in without.error["message"]
    assert with_it.status == (101 if method == SOCKET else 200)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_session_reads_without_saying_from_which_page(doors: Doors, guard: Guard, method: str) -> None:
    assert ask(guard, method, "/api/runs", HERE, doors.cookie).status == 200


def test_a_program_with_a_token_says_of_no_page(doors: Doors, guard: Guard) -> None:
    assert ask(guard, "POST", "/api/validate", HERE, doors.bearer()).status == 200
    assert ask(guard, SOCKET, "/ws/training", HERE, doors.bearer()).status == 101


def test_other_sites_are_told_nothing_that_lets_them_read(doors: Doors, guard: Guard) -> None:
    wish = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization")]

    answers = [
        ask(guard, "OPTIONS", "/api/validate", HERE, EVIL, *wish),
        ask(guard, "OPTIONS", "/api/validate", HERE, OURS, *wish),
        ask(guard, "GET", "/api/runs", HERE, OURS, doors.bearer()),
    ]

    assert [answer.status for answer in answers] == [403, 401, 200]
    assert not any(name.startswith("access-control") for answer in answers for name in answer.headers)


# -- by whom -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*METHODS, SOCKET])
@pytest.mark.parametrize(
    "path", ["//", "/api/runs", "/api/nothing", "/ws/training", "/healthz/", "*", "http://localhost:3001/healthz"]
)
def test_without_a_secret_everything_is_closed_even_what_is_not_there(
    guard: Guard, inside: Inside, method: str, path: str
) -> None:
    answer = ask(guard, method, path, HERE)

    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.error["code"] == "Unauthorized"
    assert inside.asked == []


def test_who_opens_a_page_is_asked_who_they_are_and_comes_back_to_it(guard: Guard, inside: Inside) -> None:
    pages = [path for path in PAGES if path not in ("/login", "/setup")]

    led = {path: ask(guard, "GET", path, HERE) for path in [*pages, "/runs/run-20251122-143025"]}

    assert {path: (answer.status, answer.headers["location"]) for path, answer in led.items()} == {
        path: (303, f"/login?next={quote(path, safe='')}") for path in led
    }
    assert inside.asked == []


def test_a_program_with_a_wrong_token_is_led_to_no_page(guard: Guard) -> None:
    answer = ask(guard, "GET", "/runs", HERE, ("Authorization", "Bearer osk_guessed"))

    assert answer.status == 401


@pytest.mark.parametrize("has", ENOUGH)
@pytest.mark.parametrize(("method", "path"), WHOSE)
def test_each_scope_opens_what_it_is_for(
    doors: Doors, guard: Guard, inside: Inside, has: Scope, method: str, path: str
) -> None:
    needed = WHOSE[method, path]

    answer = ask(guard, method, path, HERE, doors.bearer(has))

    if needed in ENOUGH[has]:
        assert answer.status == (101 if method == SOCKET else 200)
        assert inside.asked[0]["state"]["identity"].scope == has
    else:
        assert answer.status == 403
        assert f"scope {needed}" in answer.error["message"]
        assert f"--scope {needed}" in answer.error["fix"]
        assert inside.asked == []


@pytest.mark.parametrize(("method", "path"), sorted(PUBLIC))
def test_what_is_public_is_told_who_asks_if_anybody_is_known(
    doors: Doors, guard: Guard, inside: Inside, method: str, path: str
) -> None:
    ask(guard, method, path, HERE)
    ask(guard, method, path, HERE, ("Cookie", "oneseek=of-yesterday"))
    ask(guard, method, path, HERE, OURS, doors.cookie)
    ask(guard, method, path, HERE, doors.bearer("run"))

    found = [scope["state"]["identity"] for scope in inside.asked]
    assert found[:2] == [None, None]
    assert [(each.kind, each.scope) for each in found[2:]] == [("session", "admin"), ("token", "run")]


def wrong(doors: Doors) -> Mapping[str, list[str]]:
    token = doors.tokens["admin"]
    return {
        "empty": [""],
        "no token": ["Bearer"],
        "an empty token": ["Bearer "],
        "a letter less": [f"Bearer {token[:-1]}"],
        "a letter more": [f"Bearer {token}x"],
        "other letters": [f"Bearer {token.upper()}"],
        "a space more": [f"Bearer  {token}"],
        "no scheme": [token],
        "another scheme": [f"Basic {token}"],
        "two tokens": [f"Bearer {token} {token}"],
        "a list": [f"Bearer {token}, Bearer {token}"],
        "no ASCII": ["Bearer \xe9\xff"],
        "a session's secret": [f"Bearer {doors.session}"],
        "sent twice": [f"Bearer {token}", f"Bearer {token}"],
        "right, then wrong": [f"Bearer {token}", "Bearer x"],
        "wrong, then right": ["Bearer x", f"Bearer {token}"],
    }


@pytest.mark.parametrize("case", wrong(Doors(None, "", {"admin": ""})))  # type: ignore[arg-type]
def test_a_wrong_token_is_wrong_even_beside_a_right_session(
    doors: Doors, guard: Guard, inside: Inside, case: str
) -> None:
    given = [("Authorization", value) for value in wrong(doors)[case]]

    answers = [
        ask(guard, "GET", "/api/runs", HERE, *given),
        ask(guard, "GET", "/api/runs", HERE, OURS, doors.cookie, *given),
        ask(guard, "GET", "/api/session", HERE, *given),
        ask(guard, SOCKET, "/ws/training", HERE, *given),
    ]

    assert [answer.status for answer in answers] == [401] * 4
    assert inside.asked == []


def test_the_schemes_case_does_not_matter(doors: Doors, guard: Guard) -> None:
    assert ask(guard, "GET", "/api/runs", HERE, ("Authorization", f"bearer {doors.tokens['read']}")).status == 200


def test_a_token_counts_in_its_header_only(doors: Doors, guard: Guard, inside: Inside) -> None:
    token = doors.tokens["admin"]
    query = f"token={token}&access_token={token}&authorization=Bearer%20{token}&oneseek={doors.session}"

    answers = [
        ask(guard, "GET", "/api/runs", HERE, query=query),
        ask(guard, SOCKET, "/ws/training", HERE, OURS, query=query),
        ask(guard, "GET", "/api/runs", HERE, ("Cookie", f"oneseek={token}; token={token}")),
        ask(guard, "GET", "/api/runs", HERE, ("X-Api-Key", token), ("Proxy-Authorization", f"Bearer {token}")),
        ask(guard, SOCKET, "/ws/training", HERE, OURS, ("Sec-WebSocket-Protocol", f"bearer, {token}")),
    ]

    assert [answer.status for answer in answers] == [401] * 5
    assert inside.asked == []


def cookies(secret: str) -> Mapping[str, list[str]]:
    return {
        "two": [f"oneseek={secret}; oneseek={secret}"],
        "one of somebody else before": [f"oneseek=x; oneseek={secret}"],
        "one of somebody else after": [f"oneseek={secret}; oneseek=x"],
        "in two headers": [f"oneseek={secret}", "oneseek=x"],
        "an empty one beside": [f"oneseek={secret}; oneseek="],
        "another name": [f"Oneseek={secret}"],
        "another blank before it": [f"\xa0oneseek={secret}"],
        "a control character before it": [f"\x1foneseek={secret}"],
        "a blank that is none": [f"oneseek\x85={secret}"],
        "the other name": [f"__Host-oneseek={secret}"],
        "quoted": [f'oneseek="{secret}"'],
        "encoded": [f"oneseek=%{ord(secret[:1] or 'x'):02x}{secret[1:]}"],
        "a letter less": [f"oneseek={secret[:-1]}"],
    }


@pytest.mark.parametrize("case", cookies("x"))
def test_only_the_one_cookie_of_our_name_counts(doors: Doors, guard: Guard, inside: Inside, case: str) -> None:
    given = [("Cookie", line) for line in cookies(doors.session)[case]]

    answer = ask(guard, "GET", "/api/runs", HERE, *given)

    assert answer.status == 401
    assert inside.asked == []


def test_cookies_of_others_do_no_harm(doors: Doors, guard: Guard) -> None:
    answer = ask(guard, "GET", "/api/runs", HERE, ("Cookie", f"a=b;oneseek={doors.session} ; c"), ("Cookie", "d=e"))

    assert answer.status == 200


def test_over_tls_only_the_cookie_that_no_other_host_can_set_counts(doors: Doors, inside: Inside) -> None:
    guard = Guard(inside, doors.access, Names.of(3001, tls=True))

    plain = ask(guard, "GET", "/api/runs", HERE, doors.cookie)
    host_only = ask(guard, "GET", "/api/runs", HERE, ("Cookie", f"__Host-oneseek={doors.session}"))

    assert (plain.status, host_only.status) == (401, 200)


def test_what_was_revoked_opens_nothing(doors: Doors, guard: Guard, inside: Inside) -> None:
    session = doors.access.log_in(PASSPHRASE, "a test")
    token, secret = doors.access.create_token("for a moment", "admin")
    given = [("Cookie", f"oneseek={session}"), ("Authorization", f"Bearer {secret}")]
    before = [ask(guard, "GET", "/api/runs", HERE, each).status for each in given]

    doors.access.log_out(session)
    doors.access.revoke_token(token.id)

    assert before == [200, 200]
    assert [ask(guard, "GET", "/api/runs", HERE, each).status for each in given] == [401, 401]
    assert len(inside.asked) == 2


# -- the table ---------------------------------------------------------------------------------------------------------

_KNOWN = ["/healthz", "/api/session", "/api/setup", "/api/login", "/api/tokens", "/api/sessions/x", "/api/passphrase"]
_PIECES = ["/", "//", ".", "..", "%2e", "%2f", "\\", ";", "?", "#", "\n", "\0", " ", "x", "\u2215", "API", "api", "ẞ"]
_MUTATED = st.builds(
    lambda path, at, piece, drop: path[:at] + piece + path[at + drop :],
    st.sampled_from([path for _, path in sorted(PUBLIC)] + _KNOWN),
    st.integers(0, 16),
    st.sampled_from(["", *_PIECES]) | st.text(max_size=3),
    st.integers(0, 2),
)
_PATHS = st.text(max_size=30) | st.sampled_from(_KNOWN) | _MUTATED
_METHODS = st.sampled_from([*METHODS, SOCKET, "get", "Post", ""]) | st.text(max_size=8)


def _spelled(text: str) -> list[str]:
    """Ways to write nearly the same."""
    return [text, text.upper(), text.lower(), text.title(), f"{text} ", f" {text}", f"{text}/", f"/{text}", f"{text}\n"]


_NEARLY_PUBLIC = st.sampled_from(sorted(PUBLIC)).flatmap(
    lambda one: st.tuples(st.sampled_from(_spelled(one[0])), st.sampled_from(_spelled(one[1])))
)


@given(st.tuples(_METHODS, _PATHS) | _NEARLY_PUBLIC)
def test_only_what_is_listed_letter_by_letter_is_public(pair: tuple[str, str]) -> None:
    is_public = scope_of(*pair) is None

    assert is_public == (pair in PUBLIC)


def test_what_is_public_is_what_must_be() -> None:
    reading = {("GET", "/healthz"), ("GET", "/api/session")}

    doors = {("GET", "/login"), ("GET", "/setup"), ("POST", "/api/setup"), ("POST", "/api/login")}
    assert reading | doors == PUBLIC


@pytest.fixture(scope="module")
def entrances(doors: Doors) -> APIRouter:
    return entrance.routes(doors.access, secure=False)


@given(method=st.sampled_from(METHODS), path=_PATHS)
def test_whichever_way_a_path_is_written_that_leads_to_the_administrators_routes_it_is_his(
    entrances: APIRouter, method: str, path: str
) -> None:
    """The routes are asked themselves: they take a line break after a path, for one."""
    found = [route for route in entrances.routes if route.matches(scope_for(method, path))[0] is not Match.NONE]

    led = {getattr(route, "path", "") for route in found}
    if any(each.startswith(("/api/tokens", "/api/sessions", "/api/passphrase")) for each in led):
        assert scope_of(method, path) == "admin"


@pytest.mark.parametrize("path", ["/api/tokens\n", "/api/tokens/", "/api/tokens/x\n", "/api/sessions\n"])
def test_a_path_that_is_nearly_an_administrators_is_his(doors: Doors, guard: Guard, path: str) -> None:
    assert ask(guard, "GET", path, HERE, doors.bearer("run")).status == 403


# -- what every answer says --------------------------------------------------------------------------------------------

SAID = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


def application() -> FastAPI:
    app = FastAPI(openapi_url=None)
    errors.install(app)

    @app.get("/api/runs")
    def runs() -> dict[str, str]:
        return {"content-security-policy": "in the body only"}

    @app.get("/api/broken")
    def broken() -> None:
        raise RuntimeError("nobody foresaw it")

    return app


def test_every_answer_has_the_headers_that_protect_who_asked(doors: Doors, caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(application(), doors.access, NAMES)
    who = doors.bearer("run")

    answers = [
        ask(guard, "GET", "/api/runs", HERE, who),
        ask(guard, "GET", "/api/runs", HERE),
        ask(guard, "GET", "/api/tokens", HERE, who),
        ask(guard, "GET", "/api/nothing", HERE, who),
        ask(guard, "DELETE", "/api/runs", HERE, who),
        ask(guard, "GET", "/api/runs"),
        ask(guard, SOCKET, "/ws/training", HERE),
        ask(guard, SOCKET, "/ws/nothing", HERE, who),
    ]
    with pytest.raises(RuntimeError, match="nobody foresaw it"):  # it is told first, and then raised for the server
        ask(guard, "GET", "/api/broken", HERE, who)

    assert [answer.status for answer in answers] == [200, 401, 403, 404, 405, 421, 401, 404]
    assert all(answer.headers.items() >= SAID.items() for answer in answers)
    assert all("permissions-policy" in answer.headers for answer in answers)
    assert all(answer.error for answer in answers[1:])


def test_an_answer_says_itself_whether_it_may_be_kept_and_nothing_else(doors: Doors) -> None:
    async def kept(scope: AsgiScope, receive: Receive, send: Send) -> None:
        own = [(b"cache-control", b"max-age=60"), (b"x-frame-options", b"SAMEORIGIN"), (b"etag", b'"1"')]
        await send({"type": "http.response.start", "status": 200, "headers": own})
        await send({"type": "http.response.body"})

    answer = ask(Guard(kept, doors.access, NAMES), "GET", "/healthz", HERE)

    assert answer.headers.items() >= (SAID | {"cache-control": "max-age=60", "etag": '"1"'}).items()


@pytest.mark.parametrize(
    ("names", "secure"),
    [(NAMES, False), (Names.of(3001, tls=True), True), (Names.of(3001, public_url="https://a.example"), True)],
    ids=["plain", "tls", "proxy"],
)
def test_who_can_come_by_tls_is_told_to_stay_there(doors: Doors, inside: Inside, names: Names, secure: bool) -> None:
    answers = [ask(Guard(inside, doors.access, names), "GET", path, HERE) for path in ("/healthz", "/api/runs")]

    assert all(("strict-transport-security" in answer.headers) is secure for answer in answers)


# -- sockets -----------------------------------------------------------------------------------------------------------


def test_a_socket_is_refused_before_it_is_opened_even_where_no_status_can_be_told(guard: Guard, inside: Inside) -> None:
    told = ask(guard, SOCKET, "/ws/training", HERE)
    untold = ask(guard, SOCKET, "/ws/training", HERE, told=False)

    assert told.messages == ["websocket.http.response.start", "websocket.http.response.body"]
    assert untold.messages == ["websocket.close"]
    assert inside.asked == []


def test_a_socket_that_no_route_has_is_not_found(doors: Doors) -> None:
    guard = Guard(application(), doors.access, NAMES)

    told = ask(guard, SOCKET, "/ws/nothing", HERE, doors.bearer())
    untold = ask(guard, SOCKET, "/ws/nothing", HERE, doors.bearer(), told=False)

    assert (told.status, told.error["code"]) == (404, "NotFound")
    assert untold.messages == ["websocket.close"]


def test_an_open_socket_is_left_alone(doors: Doors, guard: Guard) -> None:
    answer = ask(guard, SOCKET, "/ws/training", HERE, doors.bearer())

    assert answer.messages == ["websocket.accept", "websocket.close"]


@pytest.fixture(scope="module")
def at_an_address() -> Iterator[Stage]:
    with stage() as found:
        yield found


def test_under_the_real_server_what_is_refused_looks_the_same(
    at_an_address: Stage, doors: Doors, inside: Inside
) -> None:
    place = urlsplit(at_an_address.address)
    at_an_address.play(Guard(inside, doors.access, Names.of(place.port or 0)))
    connection = http.client.HTTPConnection(place.netloc, timeout=10)

    found = []
    for headers in ({}, {"Host": "evil.example"}, {"Origin": "null"}, {"Authorization": doors.bearer()[1]}):
        connection.request("GET", "/api/runs", headers=headers)
        answer = connection.getresponse()
        found.append((answer.status, answer.headers["X-Content-Type-Options"]))
        answer.read()
    connection.close()

    assert found == [(401, "nosniff"), (421, "nosniff"), (403, "nosniff"), (200, "nosniff")]


@pytest.mark.parametrize("line", ["Host: evil.example", "Host: {host}"])
def test_under_the_real_server_two_hosts_are_refused(
    at_an_address: Stage, doors: Doors, inside: Inside, line: str
) -> None:
    place = urlsplit(at_an_address.address)
    at_an_address.play(Guard(inside, doors.access, Names.of(place.port or 0)))
    second = line.format(host=place.netloc)

    with socket.create_connection((place.hostname or "", place.port or 0), timeout=10) as connection:
        connection.sendall(f"GET /healthz HTTP/1.1\r\nHost: {place.netloc}\r\n{second}\r\n\r\n".encode())
        answer = connection.recv(100)

    assert answer.startswith(b"HTTP/1.1 400")
    assert inside.asked == []


# -- when things go wrong ----------------------------------------------------------------------------------------------


class Unlike(Access):
    """An account of which `of_token` is what a test says."""

    def __init__(self, of_token: Any) -> None:
        self.of_token = of_token  # type: ignore[method-assign]


def test_who_can_not_be_looked_up_is_not_let_in(inside: Inside) -> None:
    def full(secret: str) -> Identity | None:
        raise StorageError("oneseek.db can't be read.", "Check the disk.")

    guard = Guard(inside, Unlike(full), NAMES)

    answer = ask(guard, "GET", "/api/runs", HERE, ("Authorization", "Bearer osk_x"))

    assert answer.status == 507
    assert answer.error["message"] == "oneseek.db can't be read."
    assert inside.asked == []


def test_others_are_answered_while_somebody_is_looked_up(inside: Inside) -> None:
    answered = threading.Event()

    def slow(secret: str) -> Identity | None:
        assert answered.wait(10)
        return Identity(kind="token", id="1", name="slow", scope="read")

    guard = Guard(inside, Unlike(slow), NAMES)

    async def both() -> tuple[Answer, Answer]:
        first = asyncio.create_task(asked(guard, scope_for("GET", "/api/runs", HERE, ("Authorization", "Bearer x"))))
        await asyncio.sleep(0.01)
        second = await asked(guard, scope_for("GET", "/healthz", HERE))
        answered.set()
        return await first, second

    answers = asyncio.run(both())

    assert [answer.status for answer in answers] == [200, 200]
    assert [scope["path"] for scope in inside.asked] == ["/healthz", "/api/runs"]


def test_who_asks_is_looked_up_though_every_other_thread_is_busy(doors: Doors, guard: Guard) -> None:
    async def look_up() -> Answer:
        to_thread.current_default_thread_limiter().total_tokens = 0
        async with asyncio.timeout(10):
            return await asked(guard, scope_for("GET", "/api/runs", HERE, doors.bearer()))

    assert asyncio.run(look_up()).status == 200


def test_what_is_no_request_passes(doors: Doors, guard: Guard, inside: Inside) -> None:
    asyncio.run(asked(guard, {"type": "lifespan"}))

    assert inside.asked == [{"type": "lifespan"}]


# -- the log -----------------------------------------------------------------------------------------------------------


def test_each_request_is_one_line_that_says_who_did_what(
    doors: Doors, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "oneseek.access")
    token = doors.access.of_token(doors.tokens["run"])
    session = doors.access.of_session(doors.session)
    assert token
    assert session

    ask(guard, "GET", "/healthz", HERE)
    ask(guard, "GET", "/api/tokens", HERE, doors.bearer("run"))
    ask(guard, SOCKET, "/ws/training", HERE, OURS, doors.cookie)
    ask(guard, SOCKET, "/ws/training", HERE, told=False)
    ask(guard, "GET", "/healthz")

    lines = [vars(record) for record in caplog.records if record.name == "oneseek.access"]
    assert [(line["method"], line["path"], line["status"], line["who"]) for line in lines] == [
        ("GET", "/healthz", 200, "nobody"),
        ("GET", "/api/tokens", 403, f"token {token.id}"),
        (SOCKET, "/ws/training", 101, f"session {session.id}"),
        (SOCKET, "/ws/training", 403, "nobody"),
        ("GET", "/healthz", 421, "nobody"),
    ]
    assert all(0 <= line["milliseconds"] < 10_000 for line in lines)


def test_no_secret_is_in_the_log(doors: Doors, guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = doors.tokens["read"]

    ask(guard, "GET", "/api/runs", HERE, doors.bearer("read"), doors.cookie, query=f"token={token}")
    ask(guard, "GET", "/api/tokens", HERE, doors.bearer("read"))
    ask(guard, "POST", "/api/runs", HERE, doors.cookie, query=f"token={doors.session}")
    ask(guard, "GET", "/api/runs", HERE, ("Authorization", f"Basic {token}"))

    written = " ".join(str(vars(record)) for record in caplog.records)
    assert len(caplog.records) >= 4
    assert token not in written
    assert doors.session not in written


def test_a_request_whose_application_fails_is_in_the_log(doors: Doors, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "oneseek.access")

    with pytest.raises(RuntimeError):
        ask(Guard(application(), doors.access, NAMES), "GET", "/api/broken", HERE, doors.bearer())

    assert [vars(record)["status"] for record in caplog.records if record.name == "oneseek.access"] == [500]
