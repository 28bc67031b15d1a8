from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.errors import KeyRefused, LedgerDamaged, ProofInvalid, StorageError
from oneseek.files import durable
from oneseek.ledger import checkpoint, proof, store
from oneseek.ledger.audit import audit
from oneseek.ledger.entry import Statement, encode, entry_of, stamped
from oneseek.ledger.log import Logged, check_consistent
from oneseek.ledger.merkle import EMPTY, Hash, leaf_hash, node_hash
from oneseek.ledger.note import SignerKey
from oneseek.ledger.store import Store
from support.ledgers import KEY, a_second_later, in_home, in_memory, rows, statement, statements, tamper

HERE = Path(__file__).parent
OTHER_KEY = SignerKey(KEY.name, bytes(32))


def opened(root: Path, key: SignerKey = KEY) -> Store:
    return Store.open(root / "ledger.db", key, root / "log.checkpoint", now=a_second_later())


def grown(root: Path, *batches: int) -> Path:
    """A closed ledger with batches of so many entries; where it is."""
    with closing(opened(root)) as log:
        for size in batches:
            have = checkpoint.read(log.checkpoint(), KEY.verifier).size
            log.append(statements(have, have + size))
    return root / "ledger.db"


def naive_root(leaves: list[Hash]) -> Hash:
    """RFC 6962, 2.1, word for word."""
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return node_hash(naive_root(leaves[:split]), naive_root(leaves[split:]))


# -- appending -----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=6))
def test_after_any_batches_the_root_is_that_of_all_entries_and_each_is_proved(batches: list[int]) -> None:
    log, added = Store.open(Path(":memory:"), KEY), list[Logged]()

    for size in batches:
        added += log.append(statements(len(added), len(added) + size))

    newest = checkpoint.read(log.checkpoint(), KEY.verifier)
    leaves = [leaf_hash(entry) for entry in log.entries(0, 100)]
    assert (newest.size, newest.root) == (sum(batches), naive_root(leaves))
    for index, logged in enumerate(added):
        assert logged.proof.index == index
        assert check_consistent(log, proof.check(logged.proof, logged.entry, KEY.verifier)) == newest
        again = log.prove(index)
        assert again.entry == logged.entry
        assert proof.check(again.proof, again.entry, KEY.verifier) == newest


def test_an_entry_is_the_statement_with_the_time_of_the_ledger() -> None:
    log = Store.open(Path(":memory:"), KEY, now=lambda: datetime(2026, 11, 21, 8, 19, 0, 123999, UTC))

    (logged,) = log.append([statement(0)])

    entry = entry_of(logged.entry)
    assert encode(entry.statement) == statement(0)
    assert entry.timestamp == "2026-11-21T08:19:00.123Z"


def test_a_clock_that_is_set_back_does_not_set_back_the_log() -> None:
    times = iter([datetime(2026, 11, 21, 8, tzinfo=UTC) - timedelta(hours=hours) for hours in (0, 1, -1)])
    log = Store.open(Path(":memory:"), KEY, now=lambda: next(times))

    stamps = [entry_of(log.append([statement(number)])[0].entry).timestamp for number in range(3)]

    assert stamps == ["2026-11-21T08:00:00.000Z", "2026-11-21T08:00:00.000Z", "2026-11-21T09:00:00.000Z"]


