"""How one gets in, behind the guard: the first passphrase, sessions, tokens."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from starlette.testclient import TestClient

from oneseek.server import bodies, entrance, errors
from oneseek.server.bodies import LARGEST_BODY
from oneseek.server.guard import Guard, Names
from oneseek.state.access import FREE_TRIES, Access
from oneseek.state.database import Database

HERE = "http://localhost:3001"
OURS = {"Origin": HERE}
PASSPHRASE = "a horse, a staple and a battery"
ANOTHER = "four other words than those"
JSON = {"Content-Type": "application/json"}


class Clock:
    """Goes only when a test says so."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def wait(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(tmp_path: Path, clock: Clock) -> Iterator[Access]:
    with closing(Database.open(tmp_path / "oneseek.db")) as database:
        access = Access(database, clock)
        access._hasher = PasswordHasher(
            time_cost=1, memory_cost=8, parallelism=1
        )  # how hard it is to guess is looked at elsewhere
        yield access


@pytest.fixture
def administered(access: Access) -> Access:
    """With a passphrase, and nobody logged in."""
    access.log_out(access.administer(access.new_link(), PASSPHRASE, "a test"))
    return access


def application(access: Access, *, secure: bool = False) -> FastAPI:
    app = FastAPI(responses=bodies.EVERYWHERE)
    errors.install(app)
    bodies.describe(app)
    app.include_router(entrance.routes(access, secure=secure))
    return app


def browser(access: Access, *, tls: bool = False) -> TestClient:
    """Somebody who asks as a page of the server does."""
    names = Names.of(3001, tls=tls)
    address = HERE.replace("http:", "https:") if tls else HERE
    return TestClient(
        Guard(application(access, secure=names.secure), access, names), address, headers={"Origin": address}
    )


def program(access: Access, token: str) -> TestClient:
    app = Guard(application(access), access, Names.of(3001))
    return TestClient(app, HERE, headers={"Authorization": f"Bearer {token}"})


def logged_in(access: Access) -> TestClient:
    found = browser(access)
    assert found.post("/api/login", json={"passphrase": PASSPHRASE}).status_code == 204
    return found


def error(answer: Any) -> dict[str, str]:
    found: dict[str, str] = answer.json()["error"]
    return found


def standing(client: TestClient) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/api/session").json()
    return found


NOBODY = {"signed_in": False, "scope": None, "kind": None, "id": None, "name": None}

# -- the first time ----------------------------------------------------------------------------------------------------


def test_the_one_time_link_makes_an_administrator_who_is_logged_in(access: Access) -> None:
    client = browser(access)
    link = access.new_link()
    before = standing(client)

    answer = client.post("/api/setup", json={"link": link, "passphrase": PASSPHRASE})

    assert before == {"set_up": False, **NOBODY}
    assert (answer.status_code, answer.content) == (204, b"")
    [session] = access.sessions()
    assert standing(client) == {
        "set_up": True,
        "signed_in": True,
        "scope": "admin",
        "kind": "session",
        "id": session.id,
        "name": "administrator",
    }
    assert session.agent == "testclient"


def test_a_wrong_link_makes_nobody_an_administrator(access: Access) -> None:
    client = browser(access)
    link = access.new_link()

    answer = client.post("/api/setup", json={"link": link[:-1], "passphrase": PASSPHRASE})

    assert answer.status_code == 403
    assert "oneseek admin link" in error(answer)["fix"]
    assert "set-cookie" not in answer.headers
    assert not access.set_up


def test_with_a_passphrase_that_is_too_short_the_link_can_be_used_again(access: Access) -> None:
    client = browser(access)
    link = access.new_link()

    short = client.post("/api/setup", json={"link": link, "passphrase": "short"})
    longer = client.post("/api/setup", json={"link": link, "passphrase": PASSPHRASE})

    assert (short.status_code, longer.status_code) == (400, 204)
    assert "characters" in error(short)["message"]


def test_where_an_administrator_is_a_link_that_is_void_says_so(access: Access) -> None:
    client = browser(access)
    link = access.new_link()
    client.post("/api/setup", json={"link": link, "passphrase": PASSPHRASE})

    again = browser(access).post("/api/setup", json={"link": link, "passphrase": ANOTHER})

    assert again.status_code == 409
    assert "administrator already" in error(again)["message"]
    assert browser(access).post("/api/login", json={"passphrase": ANOTHER}).status_code == 403


