"""The ledger of a home as command line and server ask for it."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from oneseek.certificate.keys import pins_in, pins_of
from oneseek.certificate.seal import is_certified
from oneseek.errors import ProofInvalid, RunError
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.ledger import proof
from oneseek.ledger.log import Logged
from oneseek.runs import ledger
from support.certified import CertifiedTown, certified
from support.ledger_service import Behind, store
from support.runs import everything

__all__ = ["certified"]


@pytest.fixture
def home(certified: CertifiedTown, tmp_path: Path) -> Home:
    """A home of its own with two certified runs."""
    root = Path(shutil.copytree(certified.home.root, tmp_path / "home", symlinks=True))
    return Home(root, root / "models")


@pytest.fixture
def directories(certified: CertifiedTown, home: Home) -> list[RunDirectory]:
    """Its runs, in the order in which they came into the ledger."""
    return [Results(home.models).run(path.name) for path in (certified.other, certified.run)]


def test_the_newest_entries_come_first_and_no_more_than_asked_for(home: Home, directories: list[RunDirectory]) -> None:
    with ledger.reading(home, {}) as log:
        at, both = ledger.newest(log, 20)
        _, last = ledger.newest(log, 1)

    assert at.size == 2
    assert [(each.index, each.entry.run_id) for each in both] == [
        (1, directories[1].run_id),
        (0, directories[0].run_id),
    ]
    assert last == both[:1]


def test_an_entry_is_meant_by_number_by_id_and_by_directory(home: Home, directories: list[RunDirectory]) -> None:
    run = directories[1]

    with ledger.reading(home, {}) as log:
        found = [ledger.index_of(log, which, home) for which in ("1", run.run_id, str(run.root))]

    assert found == [1, 1, 1]


@pytest.mark.parametrize(
    ("which", "problem"),
    [("2", "There is no entry 2"), ("run-20991122-143025", "is not in the ledger"), ("none", "neither a run id nor")],
)
def test_what_is_not_in_the_ledger_is_refused(home: Home, which: str, problem: str) -> None:
    with ledger.reading(home, {}) as log, pytest.raises(RunError, match=problem):
        ledger.index_of(log, which, home)


def test_an_entry_is_shown_with_a_proof_that_holds(home: Home) -> None:
    with ledger.reading(home, {}) as log:
        proved = ledger.prove(log, 0)
        key = log.key

    assert proof.check(proof.parse(proved.wire()["proof"]), proved.logged.entry, key) == proved.at
    assert proved.wire()["index"] == 0


class Exchanging(Behind):
    """Shows another entry beside a proof."""

    def prove(self, index: int) -> Logged:
        return Logged(self.log.prove(index + 1).entry, self.log.prove(index).proof)


def test_a_proof_that_does_not_hold_is_not_shown() -> None:
    with closing(Exchanging(store(4))) as log, pytest.raises(ProofInvalid):
        ledger.prove(log, 0)


def test_a_home_without_a_ledger_has_none_to_read_and_gets_none(tmp_path: Path) -> None:
    home = Home(tmp_path / "home", tmp_path / "home" / "models")

    for ask in (ledger.audited, ledger.known_keys):
        with pytest.raises(RunError, match="There is no ledger in"):
            ask(home, {})

    assert everything(tmp_path) == set()


def test_everything_that_is_not_certified_is_submitted_one_after_the_other(
    home: Home, directories: list[RunDirectory]
) -> None:
    for run in directories:
        run.ledger_proof.unlink()
    (directories[0].root / "stranger.txt").write_text("who are you?")

    told = {run.run_id: certified.problem for run, certified in ledger.submit(home, environment={})}

    assert told.keys() == {run.run_id for run in directories}
    assert "stranger.txt" in (told[directories[0].run_id] or "")
    assert (told[directories[1].run_id], is_certified(directories[1])) == (None, True)


def test_no_run_is_begun_with_where_one_that_is_named_is_not_there(home: Home, directories: list[RunDirectory]) -> None:
    directories[0].ledger_proof.unlink()

    with pytest.raises(RunError, match="There is no run"):
        list(ledger.submit(home, [directories[0].run_id, "run-20991122-143025"], {}))

    assert not is_certified(directories[0])


def test_an_audit_compares_what_runs_keep_and_names_those_of_other_ledgers(
    home: Home, directories: list[RunDirectory]
) -> None:
    before = ledger.audited(home, {})
    for path in (home.keys, home.ledger):
        path.rename(path.with_name(f"{path.name}-before"))
    ledger.public_keys(home, {})

    after = ledger.audited(home, {})

    assert (before.audit.entries, before.audit.kept, before.elsewhere) == (2, 2, ())
    assert (after.audit.entries, after.audit.kept) == (0, 0)
    assert sorted(after.elsewhere) == sorted(run.run_id for run in directories)


def test_the_public_keys_are_those_that_the_home_pins(home: Home) -> None:
    made, known = ledger.public_keys(home, {}), ledger.known_keys(home, {})

    assert made == known
    assert pins_in(known.text) == pins_of(home, {})
    assert known.ledger.startswith(known.origin)


def test_without_a_signer_its_key_is_not_known_and_none_is_made(home: Home) -> None:
    home.signer_key.unlink()

    with pytest.raises(RunError, match="No run was signed here yet"):
        ledger.known_keys(home, {})

    assert not home.signer_key.exists()