def test_the_same_statement_again_is_the_entry_that_is_there(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as log:
        first = log.append(statements(0, 3))
        note = log.checkpoint()
    with closing(opened(tmp_path)) as log:
        again = log.append([statement(1)])
        mixed = log.append([statement(3), statement(0), statement(3)])

    assert again == [first[1]]
    assert again[0].proof.checkpoint == note
    assert [logged.proof.index for logged in mixed] == [3, 0, 3]
    assert mixed[1].entry == first[0].entry
    assert len(rows(tmp_path / "ledger.db")["entries"]) == 4


def test_what_is_no_statement_is_refused_and_nothing_of_its_batch_is_added() -> None:
    log = in_memory(3)

    with pytest.raises(ProofInvalid, match="no ledger statement"):
        log.append([statement(3), b'{"run_id": "run-1"}'])

    assert len(log.entries(0, 100)) == 3


def test_a_statement_that_is_too_long_for_an_entry_leaves_nothing_of_its_batch() -> None:
    log = in_memory(3)
    room = store.unstamped(stamped_of_length(65_535 + 1))

    with pytest.raises(ProofInvalid, match="65535 are the most"):
        log.append([statement(3), room])

    assert len(log.entries(0, 100)) == 3
    assert audit(log).entries == 3


def stamped_of_length(length: int) -> bytes:
    """An entry of so many bytes, one more than there may be: put together by hand."""
    data = log_entry(0)
    return data.replace(b"run-20261121-000000", b"r" * (length - len(data) + len(b"run-20261121-000000")))


def log_entry(number: int) -> bytes:
    return Store.open(Path(":memory:"), KEY).append([statement(number)])[0].entry


def test_there_is_no_proof_of_an_entry_that_is_not_there() -> None:
    log = in_memory(3)

    for index in (-1, 3, 10**30):
        with pytest.raises(ProofInvalid, match=f"no entry {index}"):
            log.prove(index)


def test_an_empty_log_has_a_checkpoint(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as log:
        newest = checkpoint.read(log.checkpoint(), KEY.verifier)

        assert (newest.size, newest.root) == (0, EMPTY)
        assert log.append([]) == []
        assert log.entries(0, 10) == []


@given(st.text(max_size=20), st.lists(st.text(max_size=8), max_size=3), st.floats(0, 1))
def test_the_statement_in_an_entry_is_what_stands_before_its_timestamp(
    run: str, models: list[str], weight: float
) -> None:
    said = Statement(
        run_id=run,
        dna="",
        base_models=tuple(models),
        final_weights=dict.fromkeys(models, weight),
        manifest_sha256=',"timestamp":"',
    )

    assert store.unstamped(encode(stamped(said, "2026-11-21T07:19:00.000Z"))) == encode(said)


# -- only what follows is added ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entries SET data = x'00' WHERE idx = 1",
        "UPDATE entries SET statement = x'00' WHERE idx = 1",
        "UPDATE OR REPLACE entries SET idx = 1 WHERE idx = 2",
        "UPDATE OR IGNORE entries SET idx = 9 WHERE idx = 2",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE idx = 4",
        "INSERT OR REPLACE INTO entries VALUES (1, x'00', x'00')",
        "INSERT OR REPLACE INTO entries SELECT 5, statement, data FROM entries WHERE idx = 1",
        "INSERT INTO entries VALUES (6, x'00', x'00')",
        "INSERT INTO entries VALUES (-1, x'00', x'00')",
        "INSERT INTO entries (statement, data) VALUES (x'00', x'00')",
        "INSERT INTO entries VALUES (1, x'00', x'00') ON CONFLICT (idx) DO UPDATE SET data = x'00'",
        "UPDATE nodes SET hash = x'00' WHERE level = 0 AND idx = 1",
        "DELETE FROM nodes",
        "INSERT OR REPLACE INTO nodes VALUES (0, 1, x'00')",
        "INSERT OR REPLACE INTO nodes VALUES (0, 6, x'00')",
        "INSERT INTO nodes VALUES (NULL, 6, x'00')",
        "UPDATE checkpoints SET note = '' WHERE size = 2",
        "DELETE FROM checkpoints WHERE size = 5",
        "INSERT OR REPLACE INTO checkpoints VALUES (5, '')",
        "INSERT INTO checkpoints VALUES (3, '')",
        "INSERT INTO checkpoints (note) VALUES ('')",
    ],
)
def test_whatever_does_not_follow_is_refused_by_the_file_itself(tmp_path: Path, change: str) -> None:
    path = grown(tmp_path, 2, 3)
    before = rows(path)

    with closing(sqlite3.connect(path, isolation_level=None)) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(change)

    assert rows(path) == before


# -- what was changed behind its back ------------------------------------------------------------------------------