def test_who_lost_the_passphrase_sets_another_by_a_newer_link(administered: Access) -> None:
    before = logged_in(administered)
    client = browser(administered)

    answer = client.post("/api/setup", json={"link": administered.new_link(), "passphrase": ANOTHER})

    assert answer.status_code == 204
    assert standing(client)["signed_in"]
    assert standing(before) == {"set_up": True, **NOBODY}


# -- sessions ----------------------------------------------------------------------------------------------------------


def test_a_sessions_cookie_is_for_this_server_and_no_script(administered: Access) -> None:
    answer = browser(administered).post("/api/login", json={"passphrase": PASSPHRASE})

    name, _, rest = answer.headers["Set-Cookie"].partition("=")
    secret, *attributes = rest.split("; ")
    assert name == "oneseek"
    assert set(attributes) == {"HttpOnly", "Path=/", "SameSite=strict"}
    assert administered.of_session(secret)
    assert answer.headers["Cache-Control"] == "no-store"


def test_over_tls_no_other_host_and_no_plain_connection_can_set_or_see_it(administered: Access) -> None:
    client = browser(administered, tls=True)

    answer = client.post("/api/login", json={"passphrase": PASSPHRASE})

    name, _, rest = answer.headers["Set-Cookie"].partition("=")
    assert name == "__Host-oneseek"
    assert set(rest.split("; ")[1:]) == {"HttpOnly", "Path=/", "SameSite=strict", "Secure"}
    assert standing(client)["signed_in"]


def test_a_wrong_passphrase_begins_no_session(administered: Access) -> None:
    client = browser(administered)

    answer = client.post("/api/login", json={"passphrase": ANOTHER})

    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert not standing(client)["signed_in"]
    assert administered.sessions() == ()


def test_before_there_is_a_passphrase_nobody_logs_in(access: Access) -> None:
    answer = browser(access).post("/api/login", json={"passphrase": ""})

    assert answer.status_code == 403
    assert "oneseek admin link" in error(answer)["fix"]


def test_who_guesses_has_to_wait_and_is_told_how_long(administered: Access, clock: Clock) -> None:
    client = browser(administered)
    guesses = [client.post("/api/login", json={"passphrase": ANOTHER}).status_code for _ in range(FREE_TRIES + 1)]
    clock.wait(0.5)

    waiting = client.post("/api/login", json={"passphrase": PASSPHRASE})
    clock.wait(int(waiting.headers["Retry-After"]))
    after = client.post("/api/login", json={"passphrase": PASSPHRASE})

    assert guesses == [403] * FREE_TRIES + [429]
    assert waiting.status_code == 429
    assert waiting.headers["Retry-After"] == "1"
    assert error(waiting)["code"] == "TooManyRequests"
    assert after.status_code == 204


def test_after_logging_out_the_cookie_opens_nothing_even_if_it_was_kept(administered: Access) -> None:
    client = logged_in(administered)
    kept = client.cookies["oneseek"]

    answer = client.post("/api/logout")

    assert answer.status_code == 204
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert "oneseek" not in client.cookies
    assert browser(administered).get("/api/sessions", headers={"Cookie": f"oneseek={kept}"}).status_code == 401


def test_a_token_has_no_session_to_end(administered: Access) -> None:
    _, secret = administered.create_token("nightly", "read")
    session = administered.log_in(PASSPHRASE, "a test")

    answer = program(administered, secret).post("/api/logout", headers={"Cookie": f"oneseek={session}"})

    assert answer.status_code == 409
    assert administered.of_session(session)


def test_with_the_passphrase_all_sessions_change_but_the_one_that_asks(administered: Access) -> None:
    client, elsewhere = logged_in(administered), logged_in(administered)

    answer = client.put("/api/passphrase", json={"current": PASSPHRASE, "new": ANOTHER})

    assert answer.status_code == 204
    assert standing(client)["signed_in"]
    assert not standing(elsewhere)["signed_in"]
    assert browser(administered).post("/api/login", json={"passphrase": PASSPHRASE}).status_code == 403
    assert browser(administered).post("/api/login", json={"passphrase": ANOTHER}).status_code == 204


def test_a_token_that_changes_the_passphrase_keeps_nobodys_session(administered: Access) -> None:
    _, secret = administered.create_token("ops", "admin")
    session = administered.log_in(PASSPHRASE, "a test")

    answer = program(administered, secret).put(
        "/api/passphrase", json={"current": PASSPHRASE, "new": ANOTHER}, headers={"Cookie": f"oneseek={session}"}
    )

    assert answer.status_code == 204
    assert administered.sessions() == ()


