"""After a run: sealed and entered in the ledger, whatever breaks off in between."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from pytest_socket import enable_socket, socket_allow_hosts

from oneseek import runs
from oneseek.certificate.ledger_proof import parse
from oneseek.errors import LedgerDamaged, RunError
from oneseek.files.layout import RunDirectory
from oneseek.ledger.entry import entry_of
from oneseek.ledger.locate import open_ledger
from support.runs import Town, everything

NOWHERE: Mapping[str, str] = {"LEDGER_URL": "http://127.0.0.1:9"}  # discard: nobody listens there
HERE: Mapping[str, str] = {}


@pytest.fixture
def loopback() -> None:
    """Addresses of this machine may be called."""
    enable_socket()
    socket_allow_hosts(["127.0.0.1"])


def entries(town: Town) -> list[bytes]:
    with closing(open_ledger(town.home, HERE)) as log:
        return log.entries(0, 1000)


def sealed_files(directory: RunDirectory) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory.root)): path.read_bytes()
        for path in directory.root.rglob("*.*")
        if path.is_file()
    }


def test_a_run_that_is_completed_ends_certified_and_in_the_ledger(town: Town) -> None:
    result = runs.complete(town.submit(), town.home, HERE)

    directory = RunDirectory(Path(result.certified_dir))
    proof = parse(directory.ledger_proof.read_bytes())
    assert result.status == "certified"
    assert result.not_certified is None
    assert entries(town) == [proof.logged.entry]
    assert (proof.entry.run_id, proof.entry.dna) == (result.run_id, result.dna)
    assert proof.entry.base_models == result.base_models


def test_the_documents_that_programs_of_the_old_system_read_have_their_fields(town: Town) -> None:
    result = runs.complete(town.submit(), town.home, HERE)

    document = json.loads((Path(result.certified_dir) / "ledger_proof.json").read_text())
    assert document["event"] == "dna_v2_training_completed"
    assert document["baseModels"] == ["alfa-1b", "beta-1b"]
    assert sum(document["final_weights"].values()) == pytest.approx(1.0)


@pytest.mark.usefixtures("loopback")
def test_a_ledger_that_is_away_leaves_a_completed_run_that_is_entered_later(town: Town) -> None:
    result = runs.complete(town.submit(), town.home, NOWHERE)
    directory = RunDirectory(Path(result.certified_dir))
    sealed = sealed_files(directory)

    later = runs.certify(directory, town.home, HERE)

    assert result.status == "completed"
    assert result.not_certified is not None
    assert "127.0.0.1:9" in result.not_certified
    assert later.problem is None
    assert runs.describe(directory).status == "certified"
    assert {**sealed_files(directory), **sealed} == sealed_files(directory)


def test_a_ledger_that_was_rewritten_signs_nothing_and_the_run_is_completed_all_the_same(town: Town) -> None:
    runs.complete(town.submit(), town.home, HERE)
    old = town.home.ledger.read_bytes()
    runs.complete(town.submit(), town.home, HERE)
    for path in town.root.glob("ledger.db*"):
        path.unlink()
    town.home.ledger.write_bytes(old)

    result = runs.complete(town.submit(), town.home, HERE)

    assert result.status == "completed"
    assert result.not_certified is not None
    with pytest.raises(LedgerDamaged):
        open_ledger(town.home, HERE).append([b"{}"])


def test_a_run_that_is_certified_again_is_left_as_it_is(town: Town) -> None:
    result = runs.complete(town.submit(), town.home, HERE)
    directory = RunDirectory(Path(result.certified_dir))
    before = sealed_files(directory)

    runs.certify(directory, town.home, HERE)

    assert sealed_files(directory) == before
    assert len(entries(town)) == 1


def test_a_proof_that_was_lost_comes_back_as_it_was(town: Town) -> None:
    result = runs.complete(town.submit(), town.home, HERE)
    directory = RunDirectory(Path(result.certified_dir))
    before = sealed_files(directory)
    directory.ledger_proof.unlink()

    runs.certify(directory, town.home, HERE)

    assert sealed_files(directory) == before
    assert len(entries(town)) == 1


def test_a_run_that_is_not_over_is_not_certified(town: Town) -> None:
    with town.submit() as run:
        directory = run.directory

    with pytest.raises(RunError, match="not complete"):
        runs.certify(directory, town.home, HERE)
    assert not directory.manifest.exists()


def test_a_signing_key_that_others_may_read_is_refused_and_the_run_stays_completed(town: Town) -> None:
    directory, _ = town.train()
    town.home.keys.mkdir(mode=0o700)
    town.home.signer_key.write_text("secret")
    town.home.signer_key.chmod(0o644)

    certified = runs.certify(directory, town.home, HERE)

    assert certified.problem is not None
    assert "others" in certified.problem
    assert "chmod 600" in certified.fix
    assert runs.describe(directory).status == "completed"


def test_a_run_sealed_for_one_ledger_is_not_entered_in_another(town: Town, tmp_path: Path) -> None:
    result = runs.complete(town.submit(), town.home, HERE)
    directory = RunDirectory(Path(result.certified_dir))
    directory.ledger_proof.unlink()
    other = Town(tmp_path / "other")

    shutil.copytree(town.home.keys, other.home.keys, ignore=shutil.ignore_patterns("log.*"))

    certified = runs.certify(directory, other.home, HERE)

    assert certified.problem is not None
    assert "sealed for the ledger" in certified.problem
    assert entries(other) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from oneseek import runs
from oneseek.files.layout import RunDirectory
from support.runs import Town

directory, town = RunDirectory(Path(sys.argv[1])), Town(Path(sys.argv[2]))
for call in range(1, 200):
    child = os.fork()
    if child == 0:
        count = 0
        def trapped(function):
            def wrapper(*args, **kwargs):
                global count
                count += 1
                if count == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)
            return wrapper
        os.fsync = trapped(os.fsync)
        Path.replace = trapped(Path.replace)
        runs.certify(directory, town.home, {})
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
    for path in (directory.ledger_proof,) if call % 2 else ():
        path.unlink(missing_ok=True)
print(call)
"""


def test_killed_at_any_write_in_between_a_run_ends_certified_by_the_same_bytes(town: Town) -> None:
    directory, _ = town.train()

    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(directory.root), str(town.root)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    first = sealed_files(directory)
    for path in (directory.manifest, directory.signature, directory.ledger_proof):
        path.unlink()
    runs.certify(directory, town.home, HERE)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5
    assert sealed_files(directory) == first
    assert len(entries(town)) == 1
    assert entry_of(entries(town)[0]).run_id == directory.run_id
    assert not [path for path in everything(directory.root) if path.endswith(".tmp")]
