"""Devices: which there are, and that a run waits until the one before it has let go."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from oneseek import runs
from oneseek.errors import StorageError
from oneseek.events import RunInterrupted, RunResumed, RunStopped
from oneseek.files.layout import Home
from oneseek.runs.devices import DeviceLock, devices, is_busy, seeing
from support.runs import Town, events

HERE = devices(os.environ)[0]


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    """What NVIDIA's driver puts into /dev for two devices, of which a container was given the second and the third."""
    for name in ("nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def busy(town: Town) -> Iterator[FileLock]:
    """The device's lock, held by somebody."""
    path = town.home.device_lock(HERE)
    path.parent.mkdir()
    with FileLock(path) as lock:
        yield lock


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, ("cuda:0", "cuda:1")),
        ("1", ("cuda:1",)),
        ("1,0", ("cuda:1", "cuda:0")),
        (" 0 , 0", ("cuda:0",)),
        ("1,7,0", ("cuda:1",)),
        ("1,-1,0", ("cuda:1",)),
        ("GPU-8932f937-d72c,MIG-1", ("cuda:GPU-8932f937-d72c", "cuda:MIG-1")),
        ("GPU-../../x", ("cpu",)),
        ("", ("cpu",)),
        ("-1", ("cpu",)),
        ("none", ("cpu",)),
    ],
)
def test_devices_are_those_that_the_environment_lets_cuda_see(
    nodes: Path, visible: str | None, found: tuple[str, ...]
) -> None:
    assert devices({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}, nodes) == found


def test_without_a_driver_there_is_the_cpu_whatever_the_environment_says(tmp_path: Path) -> None:
    assert devices({}, tmp_path) == devices({"CUDA_VISIBLE_DEVICES": "0"}, tmp_path) == ("cpu",)
    assert devices({}, tmp_path / "none") == ("cpu",)


@given(st.lists(st.sampled_from(["0", "1", "GPU-1", "5", "x"]), max_size=4).map(",".join) | st.none())
def test_a_process_that_is_given_a_device_finds_that_one_alone(
    tmp_path_factory: pytest.TempPathFactory, visible: str | None
) -> None:
    nodes = tmp_path_factory.mktemp("dev")
    for number in range(2):
        (nodes / f"nvidia{number}").touch()
    environment = {"PATH": "/bin"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})

    for device in devices(environment, nodes):
        given_to_it = seeing(device, environment)

        assert devices(given_to_it, nodes) == (device,)
        assert given_to_it["PATH"] == "/bin"


def test_a_device_is_busy_while_somebody_has_it_and_looking_takes_it_from_nobody(tmp_path: Path) -> None:
    home = Home(tmp_path, tmp_path / "models")

    before = is_busy(home, "cuda:0")
    with DeviceLock(home, "cuda:0") as ours, DeviceLock(home, "cuda:1") as another:
        during = ours.taken(), is_busy(home, "cuda:0"), another.taken(0), DeviceLock(home, "cuda:0").taken(0)
    after = is_busy(home, "cuda:0")

    assert (before, during, after) == (False, (True, True, True, False), False)


def test_a_home_in_which_no_lock_can_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file")

    with pytest.raises(StorageError, match="locks"):
        is_busy(Home(tmp_path, tmp_path / "models"), "cpu")


def test_a_run_has_its_device_from_its_first_epoch_to_its_last(town: Town) -> None:
    had = []

    run = town.submit(training__num_epochs=2, watch=lambda record, state: had.append(is_busy(town.home, HERE)))
    runs.complete(run, town.home, {})

    assert not had[0]  # it is only accepted
    assert all(had[1:])
    assert not is_busy(town.home, HERE)


