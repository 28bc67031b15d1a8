"""A server's queue: each run is trained by a process of its own, once, in order, whatever becomes of the server."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneseek import runs
from oneseek.config.sources import Resolved
from oneseek.errors import ConfigError, JournalDamaged, RunError, RunUnknown, StorageError
from oneseek.events import EpochCommitted, RunFailed, RunFinished, RunQueued, RunResumed, RunStopped
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import read
from oneseek.preflight.finding import PreflightError
from oneseek.runs import queue as module
from oneseek.runs.devices import DeviceLock
from oneseek.runs.process import Process
from oneseek.runs.queue import Place, Supervisor, _accept
from oneseek.runs.recorder import Recorder, nobody
from oneseek.state.queue import Entry, Queue
from support.histories import accepted
from support.runs import Town, events
from support.state import database
from support.supervised import end_training

HERE = Path(__file__).parent


@dataclass
class Server:
    """A supervisor over a town, and another one after a restart."""

    town: Town
    queue: Queue
    work: ThreadPoolExecutor
    devices: tuple[str, ...] = ("cpu",)
    started: list[Supervisor] = field(default_factory=list)

    def start(self) -> Supervisor:
        runs = Supervisor(
            self.town.home,
            self.queue,
            environment=os.environ,
            devices=self.devices,
            engine="scripted",
            work=self.work,
        )
        self.started.append(runs)
        return runs

    def asked(self, **settings: Any) -> Resolved:
        return Resolved(config=self.town.config("alfa-1b", **settings), origins={}, problems=())

    def waiting(self, number: int) -> str:
        """A run that waits for its turn, made in no time: nothing could train it."""
        run_id = f"run-20251122-{number:06}"
        directory = self.town.results.run(run_id)
        directory.root.mkdir(parents=True)
        event = msgspec.structs.replace(accepted("alfa-1b"), run_id=run_id)
        with Recorder.begin(directory, event, nobody) as run:
            run.record(RunQueued(device=self.devices[0]))
        return run_id


@pytest.fixture
def server(town: Town) -> Iterator[Server]:
    with closing(database(town.home.database)) as opened, ThreadPoolExecutor(2) as work:
        server = Server(town, Queue(opened), work)
        yield server
        for supervisor in server.started:
            end_training(supervisor)


def until(condition: Callable[[], object], supervisor: Supervisor, seconds: float = 60) -> None:
    """Let the supervisor look after everything until it is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        supervisor.turn()
        time.sleep(0.02)


@contextmanager
def held(town: Town) -> Iterator[None]:
    """Somebody trains on the device at a terminal."""
    with DeviceLock(town.home, "cpu") as lock:
        assert lock.taken()
        yield


def when(directory: RunDirectory, kind: type) -> list[str]:
    return [record.at for record in read(directory.journal).records if isinstance(record.event, kind)]


def last(directory: RunDirectory) -> object:
    return events(directory)[-1]


# -- trained -------------------------------------------------------------------------------------------------------


def test_runs_are_trained_one_after_the_other_in_the_order_of_the_queue(server: Server) -> None:
    supervisor = server.start()
    first, second, third = (supervisor.submit(server.asked(training__num_epochs=1)).run_id for _ in range(3))
    waiting = supervisor.places()
    moved = supervisor.move(third, 0)

    until(lambda: not supervisor.places(), supervisor)

    assert [(place.run_id, place.position, place.status) for place in waiting] == [
        (first, 0, "queued"), (second, 1, "queued"), (third, 2, "queued"),
    ]  # fmt: skip
    assert moved == Place(run_id=third, device="cpu", position=0, status="queued", pid=None)
    order = [supervisor.find(run_id) for run_id in (third, first, second)]
    assert [runs.describe(directory).status for directory in order] == ["certified"] * 3
    assert all(when(one, RunFinished) < when(other, RunResumed) for one, other in pairwise(order))
    assert all(len(when(directory, RunResumed)) == 1 for directory in order)
    assert "Champion: alfa-1b" in server.town.home.run_log(third).read_text()


