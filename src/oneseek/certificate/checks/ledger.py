"""Checks 9 to 12: what the ledger's entry says, that it is in the ledger, that the ledger still has it, and whose keys
these are."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from oneseek.certificate.checks.evidence import MANIFEST, PROOF, Evidence, NotCheckable
from oneseek.certificate.ledger_proof import statement
from oneseek.errors import (
    CertificateInvalid,
    ConfigError,
    KeyRefused,
    LedgerUnavailable,
    OneSeekError,
    ProofInvalid,
    StorageError,
)
from oneseek.ledger import checkpoint, proof
from oneseek.ledger.log import check_consistent

_NOT_AT_HAND = (ConfigError, KeyRefused, LedgerUnavailable, StorageError)
"""Why a ledger can't be asked. That says nothing about what is in it, unlike LedgerDamaged."""


def check_leaf(evidence: Evidence) -> str:
    """The ledger's entry says what the files say."""
    entry = evidence.read_proof().entry
    said: dict[str, Any] = msgspec.to_builtins(entry.statement)
    meant: dict[str, Any] = msgspec.to_builtins(statement(evidence.manifest, evidence.finished[0]))
    for field, value in meant.items():
        if said[field] != value:
            raise CertificateInvalid(f"{PROOF}: {field} is {said[field]!r}; by the run's files it is {value!r}.")
    return f"the entry is about this run, and was made at {entry.timestamp}"


def check_inclusion(evidence: Evidence) -> str:
    """The proof leads from the entry to a checkpoint that the ledger signed."""
    found = evidence.proof
    try:
        signed = proof.check(found.logged.proof, found.logged.entry, found.key)
    except ProofInvalid as error:
        raise CertificateInvalid(f"{PROOF}: {error.problem}") from error
    return f"entry {found.logged.proof.index} of {signed.origin} at size {signed.size}"


def check_consistency(evidence: Evidence) -> str:
    """The ledger, as it is now, begins with what it was when it proved the entry."""
    found, log = evidence.proof, evidence.log
    if log is None:
        raise NotCheckable("there is no ledger here to ask")
    if isinstance(log, _NOT_AT_HAND):
        raise NotCheckable(f"the ledger can't be asked: {log.problem}")
    if isinstance(log, OneSeekError):
        raise log
    try:
        kept = checkpoint.read(found.logged.proof.checkpoint, found.key)
    except ProofInvalid as error:
        raise NotCheckable(f"the checkpoint in {PROOF} does not hold") from error
    try:
        if log.key != found.key:
            raise NotCheckable(f"the ledger here is {log.key.name} with another key; the run is in {found.key.name}")
        now = check_consistent(log, kept)
    except _NOT_AT_HAND as error:
        raise NotCheckable(f"the ledger can't be asked: {error.problem}") from error
    except ProofInvalid as error:
        raise CertificateInvalid(f"The ledger {found.key.name} is not what it was: {error.problem}") from error
    return f"{now.origin} is at size {now.size} now, and begins with what it was at size {kept.size}"


def check_keys(evidence: Evidence) -> str:
    """The signer is one who is trusted, and so is the ledger: by itself, or because the signer names it."""
    manifest = evidence.manifest
    signer = hashlib.sha256(manifest.signer.encode()).hexdigest()[:16]
    if manifest.signer not in evidence.pins.signers:
        raise CertificateInvalid(f"consistent, signer unknown ({signer}): pin it with --key FILE")
    log, pins = str(evidence.proof.key), evidence.pins
    if log in pins.logs:
        return f"the signer {signer} and the ledger {evidence.proof.key.name} are pinned"
    # A signer's own word is no second witness: where a ledger was pinned with the signer, only a pinned one counts.
    if manifest.signer in pins.bound:
        raise CertificateInvalid(f"{PROOF} is by the ledger {log}, which is not the one pinned with the signer")
    if log != manifest.log:
        named = f"{MANIFEST} names {manifest.log or 'none'}"
        raise CertificateInvalid(f"{PROOF} is by the ledger {log}, which is unknown; {named}: pin it with --key FILE")
    return f"the signer {signer} is pinned, the ledger named by it"
