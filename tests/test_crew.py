"""What a crew of workers does, whether they are threads or processes; the trainers are scripted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from oneseek.engine.interface import Assignment
from oneseek.errors import TrainingFailed
from oneseek.events import AnyEvent, EpochFinished, ModelFailed, ModelVerified, ProgressReported, WorkerRestarted
from oneseek.executors.crew import Crew, Outbox, Worker
from oneseek.executors.inline import InlineWorker
from oneseek.executors.processes import ProcessWorker
from oneseek.files.durable import sha256_file
from support.runs import Town

KEYS = ("alfa-1b", "beta-1b")


@pytest.fixture(params=["inline", "processes"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Assignment, Outbox], Worker]:
    if request.param == "inline":
        return InlineWorker
    return lambda assignment, outbox: ProcessWorker(assignment, outbox, tmp_path / f"{assignment.key}.log")


def processes(tmp_path: Path) -> Callable[[Assignment, Outbox], Worker]:
    return lambda assignment, outbox: ProcessWorker(assignment, outbox, tmp_path / f"{assignment.key}.log")


def assignment(town: Town, key: str, directory: Path) -> Assignment:
    return Assignment(
        engine="scripted",
        key=key,
        model_path=str(town.home.models / key),
        dataset_path=str(town.dataset),
        dataset_sha256=sha256_file(town.dataset),
        format="messages",
        strategy="chat",
        validation_split=0.1,
        max_length=128,
        directory=str(directory / key),
        threads=1,
        seed=42,
        num_epochs=2,
        batch_size=4,
        gradient_accumulation_steps=1,
        lr_scheduler="linear",
        warmup_ratio=0.0,
        max_grad_norm=1.0,
        weight_decay=0.0,
        lora_r=4,
        lora_alpha=8,
        lora_dropout=0.0,
        target_modules=("q_proj",),
    )


@contextmanager
def crew(
    town: Town,
    start: Callable[[Assignment, Outbox], Worker],
    *,
    at_once: int = 2,
    silence: float = 30,
    directory: Path | None = None,
    keys: Iterable[str] = KEYS,
) -> Iterator[Crew]:
    assignments = {key: assignment(town, key, directory or town.root / "work") for key in keys}
    hired = Crew(assignments, start, at_once=at_once, silence=silence, tries=3)
    try:
        yield hired
    finally:
        hired.close()


def rates(epoch: int, keys: Iterable[str] = KEYS) -> Mapping[str, list[float]]:
    return {key: [1e-4] * epoch for key in keys}


def finished(events: list[AnyEvent]) -> dict[str, EpochFinished]:
    return {event.model: event for event in events if isinstance(event, EpochFinished)}


@pytest.mark.parametrize("at_once", [1, 2])
def test_every_model_is_prepared_trained_and_verified(
    town: Town, start: Callable[[Assignment, Outbox], Worker], at_once: int
) -> None:
    with crew(town, start, at_once=at_once) as hired:
        prepared = list(hired.prepare())
        first = list(hired.train_epoch(1, rates(1), ()))
        second = list(hired.train_epoch(2, rates(2), ()))
        verified = list(hired.verify({"alfa-1b": 1, "beta-1b": 2}, rates(2)))

    assert prepared == []
    assert set(hired.prepared) == set(KEYS)
    assert set(finished(first)) == set(finished(second)) == set(KEYS)
    assert {event.model for event in first if isinstance(event, ProgressReported)} == set(KEYS)
    assert {(e.model, e.epoch) for e in verified if isinstance(e, ModelVerified)} == {("alfa-1b", 1), ("beta-1b", 2)}


@pytest.mark.parametrize(("places", "loads"), [(3, [3, 0, 0, 0]), (2, [3, 1, 1, 1]), (1, [3, 2, 2, 2])])
def test_only_a_model_that_has_no_place_is_loaded_anew(town: Town, places: int, loads: list[int]) -> None:
    town.add_model("gamma-1b", seed=3)
    keys = (*KEYS, "gamma-1b")
    loaded: list[str] = []

    def start(assignment: Assignment, outbox: Outbox) -> Worker:
        loaded.append(assignment.key)
        return InlineWorker(assignment, outbox)

    counts, most = [], 0
    with crew(town, start, at_once=places, keys=keys) as hired:
        for command in (
            hired.prepare(),
            hired.train_epoch(1, rates(1, keys), ()),
            hired.train_epoch(2, rates(2, keys), ()),
            hired.verify(dict.fromkeys(keys, 2), rates(2, keys)),
        ):
            before = len(loaded)
            for _ in command:
                most = max(most, len(hired._workers))
            counts.append(len(loaded) - before)

    assert counts == loads
    assert most <= places


def test_models_that_take_turns_end_as_those_that_need_not(town: Town) -> None:
    town.add_model("gamma-1b", seed=3)
    keys = (*KEYS, "gamma-1b")
    checkpoints = []

    for places in (1, 2, 3):
        with crew(town, InlineWorker, at_once=places, keys=keys, directory=town.root / f"at-{places}") as hired:
            list(hired.prepare())
            list(hired.train_epoch(1, rates(1, keys), ()))
            second = finished(list(hired.train_epoch(2, rates(2, keys), ())))
        checkpoints.append({key: done.checkpoint for key, done in second.items()})

    assert set(checkpoints[0]) == set(keys)
    assert checkpoints[0] == checkpoints[1] == checkpoints[2]


def test_the_place_of_a_model_that_left_is_free(town: Town) -> None:
    town.add_model("gamma-1b", seed=3)
    keys = (*KEYS, "gamma-1b")
    loaded: list[str] = []

    def start(assignment: Assignment, outbox: Outbox) -> Worker:
        loaded.append(assignment.key)
        return InlineWorker(assignment, outbox)

    with crew(town, start, at_once=2, keys=keys) as hired:
        list(hired.prepare())
        list(hired.train_epoch(1, rates(1, keys), ()))
        hired.dismiss("gamma-1b")
        list(hired.train_epoch(2, rates(2), ()))
        loaded.clear()
        third = finished(list(hired.train_epoch(3, rates(3), ())))

    assert set(third) == set(KEYS)
    assert loaded == []


def test_a_worker_that_rests_and_dies_gives_its_place_away(town: Town, tmp_path: Path) -> None:
    town.add_model("gamma-1b", seed=3)
    keys = (*KEYS, "gamma-1b")

    with crew(town, processes(tmp_path), at_once=2, keys=keys) as hired:
        list(hired.prepare())
        for key in list(hired._workers):
            os.kill(pid_of(hired, key), signal.SIGKILL)
        events = list(hired.train_epoch(1, rates(1, keys), ()))

    assert set(finished(events)) == set(keys)


@pytest.mark.parametrize("kind", ["crashed", "exit"])
def test_a_crash_is_tried_again_and_ends_as_if_it_had_not_happened(
    town: Town, start: Callable[[Assignment, Outbox], Worker], kind: str
) -> None:
    if kind == "exit" and start is InlineWorker:
        pytest.skip("a thread can't leave without its process")
    with crew(town, start) as hired:
        list(hired.prepare())
        undisturbed = finished(list(hired.train_epoch(1, rates(1), ())))
    town.script("beta-1b", {"fail": {"epoch": 1, "kind": kind, "times": 2}})

    with crew(town, start, directory=town.root / "again") as hired:
        list(hired.prepare())
        events = list(hired.train_epoch(1, rates(1), ()))

    restarts = [event for event in events if isinstance(event, WorkerRestarted)]
    assert [(event.model, event.attempt) for event in restarts] == [("beta-1b", 2), ("beta-1b", 3)]
    assert {key: done.checkpoint for key, done in finished(events).items()} == {
        key: done.checkpoint for key, done in undisturbed.items()
    }


def test_after_three_crashes_the_model_is_given_up_and_the_others_go_on(
    town: Town, start: Callable[[Assignment, Outbox], Worker]
) -> None:
    town.script("beta-1b", {"fail": {"epoch": 1, "kind": "crashed"}})

    with crew(town, start) as hired:
        list(hired.prepare())
        events = list(hired.train_epoch(1, rates(1), ()))

    assert set(finished(events)) == {"alfa-1b"}
    assert [event.model for event in events if isinstance(event, ModelFailed)] == ["beta-1b"]


@pytest.mark.parametrize("kind", ["diverged", "out_of_memory"])
def test_what_would_only_happen_again_is_not_tried_again(
    town: Town, start: Callable[[Assignment, Outbox], Worker], kind: str
) -> None:
    town.script("beta-1b", {"fail": {"epoch": 1, "kind": kind}})

    with crew(town, start) as hired:
        list(hired.prepare())
        events = list(hired.train_epoch(1, rates(1), ()))

    failed = [event for event in events if isinstance(event, ModelFailed)]
    assert [(event.model, event.kind) for event in failed] == [("beta-1b", kind)]
    assert not [event for event in events if isinstance(event, WorkerRestarted)]


def test_a_worker_killed_from_outside_is_replaced(town: Town, tmp_path: Path) -> None:
    town.script("beta-1b", {"step_seconds": 0.2})

    with crew(town, processes(tmp_path)) as hired:
        list(hired.prepare())
        events: list[AnyEvent] = []
        for event in hired.train_epoch(1, rates(1), ()):
            if isinstance(event, ProgressReported) and event.model == "beta-1b" and not restarted(events):
                os.kill(pid_of(hired, "beta-1b"), signal.SIGKILL)
            events.append(event)

    assert restarted(events)
    assert "out of memory" in restarted(events)[0].cause
    assert set(finished(events)) == set(KEYS)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP on Windows")
def test_a_frozen_worker_is_killed_and_replaced(town: Town, tmp_path: Path) -> None:
    town.script("beta-1b", {"step_seconds": 0.2})

    with crew(town, processes(tmp_path), silence=3) as hired:
        list(hired.prepare())
        events: list[AnyEvent] = []
        for event in hired.train_epoch(1, rates(1), ()):
            if isinstance(event, ProgressReported) and event.model == "beta-1b" and not events_of(events, "beta-1b"):
                os.kill(pid_of(hired, "beta-1b"), signal.SIGSTOP)
            events.append(event)

    assert "no sign of life" in restarted(events)[0].cause
    assert set(finished(events)) == set(KEYS)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGSTOP on Windows")
def test_a_run_that_was_stopped_together_with_its_workers_takes_none_of_them_for_silent(
    town: Town, tmp_path: Path
) -> None:
    town.script("alfa-1b", {"step_seconds": 0.2})

    with crew(town, processes(tmp_path), silence=2, keys=KEYS[:1]) as hired:
        list(hired.prepare())
        stops = iter([True])

        def stop_once() -> None:
            if next(stops, False):
                os.kill(pid_of(hired, "alfa-1b"), signal.SIGSTOP)
                time.sleep(3.5)
                threading.Timer(0.5, os.kill, (pid_of(hired, "alfa-1b"), signal.SIGCONT)).start()

        hired._poll = stop_once
        events = list(hired.train_epoch(1, rates(1, KEYS[:1]), ()))

    assert restarted(events) == []
    assert finished(events).keys() == {"alfa-1b"}


def test_a_worker_whose_run_is_gone_ends_by_itself(town: Town, tmp_path: Path) -> None:
    town.script("alfa-1b", {"step_seconds": 60})
    gone: list[bytes | None] = []
    worker = ProcessWorker(assignment(town, "alfa-1b", tmp_path), gone.append, tmp_path / "log")
    process = psutil.Process(worker._process.pid)

    worker._process.stdin.close()  # type: ignore[union-attr]

    process.wait(timeout=10)
    worker.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a stopped process with its parent")
def test_even_a_frozen_worker_ends_with_its_run(town: Town, tmp_path: Path) -> None:
    town.script("alfa-1b", {"step_seconds": 60})
    code = """
