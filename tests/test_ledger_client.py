"""The client of a ledger service: what it makes of services that lie, fail, or are none."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Receive, Scope, Send

from oneseek.errors import (
    ConfigError,
    KeyRefused,
    LedgerDamaged,
    LedgerUnavailable,
    OneSeekError,
    ProofInvalid,
    StorageError,
)
from oneseek.files.layout import Home
from oneseek.ledger import checkpoint, client, known
from oneseek.ledger.client import Client
from oneseek.ledger.locate import open_ledger, read_ledger
from oneseek.ledger.log import Log, Logged
from oneseek.ledger.merkle import Hash
from oneseek.ledger.served import ServedTree
from oneseek.ledger.store import Store
from oneseek.ledger.tiles import Tile, encode_bundle
from oneseek.preflight.finding import body
from oneseek.server.ledger import LARGEST_BODY, create_app
from support.ledger_service import (
    KEY,
    OTHER_KEY,
    TOKEN,
    Behind,
    Stage,
    allow_loopback,
    self_signed,
    stage,
    statement,
    statements,
    store,
)


@pytest.fixture(scope="module")
def at_an_address() -> Iterator[Stage]:
    with stage() as found:
        yield found


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that clients would have waited."""
    waited: list[float] = []
    monkeypatch.setattr("oneseek.ledger.client.time.sleep", waited.append)
    return waited


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "known-logs"