# Batches of 4, 4 and 3 entries: the tree of 11 stands on entries 0 to 7, 8 to 9 and 10.
BATCHES = (4, 4, 3)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ("UPDATE entries SET data = replace(data, '0.75', '0.65') WHERE idx = 10", "has lost entry 10"),
        ("UPDATE entries SET data = CAST(replace(data, '0.75', '0.65') AS BLOB) WHERE idx = 10", "another entry 10"),
        ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 0 AND idx = 10", "another entry 10"),
        ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 1 AND idx = 4", "another root"),
        ("UPDATE nodes SET hash = zeroblob(32) WHERE level = 3", "another root"),
        ("DELETE FROM nodes WHERE level = 3", "lost the hash over entries 0 to 7"),
        ("DELETE FROM entries WHERE idx = 10", "has 10 entries; its newest checkpoint says 11"),
        ("INSERT INTO entries VALUES (11, x'00', x'00')", "has 12 entries; its newest checkpoint says 11"),
        ("DELETE FROM checkpoints WHERE size = 11", "has 11 entries; its newest checkpoint says 8"),
        ("UPDATE checkpoints SET note = replace(note, '11', '12')", "false checkpoint of size 11"),
        ("UPDATE checkpoints SET note = CAST(x'ff00' AS TEXT)", "false checkpoint|log '"),
        ("DELETE FROM checkpoints", "no checkpoint any more"),
        ("UPDATE checkpoints SET size = 12 WHERE size = 11", "has a checkpoint of size 11 where that of size 12"),
        ("DROP TRIGGER entries_DELETE", "other tables or triggers"),
        ("CREATE TABLE more (x)", "other tables or triggers"),
    ],
)
def test_a_changed_ledger_signs_nothing_and_says_what_differs(tmp_path: Path, change: str, refusal: str) -> None:
    path = grown(tmp_path, *BATCHES)
    if change.startswith(("DROP", "CREATE")):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(change)
    else:
        tamper(path, change)
    before = rows(path), (tmp_path / "log.checkpoint").read_bytes()

    with pytest.raises((LedgerDamaged, KeyRefused), match=refusal) as refused:
        opened(tmp_path)

    assert str(path) in refused.value.problem
    assert refused.value.fix
    assert (rows(path), (tmp_path / "log.checkpoint").read_bytes()) == before


def test_a_ledger_that_is_changed_while_it_is_open_signs_nothing_more(tmp_path: Path) -> None:
    path = grown(tmp_path, *BATCHES)
    with closing(opened(tmp_path)) as log:
        tamper(path, "UPDATE nodes SET hash = zeroblob(32) WHERE level = 3")

        with pytest.raises(LedgerDamaged, match="another root"):
            log.append([statement(11)])

    assert len(rows(path)["entries"]) == len(rows(path)["nodes"]) - 8 == 11
    assert len(rows(path)["checkpoints"]) == 4


TAIL = ("entries WHERE idx >= 8", "nodes WHERE ((idx + 1) << level) > 8", "checkpoints WHERE size > 8")


def test_a_tail_that_was_cut_off_without_a_trace_is_told_by_the_checkpoint_beside_the_key(tmp_path: Path) -> None:
    path = grown(tmp_path, *BATCHES)
    tamper(path, *(f"DELETE FROM {what}" for what in TAIL))

    with pytest.raises(LedgerDamaged, match=r"has 8 entries; .*log\.checkpoint says that it had 11"):
        opened(tmp_path)
    with closing(Store.read(path, KEY.verifier)) as log:
        assert audit(log).entries == 8  # nothing in it says more


@pytest.mark.parametrize("remove", [False, True])
def test_an_older_copy_or_none_is_told_by_the_checkpoint_beside_the_key(tmp_path: Path, remove: bool) -> None:
    path = grown(tmp_path, 4)
    shutil.copy(path, tmp_path / "older.db")
    grown(tmp_path, 4)
    if remove:
        path.unlink()
    else:
        shutil.copy(tmp_path / "older.db", path)
    left = path.exists()

    with pytest.raises(LedgerDamaged, match="says that it had 8"):
        opened(tmp_path)

    assert path.exists() == left


