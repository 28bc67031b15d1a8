"""provenance.json: an in-toto statement with SLSA provenance, accepted by in-toto's own classes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format  # type: ignore[import-untyped]
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped]

from oneseek.certificate.provenance import file_name, provenance
from oneseek.events.state import RunState
from oneseek.files.durable import sha256_file
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import read
from oneseek.runs.unchanged import changes
from support.runs import Town

Run = tuple[RunDirectory, RunState]


@pytest.fixture
def run(town: Town) -> Run:
    return town.train(training__num_epochs=2)


def document(run: Run) -> dict[str, Any]:
    return msgspec.json.decode(run[0].provenance.read_bytes(), type=dict[str, Any])


def test_in_totos_own_classes_accept_it(run: Run) -> None:
    directory, state = run
    text = directory.provenance.read_text()

    statement = Statement.copy_from_pb(json_format.Parse(text, statement_pb2.Statement()))
    predicate = json_format.ParseDict(json.loads(text)["predicate"], provenance_pb2.Provenance())

    statement.validate()
    assert statement.pb.predicate_type == "https://slsa.dev/provenance/v1"
    assert predicate.run_details.metadata.invocation_id == state.run_id
    records = read(directory.journal).records
    began, ended = (datetime.fromisoformat(records[place].at) for place in (0, -1))
    assert predicate.run_details.metadata.started_on.ToDatetime(tzinfo=UTC) == began
    assert predicate.run_details.metadata.finished_on.ToDatetime(tzinfo=UTC) == ended


def test_its_subjects_are_the_files_of_the_adapters(run: Run) -> None:
    directory, _ = run
    files = [path for path in (directory.root / "adapters").rglob("*") if path.is_file()]

    subjects = {subject["name"]: subject["digest"] for subject in document(run)["subject"]}

    assert subjects == {path.relative_to(directory.root).as_posix(): {"sha256": sha256_file(path)} for path in files}


def test_its_dependencies_are_the_datasets_and_the_base_models(town: Town) -> None:
    validation = town.dataset.with_name("check.jsonl")
    validation.write_text(town.dataset.read_text().replace("Question", "Problem"))
    directory, state = town.train("alfa-1b", training__num_epochs=1, data__validation_dataset=str(validation))
    used = document((directory, state))["predicate"]["buildDefinition"]["resolvedDependencies"]

    digests = {dependency["name"]: dependency["digest"]["sha256"] for dependency in used}

    (model,) = state.accepted.models
    assert changes(state) == []
    assert digests == {
        "rows.jsonl": sha256_file(town.dataset),
        "check.jsonl": sha256_file(validation),
        "alfa-1b/*.safetensors": model.weights_sha256,
        "alfa-1b/config.json": sha256_file(town.home.models / "alfa-1b" / "config.json"),
        "alfa-1b/tokenizer.json": model.tokenizer_sha256,
        "alfa-1b/chat template": model.template_sha256,
    }


def test_a_model_from_the_hub_is_named_by_its_package_url(run: Run) -> None:
    _, state = run
    commit = "ABCDEF0123456789ABCDEF0123456789ABCDEF01"
    first, second = state.accepted.models
    models = (msgspec.structs.replace(first, hub_id="Org/Alfa-1B", revision=commit), second)
    changed = msgspec.structs.replace(state, accepted=msgspec.structs.replace(state.accepted, models=models))

    used = provenance(changed, {}, "", "")["predicate"]["buildDefinition"]["resolvedDependencies"]

    urls = {(dependency["name"].partition("/")[0], dependency.get("uri")) for dependency in used}
    assert urls == {
        ("rows.jsonl", None),
        (first.key, f"pkg:huggingface/Org/Alfa-1B@{commit.lower()}"),
        (second.key, None),
    }


def test_no_path_of_the_machine_is_in_it(town: Town) -> None:
    directory, state = town.train(
        str(town.home.models / "alfa-1b"), "beta-1b", training__num_epochs=1, output__directory=str(town.root / "out")
    )
    assert state.planned is not None
    planned = msgspec.structs.replace(state.planned, unprepared={"gamma-1b": f"{town.root}/gamma-1b can't be loaded."})

    written = directory.provenance.read_text()
    another = provenance(msgspec.structs.replace(state, planned=planned), {}, "", "")

    assert str(town.root) not in written
    assert str(town.root) not in json.dumps(another)
    asked = json.loads(written)["predicate"]["buildDefinition"]["externalParameters"]
    assert asked["data"]["dataset"] == "rows.jsonl"
    assert asked["model"]["base_models"] == ["alfa-1b", "beta-1b"]
    assert another["predicate"]["buildDefinition"]["internalParameters"]["plan"]["unprepared"] == ["gamma-1b"]


def test_it_is_the_same_for_every_order_of_the_files(run: Run) -> None:
    _, state = run
    subjects = {f"adapters/alfa-1b/{name}": "a" * 64 for name in "cab"}

    assert provenance(state, subjects, "", "") == provenance(state, dict(reversed(subjects.items())), "", "")


@pytest.mark.parametrize("path", ["/home/somebody/rows.jsonl", "rows.jsonl", r"C:\Users\somebody\rows.jsonl"])
def test_of_a_path_the_files_name_is_left(path: str) -> None:
    assert file_name(path) == "rows.jsonl"
