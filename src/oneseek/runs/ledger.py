"""The ledger of a home as people ask for it: which entry is meant, the newest, what is not entered yet, an audit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import msgspec

from oneseek.certificate.keys import known_signer, signer_key
from oneseek.certificate.signature import public_pem
from oneseek.errors import OneSeekError, RunError
from oneseek.files.layout import Home, RunDirectory
from oneseek.ledger import audit, checkpoint, proof
from oneseek.ledger.audit import Audit
from oneseek.ledger.checkpoint import Checkpoint
from oneseek.ledger.entry import Entry, entry_of
from oneseek.ledger.locate import open_ledger, read_ledger
from oneseek.ledger.log import Log, Logged
from oneseek.ledger.note import VerifierKey
from oneseek.names import is_run_id
from oneseek.runs.certify import Certified, certify
from oneseek.runs.find import describe, find, list_runs
from oneseek.runs.kept import kept as kept_by_runs

AT_ONCE = 1000
"""Entries that are read in one go."""

_KEYS = """\
# Public keys to pin, each for what it signs. Keep them where nobody can exchange them:
#   oneseek verify RUN --key FILE
#
# The signer of runs:
{signer}
# The ledger {origin}, which enters them:
{ledger}
"""


class Numbered(msgspec.Struct, frozen=True):
    """An entry and its number, from 0."""

    index: int
    entry: Entry

    def wire(self) -> dict[str, Any]:
        return {"index": self.index, **msgspec.to_builtins(self.entry)}


class Proved(msgspec.Struct, frozen=True):
    """An entry with a proof that holds: `at` is the checkpoint by which it is in the log of `key`."""

    numbered: Numbered
    logged: Logged
    at: Checkpoint
    key: VerifierKey

    def wire(self) -> dict[str, Any]:
        proof_of = {"leaf": self.logged.entry.decode(), "proof": self.logged.proof.text, "verifier_key": str(self.key)}
        return {**self.numbered.wire(), **proof_of}


class Audited(msgspec.Struct, frozen=True):
    """`elsewhere` are the ids of this home's runs that are in another ledger, and were not compared."""

    audit: Audit
    elsewhere: tuple[str, ...]


class PublicKeys(msgspec.Struct, frozen=True):
    """`signer` of runs as PEM, `ledger` as the text of its verifier key, `origin` the ledger's name."""

    signer: str
    ledger: str
    origin: str

    @property
    def text(self) -> str:
        """What others pin."""
        return _KEYS.format(**msgspec.to_builtins(self))


@contextmanager
def reading(home: Home, environment: Mapping[str, str] = os.environ) -> Iterator[Log]:
    """The ledger that is meant: the service that LEDGER_URL names, else the one in the home. Nothing is made.

    Raises:
        RunError: none was begun yet.
        OneSeekError: as `read_ledger`.
    """
    log = read_ledger(home, environment)
    if log is None:
        raise RunError(f"There is no ledger in {home.root} yet.", "It begins with the first run: oneseek train")
    with closing(log):
        yield log


def newest_checkpoint(log: Log) -> Checkpoint:
    """What the ledger signed last, its signature checked."""
    return checkpoint.read(log.checkpoint(), log.key)


def entries(log: Log, start: int, stop: int) -> list[Numbered]:
    """The entries from index `start` up to `stop`, as far as there are any."""
    return [Numbered(index, entry_of(data)) for index, data in enumerate(log.entries(start, stop), start)]


def newest(log: Log, limit: int) -> tuple[Checkpoint, list[Numbered]]:
    """The last `limit` entries, the newest first, and the checkpoint that they are under."""
    at = newest_checkpoint(log)
    return at, entries(log, max(0, at.size - limit), at.size)[::-1]


def prove(log: Log, index: int) -> Proved:
    """An entry with its proof, which was checked.

    Raises:
        ProofInvalid: there is no such entry, or its proof does not hold.
    """
    logged = log.prove(index)
    at = proof.check(logged.proof, logged.entry, log.key)
    return Proved(Numbered(index, entry_of(logged.entry)), logged, at, log.key)


