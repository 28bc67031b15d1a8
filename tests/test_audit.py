from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.errors import LedgerDamaged
from oneseek.ledger import checkpoint, proof
from oneseek.ledger.audit import Audit, audit
from oneseek.ledger.checkpoint import Checkpoint
from oneseek.ledger.entry import encode, stamped, statement_of
from oneseek.ledger.log import Log, Logged
from oneseek.ledger.merkle import EMPTY, Hash, completed, leaf_hash, root
from oneseek.ledger.note import VerifierKey
from oneseek.ledger.store import Store
from support.ledgers import KEY, in_memory, statement, statements, tamper, without_triggers

ENTRIES = 23


class Elsewhere(Log):
    """A log as a client sees one: whatever it is given, a valid tree over it, and a checkpoint by the real key."""

    def __init__(self, entries: Sequence[bytes], shown: Sequence[bytes] | None = None) -> None:
        self._entries, self._nodes = list(entries if shown is None else shown), dict[tuple[int, int], Hash]()
        for index, data in enumerate(entries):
            found = completed(index, leaf_hash(data), self.node)
            self._nodes.update({(level, at): each for level, at, each in found})
        self._note = checkpoint.sign(len(entries), root(len(entries), self.node), KEY)

    @property
    def key(self) -> VerifierKey:
        return KEY.verifier

    def append(self, statements: Sequence[bytes]) -> list[Logged]:
        raise NotImplementedError

    def checkpoint(self) -> str:
        return self._note

    def node(self, level: int, index: int) -> Hash:
        return self._nodes[level, index]

    def entries(self, start: int, stop: int) -> list[bytes]:
        return self._entries[start:stop]

    def prove(self, index: int) -> Logged:
        raise NotImplementedError

    def close(self) -> None:
        pass


def entries(count: int, start: int = 0) -> list[bytes]:
    return [
        encode(stamped(statement_of(data), f"2026-11-21T07:19:{second:02}.000Z"))
        for second, data in enumerate(statements(start, start + count))
    ]


def kept_of(logged: Logged) -> Checkpoint:
    return proof.check(logged.proof, logged.entry, KEY.verifier)


def test_a_log_in_order_is_told_in_figures() -> None:
    log = in_memory(ENTRIES, batch=4)
    newest = checkpoint.read(log.checkpoint(), KEY.verifier)

    found = audit(log, [("run-1", newest), ("run-2", newest)])

    assert found == Audit(origin=KEY.name, entries=23, root=newest.root.hex(), checkpoints=7, kept=2)


def test_an_empty_log_is_in_order() -> None:
    assert audit(in_memory(0)) == Audit(origin=KEY.name, entries=0, root=EMPTY.hex(), checkpoints=1, kept=0)


@given(st.integers(0, 40))
def test_a_log_elsewhere_is_audited_by_what_it_serves(count: int) -> None:
    found = audit(Elsewhere(entries(count)))

    assert (found.entries, found.checkpoints) == (count, 1)


# -- one lie each, and how it is named -----------------------------------------------------------------------------

CHANGED = "CAST(replace(data, '0.75', '0.65') AS BLOB)"


