"""Which ledger is meant: the service that LEDGER_URL names, else the one in the home."""

from __future__ import annotations

from collections.abc import Mapping

from oneseek.errors import LedgerDamaged
from oneseek.files.layout import Home
from oneseek.files.secrets import is_there
from oneseek.ledger.client import Client
from oneseek.ledger.keys import known_log_key, log_key
from oneseek.ledger.log import Log
from oneseek.ledger.store import Store


def open_ledger(home: Home, environment: Mapping[str, str]) -> Log:
    """The ledger to append to; in a home that has none it is made, with its key.

    environment: LEDGER_URL and LEDGER_TOKEN are read from it.

    Raises:
        ConfigError: LEDGER_URL is no address, LEDGER_TOKEN no token.
        KeyRefused, LedgerDamaged, StorageError: the ledger in the home can't be used.
    """
    if url := environment.get("LEDGER_URL"):
        return Client(url, token=environment.get("LEDGER_TOKEN"), known_logs=home.known_logs)
    _check_whole(home)
    return Store.open(home.ledger, log_key(home), home.last_checkpoint)


def read_ledger(home: Home, environment: Mapping[str, str]) -> Log | None:
    """The ledger to read from; None where the home has none yet. Nothing is made, and nobody's key is remembered.

    Raises:
        As `open_ledger`.
    """
    if url := environment.get("LEDGER_URL"):
        return Client(url, token=None, known_logs=home.known_logs, remembers=False)
    _check_whole(home)
    key = known_log_key(home)
    return Store.read(home.ledger, key, home.last_checkpoint) if key is not None and is_there(home.ledger) else None


def _check_whole(home: Home) -> None:
    """Whether a ledger that was begun here still has its file and its key; a new one would take its place unseen."""
    gone = [str(part) for part in (home.ledger, home.log_key) if not is_there(part)]
    if gone and (is_there(home.ledger) or is_there(home.last_checkpoint)):
        raise LedgerDamaged(
            f"{' and '.join(gone)} is gone, without which the ledger of this home can't go on.",
            f"Restore {home.ledger.name} and {home.keys.name}/ together from a backup.",
        )