def test_another_history_of_the_same_length_is_told_by_the_checkpoint_beside_the_key(tmp_path: Path) -> None:
    path = grown(tmp_path, 4)
    with closing(opened(tmp_path / "other")) as log:
        log.append(statements(100, 104))
        log.append(statements(104, 106))
    shutil.copy(tmp_path / "other" / "ledger.db", path)

    with pytest.raises(LedgerDamaged, match=r"does not begin with the 4 entries that .*log\.checkpoint is signed for"):
        opened(tmp_path)


def test_an_older_checkpoint_beside_the_key_is_told_by_the_ledger(tmp_path: Path) -> None:
    path = grown(tmp_path, 4)
    kept = tmp_path / "log.checkpoint"
    shutil.copy(kept, tmp_path / "older")
    grown(tmp_path, 4, 4)
    shutil.copy(tmp_path / "older", kept)

    with pytest.raises(LedgerDamaged, match=r"log\.checkpoint is of size 4, .* one of size 8"):
        opened(tmp_path)
    with closing(Store.read(path, KEY.verifier, kept)) as log, pytest.raises(LedgerDamaged, match="is of size 4"):
        audit(log)


@pytest.mark.parametrize("content", [b"", b"\xff", checkpoint.sign(4, bytes(32), OTHER_KEY).encode()])
def test_what_stands_beside_the_key_and_is_not_signed_by_it_is_refused(tmp_path: Path, content: bytes) -> None:
    grown(tmp_path, 4)
    (tmp_path / "log.checkpoint").write_bytes(content)

    with pytest.raises(LedgerDamaged, match=r"log\.checkpoint"):
        opened(tmp_path)


def test_a_writer_that_was_killed_before_it_kept_the_checkpoint_leaves_nothing_wrong(tmp_path: Path) -> None:
    grown(tmp_path, 4)
    kept = (tmp_path / "log.checkpoint").read_bytes()
    grown(tmp_path, 4)
    (tmp_path / "log.checkpoint").write_bytes(kept)

    with closing(opened(tmp_path)) as log:
        note = log.checkpoint()

    assert (tmp_path / "log.checkpoint").read_text() == note != kept.decode()


def test_a_statement_that_is_found_under_another_one_is_not_taken_for_it(tmp_path: Path) -> None:
    path = grown(tmp_path, 4)
    digest = rows(path)["entries"][1][1].hex()
    tamper(
        path,
        "UPDATE entries SET statement = x'00' WHERE idx = 1",
        f"UPDATE entries SET statement = x'{digest}' WHERE idx = 2",
    )

    with closing(opened(tmp_path)) as log, pytest.raises(LedgerDamaged, match="another statement in entry 2"):
        log.append([statement(1)])


def test_an_entry_that_was_changed_is_never_proved(tmp_path: Path) -> None:
    path = grown(tmp_path, 4)
    tamper(path, "UPDATE entries SET data = CAST(replace(data, '0.75', '0.65') AS BLOB) WHERE idx = 2")

    with closing(Store.read(path, KEY.verifier)) as log, pytest.raises(LedgerDamaged, match="inclusion proof"):
        log.prove(2)


@pytest.mark.parametrize("change", ["DROP TRIGGER entries_DELETE", "CREATE TABLE more (x)"])
def test_a_ledger_with_other_triggers_is_read_all_the_same_and_checked_it_is_refused(
    tmp_path: Path, change: str
) -> None:
    path = grown(tmp_path, *BATCHES)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(change)

    with closing(Store.read(path, KEY.verifier, tmp_path / "log.checkpoint")) as log:
        assert len(log.entries(0, 100)) == sum(BATCHES)
        assert log.prove(3).proof.index == 3
        with pytest.raises(LedgerDamaged, match="other tables or triggers"):
            log.check()


# -- what is no ledger of ours -------------------------------------------------------------------------------------