def test_a_run_whose_device_is_busy_says_so_once_and_waits_for_it(
    town: Town, busy: FileLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    told: list[str] = []
    look = DeviceLock.taken

    def until_the_third(lock: DeviceLock, seconds: float = 0.01) -> bool:
        looks.append(seconds)
        if len(looks) == 3:
            busy.release()
        return look(lock, 0.01)

    monkeypatch.setattr(DeviceLock, "taken", until_the_third)
    run = town.submit(training__num_epochs=1)

    result = runs.complete(run, town.home, {}, told.append)

    assert (result.status, told, len(looks)) == ("certified", [HERE], 3)


@pytest.mark.parametrize("now", [False, True])
def test_a_run_that_waits_heeds_a_request_to_stop(town: Town, busy: FileLock, now: bool) -> None:
    run = town.submit(training__num_epochs=1)

    result = runs.complete(run, town.home, {}, lambda _: runs.stop(run.directory, now=now))

    assert result.status == "stopped"
    assert isinstance(events(run.directory)[-1], RunStopped)
    busy.release()
    assert town.resume(run.directory).status == "completed"


def test_ctrl_c_while_a_run_waits_is_recorded_and_leaves_the_device_to_others(town: Town, busy: FileLock) -> None:
    def leave(_: str) -> None:
        raise KeyboardInterrupt

    run = town.submit(training__num_epochs=1)

    with pytest.raises(KeyboardInterrupt):
        runs.complete(run, town.home, {}, leave)

    assert events(run.directory)[-1] == RunInterrupted(cause="Ctrl-C")
    busy.release()
    assert not is_busy(town.home, HERE)


def test_a_run_that_only_has_to_write_its_files_needs_no_device(town: Town, busy: FileLock) -> None:
    with town.submit(training__num_epochs=1) as run:
        runs.train(run)

    result = runs.complete(runs.resume(run.directory), town.home, {})

    assert result.status == "certified"


def test_the_command_line_says_whose_turn_it_waits_for(town: Town, busy: FileLock) -> None:
    with town.submit(training__num_epochs=1) as run:
        pass
    command = [sys.executable, "-m", "oneseek", "resume", str(run.directory.root), "--home", str(town.root)]

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = process.stderr.readline()
        waiting = [type(event) for event in events(run.directory)][-1]
        busy.release()
        code = process.wait(60)

    assert (said, code) == (f"{HERE} is busy; waiting for its turn. Ctrl-C leaves.\n", 0)
    assert waiting is RunResumed
    assert runs.describe(run.directory).status == "certified"


def test_a_reproduction_whose_device_is_busy_says_so_and_waits_for_it(town: Town, busy: FileLock) -> None:
    busy.release()
    directory, _ = town.train(training__num_epochs=1)
    busy.acquire()
    told: list[str] = []

    def let_go(device: str) -> None:
        told.append(device)
        busy.release()

    found = runs.reproduce(directory, town.home, waiting=let_go)

    assert (found.verdict, told) == ("same DNA", [HERE])


def test_a_reproduction_has_the_device_while_it_trains(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    had = []

    runs.reproduce(directory, town.home, watch=lambda record, state: had.append(is_busy(town.home, HERE)))

    assert all(had[1:])
    assert not is_busy(town.home, HERE)


def test_nothing_is_rehearsed_on_a_device_that_is_busy(town: Town, busy: FileLock) -> None:
    verdict = runs.validate(town.config(), town.home, rehearsed=True, engine="scripted")

    assert verdict.ok
    assert verdict.rehearsal is None
    assert verdict.not_rehearsed == f"{HERE} is busy. Rehearse again when it is free."


def test_a_rehearsal_has_the_device(town: Town) -> None:
    had = []

    verdict = runs.validate(
        town.config(),
        town.home,
        rehearsed=True,
        engine="scripted",
        watch=lambda key, stage: had.append(is_busy(town.home, HERE)),
    )

    assert verdict.rehearsal is not None
    assert set(had) == {True}
    assert not is_busy(town.home, HERE)


def test_a_runs_own_process_is_no_client_of_a_server() -> None:
    environment = {"PATH": "/bin", "ONESEEK_SERVER": "http://127.0.0.1:3001", "ONESEEK_TOKEN": "osk_secret"}

    assert seeing("cpu", environment) == {"PATH": "/bin"}
