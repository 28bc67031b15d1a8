"""The ledger of a home: a log in one SQLite file that only grows.

A batch of entries, the tree's new nodes and the checkpoint over all of them are one transaction. After it, and before
anything is acknowledged, the checkpoint is also kept beside the key: by it an older or another ledger.db is found out.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from oneseek.errors import KeyRefused, LedgerDamaged, ProofInvalid, StorageError
from oneseek.files.durable import TEMP_SUFFIX, make_directory, storage_errors, sync_directory, write_bytes
from oneseek.ledger import checkpoint
from oneseek.ledger.checkpoint import Checkpoint
from oneseek.ledger.entry import Statement, encode, entry_of, stamped, statement_of
from oneseek.ledger.log import Log, Logged
from oneseek.ledger.merkle import (
    EMPTY,
    Hash,
    check_consistency,
    check_inclusion,
    completed,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root,
)
from oneseek.ledger.note import SignerKey, VerifierKey
from oneseek.ledger.proof import Proof

FORMAT: Final = 1
PATIENCE: Final = 60.0
"""Seconds to wait for another process that writes."""

_APPLICATION: Final = int.from_bytes(b"1Sek", "big")
_MEMORY: Final = ":memory:"
_RESTORE: Final = (
    "Keep ledger.db as it is, to find out what happened; then restore it and keys/ together from a backup that passes "
    "an audit."
)

_TABLES: Final = {
    "entries": "(idx INTEGER PRIMARY KEY, statement BLOB NOT NULL UNIQUE, data BLOB NOT NULL)",
    "nodes": "(level INTEGER, idx INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, idx)) WITHOUT ROWID",
    "checkpoints": "(size INTEGER PRIMARY KEY, note TEXT NOT NULL)",
}
# Asked before anything is replaced, so that INSERT OR REPLACE fails too.
_NOT_NEXT: Final = {
    "entries": "new.idx IS NOT (SELECT coalesce(max(idx) + 1, 0) FROM entries)"
    " OR new.statement IN (SELECT statement FROM entries)",
    "nodes": "new.idx IS NOT (SELECT coalesce(max(idx) + 1, 0) FROM nodes WHERE level IS new.level)",
    "checkpoints": "new.size <= (SELECT max(size) FROM checkpoints)",
}
_SCHEMA: Final = (
    *(f"CREATE TABLE {name} {columns}" for name, columns in _TABLES.items()),
    *(
        f"CREATE TRIGGER {name}_{verb} BEFORE {verb} ON {name} BEGIN SELECT raise(ABORT, '{name} are kept'); END"
        for name in _TABLES
        for verb in ("UPDATE", "DELETE")
    ),
    *(
        f"CREATE TRIGGER {name}_INSERT BEFORE INSERT ON {name} WHEN {wrong}"
        f" BEGIN SELECT raise(ABORT, '{name} follow one another'); END"
        for name, wrong in _NOT_NEXT.items()
    ),
)

# By the primary code of SQLite's error. What is in neither is a fault of ours, and is raised as it is.
_STORAGE: Final = {
    sqlite3.SQLITE_BUSY: ("another process is writing to it", "Wait until it is done"),
    sqlite3.SQLITE_LOCKED: ("another process is writing to it", "Wait until it is done"),
    sqlite3.SQLITE_FULL: ("no space is left on the disk", "Free some space"),
    sqlite3.SQLITE_IOERR: ("the disk reported an input/output error", "Check the disk"),
    sqlite3.SQLITE_READONLY: ("it may not be written", "Give yourself write permission"),
    sqlite3.SQLITE_PERM: ("permission is denied", "Give yourself permission"),
    sqlite3.SQLITE_AUTH: ("permission is denied", "Give yourself permission"),
    sqlite3.SQLITE_CANTOPEN: ("it cannot be opened", "Check the path, and that you may write there"),
    sqlite3.SQLITE_PROTOCOL: ("its locks do not work", "Keep it on a local disk"),
    sqlite3.SQLITE_NOLFS: ("the disk takes no file that large", "Keep it on another disk"),
    sqlite3.SQLITE_NOMEM: ("no memory is left", "End other programs"),
}
_DAMAGED: Final = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_EMPTY,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_ERROR,  # a table or a column is gone
)


def utc() -> datetime:
    return datetime.now(UTC)


class Store(Log):
    """A log on this machine. Any number of processes and threads may use it at once; one at a time appends."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        key: VerifierKey,
        signer: SignerKey | None,
        last_checkpoint: Path | None,
        now: Callable[[], datetime],
    ) -> None:
        self._path = path
        self._connection = connection
        self._key = key
        self._signer = signer
        self._last_checkpoint = last_checkpoint
        self._now = now
        self._using = _Using(path)

    @classmethod
    def open(
        cls, path: Path, key: SignerKey, last_checkpoint: Path | None = None, now: Callable[[], datetime] = utc
    ) -> Store:
        """The log at `path`, made where there is none. `Path(":memory:")` is one that nobody else sees.

        last_checkpoint: where the newest checkpoint is kept a second time. Every opening must name the same.

        Raises:
            KeyRefused: `key` is that of another log.
            LedgerDamaged: it is not what was signed, no ledger at all, or one of a later release.
            StorageError: it could not be read or written.
        """
        with _only_process(path):
            if str(path) != _MEMORY and not path.exists():
                _make(path, key, last_checkpoint)
            store = cls(path, _connect(path, "mode=rw"), key.verifier, key, last_checkpoint, now)
            if str(path) == _MEMORY:
                _lay_out(store._connection, key)
            try:
                store._begin()
            except BaseException:
                store.close()
                raise
        return store

    @classmethod
    def read(cls, path: Path, key: VerifierKey, last_checkpoint: Path | None = None) -> Store:
        """The log at `path`, to be read only, however damaged it is. Nothing is made or changed.

        Raises:
            LedgerDamaged: it is no ledger, or one of a later release.
            StorageError: it could not be read.
        """
        store = cls(path, _connect(path, _reading(path)), key, None, last_checkpoint, utc)
        try:
            with store._using:
                store._connection.execute("PRAGMA query_only=ON")
                store._check_format()
        except BaseException:
            store.close()
            raise
        return store

    @property
    def key(self) -> VerifierKey:
        return self._key

    def append(self, statements: Sequence[bytes]) -> list[Logged]:
        signer, wanted = self._signer, [(data, statement_of(data)) for data in statements]
        if signer is None:
            raise RuntimeError(f"{self._path} was opened to be read")
        with self._using, _only_process(self._path):
            with self._transaction():
                before = self._checked()
                self._keep_checkpoint()  # where a writer was killed before it could
                timestamp = self._timestamp(before.size)
                indices = [self._index(data, statement, timestamp) for data, statement in wanted]
                newest, note = self._signed(before, signer)
                logged = [self._proved(index, newest, note) for index in indices]
            self._keep_checkpoint()
        return logged

    def checkpoint(self) -> str:
        return self.checkpoints(newest=1)[0][1]

    def checkpoints(self, newest: int = -1) -> list[tuple[int, str]]:
        """(size, note) of what was signed, the newest first; as many as are asked for, or all."""
        with self._using:
            found = self._connection.execute(
                "SELECT size, CAST(note AS TEXT) FROM checkpoints ORDER BY size DESC LIMIT ?", (newest,)
            ).fetchall()
        if not found:
            raise self._damaged("has no checkpoint any more")
        return found

    def node(self, level: int, index: int) -> Hash:
        with self._using:
            found = self._connection.execute(
                "SELECT hash FROM nodes WHERE level = ? AND idx = ?", (level, index)
            ).fetchone()
        if found is None or not isinstance(found[0], bytes):
            raise self._damaged(f"has lost the hash over {leaves(level, index)}")
        return found[0]

    def entries(self, start: int, stop: int) -> list[bytes]:
        with self._using:
            found = self._connection.execute(
                "SELECT idx, data FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx", (start, stop)
            ).fetchall()
        for index, (at, data) in enumerate(found, start):
            if at != index or not isinstance(data, bytes):
                raise self._damaged(f"has lost {leaves(0, index)}")
        return [data for _, data in found]

    def prove(self, index: int) -> Logged:
        (size, note), *_ = self.checkpoints(newest=1)
        newest = self._understood(size, note)
        if not 0 <= index < size:
            raise ProofInvalid(f"The ledger has no entry {index}; it has {size}.")
        return self._proved(index, newest, note)

    def close(self) -> None:
        with self._using:
            self._connection.close()

    def digests(self, start: int, stop: int) -> list[bytes]:
        """SHA-256 of the statements of the entries from index `start` up to `stop`, by which they are found again."""
        with self._using:
            found = self._connection.execute(
                "SELECT statement FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx", (start, stop)
            ).fetchall()
        return [digest for (digest,) in found]

    def check(self) -> None:
        """Whether the next entry can be added: the newest checkpoint is signed, the tree has its root, nothing is
        behind its last entry, it is the one that is kept beside the key, or the next, and the triggers are there.

        Raises:
            LedgerDamaged: it can't. What differs is named.
        """
        with self._using, self._transaction("DEFERRED"):
            size = self._checked().size
            held = self._told("SELECT count(*) FROM entries")
            counts = dict(self._connection.execute("SELECT level, count(*) FROM nodes GROUP BY level"))
        if held != size or counts != {level: size >> level for level in range(size.bit_length())}:
            raise self._damaged(f"has more entries or hashes than a tree of {size} entries")
        with self._using:
            self._check_schema()

    # -- opening ---------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        with self._using:
            self._check_format()
            self._check_schema()
            self._check_origin()
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")  # a commit is on disk when it returns
            with self._transaction():
                self._checked()
        self._keep_checkpoint()

    def _check_format(self) -> None:
        if self._told("PRAGMA application_id") != _APPLICATION:
            raise self._damaged("is no ledger of OneSeek")
        version = self._told("PRAGMA user_version")
        if version > FORMAT:
            raise LedgerDamaged(
                f"{self._path} has format {version}; this release knows formats up to {FORMAT}.",
                "Use a newer release.",
            )

    def _check_schema(self) -> None:
        """Not asked by who only reads: what was done while a trigger was away is in the entries, and found there."""
        found = self._connection.execute(
            "SELECT sql FROM sqlite_schema WHERE substr(name, 1, 7) <> 'sqlite_'"
        ).fetchall()
        if sorted(sql for (sql,) in found) != sorted(_SCHEMA):
            raise self._damaged("has other tables or triggers than it was made with")

    def _check_origin(self) -> None:
        origin = self.checkpoint().partition("\n")[0]
        if origin != self._key.name:
            raise KeyRefused(
                f"{self._path} is the log {origin!r}; the key is that of {self._key.name!r}.",
                "Restore the key that belongs to it, or keep the other log in a home of its own.",
            )

    # -- what is there ---------------------------------------------------------------------------------------------

    def _checked(self) -> Checkpoint:
        """The newest checkpoint, where everything that the next one builds on agrees with it."""
        kept = self._kept()  # before anything else: what others add meanwhile is not in it
        (size, note), *older = self.checkpoints(newest=2)
        newest = self._understood(size, note)
        held = self._size()
        if held != size:
            raise self._damaged(f"has {held} entries; its newest checkpoint says {size}")
        if size and leaf_hash(self._entry(size - 1)) != self.node(0, size - 1):
            raise self._damaged(f"has another entry {size - 1} than was logged")
        if root(size, self.node) != newest.root:
            raise self._damaged(f"has another root than its checkpoint of size {size}")
        if kept is not None:
            self._check_kept(kept, size, previous=older[0][0] if older else 0)
        return newest

    def _check_kept(self, kept: Checkpoint, size: int, previous: int) -> None:
        """Against the checkpoint beside the key: the newest, or the previous one where a writer was killed."""
        where = self._last_checkpoint
        if kept.size > size:
            raise self._damaged(f"has {size} entries; {where} says that it had {kept.size}")
        if root(kept.size, self.node) != kept.root:
            raise self._damaged(f"does not begin with the {kept.size} entries that {where} is signed for")
        if kept.size < previous and (now := self._kept()) is not None and now.size < previous:
            raise LedgerDamaged(
                f"{where} is of size {now.size}, but {self._path} was not written without one of size {previous}: an "
                "older copy was put there.",
                "Where keys/ was restored from a backup, remove that file after an audit with the checkpoints of all "
                "runs: oneseek ledger audit",
            )

    def _understood(self, size: int, note: str) -> Checkpoint:
        try:
            found = checkpoint.read(note, self._key)
        except ProofInvalid as error:
            raise self._damaged(f"has a false checkpoint of size {size}: {error.problem.rstrip('.')}") from error
        if found.size != size:
            raise self._damaged(f"has a checkpoint of size {found.size} where that of size {size} belongs")
        return found

    def _kept(self) -> Checkpoint | None:
        return _kept(self._last_checkpoint, self._key)

    def _entry(self, index: int) -> bytes:
        found = self.entries(index, index + 1)
        if not found:
            raise self._damaged(f"has lost {leaves(0, index)}")
        return found[0]

    # -- appending -------------------------------------------------------------------------------------------------

    def _timestamp(self, size: int) -> str:
        """Now, but never before the last of `size` entries."""
        now = self._now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return max(now, entry_of(self._entry(size - 1)).timestamp) if size else now

    def _index(self, data: bytes, statement: Statement, timestamp: str) -> int:
        """Of a statement's entry: the one that is there, or a new one."""
        digest = hashlib.sha256(data).digest()
        known = self._connection.execute("SELECT idx FROM entries WHERE statement = ?", (digest,)).fetchone()
        if known is not None:
            if unstamped(self._entry(known[0])) != data:
                raise self._damaged(f"has another statement in {leaves(0, known[0])} than it is found by")
            return int(known[0])
        index, entry = self._size(), encode(stamped(statement, timestamp))
        self._connection.execute("INSERT INTO entries VALUES (?, ?, ?)", (index, digest, entry))
        nodes = list(completed(index, leaf_hash(entry), self.node))
        self._connection.executemany("INSERT INTO nodes VALUES (?, ?, ?)", nodes)
        return index

    def _signed(self, before: Checkpoint, signer: SignerKey) -> tuple[Checkpoint, str]:
        """The newest checkpoint and its note: signed now, where anything was added."""
        size = self._size()
        if size == before.size:
            return before, self.checkpoint()
        now = Checkpoint(self._key.name, size, root(size, self.node))
        try:
            steps = consistency_proof(before.size, size, self.node)
            check_consistency(before.size, before.root, size, now.root, steps)
        except ProofInvalid as error:
            raise LedgerDamaged(f"{self._path}: {error.problem}", _RESTORE) from error
        note = checkpoint.sign(size, now.root, signer)
        self._connection.execute("INSERT INTO checkpoints VALUES (?, ?)", (size, note))
        return now, note

    def _proved(self, index: int, newest: Checkpoint, note: str) -> Logged:
        entry = self._entry(index)
        steps = inclusion_proof(index, newest.size, self.node)
        try:
            check_inclusion(leaf_hash(entry), index, newest.size, steps, newest.root)
        except ProofInvalid as error:
            raise LedgerDamaged(f"{self._path}: {error.problem}", _RESTORE) from error
        return Logged(entry, Proof(index, steps, note))

    def _keep_checkpoint(self) -> None:
        note = self.checkpoint()
        if self._last_checkpoint is not None and note != _note_in(self._last_checkpoint):
            with storage_errors(self._last_checkpoint):
                make_directory(self._last_checkpoint.parent)
            write_bytes(self._last_checkpoint, note.encode())

    # -- one at a time ---------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite ends it by itself where the disk failed
                self._connection.execute("ROLLBACK")
            raise

    def _size(self) -> int:
        """Entries that are there, whatever is signed."""
        return self._told("SELECT coalesce(max(idx) + 1, 0) FROM entries")

    def _told(self, question: str) -> int:
        """The one number that a query answers."""
        (answer,) = self._connection.execute(question).fetchone()
        return int(answer)

    def _damaged(self, what: str) -> LedgerDamaged:
        return LedgerDamaged(f"{self._path} {what}.", _RESTORE)


