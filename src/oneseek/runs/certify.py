"""After a run: sealed, then entered in the ledger. What is left to do is done; what was done is left alone."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import msgspec
from filelock import FileLock, Timeout

from oneseek.certificate.keys import signer_key
from oneseek.certificate.ledger_proof import LedgerProof, statement
from oneseek.certificate.seal import is_certified, seal
from oneseek.errors import OneSeekError, RunError, StorageError
from oneseek.events.state import RunState, replay
from oneseek.files.durable import make_directory, storage_errors, write_bytes
from oneseek.files.layout import Home, RunDirectory
from oneseek.journal.file import read
from oneseek.ledger.entry import encode
from oneseek.ledger.locate import open_ledger
from oneseek.ledger.log import Log
from oneseek.runs.find import engine_of
from oneseek.runs.recorder import is_published, remove_work

PATIENCE = 60.0
"""Seconds to wait for another process that seals."""


class Certified(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a complete run: certified (`already`, where there was nothing left to do), or `problem` says why
    not, and `fix` what to do."""

    run_id: str
    already: bool = False
    problem: str | None = None
    fix: str = ""


def certify(directory: RunDirectory, home: Home, environment: Mapping[str, str] = os.environ) -> Certified:
    """Seal a complete run with this home's key and enter it in its ledger. One that is certified is left as it is.

    Nothing that goes wrong takes away from the run: it stays complete, and is certified when this is done again. A
    ledger that is away finds it sealed then.

    environment: LEDGER_URL, LEDGER_TOKEN and LEDGER_PRIVATE_KEY_PATH are read from it.

    Raises:
        RunError: it is not complete, or was trained outside.
    """
    state = _complete(directory)
    if is_certified(directory):
        return Certified(run_id=state.run_id, already=True)
    remove_work(directory)  # the marks of a process that was killed while it let go
    try:
        _certify(directory, state, home, environment)
    except OneSeekError as error:
        return Certified(run_id=state.run_id, problem=error.problem, fix=error.fix)
    return Certified(run_id=state.run_id)


def how_to_certify(directory: RunDirectory) -> str:
    """The command that certifies a complete run, wherever its directory is."""
    return f"Try again with: oneseek ledger submit {shlex.quote(str(directory.root))}"


def _complete(directory: RunDirectory) -> RunState:
    state = replay(record.event for record in read(directory.journal).records)
    if state:
        engine_of(state, "certified")
    if state is None or not state.over or not is_published(directory):
        raise RunError(
            f"{directory.run_id} is not complete, so it can't be certified.",
            f"Go on with it first: oneseek resume {shlex.quote(str(directory.root))}",
        )
    return state


def _certify(directory: RunDirectory, state: RunState, home: Home, environment: Mapping[str, str]) -> None:
    signer = signer_key(home, environment)
    with _asked(home, environment) as log:
        with _alone(home):
            manifest = seal(directory, state, signer, None if isinstance(log, OneSeekError) else log.key)
        if isinstance(log, OneSeekError):
            raise log
        if manifest.log not in (None, str(log.key)):
            raise RunError(
                f"{state.run_id} was sealed for the ledger {manifest.log}; this is {log.key}.",
                "Set LEDGER_URL (or --home) to the ledger that it was sealed for.",
            )
        (logged,) = log.append([encode(statement(manifest, state))])
        with _alone(home):
            write_bytes(directory.ledger_proof, LedgerProof(logged, log.key).encode())


@contextmanager
def _asked(home: Home, environment: Mapping[str, str]) -> Iterator[Log | OneSeekError]:
    """The ledger, which has told its key; or why it can't be used. A run is sealed either way."""
    try:
        log = open_ledger(home, environment)
    except OneSeekError as error:
        yield error
        return
    with closing(log):
        try:
            _ = log.key
        except OneSeekError as error:
            yield error
            return
        yield log


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One process of a home seals at a time: two would write the same files. Nobody waits here for a ledger."""
    lock = FileLock(home.keys / ".certify.lock", timeout=PATIENCE, mode=0o600)
    with storage_errors(home.keys):
        make_directory(home.keys, 0o700)
        try:
            lock.acquire()
        except Timeout as error:
            raise StorageError(
                f"Another process has been sealing a run for {PATIENCE:.0f} seconds.", "End it, then try again."
            ) from error
    try:
        yield
    finally:
        lock.release()
