"""The one process that may write a run: it holds the run's lock, appends to its journal, and knows its state."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import msgspec
from filelock import FileLock, Timeout

from oneseek.certificate.seal import is_certified
from oneseek.config.schema import TrainingConfig
from oneseek.errors import RunError, StorageError
from oneseek.events import DISPLAY_ONLY, AnyEvent, RunAccepted
from oneseek.events.state import RunState, apply, begin, replay
from oneseek.files.durable import TEMP_SUFFIX, make_directory, storage_errors, sweep, write_bytes
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import Writer, read
from oneseek.journal.record import Record
from oneseek.runs.process import Process

TRIES: Final = 100
"""To remove `work/`, each after a hundredth of a second."""

Watch = Callable[[Record, RunState], None]


def nobody(record: Record, state: RunState) -> None:
    """Watches nothing."""


class Recorder:
    """`record` is the only way in which a run's state changes. Leaving it as a context manager frees the lock."""

    def __init__(self, directory: RunDirectory, lock: FileLock, writer: Writer, state: RunState, watch: Watch) -> None:
        self.directory = directory
        self.state = state
        self.config = TrainingConfig.model_validate(state.config)
        self.last_at = ""
        self._lock = lock
        self._writer = writer
        self._watch = watch

    @classmethod
    def begin(cls, directory: RunDirectory, accepted: RunAccepted, watch: Watch) -> Self:
        """A new run, whose directory was just reserved."""
        lock = _take(directory)
        writer = Writer(directory.journal)
        record = writer.append(accepted, durable=True)
        recorder = cls(directory, lock, writer, begin(accepted), watch)
        watch(record, recorder.state)
        return recorder

    @classmethod
    def reopen(cls, directory: RunDirectory, watch: Watch) -> Self:
        """A run that is there, healed.

        Raises:
            RunError: it is certified, another process is training it, or there is nothing of it yet.
            JournalDamaged: its journal is not what was written.
        """
        known = replay(record.event for record in read(directory.journal).records)
        if known and known.over and is_certified(directory):
            raise RunError(f"{directory.run_id} is complete.", f"Its files are in {directory.root}.")
        published = known is not None and known.over and is_published(directory)
        lock = _take(directory)
        if not published:  # what is written then, is written by whoever certifies the run
            with storage_errors(directory.root):
                sweep(directory.root)
        writer = Writer(directory.journal)
        state = replay(record.event for record in read(directory.journal).records)
        if state is None:
            raise RunError(f"{directory.run_id} was never accepted.", "Start it again with `oneseek train`.")
        return cls(directory, lock, writer, state, watch)

    def record(self, event: AnyEvent) -> None:
        """Append, then apply, then show. What decides anything is on disk before anybody sees it."""
        record = self._writer.append(event, durable=not isinstance(event, DISPLAY_ONLY))
        self.state = apply(self.state, event)
        self.last_at = record.at
        self._watch(record, self.state)

    def record_if_possible(self, event: AnyEvent) -> None:
        """Record how the run was broken off, unless the disk is what failed and refuses this too."""
        with suppress(StorageError):
            self.record(event)

    def close(self) -> None:
        """Let go of the run. One that is published loses its lock with the rest of `work/`."""
        self._writer.close()
        with suppress(OSError):  # one that stays says nothing: who reads it looks whether that process lives
            self.directory.process.unlink(missing_ok=True)
        self._lock.release()
        if self.state.over:
            remove_work(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def marks(directory: RunDirectory) -> set[Path]:
    """What a process leaves in `work/` by taking the run."""
    return {directory.lock, directory.process, directory.process.with_name(directory.process.name + TEMP_SUFFIX)}


def is_published(directory: RunDirectory) -> bool:
    """Whether all files of a finished run are written: what they are written from goes last, and then at most the marks
    of its process are left in `work/`, until it has let go."""
    with storage_errors(directory.work):
        try:
            return set(directory.work.iterdir()) <= marks(directory)
        except FileNotFoundError:
            return True


def remove_work(directory: RunDirectory) -> None:
    """Remove `work/` once nothing but the lock is left in it. On Windows, who looks whether the run is running may have
    the lock open just now, or make it anew: only for an instant, so it is tried again."""
    with storage_errors(directory.work):
        for left in reversed(range(TRIES)):
            try:
                if directory.work.exists() and set(directory.work.iterdir()) <= marks(directory):
                    for mark in marks(directory):
                        mark.unlink(missing_ok=True)
                    directory.work.rmdir()
                return
            except OSError:
                if not left:
                    raise
                time.sleep(0.01)


def is_running(directory: RunDirectory) -> bool:
    """Whether some process holds the run's lock. Nothing is made to find out, and who looks keeps no other from it."""
    if sys.platform == "win32":
        return _refuses(directory)
    import fcntl

    try:
        with directory.lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    except OSError:  # a file system without flock, where filelock has its own way
        return _refuses(directory)
    return False


def _refuses(directory: RunDirectory) -> bool:
    """Whether the lock can't be had. Who asks holds it for an instant, so a second look decides."""
    if not directory.lock.exists():
        return False
    lock = FileLock(directory.lock)
    try:
        lock.acquire(timeout=0.1, poll_interval=0.02)
    except Timeout:
        return True
    except (FileNotFoundError, FileExistsError):  # `work/` went meanwhile; filelock tried to make it
        return False
    lock.release()
    return False


def _take(directory: RunDirectory) -> FileLock:
    """The run's lock, and beside it who has it."""
    with storage_errors(directory.work):
        make_directory(directory.work)
        lock = FileLock(directory.lock)
        try:
            lock.acquire(timeout=1)  # somebody may just be looking whether it runs
        except Timeout:
            raise RunError(
                f"{directory.run_id} is running already.",
                f"Watch it: oneseek runs watch {directory.run_id}. Stop it: oneseek stop {directory.run_id}.",
            ) from None
    try:
        write_bytes(directory.process, msgspec.json.encode(Process.this()))
    except BaseException:
        lock.release()
        raise
    return lock