def test_a_run_that_waited_has_the_dna_of_one_that_did_not_and_verifies(server: Server) -> None:
    supervisor = server.start()
    undisturbed, _ = server.town.train("alfa-1b", training__num_epochs=1)
    run_id = supervisor.submit(server.asked(training__num_epochs=1)).run_id

    until(lambda: not supervisor.places(), supervisor)

    waited = supervisor.find(run_id)
    assert RunQueued(device="cpu") in events(waited)
    hashes = [json.loads(directory.dna.read_text())["hashes"] for directory in (undisturbed, waited)]
    assert hashes[0] == hashes[1]
    assert runs.verify(run_id, server.town.home, environment={}).ok


def test_a_restarted_server_finds_its_run_again_and_stops_it_after_the_epoch(server: Server) -> None:
    server.town.script("alfa-1b", {"step_seconds": 0.1})
    before = server.start()
    run_id = before.submit(server.asked(training__num_epochs=9)).run_id
    directory = before.find(run_id)
    until(lambda: when(directory, EpochCommitted), before)
    (place,) = before.places()

    after = server.start()
    after.turn()
    found = after.places()
    after.stop(run_id, "after-epoch")
    until(lambda: not after.places(), after)

    assert (place.status, place.position, [each.pid for each in found]) == ("training", None, [place.pid])
    assert runs.describe(directory).status == "stopped"
    assert len(when(directory, RunResumed)) == 1


def test_a_server_that_could_not_note_a_process_starts_no_second_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("The disk is full.")

    server.town.script("alfa-1b", {"step_seconds": 0.1})  # it still trains when it is looked at
    before = server.start()
    run_id = before.submit(server.asked(training__num_epochs=1)).run_id
    with monkeypatch.context() as patch:
        patch.setattr(Queue, "begun", full)
        with pytest.raises(StorageError):
            before.turn()
    (child,) = before._children.values()

    after = server.start()
    after.turn()  # the process has not even imported anything
    at_once = server.queue.entries()
    until(lambda: server.queue.entries()[0].pid, after)
    noted = server.queue.entries()
    until(lambda: child.poll() is not None, after)
    after.turn()

    assert not after._children
    assert [(entry.run_id, entry.pid) for entry in at_once] == [(run_id, None)]
    assert [entry.pid for entry in noted] == [child.pid]
    assert runs.describe(after.find(run_id)).status == "certified"
    assert len(when(after.find(run_id), RunResumed)) == 1


def test_a_process_that_dies_at_once_leaves_the_run_to_be_resumed_and_says_why(server: Server) -> None:
    supervisor = server.start()
    run_id = supervisor.submit(server.asked(training__num_epochs=1)).run_id
    directory, rows = supervisor.find(run_id), server.town.dataset.read_bytes()
    server.town.dataset.write_bytes(rows + b"\n")

    until(lambda: not supervisor.places(), supervisor)
    failed = last(directory)
    status = runs.describe(directory).status
    server.town.dataset.write_bytes(rows)
    again = supervisor.resume(run_id)
    until(lambda: not supervisor.places(), supervisor)

    assert isinstance(failed, RunFailed)
    assert (status, "log" in failed.fix) == ("failed", True)
    assert "can't be resumed: the dataset" in server.town.home.run_log(run_id).read_text()
    assert (again.status, again.position) == ("queued", 0)
    assert runs.describe(directory).status == "certified"


