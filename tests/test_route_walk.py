"""Every route by every method, and every socket, asked by nobody and by everybody: none has forgotten to look."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.routing import WebSocketRoute
from starlette.testclient import WebSocketDenialResponse

from support.runs import Town
from support.server import ADDRESS, Served, served

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
SOCKETS = ADDRESS.replace("http", "ws")
SCOPES = ("read", "run", "admin")

# Written out here once more, so that a slip in the server's own table is found.
PUBLIC = {
    ("GET", "/healthz"),
    ("GET", "/api/session"),
    ("GET", "/login"),
    ("GET", "/setup"),
    ("GET", "/assets/{version}/{name}"),
    ("HEAD", "/assets/{version}/{name}"),
    ("POST", "/api/setup"),
    ("POST", "/api/login"),
}
ADMIN = {
    "/api/passphrase",
    "/api/sessions",
    "/api/sessions/{session_id}",
    "/api/tokens",
    "/api/tokens/{token_id}",
}
FOR_READERS = {("POST", "/api/logout")}
NOWHERE = ("/", "/api", "/api/nothing", "/api/runs/", "//api/runs", "/api/admin/anything", "/docs", "/static/x.js")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(Town(tmp_path_factory.mktemp("walk") / "home")) as whole:
        whole.client.follow_redirects = False
        yield whole


def routes_of(router: Any) -> Iterator[Any]:
    """Every route, those of routers inside routers too."""
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        yield from routes_of(inner) if inner else [route]


def filled(path: str) -> str:
    """A path with something in the place of its parameters that is nowhere."""
    return re.sub(r"\{[^}]*\}", "run-20260101-000000", path)


def needed(method: str, path: str) -> str | None:
    if (method, path) in PUBLIC:
        return None
    if path in ADMIN:
        return "admin"
    return "read" if method in ("GET", "HEAD") or (method, path) in FOR_READERS else "run"


def stopped_at_the_guard(answer: Any) -> int | None:
    """The status with which the guard refused; None where a request reached what stands behind it. Who is not known
    and wants to see a page is sent to log in instead of 401."""
    if answer.status_code == 303 and answer.headers["Location"].startswith("/login?next="):
        return 401
    if answer.status_code not in (401, 403, 421):
        return None
    if answer.request.method == "HEAD":
        return int(answer.status_code)
    return int(answer.status_code) if answer.json()["error"]["code"] in ("Unauthorized", "Forbidden") else None


def everywhere(server: Served) -> list[tuple[str, str]]:
    """Every method on every path that there is, and on some that there are not."""
    paths = [route.path for route in routes_of(server.routes) if not isinstance(route, WebSocketRoute)]
    return [(method, path) for path in [*paths, *NOWHERE] for method in METHODS]


def test_nobody_gets_anywhere_but_to_what_is_public(server: Served) -> None:
    wrong = [
        (method, path, answer.status_code)
        for method, path in everywhere(server)
        for headers in ({}, {"Authorization": "Bearer osk_guessed"}, {"Cookie": "oneseek=guessed"})
        for answer in [server.client.request(method, filled(path), headers=headers)]
        # A token that is wrong is refused everywhere: whoever sends it should hear that.
        if stopped_at_the_guard(answer) != (401 if needed(method, path) or "Authorization" in headers else None)
    ]

    assert wrong == []


@pytest.mark.parametrize("scope", SCOPES)
def test_a_token_opens_what_its_scope_is_for_and_nothing_else(server: Served, scope: Any) -> None:
    headers, wrong = server.token(scope), []

    for method, path in everywhere(server):
        answer = server.client.request(method, filled(path), headers=headers)
        need = needed(method, path)
        allowed = need is None or SCOPES.index(scope) >= SCOPES.index(need)
        if stopped_at_the_guard(answer) != (None if allowed else 403):
            wrong.append((method, path, answer.status_code))

    assert wrong == []


def test_a_session_changes_nothing_without_an_origin_and_from_no_other(server: Served) -> None:
    headers = server.session()
    without, from_elsewhere = {"Cookie": headers["Cookie"]}, headers | {"Origin": "http://evil.example"}

    safe = ("GET", "HEAD")
    unsafe = [each for each in everywhere(server) if each[0] not in safe]
    let_in = [each for each in unsafe if not stopped_at_the_guard(server.client.request(*each, headers=without))]
    from_there = [
        each
        for each in everywhere(server)
        if stopped_at_the_guard(server.client.request(each[0], filled(each[1]), headers=from_elsewhere)) != 403
    ]

    assert let_in == []
    assert from_there == []


def test_a_token_that_was_revoked_opens_nothing(server: Served) -> None:
    token, secret = server.access.create_token("gone", "admin")
    headers = {"Authorization": f"Bearer {secret}"}
    assert server.client.get("/api/runs", headers=headers).status_code == 200

    server.access.revoke_token(token.id)

    open_still = [
        each
        for each in everywhere(server)
        if stopped_at_the_guard(server.client.request(each[0], filled(each[1]), headers=headers)) != 401
    ]
    assert open_still == []


def test_every_socket_refuses_before_it_is_opened_who_may_not_read(server: Served) -> None:
    sockets = [route.path for route in routes_of(server.routes) if isinstance(route, WebSocketRoute)]
    session = server.session()
    refused = {
        "nobody": {},
        "a wrong token": {"Authorization": "Bearer osk_guessed"},
        "a session without an origin": {"Cookie": session["Cookie"]},
        "a session from elsewhere": session | {"Origin": "http://evil.example"},
        "a session from a file": session | {"Origin": "null"},
        "a token from elsewhere": server.token("read") | {"Origin": "https://127.0.0.1:3001"},
        "another name": server.token("read") | {"Host": "evil.example"},
    }

    statuses = {}
    for path in [*sockets, "/ws/nothing"]:
        for who, headers in refused.items():
            with (
                pytest.raises(WebSocketDenialResponse) as denied,
                server.client.websocket_connect(f"{SOCKETS}{path}?runId=run-20260101-000000", headers=headers),
            ):
                pass
            statuses[path, who] = denied.value.status_code

    assert sockets == ["/ws/training"]
    expected = {"nobody": 401, "a wrong token": 401, "another name": 421}
    assert statuses == {(path, who): expected.get(who, 403) for path, who in statuses}


@pytest.mark.parametrize("scope", SCOPES)
def test_a_socket_is_for_everybody_who_may_read(server: Served, scope: Any) -> None:
    headers = server.token(scope)

    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        server.client.websocket_connect(f"{SOCKETS}/ws/training?runId=run-20260101-000000", headers=headers),
    ):
        pass

    assert denied.value.status_code == 404  # behind the guard, where there is no such run


def test_every_route_is_described_and_everything_described_is_a_route(server: Served) -> None:
    described = server.client.get("/openapi.json", headers=server.token("read")).json()["paths"]

    there = {
        (method, re.sub(r":[a-z]+\}", "}", route.path))
        for route in routes_of(server.routes)
        if not isinstance(route, WebSocketRoute) and route.include_in_schema
        for method in route.methods - {"HEAD"}
    }
    assert {(method.upper(), path) for path, methods in described.items() for method in methods} == there


def test_everything_refused_at_the_door_says_so_in_the_one_form_with_every_header(server: Served) -> None:
    for headers in ({}, {"Host": "evil.example"}, {"Origin": "null"}):
        answer = server.client.post("/api/runs", headers=headers)

        assert set(answer.json()["error"]) == {"code", "message", "fix"}
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
