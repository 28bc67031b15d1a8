"""What follows from files: worked out once, and anew whenever one of them is another."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek import runs
from oneseek.events import (
    AnyEvent,
    EpochStarted,
    RunFailed,
    RunInterrupted,
    RunQueued,
    RunResumed,
    RunStopped,
    StopRequested,
)
from oneseek.files import remembered
from oneseek.files.remembered import Remembered
from oneseek.journal.record import Record
from oneseek.runs.find import seconds_trained
from support.runs import Town


@pytest.fixture(autouse=True)
def _ticks_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was just written is not remembered: here it was written long ago."""
    monkeypatch.setattr(remembered, "TICK", -(10**9))


class Asked:
    """Reads files, and counts how often."""

    def __init__(self, *paths: Path, most: int = 10) -> None:
        self.paths = paths
        self.known: Remembered[list[str | None]] = Remembered(most)
        self.times = 0

    def __call__(self, key: object = "") -> list[str | None]:
        return self.known.get(key, self.paths, self._read)

    def _read(self) -> list[str | None]:
        self.times += 1
        return [path.read_text() if path.exists() else None for path in self.paths]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a"
    path.write_text("one")
    return path


def test_what_stays_is_read_once(file: Path) -> None:
    asked = Asked(file)

    assert [asked(), asked(), asked()] == [["one"]] * 3
    assert asked.times == 1


@pytest.mark.parametrize("change", ["in place", "replaced", "removed", "same time", "linked"])
def test_what_changes_is_read_again_whatever_its_size_and_time(file: Path, tmp_path: Path, change: str) -> None:
    asked = Asked(file)
    asked()
    before = file.stat()

    other = tmp_path / "b"
    other.write_text("two")
    match change:
        case "in place":
            with file.open("r+") as opened:
                opened.write("two")
        case "replaced":
            other.rename(file)
        case "removed":
            file.unlink()
        case "linked":
            file.unlink()
            file.symlink_to(other)
        case _:
            file.write_text("two")
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert asked() == ([None] if change == "removed" else ["two"])
    assert asked.times == 2


def test_what_a_link_leads_to_counts(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    asked = Asked(link)
    asked()

    file.write_text("two!")

    assert asked() == ["two!"]


def test_a_file_that_comes_to_be_is_seen(tmp_path: Path) -> None:
    asked = Asked(tmp_path / "a")
    asked()

    (tmp_path / "a").write_text("one")

    assert asked() == ["one"]


def test_what_was_changed_a_tick_ago_or_while_it_was_read_is_not_remembered(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "TICK", 60 * 10**9)
    fresh, torn = Asked(file), Asked(file)
    assert [fresh(), fresh()] == [["one"]] * 2
    monkeypatch.setattr(remembered, "TICK", -(10**9))

    def changed() -> list[str | None]:
        file.write_text(f"{time.time_ns()}")
        return ["torn"]

    assert torn.known.get("", (file,), changed) == ["torn"]
    assert torn() == [file.read_text()]
    assert (fresh.times, torn.times) == (2, 1)


def test_what_goes_wrong_is_not_remembered(file: Path) -> None:
    known: Remembered[int] = Remembered(10)

    with pytest.raises(ZeroDivisionError):
        known.get("", (file,), lambda: 1 // 0)

    assert known.get("", (file,), lambda: 5) == 5


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 7)), max_size=40))
def test_never_more_is_held_than_was_asked_for_and_every_answer_is_right(asked: list[tuple[int, int]]) -> None:
    known: Remembered[tuple[int, int]] = Remembered(10, lambda found: found[1])

    for key, weight in asked:
        found = known.get((key, weight), (), lambda key=key, weight=weight: (key, weight))  # type: ignore[misc]

        assert found == (key, weight)
        assert known._weight == sum(weight for _, _, weight in known._known.values()) <= 10


def test_those_that_nobody_has_asked_for_the_longest_are_forgotten(file: Path) -> None:
    asked = Asked(file, most=2)

    for key in ("a", "b", "a", "c", "a", "b"):
        asked(key)

    assert asked.times == 4  # b was forgotten for c


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def running(town: Town) -> Iterator[runs.Recorder]:
    with town.submit() as run:
        yield run


def test_a_run_whose_process_dies_is_interrupted_though_its_journal_is_the_same(town: Town) -> None:
    with town.submit() as run:
        before = runs.describe(run.directory)
        again = runs.describe(run.directory)
    after = runs.describe(run.directory)

    assert (before.status, again.status, after.status) == ("preparing", "preparing", "interrupted")
    assert before.state is after.state


def test_a_run_is_seen_as_it_goes_on(town: Town, running: runs.Recorder) -> None:
    before = runs.describe(running.directory)

    running.record(RunQueued(device="cpu"))

    assert (before.status, runs.describe(running.directory).status) == ("preparing", "queued")


def test_a_certificate_that_is_taken_away_is_missed(town: Town) -> None:
    directory, _ = town.train(training__num_epochs=1)
    runs.certify(directory, town.home, {})
    before = [runs.describe(directory).status for _ in range(2)]

    directory.signature.unlink()

    assert (before, runs.describe(directory).status) == (["certified"] * 2, "completed")


def test_time_is_counted_only_while_a_run_is_trained() -> None:
    told: list[tuple[int, AnyEvent]] = [
        (0, RunQueued(device="cpu")),
        (100, RunResumed(epoch=0)),
        (110, EpochStarted(epoch=1, learning_rates={})),
        (130, StopRequested()),
        (135, RunStopped()),
        (500, RunQueued(device="cpu")),
        (600, RunResumed(epoch=0)),
        (607, EpochStarted(epoch=1, learning_rates={})),  # killed after it
        (900, RunInterrupted(cause="killed")),
        (950, RunResumed(epoch=0)),
        (951, RunFailed(problem="No space.")),
    ]
    start = datetime(2026, 11, 21, tzinfo=UTC)
    records = [
        Record(seq=seq, at=(start + timedelta(seconds=after)).isoformat().replace("+00:00", "Z"), prev="", event=event)
        for seq, (after, event) in enumerate(told, 1)
    ]

    assert seconds_trained(records) == 10 + 20 + 5 + 7 + 1
