"""What comes over the wire: the WebSocket and the server-sent events, at the application and at a real server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import IncompleteRead
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from fastapi.testclient import TestClient
from starlette.testclient import WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from oneseek import runs
from oneseek.events import AnyEvent, EpochStarted, RunFailed, RunFinished
from oneseek.journal.record import decode
from oneseek.server.live import Live, Pace
from oneseek.server.socket import LONGEST_SAID, MOST_SAID
from support.histories import accepted, committed, planned, progress
from support.runs import Town
from support.watched import RUN, Told, application, seqs, served

QUICK = Pace(poll=0.002, look=0.01)
STARTED = EpochStarted(epoch=1, learning_rates={"alfa": 1e-4, "beta": 1e-4})
FINISHED = RunFinished(champion="alfa", final_weights={"alfa": 1.0}, quarantined={}, reason="all_epochs")


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """A journal of three records."""
    return Told.begin(tmp_path, accepted(), planned(), STARTED)


@pytest.fixture
def complete(told: Told) -> Told:
    """A journal of five records, to which nothing comes any more."""
    told.append(committed(1, {"alfa": 1.0, "beta": 2.0}), FINISHED)
    return told


ENDING = Pace(poll=0.002, look=0.01, certificate=0.0)


@contextmanager
def watching(told: Told, query: str = "", pace: Pace = QUICK) -> Iterator[WebSocketTestSession]:
    client = TestClient(application(Live(told.find, pace)))
    with client.websocket_connect(f"/ws/training?runId={RUN}{query}") as session:
        yield session


def closed(session: WebSocketTestSession) -> tuple[int, str]:
    """Code and reason of the close, whatever comes before."""
    while True:
        try:
            session.receive_text()
        except WebSocketDisconnect as gone:
            return gone.code, gone.reason


def steps(count: int) -> list[AnyEvent]:
    return [progress("alfa", 1, step) for step in range(count)]


# -- the socket ----------------------------------------------------------------------------------------------------


def test_the_state_comes_first_then_one_object_a_message(told: Told) -> None:
    with watching(told) as session:
        first = session.receive_json()
        told.append(*steps(2))
        rest = [session.receive_json() for _ in range(2)]

    assert (first["type"], first["seq"], first["run_id"]) == ("initial_state", 3, RUN)
    assert [(each["type"], each["seq"]) for each in rest] == [("progress", 4), ("progress", 5)]


def test_with_after_every_later_event_comes_and_no_state(told: Told) -> None:
    with watching(told, "&after=1") as session:
        messages = [session.receive_json() for _ in range(3)]

    assert [each["type"] for each in messages] == ["run_planned", "epoch_start", "heartbeat"]


def test_in_batches_a_message_is_an_array_of_all_that_waits(told: Told) -> None:
    with watching(told, "&after=0&batch=1") as session:
        messages = session.receive_json()

    assert [each["type"] for each in messages] == ["run_accepted", "run_planned", "epoch_start"]


def test_in_the_form_of_the_journal_who_watches_can_check_the_chain(told: Told) -> None:
    with watching(told, "&form=journal") as session:
        lines = [session.receive_text() for _ in range(3)]

    assert len(decode("".join(f"{line}\n" for line in lines).encode()).records) == 3


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "after=1.5", "batch=2", "form=xml", "aftr=3"], ids=lambda query: str(query)
)
def test_a_wrong_query_is_refused_before_the_socket_opens(told: Told, query: str) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, watching(told, f"&{query}"):
        pass

    assert refused.value.status_code == 400
    assert query.split("=")[0] in refused.value.json()["error"]["message"]


@pytest.mark.parametrize("run_id", ["run-20250101-000000", "..", "x" * 5000], ids=["unknown", "dots", "long"])
def test_an_unknown_run_is_refused_before_the_socket_opens(told: Told, run_id: str) -> None:
    client = TestClient(application(Live(told.find)))

    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect(f"/ws/training?runId={run_id}"):
        pass

    assert refused.value.status_code == 404
    assert refused.value.json()["error"]["code"] == "RunUnknown"


def test_without_a_run_the_socket_is_refused(told: Told) -> None:
    client = TestClient(application(Live(told.find)))

    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/ws/training"):
        pass

    assert refused.value.status_code == 400
    assert "runId" in refused.value.json()["error"]["message"]


def test_a_place_behind_the_end_of_the_journal_is_refused_with_a_reason(told: Told) -> None:
    with watching(told, "&after=4") as session:
        code, reason = closed(session)

    assert (code, reason) == (1008, f"{RUN} has no record 4; its last is 3. Watch it without `after`.")


def test_when_nothing_more_can_come_the_socket_is_closed(complete: Told) -> None:
    with watching(complete, pace=ENDING) as session:
        first = session.receive_json()
        code, _ = closed(session)

    assert (first["type"], first["status"], code) == ("initial_state", "completed", 1000)


def test_who_watches_until_the_certificate_hears_of_it_before_the_close(town: Town) -> None:
    directory, state = town.train()
    client = TestClient(application(Live(lambda _: directory, QUICK)))

    with client.websocket_connect(f"/ws/training?runId={state.run_id}&after=0") as session:
        kinds: list[str] = []
        while not kinds or kinds[-1] != "training_complete":
            kinds.append(session.receive_json()["type"])
        before = session.receive_json()
        runs.certify(directory, town.home, {})
        after = session.receive_json()
        code, _ = closed(session)

    assert kinds[0] == "run_accepted"
    assert [(each["type"], each["status"]) for each in (before, after)] == [
        ("heartbeat", "completed"),
        ("heartbeat", "certified"),
    ]
    assert code == 1000


@pytest.mark.parametrize(("interval", "shown"), [(3600, 1), (1e-9, 4)], ids=["rarely", "always"])
def test_progress_is_thinned_as_the_run_was_told_to(town: Town, interval: float, shown: int) -> None:
    directory, state = town.train(
        "alfa-1b", training__num_epochs=1, training__batch_size=5, live_leaderboard__refresh_interval=interval
    )
    client = TestClient(application(Live(lambda _: directory, ENDING)))

    with client.websocket_connect(f"/ws/training?runId={state.run_id}&after=0&batch=1") as session:
        messages = session.receive_json()

    assert len([each for each in messages if each["type"] == "progress"]) == shown


def test_a_damaged_journal_closes_the_socket_and_says_where(told: Told) -> None:
    with watching(told) as session:
        session.receive_json()
        told.damage()
        now = closed(session)
    with watching(told) as session:
        later = closed(session)

    assert now == later
    assert now[0] == 1011
    assert now[1].startswith("Record 4 of the journal is damaged")


def test_a_reason_is_cut_to_what_a_frame_can_hold(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneseek.server.socket._ending", lambda _: (1011, "å" * 100))
    told.damage()

    with watching(told) as session:
        code, reason = closed(session)

    assert (code, reason) == (1011, "å" * 61)


def test_a_little_that_a_viewer_says_is_ignored(told: Told) -> None:
    with watching(told) as session:
        session.receive_json()
        for _ in range(MOST_SAID):
            session.send_text("hello")
        session.send_bytes(b"")
        code, reason = closed(session)

    assert (code, reason) == (1008, "Nothing is expected of viewers.")


@pytest.mark.parametrize("binary", [False, True], ids=["text", "bytes"])
def test_a_viewer_that_says_much_at_once_is_closed(told: Told, binary: bool) -> None:
    with watching(told) as session:
        said = "x" * (LONGEST_SAID + 1)
        session.send_bytes(said.encode()) if binary else session.send_text(said)
        code, _ = closed(session)

    assert code == 1009


def test_a_viewer_that_goes_is_not_told_any_more(told: Told) -> None:
    live = Live(told.find, QUICK)
    with TestClient(application(live)) as client:
        with client.websocket_connect(f"/ws/training?runId={RUN}") as session:
            session.receive_json()
            watched = live.viewers
        until(lambda: live.viewers == 0)

    assert watched == 1


# -- server-sent events --------------------------------------------------------------------------------------------


def answered(told: Told, query: str = "", headers: dict[str, str] | None = None) -> Any:
    """The whole answer; the run has to be over."""
    client = TestClient(application(Live(told.find, ENDING)))
    return client.get(f"/api/training/{RUN}/events{query}", headers=headers or {})


def parsed(text: str) -> list[dict[str, str]]:
    blocks = [block.splitlines() for block in text.split("\n\n") if block]
    return [dict(line.split(": ", 1) for line in block) for block in blocks]


def test_events_have_their_seq_type_and_object(complete: Told) -> None:
    answer = answered(complete, "?after=3")

    retry, *events = parsed(answer.text)
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert retry == {"retry": "2000"}
    assert [(each["id"], each["event"]) for each in events] == [
        ("4", "epoch_end"),
        ("5", "training_complete"),
        ("5", "heartbeat"),
    ]
    assert json.loads(events[0]["data"])["type"] == "epoch_end"


def test_events_without_a_place_begin_with_the_state(complete: Told) -> None:
    _, event = parsed(answered(complete).text)

    assert (event["id"], event["event"]) == ("5", "initial_state")


def test_who_comes_back_goes_on_behind_the_last_event_that_it_names(complete: Told) -> None:
    answer = answered(complete, "?after=0", {"Last-Event-ID": "4"})

    assert [each["id"] for each in parsed(answer.text)[1:]] == ["5", "5"]


def test_who_knows_everything_of_a_run_that_is_over_need_not_come_back(complete: Told) -> None:
    assert answered(complete, "", {"Last-Event-ID": "5"}).status_code == 204


def test_events_in_batches_are_one_array(complete: Told) -> None:
    _, batch, beat = parsed(answered(complete, "?after=0&batch=1").text)

    assert (batch["id"], batch["event"]) == ("5", "batch")
    assert seqs(json.loads(batch["data"])) == [1, 2, 3, 4, 5]
    assert [each["type"] for each in json.loads(beat["data"])] == ["heartbeat"]


def test_events_in_the_form_of_the_journal_are_its_lines(complete: Told) -> None:
    _, *records, beat = parsed(answered(complete, "?form=journal").text)

    assert [each["data"] for each in records] == complete.lines
    assert {each["event"] for each in records} == {"record"}
    assert beat["event"] == "heartbeat"


@pytest.mark.parametrize(
    ("query", "headers"),
    [("?after=-1", {}), ("?after=6", {}), ("?form=xml", {}), ("?aftr=1", {}), ("", {"Last-Event-ID": "x"})],
    ids=["negative", "behind the end", "form", "unknown", "header"],
)
def test_events_that_are_asked_for_wrongly_are_refused(complete: Told, query: str, headers: dict[str, str]) -> None:
    answer = answered(complete, query, headers)

    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


def test_events_of_an_unknown_run_and_of_a_damaged_one_are_refused(told: Told) -> None:
    client = TestClient(application(Live(told.find)))
    told.damage()

    assert client.get("/api/training/run-20250101-000000/events").status_code == 404
    assert client.get(f"/api/training/{RUN}/events").status_code == 409


# -- at a real server ----------------------------------------------------------------------------------------------


def until(true: Any, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def over_socket(address: str, query: str = "") -> ClientConnection:
    return connect(f"ws://{address}/ws/training?runId={RUN}{query}", compression=None, proxy=None)


def closing_code(viewer: ClientConnection) -> int | None:
    """Whatever comes before the close is read."""
    while True:
        try:
            viewer.recv(timeout=10)
        except ConnectionClosed as gone:
            return gone.rcvd.code if gone.rcvd else None


@contextmanager
def silent(address: str) -> Iterator[socket.socket]:
    """A viewer that opens the socket and never reads."""
    host, _, port = address.partition(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(
            f"GET /ws/training?runId={RUN} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n"
            "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        yield connection


def much(count: int) -> list[AnyEvent]:
    """Events that fill what systems hold for a connection."""
    return [RunFailed(problem="x" * 100_000) for _ in range(count)]


def test_a_stalled_viewer_is_cut_off_and_nobody_else_notices(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneseek.server.listening.FAREWELL", 0.1)
    monkeypatch.setattr("oneseek.server.socket._LAST_WORD", 0.1)
    live = Live(told.find, Pace(poll=0.002, look=0.02, patience=0.3))
    with served(live) as (address, server), over_socket(address) as reading, silent(address) as stalled:
        until(lambda: live.viewers == 2)
        told.append(*much(100))
        found = [json.loads(reading.recv(timeout=10)) for _ in range(102)]
        until(lambda: live.viewers == 1)
        until(lambda: len(server.server_state.connections) == 1)
        told.append(*steps(1))
        found.append(json.loads(reading.recv(timeout=10)))
        stalled.settimeout(10)
        with suppress(ConnectionResetError):
            while stalled.recv(1 << 20):
                pass

    assert seqs(each for each in found if each["type"] != "heartbeat") == list(range(3, 105))


def test_a_slow_viewer_that_reads_at_last_is_told_to_come_back(told: Told) -> None:
    live = Live(told.find, Pace(poll=0.002, look=0.02, patience=0.2))
    with served(live) as (address, _), over_socket(address) as viewer:
        until(lambda: live.viewers == 1)
        told.append(*much(200))
        time.sleep(0.7)
        code = closing_code(viewer)

    assert code == 1013


def test_slow_events_are_broken_off(told: Told) -> None:
    live = Live(told.find, Pace(poll=0.002, look=0.02, patience=0.2))
    with served(live) as (address, _), urlopen(f"http://{address}/api/training/{RUN}/events", timeout=10) as events:
        until(lambda: live.viewers == 1)
        told.append(*much(200))
        until(lambda: live.viewers == 0)

        with pytest.raises(IncompleteRead):
            events.read()


def test_a_journal_that_is_damaged_meanwhile_is_an_event(told: Told) -> None:
    with (
        served(Live(told.find, QUICK)) as (address, _),
        urlopen(f"http://{address}/api/training/{RUN}/events", timeout=10) as events,
    ):
        events.read1()
        told.damage()
        error = parsed(events.read().decode())[-1]

    assert error["event"] == "error"
    assert json.loads(error["data"])["error"]["code"] == "JournalDamaged"


def test_when_the_server_ends_sockets_are_closed_with_1012_and_events_end(told: Told) -> None:
    live = Live(told.find, QUICK)
    with served(live) as (address, server), over_socket(address) as viewer:
        viewer.recv(timeout=10)
        with urlopen(f"http://{address}/api/training/{RUN}/events", timeout=10) as events:
            until(lambda: live.viewers == 2)
            server.should_exit = True
            code = closing_code(viewer)
            last = parsed(events.read().decode())[-1]

    assert code == 1012
    assert last["event"] in ("initial_state", "heartbeat")