@pytest.mark.parametrize(
    ("current", "new", "status"), [(ANOTHER, ANOTHER, 403), (PASSPHRASE, "short", 400), ("", ANOTHER, 403)]
)
def test_a_passphrase_that_can_not_be_changed_stays(administered: Access, current: str, new: str, status: int) -> None:
    client, elsewhere = logged_in(administered), logged_in(administered)

    answer = client.put("/api/passphrase", json={"current": current, "new": new})

    assert answer.status_code == status
    assert standing(elsewhere)["signed_in"]
    assert browser(administered).post("/api/login", json={"passphrase": PASSPHRASE}).status_code == 204


def test_who_guesses_the_passphrase_from_within_has_to_wait_as_well(administered: Access) -> None:
    client = logged_in(administered)

    statuses = [
        client.put("/api/passphrase", json={"current": ANOTHER, "new": ANOTHER}).status_code
        for _ in range(FREE_TRIES + 1)
    ]

    assert statuses == [403] * FREE_TRIES + [429]


def test_sessions_are_listed_and_can_be_ended(administered: Access) -> None:
    client, elsewhere = logged_in(administered), logged_in(administered)
    listed = client.get("/api/sessions").json()["sessions"]
    other = standing(elsewhere)["id"]

    answer = client.delete(f"/api/sessions/{other}")

    assert {each["id"] for each in listed} == {other, standing(client)["id"]}
    assert all(list(each) == ["id", "agent", "created_at", "last_used_at", "expires_at"] for each in listed)
    assert answer.status_code == 204
    assert not standing(elsewhere)["signed_in"]
    assert standing(client)["signed_in"]


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_token_is_told_once_and_opens_what_its_scope_says(administered: Access) -> None:
    client = logged_in(administered)

    answer = client.post("/api/tokens", json={"name": "nightly", "scope": "run", "days": 2})

    made = answer.json()
    secret = made.pop("secret")
    assert answer.status_code == 201
    assert (made["name"], made["scope"]) == ("nightly", "run")
    assert client.get("/api/tokens").json() == {"tokens": [made]}
    assert secret not in client.get("/api/tokens").text
    assert standing(program(administered, secret)) == {
        "set_up": True,
        "signed_in": True,
        "scope": "run",
        "kind": "token",
        "id": made["id"],
        "name": "nightly",
    }
    assert program(administered, secret).get("/api/tokens").status_code == 403


def test_a_token_is_over_when_its_days_are_or_when_it_is_revoked(administered: Access, clock: Clock) -> None:
    client = logged_in(administered)
    short, long = (
        client.post("/api/tokens", json={"name": "t", "scope": "read", **days}).json() for days in ({"days": 1}, {})
    )

    clock.wait(24 * 3600)
    after_a_day = [program(administered, each["secret"]).get("/api/session").status_code for each in (short, long)]
    client = logged_in(administered)
    revoked = client.delete(f"/api/tokens/{long['id']}")

    assert after_a_day == [401, 200]
    assert revoked.status_code == 204
    assert program(administered, long["secret"]).get("/api/session").status_code == 401
    assert client.delete(f"/api/tokens/{long['id']}").status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "scope": "read"},
        {"name": "x" * 101, "scope": "read"},
        {"name": "a\nb", "scope": "read"},
        {"name": "t", "scope": "everything"},
        {"name": "t", "scope": None},
        {"name": "t"},
        {"name": "t", "scope": "read", "days": 0},
        {"name": "t", "scope": "read", "days": 10**30},
        {"name": "t", "scope": "read", "days": 1.5},
        {"name": "t", "scope": "read", "Days": 1},
        ["t", "read"],
    ],
    ids=str,
)
def test_a_token_that_can_not_be_made_is_refused(administered: Access, body: Any) -> None:
    answer = logged_in(administered).post("/api/tokens", json=body)

    assert answer.status_code == 400
    assert administered.tokens() == ()


HOSTILE = ["x", "..%2f..", "%00", "%0a", "'; DROP TABLE tokens; --", "é", "x" * 5000, "%ff"]


@pytest.mark.parametrize("kind", ["sessions", "tokens"])
@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_id_is_not_found(administered: Access, kind: str, name: str) -> None:
    client = logged_in(administered)

    answer = client.delete(f"/api/{kind}/{name}")

    assert answer.status_code == 404
    assert standing(client)["signed_in"]


# -- bodies ------------------------------------------------------------------------------------------------------------

TYPES = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/json"]
WITH_BODIES = [("POST", "/api/setup"), ("POST", "/api/login"), ("PUT", "/api/passphrase"), ("POST", "/api/tokens")]