@pytest.mark.parametrize(
    ("change", "lie"),
    [
        (f"UPDATE entries SET data = {CHANGED} WHERE idx = 17", "Entry 17: not what was logged"),
        (f"UPDATE entries SET data = {CHANGED} WHERE idx IN (9, 17)", "Entry 9: not what was logged"),
        ("UPDATE entries SET data = x'7b7d' WHERE idx = 17", "Entry 17: it can't be read"),
        ("UPDATE entries SET data = 'text' WHERE idx = 17", "has lost entry 17"),
        ("UPDATE entries SET statement = x'00' WHERE idx = 17", "Entry 17: it is found by another statement"),
        ("DELETE FROM entries WHERE idx = 17", "has lost entry 17"),
        ("DELETE FROM entries WHERE idx = 22", "Entry 22: it is gone; the newest checkpoint says 23 entries"),
        ("INSERT INTO entries VALUES (23, x'00', x'00')", "has 24 entries; its newest checkpoint says 23"),
        ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 0 AND idx = 17", "Entry 17: not what was logged"),
        ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 2 AND idx = 1", "Entries 4 to 7: not what was logged"),
        ("UPDATE nodes SET hash = 7 WHERE level = 0 AND idx = 17", "lost the hash over entry 17"),
        ("DELETE FROM nodes WHERE level = 1 AND idx = 3", "lost the hash over entries 6 to 7"),
        ("INSERT INTO entries VALUES (-1, x'00', x'00')", "has more entries or hashes than a tree of 23"),
        ("INSERT INTO nodes VALUES (0, 23, zeroblob(32))", "has more entries or hashes than a tree of 23"),
        ("INSERT INTO nodes VALUES (9, 0, zeroblob(32))", "has more entries or hashes than a tree of 23"),
        ("UPDATE checkpoints SET note = replace(note, 'A', 'B') WHERE size = 10", "Checkpoint of size 10: "),
        ("UPDATE checkpoints SET size = 11 WHERE size = 10", "Checkpoint of size 11: it is signed for 10 entries"),
        ("UPDATE checkpoints SET note = '' WHERE size = 23", "Checkpoint of size 23: "),
        ("DELETE FROM checkpoints", "no checkpoint any more"),
    ],
)
def test_the_first_lie_of_a_store_is_named(change: str, lie: str) -> None:
    log = in_memory(ENTRIES)

    with without_triggers(log._connection):
        log._connection.execute(change)

    with pytest.raises(LedgerDamaged, match=lie) as found:
        audit(log)
    assert found.value.fix


def test_an_entry_that_was_changed_is_named_though_the_trigger_that_kept_it_is_still_gone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Store.open(path, KEY)) as log:
        log.append(statements(0, ENTRIES))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER entries_UPDATE")
        connection.execute(f"UPDATE entries SET data = {CHANGED} WHERE idx = 17")

    with closing(Store.read(path, KEY.verifier)) as log, pytest.raises(LedgerDamaged, match="Entry 17: not what was"):
        audit(log)


def test_a_trigger_that_is_gone_is_told_once_all_entries_are_in_order_and_the_fix_is_no_audit() -> None:
    log = in_memory(ENTRIES)
    log._connection.execute("DROP TRIGGER entries_UPDATE")

    with pytest.raises(LedgerDamaged, match="has other tables or triggers") as found:
        audit(log)

    assert "oneseek ledger audit" not in found.value.fix


def test_a_checkpoint_by_the_real_key_over_another_root_is_named() -> None:
    log = in_memory(ENTRIES)
    note = checkpoint.sign(10, bytes(32), KEY)

    with without_triggers(log._connection):
        log._connection.execute("UPDATE checkpoints SET note = ? WHERE size = 10", (note,))

    with pytest.raises(LedgerDamaged, match="Checkpoint of size 10: the tree of size 10 has another root"):
        audit(log)


def test_a_time_before_that_of_the_entry_before_is_named() -> None:
    early = [*entries(5), *entries(3, start=5)]

    with pytest.raises(LedgerDamaged, match=r"Entry 5: its time, 2026-11-21T07:19:00\.000Z, is before"):
        audit(Elsewhere(early))


@pytest.mark.parametrize(
    ("shown", "lie"),
    [
        ([*entries(8)[:3], entries(1)[0], *entries(8)[4:]], "Entry 3: "),
        (entries(8)[:6], "Entry 6: it is gone"),
        ([*entries(8)[:7], b"no JSON"], "Entry 7: it can't be read"),
        ([*entries(8)[:7], b'{"event":"\xff"}'], "Entry 7: it can't be read"),
    ],
    ids=["another entry", "too few", "no JSON", "no UTF-8"],
)
def test_a_log_elsewhere_that_shows_what_it_did_not_sign_is_told(shown: list[bytes], lie: str) -> None:
    with pytest.raises(LedgerDamaged, match=lie):
        audit(Elsewhere(entries(8), shown))


def test_a_log_elsewhere_whose_checkpoint_is_not_signed_by_its_key_is_told() -> None:
    log = Elsewhere(entries(8))
    log._note = log._note.replace("\n8\n", "\n7\n")

    with pytest.raises(LedgerDamaged, match="The newest checkpoint: "):
        audit(log)