def test_the_key_of_another_log_is_refused_naming_both(tmp_path: Path) -> None:
    grown(tmp_path, 1)

    with pytest.raises(KeyRefused, match=rf"is the log '{KEY.name}'; the key is that of 'another'"):
        opened(tmp_path, SignerKey("another", KEY.seed))
    with pytest.raises(LedgerDamaged, match="signed by another key"):
        opened(tmp_path, OTHER_KEY)


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be looked at" * 40])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)

    with pytest.raises(LedgerDamaged, match=r"ledger\.db is "):
        opened(tmp_path)
    with pytest.raises(LedgerDamaged, match=r"ledger\.db is "):
        Store.read(path, KEY.verifier)
    assert path.read_bytes() == content


def test_the_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (x)")
    before = path.read_bytes()

    with pytest.raises(LedgerDamaged, match="is no ledger of OneSeek"):
        opened(tmp_path)
    assert path.read_bytes() == before


def test_a_ledger_of_a_later_release_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = grown(tmp_path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    before = path.read_bytes()

    with pytest.raises(LedgerDamaged, match="has format 2; this release knows formats up to 1") as refused:
        opened(tmp_path)
    with pytest.raises(LedgerDamaged, match="has format 2; this release knows formats up to 1"):
        Store.read(path, KEY.verifier)
    assert refused.value.fix == "Use a newer release."
    assert path.read_bytes() == before


def test_a_page_that_the_disk_spoilt_is_named(tmp_path: Path) -> None:
    path = grown(tmp_path, 40)
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * 4096 * 3)

    with pytest.raises(LedgerDamaged, match=r"ledger\.db"):
        opened(tmp_path)


def test_every_error_of_sqlite_has_one_meaning() -> None:
    ours = {
        sqlite3.SQLITE_INTERNAL,
        sqlite3.SQLITE_ABORT,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_NOTFOUND,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
    }

    meanings = [*store._STORAGE, *store._DAMAGED, *ours]

    assert sorted(meanings) == list(range(sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB + 1))


# -- a disk that fails ---------------------------------------------------------------------------------------------


def test_a_full_disk_adds_nothing_and_once_there_is_room_everything_goes_on(tmp_path: Path) -> None:
    grown(tmp_path, 4)
    with closing(opened(tmp_path)) as log:
        log._connection.execute("PRAGMA max_page_count = 1")  # SQLite takes the pages that there are

        with pytest.raises(StorageError, match="no space is left on the disk"):
            log.append(statements(4, 200))
        assert len(log.entries(0, 1000)) == 4
        log._connection.execute("PRAGMA max_page_count = 100000")
        log.append(statements(4, 200))

        assert audit(log).entries == 200


def test_where_the_checkpoint_can_not_be_kept_nothing_is_acknowledged_and_trying_again_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(tmp_path, 4)
    with closing(opened(tmp_path)) as log:

        def full(path: Path, data: bytes) -> None:
            raise StorageError(f"{path} could not be written: no space is left on the disk.")

        monkeypatch.setattr(store, "write_bytes", full)
        for _ in range(2):  # the second must not go further than the first
            with pytest.raises(StorageError):
                log.append(statements(4, 6))
            with pytest.raises(StorageError):
                log.append(statements(6, 8))
        monkeypatch.setattr(store, "write_bytes", durable.write_bytes)
        added = log.append(statements(4, 8))

        assert [logged.proof.index for logged in added] == [4, 5, 6, 7]
        assert audit(log).entries == 8


def test_a_writer_that_never_ends_is_named_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = grown(tmp_path, 1)
    monkeypatch.setattr(store, "PATIENCE", 0.05)

    with closing(opened(tmp_path)) as log, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="another process is writing to it"):
            log.append([statement(1)])
        other.execute("ROLLBACK")
        with store._only_process(path), pytest.raises(StorageError, match="another process is writing to it"):
            log.append([statement(1)])

        assert log.append([statement(1)])[0].proof.index == 1


def test_a_directory_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(StorageError, match="could not be written"):
        Store.open(tmp_path / "file" / "ledger.db", KEY)


# -- reading -------------------------------------------------------------------------------------------------------


