"""Checks 13 and 14: the dataset and the base models, where somebody has them at hand."""

from __future__ import annotations

from pathlib import Path

from oneseek.certificate.checks.evidence import Evidence, NotCheckable
from oneseek.datasets.read import scan
from oneseek.datasets.scan import Scan
from oneseek.datasets.split import files_digest, rows_digest, split
from oneseek.errors import CertificateInvalid, ModelError
from oneseek.events import DatasetUsed, SelectedModel
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.discover import digests, discover

_PARTS = ("weights", "config", "tokenizer", "template")


def check_dataset(evidence: Evidence) -> str:
    """These files are what the run was trained on, row by row and side by side of the split."""
    if evidence.dataset is None:
        raise NotCheckable("name the dataset with --dataset FILE")
    state = evidence.finished[0]
    used = state.accepted.dataset
    if evidence.validation is not None and used.validation_sha256 is None:
        raise CertificateInvalid(f"The run had no validation dataset, so {evidence.validation} is none of it.")
    rows = scan(evidence.dataset)
    _check_file("dataset", rows, used.sha256)
    if used.validation_sha256 is None:
        sides = split(rows.digests, state.config["data"]["validation_split"], state.config["training"]["seed"])
        digest = rows_digest(rows.rows_sha256, sides)
    elif evidence.validation is None:
        raise NotCheckable("it is the one of the run; name the other with --validation-dataset FILE")
    else:
        validation = scan(evidence.validation)
        _check_file("validation dataset", validation, used.validation_sha256)
        digest = files_digest(rows.rows_sha256, validation.rows_sha256)
    return _same_rows(used, digest)


def check_base_models(evidence: Evidence) -> str:
    """The base models in a directory are those that the run began with."""
    if evidence.models is None:
        raise NotCheckable("name their directory with --models-dir DIR")
    models = evidence.finished[0].accepted.models
    try:
        found = {model.key: model for model in discover(evidence.models).models}
    except ModelError as error:
        raise NotCheckable(error.problem) from error
    for model in models:
        if model.key in found:
            _check_model(model, found[model.key])
    if missing := [model.key for model in models if model.key not in found]:
        raise NotCheckable(f"{evidence.models} does not have {', '.join(missing)}")
    return f"{', '.join(model.key for model in models)}: weights, configuration, tokenizer and template are those used"


def _check_file(name: str, found: Scan, sha256: str) -> None:
    if found.sha256 != sha256:
        raise CertificateInvalid(f"The {name} {found.path} is another: its SHA-256 is {found.sha256}, not {sha256}.")


def _same_rows(used: DatasetUsed, digest: str) -> str:
    if digest != used.rows_sha256:
        raise CertificateInvalid(f"rows_sha256 of the dataset is {digest}; in the journal it is {used.rows_sha256}.")
    return f"{used.training_rows} training rows and {used.validation_rows} validation rows are those used"


def _check_model(model: SelectedModel, found: ModelInfo) -> None:
    there = digests(Path(found.path))
    for part in _PARTS:
        name = f"{part}_sha256"
        if getattr(there, name) != getattr(model, name):
            raise CertificateInvalid(f"Of the base model {model.key} in {found.path}, the {part} is another: {name}.")
