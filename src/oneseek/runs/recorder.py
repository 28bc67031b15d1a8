"""The one process that may write a run: it holds the run's lock, appends to its journal, and knows its state."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Self

from filelock import FileLock, Timeout

from oneseek.certificate.seal import is_certified
from oneseek.config.schema import TrainingConfig
from oneseek.errors import RunError, StorageError
from oneseek.events import DISPLAY_ONLY, AnyEvent, RunAccepted
from oneseek.events.state import RunState, apply, begin, replay
from oneseek.files.durable import storage_errors, sweep
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import Writer, read
from oneseek.journal.record import Record

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
        lock = _take(directory)
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
        self._lock.release()
        if self.state.over:
            remove_work(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def remove_work(directory: RunDirectory) -> None:
    """Remove `work/` once nothing but the lock is left in it."""
    if directory.work.exists() and {path.name for path in directory.work.iterdir()} <= {directory.lock.name}:
        with storage_errors(directory.work):
            directory.lock.unlink(missing_ok=True)
            directory.work.rmdir()


def is_running(directory: RunDirectory) -> bool:
    """Whether some process holds the run's lock. Who asks holds it for an instant, so a second look decides."""
    if not directory.lock.exists():
        return False
    lock = FileLock(directory.lock)
    try:
        lock.acquire(timeout=0.1, poll_interval=0.02)
    except Timeout:
        return True
    lock.release()
    return False


def _take(directory: RunDirectory) -> FileLock:
    with storage_errors(directory.work):
        directory.work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory.lock)
        try:
            lock.acquire(timeout=1)  # somebody may just be looking whether it runs
        except Timeout:
            raise RunError(
                f"{directory.run_id} is running already.",
                f"Watch it: oneseek runs watch {directory.run_id}. Stop it: oneseek stop {directory.run_id}.",
            ) from None
    return lock