import os, signal, sys
from pathlib import Path
import msgspec
from oneseek.engine.interface import Assignment
from oneseek.executors.processes import ProcessWorker
assignment = msgspec.json.decode(sys.argv[1], type=Assignment)
worker = ProcessWorker(assignment, lambda message: None, Path(sys.argv[2]))
while not (Path(assignment.directory) / "worker.lock").exists():
    pass
os.kill(worker._process.pid, signal.SIGSTOP)
print(worker._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    told = msgspec.json.encode(assignment(town, "alfa-1b", tmp_path)).decode()

    done = subprocess.run(
        [sys.executable, "-c", code, told, str(tmp_path / "log")], capture_output=True, text=True, check=False
    )

    pid = int(done.stdout)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline


def test_a_worker_that_dies_between_two_commands_is_replaced_at_once(town: Town, tmp_path: Path) -> None:
    town.script("beta-1b", {"step_seconds": 0.3})

    with crew(town, processes(tmp_path)) as hired:
        list(hired.prepare())
        for event in hired.train_epoch(1, rates(1), ()):
            if isinstance(event, EpochFinished) and event.model == "alfa-1b":
                os.kill(pid_of(hired, "alfa-1b"), signal.SIGKILL)
        began = time.monotonic()
        second = finished(list(hired.train_epoch(2, rates(2), ())))

    assert set(second) == set(KEYS)
    assert time.monotonic() - began < 15  # `silence` is 30


def test_what_lies_where_the_command_was_typed_is_not_imported(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "filelock.py").write_text("raise SystemExit('evil')")
    monkeypatch.chdir(tmp_path)

    with crew(town, processes(tmp_path)) as hired:
        list(hired.prepare())

    assert set(hired.prepared) == set(KEYS)


def test_what_is_no_models_fault_ends_the_work_and_names_the_cause(town: Town, tmp_path: Path) -> None:
    (tmp_path / "work").write_text("a file where the workers' directory should be")

    with crew(town, processes(tmp_path), directory=tmp_path / "work") as hired, pytest.raises(TrainingFailed) as failed:
        list(hired.prepare())

    assert "work" in failed.value.problem


def test_closing_a_crew_leaves_no_process(town: Town, tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))

    with crew(town, processes(tmp_path)) as hired:
        list(hired.prepare())
        assert set(psutil.Process().children(recursive=True)) - before

    time.sleep(0.1)
    assert not set(psutil.Process().children(recursive=True)) - before


def restarted(events: list[AnyEvent]) -> list[WorkerRestarted]:
    return [event for event in events if isinstance(event, WorkerRestarted)]


def events_of(events: list[AnyEvent], key: str) -> list[AnyEvent]:
    return [event for event in events if getattr(event, "model", None) == key]


def pid_of(hired: Crew, key: str) -> int:
    worker = hired._workers[key]
    assert isinstance(worker, ProcessWorker)
    return worker._process.pid
