"""The queue over HTTP: who waits for what, sooner or later, or no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from oneseek.events import RunStopped
from support.runs import Town, events
from support.supervised import Desk, desk


@pytest.fixture
def at(town: Town) -> Iterator[Desk]:
    with desk(town, {}, ("cuda:0", "cuda:1")) as opened:
        yield opened


def order(at: Desk, device: str) -> list[str]:
    """The runs that wait for a device."""
    told = at.client.get("/api/queue").json()
    return [place["run_id"] for place in told["queue"] if place["device"] == device]


def test_runs_wait_in_the_order_in_which_they_came_each_for_its_device(at: Desk) -> None:
    first, other, second = (at.start(device=f"cuda:{number}") for number in (0, 1, 0))

    told = at.client.get("/api/queue").json()

    assert told["devices"] == ["cuda:0", "cuda:1"]
    assert [(place["run_id"], place["position"], place["status"]) for place in told["queue"]] == [
        (first, 0, "queued"),
        (second, 1, "queued"),
        (other, 0, "queued"),
    ]


def test_a_run_that_names_no_device_waits_where_the_fewest_do(at: Desk) -> None:
    at.start(device="cuda:0")

    run = at.start()

    assert order(at, "cuda:1") == [run]


def test_a_run_can_come_sooner_or_later(at: Desk) -> None:
    runs = [at.start(device="cuda:0") for _ in range(3)]

    sooner = at.client.patch(f"/api/queue/{runs[2]}", json={"position": 0})
    later = at.client.patch(f"/api/queue/{runs[0]}", json={"position": 99})

    assert (sooner.status_code, sooner.json()["position"]) == (200, 0)
    assert (later.status_code, later.json()["position"]) == (200, 2)
    assert order(at, "cuda:0") == [runs[2], runs[1], runs[0]]


def test_a_run_can_leave_the_queue_and_is_stopped_then(at: Desk) -> None:
    gone, stays = (at.start(device="cuda:0") for _ in range(2))

    answer = at.client.delete(f"/api/queue/{gone}")

    assert (answer.status_code, answer.content) == (204, b"")
    assert order(at, "cuda:0") == [stays]
    assert events(at.runs.find(gone))[-1] == RunStopped()
    assert at.client.delete(f"/api/queue/{gone}").status_code == 404


def test_a_run_that_waits_for_nothing_has_no_place(at: Desk) -> None:
    directory, _ = at.town.train(training__num_epochs=1)

    assert at.client.patch(f"/api/queue/{directory.run_id}", json={"position": 0}).status_code == 404
    assert at.client.delete(f"/api/queue/{directory.run_id}").status_code == 404


@pytest.mark.parametrize(
    "body", [{}, {"position": -1}, {"position": "0"}, {"position": 10**30}, {"position": 0, "device": "cpu"}], ids=str
)
def test_what_is_no_place_is_refused_and_moves_nobody(at: Desk, body: dict[str, Any]) -> None:
    runs = [at.start(device="cuda:0") for _ in range(2)]

    assert at.client.patch(f"/api/queue/{runs[1]}", json=body).status_code == 400
    assert order(at, "cuda:0") == runs
