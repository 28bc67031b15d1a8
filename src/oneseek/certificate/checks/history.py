"""Checks 5, 6 and 8: the journal, the documents that follow from it, and the DNA."""

from __future__ import annotations

import hashlib
import json
import math
import re
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
from oneseek.certificate.checks.weights import feed
from oneseek.certificate.dna import Dna, recipe, recipe_sha256
from oneseek.certificate.documents import Document
from oneseek.certificate.provenance import provenance
from oneseek.config.schema import TrainingConfig
from oneseek.errors import CertificateInvalid, ConfigError
from oneseek.events import EpochCommitted, RunAccepted, RunFinished
from oneseek.events.state import RunState
from oneseek.files.spelling import spelt
from oneseek.names import format_version, is_run_id, normalize_model_name, parse_version
from oneseek.policy import decide

ADDED_LATER: frozenset[str] = frozenset()
"""Names of fields that documents of earlier releases lack. All others must be there."""


_SAME = 1e-9
"""How far a number, relatively, may be from that decided anew: Python's own `sum` rounds otherwise since 3.12."""


def check_journal(evidence: Evidence) -> str:
    """Each record follows the one before it, the last says that the run finished, and what the run decided follows from
    what its models reported."""
    found = evidence.read_history()
    if found.state.status != "completed":
        raise CertificateInvalid(f"{JOURNAL} does not end with RunFinished: the run is {found.state.status}.")
    config = _check_accepted(found.state.accepted)
    if evidence.manifest.run_id != found.state.run_id:
        raise CertificateInvalid(f"{JOURNAL} is that of {found.state.run_id}; run_id is {evidence.manifest.run_id}.")
    for before, event in found.decided:
        _check_decided(before, event, config)
    _check_verified(found.state)
    engine = found.state.accepted.engine
    by = "" if engine == "torch" else f", by the {engine} engine, which trains nothing"
    return f"{found.records} records, each bound to the one before it; {found.state.run_id} finished{by}"


def _check_accepted(accepted: RunAccepted) -> TrainingConfig:
    if not is_run_id(accepted.run_id):
        raise CertificateInvalid(f"{JOURNAL}: {accepted.run_id!r} is no run's id.")
    try:
        spelling = format_version(parse_version(accepted.version))
    except ConfigError:
        spelling = ""
    if accepted.version != spelling:
        raise CertificateInvalid(f"{JOURNAL}: {accepted.version!r} is no version.")
    used = accepted.dataset
    digests = {"dataset.sha256": used.sha256, "dataset.rows_sha256": used.rows_sha256}
    digests |= {"dataset.validation_sha256": used.validation_sha256} if used.validation_sha256 is not None else {}
    keys = [model.key for model in accepted.models]
    for model in accepted.models:
        if keys.count(model.key) != 1 or not model.key or normalize_model_name(model.key) != model.key:
            raise CertificateInvalid(f"{JOURNAL}: {model.key!r} is no model's key, or that of two.")
        for part in ("weights", "config", "tokenizer", "template"):
            if (value := getattr(model, f"{part}_sha256")) is not None:
                digests[f"{model.key}.{part}_sha256"] = value
    for field, value in digests.items():
        _check_digest(field, value)
    for field in ("training_rows", "validation_rows", "quarantined_rows"):
        if (rows := getattr(used, field)) < 0:
            raise CertificateInvalid(f"{JOURNAL}: dataset.{field} is {rows}.")
    try:
        return TrainingConfig.model_validate(accepted.config)
    except ValueError as error:
        raise CertificateInvalid(f"{JOURNAL}: config is none that a run can have: {error}.") from error


def _check_digest(field: str, value: str) -> None:
    if not re.fullmatch("[0-9a-f]{64}", value):
        raise CertificateInvalid(f"{JOURNAL}: {field} is {value!r}, which is no SHA-256.")


def _check_decided(before: RunState, event: EpochCommitted | RunFinished, config: TrainingConfig) -> None:
    """The record is the one that follows from the state before it."""
    if isinstance(event, RunFinished):
        where = "RunFinished"
        if not before.trained:
            done = f"{before.epochs_done} of {before.total_epochs} epochs"
            raise CertificateInvalid(f"{JOURNAL}: it finished after {done}.")
        if missing := set(before.live) - before.verified.keys() - before.failing.keys():
            raise CertificateInvalid(f"{JOURNAL}: {', '.join(sorted(missing))} was never verified.")
        meant: EpochCommitted | RunFinished = decide.finish(before)
    else:
        where = f"epoch {event.epoch}"
        for key, result in event.results.items():
            losses = (result.train_loss, result.val_loss, result.bits_per_byte or 0)
            if any(loss is None or not math.isfinite(loss) for loss in losses):
                raise CertificateInvalid(f"{JOURNAL}, {where}: a loss of {key} is not finite.")
            if (result.model, result.epoch) != (key, event.epoch):
                raise CertificateInvalid(f"{JOURNAL}, {where}: {key} has a result of {result.model}, {result.epoch}.")
        if before.trained:
            raise CertificateInvalid(f"{JOURNAL}, {where}: no epoch was left to train.")
        meant = decide.commit(before, config)
    if lie := next(_differences("", msgspec.to_builtins(event), msgspec.to_builtins(meant), _SAME), None):
        raise CertificateInvalid(f"{JOURNAL}, {where}: {lie}")


def _check_verified(state: RunState) -> None:
    for key, verified in state.verified.items():
        if key not in state.committed[-1].results or verified.epoch != state.kept_epoch(key):
            raise CertificateInvalid(f"{JOURNAL}: {key} was verified at epoch {verified.epoch}, which is not kept.")
        _check_digest(f"tensors_sha256 of {key}", verified.tensors_sha256)
        for field in ("lora_b_norm", "output_difference"):
            if not (math.isfinite(value := getattr(verified, field)) and value > 0):
                raise CertificateInvalid(f"{JOURNAL}: {field} of {key} is {value}.")


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
    weights = hashlib.sha256()
    for prefix, key in sorted((f"{key}/", key) for key in state.verified):
        for tensor in evidence.tensors(key):
            feed(weights, tensor, prefix)
    found = Dna(
        dataset=state.accepted.dataset.sha256,
        recipe=recipe_sha256(evidence.document(RECIPE)),
        weights=weights.hexdigest(),
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


def _differences(path: str, said: Any, meant: Any, tolerance: float = 0.0) -> Iterator[str]:
    """Where a document is another than it must be: the path of the field, and both values. Fractions may differ by
    `tolerance`, relatively."""
    if isinstance(said, dict) and isinstance(meant, dict):
        for name in {**meant, **said}:
            at = f"{path}.{name}" if path else name
            if name not in meant:
                yield f"{at} is {_shown(said[name])}; the journal has no such field."
            elif name in said:
                yield from _differences(at, said[name], meant[name], tolerance)
            elif name not in ADDED_LATER:
                yield f"{at} is missing; by the journal it is {_shown(meant[name])}."
    elif isinstance(said, list) and isinstance(meant, list) and len(said) == len(meant):
        for index, (one, other) in enumerate(zip(said, meant, strict=True)):
            yield from _differences(f"{path}[{index}]", one, other, tolerance)
    elif tolerance and isinstance(said, float) and isinstance(meant, float | int):
        if not math.isclose(said, meant, rel_tol=tolerance):
            yield f"{path} is {_shown(said)}; by the reports it is {_shown(meant)}."
    elif (type(said), said) != (type(meant), meant):  # 1, 1.0 and true are equal in Python
        yield f"{path} is {_shown(said)}; by the journal it is {_shown(meant)}."


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}..."