def unstamped(entry: bytes) -> bytes:
    """The statement in an entry: RFC 8785 sorts the timestamp behind everything else."""
    return entry.rpartition(b',"timestamp":')[0] + b"}"


def leaves(level: int, index: int) -> str:
    """What is below a node of the tree, in words: `entry 17`, `entries 16 to 19`."""
    first, last = index << level, ((index + 1) << level) - 1
    return f"entry {first}" if level == 0 else f"entries {first} to {last}"


def _connect(path: Path, how: str) -> sqlite3.Connection:
    name = _MEMORY if str(path) == _MEMORY else f"{path.absolute().as_uri()}?{how}"
    with _Using(path):
        connection = sqlite3.connect(name, timeout=PATIENCE, isolation_level=None, check_same_thread=False, uri=True)
    connection.text_factory = lambda text: text.decode(errors="replace")  # what is no UTF-8 is no signed note either
    return connection


def _reading(path: Path) -> str:
    """How SQLite opens a file to be read. Where it may be written, closing it removes what reading put beside it."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "mode=rw"
    return "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"


def _make(path: Path, key: SignerKey, last_checkpoint: Path | None) -> None:
    """An empty log at `path`, all of it in one rename."""
    kept = _kept(last_checkpoint, key.verifier)
    if kept is not None and kept.size:
        raise LedgerDamaged(f"{path} is gone; {last_checkpoint} says that it had {kept.size} entries.", _RESTORE)
    temporary = path.with_name(path.name + TEMP_SUFFIX)
    with storage_errors(path):
        temporary.unlink(missing_ok=True)
        with closing(_connect(temporary, "mode=rwc")) as connection, _Using(temporary):
            connection.execute("PRAGMA journal_mode=OFF")  # what is killed here is made again from the beginning
            connection.execute("PRAGMA synchronous=FULL")
            _lay_out(connection, key)
        temporary.replace(path)
        sync_directory(path.parent)


def _lay_out(connection: sqlite3.Connection, key: SignerKey) -> None:
    """The tables, and the checkpoint of the empty tree."""
    connection.execute("BEGIN")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id={_APPLICATION}")
    connection.execute(f"PRAGMA user_version={FORMAT}")
    connection.execute("INSERT INTO checkpoints VALUES (0, ?)", (checkpoint.sign(0, EMPTY, key),))
    connection.execute("COMMIT")


def _note_in(path: Path) -> str | None:
    try:
        return path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}.", "Give yourself permission.") from error


def _kept(path: Path | None, key: VerifierKey) -> Checkpoint | None:
    """The checkpoint beside the key."""
    note = None if path is None else _note_in(path)
    try:
        return None if note is None else checkpoint.read(note, key)
    except ProofInvalid as error:
        raise LedgerDamaged(f"{path}: {error.problem}", _RESTORE) from error


@contextmanager
def _only_process(path: Path) -> Iterator[None]:
    """One process at a time writes the log and then the checkpoint beside the key, which so never goes back."""
    if str(path) == _MEMORY:
        yield
        return
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=PATIENCE, poll_interval=0.01)
    with storage_errors(path):
        make_directory(path.parent)
        try:
            lock.acquire()
        except Timeout as error:
            raise _unusable(path, sqlite3.SQLITE_BUSY) from error
    try:
        yield
    finally:
        lock.release()


class _Using:
    """One thread at a time uses a connection, and every error of SQLite inside becomes one of ours. It is entered for
    each hash of an audit: a generator would take longer than the query."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._lock.release()
        if isinstance(error, sqlite3.Error):
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF
            if code in _DAMAGED:
                raise LedgerDamaged(f"{self._path} is damaged: {error}.", _RESTORE) from error
            if code in _STORAGE:
                raise _unusable(self._path, code) from error


def _unusable(path: Path, code: int) -> StorageError:
    cause, fix = _STORAGE[code]
    return StorageError(f"{path} could not be used: {cause}.", f"{fix}, then try again.")
