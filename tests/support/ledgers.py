"""Ledgers for tests: what runs state, and what somebody does to a ledger.db behind the store's back."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from oneseek.files.layout import Home
from oneseek.ledger.entry import Statement, encode
from oneseek.ledger.keys import log_key
from oneseek.ledger.note import SignerKey
from oneseek.ledger.store import Store

KEY = SignerKey("oneseek-ledger/tests", bytes(range(32)))


def statement(number: int, run_id: str | None = None) -> bytes:
    """What run `number` states; each number is another statement."""
    return encode(
        Statement(
            run_id=run_id or f"run-20261121-{number:06}",
            dna="OneSeek-7B-Zero.v1.0.01234567.89abcdef.01234567",
            base_models=("kb-llama-3-1-8b-swedish", "mistral-7b"),
            final_weights={"kb-llama-3-1-8b-swedish": 0.75, "mistral-7b": 0.25},
            manifest_sha256=f"{number:064x}",
        )
    )


def statements(start: int, stop: int) -> list[bytes]:
    return [statement(number) for number in range(start, stop)]


def in_home(root: Path) -> Store:
    """The ledger of a home, as every command opens it."""
    home = Home(root, root / "models")
    return Store.open(home.ledger, log_key(home), home.last_checkpoint)


def in_memory(entries: int, batch: int = 5) -> Store:
    store = Store.open(Path(":memory:"), KEY, now=a_second_later())
    for start in range(0, entries, batch):
        store.append(statements(start, min(start + batch, entries)))
    return store


def a_second_later() -> Any:
    """A clock that goes on by one second whenever it is asked."""
    seconds = iter(range(1_000_000))
    return lambda: datetime(2026, 11, 21, 7, 19, tzinfo=UTC) + timedelta(seconds=next(seconds))


@contextmanager
def without_triggers(connection: sqlite3.Connection) -> Iterator[None]:
    """Whoever can write the file can do this: nothing shows afterwards that the triggers were away."""
    triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    yield
    for _, sql in triggers:
        connection.execute(sql)


def tamper(path: Path, *changes: str) -> None:
    """SQL against a ledger.db whose triggers are away for the moment."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection, without_triggers(connection):
        for change in changes:
            connection.execute(change)


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in a ledger.db."""
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
            for table in ("entries", "nodes", "checkpoints")
        }