def test_a_run_that_has_just_stopped_is_resumed_though_its_process_is_still_ending(server: Server) -> None:
    server.town.script("alfa-1b", {"step_seconds": 0.05})
    supervisor = server.start()
    run_id = supervisor.submit(server.asked(training__num_epochs=3)).run_id
    directory = supervisor.find(run_id)
    until(lambda: when(directory, EpochCommitted), supervisor)
    supervisor.stop(run_id, "after-epoch")
    while runs.describe(directory).status != "stopped":
        time.sleep(0.001)

    (ending,) = supervisor.places()
    again = supervisor.resume(run_id)
    left = [pid for pid in (ending.pid,) if pid and psutil.pid_exists(pid)]
    until(lambda: not supervisor.places(), supervisor)

    assert (ending.pid is None, left) == (False, [])
    assert (again.status, again.position) == ("queued", 0)
    assert runs.describe(directory).status == "certified"


def test_a_process_that_heeds_nothing_is_killed_with_all_that_it_started(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    server.town.script("alfa-1b", {"step_seconds": 0.2})
    supervisor = server.start()
    run_id = supervisor.submit(server.asked(training__num_epochs=9, execution__executor="local")).run_id
    directory = supervisor.find(run_id)
    until(lambda: when(directory, EpochCommitted), supervisor)
    process = psutil.Process(supervisor.places()[0].pid)
    workers = process.children(recursive=True)
    process.suspend()

    began = time.monotonic()
    supervisor.stop(run_id, "kill")
    told = time.monotonic() - began
    until(lambda: not supervisor.places(), supervisor)

    assert told < 0.2
    assert workers
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert (runs.describe(directory).status, runs.is_running(directory)) == ("interrupted", False)
    assert supervisor.resume(run_id).status == "queued"


def test_a_polite_kill_is_recorded(server: Server) -> None:
    server.town.script("alfa-1b", {"step_seconds": 0.2})
    supervisor = server.start()
    run_id = supervisor.submit(server.asked(training__num_epochs=9)).run_id
    directory = supervisor.find(run_id)
    until(lambda: runs.describe(directory).status == "training", supervisor)

    supervisor.stop(run_id, "kill")
    until(lambda: not supervisor.places(), supervisor)

    assert type(last(directory)).__name__ == "RunInterrupted"


def test_a_process_that_has_not_yet_taken_its_run_is_stopped_too(server: Server) -> None:
    supervisor = server.start()
    run_id = supervisor.submit(server.asked(training__num_epochs=1)).run_id
    supervisor.turn()

    supervisor.stop(run_id, "after-epoch")
    until(lambda: not supervisor.places(), supervisor)

    assert runs.describe(supervisor.find(run_id)).status in ("stopped", "interrupted")
    assert not when(supervisor.find(run_id), RunFinished)


# -- waiting -------------------------------------------------------------------------------------------------------


def test_a_run_that_waits_is_stopped_by_leaving_the_queue_and_can_wait_again(server: Server) -> None:
    supervisor = server.start()
    run_id = supervisor.submit(server.asked()).run_id
    directory = supervisor.find(run_id)

    supervisor.stop(run_id, "now")
    stopped = last(directory), supervisor.places()
    again = supervisor.resume(run_id)
    supervisor.dequeue(run_id)

    assert stopped == (RunStopped(), ())
    assert again == Place(run_id=run_id, device="cpu", position=0, status="queued", pid=None)
    assert [type(event) for event in events(directory)][1:] == [RunQueued, RunStopped, RunQueued, RunStopped]
    with pytest.raises(RunUnknown, match="not in the queue"):
        supervisor.dequeue(run_id)


def test_a_run_that_waits_may_be_taken_up_at_a_terminal(server: Server) -> None:
    supervisor = server.start()
    run_id = supervisor.submit(server.asked(training__num_epochs=1)).run_id

    with runs.resume(supervisor.find(run_id)) as run:
        supervisor.turn()
        during, active = supervisor.places(), [known.run_id for known in supervisor.active()]
        with pytest.raises(RunError, match="running already"):
            supervisor.resume(run_id)
        runs.train(run)
    supervisor.turn()

    assert (during, active) == ((), [run_id])
    assert not supervisor._children
    assert supervisor.active() == []


def test_a_run_that_was_taken_up_at_a_terminal_while_nobody_looked_is_not_trained_again(server: Server) -> None:
    supervisor = server.start()
    run_id = supervisor.submit(server.asked(training__num_epochs=1)).run_id
    server.town.resume(supervisor.find(run_id))

    supervisor.turn()

    assert supervisor.places() == ()
    assert not supervisor._children


def test_a_device_that_somebody_has_at_a_terminal_is_waited_for(server: Server) -> None:
    supervisor = server.start()
    supervisor.submit(server.asked(training__num_epochs=1))

    with held(server.town):
        supervisor.turn()

        assert supervisor.places()[0].position == 0
    supervisor.turn()
    assert supervisor.places()[0].position is None


def test_a_run_that_was_queued_and_forgotten_joins_the_queue_at_its_end(server: Server) -> None:
    supervisor = server.start()
    first = server.waiting(1)
    supervisor._enqueue(supervisor.find(first), "cpu")
    server.waiting(3)
    server.waiting(2)
    with held(server.town):
        supervisor.turn()

    assert [place.run_id[-1] for place in supervisor.places()] == ["1", "2", "3"]


def test_runs_of_a_device_that_is_no_more_wait_for_another(server: Server) -> None:
    server.devices = ("cuda:0", "cpu")
    before = server.start()
    run_id = server.waiting(1)
    before._enqueue(before.find(run_id), "cuda:0")
    server.devices = ("cpu",)
    after = server.start()

    with held(server.town):
        after.turn()

    assert [(place.run_id, place.device) for place in after.places()] == [(run_id, "cpu")]


def test_a_run_waits_for_the_device_with_the_shortest_queue_unless_it_names_one(server: Server) -> None:
    server.devices = ("cuda:0", "cuda:1")
    supervisor = server.start()

    where = [supervisor.submit(server.asked(), device).device for device in ("cuda:0", "cuda:0", None, None, None)]

    assert where == ["cuda:0", "cuda:0", "cuda:1", "cuda:1", "cuda:0"]
    with pytest.raises(ConfigError, match=r"'cuda:7'.*cuda:0, cuda:1"):
        supervisor.submit(server.asked(), "cuda:7")


def test_a_run_that_a_killed_server_has_only_just_started_does_not_leave_the_queue(server: Server) -> None:
    supervisor, run_id = server.start(), server.waiting(1)
    supervisor._enqueue(supervisor.find(run_id), "cpu")
    path = server.town.home.run_log(run_id)
    path.parent.mkdir()

    with path.open("ab") as log:
        assert module._mark(log)
        with pytest.raises(RunError, match="waits no more"):
            supervisor.dequeue(run_id)
    supervisor.dequeue(run_id)

    assert supervisor.places() == ()


def test_a_runs_process_sees_its_own_device_alone_and_leads_a_session_that_outlives_the_servers(server: Server) -> None:
    server.devices = ("cuda:0", "cuda:1")
    supervisor = server.start()
    supervisor.submit(server.asked(), "cuda:1")

    supervisor.turn()

    (pid,) = (place.pid for place in supervisor.places())
    assert pid is not None
    assert psutil.Process(pid).environ()["CUDA_VISIBLE_DEVICES"] == "1"
    assert os.getsid(pid) == pid


def test_a_run_that_cannot_be_looked_after_keeps_no_other_waiting_and_is_looked_after_later(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("The disk is full.")

    supervisor = server.start()
    broken, whole = server.waiting(1), server.waiting(2)
    supervisor._enqueue(supervisor.find(broken), "cpu")
    supervisor._enqueue(supervisor.find(whole), "cpu")
    server.queue.begun(broken, os.getpid(), 0.0)  # which began later: that process is gone
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "reopen", full)
        supervisor.turn()
    meanwhile = supervisor.places()
    supervisor.turn()

    assert [(place.run_id, place.position) for place in meanwhile] == [(broken, None), (whole, None)]
    assert list(supervisor._children) == [whole]
    assert broken not in [place.run_id for place in supervisor.places()]
    assert isinstance(last(supervisor.find(broken)), RunFailed)


def test_a_damaged_run_leaves_the_queue(server: Server) -> None:
    supervisor = server.start()
    run_id = server.waiting(1)
    supervisor._enqueue(supervisor.find(run_id), "cpu")
    journal = supervisor.find(run_id).journal
    journal.write_bytes(journal.read_bytes().replace(b"RunQueued", b"RunQuoted"))

    supervisor.turn()

    assert supervisor.places() == ()
    assert not supervisor._children
    with pytest.raises(JournalDamaged):
        supervisor.resume(run_id)


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "run_id", ["", ".", "..", "run-20251122-143025", "run-1", "../run-20251122-143025", "\0", "a" * 9000]
)
def test_what_is_no_run_is_unknown(server: Server, run_id: str) -> None:
    supervisor = server.start()

    for ask in (
        lambda: supervisor.find(run_id),
        lambda: supervisor.resume(run_id),
        lambda: supervisor.stop(run_id, "kill"),
        lambda: supervisor.move(run_id, 0),
        lambda: supervisor.dequeue(run_id),
    ):
        with pytest.raises(RunUnknown):
            ask()


