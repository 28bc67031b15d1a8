"""The server is killed at any instant: runs go on, nothing is lost or done twice, and who watches misses nothing."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException

import pytest

from oneseek.events import RunFinished, RunResumed
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import read
from oneseek.runs.devices import DeviceLock
from support.killed import Site, Watcher, nursery, site
from support.runs import Town, events

rarely = partial(pytest.param, marks=pytest.mark.soak)


@contextmanager
def busy(town: Town) -> Iterator[None]:
    """As long as somebody trains at a terminal."""
    with DeviceLock(town.home, "cpu") as lock:
        assert lock.taken()
        yield


def finish(directory: RunDirectory) -> str:
    """When a run was trained to its end."""
    (at,) = [record.at for record in read(directory.journal).records if isinstance(record.event, RunFinished)]
    return at


@pytest.fixture(scope="module")
def servers() -> Iterator[subprocess.Popen[str]]:
    with nursery() as process:
        yield process


@pytest.fixture
def killed(town: Town, servers: subprocess.Popen[str]) -> Iterator[Site]:
    with site(town, servers) as found:
        yield found


def test_a_run_goes_on_and_who_watches_has_every_record_once_however_often_the_server_is_killed(killed: Site) -> None:
    town, dice = killed.town, random.Random(1)
    for name in ("alfa-1b", "beta-1b"):
        town.script(name, {"step_seconds": 0.1})
    killed.start()
    run_id = killed.run(baseModels=["alfa-1b", "beta-1b"], epochs=4)
    directory = town.results.run(run_id)
    watchers = [
        Watcher(killed, run_id, "socket"),
        Watcher(killed, run_id, "socket", "journal"),
        Watcher(killed, run_id, "events"),
        Watcher(killed, run_id, "events", "journal"),
    ]
    killed.until(run_id, "training")
    pids, ended = set(), []
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        time.sleep(dice.uniform(0.1, 0.7))
        pids |= {place["pid"] for place in killed.ask("GET", "/api/queue").json["queue"]}
        ended.append(killed.end(how))
        time.sleep(dice.uniform(0, 0.2))
        killed.start()
    known = killed.until(run_id, "certified")
    for watcher in watchers:
        watcher.join(60)

    assert ended == [-signal.SIGKILL, 0, -signal.SIGKILL, -signal.SIGKILL, 0]
    assert len(pids) == 1
    assert [type(event) for event in events(directory)].count(RunResumed) == 1
    lines = directory.journal.read_text().splitlines()
    assert [watcher.seqs for watcher in watchers] == [list(range(1, len(lines) + 1))] * 4
    assert watchers[1].texts == watchers[3].texts == lines
    assert watchers[0].kinds[-1] == watchers[2].kinds[-1] == "training_complete"
    assert all(watcher.came > 2 for watcher in watchers)
    assert known["verifiable"]
    assert killed.faults == []


@pytest.mark.soak
def test_a_storm_of_kills_costs_no_run_anything(killed: Site) -> None:
    dice = random.Random(time.time())
    killed.town.script("alfa-1b", {"step_seconds": 0.2})
    killed.start()
    runs = [killed.run(epochs=4) for _ in range(6)]
    watchers = [Watcher(killed, run_id, "socket") for run_id in runs]
    watchers += [Watcher(killed, run_id, "events") for run_id in runs]
    for _ in range(30):
        time.sleep(dice.uniform(0, 0.8))
        killed.end(dice.choice([signal.SIGKILL, signal.SIGTERM]))
        killed.start()
    for run_id in runs:
        killed.until(run_id, "certified", seconds=300)
    for watcher in watchers:
        watcher.join(90)

    for number, run_id in enumerate(runs):
        seen = [type(event) for event in events(killed.town.results.run(run_id))]
        assert (seen.count(RunResumed), seen.count(RunFinished)) == (1, 1)
        assert [watcher.seqs for watcher in watchers[number::6]] == [list(range(1, len(seen) + 1))] * 2
    finished = [finish(killed.town.results.run(run_id)) for run_id in runs]
    assert finished == sorted(finished)
    assert killed.faults == []


# -- at every step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trap",
    [
        rarely("before oneseek.runs.queue Recorder.record"),
        "after oneseek.runs.queue Recorder.record",
        rarely("before oneseek.state.queue Queue.add"),
        rarely("after oneseek.state.queue Queue.add"),
        "before oneseek.runs.queue seeing",
        rarely("before oneseek.state.queue Queue.begun"),
        rarely("after oneseek.state.queue Queue.begun"),
    ],
)
def test_a_run_that_was_queued_when_the_server_was_killed_is_trained_once(killed: Site, trap: str) -> None:
    killed.start(trap)
    with suppress(OSError, HTTPException):  # the answer may have been quicker
        killed.run()
    status = killed.ended()
    killed.start()
    if trap.startswith("before oneseek.runs.queue Recorder"):  # nobody was told of it: it is asked for again
        killed.run()
    waited = [run["run_id"] for run in killed.ask("GET", "/api/runs").json["runs"] if run["status"] != "interrupted"]

    assert status == -signal.SIGKILL
    assert len(waited) == 1
    killed.until(waited[0], "certified")
    seen = [type(event) for event in events(killed.town.results.run(waited[0]))]
    assert (seen.count(RunResumed), seen.count(RunFinished)) == (1, 1)
    killed.emptied()
    assert killed.faults == []


@pytest.mark.parametrize("when", [rarely("after-epoch"), "now"])
@pytest.mark.parametrize("at", [rarely("before"), "after"])
def test_a_run_that_was_asked_to_stop_when_the_server_was_killed_stops_and_goes_on(
    killed: Site, at: str, when: str
) -> None:
    killed.town.script("alfa-1b", {"step_seconds": 0.4})
    killed.start()
    run_id = killed.run(epochs=2)
    killed.until(run_id, "training")
    killed.end()
    killed.start(f"{at} oneseek.runs.stopping write_bytes")
    with suppress(OSError, HTTPException):
        killed.ask("POST", f"/api/runs/{run_id}/stop", {"when": when})
    status = killed.ended()
    killed.start()
    if at == "before":
        assert killed.ask("POST", f"/api/runs/{run_id}/stop", {"when": when}).status == 202

    assert status == -signal.SIGKILL
    killed.until(run_id, "stopped" if when == "after-epoch" else "interrupted")
    killed.emptied()
    assert killed.ask("POST", f"/api/runs/{run_id}/resume", {}).status == 202
    killed.until(run_id, "certified")
    assert killed.faults == []


@pytest.mark.parametrize("at", [rarely("before"), "after"])
def test_a_run_that_was_ended_when_the_server_was_killed_leaves_the_queue_to_others(killed: Site, at: str) -> None:
    killed.town.script("alfa-1b", {"step_seconds": 0.2})
    killed.start()
    first, second = killed.run(epochs=3), killed.run(baseModels=["beta-1b"], epochs=1)
    killed.until(first, "training")
    killed.end()
    killed.start(f"{at} psutil Process.terminate")
    with suppress(OSError, HTTPException):
        killed.ask("POST", f"/api/runs/{first}/stop", {"when": "kill"})
    status = killed.ended()
    killed.start()
    if at == "before":
        assert killed.ask("POST", f"/api/runs/{first}/stop", {"when": "kill"}).status == 202

    assert status == -signal.SIGKILL
    killed.until(first, "interrupted", "stopped")
    killed.until(second, "certified")
    killed.emptied()
    assert killed.faults == []


@pytest.mark.soak
@pytest.mark.parametrize("at", ["before", "after"])
def test_a_queue_that_was_changed_when_the_server_was_killed_has_each_run_once(killed: Site, at: str) -> None:
    killed.start()
    with busy(killed.town):
        runs = [killed.run(epochs=1) for _ in range(3)]
        killed.end()
        killed.start(f"{at} oneseek.state.queue Queue.move")
        with suppress(OSError, HTTPException):
            killed.ask("PATCH", f"/api/queue/{runs[2]}", {"position": 0})
        ended = [killed.ended()]
        killed.start(f"{at} oneseek.state.queue Queue.remove")
        with suppress(OSError, HTTPException):
            killed.ask("DELETE", f"/api/queue/{runs[1]}")
        ended.append(killed.ended())
        killed.start()
        places = killed.ask("GET", "/api/queue").json["queue"]

    moved = [runs[2], runs[0]] if at == "after" else [runs[0], runs[2]]
    assert ended == [-signal.SIGKILL] * 2
    assert [place["run_id"] for place in places if place["status"] == "queued"] == moved
    killed.emptied()
    assert [killed.until(run_id, "certified", "stopped")["status"] for run_id in runs] == [
        "certified", "stopped", "certified",
    ]  # fmt: skip
    finished = [finish(killed.town.results.run(run_id)) for run_id in moved]
    assert finished == sorted(finished)


@pytest.mark.parametrize("at", [rarely("before"), "after"])
def test_a_token_that_was_made_when_the_server_was_killed_is_there_or_is_not(killed: Site, at: str) -> None:
    killed.start(f"{at} oneseek.state.access Access.create_token")
    with suppress(OSError, HTTPException):
        killed.ask("POST", "/api/tokens", {"name": "a program", "scope": "read"})
    status = killed.ended()
    killed.start()
    names = [token["name"] for token in killed.ask("GET", "/api/tokens").json["tokens"]]

    assert status == -signal.SIGKILL
    assert names == (["a program", "test"] if at == "after" else ["test"])
    assert killed.ask("POST", "/api/tokens", {"name": "a program", "scope": "read"}).status == 201


@pytest.mark.parametrize(
    "trap",
    [
        rarely("before oneseek.server.uploads _put"),
        rarely("before oneseek.server.uploads _sync"),
        rarely("after oneseek.server.uploads _sync"),
        rarely("before oneseek.datasets.store _take_in"),
        "after oneseek.datasets.store _take_in",
        rarely("after oneseek.datasets.store write_json"),
    ],
)
def test_an_upload_that_a_kill_broke_off_leaves_nothing_and_is_taken_again(killed: Site, trap: str) -> None:
    rows = b"".join(b'{"text": "Row %d of the town."}\n' % number for number in range(50))
    killed.start(trap)
    with suppress(OSError, HTTPException):
        killed.ask("POST", "/api/datasets?name=town.jsonl", rows)
    status = killed.ended()
    killed.start()
    uploads = killed.town.home.uploads
    left = list(uploads.iterdir()) if uploads.exists() else []
    again = killed.ask("POST", "/api/datasets?name=town.jsonl", rows)
    listed = killed.ask("GET", "/api/datasets").json

    assert status == -signal.SIGKILL
    assert left == []
    assert again.status in (200, 201), again.body
    assert [each["name"] for each in listed["datasets"]] == ["town.jsonl"]
    assert listed["damaged"] == []
    assert killed.ask("GET", "/api/datasets/town.jsonl/content").body == rows


@pytest.mark.parametrize(
    "trap", [rarely("before oneseek.server.datasets _taken_in"), "before oneseek.datasets.store write_json"]
)
def test_a_conversion_that_a_kill_broke_off_leaves_nothing_and_can_be_done_again(killed: Site, trap: str) -> None:
    rows = b"".join(b'{"prompt": "Question %d?", "completion": "Answer."}\n' % number for number in range(50))
    asked = "/api/datasets/town.jsonl/convert", {"to": "messages", "name": "talk.jsonl"}
    killed.start()
    killed.ask("POST", "/api/datasets?name=town.jsonl", rows)
    killed.end()
    killed.start(trap)
    with suppress(OSError, HTTPException):
        killed.ask("POST", *asked)
    status = killed.ended()
    killed.start()
    uploads = killed.town.home.uploads
    left = list(uploads.iterdir()) if uploads.exists() else []
    again = killed.ask("POST", *asked)
    listed = killed.ask("GET", "/api/datasets").json

    assert status == -signal.SIGKILL
    assert left == []
    assert again.status in (200, 201), again.body
    assert [each["name"] for each in listed["datasets"]] == ["talk.jsonl", "town.jsonl"]
    assert listed["damaged"] == []


@pytest.mark.parametrize(
    "trap",
    [
        rarely("before oneseek.runs.certify seal"),
        rarely("after oneseek.runs.certify seal"),
        rarely("before oneseek.ledger.store Store.append"),
        "after oneseek.ledger.store Store.append",
        rarely("before oneseek.runs.certify write_bytes"),
        rarely("after oneseek.runs.certify write_bytes"),
    ],
)
def test_a_run_that_was_certified_when_the_server_was_killed_is_in_the_ledger_once(killed: Site, trap: str) -> None:
    directory, _ = killed.town.train("alfa-1b", training__num_epochs=1)
    certify = f"/api/runs/{directory.run_id}/certify"
    killed.start(trap)
    with suppress(OSError, HTTPException):
        killed.ask("POST", certify)
    status = killed.ended()
    killed.start()
    again = killed.ask("POST", certify)

    assert status == -signal.SIGKILL
    assert again.json["status"] == "certified"
    assert killed.ask("GET", "/api/ledger").json["size"] == 1
    assert killed.ask("GET", f"/api/runs/{directory.run_id}/verify").json["ok"]
