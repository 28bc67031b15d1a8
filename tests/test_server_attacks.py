"""What an attacker does to a server. What another test proves already stands in this table:

attack                                          proved by
a route that forgot to ask who comes            test_route_walk.py, test_guard.py
DNS rebinding, other sites' pages and sockets   test_guard.py (Host, Origin), test_entrance.py (form and text bodies)
cookie tossing, fixation, login from elsewhere  test_guard.py (`only_the_one_cookie`), test_entrance.py
guessed passphrases and links, reused links     test_access_state.py, test_entrance.py (`who_guesses`)
listening to the world unprotected              test_serve.py, test_ledger_command.py
slow heads and bodies, answers nobody reads     test_listening.py, test_socket.py (viewers)
many who connect and stay silent                test_listening.py (`stays_silent`)
one who takes every process for long work       test_work.py (`however_much_one_asks_for`)
uploads without end, lying or broken off        test_datasets_routes.py (413, digest, disk), test_bodies.py (JSON)
links and pipes behind artefacts and archives   test_artefacts_routes.py
names of datasets, models, logs as paths        test_datasets_routes.py, test_training_routes.py, test_runs_routes.py
ids of the hub that are addresses               test_models_routes.py (`what_is_no_id_of_the_hub`)
template escapes                                test_limited.py, test_render.py
pickles that run something                      test_convert_models.py, test_models_routes.py
tampered runs                                   test_verify.py, test_artefacts_routes.py (`a_lie_is_told`)
secrets in the log                              test_server_log.py, test_guard.py
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import psutil
import pytest
import uvicorn
import websocket
from starlette.routing import WebSocketRoute

from oneseek import runs
from oneseek.config.sources import Resolved
from oneseek.datasets import store
from oneseek.events import RunQueued
from oneseek.runs.outside import Report, report
from oneseek.runs.process import Process
from oneseek.server import guard, shares
from oneseek.server.errors import Refusal
from oneseek.server.listening import configured
from oneseek.server.work import ASKING
from support.certified import certified_town
from support.ledger_service import Stage, allow_loopback, stage
from support.routes import Got, request
from support.runs import Town, events
from support.server import Served, served
from support.supervised import ASKED, START
from test_route_walk import routes_of
from test_serve import server as served_process

ELSEWHERE = "run-20231122-143025"
"""A run that another program trains."""

JSON = {"Content-Type": "application/json"}

OUTSIDE = b"planted: nobody may read this\n"
"""What lies outside of everything that the server serves."""

SECRETS = {"LEDGER_TOKEN": "ledger-planted-0123456789", "HF_TOKEN": "hf_planted0123456789abcdef"}
PASSPHRASE = "planted passphrase, of five words"


@pytest.fixture(scope="module")
def at() -> Iterator[Stage]:
    with stage() as found:
        yield found


@pytest.fixture
def server(town: Town) -> Iterator[Served]:
    with served(town) as whole:
        yield whole


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that many tests ask in vain."""
    with served(certified_town(tmp_path_factory.mktemp("standing") / "a" / "home").town) as whole:
        yield whole


@pytest.fixture
def real(town: Town, at: Stage) -> Iterator[tuple[Served, str]]:
    with served(town, port=urlsplit(at.address).port or 0) as whole:
        at.play(whole.app)
        yield whole, at.address


@pytest.fixture
def with_sockets(town: Town) -> Iterator[tuple[Served, str]]:
    """A server with all that it does by itself, and the place where it is asked."""
    allow_loopback()
    with socket.create_server(("127.0.0.1", 0)) as listener, served(town, port=listener.getsockname()[1]) as whole:
        web = uvicorn.Server(configured(whole.app, with_sockets=True))
        thread = threading.Thread(target=lambda: web.run(sockets=[listener]), daemon=True)
        thread.start()
        until(lambda: web.started)
        yield whole, f"127.0.0.1:{listener.getsockname()[1]}"
        web.should_exit = True
        thread.join()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def waiting(server: Served, **settings: Any) -> str:
    """A run that waits for its turn."""
    config = server.town.config("alfa-1b", **settings)
    return server.runs.submit(Resolved(config=config, origins={}, problems=())).run_id


# -- paths -------------------------------------------------------------------------------------------------------------

