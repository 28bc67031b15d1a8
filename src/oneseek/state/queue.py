"""Which runs wait for which device, in what order, and which process has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime

import msgspec
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from oneseek.errors import RunError, RunUnknown
from oneseek.state.database import Database, utc
from oneseek.state.tables import QueueRow


class Entry(msgspec.Struct, frozen=True):
    """A run in the queue: it waits, or a process trains it."""

    run_id: str
    device: str
    position: int | None
    """0 is the next one on its device; None where a process trains it."""
    pid: int | None
    started: float | None
    """Seconds since 1970, as psutil's create_time says of `pid`."""
    added_at: datetime


class Queue:
    """The queue of every device. Any number of threads may use it at once.

    Every method raises StorageError where the database can't be read or written.
    """

    def __init__(self, database: Database, now: Callable[[], datetime] = utc) -> None:
        self._database = database
        self._now = now

    def add(self, run_id: str, device: str) -> Entry:
        """Put a run at the end of a device's queue.

        Raises:
            RunError: it is in the queue already.
        """
        with self._database.begin() as session:
            if session.get(QueueRow, run_id) is not None:
                raise RunError(f"{run_id} is in the queue already.", "See it with GET /api/queue.")
            place = session.scalars(select(func.coalesce(func.max(QueueRow.place) + 1, 0))).one()
            session.add(QueueRow(run_id=run_id, device=device, place=place, added_at=self._now()))
            session.flush()
            return _entry(session, run_id)

    def entries(self) -> tuple[Entry, ...]:
        """Everything that is in it, by device: first what runs, then what waits, in order."""
        with self._database.read() as session:
            return _entries(session)

    def move(self, run_id: str, position: int) -> Entry:
        """Let a run that waits wait at this position among those of its device: 0 is next, past the end is last.

        Raises:
            RunUnknown: it is not in the queue.
            RunError: it waits no more.
        """
        with self._database.begin() as session:
            row = _row(session, run_id)
            if row.pid is not None:
                raise RunError(f"{run_id} waits no more: it is running.", "Move one that waits.")
            waiting = select(QueueRow).where(QueueRow.device == row.device, QueueRow.pid.is_(None))
            others = [other for other in session.scalars(waiting.order_by(QueueRow.place)) if other is not row]
            others.insert(max(position, 0), row)
            for place, each in enumerate(others):
                each.place = place
            session.flush()
            return _entry(session, run_id)

    def begun(self, run_id: str, pid: int, started: float) -> None:
        """A process trains the run now.

        Raises:
            RunUnknown: it is not in the queue.
        """
        with self._database.begin() as session:
            row = _row(session, run_id)
            row.pid, row.started = pid, started

    def remove(self, run_id: str) -> None:
        """Take a run out, whether it waits or runs; one that is not there is left alone."""
        with self._database.begin() as session:
            row = session.get(QueueRow, run_id)
            if row is not None:
                session.delete(row)


def _row(session: Session, run_id: str) -> QueueRow:
    row = session.get(QueueRow, run_id)
    if row is None:
        raise RunUnknown(f"{run_id} is not in the queue.", "See what is with GET /api/queue.")
    return row


def _entry(session: Session, run_id: str) -> Entry:
    return next(entry for entry in _entries(session) if entry.run_id == run_id)


def _entries(session: Session) -> tuple[Entry, ...]:
    ordered = select(QueueRow).order_by(QueueRow.device, QueueRow.pid.is_(None), QueueRow.place)
    waiting: Counter[str] = Counter()
    entries = []
    for row in session.scalars(ordered):
        position = None
        if row.pid is None:
            position = waiting[row.device]
            waiting[row.device] += 1
        entries.append(Entry(row.run_id, row.device, position, row.pid, row.started, row.added_at))
    return tuple(entries)
