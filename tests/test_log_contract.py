"""What every log does, wherever it is: in memory, on this disk, or behind a service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from oneseek.errors import ProofInvalid
from oneseek.ledger import checkpoint, proof
from oneseek.ledger.checkpoint import Checkpoint
from oneseek.ledger.client import Client
from oneseek.ledger.entry import entry_of
from oneseek.ledger.log import Log, check_consistent
from oneseek.ledger.merkle import EMPTY, Hash, leaf_hash, node_hash, root
from oneseek.ledger.store import Store
from support.ledger_service import KEY, TOKEN, Stage, stage, statement, statements, store


@pytest.fixture(scope="module")
def at_an_address() -> Iterator[Stage]:
    with stage() as found:
        yield found


@pytest.fixture(params=["memory", "disk", "service"])
def log(request: pytest.FixtureRequest, tmp_path: Path, at_an_address: Stage) -> Iterator[Log]:
    if request.param == "memory":
        with closing(store()) as opened:
            yield opened
    elif request.param == "disk":
        with closing(Store.open(tmp_path / "ledger.db", KEY, tmp_path / "log.checkpoint")) as opened:
            yield opened
    else:
        kept = tmp_path / "keys" / "known-logs"
        url = at_an_address.service(store())
        with closing(Client(url, token=TOKEN, known_logs=kept)) as client:
            yield client


def recomputed(entries: list[bytes], level: int, index: int) -> Hash:
    if level == 0:
        return leaf_hash(entries[index])
    return node_hash(recomputed(entries, level - 1, 2 * index), recomputed(entries, level - 1, 2 * index + 1))


def newest(log: Log) -> Checkpoint:
    return checkpoint.read(log.checkpoint(), log.key)


def test_an_empty_log_signs_that_it_is_empty(log: Log) -> None:
    found = newest(log)

    assert (found.origin, found.size, found.root) == (KEY.name, 0, EMPTY)
    assert log.key == KEY.verifier
    assert log.entries(0, 10) == []


def test_nothing_appended_changes_nothing(log: Log) -> None:
    assert log.append([]) == []
    assert newest(log).size == 0


def test_what_is_appended_comes_back_in_its_order_with_the_time_of_the_log(log: Log) -> None:
    said = statements(3)

    logged = log.append(said)

    entries = [entry_of(each.entry) for each in logged]
    assert [each.run_id for each in entries] == ["run-0", "run-1", "run-2"]
    assert [each.proof.index for each in logged] == [0, 1, 2]
    assert len({each.timestamp for each in entries}) == 1
    assert log.entries(0, 3) == [each.entry for each in logged]


def test_every_answer_is_proved_by_the_newest_checkpoint(log: Log) -> None:
    log.append(statements(5))

    logged = log.append(statements(9, 5))

    assert {each.proof.checkpoint for each in logged} == {log.checkpoint()}
    assert {proof.check(each.proof, each.entry, log.key).size for each in logged} == {9}


def test_a_statement_that_is_there_is_not_added_again(log: Log) -> None:
    (first, _) = log.append(statements(2))

    again, new, twice = log.append([statement(0), statement(2), statement(2)])

    assert again.entry == first.entry
    assert (again.proof.index, new.proof.index, twice.proof.index) == (0, 2, 2)
    assert newest(log).size == 3
    proof.check(again.proof, again.entry, log.key)


def test_more_than_fit_into_one_message_are_all_appended(log: Log) -> None:
    logged = log.append(statements(1203))

    assert [each.proof.index for each in logged] == list(range(1203))
    assert newest(log).size == 1203


def test_nodes_are_those_that_the_entries_lead_to(log: Log) -> None:
    log.append(statements(600))

    entries = log.entries(0, 600)
    complete = [(level, index) for level in (0, 1, 3, 7, 8, 9) for index in {0, 1, (600 >> level) - 1}]
    wanted = [(level, index) for level, index in complete if (index + 1) << level <= 600]
    assert [log.node(*place) for place in wanted] == [recomputed(entries, *place) for place in wanted]
    assert root(600, log.node) == newest(log).root


def test_a_range_of_entries_ends_where_the_log_does(log: Log) -> None:
    log.append(statements(600))
    ranges = [(0, 0), (0, 3), (2, 2), (5, 2), (250, 260), (256, 512), (590, 700), (700, 800)]

    found = {wanted: [entry_of(each).run_id for each in log.entries(*wanted)] for wanted in ranges}

    assert found == {wanted: [f"run-{number}" for number in range(600)[slice(*wanted)]] for wanted in ranges}


@pytest.mark.parametrize(
    "bad",
    [
        b"no JSON",
        b"\xff",
        b"{}",
        statement(1).replace(b",", b", ", 1),
        statement(1).replace(b'"run_id"', b'"surplus":1,"run_id"'),
        statement(1).replace(b"run-1", b"run-" + b"1" * 65535),
        statement(1).replace(b"run-1", b"run-" + b"1" * (65520 - len(statement(1)))),  # too long with its timestamp
    ],
    ids=["no JSON", "no text", "no fields", "spaced", "surplus", "too long", "too long with its time"],
)
def test_one_that_is_no_statement_leaves_nothing_of_the_others(log: Log, bad: bytes) -> None:
    with pytest.raises(ProofInvalid):
        log.append([statement(0), bad, statement(2)])

    assert newest(log).size == 0


def test_the_longest_statement_that_an_entry_can_hold_is_taken(log: Log) -> None:
    stamp = len(b',"timestamp":"2000-01-01T00:00:00.000Z"')
    longest = statement(1).replace(b"run-1", b"run-" + b"1" * (65535 - stamp - len(statement(1)) + 1))

    (logged,) = log.append([longest])

    assert len(logged.entry) == 65535
    assert log.entries(0, 1) == [logged.entry]


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257])
def test_every_entry_can_be_proved(log: Log, size: int) -> None:
    log.append(statements(size))

    proved = [log.prove(index) for index in {0, size // 2, size - 1}]

    assert {proof.check(each.proof, each.entry, log.key).size for each in proved} == {size}
    assert [each.entry for each in proved] == [log.entries(each.proof.index, size)[0] for each in proved]


@pytest.mark.parametrize("index", [-1, 3, 10**30])
def test_an_entry_that_is_not_there_cannot_be_proved(log: Log, index: int) -> None:
    log.append(statements(3))

    with pytest.raises(ProofInvalid, match=f"no entry {index}"):
        log.prove(index)


@pytest.mark.parametrize("before", [0, 1, 3, 256, 300])
def test_a_log_that_grew_begins_with_what_it_was(log: Log, before: int) -> None:
    log.append(statements(before))
    kept = newest(log)
    log.append(statements(300, before))

    assert check_consistent(log, kept).size == 300


def test_a_checkpoint_of_another_history_is_found_out(log: Log) -> None:
    log.append(statements(5))
    kept = Checkpoint(KEY.name, 3, leaf_hash(b"another"))

    with pytest.raises(ProofInvalid, match="first 3 entries are not what they were"):
        check_consistent(log, kept)