class Asked(list[tuple[str, str]]):
    """Every request (method, path) to an application, and the headers of each."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__()
        self.app = app
        self.headers: list[dict[str, str]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.append((scope["method"], scope["path"]))
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        await self.app(scope, receive, send)


def client_at(url: str, known_logs: Path | None = None, token: str | None = TOKEN) -> closing[Client]:
    return closing(Client(url, token=token, known_logs=known_logs))


def refused(kind: type[OneSeekError], act: Callable[[], object]) -> OneSeekError:
    """The error that an act ends in; it never tells the token."""
    with pytest.raises(kind) as raised:
        act()
    assert TOKEN not in f"{raised.value!r} {raised.value} {raised.value.__cause__!r}"
    assert raised.value.fix
    return raised.value


def read_everything(log: Log) -> None:
    log.checkpoint()
    log.entries(0, 10_000)


# -- services that lie -------------------------------------------------------------------------------------------------


class OneOtherNode(Behind):
    def __init__(self, log: Log, level: int, index: int) -> None:
        super().__init__(log)
        self.place = (level, index)

    def node(self, level: int, index: int) -> Hash:
        found = super().node(level, index)
        return bytes(32) if (level, index) == self.place else found


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ((0, 299), "lead to another root"),
        ((0, 256), "lead to another root"),
        ((8, 0), "lead to another root"),
        ((0, 0), "tile/0/000 does not lead to its checkpoint's root"),
        ((0, 255), "tile/0/000 does not lead to its checkpoint's root"),
    ],
)
def test_a_hash_that_does_not_lead_to_the_root_is_found_out(
    at_an_address: Stage, place: tuple[int, int], words: str
) -> None:
    url = at_an_address.service(OneOtherNode(store(300), *place))

    with client_at(url) as log:
        error = refused(LedgerDamaged, lambda: read_everything(log))

    assert words in error.problem
    assert url in error.problem


class OneOtherEntry(Behind):
    def entries(self, start: int, stop: int) -> list[bytes]:
        found = super().entries(start, stop)
        return [entry.replace(b"run-3", b"run-4") if b'"run-3"' in entry else entry for entry in found]


class OneEntryLess(Behind):
    def entries(self, start: int, stop: int) -> list[bytes]:
        return super().entries(start, stop)[:-1]


@pytest.mark.parametrize("lie", [OneOtherEntry, OneEntryLess])
def test_entries_that_are_not_those_of_the_tree_are_found_out(at_an_address: Stage, lie: type[Behind]) -> None:
    with client_at(at_an_address.service(lie(store(300)))) as log:
        assert "tile/entries/00" in refused(LedgerDamaged, lambda: read_everything(log)).problem


class AnotherCheckpoint(Behind):
    """Signed by the same key, for a tree that nobody has."""

    def checkpoint(self) -> str:
        return checkpoint.sign(300, bytes(32), KEY)


def test_a_checkpoint_with_another_root_is_found_out(at_an_address: Stage) -> None:
    with client_at(at_an_address.service(AnotherCheckpoint(store(300)))) as log:
        assert "another root" in refused(LedgerDamaged, lambda: read_everything(log)).problem


def test_a_key_that_checkpoints_are_not_signed_with_is_never_trusted(at_an_address: Stage, kept: Path) -> None:
    app = create_app(store(3), TOKEN)
    url = at_an_address.play(answering({"/key": f"{OTHER_KEY.verifier}\n"}, otherwise=app))

    with client_at(url, kept) as log:
        error = refused(LedgerDamaged, lambda: log.key)

    assert "signed by another key" in error.problem
    assert not kept.exists()


def test_a_service_that_shows_another_key_later_is_refused_and_both_are_named(at_an_address: Stage, kept: Path) -> None:
    with client_at(at_an_address.service(store(3)), kept) as log:
        log.append([statement(9)])
    before = kept.read_bytes()
    asked = Asked(create_app(store(3, OTHER_KEY), TOKEN))

    with client_at(at_an_address.play(asked), kept) as log:
        errors = [
            refused(LedgerDamaged, act) for act in (lambda: log.key, log.checkpoint, lambda: log.append([statement(1)]))
        ]

    assert all(str(KEY.verifier) in error.problem and str(OTHER_KEY.verifier) in error.problem for error in errors)
    assert all(str(kept) in error.fix for error in errors)
    assert "POST" not in [method for method, _ in asked]
    assert kept.read_bytes() == before


def test_a_log_that_signs_with_another_key_while_it_is_used_is_refused(at_an_address: Stage) -> None:
    switching = Behind(store(3))
    with client_at(at_an_address.service(switching)) as log:
        log.checkpoint()
        switching.log = store(5, OTHER_KEY)

        for act in (log.checkpoint, lambda: log.append([statement(1)])):
            assert "another key" in refused(LedgerDamaged, act).problem


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (lambda: store(3), "had 5 entries and now has 3"),
        (lambda: store(0), "had 5 entries and now has 0"),
        (lambda: store(5, first=1), "5 entries has another root"),
        (lambda: store(9, first=1), "first 5 entries are not what they were"),
        (lambda: store(300, first=1), "first 5 entries are not what they were"),
    ],
    ids=["shrunken", "emptied", "another of the same size", "forked", "forked long ago"],
)
@pytest.mark.parametrize("how", ["read", "append", "prove"])
def test_a_log_that_is_not_the_one_it_was_is_refused(
    at_an_address: Stage, later: Callable[[], Store], words: str, how: str
) -> None:
    switching = Behind(store(5))
    with client_at(at_an_address.service(switching)) as log:
        log.checkpoint()
        switching.log = later()
        there = switching.log.entries(0, 1)
        known_there = msgspec.json.decode(there[0])["run_id"].removeprefix("run-") if there else "0"
        acts: Mapping[str, Callable[[], object]] = {
            "read": log.checkpoint,
            "append": lambda: log.append([statement(int(known_there))]) if there else log.checkpoint(),
            "prove": lambda: log.prove(0),
        }

        assert words in refused(LedgerDamaged, acts[how]).problem


class Answering(Behind):
    """Answers an append with something made of the truth."""

    def __init__(self, log: Log, lie: Callable[[list[Logged]], list[Logged]]) -> None:
        super().__init__(log)
        self.lie = lie

    def append(self, statements: Sequence[bytes]) -> list[Logged]:
        return self.lie(super().append(statements))


def with_proof(logged: Logged, **changes: object) -> Logged:
    return Logged(logged.entry, msgspec.structs.replace(logged.proof, **changes))


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda all_of_them: all_of_them[::-1], "another entry than that of run-7"),
        (lambda all_of_them: [all_of_them[1], all_of_them[1]], "another entry than that of run-7"),
        (
            lambda all_of_them: [Logged(a.entry, b.proof) for a, b in zip(all_of_them, all_of_them[::-1], strict=True)],
            "root",
        ),
        (lambda all_of_them: [with_proof(each, hashes=each.proof.hashes[1:]) for each in all_of_them], "proof"),
        (lambda all_of_them: [with_proof(each, index=0) for each in all_of_them], "root"),
        (lambda all_of_them: [with_proof(each, checkpoint=store(9).checkpoint()) for each in all_of_them], "proof"),
        (lambda all_of_them: [with_proof(each, checkpoint="") for each in all_of_them], "note"),
        (
            lambda all_of_them: [Logged(each.entry.replace(b':"20', b':"21'), each.proof) for each in all_of_them],
            "root",
        ),
        (lambda all_of_them: [Logged(b"{}", each.proof) for each in all_of_them], "no ledger entry"),
        (lambda all_of_them: all_of_them[:1], "proves 1 entries instead of 2"),
        (lambda all_of_them: [*all_of_them, all_of_them[0]], "proves 3 entries instead of 2"),
        (lambda all_of_them: [], "proves 0 entries instead of 2"),
    ],
    ids=range(12),
)
def test_an_append_that_is_not_proved_is_refused(
    at_an_address: Stage, lie: Callable[[list[Logged]], list[Logged]], words: str
) -> None:
    url = at_an_address.service(Answering(store(3), lie))

    with client_at(url) as log:
        assert words in refused(LedgerDamaged, lambda: log.append([statement(7), statement(8)])).problem


# -- services that fail, or are none -----------------------------------------------------------------------------------


def answering(
    answers: Mapping[str, str | bytes | int],
    otherwise: ASGIApp | None = None,
    kind: str = "text/plain",
    headers: Mapping[str, str] = MappingProxyType({}),
) -> ASGIApp:
    """An application with fixed answers: a text, or a status without one. Every path without one goes to `otherwise`,
    or gets the answer of `*`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] not in answers and otherwise is not None:
            return await otherwise(scope, receive, send)
        answer = answers.get(scope["path"], answers.get("*", 404))
        status, text = (answer, "") if isinstance(answer, int) else (200, answer)
        body = text.encode() if isinstance(text, str) else text
        fields = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        fields += [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})
        return None

    return app


