"""The server's database as a file: durable, its owner's alone, of the newest form, and refused where it is not."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from filelock import FileLock
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from oneseek.errors import StorageError
from oneseek.state import database as module
from oneseek.state.database import Database
from oneseek.state.queue import Queue
from oneseek.state.tables import Base, TokenRow
from support.state import database, pragma

HERE = Path(__file__).parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "oneseek.db"


@contextmanager
def by_hand(path: Path) -> Iterator[sqlite3.Connection]:
    """What somebody else does to the file."""
    with closing(sqlite3.connect(path)) as connection, connection:
        yield connection


def waiting(database: Database) -> list[str]:
    return [entry.run_id for entry in Queue(database).entries()]


def fill(database: Database) -> None:
    for number in range(2, 1000):
        Queue(database).add(f"run-{number}", "cpu")


# -- what is made --------------------------------------------------------------------------------------------------


def test_what_is_committed_is_on_disk_and_readers_wait_for_nobody(path: Path) -> None:
    with closing(Database.open(path)) as made, made.begin() as session:
        told = {
            name: session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")
        }

    assert told == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}  # 2 is FULL


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps who may read a file elsewhere")
def test_every_file_of_it_is_for_its_owner_alone_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(Database.open(path)) as made:
            Queue(made).add("run-1", "cpu")
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob("oneseek.db*")}
    finally:
        os.umask(before)

    assert modes == {"oneseek.db": 0o600, "oneseek.db-wal": 0o600, "oneseek.db-shm": 0o600}


def test_the_home_is_made_where_there_is_none(tmp_path: Path) -> None:
    Database.open(tmp_path / "new" / "home" / "oneseek.db").close()

    assert (tmp_path / "new" / "home" / "oneseek.db").exists()


def test_the_steps_from_nothing_lead_to_the_tables_that_the_code_knows(path: Path) -> None:
    with closing(Database.open(path)) as made, made._writing.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        differences = compare_metadata(context, Base.metadata)
        tables = set(inspect(connection).get_table_names())

    assert differences == []
    assert tables == {*Base.metadata.tables, "alembic_version"}


def test_the_steps_are_in_the_package() -> None:
    steps = resources.files("oneseek.state") / "migrations" / "versions"

    assert "0001_queue_and_access.py" in {step.name for step in steps.iterdir()}


def test_what_was_kept_is_there_when_it_is_opened_again(path: Path) -> None:
    with closing(Database.open(path)) as first:
        Queue(first).add("run-1", "cpu")

    with closing(Database.open(path)) as second:
        assert waiting(second) == ["run-1"]


def test_a_file_whose_maker_was_killed_before_its_first_byte_becomes_a_database(path: Path) -> None:
    path.touch(mode=0o600)

    with closing(Database.open(path)) as made:
        Queue(made).add("run-1", "cpu")
        assert waiting(made) == ["run-1"]


def test_a_step_that_fails_leaves_nothing_of_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patched:
        patched.setattr("alembic.operations.Operations.bulk_insert", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            Database.open(path)

    with by_hand(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == []
    Database.open(path).close()


# -- what is refused -----------------------------------------------------------------------------------------------


def test_a_database_of_a_newer_release_is_refused_and_left_as_it_is(path: Path) -> None:
    database(path).close()
    with by_hand(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()

    with pytest.raises(StorageError, match=r"has format 9999; this release knows formats up to 0001") as refused:
        Database.open(path)

    assert refused.value.fix == "Use a newer release."
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_as_it_is(path: Path) -> None:
    with by_hand(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    path.chmod(0o600)
    before = path.read_bytes()

    with pytest.raises(StorageError, match="database of another program"):
        Database.open(path)

    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"not a database, and long enough to be looked at " * 100, b"\0" * 8192])
def test_what_is_no_database_is_refused_with_a_fix_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(StorageError, match="file is not a database") as refused:
        Database.open(path)

    assert "Restore it from a backup, or move it away" in refused.value.fix
    assert path.read_bytes() == content


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps who may read a file elsewhere")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_one_that_others_may_read_or_write_is_refused_with_the_command_that_helps(path: Path, mode: int) -> None:
    database(path).close()
    path.chmod(mode)

    with pytest.raises(StorageError, match="can be read by others") as refused:
        Database.open(path)

    assert refused.value.fix == f"Run: chmod 600 {path}"


def test_a_home_that_is_a_file_is_said_to_be_unusable(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")

    with pytest.raises(StorageError, match=r"home/oneseek\.db could not be written"):
        Database.open(tmp_path / "home" / "oneseek.db")


def test_a_damaged_page_is_told_as_such(path: Path) -> None:
    with closing(database(path)) as made:
        for number in range(200):
            Queue(made).add(f"run-{number}", "cpu")
    content = bytearray(path.read_bytes())
    for page in range(2 * 4096, len(content), 4096):
        content[page : page + 512] = b"\xff" * 512
    path.write_bytes(content)

    with pytest.raises(StorageError, match="malformed") as refused, closing(Database.open(path)) as opened:
        waiting(opened)

    assert "Restore it from a backup" in refused.value.fix


@pytest.mark.parametrize(
    ("limit", "cause", "fix"),
    [
        pytest.param("max_page_count=1", "database or disk is full", "Free some space", id="full"),
        pytest.param("query_only=ON", "attempt to write a readonly database", "write permission", id="read-only"),
    ],
)
def test_a_disk_that_takes_nothing_is_a_storage_error_and_what_was_there_stays(
    path: Path, limit: str, cause: str, fix: str
) -> None:
    with closing(database(path)) as made:
        Queue(made).add("run-1", "cpu")
        pragma(made, limit)
        with pytest.raises(StorageError, match=cause) as refused:
            fill(made)
        kept = waiting(made)

    assert fix in refused.value.fix
    assert kept[0] == "run-1"
    with closing(Database.open(path)) as again:
        assert waiting(again) == kept
        Queue(again).add("run-after", "cpu")


def test_a_writer_that_never_ends_is_a_storage_error_for_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    with closing(database(path)) as made, by_hand(path) as other:
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StorageError, match="database is locked") as refused:
            Queue(made).add("run-1", "cpu")

        assert "Wait until the other process is done" in refused.value.fix
        assert waiting(made) == []


def test_who_opens_it_for_ever_is_a_storage_error_for_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)

    with FileLock(path.with_name(".oneseek.db.lock")), pytest.raises(StorageError, match="being opened by another"):
        Database.open(path)


def test_a_fault_of_ours_is_not_called_one_of_the_disk(path: Path) -> None:
    with closing(database(path)) as made, pytest.raises(IntegrityError), made.begin() as session:
        session.add(TokenRow(id="1", digest=b"1"))


# -- transactions --------------------------------------------------------------------------------------------------


def test_a_transaction_that_fails_leaves_nothing(path: Path) -> None:
    def change_and_fail(database: Database) -> None:
        with database.begin() as session:
            session.execute(text("UPDATE administrator SET tries = 7"))
            raise ZeroDivisionError

    with closing(database(path)) as made:
        with pytest.raises(ZeroDivisionError):
            change_and_fail(made)
        with made.read() as session:
            assert session.scalar(text("SELECT tries FROM administrator")) == 0


def test_who_reads_sees_one_state_and_keeps_nobody_from_writing(path: Path) -> None:
    count = text("SELECT count(*) FROM queue")
    with closing(database(path)) as made, made.read() as session:
        before = session.scalar(count)
        Queue(made).add("run-1", "cpu")
        after = session.scalar(count)

        assert (before, after, len(waiting(made))) == (0, 0, 1)


def test_what_only_reads_can_be_asked_while_another_writes(path: Path) -> None:
    with closing(database(path)) as made, made.begin() as session:
        session.execute(text("UPDATE administrator SET tries = 7"))

        with made.read() as other:
            assert other.scalar(text("SELECT tries FROM administrator")) == 0


def test_threads_that_read_and_then_write_take_turns(path: Path) -> None:
    def count(database: Database) -> None:
        with database.begin() as session:
            tries = session.scalar(text("SELECT tries FROM administrator"))
            time.sleep(0.001)
            session.execute(text("UPDATE administrator SET tries = :tries"), {"tries": tries + 1})

    with closing(database(path)) as made:
        with ThreadPoolExecutor(20) as threads:
            list(threads.map(count, [made] * 60))
        with made.read() as session:
            assert session.scalar(text("SELECT tries FROM administrator")) == 60


def test_more_threads_than_connections_are_kept_all_get_one(path: Path) -> None:
    together = threading.Barrier(40, timeout=30)

    def hold(database: Database) -> None:
        with database.read() as session:
            session.scalar(text("SELECT 1"))
            together.wait()

    with closing(database(path)) as made, ThreadPoolExecutor(40) as threads:
        list(threads.map(hold, [made] * 40))


ADD = """
import sys
from pathlib import Path
from oneseek.state.database import Database
from oneseek.state.queue import Queue

