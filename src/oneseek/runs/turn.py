"""What several runs share in an output directory is changed by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock

from oneseek.files.durable import make_directory, storage_errors
from oneseek.files.layout import Results


@contextmanager
def turn(results: Results) -> Iterator[None]:
    """Wait for our turn to reserve a run, or to move the links. Whoever holds it knows that what looks abandoned is."""
    with storage_errors(results.runs):
        for folder in (results.runs, results.weights, results.adapters):
            make_directory(folder)
        lock = FileLock(results.runs / ".turn.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