def test_what_preflight_finds_is_told_and_nothing_is_queued(server: Server) -> None:
    supervisor = server.start()

    with pytest.raises(PreflightError) as refused:
        supervisor.submit(server.asked(data__dataset="none.jsonl", lora__target_modules=["nothing"]))

    assert len(refused.value.findings) > 1
    assert (supervisor.places(), supervisor.active()) == ((), [])


def test_a_server_keeps_its_runs_where_it_looks_for_them(server: Server, tmp_path: Path) -> None:
    supervisor = server.start()

    with pytest.raises(ConfigError, match=r"output\.directory"):
        supervisor.submit(server.asked(output__directory=str(tmp_path / "elsewhere")))

    assert not (tmp_path / "elsewhere").exists()


def test_runs_that_wait_or_are_complete_or_do_not_run_are_refused_in_words(server: Server) -> None:
    supervisor = server.start()
    waiting = supervisor.submit(server.asked()).run_id
    complete, _ = server.town.train("alfa-1b", training__num_epochs=1)

    with pytest.raises(RunError, match="waits for its turn already"):
        supervisor.resume(waiting)
    with pytest.raises(RunError, match="is complete"):
        supervisor.resume(complete.run_id)
    with pytest.raises(RunError, match="is not running"):
        supervisor.stop(complete.run_id, "now")
    with pytest.raises(RunError, match="no process"):
        supervisor.stop(complete.run_id, "kill")


