"""ledger_proof.json: the ledger's entry of a run, field by field and as it is in the log, with its proof.

It is not signed by the run's signer: it proves itself, and every field that it repeats is compared.
"""

from __future__ import annotations

from typing import Any

import msgspec

from oneseek.certificate.manifest import Manifest
from oneseek.errors import CertificateInvalid, KeyRefused, ProofInvalid
from oneseek.events.state import RunState
from oneseek.files.spelling import spelt
from oneseek.ledger import proof
from oneseek.ledger.entry import Entry, Statement, entry_of
from oneseek.ledger.log import Logged
from oneseek.ledger.note import VerifierKey


class LedgerProof(msgspec.Struct, frozen=True):
    """What ledger_proof.json says: the entry, and with whose key its proof is to be checked."""

    logged: Logged
    key: VerifierKey

    @property
    def entry(self) -> Entry:
        return entry_of(self.logged.entry)

    def encode(self) -> bytes:
        repeated: dict[str, Any] = msgspec.to_builtins(self.entry)
        leaf = {"leaf": self.logged.entry.decode(), "proof": self.logged.proof.text, "verifier_key": str(self.key)}
        return spelt({**repeated, **leaf})


class _Document(msgspec.Struct):
    leaf: str
    proof: str
    verifier_key: str


def parse(data: bytes) -> LedgerProof:
    """A proof from its bytes, in their one spelling; nothing that it proves is checked yet.

    Raises:
        CertificateInvalid: they are none, or a field that it repeats is another than in the entry.
    """
    try:
        said = msgspec.json.decode(data, type=_Document)
        found = LedgerProof(Logged(said.leaf.encode(), proof.parse(said.proof)), VerifierKey.parse(said.verifier_key))
        spelling = found.encode()
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CertificateInvalid(f"ledger_proof.json can't be read: {error}.") from error
    except (ProofInvalid, KeyRefused) as error:
        raise CertificateInvalid(f"ledger_proof.json: {error.problem}") from error
    if spelling != data:
        raise CertificateInvalid(f"ledger_proof.json {_difference(data, spelling)}.")
    return found


def statement(sealed_as: Manifest, state: RunState) -> Statement:
    """What a sealed run tells the ledger."""
    if state.result is None:
        raise ValueError("A run is entered in the ledger when it is finished.")
    return Statement(
        run_id=sealed_as.run_id,
        dna=sealed_as.dna,
        base_models=tuple(state.verified),
        final_weights=state.result.final_weights,
        manifest_sha256=sealed_as.digest,
    )


def _difference(data: bytes, spelling: bytes) -> str:
    try:
        said, meant = msgspec.json.decode(data), msgspec.json.decode(spelling)
    except (ValueError, RecursionError) as error:  # in fields that a proof does not have
        return f"can't be read: {error}"
    other = next((name for name in {**meant, **said} if said.get(name) != meant.get(name)), None)
    if other is None:
        return "is not spelt as it was written (white space, order, or a key twice)"
    return f"says {other} is {said.get(other)!r}; its entry in the ledger says {meant.get(other)!r}"
