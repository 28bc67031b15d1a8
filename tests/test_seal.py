"""Sealing: exactly a run's files, signed; again and again to the same bytes; verified by the official tool."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from oneseek import runs
from oneseek.certificate import manifest
from oneseek.certificate.contents import allowed, required
from oneseek.certificate.ledger_proof import LedgerProof, statement
from oneseek.certificate.seal import is_certified, seal, sealed
from oneseek.errors import CertificateInvalid, StorageError
from oneseek.events.state import RunState
from oneseek.files.durable import sha256_file
from oneseek.files.layout import RunDirectory
from oneseek.ledger.entry import encode
from oneseek.ledger.note import SignerKey
from oneseek.ledger.store import Store
from oneseek.runs import publish as publishing
from support.runs import Town, everything

KEY = ec.derive_private_key(20251122, ec.SECP256R1())
OTHER = ec.derive_private_key(143025, ec.SECP256R1())
LOG = SignerKey("ledger.example.org", bytes(32)).verifier
OFFICIAL = Path(sys.executable).with_name("model_signing")

Run = tuple[RunDirectory, RunState]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    town = Town(tmp_path_factory.mktemp("town"))
    town.add_model("alfa-1b")
    town.add_model("beta-1b")
    town.dataset.write_text("".join(f'{{"prompt": "Q{n}?", "completion": "A {n}."}}\n' for n in range(20)))
    return town.train(training__num_epochs=2)


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A run's directory alone, as it is before it is sealed."""
    directory, state = trained
    return RunDirectory(shutil.copytree(directory.root, tmp_path / "runs" / directory.run_id)), state


def certificate(directory: RunDirectory) -> tuple[bytes, bytes]:
    return directory.manifest.read_bytes(), directory.signature.read_bytes()


def log_entry(directory: RunDirectory, state: RunState) -> None:
    """Enter a sealed run in a ledger, as the runs do it."""
    found = sealed(directory)
    assert found is not None
    log = Store.open(Path(":memory:"), SignerKey("log", bytes(32)))
    (logged,) = log.append([encode(statement(found, state))])
    directory.ledger_proof.write_bytes(LedgerProof(logged, log.key).encode())
    log.close()


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def official_verdict(directory: RunDirectory, key: Path, *options: str) -> tuple[int, str]:
    files = [str(directory.root), "--signature", str(directory.signature), "--public_key", str(key)]
    done = subprocess.run([OFFICIAL, "verify", "key", *files, *options], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_manifest_lists_exactly_the_files_of_the_run(run: Run) -> None:
    directory, state = run
    before = {name for name in everything(directory.root) if (directory.root / name).is_file()}

    made = seal(directory, state, KEY, LOG)

    assert set(made.files) == before == required(state) | (before & allowed(state))
    assert {name: file.sha256 for name, file in made.files.items()} == {
        name: sha256_file(directory.root / name) for name in before
    }
    assert {name: file.size for name, file in made.files.items()} == {
        name: (directory.root / name).stat().st_size for name in before
    }
    assert made.log == str(LOG)
    assert manifest.parse(directory.manifest.read_bytes()) == made == sealed(directory)
    assert everything(directory.root) - before == {"adapters", "adapters/alfa-1b", "adapters/beta-1b"} | {
        "manifest.json",
        "model.sig",
    }


def test_quarantined_rows_are_part_of_what_is_sealed(town: Town) -> None:
    town.dataset.write_text(town.dataset.read_text() + "not a row\n")
    directory, state = town.train(data__bad_rows="quarantine", training__num_epochs=1)

    made = seal(directory, state, KEY, None)

    assert "quarantine.jsonl" in made.files


def test_a_quarantine_file_of_a_run_that_left_nothing_out_is_refused(run: Run) -> None:
    directory, state = run
    directory.quarantine.write_text("{}\n")

    with pytest.raises(CertificateInvalid, match=r"quarantine\.jsonl"):
        seal(directory, state, KEY, None)


def test_the_official_tool_accepts_a_sealed_run_and_refuses_it_after_one_flipped_bit(run: Run, tmp_path: Path) -> None:
    directory, state = run
    key = tmp_path / "signer.pem"
    key.write_text(seal(directory, state, KEY, None).signer)
    log_entry(directory, state)

    accepted = [official_verdict(directory, key), official_verdict(directory, key, "--ignore_unsigned_files")]
    flip(directory.adapter("alfa-1b") / "adapter_model.safetensors", -1)
    refused = official_verdict(directory, key)

    assert accepted == [(0, "Verification succeeded\n")] * 2
    assert refused[0] != 0
    assert "adapters/alfa-1b/adapter_model.safetensors" in refused[1]


def test_sealing_again_changes_no_byte(run: Run) -> None:
    directory, state = run
    first = seal(directory, state, KEY, LOG), certificate(directory)
    directory.manifest.unlink()
    directory.signature.unlink()

    second = seal(directory, state, KEY, LOG), certificate(directory)

    assert first == second


def test_a_run_that_is_sealed_is_left_as_it_is(run: Run) -> None:
    directory, state = run
    made = seal(directory, state, KEY, LOG)
    before = certificate(directory), directory.manifest.stat().st_ino

    assert seal(directory, state, KEY, None) == made
    assert (certificate(directory), directory.manifest.stat().st_ino) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda directory: flip(directory.manifest, 100),
        lambda directory: flip(directory.signature, 100),
        lambda directory: directory.manifest.unlink(),
        lambda directory: directory.signature.unlink(),
        lambda directory: directory.manifest.write_bytes(b""),
        lambda directory: directory.signature.write_bytes(b"\xff"),
        lambda directory: directory.root.joinpath("manifest.json.tmp").write_bytes(b"half"),
        lambda directory: directory.root.joinpath("ledger_proof.json.tmp").write_bytes(b"half"),
    ],
    ids=["manifest", "signature", "no-manifest", "no-signature", "empty", "garbage", "half-written", "half-proof"],
)
def test_what_is_not_whole_is_made_anew(run: Run, spoil: Callable[[RunDirectory], None]) -> None:
    directory, state = run
    seal(directory, state, KEY, LOG)
    before = certificate(directory), everything(directory.root)
    spoil(directory)

    seal(directory, state, KEY, LOG)

    assert (certificate(directory), everything(directory.root)) == before


