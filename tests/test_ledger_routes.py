"""The ledger of a home, over HTTP: what is read, what is refused, and a service that is away or slow."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from oneseek.certificate.keys import pins_in, pins_of
from oneseek.cli import oneseek
from oneseek.files.layout import Home
from oneseek.ledger import checkpoint
from oneseek.ledger.note import VerifierKey
from oneseek.ledger.proof import check, parse
from oneseek.ledger.store import Store
from oneseek.server import ledger_routes
from oneseek.server.ledger_routes import routes
from support.certified import CertifiedTown, certified
from support.ledger_service import KEY, Stage, stage, statement, store
from support.routes import application
from support.runs import everything

__all__ = ["certified"]

WORK = ThreadPoolExecutor(2)
PATHS = ["", "/checkpoint", "/key", "/entries", "/proofs/0", "/audit"]


@pytest.fixture(scope="module")
def stand() -> Iterator[Stage]:
    with stage() as found:
        yield found


@pytest.fixture
def home(certified: CertifiedTown, tmp_path: Path) -> Home:
    """A home of its own with two certified runs."""
    root = Path(shutil.copytree(certified.home.root, tmp_path / "home", symlinks=True))
    return Home(root, root / "models")


def client(home: Home, environment: dict[str, str] | None = None) -> TestClient:
    return TestClient(application(routes(home, environment or {}, WORK), home))


def said(home: Home, *arguments: str) -> Any:
    answer = CliRunner().invoke(oneseek, ["ledger", *arguments, "--home", str(home.root)])
    assert answer.exit_code == 0
    return answer.stdout


def test_the_summary_says_what_the_command_line_says(home: Home, certified: CertifiedTown) -> None:
    answer = client(home).get("/api/ledger")

    shown = json.loads(said(home, "show", "--json"))
    assert answer.status_code == 200
    assert answer.json() == {
        **{name: shown[name] for name in ("origin", "size", "root")},
        "key": str(certified.log_key.verifier),
    }


def test_the_checkpoint_is_the_signed_note(home: Home, certified: CertifiedTown) -> None:
    answer = client(home).get("/api/ledger/checkpoint")

    assert answer.headers["Content-Type"].startswith("text/plain")
    assert checkpoint.read(answer.text, certified.log_key.verifier).size == 2


def test_the_keys_are_told_as_others_pin_them(home: Home) -> None:
    answer = client(home).get("/api/ledger/key")

    assert answer.text == said(home, "key")
    assert pins_in(answer.text) == pins_of(home, {})


@pytest.mark.parametrize(
    ("query", "indices"),
    [
        ("", [0, 1]),
        ("?start=1", [1]),
        ("?stop=1", [0]),
        ("?start=1&stop=99", [1]),
        ("?start=9", []),
        ("?start=1&stop=0", []),
        ("?start=99999999999999999999", []),
    ],
)
def test_entries_come_in_their_order_as_far_as_there_are_any(home: Home, query: str, indices: list[int]) -> None:
    answer = client(home).get(f"/api/ledger/entries{query}")

    assert (answer.status_code, answer.json()["size"]) == (200, 2)
    shown = {entry["index"]: entry for entry in json.loads(said(home, "show", "--json"))["entries"]}
    assert answer.json()["entries"] == [shown[index] for index in indices]


def test_no_more_entries_come_at_once_than_are_allowed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_routes, "MOST_AT_ONCE", 1)

    first, refused = client(home).get("/api/ledger/entries"), client(home).get("/api/ledger/entries?stop=2")

    assert [entry["index"] for entry in first.json()["entries"]] == [0]
    assert refused.status_code == 400
    assert refused.json()["error"]["fix"] == "Ask for 1 at most."


def test_a_proof_holds(home: Home, certified: CertifiedTown) -> None:
    answer = client(home).get("/api/ledger/proofs/1")

    leaf = json.loads(said(home, "show", "1", "--json"))["leaf"].encode()
    assert check(parse(answer.text), leaf, certified.log_key.verifier).size == 2


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/proofs/2", 404),
        ("/proofs/-1", 404),
        ("/proofs/99999999999999999999", 404),
        ("/proofs/x", 400),
        ("/entries?start=-1", 400),
        ("/entries?stop=x", 400),
    ],
)
def test_what_is_no_number_of_an_entry_is_refused(home: Home, path: str, status: int) -> None:
    answer = client(home).get(f"/api/ledger{path}")

    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_a_ledger_that_has_not_begun_is_an_empty_one_and_nothing_is_made(tmp_path: Path) -> None:
    answer = client(Home(tmp_path / "home", tmp_path / "home" / "models")).get("/api/ledger")

    assert answer.json() == {"origin": None, "size": 0, "root": hashlib.sha256().hexdigest(), "key": None}
    assert everything(tmp_path) == set()


@pytest.mark.parametrize("path", [path for path in PATHS if path])
def test_a_home_without_a_ledger_has_none_to_read_and_gets_none(tmp_path: Path, path: str) -> None:
    answer = client(Home(tmp_path / "home", tmp_path / "home" / "models")).get(f"/api/ledger{path}")

    assert answer.status_code == 409
    assert answer.json()["error"]["fix"] == "It begins with the first run: oneseek train"
    assert str(tmp_path) not in answer.text
    assert everything(tmp_path) == set()


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/audit"])
def test_a_ledger_that_is_gone_is_said_to_be_without_its_path(home: Home, path: str) -> None:
    home.ledger.unlink()

    answer = client(home).get(f"/api/ledger{path}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "LedgerDamaged")
    assert "ledger.db is gone" in answer.text
    assert str(home.root) not in answer.text


def test_a_later_run_is_there_at_once(home: Home, certified: CertifiedTown) -> None:
    asked = client(home)
    before = asked.get("/api/ledger").json()["size"]
    with closing(Store.open(home.ledger, certified.log_key, home.last_checkpoint)) as log:
        log.append([statement(3)])

    after = asked.get("/api/ledger").json()["size"]

    assert (before, after) == (2, 3)


# -- a service -----------------------------------------------------------------------------------------------------


def test_the_service_that_is_named_is_read(home: Home, stand: Stage) -> None:
    asked = client(home, {"LEDGER_URL": stand.service(store(3))})

    summary, key, proof = (asked.get(f"/api/ledger{path}") for path in ("", "/key", "/proofs/2"))

    assert (summary.json()["origin"], summary.json()["size"]) == (KEY.name, 3)
    assert VerifierKey.parse(summary.json()["key"]) == KEY.verifier
    assert str(KEY.verifier) in key.text
    assert parse(proof.text).index == 2
    assert not home.known_logs.exists()


@pytest.mark.parametrize("path", PATHS)
def test_a_service_that_is_away_is_said_to_be(
    home: Home, stand: Stage, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    stand.service(store(1))
    monkeypatch.setattr("oneseek.ledger.client.PAUSES", (0.0, 0.0))

    answer = client(home, {"LEDGER_URL": "http://127.0.0.1:1"}).get(f"/api/ledger{path}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "LedgerUnavailable")


def test_a_slow_service_is_not_waited_for_and_keeps_a_few_threads_only(
    home: Home, stand: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, over = 0, threading.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1
        while not over.is_set():
            await asyncio.sleep(0.01)

    monkeypatch.setattr(ledger_routes, "PATIENCE", 0.1)
    monkeypatch.setattr("oneseek.ledger.client.PAUSES", ())
    asking = client(home, {"LEDGER_URL": stand.play(slow)})

    answers = [asking.get("/api/ledger/checkpoint") for _ in range(5)]
    met = asked
    over.set()

    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {(502, "LedgerUnavailable")}
    assert met == 4


# -- audited -----------------------------------------------------------------------------------------------------------


def test_an_audit_tells_what_was_compared_as_the_command_does(home: Home) -> None:
    told = client(home).get("/api/ledger/audit").json()

    printed = json.loads(said(home, "audit", "--json"))
    assert (told["ok"], told["size"], told["root"], told["problems"]) == (True, 2, printed["root"], [])
    assert told["checked"] == {
        "entries": printed["entries"],
        "checkpoints": printed["checkpoints"],
        "kept": printed["kept"],
        "elsewhere": [],
    }


def test_an_audit_names_what_was_changed_and_no_place_of_the_server(home: Home) -> None:
    proof = next((home.models / "oneseek-certified").glob("*/ledger_proof.json"))
    proof.write_text(proof.read_text().replace("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2"))

    answer = client(home).get("/api/ledger/audit")

    told = answer.json()
    assert (answer.status_code, told["ok"], told["checked"]) == (200, False, None)
    assert told["problems"][0]["problem"].startswith(proof.parent.name)
    assert str(home.root) not in answer.text


def test_an_audit_of_a_ledger_that_is_gone_says_so(home: Home) -> None:
    home.ledger.unlink()

    told = client(home).get("/api/ledger/audit").json()

    assert (told["ok"], len(told["problems"])) == (False, 1)


def test_an_audit_that_takes_too_long_is_not_waited_for(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_routes, "PATIENCE", 0.05)
    monkeypatch.setattr(ledger_routes, "_audited", lambda *asked: time.sleep(0.3))

    answer = client(home).get("/api/ledger/audit")

    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "LedgerUnavailable")
