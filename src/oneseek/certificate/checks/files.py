"""Checks 1 to 4: which files there are, who signed for them, whether they are what was signed, how they are spelt."""

from __future__ import annotations

import json
from collections.abc import Iterable

from oneseek.certificate import signature
from oneseek.certificate.checks.directory import Directory
from oneseek.certificate.checks.evidence import (
    DNA,
    DOCUMENTS,
    JOURNAL,
    MANIFEST,
    METRICS,
    PROOF,
    RESULTS,
    SIGNATURE,
    Evidence,
    NotCheckable,
)
from oneseek.certificate.contents import allowed, folders, required
from oneseek.certificate.manifest import NOT_LISTED
from oneseek.errors import CertificateInvalid
from oneseek.events.state import RunState
from oneseek.files.spelling import spelt
from oneseek.names import is_run_id, size


def check_format(evidence: Evidence) -> str:
    """Exactly the files of a certified run."""
    directory = evidence.directory
    if MANIFEST not in directory.files:
        raise CertificateInvalid(_unsealed(evidence))
    manifest = evidence.read_manifest()
    if is_run_id(called := directory.root.absolute().name) and called != manifest.run_id:
        raise CertificateInvalid(f"The directory is called {called}; {MANIFEST} is that of {manifest.run_id}.")
    if directory.fault:
        raise CertificateInvalid(directory.fault)
    for name in sorted({*manifest.files, *NOT_LISTED} ^ directory.files.keys()):
        raise CertificateInvalid(_odd(name, directory))
    state = evidence.finished[0]
    for name in sorted(required(state) - manifest.files.keys()):
        raise CertificateInvalid(f"{MANIFEST} does not list {name}, which every run has.")
    for name in sorted(manifest.files.keys() - allowed(state)):
        raise CertificateInvalid(f"{name} belongs to no certified run.")
    for name in sorted(directory.folders ^ folders(state)):
        raise CertificateInvalid(f"{name} is a folder that the run should not have, or should have.")
    return f"{manifest.format}; {len(directory.files)} files, nothing missing and none besides"


def check_signature(evidence: Evidence) -> str:
    """model.sig is over this manifest, by the key that it names."""
    manifest = evidence.manifest
    signature.check(evidence.directory.read(SIGNATURE), manifest)
    return f"{SIGNATURE} is over {MANIFEST} and the {len(manifest.files)} files that it lists"


def check_digests(evidence: Evidence) -> str:
    """Each file is what the manifest says: size and SHA-256."""
    directory, files = evidence.directory, evidence.manifest.files
    for name, listed in files.items():
        if name not in directory.files:
            raise CertificateInvalid(f"{name} is missing.")
        if directory.files[name] != listed.size:
            raise CertificateInvalid(f"{name} has {directory.files[name]} bytes; {listed.size} were sealed.")
        evidence.check_size(name)
        if not evidence.is_sealed(name):
            found = directory.sha256(name)
            raise CertificateInvalid(f"{name} was changed: its SHA-256 is {found}; {listed.sha256} was sealed.")
    return f"{len(files)} files, {size(sum(file.size for file in files.values()))}, are what was sealed"


def check_encoding(evidence: Evidence) -> str:
    """Written again, each document comes to the same bytes: white space, order and escapes hide nothing."""
    names = (MANIFEST, SIGNATURE, *DOCUMENTS, PROOF)
    check_spelling(evidence, names)
    return f"{len(names)} documents, written again, are the same bytes"


def check_spelling(evidence: Evidence, names: Iterable[str]) -> None:
    """Whether each of these documents is in its one spelling."""
    for name in names:
        if name in DOCUMENTS and name in evidence.directory.files and not evidence.is_sealed(name):
            raise NotCheckable(f"{name} is not what was sealed")
        data = evidence.directory.read(name)
        try:
            same = spelt(json.loads(data)) == data
        except (ValueError, RecursionError) as error:
            raise CertificateInvalid(f"{name} is no JSON document: {error}.") from error
        if not same:
            raise CertificateInvalid(f"{name} is not spelt as it was written (white space, escapes, or a key twice).")


def _odd(name: str, directory: Directory) -> str:
    if name in directory.files:
        return f"{name} belongs to no certified run: {MANIFEST} does not list it."
    if name == PROOF:
        return f"{PROOF} is missing: the run is completed, not yet logged. Enter it: oneseek ledger submit RUN"
    return f"{name} is missing."


def _unsealed(evidence: Evidence) -> str:
    directory = evidence.directory
    if directory.fault and not directory.files:
        return directory.fault
    if JOURNAL in directory.files:
        return f"There is no {MANIFEST}: the run is {_how_far(evidence.history.state, directory)}"
    if directory.files.keys() & {DNA, RESULTS, METRICS, PROOF}:
        return f"There is no {MANIFEST} and no journal, as in runs of the old system: not verifiable."
    return f"There is no {MANIFEST}: this is not the directory of a run."


def _how_far(state: RunState, directory: Directory) -> str:
    if not state.over:
        return f"not completed, its journal says {state.status}. Only a completed run is sealed."
    if "work" in directory.folders:
        return "trained, but not all of its files are written. Go on with it: oneseek resume RUN"
    return "completed, not sealed. Seal it and enter it in the ledger: oneseek ledger submit RUN"