def test_what_was_changed_after_it_was_sealed_is_not_signed_again(run: Run) -> None:
    directory, state = run
    seal(directory, state, KEY, LOG)
    card = directory.adapter("alfa-1b") / "README.md"
    card.write_text(card.read_text() + "\n")

    with pytest.raises(CertificateInvalid, match=r"README\.md is not what was sealed"):
        seal(directory, state, KEY, LOG)


def test_what_another_key_sealed_is_not_sealed_over(run: Run) -> None:
    directory, state = run
    seal(directory, state, OTHER, LOG)

    with pytest.raises(CertificateInvalid, match="sealed by another key"):
        seal(directory, state, KEY, LOG)


def test_a_seal_that_was_taken_off_is_made_anew(run: Run) -> None:
    directory, state = run
    first = seal(directory, state, OTHER, LOG)
    directory.signature.unlink()

    second = seal(directory, state, KEY, LOG)

    assert first != second
    assert second == sealed(directory)


def test_what_is_not_finished_is_not_sealed(town: Town) -> None:
    with town.submit() as run, pytest.raises(ValueError, match="finished"):
        seal(run.directory, run.state, KEY, None)


def test_the_lock_of_who_seals_is_not_sealed(run: Run) -> None:
    directory, state = run
    directory.work.mkdir()
    directory.lock.touch()

    made = seal(directory, state, KEY, None)

    assert not [name for name in made.files if name.startswith("work")]


def stray_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def link_to_a_copy(directory: RunDirectory) -> None:
    elsewhere = directory.root.parent / "copy.json"
    directory.recipe.rename(elsewhere)
    directory.recipe.symlink_to(elsewhere)


def link_to_a_folder(directory: RunDirectory) -> None:
    elsewhere = directory.root.parent / "alfa-1b"
    directory.adapter("alfa-1b").rename(elsewhere)
    directory.adapter("alfa-1b").symlink_to(elsewhere)


def ask_to_stop(directory: RunDirectory) -> None:
    directory.work.mkdir()
    directory.stop_request.touch()


STRANGERS: dict[str, tuple[str, Callable[[RunDirectory], Any]]] = {
    "file": ("notes.txt", lambda run: (run.root / "notes.txt").touch()),
    "temporary file": ("notes.tmp", lambda run: (run.root / "notes.tmp").touch()),
    "file in an adapter": ("alfa-1b/x.py", lambda run: (run.adapter("alfa-1b") / "x.py").touch()),
    "hidden file": (".hidden", lambda run: (run.root / ".hidden").touch()),
    "other case": ("Recipe.json", lambda run: (run.root / "Recipe.json").touch()),
    "not UTF-8": (r"\udcff", lambda run: (run.root / os.fsdecode(b"\xff")).touch()),
    "adapter of no model": ("gamma", lambda run: run.adapter("gamma").mkdir()),
    "empty folder": ("empty", lambda run: (run.root / "empty").mkdir()),
    "folder in an adapter": ("alfa-1b/deep", lambda run: (run.adapter("alfa-1b") / "deep").mkdir()),
    "folder of a file's name": ("quarantine.jsonl", lambda run: run.quarantine.mkdir()),
    "folder of a leftover's name": ("model.sig.tmp", lambda run: (run.root / "model.sig.tmp").mkdir()),
    "link": ("recipe.json", link_to_a_copy),
    "broken link": ("model.sig", lambda run: run.signature.symlink_to("nowhere")),
    "link to a folder": ("adapters/alfa-1b", link_to_a_folder),
    "pipe": ("pipe", lambda run: os.mkfifo(run.root / "pipe")),
    "pipe of a document's name": ("ledger_proof.json", lambda run: os.mkfifo(run.ledger_proof)),
    "socket": ("socket", lambda run: stray_socket(run.root / "socket")),
    "work of a worker": ("work/workers", lambda run: run.worker("alfa-1b").mkdir(parents=True)),
    "request to stop": ("work/stop", ask_to_stop),
}