def failing(times: int, status: int, app: ASGIApp, headers: Mapping[str, str] = MappingProxyType({})) -> ASGIApp:
    """An application that answers with a status that many times first."""
    left = [times]

    async def failing_first(scope: Scope, receive: Receive, send: Send) -> None:
        left[0] -= 1
        await (answering({"*": status}, headers=headers) if left[0] >= 0 else app)(scope, receive, send)

    return failing_first


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_service_that_is_busy_twice_is_asked_a_third_time(
    at_an_address: Stage, status: int, pauses: list[float]
) -> None:
    url = at_an_address.play(failing(2, status, create_app(store(3), TOKEN)))

    with client_at(url) as log:
        (logged,) = log.append([statement(7)])

    assert logged.proof.index == 3
    assert [0.25 <= pauses[0] <= 0.375, 1.0 <= pauses[1] <= 1.5, len(pauses)] == [True, True, 2]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_service_that_stays_busy_is_given_up_after_the_third_try(at_an_address: Stage, status: int) -> None:
    asked = Asked(answering({"*": status}))
    url = at_an_address.play(asked)

    with client_at(url) as log:
        error = refused(LedgerUnavailable, log.checkpoint)

    assert len(asked) == 3
    assert f"status {status}" in error.problem
    assert url in error.problem


@pytest.mark.parametrize(
    ("asked_for", "waited"), [("3", 3.0), ("86400", 10.0), ("-5", None), ("soon", None), ("9" * 400, None)]
)
def test_a_service_that_asks_for_time_gets_it_within_bounds(
    at_an_address: Stage, asked_for: str, waited: float | None, pauses: list[float]
) -> None:
    app = failing(1, 429, create_app(store(3), TOKEN), {"Retry-After": asked_for})

    with client_at(at_an_address.play(app)) as log:
        log.checkpoint()

    assert pauses == [waited] if waited else pauses[0] < 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 413, 418, 451, 500, 501])
def test_another_refusal_is_not_asked_for_twice(at_an_address: Stage, status: int) -> None:
    asked = Asked(answering({"/entries": status}, otherwise=create_app(store(3), TOKEN)))

    with client_at(at_an_address.play(asked)) as log:
        refused(LedgerUnavailable, lambda: log.append([statement(7)]))

    assert asked.count(("POST", "/entries")) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_named(at_an_address: Stage, status: int) -> None:
    app = answering({"/entries": status}, otherwise=create_app(store(3), TOKEN))

    with client_at(at_an_address.play(app)) as log:
        error = refused(LedgerUnavailable, lambda: log.append([statement(7)]))

    assert "refuses LEDGER_TOKEN" in error.problem
    assert "Set LEDGER_TOKEN" in error.fix


@pytest.mark.parametrize("token", [None, ""])
def test_without_a_token_nothing_is_sent(at_an_address: Stage, token: str | None) -> None:
    asked = Asked(create_app(store(3), TOKEN))

    with client_at(at_an_address.play(asked), token=token) as log:
        error = refused(LedgerUnavailable, lambda: log.append([statement(7)]))

    assert "LEDGER_TOKEN is missing" in error.problem
    assert "POST" not in [method for method, _ in asked]


def test_the_token_goes_with_what_is_appended_and_with_nothing_else(at_an_address: Stage) -> None:
    asked = Asked(create_app(store(3), TOKEN))

    with client_at(at_an_address.play(asked)) as log:
        log.append([statement(7)])
        read_everything(log)

    with_token = [request for request, headers in zip(asked, asked.headers, strict=True) if "authorization" in headers]
    assert with_token == [("POST", "/entries")]


@pytest.mark.parametrize(
    ("status", "code", "kind"), [(503, "LedgerDamaged", LedgerDamaged), (507, "StorageError", StorageError)]
)
def test_what_the_log_behind_a_service_suffers_from_is_said_here_too(
    at_an_address: Stage, status: int, code: str, kind: type[OneSeekError]
) -> None:
    class Suffering(Behind):
        def append(self, statements: Sequence[bytes]) -> list[Logged]:
            raise kind("Entry 17 is another.", "Restore it.")

    asked = Asked(create_app(Suffering(store(3)), TOKEN))

    with client_at(at_an_address.play(asked)) as log:
        error = refused(kind, lambda: log.append([statement(7)]))

    assert "Entry 17 is another" in error.problem
    assert "Restore it" in error.fix
    assert asked.count(("POST", "/entries")) == 1


@pytest.mark.parametrize("token", [TOKEN, None], ids=["with a token", "without"])
def test_long_and_hostile_words_of_a_service_are_cut(at_an_address: Stage, token: str | None) -> None:
    said = {"error": {"code": "Odd", "message": "a\n\n" + "b" * 10_000, "fix": "c\r\n" * 1000}}

    async def odd(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})

    with client_at(at_an_address.play(odd), token=token) as log:
        error = refused(LedgerUnavailable, log.checkpoint)

    assert len(str(error)) < 1000
    assert "\n" not in str(error)
    assert "says: a bbb" in error.problem


