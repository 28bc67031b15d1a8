"""Asking a running run to stop."""

from __future__ import annotations

from typing import Literal

from oneseek.errors import RunError
from oneseek.files.durable import storage_errors, write_bytes
from oneseek.files.layout import RunDirectory
from oneseek.runs.recorder import is_running

Request = Literal["after-epoch", "now"]


def stop(directory: RunDirectory, *, now: bool = False) -> None:
    """Ask the run's process to stop after the epoch that it is in, or at once. Either way it can be resumed.

    Raises:
        RunError: it isn't running.
    """
    if not is_running(directory):
        raise RunError(
            f"{directory.run_id} is not running.", f"`oneseek runs show {directory.run_id}` says what became of it."
        )
    write_bytes(directory.stop_request, b"now" if now else b"after-epoch")


def asked(directory: RunDirectory) -> Request | None:
    """What was asked of this run since it was last taken up."""
    try:
        return "now" if directory.stop_request.read_bytes() == b"now" else "after-epoch"
    except FileNotFoundError:
        return None


def forget(directory: RunDirectory) -> None:
    """A request is for the process that was running when it was made."""
    with storage_errors(directory.stop_request):
        directory.stop_request.unlink(missing_ok=True)
