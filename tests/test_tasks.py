"""Tasks: a few at a time, told of, cancelled, forgotten; and what is told of them over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from oneseek.errors import ModelError
from oneseek.server import bodies, errors, tasks
from oneseek.server.errors import Refusal
from oneseek.server.tasks import MOST_WAITING, CancelledError, Progress, Task, Tasks, Tell


class Gate:
    """Functions that go on when they are let, and tell that they began."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, tell: Tell) -> str:
        self.began.release()
        while not self.open.wait(0.005):
            tell(None)
        return "through"

    def wait(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.began.acquire(timeout=10)


@pytest.fixture
def gate() -> Iterator[Gate]:
    found = Gate()
    yield found
    found.open.set()


@pytest.fixture
def some() -> Iterator[Tasks]:
    found = Tasks(at_once=2)
    yield found
    found.close()


@pytest.fixture
def client(some: Tasks) -> TestClient:
    app = FastAPI(responses=bodies.EVERYWHERE)
    app.include_router(tasks.routes(some))
    errors.install(app)
    bodies.describe(app)
    return TestClient(app, raise_server_exceptions=False)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ended(some: Tasks, task: Task) -> Task:
    until(lambda: some.get(task.id).over)
    return some.get(task.id)


def test_a_task_tells_how_far_it_is_and_then_its_result(some: Tasks, gate: Gate) -> None:
    def function(tell: Tell) -> str:
        tell(Progress(done=1, total=4, bytes_per_second=2.0, seconds_left=1.5))
        return gate(tell)

    begun = some.start("pull", {"model": "a/b"}, function, "It is large.")
    gate.wait()
    running = some.get(begun.id)
    gate.open.set()
    done = ended(some, begun)

    assert (running.status, running.progress) == (
        "running", Progress(done=1, total=4, bytes_per_second=2.0, seconds_left=1.5),
    )  # fmt: skip
    assert (done.kind, done.about, done.warning) == ("pull", {"model": "a/b"}, "It is large.")
    assert (done.status, done.result, done.error) == ("done", "through", None)
    assert done.ended_at is not None
    assert begun.created_at <= done.ended_at


def test_no_more_than_so_many_run_at_once_and_the_others_wait_in_order(some: Tasks, gate: Gate) -> None:
    order: list[int] = []

    def numbered(number: int) -> Callable[[Tell], str]:
        def function(tell: Tell) -> str:
            order.append(number)
            return gate(tell)

        return function

    started = [some.start("pull", {"model": str(number)}, numbered(number)) for number in range(5)]
    gate.wait(2)
    statuses = [task.status for task in some.list()]
    gate.open.set()
    ends = [ended(some, task).status for task in started]

    assert statuses == ["waiting", "waiting", "waiting", "running", "running"]
    assert sorted(order[:2]) == [0, 1]
    assert order[2] == 2
    assert ends == ["done"] * 5


def test_what_is_asked_for_twice_is_one_task_as_long_as_it_is_not_over(some: Tasks, gate: Gate) -> None:
    first = some.start("pull", {"model": "a/b"}, gate)
    gate.wait()

    again = some.start("pull", {"model": "a/b"}, gate)
    other = some.start("convert", {"model": "a/b"}, gate)
    gate.open.set()
    ended(some, first)
    later = some.start("pull", {"model": "a/b"}, gate)

    assert again.id == first.id
    assert len({first.id, other.id, later.id}) == 3


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModelError("It is broken.", "Mend it."), ("ModelError", "It is broken.", "Mend it.")),
        (ZeroDivisionError("/secret/path"), ("InternalServerError", "The server failed.", "See the server's own log.")),
    ],
    ids=["ours", "unforeseen"],
)
def test_what_fails_says_so_in_the_form_of_every_error(
    some: Tasks, caplog: pytest.LogCaptureFixture, error: Exception, told: tuple[str, str, str]
) -> None:
    def function(_: Tell) -> None:
        raise error

    task = ended(some, some.start("pull", {}, function))

    assert task.status == "failed"
    assert task.error is not None
    assert (task.error.code, task.error.message, task.error.fix) == told
    assert bool(caplog.records) == (told[0] == "InternalServerError")


def test_a_running_task_that_is_cancelled_ends_when_it_tells_how_far_it_is(some: Tasks, gate: Gate) -> None:
    task = some.start("pull", {}, gate)
    gate.wait()

    some.cancel(task.id)

    assert ended(some, task).status == "cancelled"


def test_a_waiting_task_that_is_cancelled_never_begins(some: Tasks, gate: Gate) -> None:
    running = [some.start("pull", {"model": str(number)}, gate) for number in range(2)]
    gate.wait(2)
    waiting = some.start("pull", {"model": "last"}, lambda _: pytest.fail("it began"))

    cancelled = some.cancel(waiting.id)
    gate.open.set()

    assert cancelled.status == "cancelled"
    assert cancelled.ended_at
    assert [ended(some, task).status for task in (*running, waiting)] == ["done", "done", "cancelled"]


def test_what_is_being_cancelled_can_be_asked_for_again(some: Tasks, gate: Gate) -> None:
    held = threading.Event()

    def stubborn(tell: Tell) -> None:
        gate.began.release()
        held.wait(10)
        tell(None)

    first = some.start("pull", {"model": "a/b"}, stubborn)
    gate.wait()
    some.cancel(first.id)

    again = some.start("pull", {"model": "a/b"}, gate)
    held.set()
    gate.open.set()

    assert again.id != first.id
    assert ended(some, first).status == "cancelled"
    assert ended(some, again).status == "done"


