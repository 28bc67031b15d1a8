"""Sealing: what a complete run left behind is listed, digested and signed; nothing else may be there.

Killed at any instant, it is done again and comes to the same bytes: the manifest follows from the files, the signature
from the manifest and the key.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from oneseek.certificate import ledger_proof, manifest, signature
from oneseek.certificate.checks.directory import LARGEST_DOCUMENT
from oneseek.certificate.contents import allowed, folders, required
from oneseek.certificate.documents import dna_in
from oneseek.certificate.manifest import NOT_LISTED, File, Manifest
from oneseek.certificate.verify import contradiction
from oneseek.errors import CertificateInvalid, ProofInvalid
from oneseek.events.state import RunState
from oneseek.files.durable import TEMP_SUFFIX, sha256_file, storage_errors, write_bytes
from oneseek.files.layout import RunDirectory
from oneseek.ledger import proof as proofs
from oneseek.ledger.note import VerifierKey


def seal(
    directory: RunDirectory, state: RunState, key: ec.EllipticCurvePrivateKey, log: VerifierKey | None
) -> Manifest:
    """Write manifest.json and model.sig, if the files are what the run's journal says. A run that is sealed already,
    and is what was sealed, is left as it is.

    log: the key of the ledger that the run is to be entered in; None where it could not be asked.

    Raises:
        CertificateInvalid: there is something in the directory that no certified run has, something is missing or is
            not what was trained; or the run was sealed by another key, or was changed since.
        StorageError: a file could not be read or written.
    """
    if state.result is None:
        raise ValueError("A run is sealed when it is finished.")
    with storage_errors(directory.root):
        files = {name: _file(directory.root / name) for name in sorted(_listed(directory, state))}
    made = Manifest(
        run_id=state.run_id,
        dna=dna_in(directory.dna.read_bytes()),
        signer=signature.public_pem(key.public_key()),
        log=None if log is None else str(log),
        files=files,
    )
    if kept := sealed(directory):
        _check_same(directory, kept, made)
        return kept
    if lie := contradiction(directory.root, made):
        raise CertificateInvalid(
            f"{directory.root} is not what was trained: {lie}", "Restore it from a backup, or train the run again."
        )
    write_bytes(directory.manifest, made.encode())
    write_bytes(directory.signature, signature.sign(made, key))
    return made


def sealed(directory: RunDirectory) -> Manifest | None:
    """What a run was sealed as: its manifest, where the signature beside it is the signer's over it. Whether the files
    are still those, is not looked at."""
    data, bundle = content(directory.manifest), content(directory.signature)
    if data is None or bundle is None:
        return None
    try:
        found = manifest.parse(data)
        signature.check(bundle, found)
    except CertificateInvalid:
        return None
    return found


def is_certified(directory: RunDirectory) -> bool:
    """Whether a run is sealed, and beside it is a proof that the ledger which it was sealed for has this seal. Whether
    its files are still those, and whose keys these are, `verify` says."""
    sealed_as, proof = sealed(directory), content(directory.ledger_proof)
    if sealed_as is None or proof is None:
        return False
    try:
        found = ledger_proof.parse(proof)
        proofs.check(found.logged.proof, found.logged.entry, found.key)
    except (CertificateInvalid, ProofInvalid):
        return False
    return sealed_as.log in (None, str(found.key)) and found.entry.manifest_sha256 == sealed_as.digest


def content(path: Path) -> bytes | None:
    """The bytes of a document; None where there is none: no link is followed, nothing but a regular file is opened."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > LARGEST_DOCUMENT:
            return None
        return path.read_bytes()
    except OSError:  # not there, or not for us to read: there is nothing to go by
        return None


def _check_same(directory: RunDirectory, kept: Manifest, made: Manifest) -> None:
    """What was changed after it was sealed is not signed again unseen."""
    seal_it_anew = f"Where it is right as it is now, remove {directory.signature}: it is sealed anew."
    if kept.signer != made.signer:
        raise CertificateInvalid(f"{directory.root} was sealed by another key.", seal_it_anew)
    for name in sorted(kept.files.keys() | made.files.keys()):
        if kept.files.get(name) != made.files.get(name):
            raise CertificateInvalid(
                f"{directory.root / name} is not what was sealed.",
                f"Restore it from a backup. {seal_it_anew}",
            )
    if kept.dna != made.dna or kept.run_id != made.run_id:
        raise CertificateInvalid(f"{directory.manifest} names another run.", seal_it_anew)


def _listed(directory: RunDirectory, state: RunState) -> Iterator[str]:
    """The names of the files that the manifest lists; what a sealing left half-written is removed.

    Raises:
        CertificateInvalid: a file is missing, or there is something that does not belong there.
    """
    may_be, missing = allowed(state), set(required(state))
    for name, mode in _everything(directory.root):
        if stat.S_ISDIR(mode) and (name in folders(state) or name == directory.work.name):
            continue
        if not stat.S_ISREG(mode):
            raise _stranger(directory, name, _KINDS.get(stat.S_IFMT(mode), "is no regular file"))
        if name in _LEFT_OVER:
            (directory.root / name).unlink()
        elif name in may_be:
            missing.discard(name)
            yield name
        elif name not in NOT_LISTED and directory.root / name != directory.lock:
            raise _stranger(directory, name, "belongs to no run")
    if missing:
        raise CertificateInvalid(
            f"{directory.root / min(missing)} is missing.", "Restore it from a backup, or train the run again."
        )


_LEFT_OVER = tuple(f"{name}{TEMP_SUFFIX}" for name in NOT_LISTED)
_KINDS = {stat.S_IFLNK: "is a link", stat.S_IFDIR: "is a folder that no run has", stat.S_IFIFO: "is a pipe"}


def _stranger(directory: RunDirectory, name: str, what: str) -> CertificateInvalid:
    return CertificateInvalid(f"{str(directory.root / name)!r} {what}.", "Move it elsewhere, then try again.")


def _everything(root: Path) -> Iterator[tuple[str, int]]:
    """Everything below `root` by its relative path, with slashes, and its mode; no link is followed."""
    for folder, subfolders, files in os.walk(root, onerror=_raise):
        for entry in sorted((*subfolders, *files)):
            path = Path(folder, entry)
            yield path.relative_to(root).as_posix(), path.lstat().st_mode


def _raise(error: OSError) -> None:
    raise error


def _file(path: Path) -> File:
    return File(sha256=sha256_file(path), size=path.stat().st_size)
