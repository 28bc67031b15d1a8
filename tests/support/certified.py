"""Certified runs of the scripted engine, and what somebody does who holds the real keys."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from oneseek import runs
from oneseek.certificate import manifest, signature
from oneseek.certificate.keys import Pins, pins_of, signer_key
from oneseek.certificate.ledger_proof import LedgerProof, parse, statement
from oneseek.certificate.manifest import NOT_LISTED, File, Manifest
from oneseek.certificate.report import Check, Report
from oneseek.certificate.verify import verify
from oneseek.events import AnyEvent
from oneseek.events.state import RunState, replay
from oneseek.files.layout import Home, RunDirectory
from oneseek.files.spelling import spelt
from oneseek.journal.file import read
from oneseek.journal.record import GENESIS, Record, encode
from oneseek.ledger import entry
from oneseek.ledger.keys import log_key
from oneseek.ledger.log import Log
from oneseek.ledger.note import SignerKey
from oneseek.ledger.store import Store
from support.runs import Town

MANIFEST, SIGNATURE, PROOF = NOT_LISTED
NOBODY = Pins(frozenset(), frozenset())


@dataclass(frozen=True)
class CertifiedTown:
    """A home with two certified runs: `run`, of two models and with quarantined rows, came into its ledger second."""

    town: Town
    run: Path
    other: Path

    @property
    def home(self) -> Home:
        return self.town.home

    @property
    def pins(self) -> Pins:
        return pins_of(self.home, {})

    @property
    def signer(self) -> ec.EllipticCurvePrivateKey:
        return signer_key(self.home, {})

    @property
    def log_key(self) -> SignerKey:
        return log_key(self.home)

    def copy(self, into: Path) -> Path:
        """A copy of the run alone, somewhere else."""
        return Path(shutil.copytree(self.run, into / "copy", symlinks=True))

    def verify(self, root: Path, **given: Any) -> Report:
        """With the home's own pins, unless others are given."""
        return verify(root, **{"pins": self.pins, **given})

    def certify_anew(self, root: Path, **changes: Any) -> None:
        """What the real signer and the real ledger make of the files as they are now; `changes` of the manifest."""
        seal_anew(root, self.signer, **changes)
        enter_anew(root, self.log_key)


def certified_town(root: Path) -> CertifiedTown:
    town = Town(root)
    town.add_model("alfa-1b")
    town.add_model("beta-1b", seed=1)
    rows = [
        {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"Answer {n}."}]}
        for n in range(20)
    ]
    town.dataset.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"messages": "none"}\n')
    settings = {"data__bad_rows": "quarantine", "training__num_epochs": 2}
    other, run = (certified_run(town, training__seed=seed, **settings) for seed in (1, 2))
    return CertifiedTown(town, run.root, other.root)


def certified_run(town: Town, **settings: Any) -> RunDirectory:
    submitted = town.submit(**settings)
    assert runs.complete(submitted, town.home, environment={}).status == "certified"
    return submitted.directory


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> CertifiedTown:
    return certified_town(tmp_path_factory.mktemp("certified"))


@pytest.fixture
def ledger(certified: CertifiedTown) -> Iterator[Log]:
    """The ledger of that home, as it is now."""
    with closing(Store.read(certified.home.ledger, certified.log_key.verifier)) as log:
        yield log


def seal_anew(root: Path, key: ec.EllipticCurvePrivateKey, **changes: Any) -> Manifest:
    """Sign for whatever lies in `root`; nothing is asked of it."""
    files = {
        path.relative_to(root).as_posix(): File(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        for path in root.rglob("*")
        if path.is_file() and path.name not in NOT_LISTED
    }
    now = {"files": dict(sorted(files.items())), "signer": signature.public_pem(key.public_key()), **changes}
    made = msgspec.structs.replace(manifest.parse((root / MANIFEST).read_bytes()), **now)
    (root / MANIFEST).write_bytes(made.encode())
    (root / SIGNATURE).write_bytes(signature.sign(made, key))
    return made


def enter_anew(root: Path, key: SignerKey, *, before: int = 0, **changes: Any) -> None:
    """A proof of what the manifest says, behind `before` other entries of a new log with this key; `changes` of the
    statement."""
    made = manifest.parse((root / MANIFEST).read_bytes())
    said = msgspec.structs.replace(statement(made, state_of(root)), **changes)
    with closing(Store.open(Path(":memory:"), key)) as log:
        others = [msgspec.structs.replace(said, run_id=f"run-{number}") for number in range(before)]
        logged = log.append([entry.encode(each) for each in (*others, said)])[-1]
    (root / PROOF).write_bytes(LedgerProof(logged, key.verifier).encode())


def state_of(root: Path) -> RunState:
    state = replay(record.event for record in read(root / "journal.jsonl").records)
    assert state is not None
    return state


def rewrite_journal(root: Path, events: list[AnyEvent]) -> None:
    """A journal of these events, each record bound to the one before it."""
    lines, prev = [], GENESIS
    for seq, event in enumerate(events, start=1):
        line, prev = encode(Record(seq=seq, at="2026-01-01T00:00:00.000Z", prev=prev, event=event))
        lines.append(line)
    (root / "journal.jsonl").write_bytes(b"".join(lines))


def edit(path: Path, field: str, value: Any) -> None:
    """Set a field of a JSON document (`leaderboard.0.rank`), spelt as OneSeek does; ... removes it."""
    document = json.loads(path.read_bytes())
    *way, last = field.split(".")
    inner = document
    for step in way:
        inner = inner[int(step) if isinstance(inner, list) else step]
    if value is ...:
        del inner[last]
    else:
        inner[int(last) if isinstance(inner, list) else last] = value
    path.write_bytes(spelt(document))


def proof_of(root: Path) -> LedgerProof:
    return parse((root / PROOF).read_bytes())


def failed(report: Report) -> dict[str, str]:
    """The details of the checks that failed, by name."""
    return {check.name: check.detail for check in report.checks if check.result == "failed"}


def first_failed(report: Report) -> Check:
    return next(check for check in report.checks if check.result == "failed")
