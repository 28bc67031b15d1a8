"""Nothing of a certified run can be changed unseen: mutations drawn at random, and every bit of what signs and proves.

Each must fail, and the detail of a failed check must name the file, the record or the ledger that is meant.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oneseek.certificate.ledger_proof import LedgerProof
from oneseek.certificate.report import Report
from oneseek.ledger import entry
from oneseek.ledger.log import Log, Logged
from oneseek.ledger.note import SignerKey
from oneseek.ledger.store import Store
from support.certified import (
    MANIFEST,
    PROOF,
    SIGNATURE,
    CertifiedTown,
    certified,
    enter_anew,
    failed,
    ledger,
    proof_of,
    seal_anew,
)

__all__ = ["certified", "ledger"]  # fixtures

STRANGERS = (
    "notes.txt", ".hidden", "å\n.json", "manifest.json.tmp", "pytorch_model.bin", "README.md", "work/run.lock",
    "adapters/notes.txt", "adapters/alfa-1b/pytorch_model.bin", "adapters/gamma-1b/adapter_config.json",
)  # fmt: skip


class Mutated(msgspec.Struct, frozen=True):
    """What was done, one of the words by which it must be named, and the ledger to compare with, if any."""

    words: tuple[str, ...]
    log: Log | None = None


Mutation = Callable[[Path, CertifiedTown, random.Random], Mutated]


def flip_a_bit(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    path, data = a_file(root, draw)
    at = draw.randrange(len(data))
    data[at] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return named(root, path)


def insert_a_byte(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    path, data = a_file(root, draw)
    data.insert(draw.randrange(len(data) + 1), draw.choice(b"\x00 \n0}"))
    path.write_bytes(data)
    return named(root, path)


def delete_a_byte(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    path, data = a_file(root, draw)
    del data[draw.randrange(len(data))]
    path.write_bytes(data)
    return named(root, path)


def cut_off(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    path, data = a_file(root, draw)
    path.write_bytes(data[: draw.randrange(len(data))])
    return named(root, path)


def add_a_file(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    name = draw.choice(STRANGERS)
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(draw.randbytes(draw.randrange(3)))
    return Mutated((ascii(name)[1:-1] if "\n" not in name else "å\\n.json",))


def remove_a_file(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    path, _ = a_file(root, draw)
    path.unlink()
    return named(root, path)


def rename_a_file(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    path, _ = a_file(root, draw)
    renamed = path.rename(path.with_name(draw.choice((f"{path.name}~", f"{path.stem}..json", "renamed"))))
    return Mutated((*named(root, path).words, *named(root, renamed).words))


def change_the_case_of_a_name(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    path, _ = a_file(root, draw)
    path.rename(path.with_name(path.name.swapcase()))
    return named(root, path)


def swap_two_files(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    path, data = a_file(root, draw)
    other = draw.choice([each for each in files_in(root) if each.read_bytes() != data])
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)
    return Mutated((*named(root, path).words, *named(root, other).words))


def replace_a_file_by_a_link(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    path, _ = a_file(root, draw)
    path.rename(root.parent / "elsewhere")
    path.symlink_to(root.parent / "elsewhere")
    return named(root, path)


def replace_a_folder_by_a_link(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    path = root / draw.choice(("adapters", "adapters/alfa-1b", "adapters/beta-1b"))
    path.rename(root.parent / "elsewhere")
    path.symlink_to(root.parent / "elsewhere", target_is_directory=True)
    return named(root, path)


def add_a_folder(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    path = root / draw.choice(("work", "adapters/gamma-1b", "adapters/alfa-1b/more", ".git"))
    path.mkdir()
    return named(root, path)


def put_in_the_proof_of_another_run(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    shutil.copy(town.other / PROOF, root / PROOF)
    return Mutated((PROOF,))


def prove_it_by_another_log_of_the_same_name(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    enter_anew(root, SignerKey(town.log_key.name, draw.randbytes(32)), before=draw.randrange(4))
    return Mutated((town.log_key.name,))


def sign_it_with_another_key(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    key = ec.derive_private_key(draw.getrandbits(200) + 1, ec.SECP256R1())
    seal_anew(root, key)
    if draw.random() < 0.5:
        enter_anew(root, town.log_key)
    return Mutated(("signer unknown",))


def put_in_an_older_checkpoint(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    kept = proof_of(root)
    older = proof_of(town.other).logged.proof.checkpoint
    hashes = kept.logged.proof.hashes[: draw.randrange(2)]
    changed = msgspec.structs.replace(kept.logged.proof, checkpoint=older, hashes=hashes)
    (root / PROOF).write_bytes(LedgerProof(Logged(kept.logged.entry, changed), kept.key).encode())
    return Mutated((PROOF,))


def rewrite_the_ledger_with_its_key(root: Path, town: CertifiedTown, draw: random.Random) -> Mutated:
    said = proof_of(root).entry.statement
    forged = Store.open(Path(":memory:"), town.log_key)
    for number in range(draw.randrange(5)):
        forged.append([entry.encode(msgspec.structs.replace(said, run_id=f"run-{number}"))])
    return Mutated((town.log_key.name,), forged)


MUTATIONS: tuple[Mutation, ...] = (
    flip_a_bit,
    insert_a_byte,
    delete_a_byte,
    cut_off,
    add_a_file,
    remove_a_file,
    rename_a_file,
    change_the_case_of_a_name,
    swap_two_files,
    replace_a_file_by_a_link,
    replace_a_folder_by_a_link,
    add_a_folder,
    put_in_the_proof_of_another_run,
    prove_it_by_another_log_of_the_same_name,
    sign_it_with_another_key,
    put_in_an_older_checkpoint,
    rewrite_the_ledger_with_its_key,
)


def a_file(root: Path, draw: random.Random) -> tuple[Path, bytearray]:
    path = draw.choice(files_in(root))
    return path, bytearray(path.read_bytes())


def files_in(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def named(root: Path, path: Path) -> Mutated:
    return Mutated((path.relative_to(root).as_posix(),))


def judged(town: CertifiedTown, mutation: Mutation, seed: int) -> tuple[Report, Mutated]:
    """What verifying a mutated copy says; another seed, another mutation of the kind."""
    with tempfile.TemporaryDirectory() as place:
        root = town.copy(Path(place))
        mutated = mutation(root, town, random.Random(seed))
        try:
            return town.verify(root, log=mutated.log), mutated
        finally:
            if mutated.log:
                mutated.log.close()


def assert_detected(town: CertifiedTown, mutation: Mutation, seed: int) -> None:
    report, mutated = judged(town, mutation, seed)

    assert not report.ok
    assert any(word in detail for detail in failed(report).values() for word in mutated.words), (mutated, report)


@given(mutation=st.sampled_from(MUTATIONS), seed=st.integers(0, 2**32))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_run_is_found_out_and_the_lie_is_named(
    certified: CertifiedTown, mutation: Mutation, seed: int
) -> None:
    assert_detected(certified, mutation, seed)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_each_kind_of_mutation_is_found_out(certified: CertifiedTown, mutation: Mutation) -> None:
    assert_detected(certified, mutation, seed=0)


@pytest.mark.soak
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_hundred_mutations_of_each_kind_are_found_out(certified: CertifiedTown, mutation: Mutation) -> None:
    for seed in range(100):
        assert_detected(certified, mutation, seed)


@pytest.mark.parametrize("name", [MANIFEST, SIGNATURE, PROOF])
def test_no_byte_of_what_signs_and_proves_is_free(certified: CertifiedTown, tmp_path: Path, name: str) -> None:
    root, pins = certified.copy(tmp_path), certified.pins
    data = (root / name).read_bytes()
    draw = random.Random(name)

    for at in draw.sample(range(len(data)), 100):
        flip(root / name, data, at, draw.randrange(8))

        assert not certified.verify(root, pins=pins).ok, f"byte {at}"


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_no_byte_of_any_file_is_free(certified: CertifiedTown, tmp_path: Path) -> None:
    root, pins = certified.copy(tmp_path), certified.pins
    draw = random.Random(0)

    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        data = path.read_bytes()
        for at in range(len(data)):
            flip(path, data, at, draw.randrange(8))

            assert not certified.verify(root, pins=pins).ok, f"{path.name}, byte {at}"
        path.write_bytes(data)


def test_an_untouched_copy_is_certified_wherever_it_lies(certified: CertifiedTown, ledger: Log, tmp_path: Path) -> None:
    root = certified.copy(tmp_path)

    report = certified.verify(root, log=ledger)

    assert report.ok, report


def flip(path: Path, data: bytes, at: int, bit: int) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), data, 0)
        os.pwrite(file.fileno(), bytes([data[at] ^ (1 << bit)]), at)