def test_a_service_that_sends_the_token_back_does_not_get_it_into_an_error(at_an_address: Stage) -> None:
    async def echoing(scope: Scope, receive: Receive, send: Send) -> None:
        headers = " ".join(value.decode() for _, value in scope["headers"])
        said = {"error": {"code": "Echo", "message": f"You said {headers}", "fix": f"{headers}!"}}
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(said).encode()})

    truthful = create_app(store(3), TOKEN)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (echoing if scope["method"] == "POST" else truthful)(scope, receive, send)

    with client_at(at_an_address.play(app)) as log:
        error = refused(LedgerUnavailable, lambda: log.append([statement(7)]))

    assert "Bearer LEDGER_TOKEN" in error.problem


@pytest.mark.parametrize(
    ("app", "words"),
    [
        (answering({"*": "<!doctype html><title>Welcome</title>"}, kind="text/html; charset=utf-8"), "a web page"),
        (answering({"*": "hello"}), "what it shows as its key is none"),
        (answering({"*": b"\xff\xfe"}), "/key is not text"),
        (answering({"*": 404}), "shows no public key"),
        (answering({"*": 404}, kind="text/html"), "shows no public key"),
        (answering({"*": 204}), "status 204"),
        (answering({"*": 500}), "status 500"),
        (answering({"/key": f"{KEY.verifier}\n"}), "it has no /checkpoint"),
        (answering({"*": 401}), "status 401"),
    ],
    ids=["page", "text", "bytes", "nothing", "page of nothing", "empty", "broken", "only a key", "login"],
)
def test_what_is_no_ledger_is_said_to_be_none(at_an_address: Stage, app: ASGIApp, words: str, kept: Path) -> None:
    url = at_an_address.play(app)

    with client_at(url, kept) as log:
        error = refused(LedgerUnavailable, log.checkpoint)

    assert f"There is no ledger at {url}" in error.problem
    assert words in error.problem
    assert "LEDGER_URL" in error.fix
    assert not kept.exists()


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"entries": [{"leaf": 1}]}', b"\xff", b"<html>"])
def test_an_answer_to_an_append_that_cannot_be_read_is_said_to_be_none(at_an_address: Stage, answer: bytes) -> None:
    app = answering({"/entries": answer}, otherwise=create_app(store(3), TOKEN))

    with client_at(at_an_address.play(app)) as log:
        assert "can't be read" in refused(LedgerUnavailable, lambda: log.append([statement(7)])).problem


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(at_an_address: Stage, status: int) -> None:
    with socket_that_counts() as (elsewhere, came):
        app = answering(
            {"/entries": status}, otherwise=create_app(store(3), TOKEN), headers={"Location": f"{elsewhere}/entries"}
        )
        with client_at(at_an_address.play(app)) as log:
            error = refused(LedgerUnavailable, lambda: log.append([statement(7)]))

    assert "points to another address" in error.problem
    assert came == []


class socket_that_counts:  # noqa: N801
    """An address, and who connected to it."""

    def __enter__(self) -> tuple[str, list[object]]:
        allow_loopback()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.came: list[object] = []
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}", self.came

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self.listener.accept()
            except OSError:
                return
            connection.close()
            self.came.append(address)

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()


def test_an_address_where_nobody_answers_is_tried_three_times(pauses: list[float]) -> None:
    with socket_that_counts() as (hanging_up, came), client_at(hanging_up) as log:
        error = refused(LedgerUnavailable, log.checkpoint)

    assert f"The ledger at {hanging_up} can't be reached" in error.problem
    assert len(came) == 3
    with client_at(hanging_up) as log:  # nobody listens any more
        refused(LedgerUnavailable, log.checkpoint)
    assert len(pauses) == 4


@pytest.mark.parametrize("answer", [404, 503])
def test_programs_are_told_of_an_error_by_its_public_name(at_an_address: Stage, answer: int) -> None:
    app = answering({"/key": f"{KEY.verifier}\n", "*": answer})

    with client_at(at_an_address.play(app)) as log:
        error = refused(LedgerUnavailable, log.checkpoint)

    assert type(error) is not LedgerUnavailable
    assert body(error)["code"] == "LedgerUnavailable"


async def cut_off(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
    await send({"type": "http.response.body", "body": b"only this", "more_body": True})


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(1000):  # 64 MB, so that the test ends also where the client doesn't
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})