def test_a_run_whose_files_are_not_all_written_is_finished_in_its_turn(server: Server) -> None:
    directory, _ = server.town.train("alfa-1b", training__num_epochs=1)
    (directory.work / "workers").mkdir(parents=True)
    supervisor = server.start()

    broken_off = runs.describe(directory).status
    place = supervisor.resume(directory.run_id)
    until(lambda: not supervisor.places(), supervisor)

    assert (broken_off, place.position) == ("interrupted", 0)
    assert runs.describe(directory).status == "certified"
    assert not when(directory, RunQueued)


def test_a_process_that_has_anothers_pid_is_never_signalled(server: Server) -> None:
    supervisor = server.start()
    run_id = server.waiting(1)
    supervisor._enqueue(supervisor.find(run_id), "cpu")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        started = Process.of(stranger.pid).started
        server.queue.begun(run_id, stranger.pid, started - 60)

        with pytest.raises(RunError, match="no process"):
            supervisor.stop(run_id, "kill")
        supervisor.turn()

        assert stranger.poll() is None
        assert supervisor.places() == ()
        stranger.communicate(b"\n", timeout=30)
        assert stranger.returncode == 0
    assert isinstance(last(supervisor.find(run_id)), RunFailed)


def test_the_server_itself_is_never_signalled(server: Server) -> None:
    supervisor = server.start()

    with server.town.submit() as run, pytest.raises(RunError, match="no process"):
        supervisor.stop(run.directory.run_id, "kill")


