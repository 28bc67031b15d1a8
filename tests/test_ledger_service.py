"""The ledger service: who may do what, what it takes, and what it answers."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from oneseek.errors import (
    ConfigError,
    KeyRefused,
    LedgerDamaged,
    LedgerUnavailable,
    OneSeekError,
    ProofInvalid,
    StorageError,
)
from oneseek.ledger import checkpoint, proof
from oneseek.ledger.entry import entry_of
from oneseek.ledger.log import Log, Logged
from oneseek.ledger.note import SignerKey
from oneseek.ledger.store import Store
from oneseek.ledger.tiles import Tile, decode_bundle, parse_path
from oneseek.server import bodies, ledger, listening
from oneseek.server.ledger import LARGEST_BODY, MOST_AT_ONCE, create_app, serve
from support.ledger_service import (
    KEY,
    TOKEN,
    Behind,
    Stage,
    allow_loopback,
    body_of,
    self_signed,
    stage,
    statement,
    store,
)

JSON = {"Content-Type": "application/json"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
WRONG = {"Authorization": f"Bearer {TOKEN[:-1]}"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
SIZE = 300


@pytest.fixture(scope="module")
def at_an_address() -> Iterator[Stage]:
    with stage() as found:
        yield found


@pytest.fixture(scope="module")
def full() -> Store:
    """A log of 300 entries that no test adds to."""
    return store(SIZE)


@pytest.fixture
def reader(full: Store) -> TestClient:
    return client_of(full)


@pytest.fixture
def log() -> Store:
    return store(2)


@pytest.fixture
def client(log: Store) -> TestClient:
    return client_of(log)


def client_of(log: Log) -> TestClient:
    return TestClient(create_app(log, TOKEN), HERE, follow_redirects=False, raise_server_exceptions=False)


def size_of(log: Log) -> int:
    return checkpoint.read(log.checkpoint(), log.key).size


def error(answer: Any) -> dict[str, str]:
    """What an error says, in the one form that all have."""
    said = answer.json()
    assert list(said) == ["error"]
    assert list(said["error"]) == ["code", "message", "fix"]
    assert all(isinstance(each, str) for each in said["error"].values())
    found: dict[str, str] = said["error"]
    return found


# -- who may do what ---------------------------------------------------------------------------------------------------


def test_every_route_may_be_read_by_all_and_nothing_else_be_done_without_the_token(log: Store) -> None:
    app = create_app(log, TOKEN)
    client = TestClient(app, HERE)
    paths = {re.sub(r"\{.*\}", "0", getattr(route, "path", "")) for route in app.routes}
    assert {"/checkpoint", "/tile/0", "/entries", "/proofs/0", "/key", "/healthz", "/openapi.json"} == paths

    found = {
        (method, path, name): client.request(method, path, headers=headers).status_code
        for method in METHODS
        for path in paths
        for name, headers in (("nobody", {}), ("guesser", WRONG), ("owner", BEARER))
    }

    for (method, path, name), status in found.items():
        if (method, path) == ("POST", "/entries"):
            assert status == (415 if name == "owner" else 401), (method, path, name)
        elif method == "GET" or (method, path) == ("HEAD", "/openapi.json"):
            assert status == (404 if path == "/tile/0" else 200), (method, path, name)
        else:
            assert status == 405, (method, path, name)
    assert size_of(log) == 2


def test_a_route_that_forgot_to_ask_for_the_token_is_closed_all_the_same(log: Store) -> None:
    app = create_app(log, TOKEN)
    app.add_api_route("/forgotten", lambda: "done", methods=["POST", "PUT", "PATCH", "DELETE"])
    client = TestClient(app, HERE)

    statuses = {client.request(method, "/forgotten").status_code for method in ("POST", "PUT", "PATCH", "DELETE")}

    assert statuses == {401}
    assert client.post("/forgotten", headers=BEARER).status_code == 200


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer  {TOKEN}",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN} {TOKEN}",
        "Bearer \xe9\xff",
    ],
)
def test_only_the_very_token_lets_append(client: TestClient, log: Store, given: str | None) -> None:
    headers = {} if given is None else {b"Authorization": given.encode("latin-1")}

    answer = client.post("/entries", content=body_of(statement(7)), headers=headers)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert error(answer)["code"] == "Unauthorized"
    assert size_of(log) == 2


def test_a_token_in_the_address_or_a_cookie_lets_nobody_append(client: TestClient, log: Store) -> None:
    body = body_of(statement(7))

    in_address = client.post(f"/entries?token={TOKEN}&access_token={TOKEN}", content=body, headers=JSON)
    in_cookie = client.post("/entries", content=body, headers={**JSON, "Cookie": f"token={TOKEN}"})

    assert (in_address.status_code, in_cookie.status_code) == (401, 401)
    assert size_of(log) == 2


HERE = "http://127.0.0.1"
EVIL = [{"Origin": "https://evil.example"}, {"Origin": "null"}]
REBOUND = ["evil.example", "127.0.0.1.nip.io", "localhost.evil.example"]


@pytest.mark.parametrize("host", REBOUND)
def test_a_name_that_was_led_to_this_machine_reads_nothing(client: TestClient, log: Store, host: str) -> None:
    answers = [client.get(path, headers={"Host": host}) for path in ("/checkpoint", "/entries", "/key", "/healthz")]

    assert {answer.status_code for answer in answers} == {421}
    assert not any(log.key.name.encode() in answer.content for answer in answers)


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1", "[::1]:8080"])
def test_this_machine_and_the_logs_own_name_are_answered(client: TestClient, log: Store, host: str) -> None:
    names = (host, log.key.name.partition("/")[0])

    assert [client.get("/key", headers={"Host": name}).status_code for name in names] == [200, 200]


def test_behind_a_proxy_any_name_is_answered(log: Store) -> None:
    client = TestClient(create_app(log, TOKEN, for_others=True), HERE)

    assert client.get("/key", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize("evil", EVIL, ids=str)
def test_a_web_page_of_anybody_reads_like_everybody_and_cannot_append(
    client: TestClient, log: Store, evil: dict[str, str]
) -> None:
    plain, from_page = client.get("/checkpoint"), client.get("/checkpoint", headers=evil)
    posted = client.post("/entries", content=body_of(statement(7)), headers={**JSON, **evil})
    asked = client.options("/entries", headers={**evil, "Access-Control-Request-Method": "POST"})

    assert (from_page.status_code, from_page.content) == (200, plain.content)
    assert from_page.headers.keys() == plain.headers.keys()
    assert posted.status_code == 401
    assert asked.status_code == 405
    assert not any(name.startswith("access-control") for name in (*from_page.headers, *asked.headers))
    assert size_of(log) == 2


def test_nobody_is_sent_to_another_host(client: TestClient) -> None:
    answers = [client.get(f"{path}/", headers={"Host": "evil.example"}) for path in ("/checkpoint", "/entries", "/key")]

    assert [(answer.status_code, "Location" in answer.headers) for answer in answers] == [(404, False)] * 3


def test_a_page_that_knows_the_token_cannot_append_either(client: TestClient, log: Store) -> None:
    headers = {**JSON, **BEARER, "Origin": "https://evil.example"}

    answer = client.post("/entries", content=body_of(statement(7)), headers=headers)

    assert (answer.status_code, error(answer)["code"]) == (403, "Forbidden")
    assert size_of(log) == 2


@pytest.mark.parametrize("token", ["", "0123456789abcde"], ids=["none", "short"])
def test_a_service_without_a_good_token_does_not_start(log: Store, token: str) -> None:
    with pytest.raises(ConfigError) as refused:
        create_app(log, token)

    assert "export LEDGER_TOKEN=$(openssl rand -hex 32)" in refused.value.fix
    assert not token or token not in str(refused.value)


# -- reading -----------------------------------------------------------------------------------------------------------


def test_the_checkpoint_is_text_that_nobody_keeps(reader: TestClient, full: Store) -> None:
    answer = reader.get("/checkpoint")

    assert answer.text == full.checkpoint()
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"


def test_the_key_is_the_one_that_checkpoints_are_signed_with(reader: TestClient) -> None:
    assert reader.get("/key").text == f"{KEY.verifier}\n"


@pytest.mark.parametrize(
    "tile",
    [Tile(0, 0), Tile(0, 0, 1), Tile(0, 0, 255), Tile(0, 1, 1), Tile(0, 1, SIZE - 256), Tile(1, 0, 1)],
    ids=lambda tile: tile.path,
)
def test_tiles_are_served_in_every_width_that_the_log_has_had(reader: TestClient, full: Store, tile: Tile) -> None:
    answer = reader.get(f"/{tile.path}")

    places = range(tile.start, tile.start + tile.width)
    assert answer.content == b"".join(full.node(tile.node_level, index) for index in places)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    "tile", [Tile(None, 0), Tile(None, 0, 7), Tile(None, 1, SIZE - 256)], ids=lambda tile: tile.path
)
def test_bundles_are_served_in_every_width_that_the_log_has_had(reader: TestClient, full: Store, tile: Tile) -> None:
    answer = reader.get(f"/{tile.path}")

    assert decode_bundle(answer.content) == full.entries(tile.start, tile.start + tile.width)
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "0",
        "0/",
        "0/0",
        "0/00",
        "0/000/",
        "0/0000",
        "0/001",
        "0/002.p/1",
        "0/001.p/45",
        "0/001.p/0",
        "0/001.p/01",
        "0/001.p/+1",
        "0/001.p/-1",
        "0/001.p/",
        "0/001.p",
        "0/000.p/256",
        "0/000.p/999999999999999999999",
        "0/x000/000",
        "0/x001/000",
        "0/001/x000",
        "00/000",
        "-0/000",
        "1/000",
        "1/000.p/2",
        "1/001.p/1",
        "2/000.p/1",
        "63/000.p/1",
        "64/000.p/1",
        "9999999999999999/000",
        "data/000",
        "entries/001",
        "entries/001.p/45",
        "entries/000.p/256",
        "Entries/000",
        "entries/",
        "0/000%00",
        "0/000%0a",
        "0/%EF%BC%90%EF%BC%90%EF%BC%90",
        "0/%D9%A0%D9%A0%D9%A0",
        "0/..%2f000",
        "..%2f..%2fledger.db",
        "%2e%2e/%2e%2e/etc/passwd",
        "..\\..\\ledger.db",
        "0//000",
        "/0/000",
        "0/" + "x999/" * 300 + "999.p/1",
        "0/" + "9" * 5000,
    ],
)
def test_what_is_not_exactly_a_tile_of_this_log_is_not_there(reader: TestClient, path: str) -> None:
    answer = reader.get(f"/tile/{path}")

    assert answer.status_code == 404
    assert error(answer)["code"] == "NotFound"
    assert answer.headers["Cache-Control"] == "no-store"


@given(
    level=st.sampled_from(["0", "1", "2", "00", "entries", "63"]),
    index=st.sampled_from(["000", "001", "002", "x000/000", "x001/000", "0"]),
    width=st.sampled_from(["", ".p/1", ".p/44", ".p/45", ".p/255", ".p/256", ".p/0"]),
)
def test_a_path_is_served_exactly_where_it_is_a_tile_of_this_log(
    full: Store, level: str, index: str, width: str
) -> None:
    path = f"tile/{level}/{index}{width}"
    tile = parse_path(path)
    there = tile is not None and tile.start + tile.width <= SIZE >> tile.node_level

    answer = client_of(full).get(f"/{path}")

    assert answer.status_code == (200 if there else 404)


def test_entries_are_listed_with_their_index_and_fields(reader: TestClient, full: Store) -> None:
    answer = reader.get("/entries?start=298&stop=400")

    entries = [entry_of(each) for each in full.entries(298, 300)]
    assert answer.json()["size"] == SIZE
    assert [each["index"] for each in answer.json()["entries"]] == [298, 299]
    assert [each["run_id"] for each in answer.json()["entries"]] == [each.run_id for each in entries]
    assert [each["timestamp"] for each in answer.json()["entries"]] == [each.timestamp for each in entries]
    assert answer.json()["entries"][0]["baseModels"] == ["alfa-1b", "beta-1b"]


@pytest.mark.parametrize(
    ("query", "first", "count"),
    [
        ("", 0, SIZE),
        ("?start=299", 299, 1),
        ("?stop=2", 0, 2),
        ("?start=5&stop=2", None, 0),
        ("?start=300", None, 0),
        (f"?start={10**30}&stop={10**31}", None, 0),
        (f"?start=290&stop={10**31}", 290, 10),
    ],
)
def test_a_range_is_cut_to_what_is_there(reader: TestClient, query: str, first: int | None, count: int) -> None:
    entries = reader.get(f"/entries{query}").json()["entries"]

    assert len(entries) == count
    assert first is None or entries[0]["index"] == first


@pytest.mark.parametrize("query", ["?start=-1", "?start=x", "?stop=1.5", "?start=", "?start=0&stop=1e3"])
def test_a_range_that_is_none_is_refused_and_named(reader: TestClient, query: str) -> None:
    answer = reader.get(f"/entries{query}")

    assert answer.status_code == 400
    assert re.match("start|stop", error(answer)["message"])


def test_no_more_than_a_thousand_entries_are_read_at_once() -> None:
    client = client_of(store(MOST_AT_ONCE + 5))

    assert client.get(f"/entries?stop={MOST_AT_ONCE + 1}").status_code == 400
    assert len(client.get(f"/entries?stop={MOST_AT_ONCE}").json()["entries"]) == MOST_AT_ONCE
    assert len(client.get("/entries").json()["entries"]) == MOST_AT_ONCE


def test_a_proof_proves_its_entry(reader: TestClient, full: Store) -> None:
    answer = reader.get("/proofs/17")

    found = proof.check(proof.parse(answer.text), full.entries(17, 18)[0], KEY.verifier)
    assert found.size == SIZE
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(("index", "status"), [("300", 404), ("-1", 404), (str(10**30), 404), ("x", 400), ("1e2", 400)])
def test_a_proof_of_what_is_not_there_is_refused(reader: TestClient, index: str, status: int) -> None:
    answer = reader.get(f"/proofs/{index}")

    assert answer.status_code == status
    assert error(answer)["message"]


def test_a_log_that_can_be_read_is_well(reader: TestClient) -> None:
    assert reader.get("/healthz").json() == {"status": "ok", "size": SIZE}


def test_every_answer_says_what_browsers_may_do_with_it(client: TestClient) -> None:
    paths = [
        "/checkpoint",
        "/key",
        "/entries",
        "/proofs/0",
        "/healthz",
        "/tile/0/000.p/1",
        "/tile/9",
        "/no",
        "/openapi.json",
    ]

    answers = [client.get(path) for path in paths] + [client.post("/entries"), client.delete("/key")]

    assert {answer.headers["X-Content-Type-Options"] for answer in answers} == {"nosniff"}
    assert {answer.headers["Referrer-Policy"] for answer in answers} == {"no-referrer"}
    assert all("Cache-Control" in answer.headers for answer in answers)


def test_no_page_is_served_that_could_load_a_script(client: TestClient) -> None:
    assert [client.get(path).status_code for path in ("/docs", "/redoc", "/docs/oauth2-redirect")] == [404, 404, 404]
    assert "422" not in client.get("/openapi.json").text


# -- appending ---------------------------------------------------------------------------------------------------------


def test_what_is_appended_is_answered_with_its_leaf_and_proof(client: TestClient, log: Store) -> None:
    body = body_of(statement(7), statement(0))

    answer = client.post(
        "/entries", content=body, headers={**BEARER, "Content-Type": "application/json; charset=utf-8"}
    )

    new, known = answer.json()["entries"]
    assert answer.status_code == 200
    assert entry_of(new["leaf"].encode()).statement.run_id == "run-7"
    assert proof.check(proof.parse(new["proof"]), new["leaf"].encode(), KEY.verifier).size == 3
    assert proof.parse(known["proof"]).index == 0
    assert size_of(log) == 3


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx", ""],
)
def test_another_content_type_is_refused(client: TestClient, log: Store, kind: str) -> None:
    answer = client.post("/entries", content=body_of(statement(7)), headers={**BEARER, "Content-Type": kind})

    assert (answer.status_code, error(answer)["code"]) == (415, "UnsupportedMediaType")
    assert size_of(log) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"statements": "one"}',
        b'{"statements": [1]}',
        b'{"statements": [null]}',
        b'{"statements": [], "more": 1}',
        b'{"statements": ["\\ud800"]}',
        b'{"statements": ["x"',
        b'\xff{"statements": []}',
        b'{"statements": ["\xff"]}',
        b"[" * 100_000,
        b"\x1f\x8b\x08\x00compressed",
        body_of(b"no statement"),
        body_of(statement(7), b"{}"),
        body_of(statement(7), statement(8).replace(b",", b", ", 1)),
        body_of(*[statement(7)] * (MOST_AT_ONCE + 1)),
    ],
    ids=range(18),
)
def test_a_body_that_is_no_list_of_statements_adds_nothing(client: TestClient, log: Store, body: bytes) -> None:
    answer = client.post("/entries", content=body, headers={**JSON, **BEARER})

    assert answer.status_code == 400
    assert error(answer)["code"] in ("BadRequest", "ProofInvalid")
    assert size_of(log) == 2


def chunks(total: int) -> Iterator[bytes]:
    yield b'{"statements": ["'
    for _ in range(0, total, 1 << 16):
        yield b"x" * (1 << 16)


def test_a_huge_body_is_refused_and_never_held(at_an_address: Stage, log: Store) -> None:
    connection = HTTPConnection(urlsplit(at_an_address.service(log)).netloc, timeout=30)
    tracemalloc.start()

    connection.request("POST", "/entries", chunks(64_000_000), {**JSON, **BEARER}, encode_chunked=True)
    answer = connection.getresponse()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert answer.status == 413
    assert json.loads(answer.read())["error"]["code"] == "ContentTooLarge"
    assert peak < 3 * LARGEST_BODY
    assert size_of(log) == 2
    connection.close()


@pytest.mark.parametrize("with_length", [True, False], ids=["with length", "chunked"])
def test_a_body_over_the_limit_gets_413(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, *, with_length: bool
) -> None:
    monkeypatch.setattr(ledger, "LARGEST_BODY", 1 << 20)
    body = b"".join(chunks(2 << 20)) if with_length else chunks(2 << 20)

    answer = client.post("/entries", content=body, headers={**JSON, **BEARER})

    assert answer.status_code == 413
    assert "1048576 bytes" in error(answer)["message"]


def test_a_body_that_comes_too_slowly_is_given_up(
    at_an_address: Stage, log: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "PATIENCE", 0.2)
    with connected(at_an_address.service(log)) as slow:
        slow.sendall(f"POST /entries HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n".encode())
        slow.sendall(b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")

        answer = slow.recv(1000)

    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "sent", [b"", b"GET /checkpoint HTTP/1.1\r\nHos", b"GET /key HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
def test_a_connection_without_a_request_is_not_kept(
    at_an_address: Stage, log: Store, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(listening, "PATIENCE", 0.2)
    with connected(at_an_address.service(log)) as idle:
        idle.sendall(sent)

        answers = b"".join(iter(lambda: idle.recv(1 << 16), b""))  # ends when the service hangs up

    assert answers.count(b"HTTP/1.1 200 ") == sent.count(b"\r\n\r\n")


def test_a_head_that_never_ends_is_refused(at_an_address: Stage, log: Store) -> None:
    with connected(at_an_address.service(log)) as endless:
        endless.sendall(b"GET /checkpoint HTTP/1.1\r\nX-Long: " + b"x" * 100_000)

        answer = endless.recv(1000)

    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))


def test_a_body_that_breaks_off_adds_nothing_and_hurts_nobody(
    at_an_address: Stage, log: Store, caplog: pytest.LogCaptureFixture
) -> None:
    address = at_an_address.service(log)
    with connected(address) as gone:
        gone.sendall(f"POST /entries HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n".encode())
        gone.sendall(b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n" + body_of(statement(7))[:20])

    with connected(address) as next_one:
        next_one.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b'"size":2' in b"".join(iter(lambda: next_one.recv(1 << 16), b""))
    assert not [record for record in caplog.records if record.exc_info]


def test_a_small_answer_does_not_wait_for_an_acknowledgement(at_an_address: Stage, log: Store) -> None:
    connection = HTTPConnection(urlsplit(at_an_address.service(log)).netloc, timeout=10)

    seconds = []
    for _ in range(25):
        began = time.perf_counter()
        connection.request("GET", "/key")
        connection.getresponse().read()
        seconds.append(time.perf_counter() - began)
    connection.close()

    assert min(seconds[5:]) < 0.03  # the first ones are acknowledged at once in any case


def connected(address: str) -> socket.socket:
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


class Failing(Behind):
    """A log that fails in one way."""

    def __init__(self, error: Exception) -> None:
        super().__init__(store())
        self.error = error

    def append(self, statements: Sequence[bytes]) -> list[Logged]:
        raise self.error

    def checkpoint(self) -> str:
        raise self.error


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (LedgerDamaged("Entry 17 is another.", "Restore it."), 503, "LedgerDamaged"),
        (StorageError("No space.", "Free some."), 507, "StorageError"),
        (ProofInvalid("No statement.", "Say it."), 400, "ProofInvalid"),
        (LedgerUnavailable("Away.", "Wait."), 502, "LedgerUnavailable"),
        (KeyRefused("Another key.", "Restore it."), 409, "KeyRefused"),
        (RuntimeError(TOKEN), 500, "InternalServerError"),
    ],
    ids=lambda value: getattr(value, "__class__", type(value)).__name__ if isinstance(value, Exception) else None,
)
def test_what_goes_wrong_in_the_log_is_said_in_one_form(failure: Exception, status: int, code: str) -> None:
    client = client_of(Failing(failure))

    answers = [client.get("/checkpoint"), client.post("/entries", content=body_of(), headers={**JSON, **BEARER})]

    assert [answer.status_code for answer in answers] == [status, status]
    assert {answer.headers["X-Content-Type-Options"] for answer in answers} == {"nosniff"}
    for answer in answers:
        assert error(answer)["code"] == code
        if isinstance(failure, OneSeekError):
            assert (error(answer)["message"], error(answer)["fix"]) == (failure.problem, failure.fix)


def test_the_token_is_in_no_answer_and_no_log(
    at_an_address: Stage, log: Store, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(0)
    host = urlsplit(at_an_address.service(log)).netloc
    requests: list[tuple[str, str, bytes | None, dict[str, str]]] = [
        ("POST", "/entries", body_of(statement(7)), {**JSON, **BEARER}),
        ("POST", "/entries", b"broken", {**JSON, **BEARER}),
        ("POST", "/entries", body_of(TOKEN.encode()), {**JSON, **BEARER}),
        ("POST", "/entries", b"x", {"Content-Type": "text/plain", **BEARER}),
        ("POST", "/entries", b"x", {**JSON, "Authorization": f"Bearer {TOKEN} "[:-2]}),
        ("GET", f"/entries?start={TOKEN}", None, BEARER),
        ("GET", f"/tile/{TOKEN}", None, BEARER),
        ("GET", f"/proofs/{TOKEN}", None, BEARER),
        ("GET", f"/{TOKEN}", None, BEARER),
        ("DELETE", "/entries", None, BEARER),
    ]

    answers = []
    for method, path, body, headers in requests:
        connection = HTTPConnection(host, timeout=10)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        answers.append(f"{response.status} {response.headers} {response.read().decode()}")
        connection.close()

    written = "".join(capfd.readouterr())
    logged = [
        record.getMessage() for record in caplog.records if record.name.startswith(("uvicorn", "fastapi", "oneseek"))
    ]
    assert len(answers) == len(requests)
    assert [text for text in (*answers, *logged, written) if TOKEN in text] == []


# -- serving -----------------------------------------------------------------------------------------------------------

SERVE = """
import sys
from pathlib import Path
from oneseek.ledger.note import SignerKey
from oneseek.ledger.store import Store
from oneseek.server.ledger import serve
log = Store.open(Path(sys.argv[1]), SignerKey("ledger.example.org", bytes(32)))
serve(lambda: log, sys.argv[2], "127.0.0.1", 0, *map(Path, sys.argv[3:]), file=Path(sys.argv[1]))
log.close()
print("closed")
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_service_says_where_it_is_and_ends_cleanly_when_asked(tmp_path: Path, ending: signal.Signals) -> None:
    allow_loopback()
    command = [sys.executable, "-c", SERVE, str(tmp_path / "ledger.db"), TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        address = re.fullmatch(r"ledger\.example\.org is served at (http://127\.0\.0\.1:\d+)\n", said)
        assert address is not None
        connection = HTTPConnection(urlsplit(address[1]).netloc, timeout=10)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        body = answer.read()
        process.send_signal(ending)
        out, err = process.communicate(timeout=20)
        connection.close()

    assert (answer.status, json.loads(body)) == (200, {"status": "ok", "size": 0})
    assert answer.headers["Server"] is None
    assert (process.returncode, out, err) == (0, "closed\n", "")


def test_a_service_with_a_certificate_speaks_tls(tmp_path: Path) -> None:
    allow_loopback()
    certificate, key = self_signed(tmp_path)
    command = [sys.executable, "-c", SERVE, str(tmp_path / "ledger.db"), TOKEN, str(certificate), str(key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        trusting = ssl.create_default_context(cafile=str(certificate))
        connection = HTTPSConnection(urlsplit(address).netloc, timeout=10, context=trusting)
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
        connection.close()
        process.terminate()
        process.communicate(timeout=20)

    assert address.startswith("https://127.0.0.1:")
    assert (status, process.returncode) == (200, 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_an_address_that_others_reach_needs_tls_or_a_proxy(log: Store, host: str) -> None:
    with pytest.raises(ConfigError) as refused:
        serve(lambda: log, TOKEN, host, 0)

    assert host in refused.value.problem
    assert "--certfile" in refused.value.fix
    assert "--behind-proxy" in refused.value.fix


def opening_is_too_early() -> Log:
    """What opens a log where the service must have been refused before: it would make the log's key."""
    raise AssertionError("the log was opened")


def test_a_port_that_is_taken_is_named_in_plain_words() -> None:
    allow_loopback()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ConfigError) as refused:
            serve(opening_is_too_early, TOKEN, "127.0.0.1", port)

    assert refused.value.problem == f"Port {port} of 127.0.0.1 can't be listened at: Address already in use."
    assert "--port" in refused.value.fix


@pytest.mark.parametrize(
    ("number", "words", "fix"),
    [
        (errno.EADDRNOTAVAIL, "Cannot assign requested address", "address of this machine as --host"),
        (errno.EACCES, "Permission denied", "from 1024 on with --port"),
        (errno.ENOBUFS, "No buffer space available", "--port"),
    ],
)
def test_an_address_that_cannot_be_listened_at_has_its_own_fix(
    monkeypatch: pytest.MonkeyPatch, number: int, words: str, fix: str
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise OSError(number, f"{os.strerror(number)} (while attempting to bind on address ('127.0.0.1', 80))")

    monkeypatch.setattr(socket, "create_server", failing)

    with pytest.raises(ConfigError) as refused:
        serve(opening_is_too_early, TOKEN, "127.0.0.1", 80)

    assert refused.value.problem == f"Port 80 of 127.0.0.1 can't be listened at: {words}."
    assert fix in refused.value.fix
    assert "End what listens there" not in refused.value.fix


def test_half_a_certificate_or_a_broken_one_is_refused_before_the_log_is_opened(tmp_path: Path) -> None:
    allow_loopback()
    certificate, key = self_signed(tmp_path)
    broken, gone, locked = tmp_path / "broken.pem", tmp_path / "no.pem", tmp_path / "locked.pem"
    broken.write_text("no certificate")
    locked.write_bytes(
        serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"a password that nobody is asked for"),
        )
    )
    (tmp_path / "other").mkdir()
    _, another = self_signed(tmp_path / "other")

    for pair, words in (
        ((certificate, None), "TLS needs a certificate and its key"),
        ((None, key), "TLS needs a certificate and its key"),
        ((broken, key), "not in PEM"),
        ((certificate, broken), "not in PEM"),
        ((certificate, locked), "the key has a password"),
        ((certificate, another), "the key is not that of the certificate"),
        ((gone, key), f"{gone} can't be used for TLS: No such file or directory"),
        ((certificate, gone), f"{gone} can't be used for TLS: No such file or directory"),
        ((tmp_path, key), f"{tmp_path} can't be used for TLS: Is a directory"),
    ):
        with pytest.raises(ConfigError) as refused:
            serve(opening_is_too_early, TOKEN, "127.0.0.1", 0, *pair)
        assert words in refused.value.problem
        assert "_ssl.c" not in str(refused.value)


def test_a_log_that_is_served_already_is_refused_unopened_and_free_again_after(tmp_path: Path) -> None:
    allow_loopback()
    file = tmp_path / "home" / "ledger.db"
    command = [sys.executable, "-c", SERVE, str(file), TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline()
            with pytest.raises(ConfigError) as refused:
                serve(opening_is_too_early, TOKEN, "127.0.0.1", 0, file=file)
            with closing(Store.open(file, SignerKey("ledger.example.org", bytes(32)))) as log:
                log.append([statement(1)])  # runs of that home itself still enter
        finally:
            process.kill()

    assert f"{file} is being served by another process" in refused.value.problem
    with pytest.raises(AssertionError, match="the log was opened"):
        serve(opening_is_too_early, TOKEN, "127.0.0.1", 0, file=file)


def test_a_home_that_is_served_on_one_port_is_not_served_on_another(tmp_path: Path) -> None:
    allow_loopback()
    command = [sys.executable, "-m", "oneseek", "ledger", "serve", "--port", "0"]
    environment = {**os.environ, "ONESEEK_HOME": str(tmp_path / "home"), "LEDGER_TOKEN": TOKEN}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout is not None
        try:
            assert first.stdout.readline()
            with subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
            ) as second:
                try:
                    _, said = second.communicate(timeout=20)
                finally:
                    second.kill()
        finally:
            first.kill()

    assert second.returncode == 2
    assert "ledger.db is being served by another process" in said
