"""provenance.json: how the adapters came to be, as an in-toto statement with SLSA provenance (slsa.dev/spec/v1.0).

A training is a build: what was asked for are its external parameters, the frozen plan its internal ones, datasets and
base models its dependencies, and the files of the adapters what it made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from msgspec import to_builtins

from oneseek.certificate.documents import Document
from oneseek.events import RunPlanned, SelectedModel
from oneseek.events.state import RunState

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:oneseek:lora-training:v1"
BUILDER = "urn:oneseek:trainer"


def provenance(state: RunState, subjects: Mapping[str, str], started_on: str, finished_on: str) -> Document:
    """The statement. No path of the machine is in it.

    subjects: SHA-256 in hex of every file of the adapters, by its path in the run directory, with slashes.
    started_on, finished_on: when the journal's first and last record were written, ISO 8601 in UTC.
    """
    if state.planned is None:
        raise ValueError("A run that was never planned has made nothing.")
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": subjects[name]}} for name in sorted(subjects)],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": _asked_for(state),
                "internalParameters": {"version": state.accepted.version, "plan": _plan(state.planned)},
                "resolvedDependencies": [*_datasets(state), *_base_models(state)],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"oneseek": state.accepted.oneseek_version}},
                "metadata": {"invocationId": state.run_id, "startedOn": started_on, "finishedOn": finished_on},
            },
        },
    }


def file_name(path: str) -> str:
    """The last segment of a path of any system."""
    return re.split(r"[/\\]", path)[-1]


def _asked_for(state: RunState) -> Document:
    """The configuration as accepted; where it named paths, it names models by key and datasets by file name."""
    used, config = state.accepted.dataset, state.config
    given = {name: section for name, section in config.items() if name != "output"}
    validation = None if used.validation_path is None else file_name(used.validation_path)
    given["model"] = {**config["model"], "base_models": list(state.keys), "name": None}
    given["data"] = {**config["data"], "dataset": file_name(used.path), "validation_dataset": validation}
    return given


def _plan(planned: RunPlanned) -> Document:
    plan: Document = to_builtins(planned)
    del plan["type"]
    return {**plan, "unprepared": sorted(planned.unprepared)}  # why they were not, may name paths


def _datasets(state: RunState) -> Iterator[Document]:
    used = state.accepted.dataset
    yield {"name": file_name(used.path), "digest": {"sha256": used.sha256}}
    if used.validation_path is not None:
        yield {"name": file_name(used.validation_path), "digest": {"sha256": used.validation_sha256}}


def _base_models(state: RunState) -> Iterator[Document]:
    for model in state.accepted.models:
        source = {} if model.hub_id is None else {"uri": _purl(model)}
        for name, digest, digest_of in (
            ("*.safetensors", model.weights_sha256, "what sha256sum prints of these files, sorted by name"),
            ("config.json", model.config_sha256, None),
            ("tokenizer.json", model.tokenizer_sha256, "what sha256sum prints of it, and the special tokens as JSON"),
            ("chat template", model.template_sha256, "the template's text"),
        ):
            if digest is not None:
                said = {} if digest_of is None else {"annotations": {"digestOf": digest_of}}
                yield {"name": f"{model.key}/{name}", **source, "digest": {"sha256": digest}, **said}


def _purl(model: SelectedModel) -> str:
    """A package URL (github.com/package-url/purl-spec, type huggingface); ids and commits need no escape in it."""
    return f"pkg:huggingface/{model.hub_id}@{(model.revision or '').lower()}"
