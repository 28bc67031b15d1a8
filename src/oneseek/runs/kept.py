"""What runs keep of the ledger: the checkpoint in each one's proof. A ledger that was rewritten contradicts them."""

from __future__ import annotations

import msgspec

from oneseek.certificate import ledger_proof
from oneseek.certificate.seal import content
from oneseek.errors import CertificateInvalid, ProofInvalid
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.ledger import proof
from oneseek.ledger.checkpoint import Checkpoint
from oneseek.ledger.note import VerifierKey


class Kept(msgspec.Struct, frozen=True):
    """`checkpoints` of the ledger that was asked for, each with where it was kept; `elsewhere` the ids of runs that are
    in another ledger."""

    checkpoints: tuple[tuple[str, Checkpoint], ...]
    elsewhere: tuple[str, ...]


def kept(home: Home, log: VerifierKey) -> Kept:
    """What the certified runs of a home keep of the ledger with this key.

    Raises:
        CertificateInvalid: the proof of one of them proves nothing.
    """
    # The old system wrote a ledger_proof.json too, which proves nothing; it had no manifest.
    found = sorted(path.parent for path in Results(home.models).runs.glob("*/ledger_proof.json"))
    proofs = {
        directory.run_id: _proof(directory) for directory in map(RunDirectory, found) if directory.manifest.exists()
    }
    return Kept(
        tuple((f"the proof of {run}", at) for run, (key, at) in proofs.items() if key == log),
        tuple(run for run, (key, _) in proofs.items() if key != log),
    )


def _proof(directory: RunDirectory) -> tuple[VerifierKey, Checkpoint]:
    try:
        found = ledger_proof.parse(content(directory.ledger_proof) or b"")
        return found.key, proof.check(found.logged.proof, found.logged.entry, found.key)
    except (CertificateInvalid, ProofInvalid) as error:
        raise CertificateInvalid(f"{directory.run_id}: {error.problem}", _VERIFY.format(directory.root)) from error


_VERIFY = "See what else is wrong with it: oneseek verify {}"
