"""Whose word counts: a signer's for the run, a pinned ledger's for the time, nobody's for what was tampered with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from oneseek import runs
from oneseek.certificate.keys import Pins
from oneseek.certificate.ledger_proof import LedgerProof
from oneseek.certificate.manifest import parse
from oneseek.errors import RunError
from oneseek.files.layout import RunDirectory
from oneseek.files.spelling import spelt
from oneseek.ledger.note import SignerKey
from support.certified import CertifiedTown, certified, enter_anew, failed, proof_of, seal_anew
from support.runs import Town

__all__ = ["certified"]  # a fixture

THIEF = SignerKey("oneseek-ledger/of-the-thief", bytes(32))


def entered_in_the_thiefs_ledger(certified: CertifiedTown, into: Path) -> Path:
    """What somebody makes of a run who holds the signer's key, and not the ledger's."""
    root = certified.copy(into)
    seal_anew(root, certified.signer, log=str(THIEF.verifier))
    enter_anew(root, THIEF)
    return root


def test_a_ledger_that_only_the_signer_names_does_not_stand_in_for_the_pinned_one(
    certified: CertifiedTown, tmp_path: Path
) -> None:
    root = entered_in_the_thiefs_ledger(certified, tmp_path)

    report = certified.verify(root)

    assert failed(report).keys() == {"keys"}
    assert "of-the-thief" in failed(report)["keys"]


def test_who_pinned_no_ledger_takes_the_one_that_the_signer_names(certified: CertifiedTown, tmp_path: Path) -> None:
    root = entered_in_the_thiefs_ledger(certified, tmp_path)

    report = certified.verify(root, pins=Pins(certified.pins.signers, frozenset()))

    assert report.ok


@pytest.fixture
def unsealed(town: Town) -> RunDirectory:
    """A complete run that was not certified yet."""
    return town.train()[0]


def flip_a_weight(directory: RunDirectory) -> str:
    file = directory.adapter("alfa-1b") / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return file.name


def change_a_result(directory: RunDirectory) -> str:
    results = json.loads(directory.training_results.read_text())
    directory.training_results.write_bytes(spelt({**results, "champion": "beta-1b" * 2}))
    return "champion"


def add_a_space(directory: RunDirectory) -> str:
    directory.recipe.write_bytes(directory.recipe.read_bytes() + b"\n")
    return directory.recipe.name


@pytest.mark.parametrize("change", [flip_a_weight, change_a_result, add_a_space])
def test_what_contradicts_the_journal_is_neither_signed_nor_entered(
    town: Town, unsealed: RunDirectory, change: Callable[[RunDirectory], str]
) -> None:
    named = change(unsealed)

    certified = runs.certify(unsealed, town.home, {})

    assert certified.problem is not None
    assert named in certified.problem
    assert not unsealed.manifest.exists()
    assert not unsealed.ledger_proof.exists()


def test_a_planted_proof_does_not_keep_a_run_out_of_the_ledger(town: Town, unsealed: RunDirectory) -> None:
    runs.certify(unsealed, town.home, {})
    unsealed.ledger_proof.unlink()
    enter_anew(unsealed.root, THIEF)

    before = runs.describe(unsealed).status
    runs.certify(unsealed, town.home, {})

    assert before == "completed"
    assert runs.describe(unsealed).status == "certified"
    assert proof_of(unsealed.root).key != THIEF.verifier


def test_a_proof_whose_signature_does_not_hold_certifies_nothing(town: Town, unsealed: RunDirectory) -> None:
    runs.certify(unsealed, town.home, {})
    proof = proof_of(unsealed.root)
    sealed_as = parse(unsealed.manifest.read_bytes())
    forged = LedgerProof(proof.logged, SignerKey(proof.key.name, bytes(32)).verifier)

    unsealed.ledger_proof.write_bytes(forged.encode())

    assert sealed_as.log != str(forged.key)
    assert runs.describe(unsealed).status == "completed"


@pytest.mark.parametrize("name", ["ledger_proof.json", "oneseek_dna.json", "model.sig", "manifest.json"])
@pytest.mark.parametrize("hostile", ["deep", "huge", "folder", "link"])
def test_one_hostile_file_does_not_keep_the_other_runs_from_being_listed(
    town: Town, unsealed: RunDirectory, name: str, hostile: str
) -> None:
    runs.certify(unsealed, town.home, {})
    other = runs.complete(town.submit(), town.home, {})
    file = unsealed.root / name
    data = file.read_bytes()
    file.unlink()
    if hostile == "deep":
        file.write_bytes(data[:-2] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    elif hostile == "huge":
        file.write_bytes(data[:-2] + b',"x":1e999}')
    elif hostile == "folder":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero")

    listed = {run.run_id: run.status for run in runs.list_runs(town.home)}

    assert listed[other.run_id] == "certified"
    assert listed[unsealed.run_id] in ("certified", "completed", "damaged")


def test_what_resume_takes_up_again_when_it_was_sealed_stays_sealed(
    town: Town, unsealed: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.certify(unsealed, town.home, {})
    unsealed.ledger_proof.unlink()
    before = {path: path.read_bytes() for path in unsealed.root.rglob("*.*") if path.is_file()}
    monkeypatch.setattr("oneseek.certificate.card.code", lambda value: f"`{value}` as a later release writes it")

    result = runs.complete(runs.resume(unsealed), town.home, {})

    assert result.status == "certified"
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_that_was_tampered_with_is_not_reproduced(town: Town, unsealed: RunDirectory) -> None:
    runs.certify(unsealed, town.home, {})
    copy = RunDirectory(Path(shutil.copytree(unsealed.root, town.root / "copy")))
    copy.signature.write_text("{}")

    with pytest.raises(RunError, match="not what was sealed"):
        runs.reproduce(copy, town.home)
