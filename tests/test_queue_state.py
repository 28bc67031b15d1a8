"""The queue's order, against a list per device; and what it refuses."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oneseek.errors import RunError, RunUnknown
from oneseek.state.database import Database
from oneseek.state.queue import Entry, Queue
from support.state import Clock, database

DEVICES = ("cpu", "cuda:0")


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Database]:
    with closing(database(tmp_path / "oneseek.db")) as opened:
        yield opened


@pytest.fixture
def queue(kept: Database) -> Queue:
    return Queue(kept, Clock())


def waits(order: Order) -> bool:
    return any(order.lists.values())


def runs(order: Order) -> bool:
    return any(order.runs.values())


class Order(RuleBasedStateMachine):
    """Whatever is done, the queue says the same as a list of those that wait and a set of those that run."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.database = database(Path(self.directory.name, "oneseek.db"))
        self.queue = Queue(self.database, Clock())
        self.lists: dict[str, list[str]] = {device: [] for device in DEVICES}
        self.runs: dict[str, dict[str, tuple[int, float]]] = {device: {} for device in DEVICES}
        self.added = 0

    def one(self, data: st.DataObject, *lines: Mapping[str, Iterable[str]]) -> tuple[str, str]:
        """A run of any of these, and its device."""
        known = [(run_id, device) for line in lines for device in DEVICES for run_id in line[device]]
        return data.draw(st.sampled_from(known))

    @rule(device=st.sampled_from(DEVICES))
    def add(self, device: str) -> None:
        run_id, self.added = f"run-{self.added}", self.added + 1
        self.lists[device].append(run_id)

        entry = self.queue.add(run_id, device)

        assert (entry.run_id, entry.device, entry.position) == (run_id, device, len(self.lists[device]) - 1)

    @precondition(waits)
    @rule(data=st.data(), position=st.integers(-2, 5))
    def move(self, data: st.DataObject, position: int) -> None:
        run_id, device = self.one(data, self.lists)
        line = self.lists[device]
        line.remove(run_id)
        line.insert(min(max(position, 0), len(line)), run_id)

        assert self.queue.move(run_id, position).position == line.index(run_id)

    @precondition(waits)
    @rule(data=st.data(), pid=st.integers(1, 9), started=st.floats(1e9, 2e9))
    def begin(self, data: st.DataObject, pid: int, started: float) -> None:
        run_id, device = self.one(data, self.lists)
        self.lists[device].remove(run_id)
        self.runs[device][run_id] = (pid, started)

        self.queue.begun(run_id, pid, started)

    @precondition(runs)
    @rule(data=st.data())
    def move_one_that_runs(self, data: st.DataObject) -> None:
        run_id, _ = self.one(data, self.runs)

        with pytest.raises(RunError, match="waits no more"):
            self.queue.move(run_id, 0)

    @precondition(lambda self: waits(self) or runs(self))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        run_id, device = self.one(data, self.lists, self.runs)
        if self.runs[device].pop(run_id, None) is None:
            self.lists[device].remove(run_id)

        self.queue.remove(run_id)

    @precondition(lambda self: waits(self) or runs(self))
    @rule(data=st.data(), device=st.sampled_from(DEVICES))
    def add_one_that_is_there(self, data: st.DataObject, device: str) -> None:
        run_id, _ = self.one(data, self.lists, self.runs)

        with pytest.raises(RunError, match=f"{run_id} is in the queue already"):
            self.queue.add(run_id, device)

    @rule()
    def open_again(self) -> None:
        self.database.close()
        self.database = database(Path(self.directory.name, "oneseek.db"))
        self.queue = Queue(self.database, Clock())

    @invariant()
    def entries_are_those_of_the_lists(self) -> None:
        entries = self.queue.entries()

        assert [entry.device for entry in entries] == sorted(entry.device for entry in entries)
        for device in DEVICES:
            of_device = [entry for entry in entries if entry.device == device]
            busy, line = of_device[: len(self.runs[device])], of_device[len(self.runs[device]) :]
            assert {entry.run_id: (entry.pid, entry.started) for entry in busy} == self.runs[device]
            assert [entry.position for entry in busy] == [None] * len(busy)
            assert [entry.run_id for entry in line] == self.lists[device]
            assert [entry.position for entry in line] == list(range(len(line)))

    def teardown(self) -> None:
        self.database.close()
        self.directory.cleanup()


TestOrder = Order.TestCase
TestOrder.settings = settings(max_examples=25, stateful_step_count=25)


def test_an_entry_says_when_it_came_and_which_process_has_it(kept: Database) -> None:
    clock = Clock()
    queue = Queue(kept, clock)

    added = queue.add("run-1", "cpu")
    queue.begun("run-1", 4711, 1763713140.25)

    assert added == Entry("run-1", "cpu", 0, None, None, clock.time)
    assert queue.entries() == (Entry("run-1", "cpu", None, 4711, 1763713140.25, clock.time),)


def test_what_another_one_did_is_seen_at_once(kept: Database, queue: Queue, tmp_path: Path) -> None:
    with closing(Database.open(tmp_path / "oneseek.db")) as other:
        Queue(other).add("run-1", "cpu")

        assert [entry.run_id for entry in queue.entries()] == ["run-1"]


def test_what_is_not_in_the_queue_can_not_be_moved_or_begun(queue: Queue) -> None:
    with pytest.raises(RunUnknown, match="run-1 is not in the queue"):
        queue.move("run-1", 0)
    with pytest.raises(RunUnknown, match="run-1 is not in the queue"):
        queue.begun("run-1", 1, 1.0)


def test_what_is_not_in_the_queue_is_out_of_it_already(queue: Queue) -> None:
    queue.add("run-2", "cpu")

    queue.remove("run-1")

    assert [entry.run_id for entry in queue.entries()] == ["run-2"]


def test_a_run_that_is_out_of_it_can_come_in_again_at_the_end(queue: Queue) -> None:
    for run_id in ("run-1", "run-2"):
        queue.add(run_id, "cpu")
    queue.begun("run-1", 1, 1.0)
    queue.remove("run-1")

    assert queue.add("run-1", "cpu").position == 1
