"""After a run: sealed, then entered in the ledger. What is left to do is done; what was done is left alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import msgspec
from filelock import FileLock

from oneseek.certificate.keys import signer_key
from oneseek.certificate.ledger_proof import LedgerProof
from oneseek.certificate.manifest import Manifest
from oneseek.certificate.seal import is_certified, seal, statement
from oneseek.errors import OneSeekError, RunError
from oneseek.events.state import RunState, replay
from oneseek.files.durable import storage_errors, write_bytes
from oneseek.files.layout import Home, RunDirectory
from oneseek.journal.file import read
from oneseek.ledger.entry import encode
from oneseek.ledger.locate import open_ledger
from oneseek.ledger.log import Log


class Certified(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a complete run: certified, or `problem` says why not, and `fix` what to do."""

    run_id: str
    problem: str | None = None
    fix: str = ""


def certify(directory: RunDirectory, home: Home, environment: Mapping[str, str] = os.environ) -> Certified:
    """Seal a complete run with this home's key and enter it in its ledger. One that is certified is left as it is.

    Nothing that goes wrong takes away from the run: it stays complete, and is certified when this is done again. A
    ledger that is away finds it sealed then.

    environment: LEDGER_URL, LEDGER_TOKEN and LEDGER_PRIVATE_KEY_PATH are read from it.

    Raises:
        RunError: it is not complete.
    """
    state = _complete(directory)
    try:
        if not is_certified(directory):
            _certify(directory, state, home, environment)
    except OneSeekError as error:
        return Certified(run_id=state.run_id, problem=error.problem, fix=error.fix)
    return Certified(run_id=state.run_id)


def how_to_certify(directory: RunDirectory) -> str:
    """The command that certifies a complete run, wherever its directory is."""
    return f"Try again with: oneseek ledger submit {os.path.relpath(directory.root)}"


def _complete(directory: RunDirectory) -> RunState:
    state = replay(record.event for record in read(directory.journal).records)
    if state is None or not state.over or directory.work.exists():
        raise RunError(
            f"{directory.run_id} is not complete, so it can't be certified.",
            f"Go on with it first: oneseek resume {os.path.relpath(directory.root)}",
        )
    return state


def _certify(directory: RunDirectory, state: RunState, home: Home, environment: Mapping[str, str]) -> None:
    signer = signer_key(home, environment)
    with _alone(home):
        try:
            with closing(open_ledger(home, environment)) as log:
                _enter(directory, seal(directory, state, signer, log.key), state, log)
        except OneSeekError:
            seal(directory, state, signer, None)  # the ledger may not have told its key; a seal that is there is kept
            raise


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One process of a home certifies at a time: two would write the same files of a run."""
    with storage_errors(home.keys):
        lock = FileLock(home.keys / ".certify.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _enter(directory: RunDirectory, manifest: Manifest, state: RunState, log: Log) -> None:
    if manifest.log not in (None, str(log.key)):
        raise RunError(
            f"{state.run_id} was sealed for the ledger {manifest.log}; this is {log.key}.",
            "Set LEDGER_URL (or --home) to the ledger that it was sealed for.",
        )
    (logged,) = log.append([encode(statement(manifest, state))])
    write_bytes(directory.ledger_proof, LedgerProof(logged, log.key).encode())