UP = (
    *("../" * 8 + "{}", "..\\" * 8 + "{}", "/{}", "//{}", "\\\\localhost\\c$\\{}", "file:///{}", "C:\\{}"),
    "....//" * 8 + "{}",
)
HOSTILE = (
    *(each.format(name) for each in UP for name in ("secret.txt", "etc/passwd")),
    *(".", "..", "...", "~", "~root", "-", "--help", "$(id)", "`id`", "a;id", "a|id", "a&id", "%s%n"),
    *("CON", "NUL", "aux.txt", "rows.jsonl\0.txt", "\0", "rows.jsonl\n", "a" * 5000),
    *("\u2025/secret.txt", "\uff0e\uff0e/secret.txt", "\u2215etc", "oneseek.db", "work/run.lock"),
    *("org/run-signer.pem", "../keys/run-signer.pem", "../../../keys/log.ed25519"),
)
RAW = (
    *("..%2f" * 8 + "secret.txt", "%2e%2e%2f" * 8 + "secret.txt", "..%5c" * 8 + "secret.txt", "%2fetc%2fpasswd"),
    *("..%252f" * 8 + "secret.txt", "%c0%ae%c0%ae%c0%af" * 8 + "secret.txt", "..%c0%af" * 8 + "secret.txt"),
    *("%00", "%ff%fe", "..;/" * 8 + "secret.txt", "%u002e%u002e/secret.txt", "..%00/secret.txt"),
    "%e2%80%a5/secret.txt",
)
"""Spellings that clients would tidy up; sent letter by letter."""


def places(whole: Served) -> list[tuple[str, str, str]]:
    """Every method and path with a parameter in it: what stands before it and behind it."""
    found = []
    for route in routes_of(whole.routes):
        if isinstance(route, WebSocketRoute) or "{" not in route.path:
            continue
        for parameter in re.finditer(r"\{[^}]*\}", route.path):
            before, behind = route.path[: parameter.start()], route.path[parameter.end() :]
            before, behind = (re.sub(r"\{[^}]*\}", "KNOWN", each) for each in (before, behind))
            found += [(method, before, behind) for method in route.methods]
    return found


