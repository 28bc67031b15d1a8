"""One SQLite file, used by several threads of the server and, beside it, by `oneseek admin`.

It is in WAL mode, so that who reads waits for nobody, with `synchronous=FULL`, so that a commit is on disk when it
returns. Its tables are made and brought up to date by the steps in migrations/.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from oneseek.errors import StorageError
from oneseek.files.durable import create_exclusively, storage_errors

PATIENCE: Final = 30.0
"""Seconds to wait for another one that writes."""

_APPLICATION: Final = int.from_bytes(b"1Sst", "big")
_OTHERS: Final = 0o077
_RESTORE: Final = "Restore it from a backup, or move it away: runs, datasets and models are not in it"

# By the primary code of SQLite's error, what to do. What is not here is a fault of ours, and is raised as it is.
_FIXES: Final = {
    sqlite3.SQLITE_BUSY: "Wait until the other process is done",
    sqlite3.SQLITE_LOCKED: "Wait until the other process is done",
    sqlite3.SQLITE_FULL: "Free some space",
    sqlite3.SQLITE_IOERR: "Check the disk, and whether it is full",
    sqlite3.SQLITE_READONLY: "Give yourself write permission",
    sqlite3.SQLITE_PERM: "Give yourself permission",
    sqlite3.SQLITE_AUTH: "Give yourself permission",
    sqlite3.SQLITE_CANTOPEN: "Check the path, and that you may write there",
    sqlite3.SQLITE_PROTOCOL: "Keep it on a local disk",
    sqlite3.SQLITE_NOLFS: "Keep it on another disk",
    sqlite3.SQLITE_NOMEM: "End other programs",
    sqlite3.SQLITE_CORRUPT: _RESTORE,
    sqlite3.SQLITE_NOTADB: _RESTORE,
}


def utc() -> datetime:
    return datetime.now(UTC)


class Database:
    """The open database. Every method raises StorageError where the file can't be read or written."""

    def __init__(self, path: Path) -> None:
        """Not yet usable: see `open`."""
        self._path = path
        self._writing = create_engine(
            URL.create("sqlite", database=str(path.absolute())),
            connect_args={"timeout": PATIENCE, "isolation_level": None},  # `_begin` says when a transaction begins
            max_overflow=-1,  # who waits for the disk keeps nobody else from a connection
        )
        event.listen(self._writing, "connect", _set_up)
        event.listen(self._writing, "begin", _begin)
        self._reading = self._writing.execution_options(begin="BEGIN DEFERRED")

    @classmethod
    def open(cls, path: Path) -> Database:
        """The database at `path`, made where there is none, readable by its owner alone, with the newest tables.

        Raises:
            StorageError: it can't be read or written; others may read it; it is no database of OneSeek, or one of a
                newer release.
        """
        create_exclusively(path, b"", mode=0o600)
        database = cls(path)
        try:
            with _only_opener(path), database._storage_errors():
                _check_file(path)
                with database._writing.begin() as connection:
                    _migrate(connection, path)
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """A transaction that writes, one at a time. What was done in it is on disk after it, or none of it where it
        ended with an error."""
        with self._storage_errors(), Session(self._writing, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads: one state of everything, whoever writes meanwhile."""
        with self._storage_errors(), Session(self._reading, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self._writing.dispose()

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            cause = error.orig if isinstance(error, DBAPIError) else error
            fix = _FIXES.get(getattr(cause, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF)
            if fix is None:
                raise
            raise StorageError(f"{self._path} could not be used: {cause}.", f"{fix}, then try again.") from error


def _set_up(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: Connection) -> None:
    # IMMEDIATE waits for its turn at once: a transaction that reads first and then writes would fail instead.
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN IMMEDIATE"))


# -- opening -------------------------------------------------------------------------------------------------------


@contextmanager
def _only_opener(path: Path) -> Iterator[None]:
    """SQLite does not wait for others that put a file into WAL mode at the same time: it fails."""
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=PATIENCE, poll_interval=0.01)
    with storage_errors(path):
        try:
            lock.acquire()
        except Timeout as error:
            raise StorageError(
                f"{path} is being opened by another process.", "Wait until it is done, then try again."
            ) from error
    try:
        yield
    finally:
        lock.release()


def _check_file(path: Path) -> None:
    """That it is ours, and nobody else's to read; WAL mode is a property of the file."""
    with storage_errors(path):
        mode = path.stat().st_mode
    if os.name != "nt" and mode & _OTHERS:  # Windows keeps who may read a file elsewhere
        raise StorageError(f"{path} can be read by others than its owner.", f"Run: chmod 600 {shlex.quote(str(path))}")
    with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION:
            if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() != (0,):
                raise StorageError(f"{path} is a database of another program.", f"{_RESTORE}.")
            connection.execute(f"PRAGMA application_id={_APPLICATION}")
        connection.execute("PRAGMA journal_mode=WAL")


def _migrate(connection: Connection, path: Path) -> None:
    """Take the steps that the file has not taken yet, all of them in the transaction that is open."""
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "oneseek.state:migrations")
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    has = MigrationContext.configure(connection).get_current_revision()
    if has is not None and has not in known:
        raise StorageError(
            f"{path} has format {has}; this release knows formats up to {max(known)}.", "Use a newer release."
        )
    command.upgrade(config, "head")