async def dripping(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(100):
        await asyncio.sleep(0.02)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(1)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_an_answer_that_is_cut_off_is_asked_for_again_and_given_up(at_an_address: Stage) -> None:
    asked = Asked(cut_off)

    with client_at(at_an_address.play(asked)) as log:
        assert "can't be reached" in refused(LedgerUnavailable, log.checkpoint).problem

    assert len(asked) == 3


def test_an_endless_answer_is_not_read_to_its_end(at_an_address: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_LARGEST_ANSWER", 1 << 20)

    with client_at(at_an_address.play(endless)) as log:
        assert "more than 1,048,576 bytes" in refused(LedgerUnavailable, log.checkpoint).problem


def test_an_answer_that_drips_is_given_up(at_an_address: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.1)

    with client_at(at_an_address.play(dripping)) as log:
        assert "too slow" in refused(LedgerUnavailable, log.checkpoint).problem


class speaking:  # noqa: N801
    """An address at which a function has every connection to itself; it ends when it wants, or can't send any more."""

    def __init__(self, speak: Callable[[socket.socket, threading.Event], None], scheme: str = "http") -> None:
        self.speak, self.scheme = speak, scheme
        self.ended = threading.Event()
        self.came = 0

    def __enter__(self) -> speaking:
        allow_loopback()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"{self.scheme}://127.0.0.1:{self.listener.getsockname()[1]}"
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()
        return self

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.came += 1
            self.threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self.threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(1)
            self.speak(connection, self.ended)

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join()


def drip(connection: socket.socket, ended: threading.Event, first: bytes, pause: float, each: bytes) -> None:
    connection.recv(4096)
    connection.sendall(first)
    while not ended.wait(pause):
        connection.sendall(each)


def letter_by_letter(connection: socket.socket, ended: threading.Event) -> None:
    drip(connection, ended, b"HTTP/1.1 200 OK\r\nX-Slow: ", 0.02, b"x")


def one_header_after_another(connection: socket.socket, ended: threading.Event) -> None:
    drip(connection, ended, b"HTTP/1.1 200 OK\r\n", 0.02, b"X: y\r\n")


def go_on(connection: socket.socket, ended: threading.Event) -> None:
    drip(connection, ended, b"", 0.02, b"HTTP/1.1 100 Continue\r\n\r\n")


def go_on_in_a_flood(connection: socket.socket, ended: threading.Event) -> None:
    drip(connection, ended, b"", 0, b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def chunk_by_chunk(connection: socket.socket, ended: threading.Event) -> None:
    drip(connection, ended, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 0.02, b"1\r\nx\r\n")


def until_it_hangs_up(connection: socket.socket, ended: threading.Event) -> None:
    drip(connection, ended, b"HTTP/1.1 200 OK\r\n\r\n", 0.02, b"x")


def tls_letter_by_letter(connection: socket.socket, ended: threading.Event) -> None:
    drip(connection, ended, b"\x16\x03\x03\x10\x00\x02", 0.02, b"x")


@pytest.mark.parametrize(
    ("speak", "scheme"),
    [
        (letter_by_letter, "http"),
        (one_header_after_another, "http"),
        (go_on, "http"),
        (go_on_in_a_flood, "http"),
        (chunk_by_chunk, "http"),
        (until_it_hangs_up, "http"),
        (tls_letter_by_letter, "https"),
    ],
)
def test_a_service_that_always_sends_a_little_more_is_given_up_in_time(
    speak: Callable[[socket.socket, threading.Event], None], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.3)

    with speaking(speak, scheme) as service, client_at(service.address) as log:
        begun = time.monotonic()
        error = refused(LedgerUnavailable, log.checkpoint)
        took = time.monotonic() - begun

    assert took < 3
    assert service.address in error.problem
    assert scheme == "https" or "too slow: we stopped waiting after 0.3 seconds" in error.problem


def test_a_service_that_drips_over_tls_is_given_up_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, authority = tls_service(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setattr(client, "PATIENCE", 0.5)

    def speak(connection: socket.socket, ended: threading.Event) -> None:
        with tls.wrap_socket(connection, server_side=True) as encrypted:
            letter_by_letter(encrypted, ended)

    with speaking(speak, "https") as service, client_at(service.address) as log:
        begun = time.monotonic()
        assert "too slow" in refused(LedgerUnavailable, log.checkpoint).problem
        assert time.monotonic() - begun < 3


def test_a_connection_that_was_kept_is_given_up_in_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    key = f"{KEY.verifier}\n".encode()

    def speak(connection: socket.socket, ended: threading.Event) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(key), key))
        letter_by_letter(connection, ended)

    monkeypatch.setattr(client, "PATIENCE", 0.3)
    with speaking(speak) as service, client_at(service.address) as log:
        assert "too slow" in refused(LedgerUnavailable, log.checkpoint).problem

    assert service.came == 1


def test_no_pause_outlasts_what_a_request_may_take(
    at_an_address: Stage, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 5.0)
    asked = Asked(answering({"*": 503}, headers={"Retry-After": "999999"}))

    with client_at(at_an_address.play(asked)) as log:
        error = refused(LedgerUnavailable, log.checkpoint)

    assert "status 503" in error.problem
    assert (len(asked), pauses) == (1, [])


def test_no_thread_outlives_its_request(at_an_address: Stage) -> None:
    before = threading.active_count()

    with client_at(at_an_address.service(store(3))) as log:
        log.checkpoint()

        assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert threading.active_count() <= before + 1  # the server's own


# -- TLS ---------------------------------------------------------------------------------------------------------------


def tls_service(directory: Path, name: str = "127.0.0.1", days: int = 1) -> tuple[ssl.SSLContext, Path]:
    """What a service with a certificate of its own for an address speaks, and the file that makes it trusted."""
    certificate, key = self_signed(directory, name, days)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return tls, certificate


@pytest.mark.parametrize(
    ("name", "days", "trusted", "words"),
    [
        ("127.0.0.1", 1, False, "self-signed certificate"),
        ("127.0.0.2", 1, True, "certificate is not valid for '127.0.0.1'"),
        ("127.0.0.1", -1, True, "certificate has expired"),
    ],
    ids=["self-signed", "another name", "expired"],
)
def test_a_certificate_that_is_not_trusted_is_named_and_not_asked_for_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pauses: list[float],
    name: str,
    days: int,
    trusted: bool,
    words: str,
) -> None:
    tls, certificate = tls_service(tmp_path, name, days)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    def speak(connection: socket.socket, ended: threading.Event) -> None:
        tls.wrap_socket(connection, server_side=True).close()

    with speaking(speak, "https") as service, client_at(service.address) as log:
        error = refused(LedgerUnavailable, log.checkpoint)

    assert f"The TLS certificate of the ledger at {service.address} can't be trusted" in error.problem
    assert words in error.problem
    assert "SSL_CERT_FILE" in error.fix
    assert "try again" not in error.fix
    assert (service.came, pauses) == (1, [])


def test_a_port_that_speaks_no_tls_is_named_and_not_asked_again(pauses: list[float]) -> None:
    def speak(connection: socket.socket, ended: threading.Event) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with speaking(speak, "https") as service, client_at(service.address) as log:
        error = refused(LedgerUnavailable, log.checkpoint)

    assert f"TLS with the ledger at {service.address} fails" in error.problem
    assert "LEDGER_URL names a port that speaks TLS" in error.fix
    assert (service.came, pauses) == (1, [])


def test_a_service_that_breaks_off_while_it_begins_tls_is_asked_again(pauses: list[float]) -> None:
    with speaking(lambda connection, ended: None, "https") as service, client_at(service.address) as log:
        assert "can't be reached" in refused(LedgerUnavailable, log.checkpoint).problem

    assert (service.came, len(pauses)) == (3, 2)


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "No such file or directory"), (b"", "no certificate in PEM"), (b"rubbish \xff", "no certificate in PEM")],
    ids=["none", "empty", "rubbish"],
)
def test_a_file_of_certificates_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, why: str
) -> None:
    named = tmp_path / "authorities.pem"
    if content is not None:
        named.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(named))

    error = refused(ConfigError, lambda: Client("https://ledger.example.org", token=TOKEN, known_logs=None))

    assert f"SSL_CERT_FILE={named} can't be used" in error.problem
    assert why in error.problem


