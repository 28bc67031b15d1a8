"""The client of a server: what it sends, whom it believes, and how it comes back."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from oneseek import client as module
from oneseek import runs
from oneseek.client import Client, address, settings
from oneseek.config.sources import resolve
from oneseek.errors import (
    AccessRefused,
    ConfigError,
    JournalDamaged,
    RunUnknown,
    ServerUnavailable,
)
from oneseek.events import RunFinished, StopRequested
from oneseek.journal.file import read
from oneseek.journal.record import Record
from oneseek.preflight.finding import PreflightError
from oneseek.server.live import Live, Pace
from support.ledger_service import allow_loopback
from support.remote import Remote, answering, remote
from support.runs import Town
from support.watched import application

TOKEN = "osk_planted-token-0123456789"
RUN = "run-20251122-143025"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.01))


class Standing:
    """Answers whatever it is asked with the next of its answers, and keeps what it was asked."""

    def __init__(self, *answers: tuple[int, bytes, dict[str, str]]) -> None:
        self.answers = list(answers)
        self.asked: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope)
        status, body, headers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        coded = [(name.encode(), value.encode()) for name, value in headers.items()]
        start = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
        await send({"type": f"{start}.start", "status": status, "headers": coded})
        await send({"type": f"{start}.body", "body": body})


@contextmanager
def standing(*answers: tuple[int, bytes, dict[str, str]]) -> Iterator[tuple[str, Standing]]:
    allow_loopback()
    app = Standing(*answers)
    with socket.create_server(("127.0.0.1", 0)) as listener, answering(app, listener, with_lifespan=False) as url:
        yield url, app


# -- whom it asks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("http://127.0.0.1:3001/", "http://127.0.0.1:3001"),
        ("http://localhost:3001", "http://localhost:3001"),
        ("http://[::1]:3001", "http://[::1]:3001"),
        ("https://OneSeek.example.org", "https://oneseek.example.org"),
    ],
)
def test_an_address_is_taken_without_its_slash(url: str, taken: str) -> None:
    assert address(url) == taken


@pytest.mark.parametrize(
    "url",
    [
        "",
        "oneseek.example.org",
        "ftp://127.0.0.1",
        "https://me:planted@oneseek.example.org",
        "https://oneseek.example.org/planted",
        "https://oneseek.example.org?planted",
        "https://one seek",
        "http://[::1",
        "http://127.0.0.1:0",
        "http://10.0.0.1:3001",
        "http://localhost.example.org",
    ],
)
def test_what_is_no_address_or_would_show_the_token_on_the_way_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        address(url)

    assert "planted" not in str(refused.value)


def test_the_token_goes_into_a_header_and_nowhere_else_and_never_where_a_redirect_points() -> None:
    with standing((200, b'{"runs":[]}', {})) as (elsewhere, other):
        led = {"Location": f"{elsewhere}/ws/training"}
        with standing((307, b"", led)) as (url, app), Client(url, TOKEN) as client:
            with pytest.raises(ServerUnavailable, match="points to another address"):
                client.runs()
            with pytest.raises(ServerUnavailable, match="points to another address"):
                list(client.watch(RUN))

    assert other.asked == []
    assert [dict(scope["headers"])[b"authorization"].decode() for scope in app.asked] == [f"Bearer {TOKEN}"] * 2
    assert [scope["path"] for scope in app.asked if TOKEN in scope["path"] + scope["query_string"].decode()] == []


def test_a_token_that_no_header_can_carry_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="ONESEEK_TOKEN") as refused:
        Client("http://127.0.0.1:3001", "planted\n")

    assert "planted" not in str(refused.value)


def test_what_changes_nothing_is_asked_again_and_what_changes_something_is_not() -> None:
    with (
        standing((503, b"", {}), (502, b"", {}), (200, b'{"runs":[]}', {})) as (url, app),
        Client(url, TOKEN) as client,
    ):
        assert client.runs() == {"runs": []}
        assert len(app.asked) == 3
    with standing((503, b"", {})) as (url, app), Client(url, TOKEN) as client:
        with pytest.raises(ServerUnavailable):
            client.stop(RUN)
        assert len(app.asked) == 1


def test_a_token_that_a_server_sends_back_is_not_shown() -> None:
    said = json.dumps({"error": {"code": "RunUnknown", "message": f"{TOKEN} is no run.", "fix": TOKEN}}).encode()
    with standing((404, said, {})) as (url, _), Client(url, TOKEN) as client, pytest.raises(RunUnknown) as refused:
        client.run(RUN)

    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"\xff"], ids=["html", "list", "bytes"])
def test_another_program_at_the_address_is_no_oneseek(answer: bytes) -> None:
    with (
        standing((200, answer, {})) as (url, _),
        Client(url, TOKEN) as client,
        pytest.raises(ServerUnavailable, match="There is no OneSeek at"),
    ):
        client.runs()


def test_a_server_that_is_away_is_said_to_be_with_the_fix() -> None:
    allow_loopback()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}", TOKEN) as client:
        for ask in (client.runs, lambda: list(client.watch(RUN))):
            with pytest.raises(ServerUnavailable, match="can't be reached") as away:
                ask()
            assert "oneseek serve" in away.value.fix


# -- what it sends -----------------------------------------------------------------------------------------------------


def test_settings_that_were_given_are_sent_and_defaults_are_not(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("training: {num_epochs: 2}\nper_model: {alfa-1b: {lora: {r: 4}}}\n")
    flags = {"data.dataset": "rows.jsonl", "model.base_models": ["alfa-1b"]}

    sent = settings(resolve(file=file, environment={"ONESEEK_LORA__R": "16"}, flags=flags))

    assert sent == {
        "model": {"base_models": ["alfa-1b"]},
        "data": {"dataset": "rows.jsonl"},
        "training": {"num_epochs": 2},
        "lora": {"r": 16},
        "per_model": {"alfa-1b": {"lora": {"r": 4}}},
    }


@pytest.fixture
def there(town: Town) -> Iterator[Remote]:
    with remote(town) as found:
        yield found


def test_a_dataset_is_sent_once_whatever_it_is_called_and_under_another_name_where_its_own_is_taken(
    there: Remote, tmp_path: Path
) -> None:
    first, again, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "other" / "a.jsonl"
    first.write_text('{"text": "The mill."}\n')
    again.write_bytes(first.read_bytes())
    other.parent.mkdir()
    other.write_text('{"text": "The bridge."}\n')
    told: list[tuple[int, int]] = []

    with there.client() as client:
        kept = [client.keep(path, lambda *done: told.append(done)) for path in (first, again, other)]
        listed = client._ask("GET", "/api/datasets")["datasets"]

    assert kept[0] == kept[1] != kept[2]
    assert [(each["name"], each["sha256"]) for each in listed] == [
        (f"a-{kept[2][:8]}.jsonl", kept[2]),
        ("a.jsonl", kept[0]),
    ]
    assert told == [(first.stat().st_size,) * 2, (other.stat().st_size,) * 2]


def test_what_a_server_refuses_is_the_same_error_as_here(there: Remote, town: Town) -> None:
    flags = {"data.dataset": str(town.dataset), "model.base_models": ["nobody"], "training.num_epochs": 0}
    resolved = resolve(file=None, environment={}, flags=flags)

    with there.client() as client, Client(there.url, None) as stranger:
        with pytest.raises(PreflightError) as refused:
            client.train(resolved)
        with pytest.raises(RunUnknown):
            client.run(RUN)
        with pytest.raises(RunUnknown):
            list(client.watch(RUN))
        with pytest.raises(AccessRefused) as unknown:
            stranger.runs()
        with pytest.raises(AccessRefused):
            list(stranger.watch(RUN))
    here = runs.validate(resolved.config, town.home, problems=resolved.problems).findings
    found = [(each.rule, each.field, each.problem, each.fix) for each in refused.value.findings]
    assert found == [(each.rule, each.field, each.problem, each.fix) for each in here]
    assert {each.field for each in here} >= {"training.num_epochs", "model.base_models"}
    assert "ONESEEK_TOKEN" in unknown.value.fix


# -- how it watches ----------------------------------------------------------------------------------------------------


def test_a_server_that_is_started_anew_tells_every_record_once(town: Town) -> None:
    directory, _ = town.train("alfa-1b", training__num_epochs=1)
    whole = directory.journal.read_bytes().splitlines(keepends=True)
    directory.journal.write_bytes(b"".join(whole[:3]))
    got: list[Record] = []
    lost: list[str] = []
    heard = threading.Condition()

    def watch(url: str) -> None:
        with Client(url, TOKEN) as client:
            for told in client.watch(directory.run_id, lost.append):
                if isinstance(told, Record):
                    with heard:
                        got.append(told)
                        heard.notify()

    def wait_for(count: int) -> None:
        with heard:
            assert heard.wait_for(lambda: len(got) >= count, timeout=30)

    with serving(town) as (again, url):
        thread = threading.Thread(target=watch, args=[url], daemon=True)
        thread.start()
        wait_for(3)
        again()
        directory.journal.write_bytes(b"".join(whole[:5]))
        wait_for(5)
        again()
        directory.journal.write_bytes(b"".join(whole))
        thread.join(timeout=30)

    assert not thread.is_alive()
    assert got == list(read(directory.journal).records)
    assert len(lost) == 2


@contextmanager
def serving(town: Town) -> Iterator[tuple[Callable[[], None], str]]:
    """A server of the town's runs, and what ends it and begins another one at the same address."""
    allow_loopback()
    pace = Pace(poll=0.01, look=0.02, certificate=0.05)
    with ExitStack() as now:
        port = 0

        def begin() -> str:
            nonlocal port
            now.close()
            live = Live(lambda run_id: town.results.run(run_id), pace)
            listener = now.enter_context(socket.create_server(("127.0.0.1", port), reuse_port=False))
            port = listener.getsockname()[1]
            return now.enter_context(answering(application(live), listener, live.close))

        url = begin()
        yield lambda: (begin(), None)[1], url