def index_of(log: Log, which: str, home: Home) -> int:
    """The number of the entry that is meant: by its number, or by a run's id or directory.

    Raises:
        RunError: no entry, or more than one, is of the run that is named; or there is no such number.
    """
    size = newest_checkpoint(log).size
    if re.fullmatch(r"[0-9]{1,18}", which):
        if int(which) >= size:
            last = f"the last is {size - 1}" if size else "it begins with the first run"
            raise RunError(
                f"There is no entry {which}: the ledger has {counted(size)}, {last}.",
                "oneseek ledger show lists them.",
            )
        return int(which)
    run_id = which if is_run_id(which) else _run_at(which, home)
    said = f'"run_id":"{run_id}"'.encode()  # as RFC 8785 spells it: reading each entry whole would take far longer
    found = [
        index
        for start in range(0, size, AT_ONCE)
        for index, data in enumerate(log.entries(start, min(size, start + AT_ONCE)), start)
        if said in data and entry_of(data).run_id == run_id
    ]
    if len(found) == 1:
        return found[0]
    if found:
        numbers = ", ".join(map(str, found))
        raise RunError(
            f"The ledger has more than one {run_id}: entries {numbers}.", f"Name one: oneseek ledger show {found[-1]}"
        )
    raise RunError(f"{run_id} is not in the ledger.", f"Enter it with: oneseek ledger submit {which}")


def submit(
    home: Home, which: Sequence[str] = (), environment: Mapping[str, str] = os.environ
) -> Iterator[tuple[RunDirectory, Certified]]:
    """Certify runs that are not, one after the other, and tell what became of each. What keeps one from it keeps no
    other.

    which: ids or directories; none are all completed runs of the home that are not certified.

    Raises:
        RunError: one of those named is not there; then none was begun.
    """
    directories = [find(name, home) for name in which]
    if not which:
        directories = [RunDirectory(run.directory) for run in list_runs(home) if run.status == "completed"]
    for directory in directories:
        yield directory, _certified(directory, home, environment)


def audited(home: Home, environment: Mapping[str, str] = os.environ) -> Audited:
    """Read the whole ledger and compare it with what it signed, and with what the certified runs of this home keep.

    Raises:
        RunError: no ledger was begun yet.
        LedgerDamaged, CertificateInvalid: the first lie.
        LedgerUnavailable, StorageError: it could not be read.
    """
    with reading(home, environment) as log:
        kept = kept_by_runs(home, log.key)
        return Audited(audit.audit(log, kept.checkpoints), kept.elsewhere)


def public_keys(home: Home, environment: Mapping[str, str] = os.environ) -> PublicKeys:
    """The public keys that others pin. Those of the home are made where there are none yet.

    Raises:
        KeyRefused, LedgerDamaged, LedgerUnavailable, StorageError: one of them can't be used.
    """
    signer = public_pem(signer_key(home, environment).public_key())
    with closing(open_ledger(home, environment)) as log:
        return PublicKeys(signer, str(log.key), log.key.name)


def known_keys(home: Home, environment: Mapping[str, str] = os.environ) -> PublicKeys:
    """The same, where they are there already: nothing is made.

    Raises:
        RunError: nothing was signed here yet.
        KeyRefused, LedgerDamaged, LedgerUnavailable, StorageError: one of them can't be used.
    """
    with reading(home, environment) as log:
        signer = known_signer(home, environment)
        if signer is None:
            raise RunError("No run was signed here yet.", "The key is made with the first run: oneseek train")
        return PublicKeys(signer, str(log.key), log.key.name)


def counted(entries: int) -> str:
    """`1 entry`, `1,200 entries`."""
    return "1 entry" if entries == 1 else f"{entries:,} entries"


def _run_at(which: str, home: Home) -> str:
    """The id of the run in a directory, which may be a copy of any name.

    Raises:
        RunError: there is none, or its journal can't be read.
    """
    known = describe(find(which, home))
    if known.state is None:
        raise RunError(
            f"{which} does not say which run it is: {known.problem or 'the run was never accepted.'}",
            "Name the run by its id, or the entry by its number.",
        )
    return known.state.run_id


def _certified(directory: RunDirectory, home: Home, environment: Mapping[str, str]) -> Certified:
    try:
        return certify(directory, home, environment)
    except OneSeekError as error:
        return Certified(run_id=directory.run_id, problem=error.problem, fix=error.fix)