@pytest.mark.parametrize("proxy", ["gopher://me:planted@proxy", "http://me:planted@proxy:x"])
def test_a_proxy_that_cannot_be_used_is_refused_unrepeated(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)

    error = refused(ConfigError, lambda: Client("https://ledger.example.org:1", token=TOKEN, known_logs=None))

    assert "HTTPS_PROXY" in error.problem
    assert "planted" not in str(error)


def test_what_is_not_encrypted_goes_by_no_proxy(at_an_address: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket_that_counts() as (proxy, came):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)

        with client_at(at_an_address.service(store(3))) as log:
            log.append([statement(7)])

    assert came == []


def test_a_service_that_says_nothing_is_given_up(at_an_address: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SILENCE", 0.1)
    asked = Asked(silent)

    with client_at(at_an_address.play(asked)) as log:
        assert "can't be reached" in refused(LedgerUnavailable, log.checkpoint).problem

    assert len(asked) == 3


def test_an_append_whose_answer_got_lost_is_repeated_without_a_second_entry(at_an_address: Stage) -> None:
    log_behind = store(3)
    app = create_app(log_behind, TOKEN)
    lost = [True]

    async def losing(scope: Scope, receive: Receive, send: Send) -> None:
        async def nowhere(_: object) -> None:
            return

        if scope["method"] == "POST" and lost[0]:
            lost[0] = False
            await app(scope, receive, nowhere)
            await answering({"*": 503})(scope, receive, send)
        else:
            await app(scope, receive, send)

    with client_at(at_an_address.play(losing)) as log:
        (logged,) = log.append([statement(7)])

    assert not lost[0]
    assert logged.proof.index == 3
    assert len(log_behind.entries(0, 10)) == 4


# -- what is asked -----------------------------------------------------------------------------------------------------


def test_an_append_asks_for_the_key_and_at_first_for_what_it_signed(at_an_address: Stage, kept: Path) -> None:
    asked = Asked(create_app(store(0), TOKEN))

    with client_at(at_an_address.play(asked), kept) as log:
        log.append([statement(1)])
    first, asked[:] = list(asked), []
    with client_at(at_an_address.address, kept) as log:
        log.append([statement(2)])

    assert first == [("GET", "/key"), ("GET", "/checkpoint"), ("POST", "/entries")]
    assert asked == [("GET", "/key"), ("POST", "/entries")]


def test_what_was_read_and_checked_is_not_read_again(at_an_address: Stage) -> None:
    asked = Asked(create_app(store(300), TOKEN))

    with client_at(at_an_address.play(asked)) as log:
        first = [log.entries(0, 300), [log.node(level, 0) for level in range(9)]]
        so_far = len(asked)
        again = [log.entries(0, 300), [log.node(level, 0) for level in range(9)]]

    assert first == again
    assert len(asked) == so_far
    assert sorted(path for _, path in asked)[2:] == [
        "/key",
        "/tile/0/000",
        "/tile/0/001.p/44",
        "/tile/1/000.p/1",
        "/tile/entries/000",
        "/tile/entries/001.p/44",
    ]


def test_large_statements_go_in_bodies_that_a_service_takes(at_an_address: Stage) -> None:
    filling = '"' * 30_000  # each is two bytes of a statement, and four of the body
    large = [each.replace(b'"run-', b'"' + filling.replace('"', '\\"').encode() + b"run-") for each in statements(20)]
    asked = Asked(create_app(store(0), TOKEN))

    with client_at(at_an_address.play(asked)) as log:
        logged = log.append(large)

    lengths = [int(headers["content-length"]) for headers in asked.headers if "content-length" in headers]
    assert [each.proof.index for each in logged] == list(range(20))
    assert len(lengths) > 1
    assert max(lengths) < LARGEST_BODY


# -- keys and addresses ------------------------------------------------------------------------------------------------


def test_the_first_key_is_kept_for_its_owner_alone(at_an_address: Stage, kept: Path) -> None:
    url = at_an_address.service(store(3))

    with client_at(url, kept) as log:
        log.checkpoint()

    assert kept.read_text() == f"{url} {KEY.verifier}\n"
    assert (kept.stat().st_mode & 0o777, kept.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_a_client_that_only_reads_keeps_nothing_and_still_obeys_what_is_kept(at_an_address: Stage, kept: Path) -> None:
    url = at_an_address.service(store(3))

    with closing(Client(url, token=None, known_logs=kept, remembers=False)) as log:
        assert log.key == KEY.verifier
        assert not kept.parent.exists()
    known.remember(kept, url, OTHER_KEY.verifier)
    with closing(Client(url, token=None, known_logs=kept, remembers=False)) as log:
        refused(LedgerDamaged, lambda: log.key)


def test_a_log_of_another_kind_is_read_with_a_key_that_was_given(at_an_address: Stage, kept: Path) -> None:
    url = at_an_address.play(answering({"/key": 404}, otherwise=create_app(store(300), TOKEN)))

    with client_at(url, kept) as log:
        error = refused(LedgerUnavailable, lambda: log.key)
        assert f"add the line '{url} KEY' to {kept}" in error.fix
    known.remember(kept, url, KEY.verifier)
    with client_at(url, kept) as log:
        assert len(log.entries(0, 400)) == 300
        assert log.prove(17).proof.index == 17


def test_known_logs_keep_what_else_is_in_their_file(kept: Path) -> None:
    kept.parent.mkdir()
    kept.write_text(f"# ours\n\nhttps://a.example {KEY.verifier}")
    kept.chmod(0o640)

    assert known.remember(kept, "https://b.example", OTHER_KEY.verifier) == OTHER_KEY.verifier
    assert known.remember(kept, "https://a.example", OTHER_KEY.verifier) == KEY.verifier

    lines = ["# ours", "", f"https://a.example {KEY.verifier}", f"https://b.example {OTHER_KEY.verifier}"]
    assert kept.read_text() == "".join(f"{line}\n" for line in lines)
    assert known.read(kept) == {"https://a.example": KEY.verifier, "https://b.example": OTHER_KEY.verifier}
    assert kept.stat().st_mode & 0o777 == 0o640


def test_many_that_remember_at_once_lose_no_line(kept: Path) -> None:
    urls = [f"https://{number}.example" for number in range(8)]
    threads = [threading.Thread(target=known.remember, args=(kept, url, KEY.verifier)) for url in urls]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(known.read(kept)) == sorted(urls)


@pytest.mark.parametrize(
    "line",
    ["https://a.example", f"{KEY.verifier}", f"https://a.example {KEY.verifier}x", "https://a.example  ", "x y z"],
)
def test_a_line_that_names_no_key_is_refused_with_its_number(kept: Path, line: str) -> None:
    kept.parent.mkdir()
    kept.write_text(f"# ours\n{line}\n")

    with pytest.raises(KeyRefused, match=f"Line 2 of {kept}"):
        known.read(kept)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ledger.example.org",
        "ftp://ledger.example.org",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user:planted-token-0123456789abcdef@ledger.example.org",
        "https://planted-token-0123456789abcdef@ledger.example.org",
        "https://ledger.example.org?token=planted-token-0123456789abcdef",
        "https://ledger.example.org/#planted-token-0123456789abcdef",
        "https://ledger.example.org:0",
        "https://ledger.example.org:99999",
        "https://ledger.example.org:x",
        "https://[::1",
        "https://ledger.example.org\n.evil.example",
        "https://ledger.example.org /",
        "https:\\\\ledger.example.org",
        "https://ledger.example.org\\@evil.example",
        "https://l\xe9dger.example.org",
    ],
)
def test_what_is_no_address_of_a_service_is_refused_unrepeated(url: str) -> None:
    error = refused(ConfigError, lambda: Client(url, token=TOKEN, known_logs=None))

    assert "LEDGER_URL" in error.problem


