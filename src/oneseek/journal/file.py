"""The journal on disk: read it, append to it, follow it while another process writes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from oneseek.errors import JournalDamaged, RunError
from oneseek.events import AnyEvent
from oneseek.files.durable import storage_errors, sync_directory
from oneseek.journal.record import GENESIS, Journal, Record, decode, encode


def read(path: Path) -> Journal:
    """The whole records of a journal; a torn tail is left out.

    Raises:
        RunError: there is no journal.
        JournalDamaged: a record in its middle is not what was written, or it is no regular file.
    """
    try:
        require_regular(path)
        return decode(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path.parent.name} has no journal.", "`oneseek runs list` shows the runs there are.") from None


def require_regular(path: Path) -> None:
    """Look what is there before it is opened: a link could lead anywhere, and a pipe would be waited for for ever.

    Raises:
        FileNotFoundError: nothing.
        JournalDamaged: no regular file.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise JournalDamaged("The journal is no regular file.", "Restore it from a backup.")


def begins(path: Path) -> bool:
    """Whether the file has a first whole line: without one, no run was ever accepted here."""
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


def follow(path: Path, position: int, seq: int, prev: str) -> Journal:
    """What was appended since: records from `seq` on, found from byte `position` behind a record with digest `prev`."""
    with path.open("rb") as file:
        file.seek(position)
        return decode(file.read(), seq=seq, prev=prev)


class Writer:
    """The one process that appends. Opening heals the file first: a torn tail is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            # Unbuffered: what a failed write left in a buffer could otherwise reach the file later.
            self._file = path.open("r+b" if path.exists() else "x+b", buffering=0)
            journal = decode(self._file.readall())
            self._cut(journal.whole)
            os.fsync(self._file.fileno())
            sync_directory(path.parent)
        self._next_seq = journal.next_seq
        self._prev = journal.head

    def append(self, event: AnyEvent, *, durable: bool) -> Record:
        """Write one record; with `durable` it is on disk when this returns.

        Raises:
            StorageError: it could not be written; the journal ends with the record before it.
        """
        at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = Record(seq=self._next_seq, at=at, prev=self._prev, event=event)
        line, digest = encode(record)
        with storage_errors(self._path):
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[self._file.write(rest) :]
                if durable:
                    os.fsync(self._file.fileno())
            except BaseException:  # Ctrl-C in the middle of it, too
                self._cut(self._end)
                raise
        self._end += len(line)
        self._next_seq += 1
        self._prev = digest
        return record

    def _cut(self, end: int) -> None:
        self._file.truncate(end)
        self._file.seek(end)
        self._end = end

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Reader:
    """Follows a journal: each call of `new` gives the records appended since the last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._seq = 1
        self._prev = GENESIS

    def new(self) -> Iterator[Record]:
        if not self._path.exists():
            return
        part = follow(self._path, self._position, self._seq, self._prev)
        self._position += part.whole
        self._seq += len(part.records)
        self._prev = part.head
        yield from part.records