def test_reading_makes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = grown(tmp_path, 5)
    path = shutil.copytree(tmp_path, tmp_path / "copy") / "ledger.db"
    before = {each.name: each.read_bytes() for each in path.parent.iterdir()}

    with closing(Store.read(path, KEY.verifier)) as log:
        found = log.prove(3)
        with pytest.raises(RuntimeError, match="was opened to be read"):
            log.append([statement(9)])

    assert proof.check(found.proof, found.entry, KEY.verifier).size == 5
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == before
    with pytest.raises(StorageError, match="it cannot be opened"):
        Store.read(tmp_path / "none.db", KEY.verifier)
    assert not (tmp_path / "none.db").exists()


def test_a_ledger_on_a_medium_that_takes_no_writes_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = grown(tmp_path, 5)
    monkeypatch.setattr("os.access", lambda *_: False)

    with closing(Store.read(path, KEY.verifier)) as log:
        assert audit(log).entries == 5
        assert sorted(each.name for each in tmp_path.iterdir()) == [".ledger.db.lock", "ledger.db", "log.checkpoint"]


def test_a_reader_sees_what_is_added_meanwhile_and_finds_nothing_wrong(tmp_path: Path) -> None:
    path = grown(tmp_path, 5)

    with closing(opened(tmp_path)) as log, closing(Store.read(path, KEY.verifier, tmp_path / "log.checkpoint")) as seen:
        log.append(statements(5, 9))

        assert audit(seen).entries == 9


# -- many at once --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["in a file", "in memory"])
def test_threads_that_share_a_store_add_every_statement_once(tmp_path: Path, where: str) -> None:
    with closing(opened(tmp_path) if where == "in a file" else in_memory(0)) as log, ThreadPoolExecutor(4) as pool:

        def some(start: int) -> list[tuple[int, bytes]]:
            added = [log.append([data])[0] for data in statements(start, start + 15)]
            assert [log.prove(each.proof.index).entry for each in added] == [each.entry for each in added]
            return [(each.proof.index, store.unstamped(each.entry)) for each in added]

        pairs = [pair for found in pool.map(some, (0, 10, 20, 30)) for pair in found]

        assert len(pairs) == 60
        assert {index for index, _ in pairs} == set(range(45))
        assert {data for _, data in pairs} == set(statements(0, 45))
        assert len(set(pairs)) == 45
        assert audit(log).entries == 45


APPEND = """
import sys
from pathlib import Path
from support.ledgers import in_home, statement
from oneseek.ledger.keys import log_key

log = in_home(Path(sys.argv[1]))
for number in range(int(sys.argv[2]), int(sys.argv[2]) + 15):
    (logged,) = log.append([statement(number)])
    print(number, logged.proof.index)
"""


def test_processes_that_begin_one_ledger_at_once_make_one_key_and_add_every_statement_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", APPEND, str(tmp_path)]

    writers = [
        subprocess.Popen([*command, str(start)], cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for start in (0, 10, 20)
    ]
    said = [writer.communicate(timeout=120) for writer in writers]

    assert [errors for _, errors in said] == [""] * 3
    pairs = [tuple(map(int, line.split())) for lines, _ in said for line in lines.splitlines()]
    assert len(pairs) == 45
    assert len(set(pairs)) == len({index for _, index in pairs}) == len({number for number, _ in pairs}) == 35
    with closing(in_home(tmp_path)) as log:
        assert audit(log).entries == 35
        assert (tmp_path / "keys" / "log.checkpoint").read_text() == log.checkpoint()


def test_the_checkpoint_beside_the_key_is_written_after_the_commit_and_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    with closing(opened(tmp_path)) as log:
        log._connection.set_trace_callback(lambda said: happened.append(said) if said == "COMMIT" else None)

        def noted(path: Path, data: bytes) -> None:
            happened.append(path.name)
            durable.write_bytes(path, data)

        monkeypatch.setattr(store, "write_bytes", noted)
        log.append([statement(0)])
        log._connection.set_trace_callback(None)

    assert happened == ["COMMIT", "log.checkpoint"]


def test_a_commit_is_on_disk_when_it_returns(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as log:
        assert log._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        assert log._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