sys.stdin.readline()
database = Database.open(Path(sys.argv[1]))
for number in range(30):
    Queue(database).add(f"run-{sys.argv[2]}-{number}", "cpu")
"""


def test_processes_that_make_and_use_one_database_at_once_lose_nothing(path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ADD, str(path), name], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    time.sleep(0.5)  # both wait at the line, so that they begin together
    said = [process.communicate("\n", timeout=60)[1] for process in processes]

    assert said == ["", ""]
    with closing(Database.open(path)) as made:
        entries = Queue(made).entries()
    assert [entry.position for entry in entries] == list(range(60))
    assert {entry.run_id for entry in entries} == {f"run-{name}-{number}" for name in "ab" for number in range(30)}


# -- kills ---------------------------------------------------------------------------------------------------------


def storm(root: Path, kills: int, seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "support.state_storm", str(root), str(kills), str(seed)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=3000, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    left: dict[str, Any] = json.loads(done.stdout)
    return left


def test_nothing_acknowledged_is_lost_in_dozens_of_kills(tmp_path: Path) -> None:
    left = storm(tmp_path, 60, 1)

    assert (left["killed"], left["wrong"]) == (60, [])
    assert left["told"] > 60  # else they died before they had acknowledged anything


@pytest.mark.soak
def test_nothing_acknowledged_is_lost_in_thousands_of_kills(tmp_path: Path) -> None:
    left = storm(tmp_path, 3000, int(time.time()))

    assert (left["killed"], left["wrong"]) == (3000, [])