@pytest.mark.parametrize(
    "host",
    [
        "ledger.example.org",
        "10.0.0.7",
        "0.0.0.0",
        "[::]",
        "[fe80::1]",
        "127.0.0.1.example.org",
        "localhost.evil.example",
    ],
)
def test_what_would_travel_unencrypted_to_another_machine_is_refused(host: str) -> None:
    error = refused(ConfigError, lambda: Client(f"http://{host}:8080", token=TOKEN, known_logs=None))

    assert "LEDGER_URL is unencrypted" in error.problem
    assert host.strip("[]") in error.problem
    assert "Use https" in error.fix
    assert "tunnel" in error.fix


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://ledger.example.org", "https://ledger.example.org"),
        ("http://LocalHost:8080", "http://localhost:8080"),
        ("HTTPS://Ledger.Example.ORG/", "https://ledger.example.org"),
        ("http://127.0.0.1:8080/Logs/A/", "http://127.0.0.1:8080/Logs/A"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_one_service_has_one_spelling_of_its_address(given: str, url: str) -> None:
    with client_at(given) as log:
        assert log.url == url


@pytest.mark.parametrize("token", [f"{TOKEN}\n", f" {TOKEN}", f"{TOKEN}\r\nX-Evil: 1", f"{TOKEN}\xe9", f"{TOKEN}\x00"])
def test_a_token_that_no_header_can_carry_is_refused_unrepeated(token: str) -> None:
    error = refused(ConfigError, lambda: Client("https://ledger.example.org", token=token, known_logs=None))

    assert "LEDGER_TOKEN" in error.problem


# -- which ledger ------------------------------------------------------------------------------------------------------


def test_the_ledger_is_the_service_where_one_is_named_and_else_that_of_the_home(
    at_an_address: Stage, tmp_path: Path
) -> None:
    home = Home(tmp_path, tmp_path / "models")
    service = {"LEDGER_URL": at_an_address.service(store(3)), "LEDGER_TOKEN": TOKEN}

    with closing(open_ledger(home, service)) as remote:
        (logged,) = remote.append([statement(7)])
    assert (logged.proof.index, home.known_logs.exists(), home.ledger.exists()) == (3, True, False)
    with closing(open_ledger(home, {"LEDGER_URL": ""})) as local:
        (logged,) = local.append([statement(7)])
    assert (logged.proof.index, home.ledger.exists()) == (0, True)


def test_reading_makes_nothing(at_an_address: Stage, tmp_path: Path) -> None:
    home = Home(tmp_path / "home", tmp_path / "home" / "models")

    assert read_ledger(home, {}) is None
    remote = read_ledger(home, {"LEDGER_URL": at_an_address.service(store(3)), "LEDGER_TOKEN": TOKEN})
    assert remote is not None
    with closing(remote):
        assert len(remote.entries(0, 10)) == 3
        refused(LedgerUnavailable, lambda: remote.append([statement(7)]))

    assert not home.root.exists()


def test_the_ledger_of_a_home_is_read_as_it_is(tmp_path: Path) -> None:
    home = Home(tmp_path, tmp_path / "models")
    with closing(open_ledger(home, {})) as log:
        log.append(statements(3))

    read = read_ledger(home, {})

    assert read is not None
    with closing(read):
        assert len(read.entries(0, 10)) == 3


# -- the tree ----------------------------------------------------------------------------------------------------------


@lru_cache(4)
def grown(size: int) -> Store:
    return store(size)


def served_by(log: Log) -> Callable[[Tile], bytes]:
    def read(tile: Tile) -> bytes:
        places = range(tile.start, tile.start + tile.width)
        if tile.level is None:
            return encode_bundle(log.entries(places.start, places.stop))
        return b"".join(log.node(tile.node_level, index) for index in places)

    return read


@given(size=st.sampled_from([1, 3, 256, 300, 513]), where=st.integers(0, 1 << 32), bit=st.integers(0, 7))
def test_no_bit_of_a_tile_or_a_bundle_can_be_changed_unseen(size: int, where: int, bit: int) -> None:
    log = grown(size)
    truth = log.entries(0, size)
    root = checkpoint.read(log.checkpoint(), log.key).root
    read: list[Tile] = []
    honest = served_by(log)

    def noting(tile: Tile) -> bytes:
        read.append(tile)
        return honest(tile)

    assert ServedTree(size, root, noting).entries(0, size) == truth
    lied_about = read[where % len(read)]

    def lying(tile: Tile) -> bytes:
        data = bytearray(honest(tile))
        if tile == lied_about:
            data[where % len(data)] ^= 1 << bit
        return bytes(data)

    with pytest.raises(ProofInvalid):
        ServedTree(size, root, lying).entries(0, size)


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
@pytest.mark.parametrize("level", [None, 0, 1])
def test_a_tile_or_a_bundle_of_another_length_is_refused(level: int | None, change: Callable[[bytes], bytes]) -> None:
    log = grown(300)
    root = checkpoint.read(log.checkpoint(), log.key).root
    honest = served_by(log)

    with pytest.raises(ProofInvalid):
        ServedTree(300, root, lambda tile: change(honest(tile)) if tile.level == level else honest(tile)).entries(
            0, 300
        )


def test_a_subtree_that_is_not_complete_is_no_node() -> None:
    log = grown(300)
    tree = ServedTree(300, checkpoint.read(log.checkpoint(), log.key).root, served_by(log))

    for place in ((0, 300), (8, 1), (9, 0), (3, 37)):
        with pytest.raises(ValueError, match="no complete subtree"):
            tree.node(*place)