@given(st.data())
def test_one_flipped_bit_anywhere_in_a_store_is_found(data: st.DataObject) -> None:
    log = in_memory(11, batch=4)
    table, column = data.draw(
        st.sampled_from([("entries", "data"), ("entries", "statement"), ("nodes", "hash"), ("checkpoints", "note")])
    )
    found = log._connection.execute(
        f"SELECT {'level, idx' if table == 'nodes' else 'rowid'}, CAST({column} AS BLOB) FROM {table}"
    ).fetchall()
    *where, content = data.draw(st.sampled_from(found))
    position = data.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[position // 8] ^= 1 << position % 8

    with without_triggers(log._connection):
        log._connection.execute(
            f"UPDATE {table} SET {column} = {'CAST(? AS TEXT)' if table == 'checkpoints' else '?'} "
            f"WHERE {'level = ? AND idx = ?' if table == 'nodes' else 'rowid = ?'}",
            (bytes(flipped), *where),
        )

    with pytest.raises(LedgerDamaged):
        audit(log)


# -- what others have kept -----------------------------------------------------------------------------------------


def other_history(path: Path, numbers: Callable[[int], int]) -> None:
    with closing(Store.open(path, KEY)) as log:
        log.append([statement(numbers(number)) for number in range(9)])


def test_a_ledger_that_was_rewritten_with_the_real_key_is_found_by_a_kept_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Store.open(path, KEY, tmp_path / "log.checkpoint")) as log:
        kept = [(f"run {number}", kept_of(log.append([statement(number)])[0])) for number in range(9)]
    path.unlink()
    other_history(path, lambda number: number if number != 4 else 400)
    (tmp_path / "log.checkpoint").unlink()

    with closing(Store.open(path, KEY, tmp_path / "log.checkpoint")) as log:
        assert audit(log).entries == 9  # in itself it is whole
        with pytest.raises(LedgerDamaged, match="Run 0: the tree of size 1 has another root"):
            audit(log, kept)  # the time of the first entry is another already


def test_a_ledger_that_lost_entries_is_found_by_a_kept_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Store.open(path, KEY)) as log:
        log.append(statements(0, 5))
    shutil.copy(path, tmp_path / "older.db")
    with closing(Store.open(path, KEY)) as log:
        (logged,) = log.append([statement(5)])
    shutil.copy(tmp_path / "older.db", path)

    lie = "Run 5 has a checkpoint of size 6; this log has only 5 entries"
    with closing(Store.open(path, KEY)) as log, pytest.raises(LedgerDamaged, match=lie):
        audit(log, [("run 5", kept_of(logged))])


def test_the_checkpoint_of_another_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerDamaged, match=f"Run 1 has a checkpoint of 'another'; this is the log '{KEY.name}'"):
        audit(in_memory(3), [("run 1", Checkpoint("another", 3, bytes(32)))])


def test_the_checkpoint_of_the_empty_log_is_compared_too() -> None:
    with pytest.raises(LedgerDamaged, match="Run 1: the tree of size 0 has another root"):
        audit(in_memory(3), [("run 1", Checkpoint(KEY.name, 0, bytes(32)))])


@given(st.integers(1, 40), st.data())
def test_every_checkpoint_that_was_ever_signed_is_consistent_for_ever(count: int, data: st.DataObject) -> None:
    log = in_memory(count, batch=data.draw(st.integers(1, 7)))
    kept = [(f"of size {size}", checkpoint.read(note, KEY.verifier)) for size, note in log.checkpoints()]

    assert audit(log, kept).kept == len(kept)


def test_a_file_that_was_changed_is_audited_where_nothing_else_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Store.open(path, KEY)) as log:
        log.append(statements(0, 9))
    tamper(path, f"UPDATE entries SET data = {CHANGED} WHERE idx = 8")

    with pytest.raises(LedgerDamaged, match=re.escape(str(path))):
        Store.open(path, KEY)
    with closing(Store.read(path, KEY.verifier)) as log, pytest.raises(LedgerDamaged, match="Entry 8: not what was"):
        audit(log)


def test_reading_takes_the_same_memory_however_long_the_log_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneseek.ledger.audit.AT_ONCE", 4)
    log = Elsewhere(entries(ENTRIES))
    asked: list[int] = []
    served = log.entries

    def noted(start: int, stop: int) -> list[bytes]:
        asked.append(stop - start)
        return served(start, stop)

    monkeypatch.setattr(log, "entries", noted)

    assert audit(log).entries == ENTRIES
    assert max(asked) == 4
