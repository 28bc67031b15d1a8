"""What every release left behind still verifies: certificates, journals and ledgers, as they were written then."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from oneseek import __version__
from oneseek.certificate.keys import Pins, pins_in
from oneseek.certificate.ledger_proof import parse
from oneseek.certificate.verify import verify
from oneseek.events.state import replay
from oneseek.journal.file import read
from oneseek.ledger.audit import audit
from oneseek.ledger.note import VerifierKey
from oneseek.ledger.proof import check
from oneseek.ledger.store import Store

KEPT = Path(__file__).parent / "kept"
RELEASES = sorted(path.name for path in KEPT.iterdir())
RUNS = sorted(str(path.relative_to(KEPT)) for path in KEPT.glob("*/run-*"))


def pins(release: str) -> Pins:
    return pins_in((KEPT / release / "keys.txt").read_text())


def ledger(release: str, where: Path) -> Store:
    """A copy: SQLite writes beside a file even where it only reads it."""
    (key,) = pins(release).logs
    return Store.read(Path(shutil.copy(KEPT / release / "ledger.db", where)), VerifierKey.parse(key))


def test_this_release_is_kept() -> None:
    assert __version__ in RELEASES


@pytest.mark.parametrize("run", RUNS)
def test_a_kept_run_verifies(run: str, tmp_path: Path) -> None:
    release = run.split("/")[0]

    with closing(ledger(release, tmp_path)) as log:
        report = verify(KEPT / run, pins=pins(release), log=log)

    made = {made.name: (made.result, made.detail) for made in report.checks}
    assert {name: detail for name, (result, detail) in made.items() if result == "failed"} == {}
    assert report.ok
    assert made["consistency"][0] == "ok"


@pytest.mark.parametrize("run", RUNS)
def test_a_kept_journal_replays_to_a_finished_run(run: str) -> None:
    records = read(KEPT / run / "journal.jsonl").records

    state = replay(record.event for record in records)

    assert state is not None
    assert state.over
    assert state.run_id == Path(run).name


@pytest.mark.parametrize("release", RELEASES)
def test_a_kept_ledger_passes_an_audit_with_the_checkpoints_of_its_runs(release: str, tmp_path: Path) -> None:
    proofs = [parse((path / "ledger_proof.json").read_bytes()) for path in (KEPT / release).glob("run-*")]
    kept = [("its run", check(found.logged.proof, found.logged.entry, found.key)) for found in proofs]

    with closing(ledger(release, tmp_path)) as log:
        found = audit(log, kept)

    assert (found.entries, found.kept) == (len(kept), len(kept))