@pytest.mark.parametrize("content_type", [*TYPES, None])
@pytest.mark.parametrize(("method", "path"), WITH_BODIES)
def test_a_body_that_any_page_could_send_is_not_read(
    administered: Access, method: str, path: str, content_type: str | None
) -> None:
    client = logged_in(administered)
    headers = {} if content_type is None else {"Content-Type": content_type}

    answer = client.request(method, path, content=b'{"passphrase": "x"}', headers=headers)

    assert answer.status_code == 415


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"null", 400),
        (b"{", 400),
        (b'{"passphrase": 1}', 400),
        (b'{"passphrase": "x", "admin": true}', 400),
        (b'{"passphrase": "\\ud800"}', 400),
        (b'{"passphrase": "\xff"}', 400),
        (b'{"passphrase": "' + b"x" * 1025 + b'"}', 400),
        (b"[" * 100_000, 400),
        (b" " * (LARGEST_BODY + 1), 413),
    ],
    ids=range(10),
)
@pytest.mark.parametrize(("method", "path"), WITH_BODIES)
def test_a_body_of_another_form_is_refused(
    administered: Access, method: str, path: str, content: bytes, status: int
) -> None:
    answer = logged_in(administered).request(method, path, content=content, headers=JSON)

    assert answer.status_code == status
    assert list(error(answer)) == ["code", "message", "fix"]


def test_no_error_repeats_a_secret(administered: Access, access: Access) -> None:
    client = logged_in(administered)
    planted = "planted-secret-0123456789"

    answers = [
        client.post("/api/login", json={"passphrase": planted}),
        client.post("/api/login", json={"passphrase": [planted]}),
        client.post("/api/login", json={"passphrase": planted * 100}),
        client.post("/api/setup", json={"link": planted, "passphrase": planted}),
        client.put("/api/passphrase", json={"current": planted, "new": planted}),
        client.get("/api/tokens", headers={"Authorization": f"Bearer {planted}"}),
        client.get("/api/tokens", headers={"Origin": planted}),
    ]

    assert [answer.status_code for answer in answers] == [403, 400, 400, 409, 403, 401, 403]
    assert not any(planted in answer.text or planted in str(answer.headers) for answer in answers)


# -- other pages, and many at once -------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [None, "null", "http://localhost:8000", "https://evil.example"], ids=str)
def test_a_page_of_another_site_can_use_a_session_for_nothing(administered: Access, origin: str | None) -> None:
    client = logged_in(administered)
    del client.headers["Origin"]
    headers = {} if origin is None else {"Origin": origin}
    routes = [*WITH_BODIES, ("POST", "/api/logout"), ("DELETE", f"/api/sessions/{standing(client)['id']}")]

    statuses = {client.request(method, path, json={}, headers=headers).status_code for method, path in routes}

    assert statuses == {403}
    assert standing(client)["signed_in"]


class Counting(Access):
    """Takes its time over each passphrase, and counts how many it looks at."""

    def __init__(self) -> None:
        self.now, self.most = 0, 0
        self._lock = threading.Lock()

    @property
    def set_up(self) -> bool:
        return True

    def log_in(self, passphrase: str, agent: str) -> str:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self._lock:
            self.now -= 1
        return "oss_secret"


def test_however_many_log_in_at_once_two_passphrases_are_looked_at_and_others_are_answered() -> None:
    counting = Counting()
    app = application(counting)
    many = 60  # more than there are threads for routes
    ended: list[str] = []

    async def asked(path: str, method: str, body: bytes) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert message["status"] in (200, 204)
                ended.append(path)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "state": {"identity": None},
        }
        await app(scope, receive, send)

    async def all_at_once() -> None:
        log_ins = [asked("/api/login", "POST", b'{"passphrase": "x"}') for _ in range(many)]
        await asyncio.gather(*log_ins, asked("/api/session", "GET", b""))

    asyncio.run(all_at_once())

    assert counting.most == 2
    assert ended.count("/api/login") == many
    assert ended.index("/api/session") < many // 2


def test_every_route_says_what_it_takes_and_answers(access: Access) -> None:
    document = application(access).openapi()

    described = {(method, path): each for path, all_of in document["paths"].items() for method, each in all_of.items()}
    assert len(described) == 10
    for (method, path), each in described.items():
        assert each["description"], (method, path)
        assert {"400", "401", "403", "421"} < each["responses"].keys(), (method, path)
        assert ("requestBody" in each) == ({"408", "413", "415"} <= each["responses"].keys()), (method, path)
        assert any(status in each["responses"] for status in ("200", "201", "204")), (method, path)
        content = each.get("requestBody", {}).get("content", {}).values()
        assert all("example" in media for media in content), (method, path)