def test_no_path_leads_out_whatever_is_written_for_any_parameter_of_any_route(
    tmp_path: Path, at: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    town = certified_town(tmp_path / "a" / "home").town
    for secret in (tmp_path / "secret.txt", tmp_path / "a" / "secret.txt", town.root / "secret.txt"):
        secret.write_bytes(OUTSIDE)
    with served(town, port=urlsplit(at.address).port or 0) as whole:
        at.play(whole.app)
        headers = whole.token("admin")
        known = town.results.runs.glob("run-*")
        run_id = next(known).name
        before = sorted((str(each), each.read_bytes()) for each in tmp_path.rglob("*.pem") if each.is_file())
        wrong: list[tuple[str, int, bytes]] = []

        def ask(method: str, path: str) -> None:
            got = request(at.address, path, method, {} if method in ("POST", "PUT", "PATCH") else None, headers)
            offline = got.status == 502 and path.startswith("/api/models/")  # as the id of a model on the hub
            page = path.startswith("/runs/")  # the same for whatever stands behind that
            if (
                (got.status >= 500 and not offline)
                or (got.status < 300 and not page)
                or OUTSIDE.strip() in got.body
                or b"PRIVATE KEY" in got.body
            ):
                wrong.append((f"{method} {path[:100]}", got.status, got.body[:100]))

        for method, start, end in places(whole):
            if start.startswith(("/api/sessions", "/api/tokens")) and method != "DELETE":
                continue
            for name in [*(quote(each, safe="") for each in HOSTILE), *RAW]:
                ask(method, f"{start}{name}{end}".replace("KNOWN", run_id))
        after = sorted((str(each), each.read_bytes()) for each in tmp_path.rglob("*.pem") if each.is_file())

    assert wrong == []
    assert before == after


def test_no_parameter_of_a_query_and_no_field_of_a_body_leads_out(real: tuple[Served, str], tmp_path: Path) -> None:
    whole, address = real
    (tmp_path / "secret.txt").write_bytes(OUTSIDE)
    store.add(whole.town.home, whole.town.dataset, "town")
    admin, run_id = whole.token("admin"), waiting(whole)
    before = {str(each) for each in tmp_path.rglob("*")}
    wrong: list[tuple[str, int, bytes]] = []

    for name in HOSTILE[::7]:  # each is judged by other code than paths are, and more slowly
        asked = quote(name, safe="")
        for method, path, body in (
            ("GET", f"/api/runs/{run_id}/log?model={asked}", None),
            ("GET", f"/api/datasets/town/statistics?baseModels={asked}", None),
            ("GET", f"/api/training/{asked}/metrics", None),
            ("POST", "/api/validate", {"datasetId": name, "baseModels": ["alfa-1b"]}),
            ("POST", "/api/validate", {"datasetId": "town", "baseModels": [name]}),
            ("POST", "/api/validate", ASKED | {"output": {"directory": name}}),
            ("POST", "/api/validate", ASKED | {"device": name}),
            ("POST", "/api/datasets/town/convert", {"to": "messages", "name": f"../{name}"}),
            ("POST", "/api/models/pull", {"name": f"../{name}"}),
            ("POST", f"/api/runs/{run_id}/resume", {"device": name}),
        ):
            got = request(address, path, method, body, admin)
            if not 400 <= got.status < 500 or OUTSIDE.strip() in got.body or b"PRIVATE KEY" in got.body:
                wrong.append((f"{method} {path} {body}"[:200], got.status, got.body[:200]))

    assert wrong == []
    assert {str(each) for each in tmp_path.rglob("*")} - before <= {str(whole.town.home.datasets / ".store.lock")}


@pytest.mark.parametrize("kind", ["link", "pipe", "folder behind a link"])
def test_a_log_that_leads_elsewhere_is_no_log(server: Served, tmp_path: Path, kind: str) -> None:
    directory = server.runs.find(waiting(server))
    logs = directory.worker_log("alfa-1b").parent
    (tmp_path / "alfa-1b.log").write_bytes(OUTSIDE)
    if kind == "folder behind a link":
        logs.symlink_to(tmp_path)
    else:
        logs.mkdir()
        if kind == "link":
            directory.worker_log("alfa-1b").symlink_to(tmp_path / "alfa-1b.log")
        else:
            os.mkfifo(directory.worker_log("alfa-1b"))

    got = server.client.get(f"/api/runs/{directory.run_id}/log?model=alfa-1b", headers=server.token("read"))

    assert got.status_code == 404
    assert OUTSIDE.decode().strip() not in got.text


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_journal_that_is_none_is_told_and_keeps_nobody_waiting(server: Served, tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret.txt").write_bytes(OUTSIDE)
    root = server.town.results.run("run-20200101-000000").root
    (root / "work").mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(root / "journal.jsonl")
    else:
        (root / "journal.jsonl").symlink_to(tmp_path / "secret.txt")
    reader = server.token("read")

    shown = server.client.get(f"/api/runs/{root.name}", headers=reader)
    others = [
        server.client.get(path, headers=reader)
        for path in (f"/api/training/{root.name}/metrics", f"/api/training/{root.name}/events", "/api/training/active")
    ]
    reported = server.client.post(
        f"/api/training/{root.name}/metrics",
        json={"epoch": 1, "totalEpochs": 2, "valLosses": {"a": 1.0}},
        headers=server.token("run"),
    )
    server.runs.turn()

    assert shown.json()["status"] == "damaged"
    assert [each.status_code for each in (*others, reported)] == [409, 409, 200, 409]
    assert OUTSIDE.decode().strip() not in "".join(each.text for each in (shown, reported, *others))


# -- what is ours to signal --------------------------------------------------------------------------------------------


@pytest.fixture
def stranger() -> Iterator[psutil.Process]:
    """A process that is nobody's child here."""
    code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
    code += " start_new_session=True, stdout=-3, stderr=-3); print(p.pid)"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    process = psutil.Process(int(made.stdout))
    yield process
    process.kill()


def test_a_file_that_names_a_process_of_somebody_else_gets_it_neither_killed_nor_into_the_queue(
    server: Served, stranger: psutil.Process
) -> None:
    run_id = waiting(server)
    directory = server.runs.find(run_id)
    server.runs.dequeue(run_id)
    directory.process.write_bytes(msgspec.json.encode(Process.of(stranger.pid)))
    headers = server.token("run")

    told = [
        server.client.post(f"/api/runs/{run_id}/stop", json={"when": when}, headers=headers).status_code
        for when in ("now", "kill")
    ]
    server.runs.turn()

    assert told == [409, 409]
    assert stranger.is_running()
    assert stranger.status() != psutil.STATUS_ZOMBIE


# -- what is revoked ---------------------------------------------------------------------------------------------------


def test_a_token_that_is_revoked_watches_nothing_any_more(
    with_sockets: tuple[Served, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LOOK_AGAIN", 0.2)
    whole, place = with_sockets
    report(whole.town.home, ELSEWHERE, Report(epoch=1, total_epochs=2, val_losses={"alfa": 3.2}))
    token, secret = whole.access.create_token("a program", "read")
    watched = f"ws://{place}/ws/training?runId={ELSEWHERE}"
    host, port = place.split(":")

    viewer = websocket.create_connection(watched, timeout=10, header={"Authorization": f"Bearer {secret}"})
    staying = websocket.create_connection(watched, timeout=10, header=whole.token("read"))
    with socket.create_connection((host, int(port)), timeout=10) as listening:
        head = f"GET /api/training/{ELSEWHERE}/events HTTP/1.1\r\nHost: {place}\r\n"
        listening.sendall(f"{head}Authorization: Bearer {secret}\r\n\r\n".encode())
        begun = listening.recv(1 << 16)
        firsts = [json.loads(each.recv())["type"] for each in (viewer, staying)]
        whole.access.revoke_token(token.id)
        began = time.monotonic()
        while (frame := viewer.recv_data())[0] != websocket.ABNF.OPCODE_CLOSE:
            continue
        while listening.recv(1 << 16):
            continue
        seconds = time.monotonic() - began
    staying.settimeout(1)
    with pytest.raises(websocket.WebSocketTimeoutException):
        until(lambda: staying.recv_data()[0] == websocket.ABNF.OPCODE_CLOSE)
    for each in (viewer, staying):
        each.shutdown()  # type: ignore[no-untyped-call]

    assert b" 200 OK\r\n" in begun
    assert firsts == ["initial_state", "initial_state"]
    assert int.from_bytes(frame[1][:2]) == 1008
    assert seconds < 3


def test_what_is_looked_again_is_looked_in_time() -> None:
    assert guard.LOOK_AGAIN + guard._LAST_WORD < 30


# -- what one may take from others -------------------------------------------------------------------------------------


def test_however_much_one_token_asks_for_others_are_answered(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(server.town.home, server.town.dataset, "town")
    greedy, other, held = server.token("read"), server.token("read"), threading.Event()
    entered: list[str] = []
    real_get = store.get

    def counting(*given: Any, **more: Any) -> store.Stored:
        entered.append(ASKING.get())
        held.wait(30)
        return real_get(*given, **more)

    monkeypatch.setattr("oneseek.server.datasets.store.get", counting)

    async def scene() -> tuple[list[int], int]:
        import httpx2 as httpx

        transport = httpx.ASGITransport(app=server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3001") as client:
            asking = [asyncio.create_task(client.get("/api/datasets/town", headers=greedy)) for _ in range(60)]
            while len(entered) < shares.AT_ONCE:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(10):
                answers = [(await client.get(path, headers=other)).status_code for path in ("/api/runs", "/api/queue")]
            at_once = len(entered)
            held.set()
            await asyncio.gather(*asking)
            return answers, at_once

    answers, at_once = asyncio.run(scene())

    assert answers == [200, 200]
    assert at_once == shares.AT_ONCE
    assert len(entered) == 60
    assert len({*entered}) == 1
    assert entered[0].startswith("token ")


def test_one_token_has_so_many_requests_open_and_no_more(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "MOST", 3)
    who = server.access.of_token(server.token("read")["Authorization"].removeprefix("Bearer "))
    assert who
    everybodys = shares.Shares()

    async def scene() -> str:
        async with AsyncExitStack() as open_ones:
            for _ in range(3):
                await open_ones.enter_async_context(everybodys.turn(who))
            with pytest.raises(Refusal) as refused:
                await open_ones.enter_async_context(everybodys.turn(who))
            return str(refused.value.status_code)

    assert asyncio.run(scene()) == "429"
    assert everybodys._shares == {}


# -- how requests are written ------------------------------------------------------------------------------------------


def raw(address: str, said: bytes) -> bytes:
    """Everything that comes back; b"" where the connection is just cut."""
    host = urlsplit(address)
    with socket.create_connection((host.hostname, host.port), timeout=10) as connection:
        try:
            connection.sendall(said)
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))
        except (ConnectionResetError, BrokenPipeError):
            return b""


def test_a_request_that_ends_in_two_places_is_refused_and_nothing_behind_it_is_read(real: tuple[Served, str]) -> None:
    whole, address = real
    bearer = whole.token("admin")["Authorization"]
    smuggled = f"GET /api/tokens HTTP/1.1\r\nHost: {urlsplit(address).netloc}\r\nAuthorization: {bearer}\r\n\r\n"
    head = f"POST /api/login HTTP/1.1\r\nHost: {urlsplit(address).netloc}\r\nContent-Type: application/json\r\n"

    said = raw(address, f"{head}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}".encode())

    assert said.startswith(b"HTTP/1.1 400 ")
    assert said.count(b"HTTP/1.1") == 1


IMPROPER = (
    "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcdef",
    "Content-Length: -1\r\n\r\n",
    "Content-Length: +4\r\n\r\nabcd",
    "Content-Length: 99999999999999999999999999\r\n\r\n",
    "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffffffff\r\n",
    "X-Folded: a\r\n b: c\r\nContent-Length : 4\r\n\r\nabcd",
    "X-Many: 1\r\n" * 100_000 + "\r\n",
    "X-Long: " + "x" * 10_000_000 + "\r\n\r\n",
)


def test_what_is_no_proper_request_is_refused_or_cut(real: tuple[Served, str]) -> None:
    whole, address = real
    bearer = whole.token("admin")["Authorization"]
    head = f"POST /api/datasets?name=a.jsonl HTTP/1.1\r\nHost: {urlsplit(address).netloc}\r\nConnection: close\r\n"

    for said in IMPROPER:
        got = raw(address, f"{head}Authorization: {bearer}\r\n{said}".encode())

        assert got == b"" or re.match(rb"HTTP/1.1 (4\d\d|501) ", got), (said[:100], got[:100])
        assert request(address, "/healthz").status == 200
    assert store.listing(whole.town.home).datasets == ()
    assert not [*whole.town.home.uploads.glob("*")]


# -- what others trained -----------------------------------------------------------------------------------------------


def test_a_report_overwrites_and_forges_no_run_of_ours(tmp_path: Path) -> None:
    certified = certified_town(tmp_path / "home")
    before = {path: path.read_bytes() for path in certified.run.rglob("*") if path.is_file()}
    with served(certified.town) as server:
        runner = server.token("run")
        queued = waiting(server, data__bad_rows="quarantine")
        state = runs.describe(server.runs.find(queued)).state
        assert state
        for run_id in (certified.run.name, queued):
            for body in (
                {"epoch": 1, "totalEpochs": 2, "valLosses": {"alfa-1b": 0.1, "beta-1b": 0.1}},
                {"epoch": 3, "valLosses": {"alfa-1b": 0.1, "beta-1b": 0.1}, "done": True},
                {"epoch": 0, "totalEpochs": 2, "baseModels": ["evil"], "failed": "no"},
                {
                    "epoch": 1,
                    "baseModels": ["alfa-1b"],
                    "valLosses": {"alfa-1b": 0.1},
                    "totalEpochs": state.total_epochs,
                },
            ):
                got = server.client.post(f"/api/training/{run_id}/metrics", json=body, headers=runner)
                assert got.status_code == 409, got.text
        own = "run-20200101-000000"
        body = {"epoch": 2, "totalEpochs": 2, "valLosses": {"<script>alert(1)</script>": 0.1}}
        for epoch in (1, 2):
            told = server.client.post(
                f"/api/training/{own}/metrics", json=body | {"epoch": epoch, "done": epoch == 2}, headers=runner
            )
        certify = server.client.post(f"/api/runs/{own}/certify", headers=runner)
        verdict = server.client.get(f"/api/runs/{own}/verify", headers=runner)

    assert {path: path.read_bytes() for path in certified.run.rglob("*") if path.is_file()} == before
    assert type(events(certified.town.results.run(queued))[-1]) is RunQueued
    assert told.json()["status"] == "completed"
    assert certify.status_code == 409
    assert not verdict.json()["ok"]


@pytest.mark.parametrize("field", ["valLosses", "trainLosses", "bitsPerByte", "weights", "lrMultipliers", "baseModels"])
def test_a_report_of_far_too_many_models_is_refused_at_once(standing: Served, field: str) -> None:
    names = [f"m{number}" for number in range(30_000)]
    body = {"epoch": 1, "totalEpochs": 2, field: names if field == "baseModels" else dict.fromkeys(names, 1.0)}

    began = time.monotonic()
    got = standing.client.post("/api/training/run-20200101-000000/metrics", json=body, headers=standing.token("run"))

    assert got.status_code == 400
    assert time.monotonic() - began < 2


# -- at once -----------------------------------------------------------------------------------------------------------


def test_a_dataset_that_is_removed_while_a_run_is_started_leaves_no_run_without_it(server: Served) -> None:
    runner, ended = server.token("run"), []
    for number in range(8):
        rows = b"".join(b'{"text": "row %d of %d, of some words"}\n' % (row, number) for row in range(30))
        name = f"rows-{number}.jsonl"
        assert server.client.post(f"/api/datasets?name={name}", content=rows, headers=runner).status_code == 201

        def start(name: str = name) -> Any:
            return server.client.post(START, json={"datasetId": name, "baseModels": ["alfa-1b"]}, headers=runner)

        def remove(name: str = name, after: float = number * 0.04) -> Any:
            time.sleep(after)
            return server.client.delete(f"/api/datasets/{name}", headers=runner)

        with ThreadPoolExecutor(2) as both:
            ended.append(tuple(each.result().status_code for each in (both.submit(start), both.submit(remove))))

    assert {(400, 200), (409, 200), (202, 409)} >= set(ended)


def test_of_two_that_do_the_same_at_once_one_does_it(server: Served) -> None:
    runner = server.token("run")
    first, second = (
        server.client.post(
            f"/api/datasets?name={name}.jsonl", content=f'{{"prompt": "{name}", "completion": "b"}}\n', headers=runner
        ).json()["sha256"]
        for name in ("first", "second")
    )

    def convert(sha256: str) -> int:
        body = {"to": "messages", "name": "same.jsonl"}
        return server.client.post(f"/api/datasets/{sha256}/convert", json=body, headers=runner).status_code

    def remove(_: int) -> int:
        return server.client.delete(f"/api/datasets/{first}", headers=runner).status_code

    def start(_: int) -> str:
        return waiting(server)

    with ThreadPoolExecutor(4) as many:
        converted = sorted(many.map(convert, (first, second)))
        removed = sorted(many.map(remove, range(4)))
        started = list(many.map(start, range(4)))

    names = [each.name for each in store.listing(server.town.home).datasets]
    assert converted == [201, 400]
    assert removed == [200, 404, 404, 404]
    assert names.count("same.jsonl") == 1
    assert len(set(started)) == 4
    assert {place.run_id for place in server.runs.places()} == set(started)


def test_a_place_in_the_queue_that_is_none_is_refused(server: Served) -> None:
    run_id, runner = waiting(server), server.token("run")

    statuses = [
        server.client.patch(
            f"/api/queue/{run_id}", content=f'{{"position": {position}}}', headers=runner | JSON
        ).status_code
        for position in (
            "-1",
            "2147483648",
            "18446744073709551616",
            "1e308",
            "1e999",
            "NaN",
            '"0"',
            "null",
            "[0]",
            "true",
        )
    ]

    assert statuses == [400] * 10
    assert [place.position for place in server.runs.places()] == [0]


# -- models that are programs ------------------------------------------------------------------------------------------


def test_a_template_that_never_ends_is_killed_and_others_are_answered_meanwhile(real: tuple[Served, str]) -> None:
    whole, address = real
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    whole.town.add_model("bomb", template=loop)
    reader = whole.token("read")

    with ThreadPoolExecutor(1) as beside:
        bomb = beside.submit(request, address, "/api/models/bomb", "GET", None, reader)
        slowest = 0.0
        while not bomb.done():
            began = time.monotonic()
            assert request(address, "/api/runs", headers=reader).status == 200
            slowest = max(slowest, time.monotonic() - began)
    verdict = request(
        address, "/api/validate", "POST", {"datasetId": "rows.jsonl", "baseModels": ["bomb"]}, whole.token("run")
    )

    assert bomb.result().status == 200
    assert slowest < 2
    assert verdict.status == 400
    assert b"template" in verdict.body


def test_a_model_that_brings_code_is_shown_and_judged_and_none_of_it_is_run(server: Served, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = f"open({str(marker)!r}, 'w').close()\n"
    evil = server.town.add_model(
        "evil-1b", config={"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    )
    for name in ("evil.py", "configuration_evil.py", "tokenization_evil.py", "__init__.py"):
        (evil / name).write_text(code)
    (evil / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    runner = server.token("run")

    shown = server.client.get("/api/models/evil-1b", headers=runner)
    judged = server.client.post("/api/validate", json=ASKED | {"baseModels": ["evil-1b"]}, headers=runner)
    listed = server.client.get("/api/models", headers=runner)

    assert (shown.status_code, listed.status_code) == (200, 200)
    assert judged.status_code in (200, 400)
    assert not marker.exists()


# -- what is asked of other machines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://evil.example/model",
        "file:///etc/passwd",
        "//evil.example/model",
        "evil.example:80/model",
        "org/../../api/whoami-v2",
        "org/name@../../../api",
        "org/name@http://evil.example",
        "org/name?x=",
        "org/name#",
        "org/na me",
        "gopher://127.0.0.1:25/_x",
    ],
)
def test_no_name_makes_the_server_ask_another_machine(
    standing: Served, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *at, **_: asked.append(at))
    monkeypatch.setattr(socket.socket, "connect", lambda _, at: asked.append(at))
    runner = standing.token("run")

    statuses = [
        standing.client.get(f"/api/models/{quote(name, safe='')}", headers=runner).status_code,
        standing.client.post("/api/models/pull", json={"name": name}, headers=runner).status_code,
        standing.client.post("/api/validate", json=ASKED | {"datasetId": name}, headers=runner).status_code,
        standing.client.post("/api/validate", json=ASKED | {"baseModels": [name]}, headers=runner).status_code,
    ]

    assert all(400 <= status < 500 for status in statuses), statuses
    assert asked == []


def test_no_body_says_whom_the_server_asks(standing: Served) -> None:
    evil = "http://evil.example"
    body = ASKED | {
        "LEDGER_URL": evil,
        "hfEndpoint": evil,
        "environment": {"HF_ENDPOINT": evil},
        "ledger": {"url": evil},
    }

    got = standing.client.post("/api/validate", json=body, headers=standing.token("run"))

    assert got.status_code == 400
    unknown = {each["field"].lower() for each in got.json()["error"]["findings"] if "is not" in each["problem"]}
    assert {each.partition(".")[0] for each in unknown} >= {"ledger_url", "hf_endpoint", "environment", "ledger"}


# -- script and secrets ------------------------------------------------------------------------------------------------

SCRIPT = "<script>alert(document.domain)</script>"


def test_script_in_names_and_rows_stays_text_in_every_answer(tmp_path: Path, at: Stage) -> None:
    town = certified_town(tmp_path / "home").town
    town.add_model("show-1b", display_name=f"{SCRIPT} 1B")
    with served(town, port=urlsplit(at.address).port or 0) as whole:
        at.play(whole.app)
        admin = whole.token("admin")
        whole.access.create_token(SCRIPT, "read")
        (tmp_path / "rows.jsonl").write_text(json.dumps({"text": SCRIPT}) + "\n")
        store.add(town.home, tmp_path / "rows.jsonl", "<img src=x onerror=alert(1)>.jsonl")
        dataset = store.listing(town.home).datasets[0].sha256
        run_id = town.results.runs.glob("run-*").__next__().name
        town.home.run_log(run_id).parent.mkdir()
        town.home.run_log(run_id).write_text(SCRIPT)
        got: dict[str, Got] = {}
        for route in routes_of(whole.routes):
            page = not getattr(route, "include_in_schema", True)  # they hold nothing of anybody
            if page or isinstance(route, WebSocketRoute) or "GET" not in route.methods:
                continue
            path = route.path.replace("{dataset}", dataset).replace("{run_id}", run_id).replace("{runId}", run_id)
            path = re.sub(r"\{path[^}]*\}", "journal.jsonl", path).replace("{index}", "0")
            path = re.sub(r"\{key[^}]*\}", "show-1b", path)
            if "tasks/" not in path:
                got[path] = request(at.address, path, headers=admin)
        wrong = request(at.address, f"/api/runs/{quote(SCRIPT, safe='')}", headers=admin)

    kinds = {path: (each.headers["Content-Type"] or "").partition(";")[0] for path, each in got.items()}
    assert {path: each.status for path, each in got.items() if each.status != 200} == {}
    assert set(kinds.values()) <= {
        *("application/json", "text/plain", "application/octet-stream", "application/x-tar", "text/event-stream")
    }
    for path, each in [*got.items(), ("wrong", wrong)]:
        assert each.headers["X-Content-Type-Options"] == "nosniff", path
        if kinds.get(path, "") in ("application/octet-stream", "application/x-tar"):
            assert each.headers["Content-Disposition"].startswith("attachment"), path
    assert wrong.headers["Content-Type"] == "application/json"


def test_no_secret_is_in_any_file_any_answer_or_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("test_serve.PLANTED", SECRETS["LEDGER_TOKEN"])
    home = certified_town(tmp_path / "home").town.home
    run_id = next(home.models.glob("oneseek-certified/run-*")).name
    with served_process(home.root, "--log-level", "debug") as process:
        link = process.link
        setup = process.ask("POST", "/api/setup", {"link": link, "passphrase": PASSPHRASE})
        cookie = setup.headers["Set-Cookie"].partition(";")[0]
        mine = {"Cookie": cookie, "Origin": process.address}
        token = json.loads(process.ask("POST", "/api/tokens", {"name": "a", "scope": "admin"}, mine).body)["secret"]
        bearer = {"Authorization": f"Bearer {token}"}
        paths = [
            *("/metrics", "/openapi.json", "/api/session", "/api/sessions", "/api/tokens", "/api/runs", "/api/queue"),
            *("/api/config", "/api/datasets", "/api/models", "/api/tasks", "/api/ledger", "/api/ledger/entries"),
            *(f"/api/runs/{run_id}{end}" for end in ("", "/verify", "/artefacts", "/archive", "/log")),
            *(f"/api/training/{run_id}/{end}" for end in ("metrics", "leaderboard", "events?after=0")),
            *(f"/api/runs/{token}", f"/api/tasks/{link}", f"/api/datasets/{cookie.partition('=')[2]}"),
        ]
        said = [process.ask("GET", path, headers=bearer) for path in paths]
        bodies = ({"passphrase": f"{PASSPHRASE}!"}, {"passphrase": PASSPHRASE, "link": token}, [token])
        said += [process.ask("POST", "/api/login", body) for body in bodies]
        said.append(process.ask("GET", "/api/runs", headers={"Authorization": f"Bearer {token}x"}))
        process.end()

    secrets = [*SECRETS.values(), PASSPHRASE, cookie.partition("=")[2], token, link]
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    # Who asks for a path is told it again; that is theirs to know.
    echoed = {path for path in paths if any(secret in path for secret in secrets)}
    answers = [each.body for path, each in zip([*paths, *[""] * 4], said, strict=True) if path not in echoed]
    for secret in secrets:
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
        assert [body[:200] for body in answers if secret.encode() in body] == []
        assert secret not in json.dumps(process.logged)


# -- too much of everything --------------------------------------------------------------------------------------------


def test_thousands_who_stay_silent_cost_little_and_nobody_waits_for_them(tmp_path: Path) -> None:
    with served_process(tmp_path / "home") as process, ExitStack() as opened:
        place = (urlsplit(process.address).hostname, urlsplit(process.address).port)
        process.ask("GET", "/healthz")
        memory = psutil.Process(process.process.pid).memory_info
        before = memory().rss
        for _ in range(900):
            silent = opened.enter_context(socket.create_connection(place, timeout=10))
            silent.sendall(b"POST /api/login HTTP/1.1\r\nX: ")
        began = time.monotonic()
        health = process.ask("GET", "/healthz").status
        seconds = time.monotonic() - began
        grown = memory().rss - before
        process.process.kill()

    assert health == 200
    assert seconds < 2
    assert grown < 64 << 20