def test_a_task_that_is_over_stays_as_it_is_when_it_is_cancelled(some: Tasks) -> None:
    task = ended(some, some.start("pull", {}, lambda _: 7))

    assert some.cancel(task.id) == task
    assert some.get(task.id) == task


def test_closing_cancels_what_runs_and_waits_and_does_not_wait_for_the_stubborn_for_long(gate: Gate) -> None:
    some, held = Tasks(at_once=2), threading.Event()
    kinds = [some.start("pull", {"model": str(number)}, gate) for number in range(3)]
    gate.wait(2)

    before = time.monotonic()
    some.close(patience=60)
    statuses = [some.get(task.id).status for task in kinds]
    some.start("pull", {"model": "stubborn"}, lambda _: held.wait(60))
    some.close(patience=0.1)
    took = time.monotonic() - before
    held.set()

    assert statuses == ["cancelled"] * 3
    assert took < 30


def test_what_ended_an_hour_ago_is_forgotten() -> None:
    now = [0.0]
    some = Tasks(clock=lambda: now[0])
    old = ended(some, some.start("pull", {}, lambda _: None))

    now[0] = 3599.0
    still = some.list()
    now[0] = 3601.0
    later = some.list()

    assert (still, later) == ([old], [])
    with pytest.raises(Refusal) as caught:
        some.get(old.id)
    assert caught.value.status_code == 404


def test_of_many_that_ended_the_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    some = Tasks(clock=lambda: now[0])
    monkeypatch.setattr(tasks, "_MOST_KEPT", 3)

    for number in range(5):
        now[0] += 1
        ended(some, some.start("pull", {"model": str(number)}, lambda _: None))

    assert [task.about["model"] for task in some.list()] == ["4", "3", "2"]


def test_too_many_that_wait_are_refused(some: Tasks, gate: Gate) -> None:
    for number in range(2):
        some.start("pull", {"model": f"running {number}"}, gate)
    gate.wait(2)
    for number in range(MOST_WAITING):
        some.start("pull", {"model": str(number)}, gate)

    with pytest.raises(Refusal) as caught:
        some.start("pull", {"model": "one more"}, gate)

    assert caught.value.status_code == 429
    assert caught.value.headers == {"Retry-After": "60"}
    for task in some.list():
        some.cancel(task.id)


# -- over HTTP -----------------------------------------------------------------------------------------------------


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """What an event source reads."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields["event"], msgspec.json.decode(fields["data"])))
    return found


def test_tasks_are_listed_newest_first_shown_and_cancelled(client: TestClient, some: Tasks, gate: Gate) -> None:
    first = some.start("pull", {"model": "a/b"}, gate)
    second = some.start("pull", {"model": "c/d"}, gate)
    gate.wait(2)

    listed = client.get("/api/tasks").json()["tasks"]
    shown = client.get(f"/api/tasks/{first.id}").json()
    cancelled = client.delete(f"/api/tasks/{first.id}")

    assert [task["id"] for task in listed] == [second.id, first.id]
    assert (shown["status"], shown["about"]) == ("running", {"model": "a/b"})
    assert cancelled.status_code == 202
    assert ended(some, first).status == "cancelled"
    assert client.get(f"/api/tasks/{first.id}").json()["status"] == "cancelled"


@pytest.mark.parametrize("how", ["done", "failed", "cancelled"])
def test_who_follows_a_task_gets_progress_and_at_last_how_it_ended(
    client: TestClient, some: Tasks, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_LOOK", 0.005)
    looks = iter(range(3))

    def function(tell: Tell) -> str:
        for done in looks:
            tell(Progress(done=done, total=3))
            time.sleep(0.05)
        if how == "failed":
            raise ModelError("It is broken.", "Mend it.")
        if how == "cancelled":
            raise CancelledError
        return "result"

    task = some.start("pull", {"model": "a/b"}, function)
    answer = client.get(f"/api/tasks/{task.id}/events")

    told = events(answer.text)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert [kind for kind, _ in told] == ["progress"] * (len(told) - 1) + [how]
    assert len(told) >= 3
    assert told[-1][1] == client.get(f"/api/tasks/{task.id}").json()


def test_who_follows_a_task_hears_now_and_then_that_nothing_happens(
    client: TestClient, some: Tasks, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "_LOOK", 0.01)
    monkeypatch.setattr(tasks, "_HEARTBEAT", 0.05)
    task = some.start("pull", {"model": "a/b"}, gate)
    gate.wait()
    threading.Timer(0.5, gate.open.set).start()

    told = events(client.get(f"/api/tasks/{task.id}/events").text)

    assert 3 <= len(told) <= 12
    assert told[0] == told[1]


@pytest.mark.parametrize("method_and_end", ["GET ", "GET /events", "DELETE "])
@pytest.mark.parametrize("id_", ["none", "..%2f..%2fetc%2fpasswd", "a%00b", "%ff", "task-" + "0" * 16, "x" * 3000])
def test_a_task_that_is_not_there_is_not_found(client: TestClient, method_and_end: str, id_: str) -> None:
    method, _, end = method_and_end.partition(" ")

    answer = client.request(method, f"/api/tasks/{id_}{end}")

    assert answer.status_code in (404, 405)