@pytest.mark.parametrize(("name", "put"), STRANGERS.values(), ids=STRANGERS)
def test_what_no_run_has_is_refused_and_named(run: Run, name: str, put: Callable[[RunDirectory], Any]) -> None:
    directory, state = run
    put(directory)
    before = everything(directory.root)

    with pytest.raises(CertificateInvalid) as refused:
        seal(directory, state, KEY, None)

    assert name in refused.value.problem
    assert refused.value.fix
    assert everything(directory.root) == before


@pytest.mark.parametrize("name", ["provenance.json", "adapters/beta-1b/README.md", "journal.jsonl"])
def test_what_every_run_has_is_missed_and_named(run: Run, name: str) -> None:
    directory, state = run
    (directory.root / name).unlink()

    with pytest.raises(CertificateInvalid, match=name) as refused:
        seal(directory, state, KEY, None)

    assert refused.value.fix


def test_a_run_is_certified_when_the_ledger_has_this_seal_and_no_other(run: Run) -> None:
    directory, state = run
    seen = [is_certified(directory)]
    seal(directory, state, KEY, None)
    seen.append(is_certified(directory))
    log_entry(directory, state)
    seen.append(is_certified(directory))
    directory.signature.unlink()
    seal(directory, state, OTHER, None)
    seen.append(is_certified(directory))

    assert seen == [False, False, True, False]


@pytest.mark.parametrize("name", ["manifest.json", "model.sig", "ledger_proof.json"])
@pytest.mark.parametrize("put", ["nothing", "garbage", "link", "pipe"])
def test_a_run_without_one_of_the_three_is_not_certified(run: Run, name: str, put: str) -> None:
    directory, state = run
    seal(directory, state, KEY, None)
    log_entry(directory, state)
    path = directory.root / name
    path.rename(directory.root.parent / name)
    if put == "garbage" and name != "model.sig":  # whether the signature is one, `verify` says
        path.write_bytes(b"{}")
    elif put == "link":
        path.symlink_to(directory.root.parent / name)
    elif put == "pipe":
        os.mkfifo(path)

    assert not is_certified(directory)


def test_the_statement_is_what_the_manifest_and_the_journal_say(run: Run) -> None:
    directory, state = run
    made = seal(directory, state, KEY, None)

    said = statement(made, state)

    assert state.result is not None
    assert (said.run_id, said.dna, said.manifest_sha256) == (state.run_id, made.dna, sha256_file(directory.manifest))
    assert (said.base_models, said.final_weights) == (tuple(state.verified), state.result.final_weights)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_any_instant_sealing_again_gives_the_same_bytes(run: Run, tmp_path: Path, before: bool) -> None:
    directory, state = run
    kills, ends = 0, set()
    for call in range(1, 20):
        copy = RunDirectory(tmp_path / f"{call}" / directory.run_id)
        shutil.copytree(directory.root, copy.root)
        kills += (killed := killed_at(call, lambda copy=copy: seal(copy, state, KEY, LOG), before=before))  # type: ignore[misc]
        seal(copy, state, KEY, LOG)
        ends.add((certificate(copy), frozenset(everything(copy.root))))
        if not killed:
            break

    assert kills == 6  # file, name and directory, of manifest and signature
    assert len(ends) == 1


def killed_at(call: int, work: Callable[[], object], *, before: bool) -> bool:
    """Do `work` in a child that dies by SIGKILL at its `call`-th fsync or rename; whether it died."""
    child = os.fork()
    if child == 0:
        count = 0

        def trapped(function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == call and before:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = function(*args, **kwargs)
                if count == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return wrapper

        os.fsync = trapped(os.fsync)
        Path.replace = trapped(Path.replace)  # type: ignore[method-assign]
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_publishing_that_was_broken_off_writes_the_same_cards_and_provenance_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageError("The disk is full.", "Free some space.")

    with town.submit(training__num_epochs=2) as recorder:
        with monkeypatch.context() as patched:
            patched.setattr(publishing, "_point_current", fail)
            with pytest.raises(StorageError):
                runs.train(recorder)
        directory = recorder.directory
    paths = [directory.provenance, *town.results.root.rglob("README.md")]
    written = {path: path.read_bytes() for path in paths}

    state = town.resume(directory)

    assert len(written) == 5  # cards in the run and beside it, of two models
    assert {path: path.read_bytes() for path in paths} == written
    assert seal(directory, state, KEY, None) == sealed(directory)
