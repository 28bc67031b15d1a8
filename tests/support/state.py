"""Databases for tests: an empty one takes milliseconds, once one was made."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from sqlalchemy import event

from oneseek.files.durable import create_exclusively
from oneseek.state.database import Database


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 21, 8, 19, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def go(self, **by: float) -> None:
        self.time += timedelta(**by)


def database(path: Path) -> Database:
    """The one at `path`, empty where there is none."""
    create_exclusively(path, _empty(), mode=0o600)
    return Database.open(path)


def pragma(database: Database, statement: str) -> None:
    """Let every connection of the database begin with this."""
    database.close()
    event.listen(database._writing, "connect", lambda connection, _: connection.execute(f"PRAGMA {statement}"))


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "oneseek.db")
        Database.open(path).close()
        return path.read_bytes()