def test_a_journal_that_is_not_one_is_found_out(town: Town) -> None:
    one, other = (town.train("alfa-1b", training__num_epochs=1)[0] for _ in range(2))
    told = [run.journal.read_bytes().splitlines()[at] for at, run in enumerate((one, other))]

    async def liar(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        for line in told:
            await send({"type": "websocket.send", "text": line.decode()})
        await receive()

    with lying(liar) as url, Client(url, TOKEN) as client, pytest.raises(JournalDamaged, match="does not follow"):
        list(client.watch(one.run_id))


@contextmanager
def lying(app: ASGIApp) -> Iterator[str]:
    allow_loopback()
    with socket.create_server(("127.0.0.1", 0)) as listener, answering(app, listener, with_lifespan=False) as url:
        yield url


def test_statuses_are_told_between_the_records(town: Town) -> None:
    directory, _ = town.train("alfa-1b", training__num_epochs=1)

    with serving(town) as (_, url), Client(url, TOKEN) as client:
        told: list[Any] = list(client.watch(directory.run_id))

    records = [each for each in told if isinstance(each, Record)]
    assert isinstance(records[-1].event, RunFinished)
    assert not any(isinstance(record.event, StopRequested) for record in records)
    assert [each for each in told if isinstance(each, str)] != []
    assert isinstance(told[-1], str)