def test_what_accepts_a_run_can_be_done_by_another_process(server: Server) -> None:
    asked = server.asked()

    call = pickle.loads(pickle.dumps((_accept, asked.config, server.town.home, asked.problems, "scripted", "cpu")))

    assert call == (_accept, asked.config, server.town.home, (), "scripted", "cpu")


# -- whatever happens ----------------------------------------------------------------------------------------------

STEPS = st.one_of(
    st.tuples(st.just("submit"), st.booleans()),
    st.tuples(st.just("move"), st.integers(0, 5), st.integers(0, 3)),
    st.tuples(st.just("dequeue"), st.integers(0, 5)),
    st.tuples(st.just("end"), st.booleans()),
    st.tuples(st.just("restart")),
    st.tuples(st.just("turn")),
)


@settings(max_examples=25)
@given(st.lists(STEPS, max_size=14))
def test_one_at_a_time_in_order_and_each_once_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]]
) -> None:
    """Processes are only acted here: a number, and what one would write into the journal."""
    town = Town(tmp_path_factory.mktemp("home"))
    living: dict[int, str] = {}
    began: list[str] = []
    order: list[str] = []  # who waits, as it should be

    def start(self: Supervisor, entry: Entry) -> None:
        pid = len(began) + 1
        began.append(entry.run_id)
        living[pid] = entry.run_id
        assert order.pop(0) == entry.run_id
        self._queue.begun(entry.run_id, pid, 0.0)

    with (
        pytest.MonkeyPatch.context() as patch,
        closing(database(town.home.database)) as opened,
        ThreadPoolExecutor(1) as work,
    ):
        patch.setattr(Supervisor, "_start", start)
        patch.setattr(Process, "living", lambda self: self.pid in living)
        server = Server(town, Queue(opened), work)
        supervisor, number = server.start(), 0
        for step, *values in [*steps, *[("turn",), ("end", True)] * len(steps)]:
            if step == "submit":
                number += 1
                run_id = server.waiting(number)
                order.append(run_id)
                if values[0]:
                    supervisor._enqueue(supervisor.find(run_id), "cpu")
                else:
                    supervisor.turn()  # it was forgotten
            elif step == "move" and values[0] < len(order):
                run_id = order.pop(values[0])
                order.insert(values[1], run_id)
                supervisor.move(run_id, values[1])
            elif step == "dequeue" and values[0] < len(order):
                supervisor.dequeue(order.pop(values[0]))
            elif step == "end" and living:
                run_id = living.popitem()[1]
                if values[0]:  # else it died before it had the run
                    with Recorder.reopen(supervisor.find(run_id), nobody) as run:
                        run.record(RunResumed(epoch=0))
            elif step == "restart":
                supervisor = server.start()
            elif step == "turn":
                supervisor.turn()
            assert len(living) <= 1
        supervisor.turn()

        assert len(began) == len(set(began))
        assert (supervisor.places(), order, living) == ((), [], {})
        for directory in supervisor._unfinished():
            assert runs.describe(directory).status in ("stopped", "interrupted", "failed")


@pytest.mark.parametrize(
    ("kills", "seed", "wanted"),
    [(12, 1, 3), pytest.param(60, int(time.time()), 20, marks=pytest.mark.soak, id="long")],
)
def test_a_server_that_is_killed_at_any_time_has_each_run_trained_once_and_in_order(
    tmp_path: Path, kills: int, seed: int, wanted: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "support.queue_storm", str(tmp_path), str(kills), str(seed), str(wanted)],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout)
    assert (left["killed"] >= kills, left["wrong"], left["complete"] >= wanted) == (True, [], True)
