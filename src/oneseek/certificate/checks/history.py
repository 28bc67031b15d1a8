"""Checks 5, 6 and 8: the journal, the documents that follow from it, and the DNA."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from oneseek.certificate import documents
from oneseek.certificate.checks.evidence import (
    DNA,
    DOCUMENTS,
    JOURNAL,
    METRICS,
    NONSENSE,
    PROVENANCE,
    QUARANTINES,
    RECIPE,
    RESULTS,
    Evidence,
)
from oneseek.certificate.dna import Dna, recipe, recipe_sha256
from oneseek.certificate.documents import Document
from oneseek.certificate.provenance import provenance
from oneseek.certificate.tensors import tensors_digest
from oneseek.errors import CertificateInvalid
from oneseek.files.spelling import spelt

ADDED_LATER: frozenset[str] = frozenset()
"""Names of fields that documents of earlier releases lack. All others must be there."""


def check_journal(evidence: Evidence) -> str:
    """Each record follows the one before it, and the last says that the run finished."""
    found = evidence.read_history()
    if found.state.status != "completed":
        raise CertificateInvalid(f"{JOURNAL} does not end with RunFinished: the run is {found.state.status}.")
    if evidence.manifest.run_id != found.state.run_id:
        raise CertificateInvalid(f"{JOURNAL} is that of {found.state.run_id}; run_id is {evidence.manifest.run_id}.")
    return f"{found.records} records, each bound to the one before it; {found.state.run_id} finished"


def check_documents(evidence: Evidence) -> str:
    """What each document says is what the journal says now."""
    for name, computed in _computed(evidence):
        meant = json.loads(spelt(computed))
        said = evidence.document(name)
        if lie := next(_differences("", said, meant), None):
            raise CertificateInvalid(f"{name}: {lie}")
    left_out = evidence.finished[0].accepted.dataset.quarantined_rows
    if (kept := sum(map(evidence.lines, QUARANTINES))) != left_out:
        raise CertificateInvalid(f"{QUARANTINES[0]} keeps {kept} rows; by the journal {left_out} were left out.")
    return f"{len(DOCUMENTS)} documents say what the journal says"


def check_dna(evidence: Evidence) -> str:
    """All three hashes and the name, computed again from the journal, the recipe and the adapters."""
    state = evidence.finished[0]
    said = _said_dna(evidence)
    tensors = [
        (f"{key}/{name}", dtype, shape, data)
        for key in state.verified
        for name, dtype, shape, data in evidence.tensors(key)
    ]
    found = Dna(
        dataset=state.accepted.dataset.sha256,
        recipe=recipe_sha256(evidence.document(RECIPE)),
        weights=tensors_digest(tensors),
    )
    for part, source in (("dataset", JOURNAL), ("recipe", RECIPE), ("weights", "adapters")):
        if getattr(said, part) != (digest := getattr(found, part)):
            raise CertificateInvalid(f"{DNA}: hashes.{part} is {getattr(said, part)}; that of {source} is {digest}.")
    name = found.name(state.accepted.version)
    if evidence.manifest.dna != name:
        raise CertificateInvalid(f"manifest.json: dna is {evidence.manifest.dna}; the run's is {name}.")
    return name


def _computed(evidence: Evidence) -> Iterator[tuple[str, Document]]:
    """Each document, by its name, as the journal gives it. Hashes are taken as they are said; `check_dna` looks."""
    (state, result), history, dna = evidence.finished, evidence.history, _said_dna(evidence)
    subjects = {name: file.sha256 for name, file in evidence.manifest.files.items() if name.startswith("adapters/")}
    compute: dict[str, Callable[[], Document]] = {
        DNA: lambda: documents.oneseek_dna(state, result, dna),
        RESULTS: lambda: documents.training_results(state, result, dna),
        METRICS: lambda: documents.live_metrics(state, history.ended_at),
        RECIPE: lambda: recipe(state),
        PROVENANCE: lambda: provenance(state, subjects, history.began_at, history.ended_at),
    }
    for name in DOCUMENTS:
        try:
            yield name, compute[name]()
        except NONSENSE as error:
            raise CertificateInvalid(f"{name} does not follow from {JOURNAL}: {error!r}.") from error


def _said_dna(evidence: Evidence) -> Dna:
    try:
        return msgspec.convert(evidence.document(DNA).get("hashes"), Dna)
    except msgspec.ValidationError as error:
        raise CertificateInvalid(f"{DNA}: hashes can't be read: {error}.") from error


def _differences(path: str, said: Any, meant: Any) -> Iterator[str]:
    """Where a document is another than it must be: the path of the field, and both values."""
    if isinstance(said, dict) and isinstance(meant, dict):
        for name in {**meant, **said}:
            at = f"{path}.{name}" if path else name
            if name not in meant:
                yield f"{at} is {_shown(said[name])}; the journal has no such field."
            elif name in said:
                yield from _differences(at, said[name], meant[name])
            elif name not in ADDED_LATER:
                yield f"{at} is missing; by the journal it is {_shown(meant[name])}."
    elif isinstance(said, list) and isinstance(meant, list) and len(said) == len(meant):
        for index, (one, other) in enumerate(zip(said, meant, strict=True)):
            yield from _differences(f"{path}[{index}]", one, other)
    elif (type(said), said) != (type(meant), meant):  # 1, 1.0 and true are equal in Python
        yield f"{path} is {_shown(said)}; by the journal it is {_shown(meant)}."


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}..."
