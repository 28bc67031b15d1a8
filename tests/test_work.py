"""Work in other processes: they can be lost, and nothing but what they were at is lost with them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import SpawnProcess
from pathlib import Path

import psutil
import pytest

from oneseek.errors import Failed
from oneseek.preflight.finding import Finding, PreflightError
from oneseek.server.work import ASKING, Work

FINDING = Finding(severity="error", field="lora.r", problem="It is 0.", fix="Set it to 8.")


@pytest.fixture(autouse=True)
def _nobody_asks() -> Iterator[None]:
    before = ASKING.set("")
    yield
    ASKING.reset(before)


@pytest.fixture
def work() -> Iterator[Work]:
    with Work(2) as found:
        yield found


def refuse() -> None:
    raise PreflightError([FINDING])


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt_itself() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)


def sleep_in(place: Path) -> None:
    (place / str(os.getpid())).touch()
    time.sleep(60)


def sleep_until_there_is(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def touch(path: Path) -> None:
    path.touch()


def wait_for(place: Path) -> int:
    """The process that has begun to sleep."""
    while not (found := list(place.iterdir())):
        time.sleep(0.01)
    return int(found[0].name)


def test_it_is_done_in_another_process(work: Work) -> None:
    assert work.submit(os.getpid).result() != os.getpid()


def test_an_error_comes_with_all_that_it_carries(work: Work) -> None:
    error = work.submit(refuse).exception()

    assert isinstance(error, PreflightError)
    assert error.findings == (FINDING,)


def test_what_a_killed_process_was_at_is_said_to_be_lost_and_the_next_thing_is_done(work: Work) -> None:
    lost = work.submit(be_killed).exception()

    assert isinstance(lost, Failed)
    assert "Try again" in lost.fix
    assert work.submit(pow, 2, 10).result() == 1024


def test_a_process_that_is_killed_while_it_has_nothing_to_do_costs_nobody_anything(work: Work) -> None:
    for _ in range(3):
        idle = work.submit(os.getpid).result()
        os.kill(idle, signal.SIGKILL)
        psutil.Process().children()  # whoever is gone is reaped
        while psutil.pid_exists(idle) and psutil.Process(idle).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        time.sleep(0.1)

        assert work.submit(pow, 2, 10).result() == 1024


def test_a_ctrl_c_at_the_servers_terminal_breaks_nothing_off(work: Work) -> None:
    assert work.submit(interrupt_itself).exception() is None


def test_threads_that_come_and_go_take_no_process_with_them(work: Work) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(work.submit(os.getpid).result()))
    thread.start()
    thread.join()
    time.sleep(0.2)

    assert work.submit(os.getpid).result() == found[0]


def test_however_much_one_asks_for_another_finds_a_process(tmp_path: Path) -> None:
    with Work(2, share=1) as work:
        ASKING.set("token greedy")
        greedy = [work.submit(sleep_until_there_is, tmp_path / "enough") for _ in range(6)]
        ASKING.set("token other")
        try:
            other = work.submit(pow, 2, 10).result(20)
            ended = [each.done() for each in greedy]
        finally:
            (tmp_path / "enough").touch()

        assert other == 1024
        assert ended == [False] * 6
        assert [each.result(30) for each in greedy] == [None] * 6
        assert not work._waiting


def test_one_thing_after_the_other_is_done_by_the_process_that_did_the_last() -> None:
    with Work(3) as work:
        found = {work.submit(os.getpid).result() for _ in range(12)}

    assert len(found) == 1


def test_a_process_that_is_killed_takes_no_other_with_it(tmp_path: Path) -> None:
    with Work(2) as work:
        other = work.submit(sleep_until_there_is, tmp_path / "enough")
        lost = work.submit(be_killed).exception()
        (tmp_path / "enough").touch()

        assert isinstance(lost, Failed)
        assert other.result(30) is None


def test_a_moment_in_which_no_process_can_be_started_fails_what_is_asked_then_and_nothing_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with Work(2) as work:
        for start in (ProcessPoolExecutor, SpawnProcess):
            for _ in range(3):
                with monkeypatch.context() as moment:
                    moment.setattr(start, "__init__" if start is ProcessPoolExecutor else "start", refused)
                    with pytest.raises(Failed, match="No process can be started") as caught:
                        work.submit(abs, -1).result(30)
                assert "again" in caught.value.fix

        assert [work.submit(abs, -n).result(30) for n in range(3)] == [0, 1, 2]


def test_what_nobody_waits_for_any_more_is_not_begun(tmp_path: Path) -> None:
    with Work(1, share=1) as work:
        for who in ("", "session a"):  # they wait for a process, or for something else of theirs
            ASKING.set(who)
            place = tmp_path / (who or "server")
            place.mkdir()
            first = work.submit(sleep_until_there_is, place / "enough")
            dropped = [work.submit(touch, place / f"{number}") for number in range(5)]
            last = work.submit(touch, place / "last")

            cancelled = [each.cancel() for each in dropped]
            (place / "enough").touch()

            assert cancelled == [True] * 5
            assert (first.result(30), last.result(30)) == (None, None)
            assert sorted(path.name for path in place.iterdir()) == ["enough", "last"]
            assert not first.cancel()


def test_what_waits_when_it_ends_is_said_to_be_lost(tmp_path: Path) -> None:
    work = Work(1, share=1)
    ASKING.set("token greedy")
    asked = [work.submit(sleep_in, tmp_path) for _ in range(3)]
    wait_for(tmp_path)

    work.shutdown(cancel_futures=True)

    assert [type(each.exception(10)) for each in asked] == [Failed] * 3


def test_a_thing_that_nobody_waits_for_any_more_is_ended_in_the_middle(tmp_path: Path) -> None:
    work = Work(1)
    running = work.submit(sleep_in, tmp_path)
    waiting = [work.submit(pow, 2, number) for number in range(5)]
    process = psutil.Process(wait_for(tmp_path))
    began = time.monotonic()

    work.shutdown(cancel_futures=True)

    assert time.monotonic() - began < 10
    assert not process.is_running()
    assert isinstance(running.exception(10), Failed)
    assert [type(each.exception(10)) for each in waiting] == [Failed] * 5


def test_what_is_under_way_can_be_waited_for() -> None:
    with Work(1) as work:
        found = [work.submit(pow, 2, number) for number in range(5)]

    assert [each.result(0) for each in found] == [1, 2, 4, 8, 16]


def test_ctrl_c_at_the_terminal_ends_none(work: Work) -> None:
    process = work.submit(os.getpid).result()
    os.kill(process, signal.SIGINT)

    assert work.submit(os.getpid).result() == process


SERVER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_work import sleep_in
from oneseek.server.work import Work
if __name__ == "__main__":
    work = Work(1)
    work.submit(sleep_in, Path(sys.argv[1]))
    time.sleep(60)
"""


def test_processes_end_with_the_server_however_it_ends(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "server.py").write_text(SERVER)
    command = [sys.executable, str(tmp_path / "server.py"), str(place), str(Path(__file__).parent)]
    with subprocess.Popen(command) as server:
        orphan = psutil.Process(wait_for(place))
        server.kill()

    assert psutil.wait_procs([orphan], timeout=10)[1] == []


def test_what_needs_too_much_memory_fails_alone_and_says_so() -> None:
    work = Work(1, memory=1 << 30)
    try:
        with pytest.raises(Failed, match=r"more than the 1\.07 GB of memory"):
            work.submit(bytes, 2 << 30).result()

        assert work.submit(len, bytes(1 << 20)).result() == 1 << 20
    finally:
        work.shutdown(cancel_futures=True)
