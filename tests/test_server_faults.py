"""What the server does when the disk, the home or the clock fails it: it says so, lives, and goes on when it can."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from oneseek.errors import AccessRefused, StorageError
from oneseek.journal.file import read as reading
from oneseek.runs.process import Process
from oneseek.runs.queue import Supervisor
from oneseek.runs.recorder import is_running as looking
from oneseek.state.access import Access
from oneseek.state.queue import Entry, Queue
from support.histories import accepted, planned, progress
from support.killed import RUN, Site, Watcher, nursery, site
from support.runs import Town
from support.server import PASSPHRASE, Served, served
from support.state import Clock, database
from support.watched import RUN as RUN_ID
from support.watched import Told

START = "/api/admin/training/start-dna-v2"


class Desk:
    """A server whose runs are only said to be started."""

    def __init__(self, server: Served) -> None:
        self.town, self.runs, self.began = server.town, server.runs, list[str]()
        self.asking = server.client
        self.asking.headers.update(server.token("admin"))

    def start(self) -> str:
        answer = self.asking.post(START, json=RUN)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["run_id"])

    def get(self, path: str) -> Any:
        answer = self.asking.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @property
    def queue(self) -> list[tuple[str, str]]:
        return [(place["run_id"], place["status"]) for place in self.get("/api/queue")["queue"]]


@pytest.fixture
def desk(town: Town, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    with served(town) as server:
        desk = Desk(server)
        monkeypatch.setattr(Supervisor, "_start", lambda _, entry: desk.began.append(entry.run_id))
        yield desk


# -- one run that can't be looked after --------------------------------------------------------------------------------


def loops(journal: Path, _: pytest.MonkeyPatch) -> None:
    journal.unlink()
    journal.symlink_to(journal.name)


def cannot_be_read(journal: Path, patch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> Any:
        if path == journal:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return reading(path)

    patch.setattr("oneseek.runs.queue.read", read)


def cannot_be_entered(journal: Path, patch: pytest.MonkeyPatch) -> None:
    def is_running(directory: Any) -> bool:
        if directory.journal == journal:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return looking(directory)

    patch.setattr("oneseek.runs.queue.is_running", is_running)


@pytest.mark.parametrize("broken", [loops, cannot_be_read, cannot_be_entered])
@pytest.mark.parametrize("known", [True, False], ids=["in the queue", "forgotten"])
def test_a_run_whose_files_fail_keeps_no_other_from_its_turn(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[Path, pytest.MonkeyPatch], None],
    known: bool,
) -> None:
    first, second = desk.start(), desk.start()
    if not known:
        desk.runs._queue.remove(first)
        desk.runs._last.clear()
    broken(desk.town.results.run(first).journal, monkeypatch)

    desk.runs.turn()
    desk.runs.dequeue(second)
    third = desk.start()
    desk.runs.turn()

    assert third in [run_id for run_id, _ in desk.queue]


def test_a_run_that_is_removed_while_its_process_lives_is_told_as_damaged(desk: Desk) -> None:
    run_id = desk.start()
    me = Process.this()
    desk.runs._queue.begun(run_id, me.pid, me.started)
    desk.town.results.run(run_id).root.rename(desk.town.root / "removed")

    desk.runs.turn()

    assert desk.queue == [(run_id, "damaged")]
    assert desk.get("/api/runs")["runs"] == []
    assert desk.asking.get("/metrics").status_code == 200


# -- the home ----------------------------------------------------------------------------------------------------------


def test_a_home_that_is_away_for_a_while_is_not_made_anew_and_keeps_its_queue(desk: Desk) -> None:
    first, second = desk.start(), desk.start()
    desk.runs.move(second, 0)
    away = desk.town.root.with_name("away")
    desk.town.root.rename(away)

    health = desk.asking.get("/healthz").status_code
    with pytest.raises(StorageError, match="home"):
        desk.runs.turn()

    assert health == 503
    assert not desk.town.root.exists()
    away.rename(desk.town.root)
    desk.runs.turn()
    assert desk.queue == [(second, "queued"), (first, "queued")]
    assert desk.began == [second]


# -- the disk ----------------------------------------------------------------------------------------------------------


def test_a_run_that_was_accepted_when_the_disk_was_full_waits_and_is_not_asked_for_twice(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Entry:
        raise StorageError("The database could not be used: it is full.", "Free some space.")

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "add", full)
        answer = desk.asking.post(START, json=RUN)
        with pytest.raises(StorageError):
            desk.runs.turn()
    desk.runs.turn()

    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    assert desk.queue == [(answer.json()["run_id"], "queued")]
    assert desk.began == [answer.json()["run_id"]]


NAMESPACE = ("unshare", "--map-root-user", "--mount")


@pytest.fixture
def small(town: Town) -> Iterator[tuple[Site, Path]]:
    """A server whose home is a disk of its own of 24 MB, and that home as it is seen from here."""
    tool = shutil.which("unshare")
    if tool is None or subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("disks can't be mounted here")
    town.script("alfa-1b", {"step_seconds": 0.3})
    with nursery(*NAMESPACE) as process, site(town, process) as found:
        mounted = 'cp -a "$0" "$0.was" && mount -t tmpfs -o size=24m none "$0" && cp -a "$0.was/." "$0"'
        entering = ["nsenter", f"--target={process.pid}", "--user", "--mount", "--preserve-credentials"]
        while Path(f"/proc/{process.pid}/ns/user").readlink() == Path("/proc/self/ns/user").readlink():
            time.sleep(0.01)
        subprocess.run([*entering, "sh", "-c", mounted, str(town.root)], check=True)
        yield found, Path(f"/proc/{process.pid}/root{town.root}")


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass


def test_on_a_full_disk_the_server_lives_says_so_and_goes_on_when_there_is_room(small: tuple[Site, Path]) -> None:
    server, home = small
    rows = b'{"text": "The mill is by the river."}\n' * 200
    server.start()
    trained = server.run(epochs=4)
    server.until(trained, "training")
    waiting = server.run(baseModels=["beta-1b"])
    fill(home / "filler")

    refused = [
        server.ask("POST", "/api/datasets?name=rows.jsonl", rows),
        server.ask("POST", "/api/admin/training/start-dna-v2", RUN),
        server.ask("POST", "/api/tokens", {"name": "a program", "scope": "read"}),
        server.ask("PATCH", f"/api/queue/{waiting}", {"position": 0}),
        server.ask("DELETE", f"/api/queue/{waiting}"),
    ]
    read = [server.ask("GET", path).status for path in ("/healthz", "/api/queue", "/api/runs", "/metrics")]
    server.until(trained, "failed")
    (home / "filler").unlink()
    left = [run["run_id"] for run in server.ask("GET", "/api/runs").json["runs"]]
    again = server.ask("POST", "/api/datasets?name=rows.jsonl", rows)
    server.emptied(30)
    resumed = server.ask("POST", f"/api/runs/{trained}/resume", {})

    statuses = [answer.status for answer in refused]
    assert statuses in ([507] * 5, [507, 400, 507, 507, 507])  # a start may be refused by what preflight finds
    assert all("space" in answer.body.decode() for answer in refused)
    assert read == [200] * 4
    assert left == [waiting, trained]
    assert (again.status, resumed.status) == (201, 202)
    for run_id in (waiting, trained):
        server.until(run_id, "certified")
    assert not any("unforeseen" in line for line in server.log.splitlines())


# -- the clock ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(tmp_path: Path, clock: Clock) -> Iterator[Access]:
    with closing(database(tmp_path / "oneseek.db")) as opened:
        yield Access(opened, clock)


def test_a_session_that_began_before_the_clock_was_set_back_still_ends_when_it_idles(
    access: Access, clock: Clock
) -> None:
    session = access.administer(access.new_link(), PASSPHRASE, "test")

    clock.go(days=-10)
    used = access.of_session(session)
    clock.go(hours=13)

    assert used is not None
    assert access.of_session(session) is None


def test_a_link_that_was_made_by_a_clock_far_ahead_is_not_good_until_then(access: Access, clock: Clock) -> None:
    link = access.new_link()

    clock.go(days=-10)

    with pytest.raises(AccessRefused, match="too old"):
        access.administer(link, PASSPHRASE, "test")
    assert access.administer(access.new_link(), PASSPHRASE, "test")


# -- those who watch ---------------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_of_fifty_thousand_records_none_is_lost_or_told_twice_when_the_server_is_killed_in_the_middle(
    town: Town,
) -> None:
    told = Told.begin(town.root, accepted("alfa"), planned("alfa"))
    told.append(*(progress("alfa", 1, step) for step in range(49_998)))
    with nursery() as process, site(town, process) as found:
        found.start()
        watchers = [
            Watcher(found, RUN_ID, "socket"),
            Watcher(found, RUN_ID, "events"),
            Watcher(found, RUN_ID, "socket", "journal"),
        ]
        for count in range(1, 4):
            while max(watcher.last for watcher in watchers) < count * 9_000:
                time.sleep(0.001)
            found.end()
            found.start()
        while min(watcher.last for watcher in watchers) < 50_000:
            time.sleep(0.05)
        for watcher in watchers:
            watcher.over = True
        found.end()
        for watcher in watchers:
            watcher.join(30)

    assert [watcher.seqs for watcher in watchers] == [list(range(1, 50_001))] * 3
    assert watchers[2].texts == told.lines
    assert all(watcher.came > 1 for watcher in watchers)
